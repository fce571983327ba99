"""What every tool shows: paragraphs, tables and figures, written once as values and rendered in five formats.

    Table("Systems", (Column("system"), Column("TTFT", "ms", 1, scale=1e3, key="ttft")), [("N150", 0.1046)])

Rows hold plain values in SI units. `text`, `markdown` and `html` show them with a column's unit and digits; `json` and
`csv` hold them as they are, under the column's key.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import numbers
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["text", "markdown", "csv", "json", "html"]
FORMS: tuple[Form, ...] = ("text", "markdown", "csv", "json", "html")
LEAST_WIDTH, PROSE_WIDTH = 80, 120  # columns: of the narrowest terminal that is served, of the longest line of prose


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its heading. unit: shown beside the name ("" is none).
      digits: decimals of its numbers; None shows whole numbers as they are and others with three digits.
      priority: 0 always stays. Where a terminal is too narrow, columns with the highest priority are left out first,
        of equal ones the rightmost.
      key: its name in JSON and CSV, by default the heading.
      scale: what a value is multiplied by where people read it (1e3: seconds in ms).
      signed: whether numbers show their sign.
      wrap: whether its texts may take several lines rather than push other columns out.
      bar: whether the value is a share that is drawn as a bar (left out of markdown).
      right: whether its texts are flush right, as numbers are.
    """

    name: str
    unit: str = ""
    digits: int | None = None
    priority: int = 0
    key: str = ""
    scale: float = 1.0
    signed: bool = False
    wrap: bool = False
    bar: bool = False
    right: bool = False

    @property
    def heading(self) -> str:
        return f"{self.name} {self.unit}".strip()


@dataclass(frozen=True)
class Cell:
    """A value with a text of its own, or a style: "strong", "faint", "good", "warn" or "bad"."""

    value: Any
    shown: str | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
      title: above it. notes: below it.
      columns, rows: a value (or `Cell`) of each row for each column; None shows nothing.
      hints: of each row, what HTML shows when the pointer rests on it.
      meanings: what columns mean, by name; said below the table of those that it shows.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    hints: Sequence[str] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)

    def notes_of(self, kept: Sequence[int]) -> list[str]:
        """The lines below the table where these columns of it are shown."""
        names = [self.columns[i].name for i in kept]
        said = [f"{name}: {self.meanings[name]}." for name in names if name in self.meanings]
        return [*([" ".join(said)] if said else []), *self.notes]

    def records(self) -> list[dict[str, Any]]:
        """The rows as {key: value}."""
        keys = [column.key or column.name for column in self.columns]
        return [{key: value_of(cell) for key, cell in zip(keys, row, strict=True)} for row in self.rows]


@dataclass(frozen=True)
class Paragraph:
    """A text that is wrapped to the width; `level` 1 and 2 are headings."""

    content: str
    style: str = ""
    level: int = 0


@dataclass(frozen=True)
class Figure:
    """What text and pages show in ways of their own: lines of characters for a width, an element of a page, a table.

    Text takes the lines and pages the element; where those are missing, and in markdown, the table stands for them.
    """

    lines: Callable[[int], Sequence[str]] | None = None
    html: str = ""
    table: Table | None = None


Block = Table | Paragraph | Figure


def columns_of(width: int | None = None) -> int:
    """Columns that text may take: the given ones, those of the terminal or $COLUMNS, or 120 in a file; 80 at least."""
    if width is None:
        known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        width = shutil.get_terminal_size((PROSE_WIDTH, 24)).columns if known else PROSE_WIDTH
    return max(width, LEAST_WIDTH)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numpy's numbers as Python's, infinities as null, dates in ISO format."""
    if isinstance(value, Cell):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "ndarray":
        return [plain(each) for each in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def value_of(cell: Any) -> Any:
    return cell.value if isinstance(cell, Cell) else cell


def shown(cell: Any, column: Column) -> str:
    """A cell as people read it."""
    if isinstance(cell, Cell) and cell.shown is not None:
        return printable(cell.shown)
    value = value_of(cell)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, numbers.Real):
        return printable(str(value))
    sign = "+" if column.signed else ""
    if column.digits is None and isinstance(value, numbers.Integral) and column.scale == 1:
        return f"{int(value):{sign},}"
    number = float(value) * column.scale
    if column.digits is not None:
        return f"{number:{sign},.{column.digits}f}"
    return f"{number:{sign},.0f}" if abs(number) >= 1000 else f"{number:{sign}.3g}"


def printable(content: str) -> str:
    """Without control characters, which a name may carry to a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", content)


def is_left(table: Table, index: int) -> bool:
    """Whether a column holds text, and is flush left."""
    column = table.columns[index]
    if column.right or column.bar:
        return column.bar
    values = [value_of(row[index]) for row in table.rows]
    return not any(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values)


def occupied(table: Table) -> list[int]:
    """The columns with something to show."""
    return [
        i
        for i, column in enumerate(table.columns)
        if not table.rows or any(shown(row[i], column) for row in table.rows)
    ]
