"""Heads: cutting the fused projection into them, and joining them again.

Decode arrays are [B, heads, head_dim] (one token per user), prefill arrays [heads, S, head_dim] (one user).
"""

from __future__ import annotations

import jax

from ttsim.hardware.constants.activations import (
    CONCAT_HEADS_TIME,
    CREATE_HEADS_TILE_TIME,
    CREATE_HEADS_TIME,
    TO_INTERLEAVED_TIME,
    TO_SHARDED_TIME,
)
from ttsim.kernels import galaxy
from ttsim.kernels.activations import fixed, small, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tensor_bytes, tiles
from ttsim.ops.core import Array, Memory, OpCall, op


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


@create_heads_decode.shapes
def _(qkv: Array, *, kv_heads: int, head_dim: int, format: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    del format
    batch, heads = qkv.shape[0], qkv.shape[-1] // head_dim
    local = jax.ShapeDtypeStruct((batch, kv_heads, head_dim), qkv.dtype)
    return jax.ShapeDtypeStruct((batch, heads - 2 * kv_heads, head_dim), qkv.dtype), local, local


@create_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    time = CREATE_HEADS_TIME + tiles(call.inputs[0].shape[-1]) * CREATE_HEADS_TILE_TIME
    return [small("sharded_to_interleaved", TO_INTERLEAVED_TIME), fixed("create_heads_decode", time)]


@create_heads_decode.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # part of the collective beside it


@op
def query_heads(q: Array, *, head_dim: int, format: str, memory: Memory) -> Array:
    """Splits queries that stand alone into heads: [B, n * d] -> [B, n, d] in L1, [S, n * d] -> [n, S, d] in DRAM."""
    del format
    heads = q.reshape(q.shape[0], -1, head_dim)
    return heads if memory == "l1" else heads.transpose(1, 0, 2)


@query_heads.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = call.inputs[0].shape
    if call["memory"] != "l1":
        return [stream_rows("create_heads", 2 * tensor_bytes(rows, columns, call["format"]), rows, machine.chip)]
    time = CREATE_HEADS_TIME + tiles(columns) * CREATE_HEADS_TILE_TIME
    return [small("sharded_to_interleaved", TO_INTERLEAVED_TIME), fixed("create_heads_decode", time)]


@op
def create_heads_prefill(qkv: Array, *, kv_heads: int, head_dim: int, format: str) -> tuple[Array, Array, Array]:
    """Splits the fused projection of one user into heads: [S, ...] -> q [heads, S, d], k and v [kv_heads, S, d]."""
    del format
    rows = qkv.shape[0]
    heads = qkv.reshape(rows, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
    q = heads[:, :-2].reshape(-1, rows, head_dim)
    return q, heads[:, -2], heads[:, -1]


@create_heads_prefill.shapes
def _(qkv: Array, *, kv_heads: int, head_dim: int, format: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    del format
    rows, heads = qkv.shape[0], qkv.shape[-1] // head_dim
    local = jax.ShapeDtypeStruct((kv_heads, rows, head_dim), qkv.dtype)
    return jax.ShapeDtypeStruct((heads - 2 * kv_heads, rows, head_dim), qkv.dtype), local, local


@create_heads_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = call.inputs[0].shape
    return [stream_rows("create_heads", 2 * tensor_bytes(rows, columns, call["format"]), rows, machine.chip)]


@create_heads_prefill.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return galaxy.within_decode(call.name, call.inputs[0].shape, machine)


@op(in_l1=True)
def concat_heads_decode(x: Array, *, format: str) -> Array:
    """[B, heads, d] -> [B, heads * d]."""
    del format
    return x.reshape(x.shape[0], -1)


@concat_heads_decode.shapes
def _(x: Array, *, format: str) -> jax.ShapeDtypeStruct:
    del format
    users, heads, head_dim = x.shape
    return jax.ShapeDtypeStruct((users, heads * head_dim), x.dtype)


@concat_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("interleaved_to_sharded", TO_SHARDED_TIME), small("concat_heads_decode", CONCAT_HEADS_TIME)]


@concat_heads_decode.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # part of the collective beside it


@op
def concat_heads_prefill(x: Array, *, format: str) -> Array:
    """[heads, S, d] -> [S, heads * d]."""
    del format
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


@concat_heads_prefill.shapes
def _(x: Array, *, format: str) -> jax.ShapeDtypeStruct:
    del format
    heads, rows, head_dim = x.shape
    return jax.ShapeDtypeStruct((rows, heads * head_dim), x.dtype)


@concat_heads_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    moved = 2 * tensor_bytes(rows, heads * head_dim, call["format"])
    return [stream_rows("concat_heads", moved, rows, machine.chip)]


@concat_heads_prefill.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return galaxy.within_decode(call.name, call.inputs[0].shape, machine)
