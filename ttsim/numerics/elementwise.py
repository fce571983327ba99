"""Element-wise sums, products and activations as the device rounds them, at native speed and with derivatives.

Two bf16 or block-float tensors are added by the matrix unit, which aligns both to 10 fraction bits and rounds half away
from zero into a bf16 register; two bf16 tensors are multiplied by the vector unit, which rounds half to even. Source:
ttnn 0.81.1 on Tenstorrent's simulator (tests/numerics/test_device_operations.py compares all bits).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from ttsim.numerics.blockfloat import from_bits, round_bf16, to_bits
from ttsim.numerics.conversion import round_to

_FRACTION_BITS = 10  # of a SrcA or SrcB operand, and of aligned sums


def _aligned(bits: jax.Array, largest: jax.Array) -> jax.Array:
    """Returns signed significands in units of 2**(largest - 127 - 10), half away from zero."""
    exponent = (bits >> 23) & 0xFF
    significand = jnp.where(exponent == 0, 0, ((bits >> 13) & 0x3FF) | 0x400)
    shift = jnp.minimum(largest - exponent, 12)
    magnitude = ((significand + ((jnp.uint32(1) << shift) >> 1)) >> shift).astype(jnp.int32)
    return jnp.where(bits >> 31 == 1, -magnitude, magnitude)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def add(x: jax.Array, y: jax.Array, wide: bool = False) -> jax.Array:
    """Returns x + y as the matrix unit adds two tensors, bf16 values in float32; the derivative is that of the sum.

    The unit has no denormals, and takes infinity and NaN for numbers of one more binade (tt-isa-documentation MVMUL):
    a sum that reaches it is infinite, inf - inf is 0.

    Args:
      x: float32, bf16 or block-float values; of wider ones the matrix unit reads 10 fraction bits.
      y: the same, of a shape that broadcasts to x's.
      wide: float32 registers, which keep the sum of the aligned operands whole.
    """
    x, y = jnp.broadcast_arrays(x, y)
    x_bits, y_bits = to_bits(x), to_bits(y)
    largest = jnp.maximum((x_bits >> 23) & 0xFF, (y_bits >> 23) & 0xFF)
    total = _aligned(x_bits, largest) + _aligned(y_bits, largest)
    # Rounded as a whole number; its exponent is moved as an integer, since floats would flush what is near the ends.
    exact = to_bits(total.astype(jnp.float32))
    rounded = exact if wide else round_bf16(exact, "device")
    move = largest.astype(jnp.int32) - (127 + _FRACTION_BITS)
    exponent = ((rounded >> 23) & 0xFF).astype(jnp.int32) + move
    moved = rounded + (move << 23).astype(jnp.uint32)
    infinite = (rounded & jnp.uint32(0x80000000)) | jnp.uint32(0x7F800000)
    finite = jnp.where((total == 0) | (exponent <= 0), jnp.uint32(0), moved)
    return from_bits(jnp.where((total != 0) & (exponent >= 255), infinite, finite), jnp.float32)


@add.defjvp
def _add_jvp(
    wide: bool, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return add(*primals, wide), tangents[0] + tangents[1]


def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x * y as the vector unit multiplies two bf16 tensors, bf16 values in float32."""
    return round_to(x * y, "bf16")


@jax.custom_jvp
def silu(x: jax.Array) -> jax.Array:
    """Returns x / (1 + exp(-x)) with the vector unit's bf16 polynomials, bf16 values in float32.

    `ttsim.numerics.reference.vector_functions.silu` is the same bit for bit; this one leaves the roundings of the
    polynomials' steps to float32, and differs in the last place in about one value of a thousand.
    """
    return round_to(x * _sigmoid(x), "bf16", "device")


@silu.defjvp
def _silu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return silu(x), jax.jvp(jax.nn.silu, (x,), (dx,))[1]


def _sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)): a parabola for the fraction of 2**y, and one for the reciprocal with one Newton step."""
    scaled = jnp.clip(x * -1.4426950216293335 + 127.0, 0.0, 254.0)
    power = jnp.floor(scaled)
    fraction = scaled - power
    value = 1.0017248 + fraction * (0.65763628 + fraction * 0.33718944)
    denominator = 1.0 + value * from_bits(power.astype(jnp.uint32) << 23, jnp.float32)
    bits = to_bits(denominator)
    significand = from_bits((bits & 0x7FFFFF) | 0x3F800000, jnp.float32)
    y = 2.121212482452392578125 - significand * (1.4545459747314453125 - significand * 0.3232325017452239990234375)
    y = y + y * (1.0 - significand * y)
    return y * from_bits((254 << 23) - (bits & 0x7F800000), jnp.float32)


@jax.custom_jvp
def approximate_exponential(x: jax.Array) -> jax.Array:
    """Returns Schraudolph's exponential: linear between powers of two, 8 fraction bits, at most 3.4 % off."""
    scaled = jnp.floor(jnp.maximum(x, -88.5) * 369.329925537109375 + 32501.318359375)
    return from_bits(jnp.clip(scaled, 0, 65535).astype(jnp.uint32) << 15, jnp.float32)


@approximate_exponential.defjvp
def _approximate_exponential_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    value = approximate_exponential(primals[0])
    return value, value * tangents[0]
