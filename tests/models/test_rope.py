"""Rotary embedding tables against those of Hugging Face transformers (tests/golden/make_hf_golden.py)."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ttsim.models.config import ROPE_KINDS, ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf.reading import read_config
from ttsim.models.presets import PRESETS
from ttsim.models.rope import inverse_frequencies
from ttsim.ops import rotary_tables

with np.load(Path(__file__).parents[1] / "golden/hf/rope.npz") as file:
    GOLDEN: Mapping[str, np.ndarray] = dict(file)
CASES = [key.removesuffix(".config") for key in GOLDEN if key.endswith(".config")]
ULP = float(np.finfo(np.float32).eps)


def config_of(case: str) -> ModelConfig:
    return read_config(json.loads(str(GOLDEN[f"{case}.config"])), name=case)


def test_golden_values_cover_every_kind_and_every_published_model() -> None:
    by_logits = {"dynamic", "proportional"}  # llama-dynamic and gemma-4 of the families' goldens hold these
    assert {config_of(case).rope.kind for case in CASES} == set(ROPE_KINDS) - by_logits
    assert all(config_of(name) == model for name, model in PRESETS.items())


@pytest.mark.parametrize("case", CASES)
def test_inverse_frequencies(case: str) -> None:
    config = config_of(case)
    lengths = GOLDEN[f"{case}.sequence_lengths"]
    expected = zip(lengths, GOLDEN[f"{case}.inverse_frequencies"], GOLDEN[f"{case}.attention_factors"], strict=True)
    for length, frequencies, attention_factor in expected:
        ours, our_factor = inverse_frequencies(config.rope, config.head_dim, int(length))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, frequencies, rtol=2 * ULP)
        assert our_factor == pytest.approx(attention_factor, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_tables(case: str) -> None:
    config = config_of(case)
    # One unit in the last place of a frequency turns a pair by this much at the farthest position.
    for positions, cos, sin in zip(*(GOLDEN[f"{case}.{key}"] for key in ("positions", "cos", "sin")), strict=True):
        frequencies, scale = inverse_frequencies(config.rope, config.head_dim, int(positions.max()) + 1)
        tolerance = 2 * ULP * scale * (1 + positions[:, None] * frequencies)
        ours_cos, ours_sin = rotary_tables(positions, frequencies, scaling=scale, format="fp32")
        assert ours_cos.dtype == ours_sin.dtype == np.float32
        assert np.all(np.abs(ours_cos - cos) <= tolerance)
        assert np.all(np.abs(ours_sin - sin) <= tolerance)


def test_longrope_changes_frequencies_past_the_original_context() -> None:
    rope = PRESETS["Phi3.5-mini"].rope
    short, scale = inverse_frequencies(rope, 96, 4096)
    long, _ = inverse_frequencies(rope, 96, 4097)
    np.testing.assert_allclose(short / long, np.divide(rope.long_factor, rope.short_factor), rtol=1e-6)
    assert scale == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)


def test_dynamic_frequencies_slow_down_once_the_original_context_is_full() -> None:
    """theta grows by (factor x length / original - factor + 1) ** (d / (d - 2)), and never shrinks."""
    rope = RopeConfig(theta=10_000.0, kind="dynamic", factor=2.0, original_max_position_embeddings=1024)
    plain = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    slow = (10_000.0 * 3 ** (64 / 62)) ** (-np.arange(0, 64, 2) / 64)
    for length, expected in ((1, plain), (512, plain), (1024, plain), (2048, slow)):
        np.testing.assert_allclose(inverse_frequencies(rope, 64, length)[0], expected, rtol=1e-6)


def test_proportional_frequencies_are_the_first_of_the_whole_head() -> None:
    rope = RopeConfig(theta=10_000.0, kind="proportional", factor=4.0, rotary_dim=16)
    expected = 10_000.0 ** (-np.arange(0, 16, 2) / 64) / 4
    np.testing.assert_allclose(inverse_frequencies(rope, 64, 128)[0], expected, rtol=1e-6)


def test_positions_of_any_shape() -> None:
    config = PRESETS["Llama3.2-1B"]
    frequencies, scale = inverse_frequencies(config.rope, config.head_dim, 6)
    cos, sin = rotary_tables(np.arange(6).reshape(2, 3), frequencies, scaling=scale, format="fp32")
    assert cos.shape == sin.shape == (2, 3, 32)
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-6)
    np.testing.assert_array_equal(cos[0, 0], 1)
