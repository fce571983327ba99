"""Flash attention bit for bit: prefill and decode, chunk by chunk as the device's kernels run.

A chunk of keys gives scores, their running maximum, weights exp((score - maximum) * scale), sums of the weights and
outputs; a later chunk rescales what the earlier ones gave. The sums divide only at the end.

What is kept between the steps is bf16, but for prefill with float32 registers, whose scores, weights and sums are
float32 (of which the matrix unit reads 10 fraction bits). Prefill with 16-bit registers is another kernel, which knows
only the approximate exponential.

Sources: tt-metal sdpa.cpp, compute_common.hpp, compute_streaming.hpp, sdpa_flash_decode.cpp and ckernel_sfpu_sdpa.h of
ttnn 0.81.1, whose results on Tenstorrent's simulator these equal in all bits
(tests/numerics/test_device_operations.py). Sinks, windows and caps of the scores are not covered.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ttsim.numerics.conversion import round_to
from ttsim.numerics.fidelity import ComputeSetting, get_setting
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.numerics.reference import vector_functions as unit
from ttsim.numerics.reference.datapath import datapath_matmul, truncate_to_tf32
from ttsim.numerics.reference.row_kernels import matrix_add, row_sums, scaled_rows
from ttsim.numerics.reference.vector_unit import add, cut_to_bf16, multiply


class Partial(NamedTuple):
    """What some chunks of keys give: maxima [M, 1], sums of the weights [M, 1 or a tile's 32], outputs [M, d]."""

    maximum: jax.Array
    sums: jax.Array
    out: jax.Array


def _weights(
    scores: jax.Array, maximum: jax.Array, scale: float, setting: ComputeSetting, approximate: bool
) -> jax.Array:
    """Returns exp((scores - maximum) * scale) as it stands in the registers, [M, N]."""
    wide = setting.fp32_dest
    shifted = matrix_add(scores, -maximum, wide=wide)
    if approximate:
        return unit.attention_exponential(shifted, scale=scale, fp32_dest=wide)
    scaled = multiply(shifted, scale)
    return unit.exponential(scaled if wide else cut_to_bf16(scaled), fp32_dest=wide)


def _tile_sums(weights: jax.Array, fmt: str) -> jax.Array:
    """Adds up a row's tiles in L1: [M, N] -> [M, 32]."""
    tiles = pack(weights, fmt).reshape(weights.shape[0], -1, TILE)
    total = tiles[:, 0]
    for i in range(1, tiles.shape[1]):
        total = round_to(total + tiles[:, i], fmt)
    return total


def flash_prefill(
    q: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    setting: str | ComputeSetting,
    *,
    start: int = 0,
    q_chunk: int = 64,
    k_chunk: int = 64,
    approximate: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """Returns causal attention of one head, ttnn.transformer.scaled_dot_product_attention, [S, d] of bf16 values.

    Args:
      q: [S, d]; keys, values: [start + S, d], values of their formats.
      setting: compute setting or name, not "exact"; its `approx` is that of the reciprocal.
      start: position of the first query.
      q_chunk, k_chunk: queries and keys that the kernel takes at once.
      approximate: the exponential, `SDPAProgramConfig.exp_approx_mode`.
      scale: factor on the scores; None for 1 / sqrt(d).

    Raises:
      ValueError: lengths or chunks that are no whole tiles.
    """
    setting = get_setting(setting)
    q, keys, values = (jnp.asarray(x, jnp.float32) for x in (q, keys, values))
    if any(n % TILE for n in (len(q), start, q_chunk, k_chunk)) or len(keys) != start + len(q):
        raise ValueError(
            f"flash_prefill takes whole tiles of {TILE}: {len(q)} queries from position {start} on, {len(keys)} keys, "
            f"chunks of {q_chunk} and {k_chunk}"
        )
    scale = q.shape[1] ** -0.5 if scale is None else scale
    out = []
    for first in range(0, len(q), q_chunk):
        block, done = q[first : first + q_chunk], None
        stop = start + first + len(block)
        for key in range(0, stop, k_chunk):
            columns = slice(key, min(key + k_chunk, len(keys) if setting.fp32_dest else stop))
            rows = start + first + jnp.arange(len(block))
            hidden = jnp.arange(columns.start, columns.stop)[None] > rows[:, None]
            scores = datapath_matmul(block, keys[columns].T, setting)
            scores = jnp.where(hidden, -jnp.inf, scores)
            done = _with_chunk(done, scores, values[columns], scale, setting, approximate)
        assert done is not None
        out.append(_divided(done, setting))
    return jnp.concatenate(out)


def _with_chunk(
    done: Partial | None, scores: jax.Array, values: jax.Array, scale: float, setting: ComputeSetting, approximate: bool
) -> Partial:
    """Returns what prefill has after a further chunk of keys; float32 maxima move through 16 bits of SrcB."""
    wide = setting.fp32_dest
    fmt = "fp32" if wide else "bf16"
    maximum = cut_to_bf16(jnp.max(scores, axis=-1, keepdims=True))
    if done is not None:
        maximum = jnp.maximum(maximum, done.maximum)
    weights = _weights(scores, maximum, scale, setting, approximate or not wide)
    sums, out = _tile_sums(weights, fmt), pack(datapath_matmul(weights, values, setting), "bf16")
    if done is None:
        return Partial(maximum, sums, out)
    change = matrix_add(done.maximum, -maximum, wide=wide)
    factor = pack(unit.rescaling(change, scale=scale, polynomial=not approximate, fp32_dest=wide), "bf16")
    earlier = scaled_rows(done.sums, factor, setting)
    sums = matrix_add(sums, earlier, wide=wide) if wide else round_to(sums + earlier, fmt)
    return Partial(maximum, sums, round_to(out + pack(scaled_rows(done.out, factor, setting), "bf16"), "bf16"))


def _divided(done: Partial, setting: ComputeSetting, fused: bool = False) -> jax.Array:
    """Returns the outputs over the sums, which are added up along their tile first."""
    wide = setting.fp32_dest
    total = row_sums(done.sums, setting) if done.sums.shape[1] > 1 else done.sums
    total = truncate_to_tf32(total) if wide else total  # on its way back into the registers
    inverse = unit.reciprocal(total, approximate=setting.approx, fp32_dest=wide, fused=fused)
    return pack(scaled_rows(done.out, inverse if not fused else pack(inverse, "bf16"), setting), "bf16")


def flash_decode(
    q: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    position: int,
    setting: str | ComputeSetting,
    *,
    chunk: int = 64,
    approximate: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """Returns one user's attention to positions 0..position, ttnn's scaled_dot_product_attention_decode, bf16 values.

    Each chunk of keys has its own core, the last one core 0; in round r of the tree, core i takes what core i + 2**r
    has, so that i is a multiple of 2**(r + 1).

    Args:
      q: [heads, d] of one KV head; keys, values: [length, d], values of the cache's format, whole chunks.
      position: the newest one. setting, approximate, scale: see `flash_prefill`.
      chunk: keys that a core takes.

    Raises:
      ValueError: a position beyond the cache, or a chunk that is no whole tiles.
    """
    setting = get_setting(setting)
    q, keys, values = (jnp.asarray(x, jnp.float32) for x in (q, keys, values))
    count = position // chunk + 1
    if chunk % TILE or position < 0 or count * chunk > len(keys):
        raise ValueError(f"flash_decode takes whole chunks of {chunk} keys up to position {position}, not {len(keys)}")
    scale = q.shape[1] ** -0.5 if scale is None else scale
    cores = []
    for first in reversed(range(0, count * chunk, chunk)):
        columns = slice(first, first + chunk)
        scores = pack(datapath_matmul(q, keys[columns].T, setting), "bf16")
        scores = jnp.where(jnp.arange(first, first + chunk)[None] > position, -jnp.inf, scores)
        maximum = jnp.max(scores, axis=-1, keepdims=True)
        weights = pack(_weights(scores, maximum, scale, setting, approximate), "bf16")
        out = pack(datapath_matmul(weights, values[columns], setting), "bf16")
        cores.append(Partial(maximum, pack(row_sums(weights, setting), "bf16"), out))
    distance = 1
    while distance < count:
        for i in range(0, count - distance, 2 * distance):
            cores[i] = _merged(cores[i], cores[i + distance], scale, setting)
        distance *= 2
    return _divided(cores[0], setting, fused=True)


def _merged(own: Partial, child: Partial, scale: float, setting: ComputeSetting) -> Partial:
    """Returns two cores' chunks as one: the vector unit adds the sums, the matrix unit the outputs."""
    wide = setting.fp32_dest
    maximum = jnp.maximum(own.maximum, child.maximum)
    sums, outs = [], []
    for part in (own, child):
        factor = unit.rescaling(add(part.maximum, -maximum), scale=scale, polynomial=False, fp32_dest=wide)
        product = multiply(factor, part.sums)
        sums.append(product if wide else cut_to_bf16(product))
        outs.append(pack(scaled_rows(part.out, pack(factor, "bf16"), setting), "bf16"))
    total = add(*sums)
    out = pack(matrix_add(*outs, wide=wide), "bf16")
    return Partial(maximum, pack(total if wide else cut_to_bf16(total), "bf16"), out)
