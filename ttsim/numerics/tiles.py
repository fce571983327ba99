"""The bytes of a tensor in device memory: 32 x 32 tiles, byte for byte as `ttnn` stores them.

A tile holds four 16 x 16 faces in the order top left, top right, bottom left, bottom right, each face row by row. A row
of a face is one block of 16 values. A tile of a block format starts with its 64 shared exponents in that order; the
codes follow in the same order. Tiles are stored row by row. The last two axes are padded with zeros to whole tiles.

Sources: tt-metal tech_reports/tensor_layouts and ``blockfloat_common.cpp``.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.blockfloat import BLOCK
from ttsim.numerics.conversion import dequantize, quantize
from ttsim.numerics.formats import TILE, Format, get_format, tile_padded_bytes

_EXPONENT_BYTES = TILE * TILE // BLOCK


def _rows_and_cols(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns (leading size, rows, columns) of a shape; a missing row axis counts as 1."""
    if not shape:
        raise ValueError("tiles need at least one axis, got a scalar")
    rows, cols = (1, *shape)[-2:]
    return math.prod(shape[:-2]), rows, cols


def _to_faces(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Orders the bytes of blocks as tiles hold them.

    Args:
      blocks: uint8 [..., n_blocks, bytes], the blocks of an array of the given shape.
      shape: logical shape of that array.

    Returns:
      uint8 [n_tiles, 64 * bytes].
    """
    lead, rows, _ = _rows_and_cols(shape)
    n_blocks, n_bytes = blocks.shape[-2:]
    blocks = blocks.reshape(lead, rows, n_blocks, n_bytes)
    blocks = np.pad(blocks, [(0, 0), (0, -rows % TILE), (0, n_blocks % 2), (0, 0)])
    # Axes: leading, tile row, face row, row, tile column, face column, byte.
    faces = blocks.reshape(lead, -(-rows // TILE), 2, BLOCK, -(-n_blocks // 2), 2, n_bytes)
    tiles = faces.transpose(0, 1, 4, 2, 5, 3, 6)
    return tiles.reshape(math.prod(tiles.shape[:3]), _EXPONENT_BYTES * n_bytes)


def _from_faces(tiles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `_to_faces`: uint8 [n_tiles, 64 * bytes] -> uint8 [*shape[:-1], n_blocks, bytes]."""
    lead, rows, cols = _rows_and_cols(shape)
    n_bytes = tiles.shape[1] // _EXPONENT_BYTES
    tile_rows, tile_cols = -(-rows // TILE), -(-cols // TILE)
    faces = tiles.reshape(lead, tile_rows, tile_cols, 2, 2, BLOCK, n_bytes).transpose(0, 1, 3, 5, 2, 4, 6)
    blocks = faces.reshape(lead, tile_rows * TILE, tile_cols * 2, n_bytes)
    n_blocks = -(-cols // BLOCK)
    return blocks[:, :rows, :n_blocks].reshape(*shape[:-1], n_blocks, n_bytes)


def _plain_dtype(fmt: Format) -> np.dtype:
    return np.dtype(jnp.bfloat16 if fmt.name == "bf16" else np.float32)


def pack_tiles(x: ArrayLike | BlockArray, fmt: str | Format) -> np.ndarray:
    """Returns the tile bytes of an array as the host writes them to the device.

    Args:
      x: float32 or bfloat16 [..., rows, columns] (or [columns]), or a BlockArray of this format.
      fmt: format or name.

    Returns:
      uint8 [n_tiles, tile_bytes], tiles row by row, leading axes outermost.

    Raises:
      ValueError: unknown format, other dtype, a scalar, or a BlockArray of another format.
    """
    fmt = get_format(fmt)
    if isinstance(x, BlockArray) and x.fmt != fmt:
        raise ValueError(f"cannot pack a {x.fmt.name} BlockArray as {fmt.name}; dequantize it first")
    stored = x if isinstance(x, BlockArray) else quantize(x, fmt)
    shape = stored.shape
    if isinstance(stored, BlockArray):
        exponents = np.asarray(stored.exponents)[..., None]
        codes = np.asarray(stored.codes).reshape(*stored.exponents.shape, BLOCK // fmt.codes_per_byte)
        return np.concatenate([_to_faces(exponents, shape), _to_faces(codes, shape)], axis=1)
    cols = _rows_and_cols(shape)[2]
    values = np.asarray(stored)
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -cols % BLOCK)])
    n_blocks = -(-cols // BLOCK)
    blocks = np.ascontiguousarray(values).view(np.uint8).reshape(*shape[:-1], n_blocks, BLOCK * values.itemsize)
    return _to_faces(blocks, shape)


def unpack_tiles(tiles: np.ndarray, fmt: str | Format, shape: tuple[int, ...]) -> jax.Array:
    """Returns the values of tile bytes as the host reads them.

    Args:
      tiles: uint8 [n_tiles, tile_bytes], or any layout of as many bytes.
      fmt: format or name.
      shape: logical shape, without tile padding.

    Returns:
      float32 of that shape, bfloat16 for "bf16".

    Raises:
      ValueError: unknown format, a scalar shape, or a number of bytes that does not fit the shape.
    """
    fmt, shape = get_format(fmt), tuple(shape)
    lead, rows, cols = _rows_and_cols(shape)
    tiles = np.asarray(tiles, np.uint8)
    if tiles.size != tile_padded_bytes(shape, fmt):
        raise ValueError(
            f"{fmt.name} tiles of shape {shape} take {tile_padded_bytes(shape, fmt)} bytes, got {tiles.size}"
        )
    tiles = tiles.reshape(-(-rows // TILE) * -(-cols // TILE) * lead, fmt.tile_bytes)
    if fmt.is_block:
        exponents = _from_faces(tiles[:, :_EXPONENT_BYTES], shape)[..., 0]
        codes = _from_faces(tiles[:, _EXPONENT_BYTES:], shape)
        codes = codes.reshape(*shape[:-1], codes.shape[-2] * codes.shape[-1])
        return dequantize(BlockArray(jnp.asarray(exponents), jnp.asarray(codes), fmt, -cols % BLOCK))
    blocks = _from_faces(tiles, shape)
    values = np.ascontiguousarray(blocks).view(_plain_dtype(fmt))
    return jnp.asarray(values.reshape(*shape[:-1], blocks.shape[-2] * BLOCK)[..., :cols])
