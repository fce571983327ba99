"""The vector unit's functions bit for bit: exponential, reciprocal, sigmoid, SiLU, tanh, GELU, roots.

Each is a short polynomial or a few Newton steps of the unit's multiply-add: one version for float32 destination
registers and a cheaper one for bf16 registers, into which the result is rounded.

Sources: the constants and the order of operations are those of tt-metal's ckernel_sfpu_{exp,recip,sigmoid,silu,tanh,
sqrt,gelu}.h for Wormhole in ttnn 0.81.1. Equal to it on Tenstorrent's simulator in all bits
(tests/numerics/test_device_operations.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ttsim.numerics.reference.vector_unit import (
    add,
    bits_of,
    cut_to_bf16,
    float_of,
    multiply,
    multiply_add,
    to_register,
    value_by_value,
)

_EXPONENT = jnp.uint32(0x7F800000)
_FRACTION = jnp.uint32(0x007FFFFF)
_SIGN = jnp.uint32(0x80000000)


def _polynomial(x: jax.Array, *coefficients: float) -> jax.Array:
    """Horner's rule, lowest power first."""
    total: jax.Array = jnp.float32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = multiply_add(total, x, jnp.float32(coefficient))
    return total


def _with_exponent(value: jax.Array, exponent: jax.Array) -> jax.Array:
    """Returns value with another biased exponent."""
    return float_of((bits_of(value) & ~jnp.uint32(_EXPONENT)) | (exponent.astype(jnp.uint32) & 0xFF) << 23)


def _power_of_two(scaled: jax.Array, constant: float) -> jax.Array:
    """2**(scaled - 127) with a parabola for the fraction: exp_21f of Moroz et al., 10.1109/MSP.2022.3157460."""
    bits = bits_of(scaled)
    power, significand = (bits >> 23).astype(jnp.int32) - 127, (bits & _FRACTION) | 0x800000
    left, right = jnp.clip(power, 0, 31).astype(jnp.uint32), jnp.clip(-power, 0, 31).astype(jnp.uint32)
    fixed = jnp.where(power >= 0, significand << left, significand >> right)  # 8 bits, 23 bits of fraction
    exponent, fraction = (fixed >> 23) & 0xFF, (fixed & _FRACTION).astype(jnp.float32)
    value = _polynomial(fraction, constant, 7.839635491371155e-08, 4.791750143340323e-15)
    return _with_exponent(value, exponent)


def _exponential_bf16(x: jax.Array, constant: float) -> jax.Array:
    return _power_of_two(jnp.clip(multiply_add(x, 1.4426950216293335, 127.0), 0.0, 255.0), constant)


def _exponential_fp32(x: jax.Array) -> jax.Array:
    """exp(x) = 2**k exp(f) with x = k ln 2 + f, in two parts, and a polynomial of degree 6 for exp(f)."""
    k = jnp.clip(jnp.round(multiply(1.442695, x)), -32767, 32767)
    f = multiply_add(k, -1.42860677e-6, multiply_add(k, -6.93145752e-1, x))
    value = _polynomial(f, 1.0, 1.0, 4.99999851e-1, 1.66664720e-1, 4.16695364e-2, 8.37312452e-3, 1.37805939e-3)
    exponent = (bits_of(value) >> 23).astype(jnp.int32) + k.astype(jnp.int32)
    result = _with_exponent(value, exponent)
    result = jnp.where(exponent < 1, 0.0, jnp.where(exponent >= 255, jnp.inf, result))
    return jnp.where(jnp.isnan(x), jnp.nan, result)


def _exponential_approximate(x: jax.Array) -> jax.Array:
    """Schraudolph's exponential: x, scaled, becomes the bits of the result; linear between powers of two."""
    scaled = multiply_add(369.329925537109375, jnp.maximum(x, -88.5), 32500.818359375)
    return float_of(jnp.clip(jnp.floor(scaled + 0.5), 0, 65535).astype(jnp.uint32) << 15)


@value_by_value("approximate", "fp32_dest")
def exponential(x: ArrayLike, *, approximate: bool = False, fp32_dest: bool = True) -> jax.Array:
    """Returns exp(x), float32 values as the destination register keeps them.

    Args:
      x: float32, any shape.
      approximate: linear between powers of two, at most 3.4 % off; it saturates below -88.5.
      fp32_dest: float32 registers, else bf16 ones and the shorter polynomial.
    """
    x = jnp.asarray(x, jnp.float32)
    if approximate:  # a bf16 register takes the upper half of it
        value = _exponential_approximate(x)
        return value if fp32_dest else cut_to_bf16(value)
    return to_register(_exponential_fp32(x) if fp32_dest else _exponential_bf16(x, 1.001953125), fp32_dest)


