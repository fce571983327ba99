"""Which blocks of a paged cache can be found again, and in which order they are lost.

A group's requests share a chain of blocks from their first token on. Blocks that no request holds stay findable until
they are needed: the free blocks are a queue, the longest unused first, and the end of a chain is lost before its start.
Runs of blocks are kept, not single ones.

Source: vLLM V1 core/block_pool.py and kv_cache_manager.py (2026): touch, free in reverse order, evict from the front.
"""

from __future__ import annotations

from collections import deque

_PLAIN = -1  # group of a run of blocks that nothing can find


class PrefixCache:
    """The free queue of one lane's pool, and each group's chain."""

    def __init__(self, blocks: int) -> None:
        self._queue: deque[list[int]] = deque([[_PLAIN, 0, blocks]])  # [group, first block, end]
        self._chain: dict[int, int] = {}  # findable blocks of a group
        self._holders: dict[int, dict[int, int]] = {}  # of a group: {blocks held from the start: requests}
        self._held: dict[int, tuple[int, int]] = {}  # of a request: (group, blocks of its chain)

    def hit(self, group: int, most: int) -> int:
        """Blocks of a group's chain that a request can use, at most `most`."""
        return min(self._chain.get(group, 0), most) if group >= 0 else 0

    def idle(self, group: int, hit: int) -> int:
        """Of the first `hit` blocks of a chain, those that no request holds: taking them uses up free blocks."""
        return max(hit - self._referenced(group), 0)

    def take(self, request: int, group: int, hit: int, new: int, full: int) -> None:
        """Gives a request the first `hit` blocks of a chain and `new` others.

        Args:
          full: how many blocks the request fills in all; where it holds the whole chain, it prolongs it to these.
        """
        if group < 0:
            self.take_plain(new)
            return
        self._unqueue(group, hit)
        self._hold(request, group, hit)
        self.take_plain(new)
        self.fill(request, full)

    def fill(self, request: int, full: int) -> None:
        """A request has filled so many blocks; where it holds its group's whole chain, they prolong it."""
        if request not in self._held:
            return
        group, held = self._held[request]
        if held != self._chain[group] or full <= held:
            return
        self._unhold(group, held)
        self._hold(request, group, full)
        self._chain[group] = full

    def take_plain(self, blocks: int) -> None:
        """Takes blocks from the front of the queue; chains lose what was in them."""
        while blocks:
            run = self._queue[0]
            group, first, end = run
            taken = min(blocks, end - first)
            run[2] -= taken
            if group != _PLAIN and taken:
                self._chain[group] = min(self._chain[group], run[2])
            blocks -= taken
            if run[1] >= run[2]:
                self._queue.popleft()

    def give_back(self, request: int, blocks: int, full: int) -> int:
        """Frees a request's blocks, its last one first, and returns how many nobody holds now.

        Args:
          blocks: that it has in all. full: those that are full, for the chain.
        """
        if request not in self._held:
            self._append(_PLAIN, 0, blocks)
            return blocks
        self.fill(request, full)
        group, held = self._held.pop(request)
        self._append(_PLAIN, 0, blocks - held)
        self._unhold(group, held)
        kept = self._referenced(group)
        self._append(group, kept, held)
        return blocks - held + max(held - kept, 0)

    def _referenced(self, group: int) -> int:
        return max(self._holders.get(group) or (0,))

    def _hold(self, request: int, group: int, blocks: int) -> None:
        holders = self._holders.setdefault(group, {})
        holders[blocks] = holders.get(blocks, 0) + 1
        self._held[request] = group, blocks
        self._chain.setdefault(group, 0)

    def _unhold(self, group: int, blocks: int) -> None:
        holders = self._holders[group]
        holders[blocks] -= 1
        if not holders[blocks]:
            del holders[blocks]

    def _append(self, group: int, first: int, end: int) -> None:
        if end <= first:
            return
        if group == _PLAIN and self._queue and self._queue[-1][0] == _PLAIN:
            self._queue[-1][2] += end - first
        else:
            self._queue.append([group, first, end])

    def _unqueue(self, group: int, hit: int) -> None:
        """Takes a chain's first `hit` blocks out of the queue, as far as they are in it."""
        if self.idle(group, hit):
            for run in self._queue:
                if run[0] == group and run[1] < hit:
                    run[1] = min(hit, run[2])
