"""Tiles: the unit in which the device stores, moves and multiplies."""

from __future__ import annotations

from typing import Any

from ttsim.numerics.formats import TILE, get_format


def tiles(size: int) -> int:
    """Tiles that `size` values of one axis take."""
    return -(-size // TILE)


def rows_and_columns(x: Any) -> tuple[int, int]:
    """[..., N] as a matrix: the product of the leading axes, and N."""
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return rows, x.shape[-1]


def tensor_bytes(rows: int, columns: int, fmt: str) -> int:
    """Bytes of a matrix in DRAM or L1, padded to whole tiles."""
    return tiles(rows) * tiles(columns) * get_format(fmt).tile_bytes


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
