"""Speed against Top-1 over precision and fidelity settings of one model on one device, and the front of both.

Speed and TTFT are simulated. Top-1 is measured where weights are given, else estimated, and every point says which.
`ttsim.explore.search` goes on from here: settings per decoder layer.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.files.reading import read_text
from ttsim.files.writing import write_file
from ttsim.hardware.constants import load_constants
from ttsim.models.config import ModelConfig
from ttsim.precision.text import TENSOR_GROUPS, unknown
from ttsim.precision.values import Precision
from ttsim.proof import published as tables
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import text

Kind = Literal["measured", "estimated"]
Accuracy = Callable[[Precision], "tuple[float, float, Kind]"]
KEYS = ("index", "speed", "ttft_ms", "top1", "top5", "accuracy", "front", "description")

# The compute setting that the sweep's tables give a linear layer of a weight format.
SETTING_OF = {"bfp4": "lofi", "bfp8": "hifi2fp16", "bf16": "hifi4", "bfp2": "lofi"}
_OPS_OF = {
    "ff1_3": ("li_ff1_3",),
    "ff2": ("li_ff2",),
    "wqkv": ("li_qkv_decode", "li_qkv_prefill"),
    "wo": ("li_o_decode", "li_o_prefill"),
}


@dataclass(frozen=True)
class Point:
    """One setting and what it gives.

    Attributes:
      index: its number in the sweep. description: what it is.
      precision: the setting.
      speed: tokens per second and user. ttft: seconds. top1, top5: per cent.
      kind: whether the accuracy is measured or estimated.
    """

    index: int
    description: str
    precision: Precision
    speed: float
    ttft: float
    top1: float
    top5: float
    kind: Kind


# Settings


def published_settings() -> list[tuple[str, Precision]]:
    """The twelve settings of the published sweep, in order."""
    titles = dict.fromkeys(row.title for row in tables.published() if row.table.startswith("sweep-"))
    return [(title, Precision.parse(title)) for title in titles]


def parse_grid(source: str) -> dict[str, list[str]]:
    """ "ff1_3=bfp4,bfp8 ff2=bfp4,bfp8" -> {group: formats}.

    Raises:
      ValueError: an unknown group, or a part without formats.
    """
    grid: dict[str, list[str]] = {}
    for part in source.replace(";", " ").split():
        group, equals, formats = part.partition("=")
        if group not in TENSOR_GROUPS:
            raise unknown("tensor group", group, TENSOR_GROUPS)
        if not equals or not formats:
            raise ValueError(f"{part!r} is not group=format,format such as ff2=bfp4,bfp8")
        if group in grid:
            raise ValueError(f"{group} is given twice")
        grid[group] = [name for name in formats.split(",") if name]
    if not grid:
        raise ValueError("the grid is empty: give for example ff1_3=bfp4,bfp8 ff2=bfp4,bfp8")
    return grid


def grid_settings(grid: Mapping[str, Sequence[str]]) -> list[tuple[str, Precision]]:
    """Every combination of formats, each weight with the compute setting that the sweep gives its format."""
    settings = []
    for values in itertools.product(*grid.values()):
        formats = dict(zip(grid, values, strict=True))
        precision = set_formats(Precision(), formats)
        settings.append((", ".join(f"{group} {fmt}" for group, fmt in formats.items()), precision))
    return settings


def set_formats(precision: Precision, formats: Mapping[str, str]) -> Precision:
    """The precision with groups in other formats, and their matmuls in the matching compute setting."""
    changes = dict(formats)
    for group, fmt in formats.items():
        # Attention's linears run hifi2, not hifi2fp16, by default.
        setting = "hifi2" if fmt == "bfp8" and group in ("wqkv", "wo") else SETTING_OF.get(fmt, "hifi4")
        changes.update(dict.fromkeys(_OPS_OF.get(group, ()), setting))
    return precision.replace(**changes)


def file_settings(paths: Iterable[str | os.PathLike[str]]) -> list[tuple[str, Precision]]:
    """Settings from files: a decoder JSON each, or a text file with one path or option text a line."""
    settings: list[tuple[str, Precision]] = []
    for path in map(Path, paths):
        if path.is_dir():
            settings += file_settings(sorted(path.glob("*.json")))
        elif path.suffix == ".json":
            settings.append((path.name, Precision.from_decoder_json(path)))
        else:
            lines = [line.strip() for line in read_text(path, 2**20).splitlines()]
            for line in filter(None, lines):
                if "=" in line:
                    settings.append((line, Precision.parse(line)))
                else:
                    settings += file_settings([path.parent / line])
    if not settings:
        raise ValueError(f"no settings in {', '.join(map(str, paths))}")
    return settings


# Points


def estimated(config: ModelConfig) -> Accuracy:
    """Accuracy without weights."""

    def accuracy(precision: Precision) -> tuple[float, float, Kind]:
        found = estimate_accuracy(config, precision)
        return found.top1, found.top5, "estimated"

    return accuracy


def evaluate(
    settings: Sequence[tuple[str, Precision]],
    model: str | ModelConfig,
    device: str,
    accuracy: Accuracy,
    *,
    batch_size: int = 1,
    prompt_length: int = 128,
    constants: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Point]:
    """The points of a sweep.

    Args:
      settings: (description, precision). model, device: names.
      accuracy: Top-1 and Top-5 of a precision (`estimated`, or `ttsim.explore.search.Measured`).
      constants: of the cost model, by default the calibrated ones.
      progress: called with (points done, points in all).
    """
    constants = load_constants() if constants is None else constants
    points = []
    for index, (description, precision) in enumerate(settings):
        scenario = Scenario.of(model, device, precision, batch_size=batch_size, prompt_length=prompt_length)
        speed = 1 / float(np.mean(scenario.step_times(constants)))
        points.append(Point(index, description, precision, speed, scenario.ttft(constants), *accuracy(precision)))
        if progress:
            progress(len(points), len(settings))
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in speed and Top-1, the fastest first."""
    best, chosen = -1.0, []
    for point in sorted(points, key=lambda p: (-p.speed, -p.top1)):
        if point.top1 > best:
            best = point.top1
            chosen.append(point)
    return chosen


