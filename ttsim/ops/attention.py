"""Attention: heads, rotary embedding, KV cache and flash attention, for decode and prefill.

Decode arrays are [B, heads, head_dim] (one token per user), prefill arrays [heads, S, head_dim] (one user).
Rotary embedding rotates the pairs (2i, 2i + 1): Meta's order, which the device uses; checkpoints in Hugging Face's
half-split order are permuted when they are loaded.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from ttsim.hardware.activation_constants import (
    CONCAT_HEADS_TIME,
    CREATE_HEADS_TILE_TIME,
    CREATE_HEADS_TIME,
    FUSED_PAIR,
    ROTARY_STREAM_START,
    ROTARY_TIME,
    TABLE_LOOKUP_TIME,
    TO_INTERLEAVED_TIME,
    TO_SHARDED_TIME,
    UPDATE_CACHE_TILE_TIME,
    UPDATE_CACHE_TIME,
)
from ttsim.hardware.quantities import Terms
from ttsim.kernels import flash
from ttsim.kernels.activations import fixed, small, stream, stream_rows
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tensor_bytes, tiles
from ttsim.numerics import attention as numeric
from ttsim.numerics import elementwise, switches
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.formats import round_to
from ttsim.numerics.noise import destination_roundings, packing
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, array_shape, op, words

# Rows of queries that the simulator (not the device) computes at once: bounds the score matrix's memory.
_QUERY_ROWS = 1024

Pair = Literal["", "first", "second"]  # which of two equal ops that later software does in one


@op(in_l1=True)
def create_heads_decode(qkv: Array, *, kv_heads: int, head_dim: int, format: str) -> tuple[Array, Array, Array]:
    """Splits the fused projection into heads.

    Args:
      qkv: [B, kv_heads * (group + 2) * head_dim]; for each KV head its group of query heads, then K, then V.
      kv_heads, head_dim: local KV heads, head size.
      format: format of qkv.

    Returns:
      q [B, kv_heads * group, head_dim], k and v [B, kv_heads, head_dim].
    """
    del format
    batch = qkv.shape[0]
    heads = qkv.reshape(batch, kv_heads, -1, head_dim)
    q = heads[:, :, :-2].reshape(batch, -1, head_dim)
    return q, heads[:, :, -2], heads[:, :, -1]


@create_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    time = CREATE_HEADS_TIME + tiles(call.inputs[0].shape[-1]) * CREATE_HEADS_TILE_TIME
    return [small("sharded_to_interleaved", TO_INTERLEAVED_TIME), fixed("create_heads_decode", time)]


@op
def create_heads_prefill(qkv: Array, *, kv_heads: int, head_dim: int, format: str) -> tuple[Array, Array, Array]:
    """Splits the fused projection of one user into heads: [S, ...] -> q [heads, S, d], k and v [kv_heads, S, d]."""
    del format
    rows = qkv.shape[0]
    heads = qkv.reshape(rows, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
    q = heads[:, :-2].reshape(-1, rows, head_dim)
    return q, heads[:, -2], heads[:, -1]


@create_heads_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = call.inputs[0].shape
    return [stream_rows("create_heads", 2 * tensor_bytes(rows, columns, call["format"]), rows, machine.chip)]


@op
def rotary_tables(
    positions: Array, inverse_frequencies: Array, *, scaling: float, format: str, memory: Memory = "l1"
) -> tuple[Array, Array]:
    """cos and sin of position x frequency, out of two tables.

    Args:
      positions: [...] int32; inverse_frequencies: [head_dim / 2].
      scaling: factor on both (long rope's attention factor).
      format: format of the tables.
      memory: "l1": looked up on the device; "host": sliced there, as part of a prompt's inputs.

    Returns:
      cos, sin: [..., head_dim / 2].
    """
    del memory
    angles = positions.astype(jnp.float32)[..., None] * inverse_frequencies.reshape((1,) * positions.ndim + (-1,))
    return round_to(jnp.cos(angles) * scaling, format), round_to(jnp.sin(angles) * scaling, format)


@rotary_tables.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    if call["memory"] == "host":
        return [host_work("slice rotary tables", Terms(), "part of host_prompt: see copy_to_device")]
    lookups = [small(name, 1 * TABLE_LOOKUP_TIME) for name in ("embedding", "transpose", "interleaved_to_sharded")]
    return 2 * lookups  # cos and sin


@op(like=0)
def rotary(x: Array, cos: Array, sin: Array, *, out_format: str, memory: Memory = "dram", pair: Pair = "") -> Array:
    """Rotates each pair (x[2i], x[2i+1]) by its angle.

    Args:
      x: [..., head_dim]; cos, sin: [..., rotary_dim / 2], broadcastable to x's pairs: columns beyond the first
        rotary_dim pass unchanged.
      out_format: format of the result.
      memory: "l1": a row of tiles for each user; "dram": rows of a prompt.
      pair: "first" for Q and "second" for K where one op may turn both (the fact `fused_rope_cache`).
    """
    del memory, pair
    columns = 2 * cos.shape[-1]
    turning, passing = x[..., :columns], x[..., columns:]
    pairs = turning.reshape(*turning.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    along = jnp.stack([even * cos, odd * cos], axis=-1)
    across = jnp.stack([-odd * sin, even * sin], axis=-1)
    numerics = switches.current()
    if numerics.intermediates and out_format != "fp32":  # the kernel keeps both products as bf16 tiles
        along, across = pack(along, "bf16"), pack(across, "bf16")
    exact = out_format == "fp32" or not numerics.addition
    rotated = along + across if exact else elementwise.add(along, across)
    rotated = rotated.reshape(turning.shape)
    return pack(jnp.concatenate([rotated, passing], axis=-1) if passing.shape[-1] else rotated, out_format)


@rotary.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x = call.inputs[0]
    if call["memory"] == "l1":
        return _pair("rotary_embedding_llama", small("", ROTARY_TIME), call, machine)
    heads, rows, head_dim = x.shape
    moved = tensor_bytes(heads * rows, head_dim, "bf16") + tensor_bytes(heads * rows, head_dim, call["out_format"])
    return [stream_rows("rotary_embedding_llama", moved, rows, machine.chip, start=ROTARY_STREAM_START)]


@op
def query_growth(positions: Array, *, beta: float, original: int, format: str, memory: Memory = "l1") -> Array:
    """1 + beta * ln(1 + floor(position / original)): how much Ministral 3 sharpens queries far along a context.

    Args:
      positions: [...] int32. beta, original: strength, and tokens of the original context. format: of the result.
      memory: as in `rotary_tables`.

    Returns:
      [...], a factor on the query of each position.
    """
    del memory
    return round_to(1 + beta * jnp.log1p(jnp.floor_divide(positions, original).astype(jnp.float32)), format)


@query_growth.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    if call["memory"] == "host":
        return [host_work("slice query growth", Terms(), "part of host_prompt: see copy_to_device")]
    return [small(name, 1 * TABLE_LOOKUP_TIME) for name in ("embedding", "transpose", "interleaved_to_sharded")]


def _pair(name: str, one: Kernel, call: OpCall, machine: Machine) -> list[Kernel]:
    """One of two equal ops, or, where the software has one op for both, that one for the first of them."""
    if not call["pair"] or not machine.software.fused_rope_cache:
        return [dataclasses.replace(one, name=name)]
    if call["pair"] == "second":
        return []
    return [dataclasses.replace(one, name=f"{name}_fused", start=2 * one.start * FUSED_PAIR)]


@op(caches=(0,), in_l1=True, like=0)
def update_cache(cache: Array, x: Array, positions: Array, *, format: str, pair: Pair = "") -> Array:
    """Writes one token per user into the KV cache.

    Args:
      cache: [B, kv_heads, S, head_dim]; x: [B, kv_heads, head_dim]; positions: [B] int32.
      format: the cache's format.
      pair: "first" for K and "second" for V where one op may write both (the fact `fused_rope_cache`).

    Returns:
      The cache with x at each user's position.
    """
    del pair
    x = pack(x, format).astype(cache.dtype)[:, :, None]
    return jax.vmap(lambda c, row, p: jax.lax.dynamic_update_slice_in_dim(c, row, p, axis=1))(cache, x, positions)


@update_cache.describe
def _(call: OpCall) -> str:
    return words(array_shape(call.inputs[1]))


@update_cache.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(packing(call["format"]).power)


@update_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    _, kv_heads, head_dim = call.inputs[1].shape
    one = fixed("", UPDATE_CACHE_TIME + kv_heads * tiles(head_dim) * UPDATE_CACHE_TILE_TIME)
    return _pair("paged_update_cache", one, call, machine)


@op(caches=(0,), like=0)
def fill_cache(cache: Array, x: Array, user: Array, *, start: int, format: str, users_axis: str | None = None) -> Array:
    """Writes one user's prompt (or a chunk of it) into the KV cache.

    Args:
      cache: [B, kv_heads, S, head_dim]; x: [kv_heads, s, head_dim], in the cache's format; user: int32 scalar.
      start: position of x's first row.
      format: the cache's format.
      users_axis: mesh axis over which the users are spread (then `user` counts all of them, and the devices that
        don't hold this user leave their cache as it is).
    """
    del format
    block = x.astype(cache.dtype)[None]
    zero = jnp.zeros((), user.dtype)
    if users_axis is None:
        return jax.lax.dynamic_update_slice(cache, block, (user, zero, zero + start, zero))
    local = user - jax.lax.axis_index(users_axis) * cache.shape[0]
    held = (local >= 0) & (local < cache.shape[0])
    index = (jnp.clip(local, 0, cache.shape[0] - 1), zero, zero + start, zero)
    old = jax.lax.dynamic_slice(cache, index, block.shape)
    return jax.lax.dynamic_update_slice(cache, jnp.where(held, block, old), index)


@fill_cache.describe
def _(call: OpCall) -> str:
    return words(array_shape(call.inputs[1]))


@fill_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    kv_heads, rows, head_dim = call.inputs[1].shape
    return [stream("paged_fill_cache", 2 * tensor_bytes(kv_heads * rows, head_dim, call["format"]), machine.chip)]


@op(caches=(0,))
def read_cache(cache: Array, user: Array, *, length: int, users_axis: str | None = None) -> Array:
    """One user's first `length` positions of the cache, which chunked attention reads in place.

    Args:
      cache: [B, kv_heads, S, head_dim]; user: int32 scalar, counted as in `fill_cache`.

    Returns:
      [kv_heads, length, head_dim].
    """
    if users_axis is not None:
        user = jnp.clip(user - jax.lax.axis_index(users_axis) * cache.shape[0], 0, cache.shape[0] - 1)
    of_user: Array = jax.lax.dynamic_index_in_dim(cache, user, axis=0, keepdims=False)
    return of_user[:, :length]


@read_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # chunked attention reads the pages in place; sdpa_prefill pays for them


@op(weights=(4,), caches=(1, 2), in_l1=True, like=0)
def sdpa_decode(
    q: Array,
    keys: Array,
    values: Array,
    positions: Array,
    sinks: Array | None = None,
    *,
    setting: str,
    kv_format: str,
    out_format: str,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Flash decode: softmax(q K^T scale) V over positions 0..p of each user.

    Args:
      q: [B, heads, d]; keys, values: [B, kv_heads, S, d]; positions: [B] int32, the newest position.
      sinks: [heads] scores of a column of the softmax that is dropped, or None.
      setting: compute setting of both products. kv_format: the cache's format. out_format: the result's.
      window: newest positions that are attended to, the token itself included; None for all.
      chunk: only positions of the token's own block of so many are attended to; None for all.
      scale: factor on q K^T; None for 1 / sqrt(d). softcap: scores become softcap * tanh(scores / softcap).

    Returns:
      [B, heads, d].
    """
    compute = get_setting(setting)
    batch, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    grouped = numeric.activations(q.reshape(batch, kv_heads, heads // kv_heads, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))
    products = numeric.product(grouped, keys.swapaxes(-1, -2), compute, kv_format)
    visible = numeric.visible(positions, keys.shape[2], window, chunk)[:, None, None]
    sinks = None if sinks is None else sinks.reshape(1, kv_heads, -1, 1)
    scale = head_dim**-0.5 if scale is None else scale
    out = numeric.attend(products, values, visible, compute, kv_format, scale, softcap, sinks)
    return pack(out.reshape(q.shape), out_format)


@sdpa_decode.describe
def _(call: OpCall) -> str:
    users, heads, head_dim = call.inputs[0].shape
    return (f"{users} x " if users > 1 else "") + f"{heads}/{call.inputs[1].shape[-3]} heads of {head_dim}"


@sdpa_decode.noise
def _(call: OpCall) -> OpNoise:  # two products: Q K^T and the softmax times V
    return OpNoise(packing(call["out_format"]).power, 2 * destination_roundings(call["setting"]))


@sdpa_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, heads, head_dim = call.inputs[0].shape
    kv_heads = call.inputs[1].shape[1]
    options = {"fmt": call["kv_format"], "setting": call["setting"], "machine": machine, "window": call["window"]}
    return [flash.flash_decode(users, heads, kv_heads, head_dim, **options)]


@op(weights=(3,), like=0)
def sdpa_prefill(
    q: Array,
    keys: Array,
    values: Array,
    sinks: Array | None = None,
    *,
    start: int,
    setting: str,
    kv_format: str,
    out_format: str,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block_rows: int | None = None,
    numerics: Literal["prefill", "decode"] = "prefill",
) -> Array:
    """Flash attention: causal softmax(q K^T scale) V of rows start..start+S-1.

    Args:
      q: [heads, S, d]; keys, values: [kv_heads, start + S, d].
      start: position of the first query row (chunked prefill reads the earlier ones from the cache).
      sinks, setting, kv_format, out_format, window, chunk, scale, softcap: see `sdpa_decode`.
      block_rows: rows and columns of one block, computed on the chip's whole grid; None is tt_transformers' choice.
      numerics: whose kernel rounds: "decode" gives what decoding these rows one by one does.

    Returns:
      [heads, S, d].
    """
    del block_rows  # they decide the time, not the result
    compute = get_setting(setting)
    heads, rows, head_dim = q.shape
    kv_heads = keys.shape[0]
    grouped = numeric.activations(q.reshape(kv_heads, heads // kv_heads, rows, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))
    columns = None if sinks is None else sinks.reshape(kv_heads, -1, 1, 1)
    factor = head_dim**-0.5 if scale is None else scale

    def attend(q_block: Array, first: Array | int) -> Array:
        products = numeric.product(q_block, keys.swapaxes(-1, -2), compute, kv_format)
        positions = start + first + jnp.arange(q_block.shape[2])
        visible = numeric.visible(positions, keys.shape[1], window, chunk)[None, None]
        return numeric.attend(
            products, values, visible, compute, kv_format, factor, softcap, columns, prefill=numerics == "prefill"
        )

    if rows <= _QUERY_ROWS or rows % _QUERY_ROWS:
        out = attend(grouped, 0)
    else:
        blocks = grouped.reshape(kv_heads, heads // kv_heads, -1, _QUERY_ROWS, head_dim).transpose(2, 0, 1, 3, 4)
        firsts = jnp.arange(blocks.shape[0]) * _QUERY_ROWS
        out = jax.lax.map(lambda block: attend(*block), (blocks, firsts)).transpose(1, 2, 0, 3, 4)
    return pack(out.reshape(q.shape), out_format)


@sdpa_prefill.describe
def _(call: OpCall) -> str:
    return f"{call.inputs[0].shape[0]}/{call.inputs[1].shape[-3]} heads of {call.inputs[0].shape[-1]}"


@sdpa_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    options = {"fmt": call["kv_format"], "setting": call["setting"], "chip": machine.chip, "blocks": call["block_rows"]}
    return [flash.flash_attention(heads, call.inputs[1].shape[0], rows, call["start"], head_dim, **options)]


@op(in_l1=True)
def concat_heads_decode(x: Array, *, format: str) -> Array:
    """[B, heads, d] -> [B, heads * d]."""
    del format
    return x.reshape(x.shape[0], -1)


@concat_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("interleaved_to_sharded", TO_SHARDED_TIME), small("concat_heads_decode", CONCAT_HEADS_TIME)]


@op
def concat_heads_prefill(x: Array, *, format: str) -> Array:
    """[heads, S, d] -> [S, heads * d]."""
    del format
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


@concat_heads_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    moved = 2 * tensor_bytes(rows, heads * head_dim, call["format"])
    return [stream_rows("concat_heads", moved, rows, machine.chip)]
