"""Ops of models that see: the image tower, attention under a mask, gates. The host's work is in `host_vision`.

Attention here takes its mask as an argument: [rows, keys], zero where a row sees a key and very negative where it does
not. A row that sees nothing is the caller's to mask (`mask_rows`); its softmax is then uniform, never NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME, CONCAT_HEADS_TIME, RETILE_TIME
from ttsim.kernels import flash, links, matmul
from ttsim.kernels.activations import check_l1, small, stream, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.meshes.systems import Topology
from ttsim.numerics import attention as numeric
from ttsim.numerics import fidelity
from ttsim.numerics.conversion import dequantize
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, Weight, floats, op

MASKED = -65_504.0  # what a mask holds where a row does not see a key: the lowest float16, which no softmax survives
_QUERY_ROWS = 1024  # rows of queries that the simulator (not the device) computes at once

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@op(weights=(1, 2), like=0)
def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float, out_format: str) -> Array:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Args:
      x: [..., H]; weight, bias: [H]. eps: added to the variance. out_format: format of y.
    """
    row = (1,) * (x.ndim - 1) + (-1,)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    y = (x - mean) * jax.lax.rsqrt(variance + eps)
    return pack(y * weight.astype(jnp.float32).reshape(row) + bias.astype(jnp.float32).reshape(row), out_format)


@layer_norm.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream_rows("layer_norm", moved, rows, machine.chip)]


@op(weights=(1, 2))
def linear_bias(
    x: Array,
    w: Weight,
    bias: Array,
    *,
    weight_format: str,
    setting: str,
    out_format: str,
    activation: str = "none",
    in_format: str = "bf16",
    pass_rows: int | None = None,
) -> Array:
    """activation(x w + bias) in one kernel: the bias and the activation are fused into the product's last step.

    Args:
      x: [..., K]; w: [K, ...]; bias: axes that flatten to N.
      activation: "none", "gelu" (exact, by erf) or "gelu_tanh".
      weight_format, setting, in_format, out_format, pass_rows: see `linear`; the kernel is the 2-D multicast.

    Returns:
      [..., N] float32 on `out_format`'s grid.
    """
    del pass_rows
    w = dequantize(w)
    y = fidelity.matmul(x, w.reshape(w.shape[0], -1), setting, weight_format=weight_format, activation_format=in_format)
    return pack(_ACTIVATIONS[activation](y + bias.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))), out_format)


@linear_bias.shapes
def _(x: Array, w: Weight, bias: Array, **attributes: Any) -> jax.ShapeDtypeStruct:
    return floats(*x.shape[:-1], math.prod(w.shape[1:]))


@linear_bias.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, w = call.inputs[:2]
    rows, k = rows_and_columns(x)
    options = {"fmt": call["weight_format"], "out_format": call["out_format"], "setting": call["setting"]}
    options["in_format"] = call["in_format"]
    pass_rows = call["pass_rows"] or rows
    return [matmul.mcast_2d(rows, k, math.prod(w.shape[1:]), pass_rows=pass_rows, chip=machine.chip, **options)]


