"""A call of an op and one of its kernels in words: shapes and formats. What an op alone knows stands with the op."""

from __future__ import annotations

import math

from ttsim.kernels.kernel import Kernel
from ttsim.kernels.shapes import tiles
from ttsim.numerics.formats import TILE
from ttsim.ops.core import OpCall, array_shape


def matrix_shape(call: OpCall, kernel: Kernel) -> tuple[int, int, int] | None:
    """(M, K, N) of a matrix kernel in values, M padded to whole tiles; None if the kernel multiplies no weight.

    A kernel that computes a piece of the columns (the LM head) has an N of its own.
    """
    if "weight_format" not in call.attributes or not kernel.flops:
        return None
    x, w = (array_shape(value) for value in call.inputs[:2])
    rows, k, n = math.prod(x[:-1]), w[0], math.prod(w[1:])
    padded = tiles(rows) * TILE
    if call.attributes.get("columns"):
        n = min(n, round(float(kernel.flops) / (2 * k * padded)))
    return padded, k, n


def shape_of(call: OpCall, kernel: Kernel) -> str:
    """Shapes of one device in values: "32 x 4096 x 14336" (M x K x N) of a matrix kernel, else the op's own words."""
    matrix = matrix_shape(call, kernel)
    return " x ".join(map(str, matrix)) if matrix else call.shape()


def in_l1(call: OpCall) -> bool:
    """Whether an op's activations lie in L1: it says so, or its kernel works on nothing else."""
    if "memory" in call.attributes:
        return bool(call["memory"] == "l1")
    return call.op.in_l1 or bool(call.attributes.get("kernel") in ("dram_sharded", "ring", "mcast_1d"))


def formats_of(call: OpCall) -> str:
    """Formats: "bf16 x bfp4 -> bf16" of a matrix product, "bfp8" of what has one format."""
    attributes = call.attributes
    if "weight_format" in attributes:
        return f"{attributes['in_format']} x {attributes['weight_format']} -> {attributes['out_format']}"
    if "kv_format" in attributes:
        return f"KV {attributes['kv_format']} -> {attributes['out_format']}"
    if "in_format" in attributes:
        return f"{attributes['in_format']} -> {attributes['out_format']}"
    return str(attributes.get("format") or attributes.get("out_format") or "")
