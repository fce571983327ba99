"""The matrix unit's accumulation, bit for bit: for tests and small cases (`fidelity.matmul` is the fast model).

One MVMUL adds 16 products to a destination register. The products are cut to 5 x 7 bits and summed in two groups of 8
with 10 fraction bits below the group's largest exponent; the two sums and the destination are then aligned to the
largest of their exponents, added, and rounded back into the register. Small products vanish, and a bf16 destination
drifts.

A matmul walks K in tiles of 32; for each tile all fidelity phases, for each phase the two halves of 16.

Sources: tt-isa-documentation WormholeB0 MVMUL, SrcASrcB and FloatBitPatterns; tt-llk `llk_math_matmul.h` for the order;
agrees with the matrix unit models of ttsim 1.10 (Tenstorrent's simulator) and wolfpine 2.2.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ttsim.numerics.conversion import round_to
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity, get_setting
from ttsim.numerics.formats import TILE, Format, get_format
from ttsim.numerics.reference.vector_unit import value_by_value

_LANES = 16
_GROUPS = 2


def _bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.int32)


def _exponent(bits: jax.Array) -> jax.Array:
    return (bits >> 23) & 0xFF


def _signed(bits: jax.Array, magnitude: jax.Array) -> jax.Array:
    return jnp.where(bits < 0, -magnitude, magnitude)


def _slices(bits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns exponent (0 for zeros and denormals), sign-free TF32 significand of 11 bits, and sign bits."""
    significand = ((bits >> 13) & 0x3FF) | 0x400
    return _exponent(bits), jnp.where(_exponent(bits) == 0, 0, significand), bits


def _srca_phase(significand: jax.Array, phase: jax.Array) -> jax.Array:
    """Returns the 5 bits of SrcA that a phase multiplies: the top 5, or in odd phases the next 5."""
    return jnp.where(phase & 1, (significand >> 1) & 0x1F, significand >> 6)


def _srcb_phase(significand: jax.Array, phase: jax.Array) -> jax.Array:
    """Returns the 7 bits of SrcB that a phase multiplies: the top 7, or from phase 2 the last 4, left-aligned."""
    return jnp.where(phase & 2, (significand & 0xF) << 3, significand >> 4)


