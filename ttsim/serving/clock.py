"""Simulated time: whole picoseconds, so that sums don't depend on their order and a run repeats bit for bit."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

TICKS_PER_SECOND = 10**12


def ticks(seconds: float) -> int:
    """The nearest whole number of picoseconds."""
    return round(seconds * TICKS_PER_SECOND)


@overload
def seconds(ticks: float) -> float: ...
@overload
def seconds(ticks: np.ndarray) -> np.ndarray: ...
def seconds(ticks: Any) -> Any:
    """Seconds of a number of picoseconds, or of an array of them."""
    return ticks / TICKS_PER_SECOND
