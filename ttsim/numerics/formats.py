"""Number formats of Tenstorrent devices: bfp8_b, bfp4_b and bfp2_b beside bf16 and fp32, and the bytes of their tiles.

In a block format 16 consecutive values of the last axis share an exponent.
"""

from __future__ import annotations

import dataclasses
import math

from ttsim.errors import unknown

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
