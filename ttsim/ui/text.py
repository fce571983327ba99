"""Aligned tables for terminals, and the few escape codes that colour them."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence

RED, YELLOW, GREEN, DIM, BOLD = "31", "33", "32", "2", "1"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def paint(text: str, code: str, on: bool = True) -> str:
    """The text in a colour or weight, if `on`."""
    return f"\x1b[{code}m{text}\x1b[0m" if on and text.strip() else text


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return len(_ESCAPE.sub("", text))


def align(rows: Iterable[Sequence[str]], left: int = 1, gap: str = "  ") -> list[str]:
    """Lines of cells padded to columns: the first `left` columns flush left, the others flush right."""
    rows = [list(row) for row in rows]
    if not rows:
        return []
    widths = [max(width(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            padding = " " * (widths[i] - width(cell))
            cells.append(cell + padding if i < left else padding + cell)
        lines.append(gap.join(cells).rstrip())
    return lines


def columns(rows: Sequence[Sequence[str]], right: Sequence[int], gap: str = "  ") -> list[str]:
    """Lines of cells padded to columns: those in `right` flush right, the others flush left."""
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        padding = [" " * (most - width(cell)) for most, cell in zip(widths, row, strict=True)]
        cells = [
            pad + cell if i in right else cell + pad for i, (pad, cell) in enumerate(zip(padding, row, strict=True))
        ]
        lines.append(gap.join(cells).rstrip())
    return lines


# The space between a number and its unit, which no line breaks at.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[munk]?s|[kMGT]?B|W|J|t/s)(?![\w/]))")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def wrap(line: str, columns: int = 118, indent: str = "  ") -> list[str]:
    """A long line in several, the later ones indented; a number keeps its unit."""
    whole = _BEFORE_UNIT.sub(_NO_BREAK, line)
    lines = textwrap.wrap(whole, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [each.replace(_NO_BREAK, " ") for each in lines]


_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, columns: int) -> str:
    """A horizontal bar of a share of so many columns, in eighths of a column; anything above zero shows."""
    eighths = round(max(0.0, min(share, 1.0)) * 8 * columns)
    eighths = max(eighths, 1) if share > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def duration(seconds: float) -> str:
    """Seconds with a unit that keeps three digits: "1.23 us", "45.6 ms", "7.89 s"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def size(amount: float, unit: str = "B") -> str:
    """An amount with a decimal prefix: "1.23 GB"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(amount) >= factor:
            return f"{amount / factor:.3g} {prefix}{unit}"
    return f"{amount:.3g} {unit}"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers with runs joined.

    Example:
      >>> ranges([7, 0, 1, 2, 3, 4])
      '0-4, 7'
    """
    parts = []
    for _, run in itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        each = [number for _, number in run]
        parts.append(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}")
    return ", ".join(parts)


def precision_text(precision: str) -> str:
    """A precision as people read it: decoders that are alike joined, "decoders 0-4, 7 = {ff2: bfp4}"."""
    decoders: dict[str, list[int]] = {}
    for index, body in re.findall(r", decoder_(\d+) = (\{[^}]*\})", precision):
        decoders.setdefault(body, []).append(int(index))
    rest = re.sub(r", decoder_\d+ = \{[^}]*\}", "", precision)
    return rest + "".join(f", decoders {ranges(indices)} = {body}" for body, indices in decoders.items())
