"""Elementwise ops."""

from __future__ import annotations

import jax

from ttsim.formats import round_to
from ttsim.ops._op import op
from ttsim.ops._pack import pack


@op
def add(x, y, *, out_format, cores=None):
    """x + y, the residual connection. Shapes are equal; float32 on `out_format`'s grid."""
    del cores
    return pack(x + y, out_format)


@op
def add_bias(x, bias, *, out_format):
    """x + bias, [..., N] + [...] whose axes flatten to N."""
    return pack(x + bias.reshape((1,) * (x.ndim - 1) + (-1,)), out_format)


@op
def silu_mul(gate, up, *, out_format, cores=None):
    """silu(gate) * up, one kernel with the activation fused into the first operand."""
    del cores
    return pack(jax.nn.silu(gate) * up, out_format)


@op
def typecast(x, *, in_format, out_format, precise=True):
    """x converted to another format; the only op that packs block floats from all of bf16's bits.

    `precise=False` packs as every other op does.
    """
    del in_format
    return round_to(x, out_format, rounding="device_precise" if precise else "device")
