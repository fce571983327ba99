"""Rotary position embedding tables, the same numbers as Hugging Face transformers."""

import math

import numpy as np

from ttsim.models.features import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int, sequence_length: int) -> tuple[np.ndarray, float]:
    """Radians per position of each rotated pair, and the factor on cos and sin.

    With r rotated columns (all of a head but for partial embeddings) and f = theta ** (-2i / r), i = 0 ... r/2 - 1:

        default   f
        linear    f / factor
        dynamic   f of a larger theta once the sequence outgrows the original context
        proportional  theta ** (-2i / head_dim) / factor: the frequencies of the whole head for its first columns
        llama3    f for wavelengths below original / high_freq_factor, f / factor above original / low_freq_factor,
                  a mean of both, linear in 1 / wavelength, between
        yarn      f for pairs that turn over beta_fast times in the original context, f / factor for those that
                  turn under beta_slow times, a mean of both, linear in i, between
        longrope  f / short_factor[i], or f / long_factor[i] once the sequence outgrows the original context

    Args:
        rope: the embedding's configuration.
        head_dim: width of an attention head; pairs are (i, i + r/2), or (i, i + head_dim/2) where proportional.
        sequence_length: tokens of the longest sequence, prompt and generated ones; longrope and dynamic look at it.

    Returns:
        The frequencies, float32 [r/2], and the attention factor, 1.0 but for yarn and longrope.

    Source: transformers modeling_rope_utils.py, whose float32 steps this follows; yarn is arXiv:2309.00071 and
    longrope arXiv:2402.13753.
    """
    columns = rope.columns(head_dim)
    exponents = np.arange(0, columns, 2, dtype=np.float32) / np.float32(
        head_dim if rope.kind == "proportional" else columns
    )
    theta = _dynamic_theta(rope, columns, sequence_length) if rope.kind == "dynamic" else rope.theta
    wavelengths = (np.float64(theta) ** exponents).astype(np.float32)  # over 2 pi
    if rope.kind == "longrope":
        outgrown = sequence_length > rope.original_max_position_embeddings
        divisors = rope.long_factor if outgrown else rope.short_factor
        return 1 / (np.asarray(divisors, np.float32) * wavelengths), _longrope_attention_factor(rope)
    if rope.kind == "yarn":
        return _yarn_frequencies(rope, columns, wavelengths), _yarn_attention_factor(rope)
    frequencies = 1 / wavelengths
    if rope.kind in ("linear", "proportional"):
        return frequencies / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3_frequencies(rope, frequencies), 1.0
    return frequencies, 1.0


def _dynamic_theta(rope: RopeConfig, columns: int, sequence_length: int) -> float:
    original = rope.original_max_position_embeddings
    growth = rope.factor * max(sequence_length, original) / original - (rope.factor - 1)
    return float(rope.theta * growth ** (columns / (columns - 2)))


def _llama3_frequencies(rope: RopeConfig, frequencies: np.ndarray) -> np.ndarray:
    original = rope.original_max_position_embeddings
    turns = original * frequencies / np.float32(2 * math.pi)  # over the original context
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(smooth, 0, 1).astype(np.float32)
    mixed: np.ndarray = (1 - kept) * (frequencies / np.float32(rope.factor)) + kept * frequencies
    return mixed


def _yarn_frequencies(rope: RopeConfig, columns: int, wavelengths: np.ndarray) -> np.ndarray:
    original = rope.original_max_position_embeddings

    def pair_that_turns(times: float) -> float:
        return columns * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    # transformers clips the last pair to columns - 1, though there are only half as many.
    first, last = max(first, 0), min(last, columns - 1)
    span = last - first or 0.001
    interpolated = np.clip((np.arange(columns // 2, dtype=np.float32) - np.float32(first)) / np.float32(span), 0, 1)
    mixed: np.ndarray = interpolated / (np.float32(rope.factor) * wavelengths) + (1 - interpolated) / wavelengths
    return mixed


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def growth(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return growth(rope.mscale) / growth(rope.mscale_all_dim)
    return growth(1)


def _longrope_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_position_embeddings))