def _group_sums(x_bits: jax.Array, w_bits: jax.Array, phase: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums products in two groups of 8 lanes, each aligned to its largest exponent, half away from zero.

    Args:
      x_bits: int32 [M, 16], SrcB.
      w_bits: int32 [16, N], SrcA.
      phase: fidelity phase, 0 to 3, a scalar.

    Returns:
      Signed sums with 23 fraction bits and their exponents, int32 [2, M, N].
    """
    x_exponent, x_significand, x_sign = _slices(x_bits.T[:, :, None])
    w_exponent, w_significand, w_sign = _slices(w_bits[:, None, :])
    live = (x_exponent > 0) & (w_exponent > 0)
    product = _srcb_phase(x_significand, phase) * _srca_phase(w_significand, phase)
    # A live product counts for the alignment even where the phase's slice of an operand is zero.
    scale = -127 - 5 * (phase & 1) - 7 * (phase >> 1)
    exponent = jnp.where(live, x_exponent + w_exponent + scale, 0)

    groups = (_GROUPS, _LANES // _GROUPS, *product.shape[1:])
    product, exponent, sign = product.reshape(groups), exponent.reshape(groups), (x_sign ^ w_sign).reshape(groups)
    largest = jnp.max(exponent, axis=1, keepdims=True)
    shift = jnp.minimum(largest - exponent, 14)  # a product has at most 12 bits
    aligned = ((product << 1) + (1 << shift)) >> (shift + 1)
    total = jnp.sum(_signed(sign, aligned), axis=1, dtype=jnp.int32)
    largest = jnp.maximum(largest[:, 0], 0)
    return jnp.where(largest > 0, total << 13, 0), largest


def _shift_half_up(value: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns value / 2**shift, rounded half towards plus infinity (half away for magnitudes)."""
    return (value + ((1 << shift) >> 1)) >> shift


def _accumulate(
    sums: jax.Array, exponents: jax.Array, dst: jax.Array, fp32_dest: bool, renormalisation_bug: bool
) -> jax.Array:
    """Adds two group sums to destination registers.

    Args:
      sums: int32 [2, M, N], signed, 23 fraction bits.
      exponents: int32 [2, M, N].
      dst: float32 bits as int32 [M, N].
      fp32_dest: 24-bit significands in the registers, else bf16's 8.
      renormalisation_bug: Wormhole's error for a sum of exactly minus one unit in the last place.

    Returns:
      float32 bits as int32 [M, N].
    """
    dst_exponent = _exponent(dst)
    dst_significand = jnp.where(dst_exponent == 0, 0, (dst & 0x7FFFFF) | 0x800000)
    largest = jnp.maximum(jnp.max(exponents, axis=0), dst_exponent)
    sums = _shift_half_up(sums, jnp.minimum(largest[None] - exponents, 30))
    dst_significand = _shift_half_up(dst_significand, jnp.minimum(largest - dst_exponent, 30))
    if not fp32_dest:
        drop = jnp.int32(13)
        sums = _shift_half_up(sums, drop) << drop
        dst_significand = _shift_half_up(dst_significand, drop) << drop
    total = sums[0] + sums[1] + _signed(dst, dst_significand)

    magnitude = jnp.abs(total)
    left = lax.clz(magnitude) - 8  # to 24 bits
    if renormalisation_bug:
        left = jnp.where(total == -1, left - 27, left)
    exponent = largest - left
    keep = 0 if fp32_dest else 16
    rounded = _shift_half_up(magnitude << jnp.maximum(left - keep, 0), jnp.maximum(keep - left, 0)) << keep
    exponent = exponent + ((rounded >> 24) & 1)
    fraction = jnp.where(exponent >= 255, 0, rounded & 0x7FFFFF)  # an overflow leaves the pattern of infinity
    result = (jnp.minimum(exponent, 255) << 23) | fraction | jnp.where(total < 0, jnp.int32(-(2**31)), 0)
    return jnp.where((largest <= 0) | (total == 0) | (exponent <= 0), 0, result)


@functools.partial(jax.jit, static_argnames=("fp32_dest", "renormalisation_bug"))
def mvmul(
    x: ArrayLike, w: ArrayLike, dst: ArrayLike, phase: ArrayLike, *, fp32_dest: bool, renormalisation_bug: bool = True
) -> jax.Array:
    """Returns dst + one fidelity phase of x @ w, as one MVMUL instruction computes it.

    Args:
      x: float32 [M, 16], SrcB.
      w: float32 [16, N], SrcA.
      dst: float32 [M, N]; bf16 values unless fp32_dest.
      phase: fidelity phase, 0 to 3.
      fp32_dest: whether the destination registers hold float32.
      renormalisation_bug: Wormhole True, Blackhole False; see `datapath_matmul`.

    Returns:
      float32 [M, N].
    """
    x_bits, w_bits, dst_bits = (_bits(jnp.asarray(a, jnp.float32)) for a in (x, w, dst))
    sums, exponents = _group_sums(x_bits, w_bits, jnp.asarray(phase, jnp.int32))
    out = _accumulate(sums, exponents, dst_bits, fp32_dest, renormalisation_bug)
    return lax.bitcast_convert_type(out, jnp.float32)


@functools.partial(jax.jit, static_argnames=("fidelity", "fp32_dest", "bug"))
def _dest_matmul(
    x: jax.Array, w: jax.Array, dst: jax.Array, fidelity: MathFidelity, fp32_dest: bool, bug: bool
) -> jax.Array:
    """Accumulates x [M, K] @ w [K, N] into dst [M, N]; K is a multiple of 32."""
    m, n, tiles, phases = x.shape[0], w.shape[1], x.shape[1] // TILE, fidelity.value
    halves = TILE // _LANES
    steps = tiles * phases * halves
    x_steps = jnp.broadcast_to(x.reshape(m, tiles, 1, halves, _LANES), (m, tiles, phases, halves, _LANES))
    w_steps = jnp.broadcast_to(w.reshape(tiles, 1, halves, _LANES, n), (tiles, phases, halves, _LANES, n))
    phase_of_step = jnp.tile(jnp.repeat(jnp.arange(phases), halves), tiles)

    def step(dst: jax.Array, xwp: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return mvmul(*xwp[:2], dst, xwp[2], fp32_dest=fp32_dest, renormalisation_bug=bug), None

    x_steps = x_steps.reshape(m, steps, _LANES).transpose(1, 0, 2)
    return lax.scan(step, dst, (x_steps, w_steps.reshape(steps, _LANES, n), phase_of_step))[0]


def truncate_to_tf32(x: jax.Array) -> jax.Array:
    """Returns what the matrix unit's operand registers hold of float32 values: 10 fraction bits."""
    return lax.bitcast_convert_type(_bits(x) & -(1 << 13), jnp.float32)


def _flush_denormals(x: jax.Array) -> jax.Array:
    return jnp.where(_exponent(_bits(x)) == 0, 0.0, x)


def datapath_matmul(
    x: ArrayLike,
    w: ArrayLike,
    setting: str | ComputeSetting,
    *,
    k_block: int | None = None,
    out_format: str | Format | None = None,
    out_rounding: str = "device",
    tf32_reload: bool = True,
    renormalisation_bug: bool = True,
    spill_format: str | Format | None = None,
) -> jax.Array:
    """Returns x @ w as the device computes it, bit for bit.

    With more than one block of K, partial sums leave the destination registers between blocks. With L1 accumulation
    they are added up in L1 (float32, or bf16 for 16-bit registers) and reloaded for the last block only; without it
    every block reloads the sum so far, which is kept in float32 or, for 16-bit registers, in the output format.

    Args:
      x: activations, float32 [M, K] (values of at most TF32 precision; the rest is cut).
      w: weights, float32 [K, N].
      setting: compute setting or name, not "exact".
      k_block: values of K per block, a multiple of 32; None: one block.
      out_format: format to pack the result to; None: the register's value (spilled sums are then bf16).
      out_rounding: "device" or "device_precise".
      tf32_reload: reloaded float32 sums are cut to TF32, as in kernels that do not unpack to float32 registers directly
        (`UnpackToDestFp32`).
      renormalisation_bug: Wormhole's matrix unit raises the exponent by 27 where a float32 accumulation comes to
        exactly minus one unit in the last place; Blackhole's does not.
      spill_format: of sums between blocks of K, if not the one above: "bf16" for the DRAM-sharded kernel before early
        2026 (`matmul_spills` and `tf32_reload` of data/facts.csv have the dates).

    Returns:
      float32 [M, N].

    Raises:
      ValueError: "exact" setting, shapes that do not fit, or a k_block that is no multiple of 32.

    Source of the order of spills and reloads: tt-metal ``bmm_large_block_zm_fused_bias_activation.cpp``.
    """
    setting = get_setting(setting)
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    if setting.fidelity is None:
        raise ValueError(f"setting {setting.name!r} has no math fidelity to model")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0]:
        raise ValueError(f"datapath_matmul takes x [M, K] and w [K, N], got {x.shape} and {w.shape}")
    if k_block is not None and (k_block < TILE or k_block % TILE):
        raise ValueError(f"k_block must be a multiple of {TILE}, got {k_block}")
    padding = -x.shape[1] % TILE
    x, w = jnp.pad(x, ((0, 0), (0, padding))), jnp.pad(w, ((0, padding), (0, 0)))
    run = functools.partial(
        _dest_matmul, fidelity=setting.fidelity, fp32_dest=setting.fp32_dest, bug=renormalisation_bug
    )
    usual = "fp32" if setting.fp32_dest else "bf16" if setting.l1_acc else out_format or "bf16"
    spill = get_format(spill_format or usual)

    k = x.shape[1]
    starts = range(0, k, k_block or max(k, 1))
    zeros = jnp.zeros((x.shape[0], w.shape[1]), jnp.float32)
    y = zeros
    in_l1 = zeros
    for start in starts:
        stop = start + (k_block or k)
        reload = start > 0 and (not setting.l1_acc or start == starts[-1])
        dst = zeros
        if reload:
            dst = truncate_to_tf32(in_l1) if setting.fp32_dest and tf32_reload else in_l1
        y = run(x[:, start:stop], w[start:stop], dst)
        spilled = round_to(y, spill, out_rounding)
        if setting.l1_acc and start > 0 and not reload:
            spilled = _flush_denormals(in_l1 + spilled)
            spilled = spilled if spill.name == "fp32" else round_to(spilled, "bf16")
        in_l1 = spilled
    return y if out_format is None else round_to(y, out_format, out_rounding)


def elementwise_multiply(x: ArrayLike, w: ArrayLike, setting: str | ComputeSetting) -> jax.Array:
    """Returns x * w as the matrix unit multiplies two tensors of which one is a block float, x in SrcA.

    One product for each phase, added to the destination register. (Two bf16 tensors are multiplied by the vector unit:
    `ttsim.numerics.elementwise.multiply`.)

    Args:
      x: float32, the first operand. w: the second, same shape.
      setting: compute setting or name, not "exact".
    """
    setting = get_setting(setting)
    if setting.fidelity is None:
        raise ValueError(f"setting {setting.name!r} has no math fidelity to model")
    product: jax.Array = _multiply(x, w, fidelity=setting.fidelity, fp32_dest=setting.fp32_dest)
    return product


@value_by_value("fidelity", "fp32_dest")
def _multiply(x: jax.Array, w: jax.Array, *, fidelity: MathFidelity, fp32_dest: bool) -> jax.Array:
    x_bits, w_bits = _bits(x), _bits(w)
    (x_exponent, x_significand, _), (w_exponent, w_significand, _) = _slices(x_bits), _slices(w_bits)
    live = (x_exponent > 0) & (w_exponent > 0)
    dst = jnp.zeros_like(x_bits)
    for phase in range(fidelity.value):
        product = _srcb_phase(w_significand, jnp.int32(phase)) * _srca_phase(x_significand, jnp.int32(phase))
        exponent = jnp.where(live, x_exponent + w_exponent - 127 - 5 * (phase & 1) - 7 * (phase >> 1), 0)
        exponent = jnp.maximum(exponent, 0)
        total = jnp.where(exponent > 0, _signed(x_bits ^ w_bits, product) << 13, 0)
        sums = jnp.stack([total, jnp.zeros_like(total)])
        dst = _accumulate(sums, jnp.stack([exponent, jnp.zeros_like(exponent)]), dst, fp32_dest, True)
    return lax.bitcast_convert_type(dst, jnp.float32)
