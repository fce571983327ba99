"""Collectives over a mesh axis. Each has one cost rule by topology, in `ttsim.kernels.links`."""

from __future__ import annotations

import jax

from ttsim.kernels import links
from ttsim.kernels.activations import stream
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics.formats import TILE
from ttsim.numerics.noise import rounding
from ttsim.numerics.packer import pack
from ttsim.ops.core import OpNoise, op


@op
def all_gather(x, *, axis, dim, format, memory="dram"):
    """Concatenates every device's slice along dimension `dim`. [..., N / devices, ...] -> [..., N, ...].

    Args:
      x: this device's slice. axis: mesh axis. dim: dimension of x. format: of what travels.
      memory: where the tensors lie, "l1" or "dram": it decides how well a link is filled.
    """
    del format, memory
    return jax.lax.all_gather(x, axis, axis=dim, tiled=True)


@all_gather.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    shard = tensor_bytes(rows, columns, call["format"])  # padded to tiles before it is gathered
    kernels = [links.all_gather(shard * call.num_devices, call.num_devices, call["memory"], machine.system)]
    if columns % TILE and columns > TILE and call["dim"] == len(call.inputs[0].shape) - 1:
        kernels += links.unaligned_gather(columns, call.num_devices)
    return kernels


@op
def reduce_scatter(x, *, axis, dim, format, memory="dram"):
    """Sums over the devices and leaves each with its slice of `dim`. [..., N, ...] -> [..., N / devices, ...].

    The sum is rounded once to `format`; the device rounds after each hop, which for two devices is the same.
    Arguments as in `all_gather`.
    """
    del memory
    return pack(jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True), format)


@reduce_scatter.noise
def _(call):
    return OpNoise(rounding(call["format"]).power)


@reduce_scatter.cost
def _(call, machine):
    tensor = tensor_bytes(*rows_and_columns(call.inputs[0]), call["format"])
    return [links.reduce_scatter(tensor, call.num_devices, call["memory"], machine.system)]


@op
def all_reduce(x, *, axis, format, memory="dram", composite=False):
    """Sums over the devices; each gets the whole sum. Shape unchanged.

    Args:
      x: [...] partial sums.
      axis: mesh axis.
      format: format of what travels and of the result.
      memory: see `all_gather`.
      composite: reduce-scatter + all-gather; otherwise all-gather + a local reduction over the gathered copies.
    """
    del memory, composite
    return pack(jax.lax.psum(x, axis), format)


@all_reduce.noise
def _(call):
    return OpNoise(rounding(call["format"]).power)


@all_reduce.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    tensor, devices = tensor_bytes(rows, columns, call["format"]), call.num_devices
    memory, system = call["memory"], machine.system
    if call["composite"]:
        return [
            links.reduce_scatter(tensor, devices, memory, system),
            links.all_gather(tensor, devices, memory, system),
        ]
    reduce = stream("fast_reduce_nc", (devices + 1) * tensor, machine.chip)
    return [links.all_gather(devices * tensor, devices, memory, system), reduce]
