"""Gated delta nets: a causal convolution and a recurrent state in place of keys and values.

Axes in names: b users, t tokens, n value heads, k size of a key, v size of a value, c channels of the convolution, w
its taps. The state S [k, v] of a head is kept in float32.

    S <- exp(decay) S;   e = beta (v - k^T S);   S <- S + k e^T;   o = q^T S

Source: transformers modeling_qwen3_5.py (`torch_recurrent_gated_delta_rule`); arXiv:2412.06464.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME
from ttsim.kernels import delta, matmul
from ttsim.kernels.activations import small, stream, stream_rows
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes
from ttsim.numerics import fidelity
from ttsim.numerics.conversion import dequantize
from ttsim.numerics.formats import get_format
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, Weight, op, packed_once
from ttsim.ops.matrix import product_noise


@op(weights=(1,))
def delta_projections(
    x: Array,
    weights: tuple[Weight, ...],
    *,
    kernel: str,
    weight_format: str,
    setting: str,
    out_format: str,
    in_format: str = "bf16",
) -> tuple[Array, ...]:
    """x times several weights in one matmul: q, k and v; z; a and b. Args: see `linear`; returns one array a weight."""
    del kernel
    return tuple(
        fidelity.matmul(
            x,
            dequantize(w).reshape(w.shape[0], -1),
            setting,
            weight_format=weight_format,
            activation_format=in_format,
            out_format=out_format,
        )
        for w in weights
    )


@delta_projections.noise
def _(call: OpCall) -> OpNoise:  # q, k and v of the first weight
    return product_noise(call, results=2 + len(call.inputs[1]))


@delta_projections.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, weights = call.inputs
    rows, k = rows_and_columns(x)
    n = sum(math.prod(w.shape[1:]) for w in weights)
    fmt, setting = call["weight_format"], call["setting"]
    if call["kernel"] == "mcast_1d":
        one = matmul.mcast_1d(k, n, fmt=fmt, setting=setting, chip=machine.chip, block=matmul.MAX_BLOCK)
        return [one, *(small("slice", ADD_TIME) for _ in weights)]
    options = {"fmt": fmt, "in_format": call["in_format"], "out_format": call["out_format"], "setting": setting}
    return [matmul.mcast_2d(rows, k, n, pass_rows=rows, chip=machine.chip, config="tuned", **options)]


@op(weights=(2,), caches=(1,))
def conv_decode(x_bc: Array, state_bcw: Array, w_cw: Array, *, out_format: str) -> tuple[Array, Array]:
    """One step of a causal convolution with SiLU: y = silu(sum_w taps[c, w] inputs[c, w]), the last tap the newest.

    Args:
      x_bc: [B, C] newest inputs. state_bcw: [B, C, W - 1] those before. w_cw: [C, W].

    Returns:
      y [B, C]; the state [B, C, W - 1] that ends in x.
    """
    inputs = jnp.concatenate([state_bcw, x_bc[..., None].astype(state_bcw.dtype)], axis=-1)
    y = jax.nn.silu((inputs.astype(jnp.float32) * w_cw[None]).sum(axis=-1))
    return pack(y, out_format), inputs[..., 1:]


conv_decode.noise(packed_once)


@conv_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    (users, channels), taps = call.inputs[0].shape, call.inputs[2].shape[1]
    if not delta.fused_step(machine):
        return delta.convolution_of_ops(tensor_bytes(users, channels, "bf16"), taps, machine.chip)
    moved = 2 * (taps - 1) * users * channels * get_format("bf16").bytes_per_value
    return [stream("causal_conv1d_update", moved, machine.chip)]


@op(weights=(2,))
def conv_prefill(x_tc: Array, state_cw: Array, w_cw: Array, last: Array, *, out_format: str) -> tuple[Array, Array]:
    """The same over the rows of one user's prompt.

    Args:
      x_tc: [T, C]. state_cw: [C, W - 1] inputs before it. w_cw: [C, W].
      last: int32 scalar, the last row that is no padding: the state ends there.

    Returns:
      y [T, C]; the state [C, W - 1].
    """
    taps, rows = w_cw.shape[1], x_tc.shape[0]
    inputs = jnp.concatenate([state_cw.T, x_tc.astype(state_cw.dtype)])
    y = sum(inputs[i : i + rows].astype(jnp.float32) * w_cw[None, :, i] for i in range(taps))
    state = jax.lax.dynamic_slice_in_dim(inputs, last + 1, taps - 1)
    return pack(jax.nn.silu(y), out_format), state.T


@conv_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    (rows, channels), taps = call.inputs[0].shape, call.inputs[2].shape[1]
    moved = tensor_bytes(rows, channels, "bf16")
    if machine.chip.family == "wormhole":
        return delta.convolution_of_rows(moved, taps, machine.chip)
    return [stream("causal_conv1d", 2 * moved, machine.chip)]


@op(weights=(5, 6), caches=(7,))
def delta_decode(
    q: Array, k: Array, v: Array, a: Array, b: Array, decay_n: Array, dt_bias_n: Array, state: Array, *, out_format: str
) -> tuple[Array, Array]:
    """One token of every user through the state.

    Args:
      q, k: [B, key heads, k]; v: [B, N, v]. a, b: [B, N] logits of decay and of beta.
      decay_n: [N] A_log; dt_bias_n: [N]. state: [B, N, k, v].

    Returns:
      o [B, N, v]; the state.
    """
    q, k, decay, beta = _prepare(q, k, a, b, decay_n, dt_bias_n, v.shape[-2])
    state, out = jax.vmap(_step)(state, q, k, v, decay, beta)
    return pack(out, out_format), state


delta_decode.noise(packed_once)


@delta_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, heads, key, value = call.inputs[7].shape
    if not delta.fused_step(machine):
        return delta.step_of_ops(users, heads, key, value, machine.chip)
    # The fused step: every head's state is read and written once.
    moved = 2 * users * heads * key * value * get_format("fp32").bytes_per_value
    return [stream("gated_delta_step", moved, machine.chip)]


@op(weights=(5, 6))
def delta_prefill(
    q: Array,
    k: Array,
    v: Array,
    a: Array,
    b: Array,
    decay_n: Array,
    dt_bias_n: Array,
    state: Array,
    last: Array,
    *,
    out_format: str,
) -> tuple[Array, Array]:
    """One user's prompt, or a chunk of it, through the state.

    Args:
      q, k, v, a, b: as in `delta_decode`, with T in place of B. state: [N, k, v] of this user.
      last: int32 scalar, the last row that is no padding (padding leaves the state as it is).

    Returns:
      o [T, N, v]; the state after row `last`.
    """
    q, k, decay, beta = _prepare(q, k, a, b, decay_n, dt_bias_n, v.shape[-2])

    def token(state: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        index, *inputs = row
        new, out = _step(state, *inputs)
        return jnp.where(index <= last, new, state), out

    state, out = jax.lax.scan(token, state, (jnp.arange(v.shape[0]), q, k, v, decay, beta))
    return pack(out, out_format), state


@delta_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, heads, value = call.inputs[2].shape
    return delta.scan(rows, heads, call.inputs[0].shape[-1], value, machine.chip)


def _prepare(
    q: Array, k: Array, a: Array, b: Array, a_log: Array, dt_bias: Array, heads: int
) -> tuple[Array, Array, Array, Array]:
    """q and k of unit length, one a value head (key head j serves a block of them); decay in (0, 1); beta."""
    repeat = heads // q.shape[-2]
    scale = q.shape[-1] ** -0.5
    q, k = (jnp.repeat(_unit(x), repeat, axis=-2) for x in (q, k))
    decay = jnp.exp(-jnp.exp(a_log)[None] * jax.nn.softplus(a + dt_bias[None]))
    return q * scale, k, decay, jax.nn.sigmoid(b)


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)


def _step(state: Array, q: Array, k: Array, v: Array, decay: Array, beta: Array) -> tuple[Array, Array]:
    """One token: state [N, k, v], q and k [N, k], v [N, v], decay and beta [N]."""
    state = state * decay[:, None, None]
    error = (v - jnp.einsum("nkv,nk->nv", state, k, precision=jax.lax.Precision.HIGHEST)) * beta[:, None]
    state = state + k[:, :, None] * error[:, None]
    return state, jnp.einsum("nkv,nk->nv", state, q, precision=jax.lax.Precision.HIGHEST)


@op(weights=(2,), like=0)
def gated_norm(x: Array, z: Array, weight: Array, *, eps: float, out_format: str, memory: Memory) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight * silu(z) over the last axis. x, z: [..., v]; weight: [v], used as it is."""
    del memory
    y = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)
    return pack(y * weight.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,)) * jax.nn.silu(z), out_format)


