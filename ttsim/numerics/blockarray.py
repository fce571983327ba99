"""Values in a block format as a pytree that maps, scans, shards and indexes whole blocks of 16 neighbours."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ttsim.numerics.blockfloat import BLOCK
from ttsim.numerics.formats import Format


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
