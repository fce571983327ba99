"""Elementwise ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.kernels import activations as tensix
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import elementwise, switches
from ttsim.numerics.formats import round_to
from ttsim.numerics.packer import pack
from ttsim.ops.core import op


@op
def add(x, y, *, out_format, cores=None):
    """x + y, the residual connection. Shapes are equal; float32 on `out_format`'s grid."""
    del cores
    return pack(_sum(x, y, out_format), out_format)


@add.cost
def _(call, machine):
    if machine.phase == "decode":
        return [tensix.small("add", 2.5e-6, cores=call.attributes.get("cores") or machine.chip.cores)]
    rows, columns = rows_and_columns(call.inputs[0])
    moved = 2 * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("add", moved, machine)]


@op
def add_bias(x, bias, *, out_format):
    """x + bias, [..., N] + [...] whose axes flatten to N."""
    return pack(_sum(x, bias.reshape((1,) * (x.ndim - 1) + (-1,)), out_format), out_format)


@add_bias.cost
def _(call, machine):
    if machine.phase == "decode":
        return [tensix.small("add", 2.5e-6)]
    rows, columns = rows_and_columns(call.inputs[0])
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("add", moved, machine)]


@op
def silu_mul(gate, up, *, out_format, cores=None):
    """silu(gate) * up, one kernel with the activation fused into the first operand."""
    del cores
    if out_format == "fp32" or not switches.current().intermediates:
        return pack(jax.nn.silu(gate) * up, out_format)
    return pack(elementwise.multiply(elementwise.silu(gate), up), out_format)


@silu_mul.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    if machine.phase == "decode":
        cores = call.attributes.get("cores") or machine.chip.cores
        return [tensix.small("silu_mul", 4.2e-6 * -(-tiles(columns) // cores), cores=cores)]
    moved = 2 * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("silu_mul", moved, machine)]


@op
def typecast(x, *, in_format, out_format, precise=True):
    """x converted to another format; the only op that packs bfp8 from all of bf16's bits.

    `precise=False` packs as every other op does, and bfp4 is packed so in any case (ttnn 0.81.1 on the simulator).
    """
    del in_format
    return round_to(x, out_format, rounding="device_precise" if precise and out_format == "bfp8" else "device")


@typecast.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    if machine.phase == "decode":
        return [tensix.small("typecast", 2.5e-6)]
    moved = tensor_bytes(rows, columns, call["in_format"]) + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("typecast", moved, machine)]


def _sum(x, y, out_format):
    """x + y before it is packed: exact, or through the matrix unit's alignment of both."""
    exact = out_format == "fp32" or not switches.current().addition
    return x + y if exact else elementwise.add(x.astype(jnp.float32), y.astype(jnp.float32))
