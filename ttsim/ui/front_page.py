"""Speed against Top-1 as people read it: all points with what they are, the plot, the front."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from ttsim.accuracy.estimated import POSITIONS, sampling_sigma
from ttsim.explore.front import Point, front
from ttsim.files.writing import write_file
from ttsim.precision.values import Precision
from ttsim.ui import charts, plot, text
from ttsim.ui.document import Document
from ttsim.ui.table import Cell, Column, Figure, Paragraph, Table

KEYS = ("index", "speed", "ttft_ms", "top1", "top5", "accuracy", "front", "description")
_COLUMNS = (
    Column("", key="index"),
    Column("Speed", "t/s/u", 1),
    Column("TTFT", "ms", 1, scale=1e3),
    Column("Top-1", "%", 1),
    Column("±", digits=1),
    Column("Top-5", "%", 1, priority=1),
    Column("", key="front"),
    Column("setting", wrap=True),
)


def document(points: Sequence[Point], title: str, positions: int = POSITIONS) -> Document:
    """The points in every format.

    Args:
      points: of a sweep or a search.
      title: what they are points of.
      positions: that each accuracy was measured or is estimated on, for its sampling error.
    """
    best = {point.index for point in front(points)}
    rows = [_cells(point, point.index in best, positions) for point in points]
    note = (
        f"±: sampling error of {positions} positions. Settings: what differs from tt_transformers' default, "
        f"{short(Precision())}. The published sweep has 128 positions: the same setting reads higher there."
    )
    figure = Figure(
        lambda width: [*_plot(points, min(width, 90)), "numbers in brackets are on the front"],
        svg(points, title, positions, keys=False),
    )
    records = [dict(zip(KEYS, _record(p, p.index in best), strict=True)) for p in points]
    head = Paragraph(f"{title}: speed and TTFT simulated, accuracy {_kinds(points)}", level=1)
    return Document(title, [head, Table("", _COLUMNS, rows, notes=[note]), figure], record=records, rows=records)


def _record(p: Point, best: bool) -> tuple[Any, ...]:
    figures = (round(p.speed, 4), round(1e3 * p.ttft, 3), round(p.top1, 3), round(p.top5, 3))
    return (p.index, *figures, p.kind, int(best), p.description)


def _cells(p: Point, best: bool, positions: int) -> tuple[Any, ...]:
    error = sampling_sigma(p.top1, positions)
    mark = Cell(best, "front" if best else "", "good" if best else "")
    return (p.index, p.speed, p.ttft, p.top1, error, p.top5, mark, describe(p))


def _kinds(points: Sequence[Point]) -> str:
    return " and ".join(sorted({p.kind for p in points}))


def describe(p: Point) -> str:
    """What a point is: the differences from the default of an option text or of a search's mix, else its name."""
    if p.description.startswith("precision_cfg"):
        return short(p.precision)
    layers = _layers_of(p.precision)
    return f"{p.description}: {layers}" if p.description.startswith("search") and layers else p.description


def short(precision: Precision) -> str:
    """A precision as what differs from the default, its weights alone where nothing does."""
    plain = Precision().default
    groups = dataclasses.asdict(precision.default)
    differs = [f"{g} {v}" for g, v in groups.items() if v != getattr(plain, g)]
    layers = _layers_of(precision)
    every = ", ".join(f"{g} {getattr(plain, g)}" for g in ("ff1_3", "ff2", "wqkv", "wo", "kv_cache"))
    return ", ".join([*differs, *([layers] if layers else [])]) or every


def _layers_of(precision: Precision) -> str:
    """The formats that decoders have of their own: "ff1_3 bfp4 in decoders 0-4, 7"."""
    found: dict[str, list[int]] = {}
    for i, layer in precision.layers:
        for group in ("ff1_3", "ff2", "wqkv", "wo", "kv_cache"):
            if getattr(layer, group) != getattr(precision.default, group):
                found.setdefault(f"{group} {getattr(layer, group)}", []).append(i)
    return "; ".join(f"{what} in decoders {text.ranges(layers)}" for what, layers in found.items())


def _plot(points: Sequence[Point], width: int) -> list[str]:
    best = {point.index for point in front(points)}
    ordered = sorted(points, key=lambda p: p.index not in best)
    marks = [(p.speed, p.top1, f"[{p.index}]" if p.index in best else str(p.index)) for p in ordered]
    return plot.scatter(marks, title="Top-1 %", unit="t/s/u", width=width)


def svg(points: Sequence[Point], title: str, positions: int = POSITIONS, keys: bool = True) -> str:
    """A scatter plot with numbers and error bars, the front joined; with `keys`, what the numbers are below."""
    best = {point.index for point in front(points)}
    marks = [
        (
            p.speed,
            p.top1,
            sampling_sigma(p.top1, positions),
            str(p.index),
            f"{p.index}: {describe(p)}: {p.speed:.1f} t/s/u, Top-1 {p.top1:.1f} %",
            p.index in best,
        )
        for p in points
    ]
    return charts.scatter(
        marks,
        title=title,
        x_label="Speed (t/s/u), simulated",
        y_label=f"Top-1 (%), {_kinds(points)}",
        notes=[f"{p.index}: {describe(p)}" for p in points] if keys else (),
    )


def save_png(points: Sequence[Point], title: str, path: str, positions: int = POSITIONS) -> None:
    """The plot as a PNG, with the settings of its numbers below.

    Raises:
      ValueError: matplotlib is not installed.
    """
    figure_type = matplotlib_figure()
    best = front(points)
    keys = [f"{p.index}: {describe(p)}"[:150] for p in points]
    figure = figure_type(figsize=(9, 6 + 0.16 * len(keys)), layout="constrained")
    axes: Any = figure.add_subplot()
    errors = [sampling_sigma(p.top1, positions) for p in points]
    x, y = [p.speed for p in points], [p.top1 for p in points]
    axes.errorbar(x, y, errors, fmt="o", color="#0072b2", ecolor="#b8cbd8")
    axes.plot([p.speed for p in best], [p.top1 for p in best], "o-", color="#d55e00", label="front")
    for p in points:
        axes.annotate(str(p.index), (p.speed, p.top1), xytext=(5, 5), textcoords="offset points")
    axes.set(title=title, xlabel="Speed (t/s/u), simulated", ylabel=f"Top-1 (%), {_kinds(points)}")
    axes.legend()
    figure.supxlabel("\n".join(keys), fontsize=7, ha="left", x=0.02)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_file(content.getvalue(), path)


def matplotlib_figure() -> Any:
    """matplotlib's Figure.

    Raises:
      ValueError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure as Drawing
    except ModuleNotFoundError:
        raise ValueError("PNG plots need matplotlib: pip install 'ttsim-jax[plots]'") from None
    return Drawing
