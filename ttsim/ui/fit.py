"""Blocks as lines of a terminal: tables that fit its width, prose that wraps at words."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from ttsim.ui import text
from ttsim.ui.table import (
    PROSE_WIDTH,
    Block,
    Cell,
    Column,
    Figure,
    Table,
    is_left,
    occupied,
    printable,
    shown,
    value_of,
)

_GAP = 2
_BAR, _LEAST_BAR, _LEAST_TEXT = 40, 8, 16  # columns of a bar, and of a text that takes several lines
_LONG_WORD, _LEAST_WORD = 30, 10  # columns: words longer than the first may part, than the second if all else fails
_STYLES = {"strong": text.BOLD, "faint": text.DIM, "good": text.GREEN, "warn": text.YELLOW, "bad": text.RED}


def text_of(blocks: Sequence[Block], width: int, colour: bool = False) -> str:
    """The blocks as text of at most `width` columns; headings and titles have an empty line above them."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Figure):
            if block.lines:
                drawn = block.lines(width)
                lines += [""] * bool(drawn) + list(drawn)
            elif block.table:
                lines += _table(block.table, width, colour)
        elif isinstance(block, Table):
            lines += _table(block, width, colour)
        else:
            style = block.style or ("strong" if block.level else "")
            lines += [""] * bool(block.level) + _prose(block.content, style, width, colour)
    return "\n".join(lines).lstrip("\n") + "\n"


def paint(line: str, style: str, colour: bool) -> str:
    """A line in a style of `Cell`."""
    return text.paint(line, _STYLES[style], colour) if style else line


def _prose(content: str, style: str, width: int, colour: bool) -> list[str]:
    return [paint(line, style, colour) for line in text.wrap(printable(content), min(width, PROSE_WIDTH))]


def _table(table: Table, width: int, colour: bool) -> list[str]:
    kept, sizes, dropped = _fit(table, width)
    left = [is_left(table, i) for i in kept]
    room = [sizes[i] for i in kept]
    lines = ["", *_prose(table.title, "strong", width, colour)] if table.title else []
    headings = [table.columns[i].heading for i in kept]
    if any(headings):
        lines += [paint(line, "faint", colour) for line in _row(headings, room, left, low=True)]
    for row in table.rows:
        cells = [_drawn(row[i], table.columns[i], sizes[i]) for i in kept]
        styles = [row[i].style if isinstance(row[i], Cell) else "" for i in kept]
        lines += _row(cells, room, left, styles if colour else ())
    notes = table.notes_of(kept)
    if dropped:
        names = dict.fromkeys(_called(table, i) for i in sorted(dropped))
        notes.append(f"left out at {width} columns: {', '.join(names)}")
    return lines + [line for note in notes for line in _prose(note, "faint", width, colour)]


def _called(table: Table, index: int) -> str:
    """A column's name, or its key where several are called alike."""
    column = table.columns[index]
    alike = sum(each.name == column.name for each in table.columns) > 1
    return column.key.replace("_", " ") if alike and column.key else column.name.strip() or column.key


def _drawn(cell: Cell | object, column: Column, size: int) -> str:
    return text.bar(float(value_of(cell) or 0.0), size) if column.bar else shown(cell, column)


def _row(
    cells: Sequence[str], sizes: Sequence[int], left: Sequence[bool], styles: Sequence[str] = (), low: bool = False
) -> list[str]:
    """The lines of one row: cells wrapped at words, the shorter ones at the top, or at the bottom if `low`."""
    pieces = [_wrapped(cell, size) for cell, size in zip(cells, sizes, strict=True)]
    height = max(map(len, pieces), default=1)
    pieces = [[""] * (height - len(p)) + p if low else p + [""] * (height - len(p)) for p in pieces]
    lines = []
    for parts in zip(*pieces, strict=True):
        line = []
        for i, part in enumerate(parts):
            padding = " " * (sizes[i] - len(part))
            part = paint(part, styles[i], True) if styles else part
            line.append(part + padding if left[i] else padding + part)
        lines.append((" " * _GAP).join(line).rstrip())
    return lines


def _wrapped(cell: str, size: int) -> list[str]:
    if all(len(word) <= size for word in cell.split()):
        return textwrap.wrap(cell, max(size, 1), break_long_words=False, break_on_hyphens=False) or [""]
    lines = [""]
    for word in cell.split():
        for i, part in enumerate(_parts(word, size)):
            longer = f"{lines[-1]} {part}" if lines[-1] and not i else lines[-1] + part
            if len(longer) <= size or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(part)
    return lines


def _parts(word: str, size: int) -> list[str]:
    """A word, or one that is longer than `size` (a path, a name) parted after its slashes, else after its hyphens."""
    for mark in "/-":
        if len(word) > size and mark in word[:-1]:
            found = re.findall(f"[^{mark}]*{mark}|[^{mark}]+", word)
            return [part for piece in found for part in _parts(piece, size)]
    return [word]


def _fit(table: Table, width: int) -> tuple[list[int], dict[int, int], list[int]]:
    """(columns that stay, their sizes, columns that are left out) within a width.

    Headings break at words first and texts of `wrap` columns take several lines; then columns go, the highest priority
    first; and at last the other text columns take several lines, and long names and paths part.
    """
    kept, dropped = occupied(table), []
    least, most = {}, {}
    for i in kept:
        least[i], most[i] = _sizes(table, i, table.columns[i].wrap)
    while _total(least, kept) > width and any(table.columns[i].priority for i in kept):
        dropped.append(max(kept, key=lambda i: (table.columns[i].priority, i)))
        kept.remove(dropped[-1])
    if _total(least, kept) > width:
        least |= {i: _sizes(table, i, True)[0] for i in kept if is_left(table, i)}
    if _total(least, kept) > width:
        least |= {i: _sizes(table, i, True, _LEAST_WORD)[0] for i in kept if is_left(table, i)}
    sizes = {i: least[i] for i in kept}
    for i in sorted(kept, key=lambda i: most[i] - least[i]):  # those that need little are served first
        sizes[i] += max(0, min(most[i] - sizes[i], width - _total(sizes, kept)))
    for i in kept:  # a heading in one line, where there is room
        sizes[i] += max(0, min(len(table.columns[i].heading) - sizes[i], width - _total(sizes, kept)))
    return kept, sizes, dropped


def _sizes(table: Table, index: int, wrap: bool, word: int = _LONG_WORD) -> tuple[int, int]:
    """(least, most) columns that a column of the table takes, if words longer than `word` may part."""
    column = table.columns[index]
    heading = max(map(len, column.heading.split()), default=1)
    if column.bar:
        return max(_LEAST_BAR, heading), max(_BAR, heading)
    texts = [shown(row[index], column) for row in table.rows]
    most = max([heading, *map(len, texts)])
    words = [len(part) for each in texts for long in each.split() for part in _parts(long, word)]
    return (max([heading, min(most, _LEAST_TEXT, word), *words]) if wrap else most), most


def _total(sizes: Mapping[int, int], kept: Sequence[int]) -> int:
    return sum(sizes[i] for i in kept) + _GAP * (len(kept) - 1)
