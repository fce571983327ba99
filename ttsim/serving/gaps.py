"""Times between tokens, counted without a list of tokens.

A stretch of k steps of n requests is k x n gaps of known price, but for its first step, whose gap began where each
request's last token was, and, with async_scheduling, for its last one, if a prefill holds it back.
"""

from __future__ import annotations

from ttsim.serving.accounts import Totals
from ttsim.serving.tables import StepTable


class Gaps:
    """Gaps between the tokens of an engine's requests.

    Attributes:
      fresh: last token of requests that came since the last decode step.
    """

    def __init__(self, totals: Totals, look: int) -> None:
        """`look`: decode steps whose tokens are sent together."""
        self._totals, self._look = totals, look
        self.fresh: dict[int, int] = {}
        self._token = 0  # last token of the other decoding requests
        self._lost: dict[int, int] = {}  # last token of preempted requests
        self._last: tuple[StepTable, int] | None = None  # table and context of the last step, if it isn't out yet

    def preempted(self, request: int) -> None:
        """A request that decodes gives up."""
        self._lost[request] = self.fresh.pop(request, self._token)

    def recomputed(self, request: int, moment: int) -> None:
        """It yields its next token."""
        self._totals.gap(moment - self._lost.pop(request), 1)

    def stretch(self, table: StepTable, start: int, context: int, steps: int, extra: int, users: int) -> None:
        """A stretch of decode steps that begins at `start`, its first step `extra` ticks longer than in the table."""
        later, look, gaps = table.later, min(self._look, steps), table.gaps
        old = users - len(self.fresh)
        begin, end = context + look, context + steps
        if old:
            if not extra and look == 1 and self._token == start:
                gaps[context] += old
                gaps[context + 1] -= old
            else:
                self._totals.gap(start + extra + later[begin] - later[context] - self._token, old)
        if self.fresh:
            first = start + extra + later[begin] - later[context]
            for moment in self.fresh.values():
                self._totals.gap(first - moment, 1)
            self.fresh.clear()
        if look == 1:
            gaps[begin] += users
            gaps[end] -= users
        else:
            for at in range(begin, end, look):
                self._totals.gap(later[min(at + look, end)] - later[at], users)
        self._token = start + extra + later[end] - later[context]

    def hold_back(self, table: StepTable, context: int) -> None:
        """The last step's tokens are sent after a prefill, if one comes next."""
        self._last = table, context

    def sent(self) -> None:
        """The last step's tokens are out."""
        self._last = None

    def publish(self, clock: int, users: int) -> None:
        """A prefill has just run: tokens that it held back reach the clients."""
        if self._last is None:
            return
        table, at = self._last
        self._last = None
        if users:
            table.gaps[at] -= users
            table.gaps[at + 1] += users
            self._totals.gap(table.later[at + 1] - table.later[at] + clock - self._token, users)
            self._token = clock
