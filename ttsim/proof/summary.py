"""Relative errors, summarised the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorSummary:
    """Statistics of errors e = model / published - 1, as fractions.

    Attributes:
      rows: how many.
      median, mean, p90, max: of |e|; P90 interpolates linearly.
      bias: mean of e.
    """

    rows: int
    median: float
    mean: float
    p90: float
    max: float
    bias: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> ErrorSummary | None:
        """The summary of these errors, or None if there are none."""
        values = np.fromiter(errors, float)
        if not values.size:
            return None
        size = np.abs(values)
        return cls(
            rows=int(values.size),
            median=float(np.median(size)),
            mean=float(size.mean()),
            p90=float(np.quantile(size, 0.9)),
            max=float(size.max()),
            bias=float(values.mean()),
        )
