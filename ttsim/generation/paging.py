"""The paged KV cache: blocks of positions, handed to users as their sequences grow, and the table that finds them.

A pool holds pages [blocks, kv_heads, block_size, head_dim]; row u of the block table lists, in order, the blocks that
hold user u's positions. Position p of user u is row p % block_size of page table[u, p // block_size].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttsim.errors import OutOfBlocksError as OutOfBlocksError


@dataclass(frozen=True)
class PageParams:
    """Size of one replica's pool.

    Attributes:
      block_size: positions of a block. max_num_blocks: blocks of the pool.
    """

    block_size: int = 32
    max_num_blocks: int = 1024

    def __post_init__(self) -> None:
        if self.block_size < 32 or self.block_size % 32:
            raise ValueError(f"page_block_size must be a multiple of 32, the rows of a tile, not {self.block_size}")
        if self.max_num_blocks < 1:
            raise ValueError(f"page_max_num_blocks must be at least 1, not {self.max_num_blocks}")

    def positions_per_user(self, users: int) -> int:
        """Longest sequence when the pool is shared evenly."""
        return self.max_num_blocks // users * self.block_size


class BlockTable:
    """Which blocks of the pool hold which user's positions.

    Blocks are handed out in a random order, as tt_transformers' demo does, so that nothing can rely on neighbours.

    Args:
      params: the pool.
      users: rows of the table.
      seed: of the order.
    """

    def __init__(self, params: PageParams, users: int, seed: int = 0):
        self.params = params
        self._free = [int(block) for block in np.random.default_rng(seed).permutation(params.max_num_blocks)]
        self._blocks: list[list[int]] = [[] for _ in range(users)]

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def blocks(self, user: int) -> tuple[int, ...]:
        """The blocks of a user, in the order of its positions."""
        return tuple(self._blocks[user])

    def reserve(self, user: int, positions: int) -> None:
        """Makes sure that a user has blocks for positions 0 .. positions - 1.

        Raises:
          OutOfBlocksError: the pool is used up; the user keeps what it has.
        """
        missing = -(-positions // self.params.block_size) - len(self._blocks[user])
        if missing > len(self._free):
            used = self.params.max_num_blocks - len(self._free)
            raise OutOfBlocksError(
                f"out of KV-cache blocks: user {user} needs {missing} more of {self.params.block_size} positions to "
                f"reach position {positions - 1}, and {used} of {self.params.max_num_blocks} are in use"
            )
        for _ in range(missing):
            self._blocks[user].append(self._free.pop())

    def release(self, user: int) -> None:
        """Gives a user's blocks back."""
        self._free += self._blocks[user]
        self._blocks[user] = []

    def table(self) -> np.ndarray:
        """int32 [users, most blocks of a user], as the device gets it; -1 where a user has no block."""
        width = max(map(len, self._blocks), default=0)
        return np.array([row + [-1] * (width - len(row)) for row in self._blocks], np.int32).reshape(-1, width)
