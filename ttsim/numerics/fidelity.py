"""Math fidelity of the matrix unit: which operand bits each level multiplies, and compute settings.

A pass ("phase") of the multiplier takes 5 significand bits of SrcA and 7 of SrcB, the leading one included:

    phase 0: A0 * B0    phase 1: A1 * B0    phase 2: A0 * B2    phase 3: A1 * B2
    A0 = 4 top fraction bits, A1 = the next 5;  B0 = 6 top fraction bits, B2 = the next 4

LoFi, HiFi2, HiFi3 and HiFi4 sum the first 1, 2, 3 and 4 phases. LoFi, HiFi2 and HiFi4 factor, so each is one matmul
of truncated operands; HiFi3 is two. In a matmul the weights are SrcA and the activations SrcB; an element-wise multiply
has its first operand in SrcA.

Sources: tt-isa-documentation MVMUL and ELWMUL; tt-llk `llk_unpack_AB_matmul.h` for the operand order.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ttsim.errors import unknown
from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.conversion import dequantize, round_to
from ttsim.numerics.destination import accumulate, registers_of
from ttsim.numerics.formats import FORMATS, Format, get_format


class MathFidelity(enum.Enum):
    """Fidelity level; the value is its number of phases."""

    LOFI = 1
    HIFI2 = 2
    HIFI3 = 3
    HIFI4 = 4


@dataclasses.dataclass(frozen=True)
class ComputeSetting:
    """A compute kernel configuration, named as in tt_transformers.

    Args:
      name: tt_transformers name in lower case.
      fidelity: level of the matrix unit; None multiplies full float32 operands.
      approx: approximate exp, gelu, sqrt ... of the vector unit; no effect on matmuls.
      fp32_dest: accumulate in float32 rather than bfloat16 destination registers.
      l1_acc: accumulate partial sums over blocks of K in L1.
    """

    name: str
    fidelity: MathFidelity | None
    approx: bool
    fp32_dest: bool
    l1_acc: bool


# Source: tt-metal models/tt_transformers/tt/model_config.py.
SETTINGS: dict[str, ComputeSetting] = {
    setting.name: setting
    for setting in (
        ComputeSetting("lofi", MathFidelity.LOFI, approx=False, fp32_dest=False, l1_acc=True),
        ComputeSetting("hifi2", MathFidelity.HIFI2, approx=True, fp32_dest=True, l1_acc=True),
        ComputeSetting("hifi2na", MathFidelity.HIFI2, approx=False, fp32_dest=False, l1_acc=False),
        ComputeSetting("hifi2fp16", MathFidelity.HIFI2, approx=False, fp32_dest=False, l1_acc=True),
        ComputeSetting("hifi2nol1acc", MathFidelity.HIFI2, approx=True, fp32_dest=True, l1_acc=False),
        ComputeSetting("hifi4", MathFidelity.HIFI4, approx=False, fp32_dest=True, l1_acc=True),
        ComputeSetting("hifi4fp32", MathFidelity.HIFI4, approx=True, fp32_dest=True, l1_acc=True),
        ComputeSetting("exact", None, approx=False, fp32_dest=True, l1_acc=True),
    )
}


def get_setting(name_or_setting: str | ComputeSetting) -> ComputeSetting:
    """Returns the setting of a name; a ComputeSetting passes through.

    Raises:
      ValueError: unknown name; the message lists the nearest valid ones.
    """
    if isinstance(name_or_setting, ComputeSetting):
        return name_or_setting
    if name_or_setting not in SETTINGS:
        raise unknown("compute setting", name_or_setting, SETTINGS)
    return SETTINGS[name_or_setting]


def srca_fraction_bits(fidelity: MathFidelity) -> int:
    """Returns the fraction bits of SrcA (weights) that take part: 4, or 9 from HiFi2 on (never TF32's last bit)."""
    return 4 if fidelity is MathFidelity.LOFI else 9


def srcb_fraction_bits(fidelity: MathFidelity) -> int:
    """Returns the fraction bits of SrcB (activations) that take part: 6, or 10 from HiFi3 on."""
    return 6 if fidelity in (MathFidelity.LOFI, MathFidelity.HIFI2) else 10


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _truncate(x: jax.Array, fraction_bits: int) -> jax.Array:
    """Clears all but the top fraction bits of float32 or bfloat16 values; straight-through derivative."""
    if x.dtype == jnp.bfloat16:
        if fraction_bits >= 7:
            return x
        mask = jnp.uint16(0xFFFF << (7 - fraction_bits) & 0xFFFF)
        return lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint16) & mask, jnp.bfloat16)
    mask = jnp.uint32(0xFFFFFFFF << (23 - fraction_bits) & 0xFFFFFFFF)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint32) & mask, jnp.float32)


