"""A sweep as people read it: the table, and a curve of each figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ttsim.explore.sweep import FIGURES, Point, Sweep
from ttsim.scenarios.question import NUMBERS
from ttsim.ui import charts, plot
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Column, Figure, Paragraph, Table

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
    records = [_record(point) for point in sweep.points]
    question = {k: v for k, v in dataclasses.asdict(sweep.question).items() if k not in sweep.axes}
    columns = (*(Column(name) for name in sweep.axes), *_COLUMNS)
    table = Table("", columns, [_cells(point) for point in sweep.points], notes=_notes(sweep))
    heading = Paragraph(sweep.title, level=1)
    blocks = [heading, table, *_drawings(sweep)]
    return Document(sweep.title, blocks, record={"question": question, "points": records}, rows=records)


def _record(point: Point) -> dict[str, Any]:
    """A point in SI units, with the ends of its intervals."""
    record = {**point.values, **{name: getattr(point, name) for name in (*FIGURES, "capacity", "problem")}}
    for name, ends in (("speed", point.speed_interval), ("ttft", point.ttft_interval)):
        record |= {f"{name}_low": ends and ends[0], f"{name}_high": ends and ends[1]}
    return {**record, "top1_error": point.top1_sigma}


def _notes(sweep: Sweep) -> tuple[str, ...]:
    if not curves_of(sweep, "speed")[1] or not any(point.speed_interval for point in sweep.points):
        return ()
    return (
        "lines through the points of a page's curves: 80 % intervals of speed, TTFT and throughput (also in JSON and "
        "CSV), and the sampling error of Top-1",
    )


def bars_of(sweep: Sweep, figure: str, factor: float = 1.0) -> dict[tuple[str, float], tuple[float, float]]:
    """Low and high of a curve's points, by (curve, x) as `curves_of` names them; none where nothing tells."""
    x, _ = curves_of(sweep, figure)
    found = {}
    for point in sweep.points:
        ends = None
        if figure in ("speed", "throughput") and point.speed_interval and point.speed and point.throughput:
            users = point.throughput / point.speed if figure == "throughput" else 1.0
            ends = (users * point.speed_interval[0], users * point.speed_interval[1])
        elif figure == "ttft":
            ends = point.ttft_interval
        elif figure == "top1" and point.top1 is not None and point.top1_sigma is not None:
            ends = (point.top1 - point.top1_sigma, point.top1 + point.top1_sigma)
        if ends is not None:
            found[_curve(point, x), float(point.values[x])] = (factor * ends[0], factor * ends[1])
    return found


def _curve(point: Point, x: str) -> str:
    return ", ".join(f"{name} {each}" for name, each in point.values.items() if name != x)


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
            found.append(_drawing(series, name, x, bars_of(sweep, figure, factor)))
    return found


def _drawing(
    series: Mapping[str, Sequence[tuple[float, float]]],
    name: str,
    x: str,
    bars: Mapping[tuple[str, float], tuple[float, float]],
) -> Figure:
    def lines(width: int) -> Sequence[str]:
        return plot.curves(series, title=name, x_label=x, width=min(width - 10, 72))

    few = len(series) <= len(plot.MARKS)
    return Figure(lines if few else None, charts.curves(series, title=name, x_label=x, bars=bars))


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
            series.setdefault(_curve(point, x), []).append((float(point.values[x]), factor * value))
    return x, {name: sorted(points) for name, points in series.items()}
