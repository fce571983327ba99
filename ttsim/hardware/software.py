"""What the software of a date does: the switches that moved the published figures."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass

from ttsim.precision.values import TABLE_DATE

# Back-to-back dispatch of traced programs on all cores: tt-metal pgm_dispatch_golden.json at these dates.
_DISPATCH = (
    (datetime.date(2024, 12, 1), 3.13e-6),
    (datetime.date(2025, 5, 1), 2.90e-6),
    (datetime.date(2025, 11, 1), 2.91e-6),
    (datetime.date(2026, 4, 13), 1.57e-6),
)


@dataclass(frozen=True, kw_only=True)
class Software:
    """A state of tt-metal and tt_transformers.

    Attributes:
      date: of the code.
      dispatch_gap: seconds between the end of a traced kernel and the start of the next.
      dynamic_chunks: flash decode takes small chunks while the context is short (tt-metal 24986581ac, 2025-04).
      device_untilize: prefill logits are untilized on the device before the host reads them (bcfc2c1a3f, 2025-03-17).
      device_argmax: largest batch whose argmax is taken on the device (PR #25510, 2025-07, lifts it to 32).
      traced_prefill: prefill runs from a trace (PR #29827, 2025-10).
    """

    date: datetime.date
    dispatch_gap: float
    dynamic_chunks: bool
    device_untilize: bool
    device_argmax: int
    traced_prefill: bool


def software_of(date: datetime.date | None = None) -> Software:
    """The state of the software at a date (None: that of the published tables, 2025-05-12)."""
    date = date or TABLE_DATE
    return Software(
        date=date,
        dispatch_gap=_between(date, _DISPATCH),
        dynamic_chunks=date >= datetime.date(2025, 4, 1),
        device_untilize=date >= datetime.date(2025, 3, 17),
        device_argmax=32 if date >= datetime.date(2025, 7, 31) else 1,
        traced_prefill=date >= datetime.date(2025, 10, 1),
    )


def _between(date: datetime.date, known: tuple[tuple[datetime.date, float], ...]) -> float:
    """The value at a date, interpolated between known dates, constant before and after them."""
    for (first, low), (second, high) in itertools.pairwise(known):
        if date < second:
            share = max((date - first).days, 0) / (second - first).days
            return low + share * (high - low)
    return known[-1][1]
