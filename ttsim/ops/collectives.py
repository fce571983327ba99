"""Collectives over a mesh axis. Each has one cost rule by topology, in `ttsim.kernels.links`."""

from __future__ import annotations

from typing import Any

import jax

from ttsim.hardware.constants.galaxy import GALAXY_GATHER_BANDWIDTH
from ttsim.hardware.constants.matmul import INTERLEAVED_BANDWIDTH
from ttsim.kernels import galaxy, links
from ttsim.kernels.activations import stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.meshes.systems import COLUMN_AXIS
from ttsim.numerics import elementwise, switches
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, op, packed_once


@op
def all_gather(x: Array, *, axis: str, dim: int, format: str, memory: Memory = "dram") -> Array:
    """Concatenates every device's slice along dimension `dim`. [..., N / devices, ...] -> [..., N, ...].

    Args:
      x: this device's slice. axis: mesh axis. dim: dimension of x. format: of what travels.
      memory: where the tensors lie, "l1" or "dram": it decides how well a link is filled.
    """
    del format, memory
    gathered: Array = jax.lax.all_gather(x, axis, axis=dim, tiled=True)
    return gathered


@all_gather.shapes
def _(x: Array, *, axis: str, dim: int, **attributes: Any) -> jax.ShapeDtypeStruct:
    return _resized(x, dim, x.shape[dim] * _devices(axis))


@all_gather.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    shard = tensor_bytes(rows, columns, call["format"])  # padded to tiles before it is gathered
    kernels = [links.all_gather(shard * call.num_devices, call.num_devices, call["memory"], machine)]
    last = call["dim"] == len(call.inputs[0].shape) - 1
    if columns % TILE and columns > TILE and last and machine.software.vocabulary_join:
        kernels += links.unaligned_gather()
    return kernels


@all_gather.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if columns == 1:  # a norm's statistics, part of its kernel in decode
        return [galaxy.prefill_collective("all_gather (statistics)", 96.0 * rows, rows)] if rows > TILE else []
    if columns == 32 and call["axis"] != COLUMN_AXIS:
        return [galaxy.target("all_gather", "gather_best")]
    received = (call.num_devices - 1) * tensor_bytes(rows, columns, call["format"])
    if rows <= TILE:
        return [galaxy.fused("AllGather", received, machine)]
    longest = machine.software.fact("fused_gather_matmul")
    if longest and rows >= longest:
        return []  # within w2's matmul, which takes longer
    return [galaxy.prefill_collective("all_gather", received, rows)]


@op
def reduce_scatter(x: Array, *, axis: str, dim: int, format: str, memory: Memory = "dram") -> Array:
    """Sums over the devices and leaves each with its slice of `dim`. [..., N, ...] -> [..., N / devices, ...].

    Each device's sum so far is packed to `format` before it is sent on. Arguments as in `all_gather`.
    """
    del memory
    return _reduce_scatter(x, axis, dim, format)


reduce_scatter.noise(packed_once)


