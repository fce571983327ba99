"""Tiles, padded sizes and grids of cores: tt_transformers' own arithmetic."""

from __future__ import annotations

import functools

TILE = 32
MAX_GRID_SIDE = 8


def tiles(size: int) -> int:
    """Tiles of 32 that cover a size."""
    return -(-size // TILE)


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def padded_prefill_length(tokens: int) -> int:
    """The length a prompt is padded to: 128, else the next power of 2 or multiple of 2048, whichever is less.

    Source: tt-metal models/tt_transformers/tt/common.py, `get_padded_prefill_len`.
    """
    if tokens < 1:
        raise ValueError(f"a prompt has at least one token, not {tokens}")
    if tokens <= 128:
        return 128
    return min(1 << (tokens - 1).bit_length(), -(-tokens // 2048) * 2048)


def _is_grid(cores: int) -> bool:
    """Whether so many cores form a rectangle of at most 8 x 8."""
    return any(cores % rows == 0 and cores // rows <= MAX_GRID_SIDE for rows in range(1, MAX_GRID_SIDE + 1))


@functools.cache
def closest_grid(size_tiles: int, target: int = 32) -> int:
    """Cores of a grid that divide the tiles evenly, as close to `target` as possible (`find_grid`)."""
    divisors = [c for c in range(1, MAX_GRID_SIDE**2 + 1) if size_tiles % c == 0 and _is_grid(c)]
    return min(divisors, key=lambda cores: abs(cores - target))


@functools.cache
def largest_grid(k_tiles: int, n_tiles: int) -> int:
    """The most cores whose number divides both tile counts (`find_grid_k_n`)."""
    return max(c for c in range(1, MAX_GRID_SIDE**2 + 1) if k_tiles % c == 0 and n_tiles % c == 0 and _is_grid(c))
