"""A sweep as people read it: the table, and a curve of each figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ttsim.explore.sweep import FIGURES, Point, Sweep
from ttsim.scenarios.question import NUMBERS
from ttsim.ui import charts, plot
from ttsim.ui.table import Block, Column, Document, Figure, Paragraph, Table

# What is drawn: name, figure, factor.
CURVES = (
    ("speed, t/s/u", "speed", 1.0),
    ("TTFT, ms", "ttft", 1e3),
    ("throughput, t/s", "throughput", 1.0),
    ("Top-1, %", "top1", 1.0),
)
_COLUMNS = (
    Column("speed", "t/s/u", 2),
    Column("TTFT", "ms", 1, scale=1e3),
    Column("throughput", "t/s", 1, priority=1),
    Column("request", "s", 2, priority=3),
    Column("DRAM", "GB", 2, priority=2, scale=1e-9),
    Column("Top-1", "%", 1),
    Column("Top-5", "%", 1, priority=4),
    Column(" ", wrap=True),
)


def document(sweep: Sweep) -> Document:
    """The sweep in every format."""
    figures = (*FIGURES, "capacity", "problem")
    records = [{**point.values, **{name: getattr(point, name) for name in figures}} for point in sweep.points]
    question = {k: v for k, v in dataclasses.asdict(sweep.question).items() if k not in sweep.axes}
    columns = (*(Column(name) for name in sweep.axes), *_COLUMNS)
    table = Table("", columns, [_cells(point) for point in sweep.points])
    heading = Paragraph(sweep.title, level=1)
    blocks = [heading, table, *_drawings(sweep)]
    return Document(sweep.title, blocks, record={"question": question, "points": records}, rows=records)


def _cells(point: Point) -> tuple[Any, ...]:
    figures = (point.speed, point.ttft, point.throughput, point.latency, point.used, point.top1, point.top5)
    return (*point.values.values(), *figures, point.problem)


def _drawings(sweep: Sweep) -> list[Block]:
    """A curve of each figure over the longest axis of numbers; a figure that repeats another one is left out."""
    found: list[Block] = []
    for name, figure, factor in CURVES:
        x, series = curves_of(sweep, figure, factor)
        repeated = figure == "throughput" and all(p.throughput == p.speed for p in sweep.points)
        constant = figure == "top1" and len({p.top1 for p in sweep.points}) < 2
        if series and not repeated and not constant:
            found.append(_drawing(series, name, x))
    return found


def _drawing(series: Mapping[str, Sequence[tuple[float, float]]], name: str, x: str) -> Figure:
    def lines(width: int) -> Sequence[str]:
        return plot.curves(series, title=name, x_label=x, width=min(width - 10, 72))

    few = len(series) <= len(plot.MARKS)
    return Figure(lines if few else None, charts.curves(series, title=name, x_label=x))


def curves_of(sweep: Sweep, figure: str, factor: float = 1.0) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """(field on the x axis, points of each curve): the axis of numbers with the most values, "" if there is none."""
    numeric = [name for name in sweep.axes if name in NUMBERS and len(sweep.axes[name]) > 1]
    if not numeric:
        return "", {}
    x = max(numeric, key=lambda name: len(sweep.axes[name]))
    series: dict[str, list[tuple[float, float]]] = {}
    for point in sweep.points:
        value = getattr(point, figure)
        if value is not None:
            others = ", ".join(f"{name} {each}" for name, each in point.values.items() if name != x)
            series.setdefault(others, []).append((float(point.values[x]), factor * value))
    return x, {name: sorted(points) for name, points in series.items()}
