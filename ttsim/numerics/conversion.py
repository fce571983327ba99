"""Values to and from a storage format; `ttsim.numerics.blockfloat` has the rules.

    BlockArray = quantize(x, "bfp8")      packed: 1.0625 bytes per value
    x          = dequantize(BlockArray)
    x          = round_to(x, "bfp8")      the same values without the storage, with a straight-through derivative

Blocks run along the last axis.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ttsim.errors import unknown
from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.blockfloat import (
    BLOCK,
    ROUNDINGS,
    blocks,
    decode,
    encode,
    from_bits,
    pack_codes,
    round_bf16,
    to_bits,
    unpack_codes,
)
from ttsim.numerics.formats import Format, get_format


def _float_array(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"block formats take float32 or bfloat16 values, got {x.dtype}; cast first")
    return x


def _check_rounding(rounding: str) -> None:
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)


@functools.partial(jax.jit, static_argnames=("fmt", "rounding"))
def _quantize(x: jax.Array, fmt: Format, rounding: str) -> BlockArray | jax.Array:
    if fmt.name == "fp32":
        return x.astype(jnp.float32)
    if fmt.mantissa_bits is None:
        return x if x.dtype == jnp.bfloat16 else from_bits(round_bf16(to_bits(x), rounding), jnp.bfloat16)
    w = fmt.mantissa_bits
    bits = blocks(to_bits(x))
    shared, magnitude = encode(bits, w, rounding)
    codes = jnp.where(magnitude == 0, 0, (bits >> 31 << w) | magnitude).astype(jnp.uint8)
    codes = codes.reshape(*x.shape[:-1], shared.shape[-2] * BLOCK)
    return BlockArray(
        shared[..., 0].astype(jnp.uint8), pack_codes(codes, fmt.codes_per_byte), fmt, -x.shape[-1] % BLOCK
    )


def quantize(x: ArrayLike, fmt: str | Format, rounding: str = "host") -> BlockArray | jax.Array:
    """Converts values to a storage format.

    Args:
      x: float32 or bfloat16 [..., n], at least one axis; blocks run along the last axis.
      fmt: format or name.
      rounding: "host" (`ttnn.from_torch`), "device" (the packer) or "device_precise" (with `bfp8_pack_precise`).

    Returns:
      A BlockArray for block formats, else a bfloat16 or float32 array.

    Raises:
      ValueError: unknown format or rounding, other dtype, a scalar for a block format, or (host rule, in `shard_map`)
        a shard that cuts a block.
    """
    fmt, x = get_format(fmt), _float_array(x)
    _check_rounding(rounding)
    if fmt.is_block and x.ndim == 0:
        raise ValueError(f"{fmt.name} needs at least one axis to share exponents along, got a scalar")
    _check_shard(x, fmt, rounding)
    stored: BlockArray | jax.Array = _quantize(x, fmt, rounding)
    return stored


def _check_shard(x: jax.Array, fmt: Format, rounding: str) -> None:
    """Refuses to convert a shard of broken blocks: the host converts whole tensors, before they are sharded.

    The device's packer is another matter: each device pads its own tiles.
    """
    if not fmt.is_block or rounding != "host" or x.ndim == 0 or x.shape[-1] % BLOCK == 0:
        return
    mesh = jax.sharding.get_abstract_mesh()
    if any(mesh.shape[axis] > 1 for axis in mesh.manual_axes):
        raise ValueError(
            f"a shard of {x.shape[-1]} values along the last axis cuts a block of {BLOCK} of {fmt.name}: shard in "
            f"multiples of {BLOCK}, or convert before sharding"
        )


@functools.partial(jax.jit, static_argnames="dtype")
def _dequantize(a: BlockArray, dtype: jnp.dtype) -> jax.Array:
    assert a.fmt.mantissa_bits is not None
    w = a.fmt.mantissa_bits
    codes = unpack_codes(a.codes, a.fmt.codes_per_byte)
    codes = codes.reshape(*a.exponents.shape, BLOCK).astype(jnp.uint32)
    shared = a.exponents[..., None].astype(jnp.uint32)
    bits = decode((codes >> w) << 31, codes & ((1 << w) - 1), shared, w)
    values = from_bits(bits, dtype).reshape(*a.exponents.shape[:-1], a.exponents.shape[-1] * BLOCK)
    return values[..., : a.shape[-1]]


def dequantize(a: BlockArray | ArrayLike, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Returns the values of a BlockArray, or an array cast to dtype.

    ``value = (-1)**sign * q * 2**(E - 127 - (W - 1))``. Every block-float value is exactly a bfloat16 value.

    Args:
      a: BlockArray or array.
      dtype: float32 or bfloat16 for a BlockArray, anything for an array.

    Raises:
      ValueError: another dtype for a BlockArray.
    """
    if not isinstance(a, BlockArray):
        return jnp.asarray(a).astype(dtype)
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"a BlockArray dequantises to float32 or bfloat16, not {dtype}")
    values: jax.Array = _dequantize(a, dtype)
    return values


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
@functools.partial(jax.jit, static_argnums=(1, 2))
def _round_to(x: jax.Array, fmt: Format, rounding: str) -> jax.Array:
    if fmt.name == "bf16":
        return x if x.dtype == jnp.bfloat16 else from_bits(round_bf16(to_bits(x), rounding), jnp.float32)
    assert fmt.mantissa_bits is not None
    values = x if x.ndim else x[None]
    bits = blocks(to_bits(values))
    shared, magnitude = encode(bits, fmt.mantissa_bits, rounding)
    sign = jnp.where(magnitude == 0, 0, bits & jnp.uint32(0x80000000))
    rounded = decode(sign, magnitude, shared, fmt.mantissa_bits)
    rounded = rounded.reshape(*values.shape[:-1], shared.shape[-2] * BLOCK)
    return from_bits(rounded[..., : values.shape[-1]], x.dtype).reshape(x.shape)


@_round_to.defjvp
def _round_to_jvp(
    fmt: Format, rounding: str, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _round_to(primals[0], fmt, rounding), tangents[0]


def round_to(x: ArrayLike, fmt: str | Format, rounding: str = "host") -> jax.Array:
    """Rounds values to a format's grid; equal to ``dequantize(quantize(x, fmt, rounding))`` without the storage.

    The derivative is straight-through: that of the identity.

    Args:
      x: float32 or bfloat16, any shape; blocks run along the last axis.
      fmt: format or name; "fp32" is the identity.
      rounding: as in `quantize`.

    Returns:
      An array of x's shape and dtype.

    Raises:
      ValueError: unknown format or rounding, other dtype, or (host rule, in `shard_map`) a shard that cuts a block.
    """
    fmt, x = get_format(fmt), _float_array(x)
    _check_rounding(rounding)
    if fmt.name == "fp32":
        return x
    _check_shard(x, fmt, rounding)
    rounded: jax.Array = _round_to(x, fmt, rounding)
    return rounded
