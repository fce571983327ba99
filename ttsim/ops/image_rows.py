"""Ops on an image's rows and columns: positions, padding, joining, pooling, and their places in a prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME
from ttsim.kernels.activations import small, stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, OpCall, op


@op(weights=(0,))
def take_aspect(table: Array, aspect: Array, *, tiles: int, format: str) -> Array:
    """The rows of one canvas: table [aspects, max_tiles, n, H] -> [tiles, n, H]."""
    del format
    rows: Array = jax.lax.dynamic_index_in_dim(table, aspect, keepdims=False)
    return rows[:tiles].astype(jnp.float32)


@take_aspect.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    return [stream("slice", 2 * tensor_bytes(rows, columns, call["format"]), machine.chip)]


@op(like=0)
def add_spread(x: Array, row: Array, *, out_format: str) -> Array:
    """x [tiles, n, H] plus one row [tiles, 1, H] for each tile."""
    return pack(x + row, out_format)


@add_spread.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [stream("add", 2 * tensor_bytes(rows, columns, call["out_format"]), machine.chip)]


@op(weights=(1,))
def prepend_class(x: Array, token: Array, *, format: str) -> Array:
    """The class token before the rows of each tile: [tiles, n, H] -> [tiles, n + 1, H]."""
    token = pack(token.astype(jnp.float32), format)
    return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])), x], axis=1)


@prepend_class.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("concat", call, machine)


@op(weights=(1, 2, 3), like=0)
def add_positions(x: Array, shared: Array, by_tile: Array, strength: Array, aspect: Array, *, out_format: str) -> Array:
    """x + (1 - tanh(strength)) shared + tanh(strength) by_tile[aspect].

    Args:
      x: [tiles, n, H]; shared: [n, H]; by_tile: [aspects, max_tiles, n, H]; strength: [1]; aspect: int32 scalar.
    """
    share = jnp.tanh(strength.astype(jnp.float32))
    tiles = jax.lax.dynamic_index_in_dim(by_tile, aspect, keepdims=False)[: x.shape[0]]
    return pack(x + ((1 - share)[:, None] * shared)[None] + share[:, None, None] * tiles, out_format)


@add_positions.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor = tensor_bytes(rows, columns, call["out_format"])
    shared = tensor_bytes(*rows_and_columns(call.inputs[1]), call["out_format"])
    return [
        small("tanh", ADD_TIME),
        stream("mul", 2 * shared, machine.chip),
        stream("add", 2 * tensor + shared, machine.chip),
        stream("slice", 2 * tensor, machine.chip),
        stream("mul", 2 * tensor, machine.chip),
        stream("add", 3 * tensor, machine.chip),
    ]


@op
def pad_rows(x: Array, *, rows: int, format: str) -> Array:
    """Zero rows after x [..., n, H], up to `rows`."""
    del format
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows - x.shape[-2]), (0, 0)])


@pad_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("pad", call, machine)


@op
def slice_rows(x: Array, *, rows: int, format: str) -> Array:
    """The first rows of x [..., n, H]: to row-major, cut, back to tiles."""
    del format
    return x[..., :rows, :]


@slice_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("slice", call, machine)


@op
def stack_images(*images: Array, format: str) -> Array:
    """The tokens of several images of one shape, one after the other: [images, tiles, n, H]."""
    del format
    return jnp.stack(images)


@stack_images.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    return [stream("concat", 2 * tensor_bytes(rows, columns, call["format"]), machine.chip)]


@op
def join_rows(*parts: Array, format: str) -> Array:
    """Concatenates along the rows: the tokens of several images, [n, H] each."""
    del format
    return jnp.concatenate(parts)


@join_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("concat", call, machine)


@op
def reorder_rows(x: Array, order: Array, *, format: str) -> Array:
    """Rows of x [n, H] in another order [n] (windows of a vision tower)."""
    del format
    return jnp.take(x, order, axis=0)


@reorder_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("embedding", call, machine)


@op
def take_columns(x: Array, *, order: tuple[int, ...], format: str) -> Array:
    """Columns of x [n, H] in another order."""
    del format
    return x[..., jnp.asarray(order)]


@take_columns.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("embedding", call, machine)


@op(weights=(0,))
def interpolated_rows(table: Array, indices_s4: Array, weights_s4: Array, *, format: str) -> Array:
    """Rows between those of a table: sum over its four neighbours of weight * table[index]. [P, H] -> [S, H]."""
    return pack(jnp.einsum("sn,snh->sh", weights_s4, jnp.take(table, indices_s4, axis=0)), format)


@interpolated_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    moved = 2 * tensor_bytes(rows, columns, call["format"])
    near = call.inputs[1].shape[-1]
    looked_up = [stream(name, moved, machine.chip) for name in ("embedding", "multiply")] * near
    return [*looked_up, *[stream("add", 1.5 * moved, machine.chip)] * (near - 1)]


@op
def average_pool(x: Array, *, side: int, kernel: int, format: str) -> Array:
    """Means of kernel x kernel patches. [side * side, H] -> [(side / kernel)^2, H]."""
    small = side // kernel
    return pack(x.reshape(small, kernel, small, kernel, -1).mean(axis=(1, 3)).reshape(small * small, -1), format)


@average_pool.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("avg_pool2d", call, machine)


@op
def join_tiles(x: Array, *, rows: int, format: str) -> Array:
    """The same as `to_torch` and back, on the devices: [..., n, H] -> [rows, H]."""
    del format
    flat = x.reshape(-1, x.shape[-1])
    return jnp.pad(flat, ((0, rows - flat.shape[0]), (0, 0)))


@join_tiles.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("concat", call, machine)


@op(like=0)
def put_rows(x: Array, rows: Array, places: Array, *, format: str) -> Array:
    """x [T, H] with rows [n, H] at `places` [n] (int32): an image's tokens in a prompt. Places past T are dropped."""
    del format
    return x.at[places].set(rows.astype(x.dtype), mode="drop")


@put_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return _retiled("concat", call, machine)


@op(like=0)
def add_rows(x: Array, rows: Array, places: Array, *, out_format: str) -> Array:
    """x [T, H] with rows [n, H] added at `places` [n]: deepstack. Places past T are dropped."""
    return pack(x.at[places].add(rows, mode="drop"), out_format)


@add_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [stream("add", 3 * tensor_bytes(rows, columns, call["out_format"]), machine.chip)]


def _retiled(name: str, call: OpCall, machine: Machine) -> list[Kernel]:
    """From tiles to rows, the work there, and back to tiles: the three pass the tensor through DRAM."""
    rows, columns = rows_and_columns(call.outputs[0])
    moved = 2 * tensor_bytes(rows, columns, call.attributes["format"])
    return [stream(step, moved, machine.chip) for step in ("untilize", name, "tilize")]