@op(like=0)
def sdpa(
    q: Array,
    keys: Array,
    values: Array,
    mask: Array | None,
    *,
    scale: float,
    setting: str,
    kv_format: str,
    out_format: str,
    mask_format: str = "bf16",
    chunk: int = 128,
) -> Array:
    """Flash attention under a mask: softmax(q K^T scale + mask) V.

    Args:
      q: [heads, S, d]; keys, values: [kv_heads, L, d], each shared by heads / kv_heads query heads.
      mask: [S, L], the same for all heads, or None: every row sees every key.
      scale: of the scores; heads that are padded to whole tiles keep that of their true size.
      setting: compute setting of both products. kv_format, out_format, mask_format: formats.
      chunk: rows of queries, and of keys, that a core computes at once.

    Returns:
      [heads, S, d].
    """
    del mask_format, chunk
    compute = get_setting(setting)
    heads, rows, head_dim = q.shape
    kv_heads = keys.shape[0]
    grouped = numeric.activations(q.reshape(kv_heads, heads // kv_heads, rows, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))

    def attend(block: tuple[Array, Array | None]) -> Array:
        q_block, mask_block = block
        scores = jnp.einsum("kgqd,ksd->kgqs", q_block, keys) * scale
        scores = scores if mask_block is None else scores + mask_block[None, None]
        return jnp.einsum("kgqs,ksd->kgqd", numeric.activations(numeric.softmax(scores, compute), compute), values)

    if rows <= _QUERY_ROWS:
        out = attend((grouped, mask))
    else:
        size = next(n for n in range(_QUERY_ROWS, 0, -1) if rows % n == 0)
        blocks = grouped.reshape(*grouped.shape[:2], -1, size, head_dim).transpose(2, 0, 1, 3, 4)
        masks = None if mask is None else mask.reshape(-1, size, mask.shape[-1])
        out = jax.lax.map(attend, (blocks, masks)).transpose(1, 2, 0, 3, 4)
    return pack(out.reshape(q.shape), out_format)


@sdpa.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    q, keys, _, mask = call.inputs
    heads, rows, head_dim = q.shape
    formats = {"fmt": call["kv_format"], "mask_format": mask and call["mask_format"]}
    options = {"chunk": call["chunk"], "setting": call["setting"], "chip": machine.chip, **formats}
    return [flash.flash_attention_masked(heads, keys.shape[0], rows, keys.shape[1], head_dim, **options)]


@op(caches=(1, 2), in_l1=True, like=0)
def sdpa_decode_masked(
    q: Array,
    keys: Array,
    values: Array,
    mask: Array,
    *,
    setting: str,
    kv_format: str,
    out_format: str,
    mask_format: str = "bf16",
) -> Array:
    """Flash decode under a mask, over the whole cache: what a new token sees of each user's images.

    Args:
      q: [B, heads, d]; keys, values: [B, kv_heads, L, d]; mask: [B, L]. The rest: see `sdpa`.

    Returns:
      [B, heads, d].
    """
    del mask_format
    compute = get_setting(setting)
    batch, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    grouped = numeric.activations(q.reshape(batch, kv_heads, heads // kv_heads, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))
    scores = jnp.einsum("bkgd,bksd->bkgs", grouped, keys) * head_dim**-0.5 + mask[:, None, None]
    weights = numeric.activations(numeric.softmax(scores, compute), compute)
    return pack(jnp.einsum("bkgs,bksd->bkgd", weights, values).reshape(q.shape), out_format)


@sdpa_decode_masked.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, heads, head_dim = call.inputs[0].shape
    kv_heads, length = call.inputs[1].shape[1:3]
    options = {"fmt": call["kv_format"], "setting": call["setting"], "chip": machine.chip}
    return [flash.flash_decode_masked(users, heads, kv_heads, length, head_dim, **options)]


@op
def split_heads(x: Array, *, heads: int, format: str) -> Array:
    """One projection of one user into heads: [S, heads * d] -> [heads, S, d]."""
    del format
    return x.reshape(x.shape[0], heads, -1).transpose(1, 0, 2)


@split_heads.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [stream_rows("create_heads", 2 * tensor_bytes(rows, columns, call["format"]), rows, machine.chip)]


@op(in_l1=True)
def split_heads_decode(x: Array, *, heads: int, format: str) -> Array:
    """The query projection of each user into heads: [B, heads * d] -> [B, heads, d]."""
    del format
    return x.reshape(x.shape[0], heads, -1)


@split_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    steps = ("create_heads", "untilize", "slice", "transpose", "tilize")
    return [small(name, RETILE_TIME) for name in steps]


@op(in_l1=True)
def join_heads_decode(x: Array, *, format: str) -> Array:
    """[B, heads, d] -> [B, heads * d], by way of rows."""
    del format
    return x.reshape(x.shape[0], -1)


@join_heads_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    steps = ("untilize", "transpose", "slice", "tilize", "concat_heads")
    return [small(name, CONCAT_HEADS_TIME) for name in steps]


@op(like=0)
def gather_sum(x: Array, *, axis: str, format: str, scattered: bool = False) -> Array:
    """Sums partial sums over the devices: all are gathered, then each device adds them up. Shape unchanged.

    Args:
      scattered: a reduce-scatter and an all-gather instead, which move 2 / devices of the bytes.
    """
    del scattered
    return pack(jax.lax.psum(x, axis), format)


@gather_sum.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor, devices = tensor_bytes(rows, columns, call["format"]), call.num_devices
    line = on_a_line(machine)
    if call["scattered"]:
        return [
            links.reduce_scatter(tensor, devices, "dram", line),
            links.all_gather(tensor, devices, "dram", line),
        ]
    return [
        links.all_gather(devices * tensor, devices, "dram", line),
        stream("fast_reduce_nc", (devices + 1) * tensor, machine.chip),
    ]


@op
def line_gather(x: Array, *, axis: str, format: str) -> Array:
    """Concatenates every device's columns, over one link of a line whatever the system's own collectives take."""
    del format
    whole: Array = jax.lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)
    return whole


@line_gather.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    gathered = call.num_devices * tensor_bytes(rows, columns, call["format"])
    return [links.all_gather(gathered, call.num_devices, "dram", on_a_line(machine))]


@op(weights=(1,), like=0)
def gate(x: Array, strength: Array, *, out_format: str, memory: Memory = "dram") -> Array:
    """x tanh(strength): strength [1] is a parameter of the model. `memory`: where x lies, "dram" or "l1"."""
    del memory
    return pack(x * jnp.tanh(strength.astype(jnp.float32)).reshape((1,) * x.ndim), out_format)


@gate.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("gate", rows, columns, "bf16", 2, machine.chip)
        return [small("tanh", ADD_TIME), small("mul", ADD_TIME)]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [small("tanh", ADD_TIME), stream("mul", moved, machine.chip)]


@op(like=0)
def mask_rows(x: Array, keep: Array, *, out_format: str, memory: Memory = "dram") -> Array:
    """Zeroes rows: x [rows, ...] times keep [rows], which is one or zero. `memory`: where x lies, "dram" or "l1"."""
    del memory
    return pack(x * keep.reshape(-1, *(1,) * (x.ndim - 1)), out_format)


@mask_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call["memory"] == "l1":
        check_l1("mask_rows", rows, columns, "bf16", 2, machine.chip)
        return [small("mul", ADD_TIME)]
    moved = tensor_bytes(rows, columns, "bf16") + tensor_bytes(rows, columns, call["out_format"])
    return [stream("mul", moved, machine.chip)]


def on_a_line(machine: Machine) -> Machine:
    """The machine as the vision code's collectives see it: a line with one link, whatever the text model has."""
    if machine.system.topology is Topology.SINGLE:
        return machine
    return dataclasses.replace(machine, system=dataclasses.replace(machine.system, topology=Topology.LINEAR, links=1))
