"""Routed experts: which experts a token runs through, their matrix products, and the exchange of tokens.

Axes in names: t tokens (rows), e experts, d hidden size, f width of an expert.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants import ADD_TIME, DRAM_SHARDED_BANDWIDTH
from ttsim.hardware.expert_constants import REDUCE_SLICE
from ttsim.kernels import experts as kernels
from ttsim.kernels import links, matmul
from ttsim.kernels.activations import small, stream, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import largest_divisor, rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import fidelity
from ttsim.numerics.formats import TILE, dequantize
from ttsim.numerics.noise import rounding
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, Weight, op
from ttsim.ops.matrix import product_noise

SWIGLU_ALPHA = 1.702  # gpt-oss: the gate's sigmoid of 1.702 x is close to GELU


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


@router_input.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


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


@scale_experts.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


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


@route.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["format"]).power)


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


@op(weights=(1,))
def expert_linear(
    x: Array,
    w_ekn: Weight,
    *,
    kernel: str,
    active: int,
    weight_format: str,
    setting: str,
    out_format: str,
    memory: Memory,
    in_format: str = "bf16",
    inferred: bool = False,
    block: int = 1,
) -> Array:
    """y[e, t, n] = sum_k x[(e,) t, k] w[e, k, n]: every local expert's product.

    Args:
      x: [T, K] the same rows for every expert, or [E, T, K] rows of each.
      w_ekn: [E, K, N] weights of this device's experts (array or BlockArray).
      kernel: "sparse" (`ttnn.sparse_matmul`, which skips experts that nothing is routed to), "dense" (one matmul a
        local expert, over all rows, whatever is routed), "streamed" (`moe_gpt`: an expert's weights are read once for
        each chunk of 32 rows that has it).
      active: blocks of 32 rows x expert that the device computes (sparse, streamed).
      memory: where the activations lie, "l1" or "dram". inferred: whether the sparse kernel finds the active experts
        itself. block: tiles of K in one block of the sparse kernel.
      weight_format, setting, out_format, in_format: see `linear`.

    Returns:
      [E, T, N] float32 on `out_format`'s grid, also where the device's sparse kernel leaves memory as it was: those
      rows have weight 0.
    """
    del kernel, active, memory, inferred, block  # they decide the time, not the result

    def one(rows: Array, w: Weight) -> Array:
        return fidelity.matmul(
            rows, w, setting, weight_format=weight_format, activation_format=in_format, out_format=out_format
        )

    return jax.vmap(one, in_axes=(0 if x.ndim == 3 else None, 0))(x, dequantize(w_ekn))


@expert_linear.noise
def _(call: OpCall) -> OpNoise:  # independent in each expert, so relatively the same in their sum
    return product_noise(call, results=1)


@expert_linear.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, w = call.inputs
    rows, (experts, k, n) = x.shape[-2], w.shape
    fmt, setting = call["weight_format"], call["setting"]
    if call["kernel"] == "sparse":
        wide = x.ndim == 2
        streamed = call["memory"] == "dram"  # prefill runs the reader per 32 rows and expert
        options = {"fmt": fmt, "setting": setting, "inferred": call["inferred"], "chip": machine.chip}
        options |= {"active": call["active"], "wide": wide, "block": call["block"], "streamed": streamed}
        return [kernels.sparse_matmul(experts, k, n, **options), *kernels.layout_changes(3)]
    if call["kernel"] == "streamed":  # moe_gpt: the weights of a chunk of 32 tokens from the DRAM banks
        moved = call["active"] * tensor_bytes(k, n, fmt)
        limits = {"dram": moved / DRAM_SHARDED_BANDWIDTH}
        return [Kernel("moe_gpt (part)", limits=limits, bytes=moved, cores=12, source="tt-metal PR #38443")]
    if call["memory"] == "l1":
        cores = largest_divisor(tiles(k), 8)
        one = matmul.dram_sharded(k, n, fmt=fmt, setting=setting, cores=cores, chip=machine.chip)
        return [one] * (experts * -(-rows // TILE))
    options = {"fmt": fmt, "in_format": call["in_format"], "out_format": call["out_format"], "setting": setting}
    return [matmul.mcast_2d(rows, k, n, pass_rows=512, chip=machine.chip, **options)] * experts


@op(weights=(1,))
def expert_bias(y_etn: Array, bias_en: Array, *, axis: str | None = None, out_format: str) -> Array:
    """y[e, t] + bias[e]. `axis`: the sum over this mesh axis follows, so that only its first device adds the bias."""
    if axis is not None:
        bias_en = jnp.where(jax.lax.axis_index(axis) == 0, bias_en, 0)
    return pack(y_etn + bias_en[:, None].astype(jnp.float32), out_format)


@expert_bias.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


@expert_bias.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    experts, rows, columns = call.inputs[0].shape
    return [kernels.on_experts("add", experts, rows, columns, 1, machine.chip)]


@op(like=0)
def expert_gate(gate: Array, up: Array, *, activation: str, clamp: float | None = None, out_format: str) -> Array:
    """act(gate) * up; with a clamp (gpt-oss) (up + 1) * g * sigmoid(1.702 g), g = min(gate, clamp), |up| <= clamp.

    Args:
      gate, up: [E, T, F]. activation: "silu" or "gelu_tanh", of experts without a clamp.
    """
    if clamp is None:
        act = jax.nn.silu(gate) if activation == "silu" else jax.nn.gelu(gate, approximate=True)
        return pack(act * up, out_format)
    gate, up = jnp.minimum(gate, clamp), jnp.clip(up, -clamp, clamp)
    return pack((up + 1) * gate * jax.nn.sigmoid(SWIGLU_ALPHA * gate), out_format)


@expert_gate.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


@expert_gate.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    experts, rows, columns = call.inputs[0].shape
    clamped = ("clamp", "clamp", "multiply", "sigmoid", "multiply", "add", "multiply")
    names = ("multiply",) if call["clamp"] is None else clamped
    return [kernels.on_experts(name, experts, rows, columns, 2, machine.chip) for name in names]


@op
def expert_sum(y_etd: Array, weights_te: Array, *, out_format: str) -> Array:
    """sum_e weights[t, e] y[e, t]: the local experts' share of a token's output. -> [T, D]."""
    products = jnp.where(weights_te.T[..., None] == 0, 0, y_etd * weights_te.T[..., None])
    return pack(products.sum(axis=0), out_format)


@expert_sum.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


@expert_sum.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    experts, rows, columns = call.inputs[0].shape
    return [
        kernels.on_experts("multiply", experts, rows, columns, 1, machine.chip),
        kernels.on_experts("fast_reduce_nc", experts, rows, columns, 1, machine.chip),
    ]


@op
def sigmoid_scale(y_td: Array, logit_t1: Array, *, out_format: str) -> Array:
    """sigmoid(logit) * y: the gate of a shared expert. [T, D], [T, 1] -> [T, D]."""
    return pack(jax.nn.sigmoid(logit_t1) * y_td, out_format)


@sigmoid_scale.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["out_format"]).power)


@sigmoid_scale.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [kernels.on_experts(name, 1, rows, columns, 1, machine.chip) for name in ("sigmoid", "multiply")]


@op
def dispatch(x: Array, *, axis: str, active: int, fused: bool, format: str) -> Array:
    """Every device's rows, as the experts of each need them. [T, ...] -> [devices T, ...].

    The device sends a row only to where one of its experts lives (`all_to_all_dispatch`); the others would meet
    weights of 0, so that the result is that of sending all.

    Args:
      axis: mesh axis of the exchange. active: experts of a row, which bound the copies that travel. fused: for
        `moe_gpt`.
    """
    del active, fused, format
    everyone: Array = jax.lax.all_gather(x, axis, axis=0, tiled=True)
    return everyone


@dispatch.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if call.num_devices == 1:
        return []
    options = {"fused": call["fused"], "links": machine.system.links}
    return [kernels.exchange("all_to_all_dispatch", rows, columns, call["active"], call.num_devices, **options)]


@op
def combine(y: Array, *, axis: str, active: int, fused: bool, format: str) -> Array:
    """The sums of what all devices' experts made of this device's rows. [devices T, D] -> [T, D]."""
    del active, fused
    return pack(jax.lax.psum_scatter(y, axis, scatter_dimension=0, tiled=True), format)


@combine.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["format"]).power)


@combine.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    if call.num_devices == 1:
        return []
    name = "selective_reduce_combine" if call["fused"] else "all_to_all_combine"
    options = {"fused": call["fused"], "links": machine.system.links}
    return [kernels.exchange(name, rows, columns, call["active"], call.num_devices, **options)]


@op
def all_reduce_residual(x: Array, *, axis: str, format: str, memory: Memory) -> Array:
    """Sums over the devices, each of which gets the whole sum: the end of a branch beside a replicated residual stream.

    Args:
      x: [T, D] partial sums. axis: mesh axis. format: of what travels and of the result. memory: "l1" or "dram".
    """
    del memory
    return pack(jax.lax.psum(x, axis), format)


@all_reduce_residual.noise
def _(call: OpCall) -> OpNoise:
    return OpNoise(rounding(call["format"]).power)


@all_reduce_residual.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor, devices = tensor_bytes(rows, columns, call["format"]), call.num_devices
    where = call["memory"], machine
    if columns % (TILE * devices) == 0:
        return [links.reduce_scatter(tensor, devices, *where), links.all_gather(tensor, devices, *where)]
    # Shards that are no whole tiles: every device gathers whole rows and sums them.
    parts = [links.all_gather(devices * tensor, devices, *where)]
    if rows % TILE:
        parts.append(kernels.fill_pad(machine.chip))
    return [*parts, Kernel("fast_reduce_nc, slice", start=1 * REDUCE_SLICE, source="tt-mlir #7718")]
