"""A sweep as text with plots, markdown, CSV, JSON and HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.explore.sweep import FIGURES, Point
from ttsim.scenarios.question import NUMBERS, Question
from ttsim.ui import plot, text

HEADER = ("speed t/s/u", "TTFT ms", "throughput t/s", "request s", "DRAM GB", "")
# What is drawn: name, figure, factor.
CURVES = (("speed, t/s/u", "speed", 1.0), ("TTFT, ms", "ttft", 1e3), ("throughput, t/s", "throughput", 1.0))


@dataclass(frozen=True)
class Sweep:
    """A sweep's question, its axes, and the points in the order of the axes."""

    question: Question
    axes: Mapping[str, Sequence[Any]]
    points: Sequence[Point]

    @property
    def title(self) -> str:
        fixed = (f"{name} {getattr(self.question, name)}" for name in _SHOWN if name not in self.axes)
        return "Sweep of " + " x ".join(self.axes) + ": " + ", ".join(fixed)


_SHOWN = ("model", "device", "precision", "batch_size", "prompt_length", "max_generated_tokens")


def point_cells(point: Point) -> tuple[str, ...]:
    """The values and figures of a point under the axes and `HEADER`."""
    values = [f"{value:,}" if isinstance(value, int) else str(value) for value in point.values.values()]
    if point.speed is None or point.ttft is None or point.throughput is None or point.latency is None:
        return (*values, "", "", "", "", f"{point.used / 1e9:.2f}" if point.used else "", point.problem)
    return (
        *values,
        f"{point.speed:.2f}",
        f"{1e3 * point.ttft:,.1f}",
        f"{point.throughput:,.1f}",
        f"{point.latency:,.2f}",
        f"{(point.used or 0) / 1e9:.2f}",
        "",
    )


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


def to_text(sweep: Sweep, colour: bool = False) -> str:
    """A table of at most 120 columns, then a plot of each figure over the longest axis of numbers."""
    rows = [(*sweep.axes, *HEADER), *(point_cells(point) for point in sweep.points)]
    right = tuple(i for i, name in enumerate(rows[0]) if name in NUMBERS or name in HEADER[:-1])
    rows = [(*row[:-1], row[-1][: max(118 - _width(rows), 20)]) for row in rows]
    header, *body = text.columns(rows, right=right)
    lines = [*(text.paint(line, text.BOLD, colour) for line in text.wrap(sweep.title))]
    lines += [text.paint(header, text.DIM, colour), *body]
    for name, figure, factor in CURVES:
        x, series = curves_of(sweep, figure, factor)
        repeated = figure == "throughput" and all(p.throughput == p.speed for p in sweep.points)
        if series and len(series) <= len(plot.MARKS) and not repeated:
            lines += ["", *plot.curves(series, title=name, x_label=x)]
    return "\n".join(lines) + "\n"


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]) - 1))


def records(sweep: Sweep) -> list[dict[str, Any]]:
    """The points as JSON and CSV have them: SI units."""
    figures = (*FIGURES, "capacity", "problem")
    return [{**point.values, **{name: getattr(point, name) for name in figures}} for point in sweep.points]


def to_json(sweep: Sweep) -> str:
    question = {k: v for k, v in dataclasses.asdict(sweep.question).items() if k not in sweep.axes}
    return json.dumps({"question": question, "points": records(sweep)}, indent=2, default=str) + "\n"


def to_csv(sweep: Sweep) -> str:
    out = io.StringIO()
    rows = records(sweep)
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def to_markdown(sweep: Sweep) -> str:
    rows = [(*sweep.axes, *HEADER), ["---"] * (len(sweep.axes) + len(HEADER)), *(point_cells(p) for p in sweep.points)]
    return f"# {sweep.title}\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _html(sweep: Sweep) -> str:
    from ttsim.ui.html import sweep_page

    return sweep_page(sweep)


FORMATS: dict[str, Callable[[Sweep], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "json": to_json,
    "csv": to_csv,
    "html": _html,
}
