"""Many questions at once: every combination of some values, as a table and as curves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.errors import unknown
from ttsim.hardware.constants import load_constants
from ttsim.meshes.sharding import ShardingError
from ttsim.proof.intervals import Interval, fold_of, interval
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.question import FIELDS, NUMBERS, Question, parse_field, parse_number
from ttsim.scenarios.scenario import REFUSALS
from ttsim.scenarios.shown import Shown

MOST_POINTS = 5000


@dataclass(frozen=True)
class Point:
    """One combination and its answer.

    Attributes:
      values: the swept fields.
      speed: t/s/u. ttft, latency: seconds. throughput: t/s. used, capacity: bytes of DRAM of a chip.
      top1, top5: per cent, estimated. top1_sigma: sampling error of the test.
      speed_interval, ttft_interval: low and high, None where no measurement tells how far off the figure may be.
      problem: why there is no answer ("" if there is one; the figures are None then).
    """

    values: Mapping[str, Any]
    speed: float | None = None
    ttft: float | None = None
    throughput: float | None = None
    latency: float | None = None
    used: int | None = None
    capacity: int | None = None
    top1: float | None = None
    top5: float | None = None
    speed_interval: tuple[float, float] | None = None
    ttft_interval: tuple[float, float] | None = None
    top1_sigma: float | None = None
    problem: str = ""


_NAMED = ("model", "device", "precision", "batch_size", "prompt_length", "max_generated_tokens")


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """A sweep's question, its axes, and the points in the order of the axes."""

    question: Question
    axes: Mapping[str, Sequence[Any]]
    points: Sequence[Point]

    @property
    def title(self) -> str:
        fixed = (f"{name} {getattr(self.question, name)}" for name in _NAMED if name not in self.axes)
        return "Sweep of " + " x ".join(self.axes) + ": " + ", ".join(fixed)

    def __repr__(self) -> str:
        return f"<{self.title}; {len(self.points)} points>"


FIGURES = ("speed", "ttft", "throughput", "latency", "used", "top1", "top5")


def parse_sweep(text: str) -> tuple[str, tuple[Any, ...]]:
    """(field, values) of "batch_size=1..32", "prompt_length=128,1k,...,64k" or "device=N150,N300".

    `a..b` is every whole number from a to b, `a..b:s` every s-th. Two or more numbers before "..." go on by their
    common factor, or else by their common difference, up to the last: "1,2,...,32" is 1, 2, 4, 8, 16, 32.

    Example:
      >>> parse_sweep("prompt_length=128,256,...,1k")
      ('prompt_length', (128, 256, 512, 1024))

    Raises:
      ValueError: an unknown field, or values that are none.
    """
    name, equals, listed = text.partition("=")
    name = name.strip()
    if name not in FIELDS:
        raise unknown("field to sweep:", name, FIELDS)
    if not equals or not listed.strip():
        raise ValueError(f"--sweep={text}: give values, e.g. {name}=" + ("1..32" if name in NUMBERS else "a,b"))
    items = [item.strip() for item in re.split(r"[,;](?![^{]*\})", listed)]
    if name in ("precision", "override") and "=" in listed:  # texts hold commas themselves, presets don't
        items = [item.strip() for item in listed.split(";")]
    if name not in NUMBERS:
        return name, tuple(dict.fromkeys(parse_field(name, item) for item in items if item))
    values: list[int] = []
    for i, item in enumerate(items):
        if item in ("...", "…"):
            if i + 1 >= len(items):
                raise ValueError(f"--sweep={text}: a value must follow '...'")
            values += _between(values, parse_number(items[i + 1], name), text)
        elif ".." in item:
            values += _range(item, name)
        else:
            values.append(parse_number(item, name))
    return name, tuple(dict.fromkeys(values))


def _range(item: str, name: str) -> range:
    span, _, step = item.partition(":")
    first, last = (parse_number(end, name) for end in span.split("..", 1))
    if last < first:
        raise ValueError(f"{name}: {item} runs backwards")
    found = range(first, last + 1, parse_number(step, name) if step else 1)
    if len(found) > MOST_POINTS:
        raise ValueError(f"{name}: {item} has {len(found):,} values, more than {MOST_POINTS:,}")
    return found


def _between(values: Sequence[int], last: int, text: str) -> list[int]:
    """What "..." stands for between `values` and `last`."""
    if len(values) < 2:
        raise ValueError(f"--sweep={text}: '...' needs two values before it")
    earlier, newest = values[-2], values[-1]
    if newest % earlier == 0 and newest > earlier:
        factor, found = newest // earlier, [newest]
        while found[-1] * factor < last:
            found.append(found[-1] * factor)
        if found[-1] * factor == last:
            return found[1:]
    step = newest - earlier
    if step > 0 and (last - newest) % step == 0 and (last - newest) // step <= MOST_POINTS:
        return list(range(newest + step, last, step))
    raise ValueError(f"--sweep={text}: neither a factor nor a difference leads from {earlier}, {newest} to {last}")


def sweep(
    question: Question,
    axes: Mapping[str, Sequence[Any]],
    constants: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Answers every combination of the axes' values.

    What doesn't fit or can't be sharded is a point with a problem; any other mistake is raised.

    Args:
      question: what is varied.
      axes: values by field of the question: {"batch_size": (1, 8, 32), "device": ("N150", "N300")}.
      constants: of the cost model, by default the calibrated ones.
      progress: called with (points done, points in all).

    Raises:
      ValueError: more than 5,000 points, or a name that is none.
    """
    for name in axes:
        if name not in FIELDS:
            raise unknown("field to sweep:", name, FIELDS)
    constants = load_constants() if constants is None else constants
    combinations = list(itertools.product(*axes.values()))
    if len(combinations) > MOST_POINTS:
        raise ValueError(f"a sweep of {len(combinations):,} points: at most {MOST_POINTS:,} are answered in one run")
    points = []
    for combination in combinations:
        points.append(_point(question, dict(zip(axes, combination, strict=True)), constants))
        if progress:
            progress(len(points), len(combinations))
    return Sweep(question, axes, points)


def _point(question: Question, values: dict[str, Any], constants: Mapping[str, float]) -> Point:
    try:
        scenario = question.change(values).scenario()
        memory = scenario.memory()
    except ShardingError as error:
        return Point(values, problem=str(error))
    try:
        scenario.check_fits()
        speed, ttft = scenario.speed(constants), scenario.ttft(constants)
    except REFUSALS as error:
        missing = isinstance(error, DoesNotFitError)
        problem = f"does not fit: {-memory.free / 1e9:.2f} GB too much" if missing else str(error)
        return Point(values, used=memory.used, capacity=memory.capacity, problem=problem)
    users = scenario.batch_size * scenario.system.data_parallel
    latency = ttft + (scenario.max_generated_tokens - 1) / speed
    accuracy = estimate_accuracy(scenario.config, scenario.precision)
    return Point(
        values=values,
        speed=speed,
        ttft=ttft,
        throughput=speed * users,
        latency=latency,
        used=memory.used,
        capacity=memory.capacity,
        top1=accuracy.top1,
        top5=accuracy.top5,
        speed_interval=_ends(interval(speed, "speed", fold_of(scenario))),
        ttft_interval=_ends(interval(ttft, "ttft", fold_of(scenario))),
        top1_sigma=accuracy.top1_sigma,
    )


def _ends(found: Interval | None) -> tuple[float, float] | None:
    return None if found is None else (found.low, found.high)