def dominates(a: Point, b: Point) -> bool:
    """Whether a is at least as good as b in both, and better in one."""
    return a.speed >= b.speed and a.top1 >= b.top1 and (a.speed > b.speed or a.top1 > b.top1)


# Formats


def to_csv(points: Sequence[Point]) -> str:
    """One row a point: `KEYS`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(KEYS)
    best = {point.index for point in front(points)}
    for p in points:
        figures = (round(p.speed, 4), round(1e3 * p.ttft, 3), round(p.top1, 3), round(p.top5, 3))
        writer.writerow((p.index, *figures, p.kind, int(p.index in best), p.description))
    return out.getvalue()


def to_text(points: Sequence[Point], title: str, colour: bool = False, width: int = 118) -> str:
    """The table, the terminal plot and what the front's points are."""
    best = [point.index for point in front(points)]
    kinds = " and ".join(sorted({point.kind for point in points}))
    rows = [("", "Speed (t/s/u)", "TTFT (ms)", "Top-1 (%)", "Top-5 (%)", "")]
    rows += [
        (str(p.index), f"{p.speed:.1f}", f"{1e3 * p.ttft:.1f}", f"{p.top1:.1f}", f"{p.top5:.1f}", "front")
        if p.index in best
        else (str(p.index), f"{p.speed:.1f}", f"{1e3 * p.ttft:.1f}", f"{p.top1:.1f}", f"{p.top5:.1f}", "")
        for p in points
    ]
    header, *body = text.align(rows, left=1)
    lines = [text.paint(title, text.BOLD, colour), f"speed and TTFT simulated, accuracy {kinds}", ""]
    lines += [text.paint(header, text.DIM, colour)]
    lines += [text.paint(line, text.RED, colour and p.index in best) for line, p in zip(body, points, strict=True)]
    lines += ["", *_plot(points, colour, min(width, 90)), ""]
    lines.append(text.paint("Front, the fastest first", text.BOLD, colour))
    for point in front(points):
        lines += [f"  {point.index:>3}  {line}" if i == 0 else f"       {line}" for i, line in _wrapped(point, width)]
    return "\n".join(lines) + "\n"


def _wrapped(point: Point, width: int) -> Iterable[tuple[int, str]]:
    return enumerate(textwrap.wrap(_short(point.description), width - 8) or [""])


def _short(description: str) -> str:
    """What differs from the default where the description is an option text, else the description."""
    if not description.startswith("precision_cfg"):
        return description
    precision, plain = Precision.parse(description), Precision()
    groups = dataclasses.asdict(precision.default)
    differs = {g: v for g, v in groups.items() if v != getattr(plain.default, g)}
    own = [f"{len(precision.layers)} decoders of their own"] if precision.layers else []
    return ", ".join([*(f"{g} {v}" for g, v in differs.items()), *own]) or "default: all weights bfp8"


