"""Rotary embedding: its tables, the rotation, and what sharpens queries far along a context.

It rotates the pairs (2i, 2i + 1): Meta's order, which the device uses; checkpoints in Hugging Face's half-split order
are permuted when they are loaded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ROTARY_STREAM_START, ROTARY_TIME, TABLE_LOOKUP_TIME
from ttsim.hardware.quantities import Terms
from ttsim.kernels import galaxy
from ttsim.kernels.activations import Pair, one_of_pair, small, stream_rows
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tensor_bytes
from ttsim.numerics import elementwise, switches
from ttsim.numerics.conversion import round_to
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, floats, op


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


@rotary_tables.shapes
def _(positions: Array, inverse_frequencies: Array, **attributes: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    table = floats(*positions.shape, inverse_frequencies.size)
    return table, table


@rotary_tables.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    if call["memory"] == "host":
        return [host_work("slice rotary tables", Terms(), "part of host_prompt: see copy_to_device")]
    lookups = [small(name, 1 * TABLE_LOOKUP_TIME) for name in ("embedding", "transpose", "interleaved_to_sharded")]
    return 2 * lookups  # cos and sin


@rotary_tables.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [galaxy.target("embedding", "embedding")]


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
        return one_of_pair("rotary_embedding_llama", small("", ROTARY_TIME), call["pair"], machine.software)
    heads, rows, head_dim = x.shape
    moved = tensor_bytes(heads * rows, head_dim, "bf16") + tensor_bytes(heads * rows, head_dim, call["out_format"])
    return [stream_rows("rotary_embedding_llama", moved, rows, machine.chip, start=ROTARY_STREAM_START)]


@rotary.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows = call.inputs[0].shape[1]
    if rows > TILE:
        return galaxy.small("rotary_embedding_llama", rows, machine)
    return [galaxy.half(galaxy.target("rotary_embedding_llama_fused_qk", "rotary"), machine)]


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
