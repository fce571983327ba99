"""An op call in words: what it computes, its shapes and its formats."""

from __future__ import annotations

import math
from typing import Any

import jax

from ttsim.kernels.kernel import Kernel
from ttsim.kernels.shapes import rows_and_columns, tiles
from ttsim.numerics.formats import TILE
from ttsim.ops.core import OpCall

_MATRIX = ("linear", "all_gather_matmul")


def matrix_shape(call: OpCall, kernel: Kernel) -> tuple[int, int, int] | None:
    """(M, K, N) of a matrix kernel in values, M padded to whole tiles; None if the kernel multiplies no weight.

    A kernel that computes a piece of the columns (the LM head) has an N of its own.
    """
    if call.name not in _MATRIX or not kernel.flops:
        return None
    x, w = (array_shape(value) for value in call.inputs[:2])
    rows, k, n = math.prod(x[:-1]), w[0], math.prod(w[1:])
    padded = tiles(rows) * TILE
    if call.attributes.get("columns"):
        n = min(n, round(float(kernel.flops) / (2 * k * padded)))
    return padded, k, n


def array_shape(value: Any) -> tuple[int, ...]:
    """Shape of an argument: an array, or a block-float array that stands for one."""
    return tuple(value.shape) if hasattr(value, "shape") else tuple(jax.tree.leaves(value)[0].shape)


def label_of(call: OpCall) -> str:
    """The op with what tells it from others of its kind: "linear ff2", "sdpa_decode"."""
    group = call.groups.get("weight_format")
    return f"{call.name} {group}" if group else call.name


def shape_of(call: OpCall, kernel: Kernel) -> str:
    """Shapes of one device in values: "32 x 4096 x 14336" (M x K x N), "32 x 4096".

    Attention: "32 x 16/4 heads of 128" (users x query heads/KV heads of their size).
    """
    matrix = matrix_shape(call, kernel)
    if matrix:
        return " x ".join(map(str, matrix))
    if call.name in ("sdpa_decode", "sdpa_prefill"):
        q, keys = (array_shape(value) for value in call.inputs[:2])
        users = f"{q[0]} x " if call.name == "sdpa_decode" and q[0] > 1 else ""
        heads = q[1] if call.name == "sdpa_decode" else q[0]
        return f"{users}{heads}/{keys[-3]} heads of {q[-1]}"
    source = call.inputs[1] if call.name in ("update_cache", "fill_cache") else call.inputs[0]
    if call.name == "embedding":
        rows, columns = math.prod(array_shape(source)), array_shape(call.inputs[1])[-1]
        return f"{rows} x {columns}"
    shape = array_shape(source)
    if len(shape) < 2:
        return " x ".join(map(str, shape))
    rows, columns = rows_and_columns(jax.ShapeDtypeStruct(shape, "float32"))
    return f"{rows} x {columns}"


def formats_of(call: OpCall) -> str:
    """Formats: "bf16 x bfp4 -> bf16" of a matrix product, "bfp8" of what has one format."""
    attributes = call.attributes
    if call.name in _MATRIX:
        in_format = attributes.get("in_format", "bf16")
        return f"{in_format} x {attributes['weight_format']} -> {attributes['out_format']}"
    if "kv_format" in attributes:
        return f"KV {attributes['kv_format']} -> {attributes['out_format']}"
    if "in_format" in attributes:
        return f"{attributes['in_format']} -> {attributes['out_format']}"
    return str(attributes.get("format") or attributes.get("out_format") or "")
