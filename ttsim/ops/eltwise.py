"""Elementwise ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.kernels import activations as tensix
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.numerics.formats import round_to
from ttsim.numerics.packer import pack
from ttsim.ops.core import op


@op
def add(x, y, *, out_format, cores=None):
    """x + y, the residual connection. Shapes are equal; float32 on `out_format`'s grid."""
    del cores
    return pack(x + y, out_format)


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
    return pack(x + bias.reshape((1,) * (x.ndim - 1) + (-1,)), out_format)


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
    return pack(jax.nn.silu(gate) * up, out_format)


@silu_mul.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    if machine.phase == "decode":
        cores = call.attributes.get("cores") or machine.chip.cores
        return [tensix.small("silu_mul", 4.2e-6 * -(-tiles(columns) // cores), cores=cores)]
    moved = 2 * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("silu_mul", moved, machine)]


_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "sigmoid": jax.nn.sigmoid,
}


@op
def gated_mul(gate, up, *, activation, out_format, cores=None):
    """activation(gate) * up, one kernel with the activation fused into the first operand.

    Args:
      gate, up: equal shapes. activation: "silu", "gelu_tanh", "gelu", "relu", "relu_squared" or "sigmoid".
      out_format: format of the result. cores: that hold the operands.
    """
    del cores
    return pack(_ACTIVATIONS[activation](gate) * up, out_format)


@gated_mul.cost
def _(call, machine):
    return _elementwise(f"{call['activation']}_mul", call, machine, operands=2)


@op
def activate(x, *, activation, out_format, cores=None):
    """activation(x) of an MLP without a gate; see `gated_mul`."""
    del cores
    return pack(_ACTIVATIONS[activation](x), out_format)


@activate.cost
def _(call, machine):
    return _elementwise(call["activation"], call, machine)


@op
def multiply(x, y, *, out_format):
    """x * y, where y's axes are x's or 1."""
    return pack(x * y, out_format)


@multiply.cost
def _(call, machine):
    return _elementwise("multiply", call, machine)


@op
def scale(x, *, factor, out_format):
    """x * factor."""
    return pack(x * factor, out_format)


@scale.cost
def _(call, machine):
    return _elementwise("multiply", call, machine)


@op
def softcap(x, *, cap, out_format):
    """cap * tanh(x / cap), three kernels on the device."""
    return pack(cap * jnp.tanh(x / cap), out_format)


@softcap.cost
def _(call, machine):
    return [kernel for name in ("multiply", "tanh", "multiply") for kernel in _elementwise(name, call, machine)]


def _elementwise(name, call, machine, operands=1):
    """The kernel of an op on tensors of the first input's shape."""
    rows, columns = rows_and_columns(call.inputs[0])
    if machine.phase == "decode":
        cores = call.attributes.get("cores") or machine.chip.cores
        return [tensix.small(name, 2.5e-6 * max(1, tiles(columns) / (2 * cores)), cores=cores)]
    moved = operands * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream(name, moved, machine)]


@op
def typecast(x, *, in_format, out_format, precise=True):
    """x converted to another format; the only op that packs block floats from all of bf16's bits.

    `precise=False` packs as every other op does.
    """
    del in_format
    return round_to(x, out_format, rounding="device_precise" if precise else "device")


@typecast.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    if machine.phase == "decode":
        return [tensix.small("typecast", 2.5e-6)]
    moved = tensor_bytes(rows, columns, call["in_format"]) + tensor_bytes(rows, columns, call["out_format"])
    return [tensix.stream("typecast", moved, machine)]
