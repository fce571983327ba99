"""The bit-level rules of block floats: blocks of float32 bits to shared exponents and magnitudes, and back.

A block is 16 consecutive values of the last axis. They share one 8-bit exponent ``E`` (biased as in float32) and each
keeps a sign and a magnitude ``q`` of ``W`` bits with no hidden one:

    value = (-1)**sign * q * 2**(E - 127 - (W - 1))

Everything here works on the integer bits of float32, because float arithmetic is not exact enough: ``exp2`` is off by
an ulp for most integers on CPU, and a float maximum flushes denormals.

Sources: tt-metal ``blockfloat_common.cpp`` (host) and the packer's conversions in tt-isa-documentation,
``WormholeB0/TensixTile/TensixCoprocessor/Packers/FormatConversion`` (device).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

BLOCK = 16  # values that share one exponent: one row of a 16 x 16 face
ROUNDINGS = ("host", "device", "device_precise")


def to_bits(x: jax.Array) -> jax.Array:
    """Returns the float32 bits of float32 or bfloat16 values, denormals and NaN payloads untouched."""
    if x.dtype == jnp.bfloat16:
        return lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16
    return lax.bitcast_convert_type(x, jnp.uint32)


def from_bits(bits: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Inverse of `to_bits`; for bfloat16 the low 16 bits must be zero."""
    if jnp.dtype(dtype) == jnp.bfloat16:
        return lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return lax.bitcast_convert_type(bits, jnp.float32)


def blocks(x: jax.Array) -> jax.Array:
    """Pads the last axis with zeros to whole blocks and splits it: [..., n] -> [..., n_blocks, 16]."""
    padding = -x.shape[-1] % BLOCK
    if padding:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])
    return x.reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)


def encode(bits: jax.Array, w: int, rounding: str) -> tuple[jax.Array, jax.Array]:
    """Encodes blocks of float32 bits.

    Args:
      bits: uint32 [..., n_blocks, 16].
      w: magnitude bits.
      rounding: one of ROUNDINGS.

    Returns:
      Shared exponents uint32 [..., n_blocks, 1] and magnitudes uint32 [..., n_blocks, 16].
    """
    if rounding == "host":
        return _encode_host(bits, w)
    return _encode_device(bits, w, precise=rounding == "device_precise")


def _encode_host(bits: jax.Array, w: int) -> tuple[jax.Array, jax.Array]:
    """Host packer: shift to the shared exponent, then round half to even on what is left, then saturate.

    The shift drops bits before the rounding looks at them, so a value just above a tie counts as the tie.
    Source: tt-metal ``blockfloat_common.cpp``, `convert_u32_to_bfp`.
    """
    exponent = (bits >> 23) & 0xFF
    shared = jnp.max(exponent, axis=-1, keepdims=True)
    significand = (bits & 0x7FFFFF) | 0x800000
    significand = significand >> jnp.minimum(shared - exponent, 31)
    drop = 24 - w
    tie = ((1 << (drop - 1)) - 1) + ((significand >> drop) & 1)
    magnitude = jnp.minimum((significand + tie) >> drop, (1 << w) - 1)
    return shared, jnp.where(exponent == 0, 0, magnitude)


def _encode_device(bits: jax.Array, w: int, precise: bool) -> tuple[jax.Array, jax.Array]:
    """Device packer: via bf16 (rounded to 6 fraction bits unless precise), half away to 7 bits, then truncated to w.

    Source: tt-isa-documentation, Packers/FormatConversion; tt-metal compute option `bfp8_pack_precise`.
    """
    half = (bits >> 16) & 0x7FFF  # magnitude of the value truncated to bf16
    half = jnp.where(half < 0x80, 0, jnp.minimum(half, 0x7F80))  # denormals to zero, NaN to infinity
    if not precise:
        half = (half + 1) & 0x7FFE  # the carry may raise the exponent, and with it the block's
    exponent = half >> 7
    shared = jnp.max(exponent, axis=-1, keepdims=True)
    significand = jnp.where(exponent == 0, 0, (half & 0x7F) | 0x80)
    shift = jnp.minimum(shared - exponent, 8)  # from 8 on the result is 0
    magnitude = jnp.minimum((significand + (jnp.uint32(1) << shift)) >> (shift + 1), 0x7F)
    return shared, magnitude >> (7 - w)


def decode(sign: jax.Array, magnitude: jax.Array, shared: jax.Array, w: int) -> jax.Array:
    """Returns float32 bits of ``(-1)**sign * magnitude * 2**(shared - 127 - (w - 1))``.

    The conversion of the magnitude to float32 normalises it; adding to the exponent field then scales it exactly, also
    where a float multiplication would flush. As in tt-metal ``blockfloat_common.cpp``, a zero magnitude keeps its sign,
    a value whose exponent falls below 0 becomes +0, and one at exponent 0 leaves its fraction as a denormal.

    Args:
      sign: uint32 [..., n_blocks, 16], the sign in bit 31, other bits zero.
      magnitude: uint32 [..., n_blocks, 16].
      shared: uint32 [..., n_blocks, 1].
      w: magnitude bits.
    """
    unscaled = lax.bitcast_convert_type(magnitude.astype(jnp.int32).astype(jnp.float32), jnp.int32)
    scaled = unscaled + ((shared.astype(jnp.int32) - (126 + w)) << 23)
    nonzero = jnp.where(scaled < 0, 0, sign | scaled.astype(jnp.uint32))
    return jnp.where(magnitude == 0, sign, nonzero)


def _code_shifts(per_byte: int, ndim: int) -> jax.Array:
    """Returns the bit position of each code in its byte, uint8 [1, ..., per_byte]."""
    return (jnp.arange(per_byte, dtype=jnp.uint8) * (8 // per_byte)).reshape((1,) * (ndim - 1) + (per_byte,))


def pack_codes(codes: jax.Array, per_byte: int) -> jax.Array:
    """Packs codes uint8 [..., n] into bytes uint8 [..., n / per_byte], the first code in the lowest bits."""
    if per_byte == 1:
        return codes
    groups = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_byte, per_byte)
    # The bits do not overlap, so the sum is a bitwise or. XLA's CPU backend vectorises it, unlike strided slices.
    return jnp.sum(groups << _code_shifts(per_byte, groups.ndim), axis=-1, dtype=jnp.uint8)


def unpack_codes(packed: jax.Array, per_byte: int) -> jax.Array:
    """Inverse of `pack_codes`."""
    if per_byte == 1:
        return packed
    codes = (packed[..., None] >> _code_shifts(per_byte, packed.ndim + 1)) & ((1 << (8 // per_byte)) - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)


def round_bf16(bits: jax.Array, rounding: str) -> jax.Array:
    """Rounds float32 bits to bf16: half to even on the host, half away from zero in the device packer.

    The host has one NaN. The packer has none (NaN becomes infinity), no denormals and no negative zero (ttnn 0.81.1 on
    Tenstorrent's simulator). On bits, because XLA may drop a cast to bf16 that is undone later, and a cast keeps the
    sign of a NaN.
    """
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    if rounding == "host":
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & jnp.uint32(0xFFFF0000)
        return jnp.where(is_nan, jnp.uint32(0x7FC00000), rounded)
    rounded = (bits + 0x8000) & jnp.uint32(0xFFFF0000)
    rounded = jnp.where(is_nan, bits & jnp.uint32(0xFF800000), rounded)
    return jnp.where((bits & 0x7F800000) == 0, jnp.uint32(0), rounded)
