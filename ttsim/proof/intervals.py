"""How far off an estimate may be: intervals from rows that were left out of the fit, and the range they cover.

With r = log(published / predicted) of each published figure, predicted by a calibration that never saw its model (for
a system without published rows, its device; for later software, another chip or a server, the source that measured
it),

    low, high = estimate x exp(-q), estimate x exp(q),    q = the ceil((n + 1) coverage)-th smallest |r|

(split conformal prediction). The coverage is measured the same way: each model's (device's) figures against the q of
the residuals of all others.

Families with a program of their own err family by family, so that a source with many rows of one must not speak for
all: each source weighs the same there, w = 1 / (its rows), and with n = (sum w)^2 / sum w^2 rows' worth of them

    q = the smallest |r| at or below which lies the share coverage (n + 1) / n of the weights.

Sources: Lei et al., Distribution-Free Predictive Inference for Regression, 2018; Lee, Barber and Willett,
Distribution-Free Inference with Hierarchical Data, 2023.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np

from ttsim.hardware import facts
from ttsim.hardware.chips import WORMHOLE, Chip
from ttsim.models.identity import get_config
from ttsim.models.vision.config import LlamaTower
from ttsim.proof import published as tables
from ttsim.proof.published_tables import Row
from ttsim.proof.rows import scenario_of
from ttsim.scenarios.scenario import Scenario

COVERAGE = 0.8  # share of new rows that an interval should hold
Figure = Literal["speed", "ttft"]

OWN_CODE = "own code"
LEAST = 10  # residuals that a group must have to speak for itself
BEYOND = 1.5  # factor on the width past the newest fact about the software: what changed since is not known
TABLES_END = datetime.date(2025, 5, 31)  # the published tables' software


@dataclass(frozen=True)
class Fold:
    """What a calibration must not have seen to be as ignorant as ours is of a question.

    Attributes:
      kind: "model" or "device" of the published tables, or "source" of the rows that others measured since.
      family: of the chips and stack: "wormhole", "blackhole", "galaxy" (the Galaxy's own code), "own code" (families
        with a program of their own: routed experts, delta nets, Gemma-4, whatever the chip); "" for the tables.
      served: whether a server runs it.
      beyond: whether its software is newer than the newest fact.
    """

    kind: Literal["model", "device", "source"]
    family: str = ""
    served: bool = False
    beyond: bool = False

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Residuals:
    """Errors of one figure on rows that were left out.

    Attributes:
      log_ratios: log(published / predicted) of each row.
      groups: the model (or device, or source) of each row.
      alike: whether every group weighs the same, however many rows it has.
    """

    log_ratios: np.ndarray
    groups: tuple[str, ...]
    alike: bool = False

    @property
    def weights(self) -> np.ndarray:
        """What each row weighs."""
        rows = Counter(self.groups)
        return np.array([1 / rows[group] if self.alike else 1.0 for group in self.groups])

    def half_width(self, coverage: float = COVERAGE) -> float:
        """q: the log of the factor between an estimate and its high."""
        return _quantile(np.abs(self.log_ratios), self.weights, coverage)

    def measured_coverage(self, coverage: float = COVERAGE) -> float:
        """Share of the rows that an interval from the other groups' residuals holds."""
        size, weights, groups = np.abs(self.log_ratios), self.weights, np.array(self.groups)
        held = [
            size[groups == g] <= _quantile(size[groups != g], weights[groups != g], coverage)
            for g in dict.fromkeys(self.groups)
        ]
        return float(np.mean(np.concatenate(held)))


@dataclass(frozen=True)
class Interval:
    """A figure's low and high.

    Attributes:
      low, high: in the figure's unit.
      coverage: asked for. measured: share of the published rows that such intervals hold. Both are None where the
        interval is only the largest error seen. rows: how many rows.
      fold: what was left out ("model", "device" or "source").
    """

    low: float
    high: float
    coverage: float | None
    measured: float | None
    rows: int
    fold: Fold

    def spanning(self, least: float, most: float) -> Interval:
        """The interval around all values between `least` and `most` times the estimate."""
        return dataclasses.replace(self, low=self.low * least, high=self.high * most)


def _quantile(sizes: np.ndarray, weights: np.ndarray, coverage: float) -> float:
    if not len(sizes):
        return math.inf
    order, total = np.argsort(sizes), weights.sum()
    number = total**2 / np.square(weights).sum()
    needed = coverage * (number + 1) / number * total
    reached = np.cumsum(weights[order]) >= needed * (1 - 1e-12)
    return float(sizes[order][np.argmax(reached)]) if reached.any() else math.inf


@functools.cache
def residuals(figure: Figure, fold: Fold) -> Residuals:
    """The residuals that ship with the calibration, of figures that it had not seen.

    Those of the tables are by model or device; those of the rows measured since are of the same chips and stack, served
    or not, where there are enough of them, else of the same chips and stack, else of all.
    """
    if fold.kind != "source":
        record = json.loads(resources.files("ttsim.data").joinpath("calibration.json").read_text(encoding="utf-8"))
        rows = [row for row in record["figures"] if row["figure"] == figure]
        ratios = -np.log1p([row[f"leave-one-{fold.kind}-out"] for row in rows])
        return Residuals(ratios, tuple(row[fold.kind] for row in rows))
    every = [row for row in _later() if row["figure"] == figure]
    family = [row for row in every if row["family"] == fold.family]
    same = [row for row in family if row["served"] == str(fold.served) or fold.family == OWN_CODE]
    enough = (rows for rows in (same, family) if len(rows) >= LEAST or fold.family == OWN_CODE)
    found = next(enough, every)
    ratios = np.array([float(row["log_ratio"]) for row in found])
    return Residuals(ratios, tuple(row["source"] for row in found), alike=fold.family == OWN_CODE)