@value_by_value("scale", "fp32_dest")
def attention_exponential(x: ArrayLike, *, scale: float, fp32_dest: bool = True) -> jax.Array:
    """Returns exp(x * scale) by attention's approximate exponential: of `exponential`'s kind, 0 below about -88.

    Args:
      x: float32, any shape. scale: a factor on x, float32. fp32_dest: float32 registers, else bf16 ones, which cut it.
    """
    slope = jnp.float32(369.329925537109375) * jnp.float32(scale)
    scaled = multiply_add(slope, x, 32500.818359375)
    value = float_of(jnp.clip(jnp.floor(scaled + 0.5), 0, 32767).astype(jnp.uint32) << 15)
    return value if fp32_dest else cut_to_bf16(value)


@value_by_value("scale", "polynomial", "fp32_dest")
def rescaling(x: ArrayLike, *, scale: float, polynomial: bool, fp32_dest: bool = True) -> jax.Array:
    """Returns exp(x * scale), by which attention rescales what earlier chunks gave; the scale is cut to bf16.

    Args:
      x: float32, any shape, at most 0. scale: a factor on x.
      polynomial: a polynomial of its own, of degree 4 for float32 registers and 2 for bf16 ones, else `exponential`'s.
      fp32_dest: float32 registers, else bf16 ones.
    """
    scaled = multiply(jnp.asarray(x, jnp.float32), cut_to_bf16(jnp.float32(scale)))
    if not polynomial:
        return to_register(_exponential_fp32(scaled) if fp32_dest else _exponential_bf16(scaled, 1.0017248), fp32_dest)
    k = jnp.clip(jnp.round(multiply(scaled, 1.44269504088896340736)), -127, 127)
    f = multiply_add(k, -0.69314718055994530942, scaled)
    wide = (1.0000001510806179, 0.99996228117047652, 0.49998365704615426, 0.16792157982882225, 0.041959439860014343)
    value = _polynomial(f, *(wide if fp32_dest else (0.9998487929243953, 1.0150876009852106, 0.5062836705674557)))
    power = _with_exponent(jnp.float32(1), k.astype(jnp.int32) + 127)
    return to_register(jnp.where(k <= -127, 0.0, multiply(value, power)), fp32_dest)


# A parabola for 1 / x on [1, 2): the seed of Newton's steps. Inside other functions, and as an operation of its own on
# bf16 registers, where it was fitted so that one step rounds correctly.
_SEED = (2.121212482452392578125, 1.4545459747314453125, 0.3232325017452239990234375)
_BF16_SEED = (2.1200883388519287109375, 1.4514148235321044921875, 0.32133400440216064453125)


def _reciprocal(x: jax.Array, steps: int, seed: tuple[float, float, float] = _SEED) -> jax.Array:
    bits = bits_of(x)
    negative = float_of((bits & _FRACTION) | jnp.uint32(0xBF800000))  # minus the significand
    y = _polynomial(negative, *seed)
    for _ in range(steps):
        y = multiply_add(y, multiply_add(negative, y, 1.0), y)
    scale = multiply(float_of(~bits & jnp.uint32(_EXPONENT)), 0.5)
    return float_of((bits_of(multiply(y, scale)) & ~_SIGN) | (bits & _SIGN))


@value_by_value("approximate", "fp32_dest", "fused")
def reciprocal(x: ArrayLike, *, approximate: bool = False, fp32_dest: bool = True, fused: bool = False) -> jax.Array:
    """Returns 1 / x: correctly rounded for bf16 registers, within an ulp for float32 ones.

    Args:
      x: float32, any shape.
      approximate: one Newton step, which a bf16 register cuts.
      fp32_dest: float32 registers, else bf16 ones.
      fused: with the seed of float32 registers also for bf16 ones, as within other kernels.
    """
    x = jnp.asarray(x, jnp.float32)
    if approximate:
        value = _reciprocal(x, 1)
        return value if fp32_dest else cut_to_bf16(value)
    return to_register(_reciprocal(x, 2) if fp32_dest else _reciprocal(x, 1, _SEED if fused else _BF16_SEED), fp32_dest)


