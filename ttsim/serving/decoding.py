"""The requests that decode in an engine, by when they end and by their contexts.

All of them gain a token a decode step. After D steps of the engine a request that came with n tokens after D0 of them
has a context of (n - D0) + D: what tells requests apart doesn't change with the steps. Heaps hold it; entries of
requests that decode no longer, or anew, are dropped when they are met.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Decoding:
    """Requests that decode.

    Attributes:
      steps: decode steps of the engine so far: D. base: of each request, its context less D.
    """

    def __init__(self, look: int) -> None:
        """`look`: decode steps between two looks at the queue."""
        self.steps, self.base = 0, dict[int, int]()
        self._look = look
        self._end: dict[int, int] = {}
        self._ends: list[tuple[int, int]] = []  # (D at its end, request)
        self._contexts: list[tuple[int, int]] = []  # (-base, request)
        self._last: dict[int, int] = {}  # D of the last token, for looks of several steps
        self._lasts: list[tuple[int, int]] = []  # (-that, request)

    def enter(self, request: int, base: int, left: int) -> None:
        """A request begins to decode; it wants `left` tokens more, and ends with the look that yields the last one."""
        look = self._look
        end = self.steps + -(-left // look) * look
        self.base[request], self._end[request] = base, end
        heappush(self._ends, (end, request))
        heappush(self._contexts, (-base, request))
        if look > 1:
            self._last[request] = self.steps + left
            heappush(self._lasts, (-self.steps - left, request))

    def leave(self, request: int) -> int:
        """A request decodes no longer; its base."""
        del self._end[request]
        self._last.pop(request, None)
        return self.base.pop(request)

    def ended(self) -> list[int]:
        """The requests that end with the steps so far, which have still to leave."""
        ends, end, found = self._ends, self._end, []
        while ends and ends[0][0] <= self.steps:
            moment, request = heappop(ends)
            if end.get(request) == moment:
                found.append(request)
                end[request] = -1  # so that a second entry is none
        return found

    def next_end(self) -> int:
        """Steps until the next request ends."""
        ends, end = self._ends, self._end
        while end.get(ends[0][1]) != ends[0][0]:
            heappop(ends)
        return ends[0][0] - self.steps

    def longest_context(self) -> int:
        """The longest context, before the next step."""
        contexts, base = self._contexts, self.base
        while base.get(contexts[0][1]) != -contexts[0][0]:
            heappop(contexts)
        return self.steps - contexts[0][0]

    def left(self) -> int:
        """Steps until the last token of the request that wants the most."""
        lasts, last = self._lasts, self._last
        while last.get(lasts[0][1]) != -lasts[0][0]:
            heappop(lasts)
        return -lasts[0][0] - self.steps

    def all_end(self) -> None:
        """The look ended with the last token that any request wants."""
        self._end = dict.fromkeys(sorted(self.base), self.steps)
        self._ends = [(end, request) for request, end in self._end.items()]