@_truncate.defjvp
def _truncate_jvp(
    fraction_bits: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _truncate(primals[0], fraction_bits), tangents[0]


def mask_weights(w: ArrayLike, fidelity: MathFidelity) -> jax.Array:
    """Returns the part of SrcA operands (weights) that a level multiplies.

    LoFi: ``bits & 0xfff80000``, else ``bits & 0xffffc000``. The derivative is straight-through.

    Args:
      w: float32 or bfloat16, any shape.
      fidelity: level.
    """
    return _truncate(_operand(w), srca_fraction_bits(fidelity))


def mask_activations(x: ArrayLike, fidelity: MathFidelity) -> jax.Array:
    """Returns the part of SrcB operands (activations) that a level multiplies.

    LoFi and HiFi2: ``bits & 0xfffe0000``, else ``bits & 0xffffe000``. In HiFi3 the lowest 4 of these bits meet only the
    LoFi part of the weights. The derivative is straight-through.

    Args:
      x: float32 or bfloat16, any shape.
      fidelity: level.
    """
    return _truncate(_operand(x), srcb_fraction_bits(fidelity))


def _operand(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"the matrix unit takes float32 or bfloat16 operands, got {x.dtype}; cast first")
    return x


def _fraction_bits(x: jax.Array, fmt: str | Format | None) -> int:
    """Returns how many fraction bits an operand can have set, from its dtype and the format it was rounded to."""
    by_dtype = FORMATS["bf16" if x.dtype == jnp.bfloat16 else "fp32"].fraction_bits
    return by_dtype if fmt is None else min(by_dtype, get_format(fmt).fraction_bits)


def _phases(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    srca: jax.Array,
    srcb: jax.Array,
    srca_bits: int,
    srcb_bits: int,
    fidelity: MathFidelity,
) -> jax.Array:
    """Sums a level's phases of a bilinear product with as few products as possible, leaving out masks without effect.

    Args:
      product: bilinear function of (srca, srcb).
      srca: float32 or bfloat16 operand.
      srcb: float32 or bfloat16 operand.
      srca_bits: fraction bits that srca can have set.
      srcb_bits: fraction bits that srcb can have set.
      fidelity: level.
    """

    def keep(x: jax.Array, has: int, bits: int) -> jax.Array:
        return x if has <= bits else _truncate(x, bits)

    a = keep(srca, srca_bits, srca_fraction_bits(fidelity))
    b = keep(srcb, srcb_bits, srcb_fraction_bits(fidelity))
    low, high = srca_fraction_bits(MathFidelity.LOFI), srcb_fraction_bits(MathFidelity.LOFI)
    if fidelity is not MathFidelity.HIFI3 or srca_bits <= low or srcb_bits <= high:
        return product(a, b)
    b0 = _truncate(b, high)
    # b0 is within a factor of 2 of b, so the difference is exact. Its derivative is left to the first product.
    b2 = lax.stop_gradient(b - b0)
    return product(a, b0) + product(lax.stop_gradient(_truncate(a, low)), b2)


def _all_phases(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    w_bits: int,
    x_bits: int,
    fidelity: MathFidelity,
    x: jax.Array,
    w: jax.Array,
) -> jax.Array:
    """`_phases` of x and w, the weights being SrcA."""
    return _phases(product, w, x, w_bits, x_bits, fidelity)


def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """Returns x @ w with exact products and float32 sums; one native bf16 matmul where both operands are bf16."""
    if x.dtype != w.dtype:
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, w, dimensions, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _pack(y: jax.Array, setting: ComputeSetting, out_format: str | Format | None, out_rounding: str) -> jax.Array:
    """Rounds a result to the destination registers and the output format, as the packer does."""
    if out_format is None:
        return y
    if setting.fidelity is not None and not setting.fp32_dest:
        y = round_to(y, "bf16", out_rounding)
    return round_to(y, out_format, out_rounding)


def matmul(
    x: ArrayLike,
    w: ArrayLike | BlockArray,
    setting: str | ComputeSetting,
    *,
    weight_format: str | Format | None = None,
    activation_format: str | Format | None = None,
    out_format: str | Format | None = None,
    out_rounding: str = "device",
    weights_masked: bool = False,
    registers: bool = False,
    k_block: int | None = None,
    bf16_spills: bool = False,
) -> jax.Array:
    """Returns x @ w as the matrix unit multiplies it, with float32 accumulation or, if asked for, in its registers.

    The operands are truncated to the bits that the setting's fidelity multiplies: ``mask_activations(x) @
    mask_weights(w)`` for LoFi, HiFi2 and HiFi4, and the sum of two such products for HiFi3. Masks that cannot change
    anything are left out. Derivatives are straight-through.

    Args:
      x: activations [..., K], float32 or bfloat16.
      w: weights [K, N], float32, bfloat16 or a BlockArray.
      setting: compute setting or name; "exact" is a plain float32 matmul.
      weight_format: format whose values w already holds; None: that of its dtype.
      activation_format: format whose values x already holds; None: that of its dtype.
      out_format: format to round the result to; None: leave it in float32.
      out_rounding: rule of that rounding, see `ttsim.numerics.conversion.quantize`. With 16-bit destination registers
        the result is rounded to bf16 before it.
      weights_masked: w has been through `mask_weights` for this setting.
      registers: with 16-bit destination registers, accumulate as they do (`ttsim.numerics.destination`): noise that
        grows with K. Otherwise they only round the whole sum.
      k_block: values of K in one block of the kernel, between which partial sums leave the registers; None: one block.
      bf16_spills: float32 registers leave theirs as bf16 (`ttsim.numerics.switches.Numerics.spills`), not as float32.

    Returns:
      float32 [..., N].

    Raises:
      ValueError: unknown names, other dtypes, or shapes that do not fit.
    """
    setting, x = get_setting(setting), _operand(x)
    x_bits = _fraction_bits(x, activation_format)
    # What a level keeps of x often fits bf16; then bf16 weights, or those of a BlockArray, need no widening.
    x_fits_bf16 = (
        setting.fidelity is not None
        and min(x_bits, srcb_fraction_bits(setting.fidelity)) <= FORMATS["bf16"].fraction_bits
    )
    if isinstance(w, BlockArray):
        weight_format, w = w.fmt, dequantize(w, jnp.bfloat16 if x_fits_bf16 else jnp.float32)
    w = _operand(w)
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"matmul takes x [..., K] and w [K, N], got {x.shape} and {w.shape}")
    if setting.fidelity is None:
        return _pack(_matmul(x.astype(jnp.float32), w.astype(jnp.float32)), setting, out_format, out_rounding)
    w_bits = _fraction_bits(w, weight_format)
    if weights_masked:
        w_bits = min(w_bits, srca_fraction_bits(setting.fidelity))

    def product(w: jax.Array, x: jax.Array) -> jax.Array:
        return _matmul(x.astype(w.dtype) if x_fits_bf16 else x, w)

    whole = functools.partial(_all_phases, product, w_bits, x_bits, setting.fidelity)
    if bf16_spills if setting.fp32_dest else registers:
        run = registers_of(setting.fidelity.value, w_bits, x_bits, k_block, setting.l1_acc)
        run = dataclasses.replace(run, wide=setting.fp32_dest)
        y = accumulate(whole, x.reshape(-1, x.shape[-1]), w, run)
        y = y.reshape(*x.shape[:-1], w.shape[1])
    else:
        y = whole(x, w)
    return _pack(y, setting, out_format, out_rounding)


def multiply(
    a: ArrayLike,
    b: ArrayLike,
    setting: str | ComputeSetting,
    *,
    out_format: str | Format | None = None,
    out_rounding: str = "device",
) -> jax.Array:
    """Returns a * b as the matrix unit multiplies element-wise: a in SrcA (5 bits per phase), b in SrcB (7 bits).

    Args:
      a: float32 or bfloat16.
      b: float32 or bfloat16, same shape.
      setting: compute setting or name; "exact" is a plain float32 product.
      out_format: as in `matmul`.
      out_rounding: as in `matmul`.

    Returns:
      float32 of the operands' shape.

    Raises:
      ValueError: unknown names or other dtypes.
    """
    setting, a, b = get_setting(setting), _operand(a), _operand(b)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return a.astype(jnp.float32) * b.astype(jnp.float32)

    if setting.fidelity is None:
        return _pack(product(a, b), setting, out_format, out_rounding)
    y = _phases(product, a, b, _fraction_bits(a, None), _fraction_bits(b, None), setting.fidelity)
    return _pack(y, setting, out_format, out_rounding)