def _sigmoid(x: jax.Array, fp32_dest: bool) -> jax.Array:
    exponent = _exponential_fp32(-x) if fp32_dest else _exponential_bf16(-x, 1.0017248)
    return _reciprocal(add(exponent, 1.0), 2 if fp32_dest else 1)


@value_by_value("fp32_dest")
def sigmoid(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns 1 / (1 + exp(-x))."""
    return to_register(_sigmoid(jnp.asarray(x, jnp.float32), fp32_dest), fp32_dest)


@value_by_value("fp32_dest")
def silu(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns x / (1 + exp(-x))."""
    x = jnp.asarray(x, jnp.float32)
    return to_register(multiply(x, _sigmoid(x, fp32_dest)), fp32_dest)


@value_by_value("fp32_dest")
def tanh(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns tanh(x): a polynomial of |x| for bf16 registers, else a quotient of expm1(|2 x|)."""
    x = jnp.asarray(x, jnp.float32)
    if not fp32_dest:
        value = _polynomial(
            jnp.abs(x),
            0.0,
            0.999004364013671875,
            3.0897438526153564453125e-2,
            -0.4890659749507904052734375,
            0.281917631626129150390625,
            -6.6649019718170166015625e-2,
            5.876733921468257904052734375e-3,
        )
        return to_register(jnp.copysign(jnp.minimum(value, 1.0), x), fp32_dest)
    return _tanh_fp32(x)


def _tanh_fp32(x: jax.Array) -> jax.Array:
    """x0 / (x0 + 1) with x0 = expm1(|2 x|) / 2, whose quotient is corrected by its rest; x itself below 2**-12."""
    double = jnp.abs(add(x, x))
    k = jnp.clip(jnp.floor(jnp.abs(multiply(x, 2.88539)) + 0.5), 0, 255)
    f = multiply_add(k, -0.6931471805599453, double)
    high = _polynomial(f, 0.5, 1.666667163e-1, 4.166680202e-2, 8.331298828e-3, 1.393318176e-3, 1.974105835e-4)
    scale = float_of((k.astype(jnp.uint32) + 126 & 0xFF) << 23)
    x0 = multiply_add(multiply_add(high, multiply(f, f), f), scale, add(scale, -0.5))
    x1 = add(x0, 1.0)
    negative = float_of(jnp.uint32(0xFEF30000) - bits_of(x1))  # a first guess of -1 / x1
    rest = multiply_add(x1, negative, 1.0)
    negative = multiply_add(negative, multiply_add(rest, rest, rest), negative)
    y0 = multiply(x0, negative)
    y = multiply_add(multiply_add(x1, y0, x0), negative, y0)
    y = jnp.where(k < 61, jnp.where((bits_of(x) >> 23) & 0xFF < 115, x, y), 1.0)
    return jnp.where(jnp.isnan(x), x, jnp.copysign(y, x))


def _root(x: jax.Array, reciprocal: bool) -> jax.Array:
    """Square root or its reciprocal by two Newton steps from a magic constant (10.1007/s11075-024-01932-7)."""
    y = float_of(jnp.uint32(0x5F1110A0) - (bits_of(x) >> 1))
    c = multiply(-y, multiply(x, y))
    y = multiply(y, multiply_add(c, add(2.2533049, c), 2.2825186))
    xy = multiply(x, y)
    rest = multiply_add(-y, xy, 1.0)
    if reciprocal:
        root = multiply_add(rest, multiply(y, 0.5), y)
        return jnp.where(x == 0, jnp.inf, jnp.where(jnp.isinf(x), 0.0, root))
    return jnp.where(jnp.isinf(x), x, multiply_add(rest, multiply(0.5, xy), xy))


@value_by_value("fp32_dest")
def square_root(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns the square root of x; NaN below 0."""
    x = jnp.asarray(x, jnp.float32)
    return to_register(jnp.where(x < 0, jnp.nan, _root(x, reciprocal=False)), fp32_dest)


@value_by_value("fp32_dest")
def reciprocal_square_root(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns 1 / sqrt(x); NaN below 0, infinity at 0."""
    x = jnp.asarray(x, jnp.float32)
    return to_register(jnp.where(x < 0, jnp.nan, _root(x, reciprocal=True)), fp32_dest)


@value_by_value("fp32_dest")
def square(x: ArrayLike, *, fp32_dest: bool = True) -> jax.Array:
    """Returns x * x."""
    x = jnp.asarray(x, jnp.float32)
    return to_register(multiply(x, x), fp32_dest, even=True)


# Slopes and offsets of the approximate GELU's odd part, by |x| from 0, 0.5, 1, 1.5, 2 and 3 on, as half-precision
# numbers that SFPLUTFP32 widens.
_GELU_SLOPES = (0.1927490234375, 0.493896484375, 0.61865234375, 0.60986328125, 0.5400390625, 0.5)
_GELU_OFFSETS = (-1.0442733764648438e-4, -0.160400390625, -0.279541015625, -0.263427734375, -0.119384765625, 0.0)


def _gelu_approximate(x: jax.Array) -> jax.Array:
    """x / 2 plus a piecewise linear function of |x|."""
    segment = jnp.searchsorted(jnp.array([0.5, 1.0, 1.5, 2.0, 3.0]), jnp.abs(x), side="right")
    slope, offset = (jnp.array(table, jnp.float32)[segment] for table in (_GELU_SLOPES, _GELU_OFFSETS))
    return add(multiply(x, 0.5), multiply_add(slope, jnp.abs(x), offset))


def _gelu_bf16(x: jax.Array) -> jax.Array:
    """x times an odd polynomial above -3.125, times exp(-x^2 / 2) and a cubic, in steps of 2**-25, below."""
    squared = multiply(x, x)
    half_tail = multiply(
        _power_of_two(multiply_add(squared, -0.72134752044, 127.0), 1.0017248),
        _polynomial(x, 3.0369991064e-01, 9.5413386822e-02, 1.3809983619e-02, 7.5950479368e-04),
    )
    tail = multiply(x, add(add(half_tail, 0.375), -0.375))
    odd = _polynomial(
        squared,
        3.9894227818e-01,
        -6.6361041488e-02,
        9.7720050615e-03,
        -1.0717806322e-03,
        8.1812159812e-05,
        -3.8082057209e-06,
        7.9821413868e-08,
    )
    core = multiply(x, multiply_add(x, odd, 0.5))
    return jnp.select([x >= 2.78125, x >= -3.125, x > -5.54259443], [x, core, tail], jnp.float32(0))


def _gelu_fp32(x: jax.Array) -> jax.Array:
    """x (1 + erf(x / sqrt 2)) / 2 with a rational erf; where it comes to -1, the first step of float32's erfc."""
    scaled = jnp.minimum(multiply(x, 0.7071067811865475), 10.0)
    squared = multiply(scaled, scaled)
    numerator = multiply(
        scaled,
        _polynomial(
            squared,
            1.1283791065,
            2.1477432549e-01,
            6.2133435160e-02,
            5.6230435148e-03,
            6.1307044234e-04,
            1.7678321456e-05,
            2.7384647439e-08,
            -2.8632063387e-10,
        ),
    )
    denominator = _polynomial(
        squared,
        1.0,
        5.2367275953e-01,
        1.2961706519e-01,
        1.9642570987e-02,
        1.9545555115e-03,
        1.3179056987e-04,
        1.3156344494e-06,
        -3.5153888689e-09,
        -6.7350725691e-12,
    )
    erf = jnp.clip(multiply(numerator, _reciprocal(denominator, 2)), -1.0, 1.0)
    value = multiply(x, multiply_add(0.5, erf, 0.5))
    value = jnp.where(erf == -1, multiply(x, 2.0**-25), value)
    return jnp.where(x > -5.54259443, value, 0.0)


@value_by_value("approximate", "fp32_dest")
def gelu(x: ArrayLike, *, approximate: bool = False, fp32_dest: bool = True) -> jax.Array:
    """Returns x times the normal distribution function of x.

    Args:
      x: float32, any shape.
      approximate: piecewise linear, as ttnn's `fast_and_approximate_mode`; a bf16 register cuts it.
      fp32_dest: float32 registers, else bf16 ones.
    """
    x = jnp.asarray(x, jnp.float32)
    if approximate:
        value = _gelu_approximate(x)
        return to_register(value if fp32_dest else cut_to_bf16(value), fp32_dest)
    return to_register(_gelu_fp32(x) if fp32_dest else _gelu_bf16(x), fp32_dest)
