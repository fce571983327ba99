"""Curves as characters, for terminals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

MARKS = "ox+*#@%&"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    width: int = 72,
    height: int = 14,
) -> list[str]:
    """Lines of a plot of named curves; an axis is logarithmic where its values span more than a factor of 8.

    Args:
      series: points (x, y) of each curve, y > 0. At most 8 curves have marks of their own.
      width, height: of the plotting area, in characters.
    """
    points = [point for each in series.values() for point in each]
    if not points:
        return []
    x_of, x_ends = _axis([x for x, _ in points], width)
    y_of, y_ends = _axis([y for _, y in points], height)
    grid = [[" "] * width for _ in range(height)]
    for index, each in enumerate(series.values()):
        for (x0, y0), (x1, y1) in itertools.pairwise(each):
            first, last = x_of(x0), x_of(x1)
            for column in range(first, last + 1):
                share = (column - first) / max(last - first, 1)
                level = round(y_of(y0) + share * (y_of(y1) - y_of(y0)))
                if grid[height - 1 - level][column] == " ":
                    grid[height - 1 - level][column] = "."
        for x, y in each:
            grid[height - 1 - y_of(y)][x_of(x)] = MARKS[index % len(MARKS)]
    margin = max(len(number(y)) for y in y_ends)
    lines = [title]
    for i, row in enumerate(grid):
        label = number(y_ends[1]) if i == 0 else number(y_ends[0]) if i == height - 1 else ""
        lines.append(f"{label:>{margin}} |{''.join(row)}".rstrip())
    low, high = number(x_ends[0]), number(x_ends[1])
    lines.append(" " * margin + " +" + "-" * width)
    lines.append(" " * (margin + 2) + low + f"{x_label:^{max(width - len(low) - len(high), 0)}}" + high)
    if len(series) > 1:
        named = [f"{MARKS[i % len(MARKS)]} {name}" for i, name in enumerate(series)]
        lines.append(" " * (margin + 2) + "   ".join(named))
    return lines


def scatter(
    points: Sequence[tuple[float, float, str]], *, title: str, unit: str, width: int = 80, height: int = 18
) -> list[str]:
    """Lines of a plot of marks (x, y, text); of two that would cover each other the earlier one stays."""
    left, right = _margins([x for x, _, _ in points])
    low, high = _margins([y for _, y, _ in points])
    columns = width - 9
    grid = [" " * columns for _ in range(height)]
    for x, y, mark in points:
        at = round((x - left) / (right - left) * (columns - 1 - len(mark)))
        row = round((high - y) / (high - low) * (height - 1))
        before, after = max(at - 1, 0), at + len(mark)
        if not grid[row][before : after + 1].strip():
            grid[row] = grid[row][:at] + mark + grid[row][after:]
    lines = [title]
    for i, line in enumerate(grid):
        label = f"{high - (high - low) * i / (height - 1):6.1f}" if i % 4 == 0 or i == height - 1 else " " * 6
        lines.append(f"{label} |{line}".rstrip())
    ends = f"{left:.1f}", f"{right:.1f} {unit}"
    lines.append("       +" + "-" * columns)
    return [*lines, " " * 8 + ends[0] + ends[1].rjust(columns - len(ends[0]))]


def _margins(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def is_log(values: Sequence[float]) -> bool:
    """Whether an axis over these values is better logarithmic."""
    return min(values) > 0 and max(values) / min(values) > 8


def _axis(values: Sequence[float], cells: int) -> tuple[Callable[[float], int], tuple[float, float]]:
    low, high = min(values), max(values)
    scale = math.log if is_log(values) else float
    span = scale(high) - scale(low)

    def cell(value: float) -> int:
        return round((scale(value) - scale(low)) / span * (cells - 1)) if span else 0

    return cell, (low, high)


def number(value: float) -> str:
    """A short number.

    Example:
      >>> number(65536), number(0.0153), number(12345.6)
      ('64k', '0.0153', '12,346')
    """
    if value >= 1024 and value == int(value) and int(value) % 1024 == 0:
        return f"{int(value) // 1024}k"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