@reduce_scatter.shapes
def _(x: Array, *, axis: str, dim: int, **attributes: Any) -> jax.ShapeDtypeStruct:
    return _resized(x, dim, x.shape[dim] // _devices(axis))


@reduce_scatter.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    tensor = tensor_bytes(*rows_and_columns(call.inputs[0]), call["format"])
    return [links.reduce_scatter(tensor, call.num_devices, call["memory"], machine)]


@reduce_scatter.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    devices = call.num_devices
    received = (devices - 1) / devices * tensor_bytes(rows, columns, call["format"])
    if rows <= TILE:  # w1's sum travels while w3 is computed
        return [galaxy.half(galaxy.fused("ReduceScatter", received, machine), machine)]
    return [galaxy.prefill_collective("reduce_scatter", received, rows, galaxy.reduce_rate(rows, machine))]


@op(like=0)
def all_reduce(x: Array, *, axis: str, format: str, memory: Memory = "dram", composite: bool = False) -> Array:
    """Sums over the devices; each gets the whole sum. Shape unchanged.

    Args:
      x: [...] partial sums.
      axis: mesh axis.
      format: format of what travels and of the result.
      memory: see `all_gather`.
      composite: reduce-scatter + all-gather; otherwise all-gather + a local reduction over the gathered copies.
    """
    del memory
    last = x.ndim - 1
    if composite and x.shape[last] % jax.lax.axis_size(axis) == 0:
        total: Array = jax.lax.all_gather(_reduce_scatter(x, axis, last, format), axis, axis=last, tiled=True)
        return total
    return pack(jax.lax.psum(x, axis), format)


all_reduce.noise(packed_once)


@all_reduce.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor, devices = tensor_bytes(rows, columns, call["format"]), call.num_devices
    memory = call["memory"]
    if call["composite"]:
        return [
            links.reduce_scatter(tensor, devices, memory, machine),
            links.all_gather(tensor, devices, memory, machine),
        ]
    reduce = stream("fast_reduce_nc", (devices + 1) * tensor, machine.chip)
    return [links.all_gather(devices * tensor, devices, memory, machine), reduce]


@all_reduce.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    devices, fmt = call.num_devices, call["format"]
    tensor = tensor_bytes(rows, columns, fmt)
    part = (devices - 1) / devices
    if rows <= TILE:
        if call["axis"] == COLUMN_AXIS and not call.attributes.get("composite"):
            # The sum of QKV is scattered by user, 8 a column, in bf16, with the heads cut in the same kernel.
            return [galaxy.fused("ReduceScatter + create heads", part * tensor_bytes(rows, columns, "bf16"), machine)]
        return [galaxy.fused("AllReduceAsync", (devices - 1) * tensor, machine)]
    kernels = [
        galaxy.prefill_collective("reduce_scatter", part * tensor, rows, galaxy.reduce_rate(rows, machine)),
        galaxy.prefill_collective("all_gather", part * tensor, rows),
    ]
    if call["axis"] != COLUMN_AXIS and galaxy.LONGEST_SHORT < rows <= machine.software.fact("wo_gather"):
        # wo's sum gathers whole copies and adds them; of the two sums of a layer each carries half of it.
        more = 0.5 * (devices - 1 - 2 * part) * tensor
        kernels.append(
            Kernel(
                "all_gather (copies) + fast_reduce_nc",
                start=more / GALAXY_GATHER_BANDWIDTH + 0.5 * (devices + 1) * tensor / INTERLEAVED_BANDWIDTH,
                bytes=more,
                source="tt-metal d406ab4dd7",
            )
        )
    return kernels


def _devices(axis: str) -> int:
    """Devices along an axis of the mesh that a program is traced on; `jax.lax.axis_size` would trace a sum to know."""
    return int(jax.sharding.get_abstract_mesh().shape[axis])


def _resized(x: Array, dim: int, size: int) -> jax.ShapeDtypeStruct:
    """What has x's shape and type but for the size of one dimension."""
    return jax.ShapeDtypeStruct((*x.shape[:dim], size, *x.shape[dim + 1 :]), x.dtype)


def _reduce_scatter(x: Array, axis: str, dim: int, format: str) -> Array:
    """This device's slice of the sum, which passed every other device on its way round the ring.

    Device i begins with its part of slice i - 1, and at each hop adds its part of the slice that it is sent.
    """
    devices = jax.lax.axis_size(axis)
    if format == "fp32" or devices == 1 or not switches.current().hops:
        return pack(jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True), format)
    width = x.shape[dim] // devices
    ring = [(i, (i + 1) % devices) for i in range(devices)]
    me = jax.lax.axis_index(axis)

    def part(hop: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, (me - 1 - hop) % devices * width, width, axis=dim)

    total = part(0)
    for hop in range(1, devices):
        received, mine = jax.lax.ppermute(total, axis, ring), part(hop)
        exact = not switches.current().addition
        total = pack(received + mine if exact else elementwise.add(received, mine), format)
    return total
