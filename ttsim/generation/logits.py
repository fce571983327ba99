"""`ttsim.logits`: what a checkpoint computes on a device, position by position."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.loading import Checkpoint, load_model, open_checkpoint
from ttsim.models.chunk import Chunk
from ttsim.models.layerwise import prefill_by_layer
from ttsim.models.layout import Layout
from ttsim.models.run import place_cache
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision


def logits(
    weights: Checkpoint | str | os.PathLike[str],
    tokens: Sequence[int] | np.ndarray,
    device: str | System = "N150",
    precision: str | Precision = "fp32",
    *,
    numerics: Literal["prefill", "decode"] = "prefill",
) -> np.ndarray:
    """The logits of every position of a text.

    Args:
      weights: a checkpoint directory or file, a published name (see `ttsim.models.checkpoints.open_checkpoint`).
      tokens: [T] token ids, the first with nothing before it.
      device: the system that runs it; JAX needs as many devices as it has chips (`jax_num_cpu_devices`).
      precision: "fp32" keeps the checkpoint's values and rounds nothing; others as in `ttsim.simulate`.
      numerics: "prefill" computes the text as a prompt does, "decode" as decode steps would.

    Returns:
      float32 [T, vocabulary]; row t holds the logits of the token after `tokens[t]`.

    Raises:
      ValueError: a token is outside the vocabulary, or the checkpoint can't be read (`CheckpointError`) or cut over
        the chips (`ShardingError`).
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else open_checkpoint(weights)
    config = checkpoint.config
    tokens_t = np.asarray(tokens)
    if tokens_t.ndim != 1 or not tokens_t.size or not np.issubdtype(tokens_t.dtype, np.integer):
        raise ValueError(f"tokens of shape {list(tokens_t.shape)} and type {tokens_t.dtype}: expected [T] integers")
    if tokens_t.min() < 0 or tokens_t.max() >= config.vocab_size:
        outside = tokens_t.min() if tokens_t.min() < 0 else tokens_t.max()
        raise ValueError(f"token {outside} is outside {config.name}'s vocabulary of {config.vocab_size}")
    length = len(tokens_t)
    layout = Layout(config, get_system(device), max_seq_len=length)
    mesh = layout.system.mesh()
    values = resolve(precision, config.known_name)
    model = load_model(checkpoint, layout, values, mesh)
    cache = place_cache(KVCache.zeros(layout, 1, jnp.float32), layout, 1, mesh)
    run = prefill_by_layer(layout, values, 1, Chunk(logits="all", numerics=numerics), mesh=mesh)
    positions = jnp.arange(length, dtype=jnp.int32)
    result, _ = run(model, jnp.asarray(tokens_t, jnp.int32), positions, jnp.int32(0), jnp.zeros(1, jnp.int32), cache)
    return np.asarray(result)[:, : config.vocab_size]
