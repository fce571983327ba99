"""Tokens that travel to their experts on other chips and back, and sums beside a replicated residual stream.

Axes in names: t tokens (rows), d hidden size.
"""

from __future__ import annotations

import jax

from ttsim.hardware.constants.experts import REDUCE_SLICE
from ttsim.kernels import experts as kernels
from ttsim.kernels import links
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, op, packed_once


@op
def dispatch(x: Array, *, axis: str, active: int, fused: bool, format: str) -> Array:
    """Every device's rows, as the experts of each need them. [T, ...] -> [devices T, ...].

    The device sends a row only to where one of its experts lives (`all_to_all_dispatch`); the others would meet
    weights of 0, so that the result is that of sending all.

    Args:
      axis: mesh axis of the exchange. active: experts of a row, which bound the copies that travel. fused: for
        `moe_gpt`.
    """
    del active, fused, format
    everyone: Array = jax.lax.all_gather(x, axis, axis=0, tiled=True)
    return everyone


@dispatch.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call.num_devices == 1:
        return []
    options = {"fused": call["fused"], "links": machine.system.links}
    return [kernels.exchange("all_to_all_dispatch", rows, columns, call["active"], call.num_devices, **options)]


@op
def combine(y: Array, *, axis: str, active: int, fused: bool, format: str) -> Array:
    """The sums of what all devices' experts made of this device's rows. [devices T, D] -> [T, D]."""
    del active, fused
    return pack(jax.lax.psum_scatter(y, axis, scatter_dimension=0, tiled=True), format)


combine.noise(packed_once)


@combine.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    if call.num_devices == 1:
        return []
    name = "selective_reduce_combine" if call["fused"] else "all_to_all_combine"
    options = {"fused": call["fused"], "links": machine.system.links}
    return [kernels.exchange(name, rows, columns, call["active"], call.num_devices, **options)]


@op
def all_reduce_residual(x: Array, *, axis: str, format: str, memory: Memory) -> Array:
    """Sums over the devices, each of which gets the whole sum: the end of a branch beside a replicated residual stream.

    Args:
      x: [T, D] partial sums. axis: mesh axis. format: of what travels and of the result. memory: "l1" or "dram".
    """
    del memory
    return pack(jax.lax.psum(x, axis), format)


all_reduce_residual.noise(packed_once)


@all_reduce_residual.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor, devices = tensor_bytes(rows, columns, call["format"]), call.num_devices
    where = call["memory"], machine
    if columns % (TILE * devices) == 0:
        return [links.reduce_scatter(tensor, devices, *where), links.all_gather(tensor, devices, *where)]
    # Shards that are no whole tiles: every device gathers whole rows and sums them.
    parts = [links.all_gather(devices * tensor, devices, *where)]
    if rows % TILE:
        parts.append(kernels.fill_pad(machine.chip))
    return [*parts, Kernel("fast_reduce_nc, slice", start=1 * REDUCE_SLICE, source="tt-mlir #7718")]
