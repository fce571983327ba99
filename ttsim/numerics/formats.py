"""Number formats of Tenstorrent devices: bfp8_b, bfp4_b and bfp2_b beside bf16 and fp32.

In a block format 16 consecutive values of the last axis share an exponent; `ttsim.numerics.blockfloat` has the rules.

    BlockArray = quantize(x, "bfp8")      packed: 1.0625 bytes per value
    x          = dequantize(BlockArray)
    x          = round_to(x, "bfp8")      the same values without the storage, with a straight-through derivative
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ttsim.errors import unknown
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

TILE = 32  # device tensors are stored in 32 x 32 tiles


@dataclasses.dataclass(frozen=True)
class Format:
    """A storage format of device tensors.

    Args:
      name: the name used in precision settings.
      mantissa_bits: explicit magnitude bits ``W`` of a block format; None for bf16 and fp32.
      fraction_bits: bits after the leading one that a value can carry.
      tile_bytes: bytes of one 32 x 32 tile in device memory, shared exponents included.
    """

    name: str
    mantissa_bits: int | None
    fraction_bits: int
    tile_bytes: int

    @property
    def is_block(self) -> bool:
        """Whether 16 values share an exponent."""
        return self.mantissa_bits is not None

    @property
    def bytes_per_value(self) -> float:
        """Bytes of one value in a full tile, e.g. 1.0625 for bfp8."""
        return self.tile_bytes / TILE**2

    @property
    def codes_per_byte(self) -> int:
        """Sign-and-magnitude codes in one byte: 1, 2 or 4."""
        if self.mantissa_bits is None:
            raise ValueError(f"{self.name} is not a block format")
        return 8 // (self.mantissa_bits + 1)


# Tile sizes: tt-metal `tile_size(DataFormat)`; a block format has 64 exponent bytes and 1024 codes of 8, 4 or 2 bits.
FORMATS: dict[str, Format] = {
    "bfp8": Format("bfp8", 7, 6, 1088),
    "bfp4": Format("bfp4", 3, 2, 576),
    "bfp2": Format("bfp2", 1, 0, 320),
    "bf16": Format("bf16", None, 7, 2048),
    "fp32": Format("fp32", None, 23, 4096),
}


def get_format(name_or_format: str | Format) -> Format:
    """Returns the format of a name; a Format passes through.

    Raises:
      ValueError: unknown name; the message lists the nearest valid ones.
    """
    if isinstance(name_or_format, Format):
        return name_or_format
    if name_or_format not in FORMATS:
        raise unknown("format", name_or_format, FORMATS)
    return FORMATS[name_or_format]


def tile_padded_bytes(shape: tuple[int, ...], fmt: str | Format) -> int:
    """Returns the bytes a tensor takes in device memory, where its last two axes are padded to whole 32 x 32 tiles.

    Args:
      shape: logical shape; a missing row axis counts as 1.
      fmt: format or name.
    """
    rows, cols = (1, 1, *shape)[-2:]
    tiles = math.prod(shape[:-2]) * -(-rows // TILE) * -(-cols // TILE)
    return tiles * get_format(fmt).tile_bytes


def check_shard_alignment(global_last_dim: int, n_shards: int, fmt: str | Format) -> None:
    """Checks that splitting the last axis over shards cuts no block of 16 values.

    Args:
      global_last_dim: size of the last axis before sharding.
      n_shards: shards of that axis.
      fmt: format or name; only block formats constrain the split.

    Raises:
      ValueError: a shard would not hold whole blocks.
    """
    fmt = get_format(fmt)
    if n_shards < 1 or global_last_dim % n_shards:
        raise ValueError(f"last axis of {global_last_dim} does not split evenly into {n_shards} shards")
    if fmt.is_block and n_shards > 1 and (global_last_dim // n_shards) % BLOCK:
        raise ValueError(
            f"{fmt.name}: {n_shards} shards of a last axis of {global_last_dim} would cut a block "
            f"({global_last_dim // n_shards} values per shard is not a multiple of {BLOCK})"
        )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["exponents", "codes"], meta_fields=["fmt", "padding"])
@dataclasses.dataclass(frozen=True, eq=False)
class BlockArray:
    """Values in a block format: a pytree of two uint8 arrays, 1.0625, 0.5625 or 0.3125 bytes per value.

    Invariants (of arrays made by `quantize`):
      * ``exponents`` is uint8 [..., n_blocks], ``codes`` uint8 [..., n_blocks * 16 / codes_per_byte].
      * A code is ``sign << W | q``; a byte of ``codes`` holds one code (bfp8), two (bfp4) or four (bfp2), the first in
        the lowest bits, so it is the byte the device stores.
      * No code is a negative zero (``1 << W``), which the device would read as minus infinity.
      * The last axis is padded with zeros to whole blocks. Only ``padding`` (0 to 15) is static: the shape follows from
        the arrays, so mapping, scanning and sharding over leading axes, or over whole blocks of an unpadded last axis,
        leaves a valid BlockArray.
    """

    exponents: jax.Array
    codes: jax.Array
    fmt: Format
    padding: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape, without the padding of the last axis."""
        return (*self.codes.shape[:-1], self.codes.shape[-1] * self.fmt.codes_per_byte - self.padding)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """Number of logical values."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype `dequantize` returns by default."""
        float32: jnp.dtype = jnp.dtype(jnp.float32)
        return float32

    @property
    def nbytes(self) -> int:
        """Bytes held: exponents and packed codes, block padding included."""
        return self.exponents.size + self.codes.size

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Sharding of the codes; the exponents follow it."""
        return self.codes.sharding

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[BlockArray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        if not hasattr(self.codes, "shape"):  # a tree of shardings, shapes, ...
            return f"BlockArray({self.fmt.name}, exponents={self.exponents!r}, codes={self.codes!r})"
        return f"BlockArray({self.fmt.name}{list(self.shape)})"

    def __getitem__(self, index: Any) -> BlockArray:
        """Indexes leading axes freely, and the last axis by slices of whole blocks.

        Raises:
          IndexError: too many indices, or an index of the last axis that would cut a block.
        """
        index = index if isinstance(index, tuple) else (index,)
        at = next((i for i, entry in enumerate(index) if entry is Ellipsis), len(index))
        before, after = index[:at], index[at + 1 :]
        used = sum(_axes_indexed(entry) for entry in before + after)
        if used > self.ndim:
            raise IndexError(f"{used} indices for a BlockArray of shape {self.shape}")
        # Spell out every axis, so that the last entry is the one of the block axis.
        index = (*before, *[slice(None)] * (self.ndim - used), *after)
        start, stop, padding = self._block_slice(index[-1])
        per_block = BLOCK // self.fmt.codes_per_byte
        return BlockArray(
            self.exponents[(*index[:-1], slice(start, stop))],
            self.codes[(*index[:-1], slice(start * per_block, stop * per_block))],
            self.fmt,
            padding,
        )

    def _block_slice(self, entry: Any) -> tuple[int, int, int]:
        """Returns first block, end block and padding of a slice of the last axis."""
        size = self.shape[-1]
        if not isinstance(entry, slice):
            raise IndexError(f"the last axis of a BlockArray takes slices of whole blocks of {BLOCK}, not {entry!r}")
        start, stop, step = entry.indices(size)
        stop = max(start, stop)
        if step != 1 or start % BLOCK or (stop % BLOCK and stop != size):
            raise IndexError(f"slice {start}:{stop}:{step} of the last axis of {size} cuts a block of {BLOCK}")
        return start // BLOCK, -(-stop // BLOCK), -stop % BLOCK

    def reshape(self, *shape: int | tuple[int, ...]) -> BlockArray:
        """Reshapes leading axes; the last axis must keep its size.

        Raises:
          ValueError: the last axis would change.
        """
        dims = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if not dims or dims[-1] != self.shape[-1]:
            raise ValueError(f"reshape of a BlockArray keeps the last axis: {self.shape} -> {dims}")
        return BlockArray(
            self.exponents.reshape(*dims[:-1], self.exponents.shape[-1]),
            self.codes.reshape(*dims[:-1], self.codes.shape[-1]),
            self.fmt,
            self.padding,
        )


def _axes_indexed(entry: Any) -> int:
    """Returns how many axes an index entry consumes."""
    if entry is None:
        return 0
    if getattr(entry, "dtype", None) == jnp.bool_:
        return int(entry.ndim)
    return 1


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
