"""Speed against Top-1 over precision and fidelity settings of one model on one device, and the front of both.

Speed and TTFT are simulated. Top-1 is measured where weights are given, else estimated, and every point says which.
`ttsim.explore.search` goes on from here: settings per decoder layer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.errors import unknown
from ttsim.files.reading import printable, read_text, shown
from ttsim.hardware.constants import load_constants
from ttsim.models.config import ModelConfig
from ttsim.precision.text import TENSOR_GROUPS
from ttsim.precision.values import Precision
from ttsim.proof import published as tables
from ttsim.scenarios.scenario import Scenario

Kind = Literal["measured", "estimated"]
Accuracy = Callable[[Precision], "tuple[float, float, Kind]"]

_NESTED = 4  # files of settings that name each other
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


def file_settings(paths: Iterable[str | os.PathLike[str]], within: int = 0) -> list[tuple[str, Precision]]:
    """Settings from files: a decoder JSON each, or a text file with one path or option text a line.

    Raises:
      OSError, ValueError: one can't be read; or a file names itself (`within`: so many files that name each other).
    """
    settings: list[tuple[str, Precision]] = []
    for path in map(Path, paths):
        if within > _NESTED:
            raise ValueError(f"{printable(str(path))}: settings that name each other more than {_NESTED} files deep")
        if path.is_dir():
            settings += file_settings(sorted(path.glob("*.json")), within + 1)
        elif path.suffix == ".json":
            settings.append((path.name, Precision.from_decoder_json(path)))
        else:
            for number, line in enumerate(map(str.strip, read_text(path, 2**20).splitlines()), 1):
                settings += _line_settings(line, path, number, within) if line else []
    if not settings:
        raise ValueError(f"no settings in {', '.join(map(str, paths))}")
    return settings


def _line_settings(line: str, path: Path, number: int, within: int) -> list[tuple[str, Precision]]:
    """The settings of one line of a text file."""
    try:
        if "=" in line:
            return [(line, Precision.parse(line))]
        if os.path.exists(path.parent / line):  # no error where a line is longer than a name can be
            return file_settings([path.parent / line], within + 1)
    except ValueError as error:
        raise ValueError(f"{printable(str(path))}, line {number}: {error}") from None
    raise ValueError(f"{printable(str(path))}, line {number}: {shown(line)} is neither an option text nor a file")


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
