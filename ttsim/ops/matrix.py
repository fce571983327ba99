"""Matrix products, and the embedding lookups that replace one."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import EMBEDDING_BANDWIDTH, LOGITS_MOVE_COLUMN_TIME
from ttsim.hardware.constants.matmul import INTERLEAVED_BANDWIDTH
from ttsim.kernels import galaxy, links, matmul
from ttsim.kernels.activations import fixed, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import largest_divisor, rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import fidelity, switches
from ttsim.numerics.conversion import dequantize, round_to
from ttsim.numerics.formats import TILE
from ttsim.numerics.noise import destination_roundings, packing, rounding
from ttsim.numerics.noise import fidelity as fidelity_noise
from ttsim.ops.core import Array, OpCall, OpNoise, Weight, array_shape, floats, op

_GRID_ROWS = 8  # of the 2-D kernels' grid on Wormhole
KERNELS = ("dram_sharded", "ring", "mcast_1d", "mcast_2d")


@op(weights=(1,))
def linear(
    x: Array,
    w: Weight,
    *,
    kernel: str,
    weight_format: str,
    setting: str,
    out_format: str,
    in_format: str = "bf16",
    cores: int | None = None,
    pass_rows: int | None = None,
    columns: int | None = None,
    block: int | None = None,
    tuned: bool = False,
) -> Array:
    """y[..., n] = sum_k x[..., k] w[k, n], as the matrix engine computes it.

    Args:
      x: [..., K] activations on `in_format`'s grid.
      w: [K, ...] weight on `weight_format`'s grid (array or BlockArray); trailing axes are flattened to N.
      kernel: "dram_sharded" (decode: 12 workers, one per DRAM bank), "ring" (decode behind a prefetcher), "mcast_1d"
        (one row of tiles, interleaved weights) or "mcast_2d" (prefill: blocks of rows x columns on the whole grid).
      weight_format, in_format, out_format: formats of w, x and y.
      setting: compute setting (`ttsim.numerics.fidelity.SETTINGS`).
      cores: cores that hold x (dram_sharded; by default the most that divide K's tiles) or that compute (mcast_1d,
        ring).
      pass_rows: rows of one pass over the weights (mcast_2d); longer inputs are folded.
      columns: widest piece that one kernel computes; wider weights are cut into pieces (the LM head).
      block: most tiles of K in one block (mcast_1d; see `ttsim.kernels.matmul`). tuned: whether the model configures
        the program itself (mcast_2d).

    Returns:
      [..., N] float32 on `out_format`'s grid.
    """
    if kernel not in KERNELS:
        raise ValueError(f"linear: kernel must be {', '.join(map(repr, KERNELS))}, not {kernel!r}")
    del pass_rows, columns, block, tuned  # they decide the time, not the result
    # Rows of a prompt that name decode's cores compute decode's numbers.
    spills = switches.current().spills == "bf16" and (kernel == "dram_sharded" or cores is not None)
    w = dequantize(w)
    return fidelity.matmul(
        x,
        w.reshape(w.shape[0], -1),
        setting,
        weight_format=weight_format,
        activation_format=in_format,
        out_format=out_format,
        registers=switches.current().registers,
        k_block=_k_block(w.shape[0], cores or _GRID_ROWS),
        bf16_spills=spills,
    )


@linear.shapes
def _(x: Array, w: Weight, **attributes: Any) -> jax.ShapeDtypeStruct:
    return floats(*x.shape[:-1], math.prod(w.shape[1:]))


@linear.noise
def _(call: OpCall) -> OpNoise:
    return product_noise(call, results=3 if len(array_shape(call.inputs[1])) > 2 else 1)


def _k_block(k: int, cores: int) -> int:
    """Values of K in one block of the kernel: the most tiles, at most 8, that divide a core's share of K.

    Source: tt_transformers model_config.py, `find_largest_divisor(k // (tile * cores))`; 2-D kernels count the grid's
    rows.
    """
    return TILE * largest_divisor(max(tiles(k) // cores, 1), matmul.MAX_BLOCK)


@linear.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, w = call.inputs
    rows, k = rows_and_columns(x)
    n = math.prod(w.shape[1:])
    fmt, setting, chip = call["weight_format"], call["setting"], machine.chip
    options = {"fmt": fmt, "in_format": call["in_format"], "out_format": call["out_format"], "setting": setting}
    if call["kernel"] == "mcast_2d":
        minimal = machine.software.fact("minimal_matmul") == "yes" and call.groups.get("weight_format") in (
            "wqkv",
            "ff2",
        )
        config: matmul.Config = "tuned" if call["tuned"] else "minimal" if minimal else "default"
        throttle = machine.software.fact("throttled_matmul")
        passes = {"pass_rows": call["pass_rows"] or rows, "config": config, "throttle": throttle}
        return [matmul.mcast_2d(rows, k, n, chip=chip, **passes, **options)]
    matmul.check_one_tile(call["kernel"], rows)
    if call["kernel"] == "mcast_1d":
        return [matmul.mcast_1d(k, n, fmt=fmt, setting=setting, chip=chip, block=call["block"])]
    cores = call["cores"] or largest_divisor(tiles(k), chip.cores)
    if call["kernel"] == "ring":
        return [matmul.ring(k, n, fmt=fmt, setting=setting, cores=cores, chip=chip)]
    columns, readers = call["columns"], machine.software.readers_per_bank
    if columns is None:
        return [matmul.dram_sharded(k, n, cores=cores, chip=chip, readers=readers, **options)]
    kernels = []
    for first in range(0, n, columns):
        piece = min(columns, n - first)
        kernels += [
            matmul.dram_sharded(k, piece, cores=cores, chip=chip, readers=readers, **options),
            fixed("sharded_to_interleaved", piece * LOGITS_MOVE_COLUMN_TIME, cores=63),
        ]
    return kernels


@linear.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, k = rows_and_columns(call.inputs[0])
    n = math.prod(call.inputs[1].shape[1:])
    setting, fmt, group = call["setting"], call["weight_format"], call.groups.get("weight_format", "")
    if call["kernel"] == "dram_sharded":
        return [galaxy.lm_head(k, n, fmt, machine)]
    mlp_weights = machine.software.fact("mlp_weights")
    if "ff" in group and mlp_weights != "preset":
        setting, fmt = "hifi2", mlp_weights
    if rows <= TILE:
        return [galaxy.ring_matmul(k, n, setting, fmt, machine, beside=group == "ff1_3")]
    return [galaxy.prefill_matmul(rows, k, n, setting, fmt, machine)]


@op(weights=(1,), in_l1=True)
def all_gather_matmul(
    x: Array,
    w: Weight,
    *,
    axis: str,
    weight_format: str,
    setting: str,
    out_format: str,
    in_format: str = "bf16",
    cores: int = 8,
) -> Array:
    """all_gather(x, axis) @ w in one kernel: y[..., n] = sum over the whole K of x[..., k] w[k, n].

    Args:
      x: [..., K / devices] this device's slice; w: [K, N / devices].
      axis: mesh axis that is gathered.
      weight_format, in_format, out_format, setting, cores: see `linear`.

    Returns:
      [..., N / devices] float32 on `out_format`'s grid: no reduction is needed after it.
    """
    x = jax.lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)
    return fidelity.matmul(
        x,
        dequantize(w),
        setting,
        weight_format=weight_format,
        activation_format=in_format,
        out_format=out_format,
        registers=switches.current().registers,
        k_block=_k_block(w.shape[0], cores),
    )


@all_gather_matmul.shapes
def _(x: Array, w: Weight, **attributes: Any) -> jax.ShapeDtypeStruct:
    return floats(*x.shape[:-1], w.shape[1])


@all_gather_matmul.noise
def _(call: OpCall) -> OpNoise:
    return product_noise(call, results=3 if len(array_shape(call.inputs[1])) > 2 else 1)


@all_gather_matmul.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, w = call.inputs
    rows, k = rows_and_columns(x)
    (k_all, n), devices, cores = w.shape, call.num_devices, call["cores"]
    matmul.check_one_tile("all_gather_matmul", rows)
    gathered = tensor_bytes(rows, k * devices, call["in_format"])
    gather = links.all_gather(gathered, devices, "l1", machine)
    weight = tensor_bytes(k_all, n, call["weight_format"])
    products = tiles(k_all) * -(-tiles(n) // cores)
    return [
        Kernel(
            "all_gather_matmul",
            start=gather.start + gather.limits["link"],
            limits={
                "dram": weight / INTERLEAVED_BANDWIDTH,
                "compute": products * matmul.tile_math(call["setting"], machine.chip),
            },
            bytes=weight,
            flops=2 * TILE * k_all * n,
            cores=cores,
            fidelity=matmul.fidelity_name(call["setting"]),
            source="ttnn operations/experimental/ccl/all_gather_matmul: the matmul starts as shards arrive",
        )
    ]


@op(weights=(1,))
def embedding(tokens: Array, table: Array, *, out_format: str) -> Array:
    """Row lookup: y[i] = table[tokens[i]].

    Args:
      tokens: [...] int32. table: [vocabulary, H] in DRAM, row-major.
      out_format: format of the result.

    Returns:
      [..., H] float32.
    """
    return round_to(jnp.take(table, tokens, axis=0).astype(jnp.float32), out_format)


@embedding.shapes
def _(tokens: Array, table: Array, **attributes: Any) -> jax.ShapeDtypeStruct:
    return floats(*tokens.shape, table.shape[-1])


@embedding.describe
def _(call: OpCall) -> str:
    return f"{math.prod(call.inputs[0].shape)} x {call.inputs[1].shape[-1]}"


@embedding.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows = math.prod(call.inputs[0].shape)
    moved = tensor_bytes(rows, call.inputs[1].shape[-1], call["out_format"])
    return [stream_rows("embedding", moved, rows, machine.chip, rate=EMBEDDING_BANDWIDTH)]


@embedding.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [galaxy.target("embedding", "embedding")]


def product_noise(call: OpCall, results: int) -> OpNoise:
    """Noise of a product: its weights' format, its fidelity, its result's rounding, once for each result.

    A weight of several projections side by side (Q, K and V in the trailing axes) makes results that enter the model
    by ways of their own.
    """
    weight_format, setting = call["weight_format"], call["setting"]
    power = rounding(weight_format).power + fidelity_noise(setting, weight_format).power
    return OpNoise(results * (power + packing(call["out_format"]).power), destination_roundings(setting))
