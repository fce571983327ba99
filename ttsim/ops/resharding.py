"""Ops that only move data: between shardings, memories and layouts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import RESHARD_TIME, TO_INTERLEAVED_TIME
from ttsim.hardware.constants.host import HOST_ARGMAX, HOST_SAMPLING, HOST_UNTILIZE, TUNNEL_READ_BANDWIDTH
from ttsim.hardware.constants.images import HOST_UNTILIZE_SLOW
from ttsim.hardware.quantities import Terms, seconds
from ttsim.kernels import links, matmul
from ttsim.kernels.activations import small, stream
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics.formats import TILE
from ttsim.ops.core import Array, Memory, OpCall, op
from ttsim.ops.host import replicated

_UNTILIZED = 128_256  # columns that HOST_UNTILIZE was measured with


@op(in_l1=True, like=0)
def reshard(x: Array, *, format: str, cores: int | None = None) -> Array:
    """The same values in another sharding of L1."""
    del format, cores
    return x


@reshard.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("reshard", RESHARD_TIME)]


@reshard.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # part of the collectives and matmuls around it


@op(like=0)
def untilize(x: Array, *, format: str, memory: Memory = "dram") -> Array:
    """From tiles to rows, as a row-major op or the host reads it.

    Args:
      x: [..., N]. format: of x. memory: "dram" on the device, "host" after it has been read back.
    """
    del format, memory
    return x


@untilize.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    moved = tensor_bytes(rows, columns, call["format"]) + tensor_bytes(rows, columns, "bf16")
    if call["memory"] == "host":
        chips = machine.system.chips_per_replica
        nearest = min(HOST_UNTILIZE, key=lambda known: abs(known - chips))
        time = columns * machine.system.grid[0] / _UNTILIZED * HOST_UNTILIZE[nearest]
        if machine.software.device_untilize:  # later code that still reads tiles has the loops of 2025-04-18
            time = time / HOST_UNTILIZE_SLOW
        return [host_work("untilize logits", time, "tt-metal before bcfc2c1a3f (2025-03-17); #20335")]
    return [stream("untilize", moved, machine.chip)]


@op
def take_rows(x: Array, row: Array, *, rows: int, format: str) -> Array:
    """The tile of rows that contains `row`: rows [row // rows * rows, + rows) of x [S, ...]."""
    del format
    return jax.lax.dynamic_slice_in_dim(x, row // rows * rows, rows, axis=0)


@take_rows.shapes
def _(x: Array, row: Array, *, rows: int, format: str) -> jax.ShapeDtypeStruct:
    del format
    return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)


@take_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    _, columns = rows_and_columns(call.inputs[0])
    return [stream("slice", 2 * tensor_bytes(call["rows"], columns, call["format"]), machine.chip)]


@op(in_l1=True)
def select_users(x: Array, *, axis: str, format: str) -> Array:
    """This column's users: rows [i * B/n, (i+1) * B/n) of x [B, ...] on device i of the axis.

    The device multiplies by a selection matrix. A batch that the axis doesn't divide is replicated: x unchanged.
    """
    del format
    devices = jax.lax.axis_size(axis)
    if x.shape[0] % devices:
        return x
    rows = x.shape[0] // devices
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * rows, rows, axis=0)


@select_users.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    # A product with a bfp4 selection matrix, then a cast to bf16 (tt_transformers tt/attention.py, TG branch).
    _, columns = rows_and_columns(call.inputs[0])
    return [
        matmul.mcast_1d(32, columns, fmt=call["format"], setting="lofi", chip=machine.chip),
        small("sharded_to_interleaved", TO_INTERLEAVED_TIME),
    ]


@select_users.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # the sum of QKV is scattered by user


@op(in_l1=True)
def select_rows(x: Array, *, rows: int, format: str) -> Array:
    """The first `rows` rows of what was gathered from all columns, by a selection matrix: drops the padding."""
    del format
    return x[:rows]


@select_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [
        small("sharded_to_interleaved", TO_INTERLEAVED_TIME),
        matmul.mcast_1d(max(rows, 32), columns, fmt=call["format"], setting="lofi", chip=machine.chip),
    ]


@select_rows.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # part of attention's kernel


@op
def mesh_partition(x: Array, *, axis: str, format: str, memory: Memory = "dram") -> Array:
    """This device's slice of the last axis of what all of them hold whole. [..., N] -> [..., N / devices].

    tt_transformers has no such op: it sums the equal copies by a reduce-scatter, and divides by their number
    (tt/decoder.py, after a norm that leaves its result whole).

    Args:
      axis: mesh axis. format: of x. memory: "l1" (one row of tiles) or "dram".
    """
    del format, memory
    width = x.shape[-1] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * width, width, axis=x.ndim - 1)


@mesh_partition.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    devices = call.num_devices
    summed = links.reduce_scatter(tensor_bytes(rows, columns, call["format"]), devices, "dram", machine)
    divided = stream("div", 2 * tensor_bytes(rows, columns // devices, call["format"]), machine.chip)
    moved = [small("sharded_to_interleaved", TO_INTERLEAVED_TIME)] if call["memory"] == "l1" else []
    return [*moved, summed, divided]


@op
def argmax(logits: Array, *, ties: str = "first", memory: Memory = "dram") -> Array:
    """The index of the largest logit of each row, the first or the last one on a tie. [..., V] -> [...] int32.

    Args:
      logits: [..., V]. ties: "first" or "last". memory: "dram" on the device, "host" after they have been read back.
    """
    del memory
    if ties == "first":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return (logits.shape[-1] - 1 - jnp.argmax(logits[..., ::-1], axis=-1)).astype(jnp.int32)


def _sampling(users: int, columns: int, machine: Machine) -> Terms:
    """The host reads the logits of a replica and takes their argmax.

    32 rows of bf16 are read whatever the batch, those of chips behind an Ethernet tunnel at the tunnel's rate. Until
    2025-06 reading, conversion and argmax were slower, and one constant.
    """
    if machine.software.host_argmax == "slow":
        return columns * (TILE if machine.software.served else users) / TILE * HOST_ARGMAX
    system, moved = machine.system, 2 * TILE * columns
    local = seconds(moved * (1 - system.tunnelled) / system.chip.host_read_bandwidth)
    return local + moved * system.tunnelled / TUNNEL_READ_BANDWIDTH + columns * HOST_SAMPLING


@argmax.shapes
def _(logits: Array, **attributes: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32)


@argmax.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "host":
        time = replicated(_sampling(rows, columns, machine), machine)
        return [host_work("argmax", time, "tt_transformers demo, torch.argmax")]
    return [stream("argmax", tensor_bytes(rows, columns, "bf16"), machine.chip)]
