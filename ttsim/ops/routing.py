"""Which experts a token runs through, and with what weight.

Axes in names: t tokens (rows), e experts, d hidden size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME
from ttsim.kernels import experts as kernels
from ttsim.kernels import matmul
from ttsim.kernels.activations import small, stream, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics import fidelity
from ttsim.numerics.conversion import dequantize
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, Weight, op, packed_once
from ttsim.ops.matrix import product_noise


@op(weights=(1,))
def router_linear(
    x: Array, w_de: Weight, *, weight_format: str, setting: str, in_format: str, out_format: str, memory: Memory
) -> Array:
    """The router's logits, every expert on every chip. [T, D], [D, E] -> [T, E].

    `memory`: where x lies, "l1" (one row of tiles) or "dram".
    """
    del memory
    return fidelity.matmul(
        x,
        dequantize(w_de),
        setting,
        weight_format=weight_format,
        activation_format=in_format,
        out_format=out_format,
    )


@router_linear.noise
def _(call: OpCall) -> OpNoise:  # on logits of unit spread: as much on each weight
    return product_noise(call, results=1)


@router_linear.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, k = rows_and_columns(call.inputs[0])
    n, fmt, setting = call.inputs[1].shape[1], call["weight_format"], call["setting"]
    if call["memory"] == "l1":
        return [matmul.mcast_1d(k, n, fmt=fmt, setting=setting, chip=machine.chip)]
    options = {"fmt": fmt, "in_format": call["in_format"], "out_format": call["out_format"], "setting": setting}
    return [matmul.mcast_2d(rows, k, n, pass_rows=rows, chip=machine.chip, **options)]


@op(weights=(1,))
def router_input(x: Array, scale_d: Array, *, eps: float, factor: float, out_format: str, memory: Memory) -> Array:
    """x / sqrt(mean(x^2) + eps) * scale * factor: what Gemma-4's router reads of the residual stream. [T, D]."""
    del memory
    y = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)
    return pack(y * scale_d[None].astype(jnp.float32) * factor, out_format)


router_input.noise(packed_once)


@router_input.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    moved = 2 * tensor_bytes(rows, columns, "bf16")
    norm = stream_rows("rms_norm", moved, rows, machine.chip)
    if call["memory"] == "l1":
        return [norm, small("multiply", ADD_TIME), small("multiply", ADD_TIME)]
    return [norm, stream("multiply", moved, machine.chip), stream("multiply", moved, machine.chip)]


@op(weights=(1,))
def scale_experts(weights_te: Array, scale_e: Array, *, out_format: str) -> Array:
    """The routing weights times a learned scale of each expert. [T, E], [E] -> [T, E]."""
    return pack(weights_te * scale_e[None].astype(jnp.float32), out_format)


scale_experts.noise(packed_once)


@scale_experts.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("multiply", ADD_TIME)]


@op(weights=(1,), like=0)
def route(
    logits_te: Array,
    selection_bias_e: Array | None,
    *,
    active: int,
    scoring: str,
    renormalise: bool = True,
    scale: float = 1.0,
    groups: int = 1,
    active_groups: int = 1,
    format: str = "bf16",
    fused: bool = False,
) -> Array:
    """The weight of every expert for every token, 0 for those that aren't chosen.

        softmax         p = softmax(logits); the `active` largest p, divided by their sum if `renormalise`
        softmax_chosen  softmax over the `active` largest logits
        sigmoid         s = sigmoid(logits); the `active` largest s + bias among the groups kept; weights are s itself

    Args:
      logits_te: [T, E].
      selection_bias_e: [E], added for the choice only (sigmoid); None for none.
      active: experts a token runs through.
      scoring, renormalise, scale: how weights are made; `scale` multiplies them last.
      groups, active_groups: experts are eligible in the `active_groups` groups with the largest sums of their two
        best s + bias; the others are masked with -inf (0 would choose wrong once a biased score is negative).
      format: format of the weights. fused: whether one op makes them, router matmul included.

    Returns:
      [T, E] float32. Of equal scores the lower index is chosen.

    Source: transformers modeling_{mixtral,qwen3_moe,gpt_oss,deepseek_v3}.py.
    """
    del fused
    experts = logits_te.shape[-1]
    if scoring == "softmax_chosen":
        chosen, index = jax.lax.top_k(logits_te, active)
        weights = jax.nn.softmax(chosen, axis=-1)
    else:
        scores = jax.nn.softmax(logits_te, axis=-1) if scoring == "softmax" else jax.nn.sigmoid(logits_te)
        eligible = scores if selection_bias_e is None else scores + selection_bias_e[None]
        if groups > 1:
            grouped = eligible.reshape(-1, groups, experts // groups)
            best = jax.lax.top_k(grouped, 2)[0].sum(axis=-1)
            kept = _one_hot(jax.lax.top_k(best, active_groups)[1], groups).any(axis=-2)
            eligible = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(eligible.shape)
        index = jax.lax.top_k(eligible, active)[1]
        weights = jnp.take_along_axis(scores, index, axis=-1)
        if renormalise:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
    weights = weights * scale
    return pack(jnp.einsum("tk,tke->te", weights, _one_hot(index, experts).astype(weights.dtype)), format)


route.noise(packed_once)


@route.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, experts = call.inputs[0].shape
    return kernels.route(rows, experts, call["scoring"], call["fused"], machine.chip)


def _one_hot(index: Array, count: int) -> Array:
    return jax.nn.one_hot(index, count, dtype=bool)


@op
def local_experts(weights_te: Array, *, axes: tuple[str, ...], format: str) -> Array:
    """This device's columns of the routing weights: experts are cut over `axes`, the first the major one.

    [T, E] -> [T, E / devices].
    """
    del format
    devices, index = 1, jnp.int32(0)
    for axis in axes:
        size = jax.lax.axis_size(axis)
        devices, index = devices * size, index * size + jax.lax.axis_index(axis)
    if devices == 1:
        return weights_te
    local = weights_te.shape[-1] // devices
    return jax.lax.dynamic_slice_in_dim(weights_te, index * local, local, axis=1)


@local_experts.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    if all(call.axis_sizes[axis] == 1 for axis in call["axes"]):
        return []
    return [small("moe_routing_remap", ADD_TIME)]
