"""Root-mean-square normalisation, on one device and distributed over a mesh axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import (
    NORM_BANDWIDTH,
    NORM_HALF_TIME,
    NORM_SHARD_TIME,
    NORM_TILE_TIME,
    NORM_TIME,
    TO_INTERLEAVED_TIME,
)
from ttsim.hardware.constants.galaxy import GALAXY_COLLECTIVE_START, GALAXY_TARGETS
from ttsim.kernels import galaxy
from ttsim.kernels.activations import check_l1, small, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import switches
from ttsim.numerics.fidelity import MathFidelity, mask_activations
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, floats, op


@op(weights=(1,), like=0)
def rms_norm(
    x: Array, weight: Array | None, *, eps: float, out_format: str, memory: Memory = "dram", cores: int | None = None
) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis.

    Args:
      x: [..., H]; weight: [H], or None for a norm without one.
      eps: added to the mean square.
      out_format: format of y.
      memory: "l1": one row of tiles, width-sharded over `cores`; "dram": interleaved, a core per row of tiles.
      cores: of the sharding in L1.

    Returns:
      [..., H] float32.
    """
    del memory, cores
    return _normalise(x, _mean_square(x, out_format), weight, eps, out_format)


@rms_norm.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("rms_norm", rows, columns, "bf16", 3, machine.chip)
        cores = call["cores"] or machine.chip.cores
        return [small("rms_norm (sharded)", NORM_TIME + tiles(columns) / cores * NORM_TILE_TIME, cores=cores)]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream_rows("rms_norm", moved, rows, machine.chip)]


@op
def center(x: Array, *, axis: str | None = None, out_format: str, memory: Memory = "dram") -> Array:
    """x - mean(x) over the last axis: what a layer norm does before it is an RMS norm.

    Args:
      x: [..., H], or this device's slice of it.
      axis: mesh axis over which H is cut, or None.
      out_format, memory: see `rms_norm`.
    """
    del memory
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return pack(x - (mean if axis is None else jax.lax.pmean(mean, axis)), out_format)


@center.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        return [small("center", 1 * NORM_HALF_TIME)]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream_rows("center", moved, rows, machine.chip)]


@op
def rms_norm_stats(x: Array, *, out_format: str, memory: Memory = "dram", cores: int | None = None) -> Array:
    """The local part of a distributed norm: mean(x^2) over this device's slice of the hidden size.

    Args:
      x: [..., H / devices].
      out_format, memory, cores: see `rms_norm`.

    Returns:
      [..., 1] float32. (The device writes a tile column of 32.)
    """
    del memory, cores
    return pack(_mean_square(x, out_format), out_format)


@rms_norm_stats.shapes
def _(x: Array, **attributes: Any) -> jax.ShapeDtypeStruct:
    return floats(*x.shape[:-1], 1)


@rms_norm_stats.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":  # a Galaxy keeps the residual stream interleaved; half a norm each here and below
        check_l1("rms_norm_stats", rows, columns, "bf16", 2, machine.chip)
        return [
            small("interleaved_to_sharded", NORM_SHARD_TIME),
            small("rms_norm_pre_all_gather", NORM_HALF_TIME),
        ]
    moved = tensor_bytes(rows, columns, "bf16")
    return [stream_rows("rms_norm_pre_all_gather", moved, rows, machine.chip, rate=NORM_BANDWIDTH)]


@rms_norm_stats.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # part of rms_norm_apply's kernel


@op(weights=(2,), like=0)
def rms_norm_apply(
    x: Array,
    stats: Array,
    weight: Array,
    *,
    axis: str,
    eps: float,
    out_format: str,
    memory: Memory = "dram",
    cores: int | None = None,
) -> Array:
    """The second part of a distributed norm: normalise with every device's statistics.

    Args:
      x: [..., H / devices]; stats: [..., devices] gathered mean squares; weight: [H / devices], or [H], of which
        this device takes its slice.
      axis: mesh axis of the hidden size.
      eps, out_format, memory, cores: see `rms_norm`.

    Returns:
      [..., H / devices] float32.
    """
    del memory, cores
    width = x.shape[-1]
    if weight.shape[0] != width:
        weight = jax.lax.dynamic_slice_in_dim(weight, jax.lax.axis_index(axis) * width, width)
    mean_square = jnp.mean(stats, axis=-1, keepdims=True)
    return _normalise(x, mean_square, weight, eps, out_format)


@rms_norm_apply.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("rms_norm_apply", rows, columns, "bf16", 3, machine.chip)
        return [
            small("rms_norm_post_all_gather", NORM_HALF_TIME),
            small("sharded_to_interleaved", TO_INTERLEAVED_TIME),
        ]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream_rows("rms_norm_post_all_gather", moved, rows, machine.chip, rate=NORM_BANDWIDTH)]


@rms_norm_apply.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, _ = rows_and_columns(call.inputs[0])
    if rows > TILE:
        return galaxy.small("rms_norm (distributed)", rows, machine)
    return [Kernel("RMSAllGather", start=GALAXY_TARGETS["norm"] + GALAXY_COLLECTIVE_START, source=galaxy.SOURCE)]


# Of every norm, whatever the model's precision: tt-metal models/common/rmsnorm.py, `compute_kernel_config_hifi2`.
_FIDELITY = MathFidelity.HIFI2


def _as_the_kernel(out_format: str) -> bool:
    return out_format != "fp32" and switches.current().norms


def _second(x: Array, out_format: str) -> Array:
    """What the second operand of a product contributes in the norms' fidelity: 6 fraction bits."""
    return mask_activations(x, _FIDELITY) if _as_the_kernel(out_format) else x


def _normalise(x: Array, mean_square: Array, weight: Array | None, eps: float, out_format: str) -> Array:
    """x / sqrt(mean_square + eps) * weight; the kernel keeps the root and the first product as bf16 tiles.

    Equal to ttnn 0.81.1's norm without a weight in all bits (tests/numerics/test_device_operations.py).
    """
    scale, row = jax.lax.rsqrt(mean_square + eps), None if weight is None else _row(weight, x)
    if not _as_the_kernel(out_format):
        y = x * scale
        return pack(y if row is None else y * row, out_format)
    y = pack(x * _second(pack(scale, "bf16"), out_format), "bf16")
    return pack(y if row is None else y * _second(row, out_format), out_format)


def _mean_square(x: Array, out_format: str) -> Array:
    """mean(x^2) over the last axis, [..., 1].

    A matmul with ones: XLA's CPU reduction sums fewer than 8 rows in another order than more of them, and a user's
    tokens would depend on the batch. (Eight columns, since one would be a matrix-vector product.)
    """
    ones = jnp.ones((x.shape[-1], 8), x.dtype)
    return jnp.matmul(x * _second(x, out_format), ones, precision=jax.lax.Precision.HIGHEST)[..., :1] / x.shape[-1]


def _row(weight: Array, x: Array) -> Array:
    """The weight as a row that multiplies every row of x."""
    return weight.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
