"""Routed experts: their matrix products, gates and weighted sum.

Axes in names: t tokens (rows), e experts, d hidden size, f width of an expert.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.matmul import DRAM_SHARDED_BANDWIDTH
from ttsim.kernels import experts as kernels
from ttsim.kernels import matmul
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import largest_divisor, rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import fidelity
from ttsim.numerics.conversion import dequantize
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, Weight, op, packed_once
from ttsim.ops.matrix import product_noise

SWIGLU_ALPHA = 1.702  # gpt-oss: the gate's sigmoid of 1.702 x is close to GELU


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
    if call["kernel"] == "streamed":  # moe_gpt: the weights of a chunk of 32 tokens from the DRAM banks; L1 unchecked
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


expert_bias.noise(packed_once)


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


expert_gate.noise(packed_once)


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


expert_sum.noise(packed_once)


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


sigmoid_scale.noise(packed_once)


@sigmoid_scale.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    return [kernels.on_experts(name, 1, rows, columns, 1, machine.chip) for name in ("sigmoid", "multiply")]
