"""The vector unit's arithmetic (SFPU), bit for bit: multiply-add, and what a destination register keeps of it.

The unit works on float32, but its multiply-add is only partly fused: the product keeps 3 bits more than float32 and a
sticky bit before the addend joins it. Everything here works on bits: XLA may fuse a float multiplication and an
addition as it likes.

Sources: tt-isa-documentation Miscellaneous/FMA (a bit-perfect model of SFPMAD on Wormhole), SFPSTOCHRND.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_BLOCK = 8192  # values that one run of a compiled function takes
_EXPONENT = 0x7F800000
_FRACTION = 0x007FFFFF
_SIGN = jnp.uint32(0x80000000)
_GUARD = 3  # bits that the unit keeps below a float32 significand


def value_by_value(*static: str) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Compiles a function of values once for arrays of all shapes, which it takes in blocks of one size.

    Args:
      static: names of keyword arguments that are no arrays.
    """

    def decorate(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        compiled: Callable[..., jax.Array] = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def in_blocks(*arrays: ArrayLike, **options: Any) -> jax.Array:
            shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in arrays))
            size = math.prod(shape)
            flat = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape) for x in arrays]
            if shape == (_BLOCK,):
                return compiled(*flat, **options)
            blocks = [jnp.pad(x.ravel(), (0, -size % _BLOCK)).reshape(-1, _BLOCK) for x in flat]
            run = [compiled(*(x[i] for x in blocks), **options) for i in range(-(-size // _BLOCK))]
            return jnp.concatenate(run)[:size].reshape(shape)

        return in_blocks

    return decorate


def bits_of(x: ArrayLike) -> jax.Array:
    return lax.bitcast_convert_type(jnp.asarray(x, jnp.float32), jnp.uint32)


def float_of(bits: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(bits.astype(jnp.uint32), jnp.float32)


def _unpack(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns biased exponent (int32) and 24-bit significand (uint32), 0 for zeros and denormals."""
    exponent = (bits >> 23) & 0xFF
    significand = jnp.where(exponent == 0, 0, (bits & _FRACTION) | 0x800000)
    return exponent.astype(jnp.int32), significand


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the product of two 24-bit significands, cut to 28 bits whose last one is sticky."""
    x_high, x_low, y_high, y_low = x >> 12, x & 0xFFF, y >> 12, y & 0xFFF
    low = x_low * y_low
    middle = x_high * y_low + x_low * y_high + (low >> 12)
    lost = ((middle & 0xFF) | (low & 0xFFF)) != 0
    return ((x_high * y_high) << 4) + (middle >> 8) | lost.astype(jnp.uint32)


def _shift_sticky(value: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns value >> shift; a bit that falls off sets the last bit, unless nothing is left."""
    amount = jnp.clip(shift, 0, 31).astype(jnp.uint32)
    shifted = value >> amount
    lost = (shifted << amount) != value
    return jnp.where(shifted == 0, 0, shifted | lost.astype(jnp.uint32))


@value_by_value()
def multiply_add(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> jax.Array:
    """Returns x * y + z as SFPMAD computes it on Wormhole, float32.

    Denormals count as zero, and zero results are positive. The sum is rounded half to even; where it must be shifted by
    two bits for that, the higher one is forgotten, which is an error of the hardware.
    """
    x, y, z = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float32) for v in (x, y, z)))
    x_bits, y_bits, z_bits = bits_of(x), bits_of(y), bits_of(z)
    (x_exponent, x_value), (y_exponent, y_value), (z_exponent, addend) = map(_unpack, (x_bits, y_bits, z_bits))
    product_sign, addend_sign = (x_bits ^ y_bits) & _SIGN, z_bits & _SIGN
    exponent = x_exponent + y_exponent - 127
    product, addend = _product(x_value, y_value), addend << _GUARD
    special = (x_exponent == 255) | (y_exponent == 255) | (z_exponent == 255) | (exponent >= 255)
    vanishes = (product == 0) | (exponent < 0)

    largest = jnp.maximum(exponent, z_exponent)
    aligned_product = _shift_sticky(product, largest - exponent)
    aligned_addend = _shift_sticky(addend, largest - z_exponent)
    sign = jnp.where(aligned_product >= aligned_addend, product_sign, addend_sign)
    difference = jnp.maximum(aligned_product, aligned_addend) - jnp.minimum(aligned_product, aligned_addend)
    total = jnp.where(product_sign == addend_sign, aligned_product + aligned_addend, difference)

    right = 5 - lax.clz(total).astype(jnp.int32)  # to 24 bits and the guard bits
    result_exponent = largest + right
    left = jnp.clip(-right, 0, 31).astype(jnp.uint32)
    down = jnp.clip(right, 0, 31).astype(jnp.uint32)
    total = jnp.where(right <= 0, total << left, (total >> down) | (total & 1))
    result = (result_exponent.astype(jnp.uint32) << 23) + ((total >> _GUARD) & _FRACTION)
    result = result + (((total & 7) + (result & 1)) > 4).astype(jnp.uint32)
    result = jnp.where(result_exponent >= 255, _EXPONENT, result) | sign
    flushed = (total == 0) | (result_exponent < 0) | ((result & _EXPONENT) == 0)
    result = jnp.where(flushed, 0, result)
    result = jnp.where(vanishes, jnp.where((z_bits & _EXPONENT) == 0, 0, z_bits), result)
    return jnp.where(special, _special(x, y, z, exponent, product_sign), float_of(result))


def _special(x: jax.Array, y: jax.Array, z: jax.Array, exponent: jax.Array, sign: jax.Array) -> jax.Array:
    """Infinities and NaNs by IEEE 754's rules, but a product that overflows by itself is infinite."""
    overflow = (exponent >= 255) & jnp.isfinite(x) & jnp.isfinite(y)
    return jnp.where(overflow, float_of(sign | _EXPONENT), x * y) + z


def multiply(x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Returns x * y as SFPMUL computes it: a multiply-add of zero."""
    product: jax.Array = multiply_add(x, y, jnp.float32(0))
    return product


def add(x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Returns x + y as SFPADD computes it: a multiply-add with one."""
    total: jax.Array = multiply_add(x, jnp.float32(1), y)
    return total


def cut_to_bf16(x: jax.Array) -> jax.Array:
    """Returns x without what a bf16 register or a move through one cannot hold."""
    return float_of(bits_of(x) & jnp.uint32(0xFFFF0000))


def to_register(x: jax.Array, fp32_dest: bool, *, even: bool = False) -> jax.Array:
    """Returns x as a destination register keeps it: float32, or rounded to bf16, half away from zero (or to even).

    Denormals, which the unit does not write, and -0 become +0.
    """
    bits = bits_of(x)
    if not fp32_dest:
        nan = (bits & ~_SIGN) > _EXPONENT
        half = 0x7FFF + ((bits >> 16) & 1) if even else jnp.uint32(0x8000)
        bits = jnp.where(nan, bits | 0x400000, bits + half) & jnp.uint32(0xFFFF0000)
    return float_of(jnp.where((bits & _EXPONENT) == 0, 0, bits))