@functools.cache
def _later() -> tuple[dict[str, str], ...]:
    """Residuals of the rows that others measured since the tables, each by constants fitted without its source."""
    text = resources.files("ttsim.data").joinpath("residuals.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def interval(value: float, figure: Figure, fold: Fold = Fold("model"), coverage: float = COVERAGE) -> Interval | None:
    """The interval around an estimate, None if too little was measured to tell its width.

    Of programs that few rows have checked it spans the largest error seen, and no share is promised.
    """
    found = residuals(figure, fold)
    number = len(found.log_ratios)
    few = fold.family == OWN_CODE and number < LEAST
    width = float(np.abs(found.log_ratios).max(initial=0.0)) if few else found.half_width(coverage)
    if not math.isfinite(width) or not number:
        return None
    factor = math.exp(BEYOND * width if fold.beyond else width)
    if few:
        return Interval(value / factor, value * factor, None, None, number, fold)
    return Interval(value / factor, value * factor, coverage, found.measured_coverage(coverage), number, fold)


def chip_name(chip: Chip) -> str:
    """A chip's name as people write it: "Wormhole", "Blackhole P150"."""
    return chip.title


def family_of(scenario: Scenario) -> str:
    """Program, chips and stack, as far as errors differ by them: see `Fold`."""
    config = scenario.config
    special = config.experts is not None or config.latent is not None or config.delta is not None
    if special or config.family.startswith("gemma4"):
        return OWN_CODE
    return "galaxy" if scenario.software.galaxy else scenario.chip.family


def fold_of(scenario: Scenario) -> Fold:
    """What a calibration must not have seen to be as ignorant as this one is of the scenario."""
    software, family = scenario.software, family_of(scenario)
    if family == "wormhole" and not software.served and software.date <= TABLES_END:
        covered = (scenario.system.label, scenario.system.grid) in _covered().systems
        return Fold("model" if covered else "device")
    return Fold("source", family, software.served, facts.staleness(software.date) is not None)


# The range that the published tables cover


def outside(scenario: Scenario) -> tuple[str, ...]:
    """What of a scenario lies outside the published rows that the model was fitted on and checked with, in words."""
    return tuple(_outside(scenario))


def _outside(scenario: Scenario) -> Iterable[str]:
    covered = _covered()
    system = scenario.system
    if scenario.chip != WORMHOLE:
        yield (
            f"{system.label}: no row of the tables was measured on {chip_name(scenario.chip)}; what was measured on "
            "Wormhole is scaled by the chips' figures, and checked on rows of others"
        )
    elif (system.label, system.grid) not in covered.systems:
        yield f"{system.label}: the published rows are of {_list(label for label, _ in covered.systems)}"
    ranges = (
        ("batch", scenario.batch_size, covered.batches, "{:,.0f}"),
        ("prompt", scenario.padded_prompt, covered.prompts, "{:,.0f} tokens"),
        ("model size", scenario.config.parameter_count / 1e9, covered.sizes, "{:,.1f}e9 parameters"),
    )
    for name, value, values, form in ranges:
        low, high = min(values), max(values)
        if not 0.99 * low <= value <= 1.01 * high:
            yield f"{name} {form.format(value)}: the published rows span {form.format(low)} to {form.format(high)}"
    if scenario.images and scenario.vision is not None and not isinstance(scenario.vision.tower, LlamaTower):
        yield "images: no measurement has checked this tower's price"
    elif scenario.images:
        yield "images: the interval is that of text; ttsim.proof.vision has the measurements that checked them"
    if scenario.speculation:
        yield "speculative decoding: no measured row has checked a step that verifies"
    if scenario.prefix_hit:
        yield "a prefix-cache hit: no measured row has checked its prompt"
    longest = scenario.config.max_position_embeddings
    if scenario.prompt_length + scenario.max_generated_tokens > longest:
        yield f"sequences of more than {longest:,} tokens, the model's own limit"
    if scenario.batch_size not in covered.batches and min(covered.batches) < scenario.batch_size:
        yield f"batch {scenario.batch_size}: between the published ones ({_list(map(str, covered.batches))})"
    if scenario.batch_size > 1 and scenario.padded_prompt > 1024:
        yield "long prompts in a batch: the published long-context rows are of batch 1"
    if scenario.software.date not in covered.dates and scenario.software.date > max(covered.dates):
        yield f"software of {scenario.software.date}: the published rows end {max(covered.dates)}"
    if (stale := facts.staleness(scenario.software.date)) is not None:
        yield stale


def _list(items: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(items))


@dataclass(frozen=True)
class _Covered:
    systems: tuple[tuple[str, tuple[int, ...]], ...]
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    sizes: tuple[float, ...]
    dates: tuple[Any, ...]


@functools.cache
def _covered() -> _Covered:
    rows: Sequence[Row] = [row for row in tables.published() if not row.vision and (row.speed or row.ttft)]
    scenarios = [scenario_of(row, "speed") for row in rows]
    return _Covered(
        systems=tuple(dict.fromkeys((s.system.label, s.system.grid) for s in scenarios)),
        batches=tuple(sorted({s.batch_size for s in scenarios})),
        prompts=tuple(sorted({s.padded_prompt for s in scenarios})),
        sizes=tuple(sorted({get_config(row.model).parameter_count / 1e9 for row in rows})),
        dates=tuple(sorted({s.software.date for s in scenarios})),
    )
