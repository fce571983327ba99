"""Dates of software: the project's one parser, and the date that everything defaults to."""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

# The code the published tables were generated with; what `date=None` means.
TABLE_DATE = datetime.date(2025, 5, 12)
_SHOWN = 40  # characters of a text in an error line


@dataclass(frozen=True)
class Period:
    """A date as it is known: a day, or any day of a month or year.

    Attributes:
      first, last: the earliest and the latest day that it may be.
    """

    first: datetime.date
    last: datetime.date

    @property
    def middle(self) -> datetime.date:
        """The day in the middle, what a question with an uncertain date is answered for."""
        return self.first + (self.last - self.first) // 2

    def __str__(self) -> str:
        if self.first == self.last:
            return self.first.isoformat()
        return f"{self.first:%Y-%m}" if self.first.month == self.last.month else f"{self.first:%Y}"


def parse_period(text: str) -> Period:
    """The days that "2025-11-05", "2025-11" or "2025" may mean.

    Raises:
      ValueError: it is none of these.
    """
    match = re.fullmatch(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", text.strip())
    try:
        if match is None:
            raise ValueError
        year, month, day = (int(part) if part else None for part in match.groups())
        assert year is not None
        if month is None:
            return Period(datetime.date(year, 1, 1), datetime.date(year, 12, 31))
        if day is None:
            last = calendar.monthrange(year, month)[1]
            return Period(datetime.date(year, month, 1), datetime.date(year, month, last))
        return Period(datetime.date(year, month, day), datetime.date(year, month, day))
    except (ValueError, calendar.IllegalMonthError):
        raise ValueError(
            f"date {text[:_SHOWN]!r} is no day, month or year in ISO format, like 2025-05-12 or 2025-05"
        ) from None


def parse_date(date: datetime.date | str | None) -> datetime.date:
    """A day from a day, a text in ISO format, or None (that of the published tables).

    Raises:
      ValueError: the text is no day.
    """
    if date is None:
        return TABLE_DATE
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise ValueError(f"date {date[:_SHOWN]!r} is no day in ISO format, like 2025-05-12") from None
