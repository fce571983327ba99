"""Ops that only move data: between shardings, memories and layouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.kernels import activations as tensix
from ttsim.kernels import matmul
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.ops.core import op


@op
def reshard(x, *, format, cores=None):
    """The same values in another sharding of L1."""
    del format, cores
    return x


@reshard.cost
def _(call, machine):
    return [tensix.small("reshard", 2.5e-6)] if machine.phase == "decode" else []


@op
def untilize(x, *, format):
    """From tiles to rows, as the host or a row-major op reads it."""
    del format
    return x


@untilize.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    moved = tensor_bytes(rows, columns, call["format"]) + tensor_bytes(rows, columns, "bf16")
    return [tensix.stream("untilize", moved, machine)]


@op
def take_rows(x, row, *, rows, format):
    """The tile of rows that contains `row`: rows [row // rows * rows, + rows) of x [S, ...]."""
    del format
    return jax.lax.dynamic_slice_in_dim(x, row // rows * rows, rows, axis=0)


@take_rows.cost
def _(call, machine):
    _, columns = rows_and_columns(call.inputs[0])
    return [tensix.stream("slice", 2 * tensor_bytes(call["rows"], columns, call["format"]), machine)]


@op
def select_users(x, *, axis, format):
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
def _(call, machine):
    # A product with a bfp4 selection matrix, then a cast to bf16 (tt_transformers tt/attention.py, TG branch).
    _, columns = rows_and_columns(call.inputs[0])
    return [
        matmul.mcast_1d(32, columns, fmt=call["format"], setting="lofi", machine=machine),
        tensix.small("sharded_to_interleaved", 3e-6),
    ]


@op
def select_rows(x, *, rows, format):
    """The first `rows` rows of what was gathered from all columns, by a selection matrix: drops the padding."""
    del format
    return x[:rows]


@select_rows.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    return [
        tensix.small("sharded_to_interleaved", 3e-6),
        matmul.mcast_1d(max(rows, 32), columns, fmt=call["format"], setting="lofi", machine=machine),
    ]


@op
def mesh_partition(x, *, axis, format):
    """This device's slice of the last axis of what all of them hold whole. [..., N] -> [..., N / devices]."""
    del format
    width = x.shape[-1] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * width, width, axis=x.ndim - 1)


@mesh_partition.cost
def _(call, machine):
    if machine.phase == "decode":
        return [tensix.small("mesh_partition", 3e-6)]
    rows, columns = rows_and_columns(call.outputs[0])
    return [tensix.stream("mesh_partition", 2 * tensor_bytes(rows, columns, call["format"]), machine)]


@op
def argmax(logits, *, ties="first"):
    """The index of the largest logit of each row, the first or the last one on a tie. [..., V] -> [...] int32."""
    if ties == "first":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return (logits.shape[-1] - 1 - jnp.argmax(logits[..., ::-1], axis=-1)).astype(jnp.int32)


@argmax.cost
def _(call, machine):
    rows, columns = rows_and_columns(call.inputs[0])
    return [tensix.stream("argmax", tensor_bytes(rows, columns, "bf16"), machine)]