def _plot(points: Sequence[Point], colour: bool, width: int, height: int = 18) -> list[str]:
    """A scatter plot of the points' numbers: speed to the right, Top-1 upwards; the front is red or in brackets."""
    best = {point.index for point in front(points)}
    left, right = _range([p.speed for p in points])
    low, high = _range([p.top1 for p in points])
    gutter = 8
    cells = [[" "] * (width - gutter) for _ in range(height)]
    taken = [[False] * (width - gutter) for _ in range(height)]
    marks: list[tuple[int, int, str, bool]] = []
    for p in sorted(points, key=lambda p: p.index not in best):
        mark = str(p.index) if colour or p.index not in best else f"[{p.index}]"
        column = round((p.speed - left) / (right - left) * (width - gutter - 1 - len(mark)))
        row = round((high - p.top1) / (high - low) * (height - 1))
        if any(taken[row][max(0, column - 1) : column + len(mark) + 1]):
            continue  # the front's number stays
        for i in range(len(mark)):
            taken[row][column + i] = True
        marks.append((row, column, mark, p.index in best))
    for row, column, mark, is_front in marks:
        cells[row][column] = text.paint(mark, text.RED, colour and is_front)
        for i in range(1, len(mark)):
            cells[row][column + i] = ""
    lines = ["Top-1 %"]
    for i, line in enumerate(cells):
        label = f"{high - (high - low) * i / (height - 1):6.1f} |" if i % 4 == 0 or i == height - 1 else "       |"
        lines.append((label + "".join(line)).rstrip())
    lines.append("       +" + "-" * (width - gutter))
    ends = f"{left:.1f}", f"{right:.1f} t/s/u"
    lines.append(" " * gutter + ends[0] + " " * (width - gutter - len(ends[0]) - len(ends[1])) + ends[1])
    return lines


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def to_svg(points: Sequence[Point], title: str) -> str:
    """A scatter plot with point numbers, the front in red, and the front's settings below."""
    width, plot, left, top = 860, 420, 70, 50
    best = front(points)
    notes = [f"{p.index}: {_short(p.description)}" for p in best]
    height = top + plot + 60 + 18 * len(notes)
    (x0, x1), (y0, y1) = _range([p.speed for p in points]), _range([p.top1 for p in points])

    def place(p: Point) -> tuple[float, float]:
        return left + (p.speed - x0) / (x1 - x0) * (width - left - 30), top + (y1 - p.top1) / (y1 - y0) * plot

    kinds = " and ".join(sorted({p.kind for p in points}))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="26" font-size="16">{escape(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{width - left - 30}" height="{plot}" fill="none" stroke="#888"/>',
        f'<text x="{width - 30}" y="{top + plot + 36}" text-anchor="end">Speed (t/s/u), simulated</text>',
        f'<text x="18" y="{top + 150}" transform="rotate(-90 18 {top + 150})">Top-1 (%), {kinds}</text>',
    ]
    for i in range(6):
        x, y = left + i / 5 * (width - left - 30), top + i / 5 * plot
        parts.append(
            f'<text x="{x:.1f}" y="{top + plot + 18}" text-anchor="middle">{x0 + i / 5 * (x1 - x0):.1f}</text>'
        )
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{y1 - i / 5 * (y1 - y0):.1f}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, best))
    parts.append(f'<polyline points="{line}" fill="none" stroke="red"/>')
    numbers = {p.index for p in best}
    for p in points:
        x, y = place(p)
        fill = "red" if p.index in numbers else "#357"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 5:.1f}" fill="{fill}">{p.index}</text>')
    for i, note in enumerate(notes):
        parts.append(f'<text x="{left}" y="{top + plot + 60 + 18 * i}" font-size="11">{escape(note[:130])}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def save_png(points: Sequence[Point], title: str, path: str) -> None:
    """The same plot as a PNG.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError("PNG plots need matplotlib: pip install 'ttsim-jax[plots]'") from None
    best = front(points)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.scatter([p.speed for p in points], [p.top1 for p in points], color="#335577")
    axes.plot([p.speed for p in best], [p.top1 for p in best], "o-", color="red", label="front")
    for p in points:
        axes.annotate(str(p.index), (p.speed, p.top1), xytext=(5, 5), textcoords="offset points")
    kinds = " and ".join(sorted({p.kind for p in points}))
    axes.set(title=title, xlabel="Speed (t/s/u), simulated", ylabel=f"Top-1 (%), {kinds}")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_file(content.getvalue(), path)
