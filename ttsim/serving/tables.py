"""Decode steps of one price, as prefix sums over contexts, and how often each was a gap between two tokens.

Any number of steps costs one difference. A table holds for so many rows, so many readers (users at the longest context
whose cache is as large as all users' together) and, where the host samples, so many users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttsim.serving.clock import TICKS_PER_SECOND
from ttsim.serving.policy import Policy
from ttsim.serving.prices import HostCosts, StepPrices


@dataclass(slots=True)
class StepTable:
    """Prices of decode steps by context.

    Attributes:
      first: prefix sums in ticks of steps that nothing overlaps. later: of steady steps; the same list without
        async_scheduling. gaps: differences over contexts of the number of gaps that were a steady step.
    """

    first: list[int]
    later: list[int]
    gaps: list[int]


class StepTables:
    """The tables of an engine, made when they are asked for."""

    def __init__(self, policy: Policy, prices: StepPrices, host: HostCosts, longest: int) -> None:
        """`longest`: the largest context that is asked for."""
        self._policy, self._prices, self._host, self._longest = policy, prices, host, longest
        self._tables: dict[tuple[int, int, int], StepTable] = {}

    def get(self, rows: int, readers: int, users: int) -> StepTable:
        """The table of a step."""
        key = rows, readers, users if self._host.sample else 0
        return self._tables.get(key) or self._make(*key)

    def _make(self, rows: int, readers: int, users: int) -> StepTable:
        times = np.asarray(self._prices.decode(rows, readers, np.arange(1, self._longest + 1)), float)
        times = times + users * self._host.sample
        first = later = _sums(times + self._host.decode_step)
        if self._policy.async_scheduling:
            later = _sums(np.maximum(times, self._host.decode_step))
        table = self._tables[rows, readers, users] = StepTable(first, later, [0] * (len(first) + 1))
        return table

    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """(ticks, how many gaps between tokens were a plain decode step of so many)."""
        values, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for table in self._tables.values():
            number = np.cumsum(np.array(table.gaps[: len(table.later) - 1]))
            used = np.flatnonzero(number)
            values.append(np.diff(np.array(table.later))[used])
            counts.append(number[used])
        return np.concatenate(values), np.concatenate(counts)


def _sums(times: np.ndarray) -> list[int]:
    """Prefix sums in ticks: entry c is the time of steps at contexts below c (context 0 is never run)."""
    whole = np.rint(times * TICKS_PER_SECOND).astype(np.int64)
    return [0, 0, *np.cumsum(whole).tolist()]
