"""Simulated time: whole picoseconds, so that sums don't depend on their order and a run repeats bit for bit."""

from __future__ import annotations

TICKS_PER_SECOND = 10**12


def ticks(seconds: float) -> int:
    """The nearest whole number of picoseconds."""
    return round(seconds * TICKS_PER_SECOND)


def seconds(ticks: float) -> float:
    """Seconds of a number of picoseconds."""
    return ticks / TICKS_PER_SECOND
