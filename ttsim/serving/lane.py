"""A queue, the requests that run, and their pool of cache blocks.

A request in decode whose cache has `base` + D tokens after D decode steps of the engine takes a block whenever that is
a multiple of the block size: counters by residue tell how many blocks any number of steps takes, without a token loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ttsim.serving.prefixes import PrefixCache


@dataclass(slots=True)
class Lane:
    """One lane of an engine.

    Attributes:
      free: blocks. due: requests that need a new block before decode step D, by D modulo the block size.
      cache: which blocks hold prefixes that can be found again, or None.
      waiting: the queue. running: admitted requests, oldest first.
      partial: tokens in the cache of prompts that are cut.
      decoding: how many requests decode. bases: the sum of their bases, so that their contexts add up to
        bases + decoding x D.
    """

    free: int
    due: list[int]
    cache: PrefixCache | None
    waiting: deque[int] = field(default_factory=deque)
    running: dict[int, None] = field(default_factory=dict)
    partial: dict[int, int] = field(default_factory=dict)
    decoding: int = 0
    bases: int = 0

    def load(self) -> int:
        """What a router compares: 4 x waiting + running."""
        return 4 * len(self.waiting) + len(self.running)

    def enter(self, base: int) -> None:
        """A request begins to decode."""
        self.due[-base % len(self.due)] += 1
        self.decoding += 1
        self.bases += base

    def leave(self, base: int) -> None:
        """A request decodes no longer."""
        self.due[-base % len(self.due)] -= 1
        self.decoding -= 1
        self.bases -= base

    def needed(self, done: int, steps: int) -> int:
        """Blocks that the decoding requests take in the next steps, after `done` of the engine's."""
        due = self.due
        size = len(due)
        cycles, rest = divmod(steps, size)
        first = done % size
        end = first + rest
        partly = sum(due[first:end]) if end <= size else sum(due[first:]) + sum(due[: end - size])
        return cycles * self.decoding + partly

    def affordable(self, done: int, steps: int) -> int:
        """Most steps below `steps` for whose blocks the pool suffices."""
        low, high = 0, steps - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.needed(done, middle) <= self.free else (low, middle - 1)
        return low

    def grow(self, blocks: int) -> None:
        """Running requests take blocks."""
        self.free -= blocks
        if self.cache is not None and blocks:
            self.cache.take_plain(blocks)

    def release(self, request: int, cached: int) -> None:
        """A request with so many tokens in the cache gives its blocks back."""
        size = len(self.due)
        blocks = -(-cached // size)
        self.free += blocks if self.cache is None else self.cache.give_back(request, blocks, cached // size)
        del self.running[request]


def readers(lanes: Sequence[Lane], done: int, context: int, look: int) -> tuple[int, int]:
    """(the readers of the next step, steps for which there are no more): see `StepPrices.decode`.

    With n requests, the sum of their contexts grows by n and the longest by one a step: there are r readers until
    sum + n k > r (longest + k).

    Args:
      done: decode steps of the engine so far. context: the longest. look: steps between two looks of the scheduler.
    """
    most, lasting = 1, 1 << 60
    stored = [(lane.decoding, lane.bases + lane.decoding * done) for lane in lanes]
    for _, positions in stored:
        if positions > most * context:
            most = -(-positions // context)
    for users, positions in stored:
        if users > most:
            held = (most * context - positions) // (users - most) // look * look + look
            if held < lasting:
                lasting = held
    return most, lasting
