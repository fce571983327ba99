"""What the software of a date does: the switches that moved the published figures."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Software:
    """A state of tt-metal and tt_transformers.

    Attributes:
      date: of the code.
    """

    date: datetime.date


def software_of(date: datetime.date | None = None) -> Software:
    """The state of the software at a date (None: that of the published tables, 2025-05-12)."""
    return Software(date=date or datetime.date(2025, 5, 12))