gated_norm.noise(packed_once)


@gated_norm.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = call.inputs[0].shape[0], math.prod(call.inputs[0].shape[1:])
    if call["memory"] == "l1":
        return [small(name, ADD_TIME) for name in ("rms_norm", "silu_mul")]
    moved = 3 * tensor_bytes(rows, columns, "bf16")
    return [stream_rows("gated_norm", moved, rows, machine.chip)]


@op(caches=(0,))
def read_state(state: Array, user: Array, *, keep: bool) -> Array:
    """One user's state [...] of [B, ...]; zeros unless `keep` (the prompt's first chunk starts from nothing)."""
    row = jax.lax.dynamic_index_in_dim(state, user, axis=0, keepdims=False)
    return row if keep else jnp.zeros_like(row)


@read_state.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("slice", ADD_TIME)] if call["keep"] else []


@op(caches=(0,))
def write_state(states: Array, state: Array, user: Array) -> Array:
    """The states [B, ...] with one user's replaced."""
    written: Array = jax.lax.dynamic_update_index_in_dim(states, state.astype(states.dtype), user, axis=0)
    return written


@write_state.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    moved = 2 * math.prod(call.inputs[1].shape) * get_format("fp32").bytes_per_value
    return [stream("write_state", moved, machine.chip)]
