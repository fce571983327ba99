"""Elementwise ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME, SILU_MUL_TILE_TIME, TYPECAST_TIME
from ttsim.kernels import galaxy
from ttsim.kernels.activations import check_l1, small, stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import elementwise, switches
from ttsim.numerics.conversion import round_to
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, op, packed_once


@op(like=0)
def add(x: Array, y: Array, *, out_format: str, memory: Memory = "dram", cores: int | None = None) -> Array:
    """x + y, the residual connection. Shapes are equal; float32 on `out_format`'s grid.

    Args:
      memory: where the three tensors lie: "l1" (one row of tiles, sharded over `cores`) or "dram".
    """
    del memory, cores
    return pack(_sum(x, y, out_format), out_format)


add.noise(packed_once)


@add.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("add", rows, columns, "bf16", 3, machine.chip)
        return [small("add", ADD_TIME, cores=call["cores"] or machine.chip.cores)]
    moved = 2 * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream("add", moved, machine.chip)]


@add.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return galaxy.within_decode(call.name, call.inputs[0].shape, machine)


@op(weights=(1,), like=0)
def add_bias(x: Array, bias: Array, *, out_format: str, memory: Memory = "dram") -> Array:
    """x + bias, [..., N] + [...] whose axes flatten to N; `memory` as in `add`."""
    del memory
    return pack(_sum(x, bias.reshape((1,) * (x.ndim - 1) + (-1,)), out_format), out_format)


@add_bias.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("add_bias", rows, columns, "bf16", 3, machine.chip)
        return [small("add", ADD_TIME)]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream("add", moved, machine.chip)]


@op(like=0)
def silu_mul(gate: Array, up: Array, *, out_format: str, memory: Memory = "dram", cores: int | None = None) -> Array:
    """silu(gate) * up, one kernel with the activation fused into the first operand; `memory` as in `add`."""
    del memory, cores
    if out_format == "fp32" or not switches.current().intermediates:
        return pack(jax.nn.silu(gate) * up, out_format)
    return pack(elementwise.multiply(elementwise.silu(gate), up), out_format)


silu_mul.noise(packed_once)


@silu_mul.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _elementwise("silu_mul", call, machine, operands=2)


@silu_mul.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows = rows_and_columns(call.inputs[0])[0]
    return galaxy.small("silu_mul", rows, machine) if rows > TILE else [galaxy.target("silu_mul", "silu_mul")]


_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "sigmoid": jax.nn.sigmoid,
}


@op(like=0)
def gated_mul(
    gate: Array, up: Array, *, activation: str, out_format: str, memory: Memory = "dram", cores: int | None = None
) -> Array:
    """activation(gate) * up, one kernel with the activation fused into the first operand.

    Args:
      gate, up: equal shapes. activation: "silu", "gelu_tanh", "gelu", "relu", "relu_squared" or "sigmoid".
      out_format: format of the result. memory, cores: as in `add`.
    """
    del memory, cores
    return pack(_ACTIVATIONS[activation](gate) * up, out_format)


@gated_mul.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _elementwise(f"{call['activation']}_mul", call, machine, operands=2)


@op
def activate(x: Array, *, activation: str, out_format: str, memory: Memory = "dram", cores: int | None = None) -> Array:
    """activation(x) of an MLP without a gate; see `gated_mul`."""
    del memory, cores
    return pack(_ACTIVATIONS[activation](x), out_format)


@activate.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _elementwise(call["activation"], call, machine)


@op(like=0)
def multiply(x: Array, y: Array, *, out_format: str, memory: Memory = "dram") -> Array:
    """x * y, where y's axes are x's or 1; `memory` as in `add`."""
    del memory
    return pack(x * y, out_format)


@multiply.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _elementwise("multiply", call, machine)


@op(like=0)
def scale(x: Array, *, factor: float, out_format: str, memory: Memory = "dram") -> Array:
    """x * factor; `memory` as in `add`."""
    del memory
    return pack(x * factor, out_format)


@scale.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _elementwise("multiply", call, machine)


@op
def softcap(x: Array, *, cap: float, out_format: str, memory: Memory = "dram") -> Array:
    """cap * tanh(x / cap), three kernels on the device; `memory` as in `add`."""
    del memory
    return pack(cap * jnp.tanh(x / cap), out_format)


@softcap.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [kernel for name in ("multiply", "tanh", "multiply") for kernel in _elementwise(name, call, machine)]


def _elementwise(name: str, call: OpCall, machine: Machine, operands: int = 1) -> list[Kernel]:
    """The kernel of an op on tensors of the first input's shape; a fused activation costs what SiLU's does."""
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        # A tensor of heads has a row for each of a user's heads, spread over the cores: a row of tiles on each.
        check_l1(call.name, rows if operands == 2 else min(rows, TILE), columns, "bf16", operands + 1, machine.chip)
        cores = call.attributes.get("cores") or machine.chip.cores
        if operands == 1:
            return [small(name, ADD_TIME, cores=cores)]
        return [small(name, -(-tiles(columns) // cores) * SILU_MUL_TILE_TIME, cores=cores)]
    moved = operands * tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream(name, moved, machine.chip)]


@op(like=0)
def typecast(x: Array, *, in_format: str, out_format: str, precise: bool = True, memory: Memory = "dram") -> Array:
    """x converted to another format; the only op that packs bfp8 from all of bf16's bits.

    `precise=False` packs as every other op does, and bfp4 is packed so in any case (ttnn 0.81.1 on the simulator);
    `memory` as in `add`.
    """
    del in_format, memory
    return round_to(x, out_format, rounding="device_precise" if precise and out_format == "bfp8" else "device")


@typecast.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("typecast", rows, columns, "bf16", 2, machine.chip)
        return [small("typecast", TYPECAST_TIME)]
    moved = tensor_bytes(rows, columns, call["in_format"]) + tensor_bytes(rows, columns, call["out_format"])
    return [stream("typecast", moved, machine.chip)]


@typecast.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return galaxy.within_decode(call.name, call.inputs[0].shape, machine)


def _sum(x: Array, y: Array, out_format: str) -> Array:
    """x + y before it is packed: exact, or through the matrix unit's alignment of both."""
    exact = out_format == "fp32" or not switches.current().addition
    return x + y if exact else elementwise.add(x.astype(jnp.float32), y.astype(jnp.float32))
