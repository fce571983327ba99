"""Attention's arithmetic, fast: what the flash kernels keep between their steps, without their order of chunks.

`ttsim.numerics.reference.flash` computes the same bit by bit. Left out here: the rescaling of what earlier chunks gave,
which rounds once a chunk, and the bits below the alignment of products.

Source: ttnn 0.81.1 on Tenstorrent's simulator (tests/numerics/test_device_operations.py).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from ttsim.numerics import elementwise, switches
from ttsim.numerics.destination import accumulate, registers_of
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity, mask_activations, mask_weights, srca_fraction_bits
from ttsim.numerics.formats import get_format
from ttsim.numerics.packer import pack

_CHUNK = (
    64  # positions that a kernel takes at once: of 64 to 256, which depends on the length, the noise differs little
)


def activations(x: jax.Array, setting: ComputeSetting) -> jax.Array:
    """What the first operand of a product contributes (Q, the weights of V): SrcB's bits."""
    return x if setting.fidelity is None else mask_activations(x, setting.fidelity)


def weights(x: jax.Array, setting: ComputeSetting, fmt: str) -> jax.Array:
    """What the second operand of a product contributes (K, V): SrcA's bits, which hold most formats whole."""
    x = x.astype(jnp.float32)
    if setting.fidelity is None or get_format(fmt).fraction_bits <= srca_fraction_bits(setting.fidelity):
        return x
    return mask_weights(x, setting.fidelity)


def product(x: jax.Array, w: jax.Array, setting: ComputeSetting, fmt: str) -> jax.Array:
    """x @ w, each row of x with the matrix of its leading axes. x: [*lead, *rows, K]; w: [*lead, K, N], in format fmt.

    Sums in 16-bit registers are rounded as often as the device does it; flash attention's chunks leave the registers.
    """
    lead = w.ndim - 2
    rows = x.reshape(*x.shape[:lead], -1, x.shape[-1])
    if setting.fidelity is None or setting.fp32_dest or not switches.current().registers:
        y = jnp.matmul(rows, w)
    else:
        bits = get_format(fmt).fraction_bits, get_format("bf16").fraction_bits
        registers = registers_of(setting.fidelity.value, *bits, k_block=_CHUNK, l1_acc=True)
        accumulated = functools.partial(accumulate, jnp.matmul, registers=registers)
        for _ in range(lead):
            accumulated = jax.vmap(accumulated)
        y = accumulated(rows, w)
    return y.reshape(*x.shape[:-1], w.shape[-1])


def visible(rows: jax.Array, length: int, window: int | None, chunk: int | None = None) -> jax.Array:
    """Which of `length` positions each row (its own position) attends to: [rows, length] booleans."""
    columns = jnp.arange(length)[None, :]
    seen = columns <= rows[:, None]
    if window is not None:
        seen &= columns > rows[:, None] - window
    return seen if chunk is None else seen & (columns // chunk == rows[:, None] // chunk)


def attend(
    products: jax.Array,
    values: jax.Array,
    seen: jax.Array,
    setting: ComputeSetting,
    fmt: str,
    scale: float,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
    prefill: bool = False,
) -> jax.Array:
    """softmax(products * scale) V over the positions that are seen, before it is packed.

    Args:
      products: q K^T, [*lead, *rows, length]. values: [*lead, length, d], as `weights` gives them, in format fmt.
      seen: which positions each row attends to, broadcastable to products.
      setting: of the products with the values. scale: factor on the products.
      softcap: scores become softcap * tanh(scores / softcap), or None.
      sinks: scores of a column that is dropped, broadcastable to one more column, or None.
      prefill: prefill's kernels, of which that with float32 registers keeps scores, weights and sums in float32; the
        one with 16-bit registers has no accurate exponential (tt-metal #51927; ttnn 0.81.1). Decode keeps bf16.
    """
    numerics = switches.current()
    as_kernel = numerics.intermediates and setting.fidelity is not None
    wide = prefill and setting.fp32_dest
    if as_kernel:
        products = _kept(products, wide)
    scores = products * scale
    scores = jnp.where(seen, scores if softcap is None else softcap * jnp.tanh(scores / softcap), -jnp.inf)
    accurate = not prefill or setting.fp32_dest or not numerics.registers
    if not as_kernel:
        return product(activations(softmax(scores, setting, sinks, accurate=accurate), setting), values, setting, fmt)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(largest if sinks is None else jnp.maximum(largest, sinks))
    exponential = jnp.exp if numerics.exponential == "accurate" and accurate else elementwise.approximate_exponential
    heaviness = activations(_kept(exponential(scores - largest), wide), setting)
    total = product(heaviness, jnp.ones((*values.shape[:-1], 1)), setting, "bfp4")
    if sinks is not None:
        total = total + jnp.exp(sinks - largest)
    inverse = activations(_kept(1 / _kept(total, wide), wide), setting)
    return pack(product(heaviness, values, setting, fmt), "bf16") * inverse


def _kept(x: jax.Array, wide: bool) -> jax.Array:
    """What a kernel's step leaves for the matrix unit to read: 10 fraction bits of float32, or bf16."""
    return mask_activations(x, MathFidelity.HIFI4) if wide else pack(x, "bf16")


def softmax(
    scores: jax.Array, setting: ComputeSetting, sinks: jax.Array | None = None, *, accurate: bool = True
) -> jax.Array:
    """Softmax whose result is a bf16 tile (float32 for the exact setting), for attention that is no flash kernel.

    `sinks`, broadcastable to one more column of the scores, take part and are dropped.
    """
    if sinks is not None:
        column = jnp.broadcast_to(sinks.astype(scores.dtype), (*scores.shape[:-1], 1))
        scores = jnp.concatenate([scores, column], axis=-1)
    normalised = _normalised(scores, setting, accurate)
    return normalised if sinks is None else normalised[..., :-1]


def _normalised(scores: jax.Array, setting: ComputeSetting, accurate: bool) -> jax.Array:
    """Softmax over the last axis, as a bf16 tile unless the setting is exact."""
    if setting.fidelity is None:
        return jax.nn.softmax(scores, axis=-1)
    numerics = switches.current()
    if numerics.exponential == "accurate" and (accurate or not numerics.registers):
        return pack(jax.nn.softmax(scores, axis=-1), "bf16")
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    exponentials = elementwise.approximate_exponential(scores - largest)
    return pack(exponentials / jnp.sum(exponentials, axis=-1, keepdims=True), "bf16")
