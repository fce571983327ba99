"""How far off an estimate may be: intervals from rows that were left out of the fit, and the range they cover.

With r = log(published / predicted) of each published figure, predicted by a calibration that never saw its model (or,
for a system without published rows, its device),

    low, high = estimate x exp(-q), estimate x exp(q),    q = the ceil((n + 1) coverage)-th smallest |r|

(split conformal prediction). The coverage is measured the same way: each model's (device's) figures against the q of
the residuals of all others.

Source: Lei et al., Distribution-Free Predictive Inference for Regression, 2018.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np

from ttsim.hardware.chips import WORMHOLE, Chip
from ttsim.models.identity import get_config
from ttsim.models.vision.config import LlamaTower
from ttsim.proof import published as tables
from ttsim.proof.rows import scenario_of
from ttsim.scenarios.scenario import Scenario

COVERAGE = 0.8  # share of new rows that an interval should hold
Figure = Literal["speed", "ttft"]
Fold = Literal["model", "device", "chip"]  # what a calibration had not seen

# log(measured / predicted) of the only measurements of another chip, Llama-3.1-8B on P150 at 32 users and at one, with
# FF2, then QKV and WO too, at LoFi: 32.8, 40.8, 45.4 and 49.7 t/s/u (tt-metal PRs #55080 and #50662, 2026-09). No
# constant was fitted on them, but how constants scale to the chip was chosen with them in view: the width is in-sample.
# There is no measurement of a TTFT.
OTHER_CHIPS = (-0.08, 0.07, 0.11, 0.13)


@dataclass(frozen=True)
class Residuals:
    """Errors of one figure on rows that were left out.

    Attributes:
      log_ratios: log(published / predicted) of each row.
      groups: the model (or device) of each row.
    """

    log_ratios: np.ndarray
    groups: tuple[str, ...]

    def half_width(self, coverage: float = COVERAGE) -> float:
        """q: the log of the factor between an estimate and its high."""
        return _quantile(np.abs(self.log_ratios), coverage)

    def measured_coverage(self, coverage: float = COVERAGE) -> float:
        """Share of the rows that an interval from the other groups' residuals holds."""
        size, groups = np.abs(self.log_ratios), np.array(self.groups)
        held = [size[groups == g] <= _quantile(size[groups != g], coverage) for g in dict.fromkeys(self.groups)]
        return float(np.mean(np.concatenate(held)))


@dataclass(frozen=True)
class Interval:
    """A figure's low and high.

    Attributes:
      low, high: in the figure's unit.
      coverage: asked for. measured: share of the published rows that such intervals hold. Both are None where the
        interval is only the largest error seen. rows: how many rows.
      fold: what was left out ("model" or "device").
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


def _quantile(sizes: np.ndarray, coverage: float) -> float:
    rank = math.ceil((len(sizes) + 1) * coverage)
    return float(np.sort(sizes)[rank - 1]) if rank <= len(sizes) else math.inf


@functools.cache
def residuals(figure: Figure, fold: Literal["model", "device"] = "model") -> Residuals:
    """The residuals that ship with the calibration: errors e = predicted / published - 1 of left-out figures."""
    record = json.loads(resources.files("ttsim.data").joinpath("calibration.json").read_text(encoding="utf-8"))
    rows = [row for row in record["figures"] if row["figure"] == figure]
    ratios = -np.log1p([row[f"leave-one-{fold}-out"] for row in rows])
    return Residuals(ratios, tuple(row[fold] for row in rows))


def interval(value: float, figure: Figure, fold: Fold = "model", coverage: float = COVERAGE) -> Interval | None:
    """The interval around an estimate, None if nothing was ever measured that would tell its width."""
    if fold == "chip":
        if figure == "ttft":
            return None
        found = Residuals(np.array(OTHER_CHIPS), ("P150",) * len(OTHER_CHIPS))
        factor = math.exp(float(np.abs(found.log_ratios).max()))
        return Interval(value / factor, value * factor, None, None, len(OTHER_CHIPS), fold)
    found = residuals(figure, fold)
    factor = math.exp(found.half_width(coverage))
    measured = found.measured_coverage(coverage)
    return Interval(value / factor, value * factor, coverage, measured, len(found.log_ratios), fold)


def chip_name(chip: Chip) -> str:
    """A chip's name as people write it: "Wormhole", "Blackhole P150"."""
    first, _, rest = chip.name.partition("_")
    return f"{first.capitalize()} {rest.upper()}".strip()


def fold_of(scenario: Scenario) -> Fold:
    """What a calibration must not have seen to be as ignorant as this one is of the scenario."""
    covered = _covered().systems
    if scenario.chip != WORMHOLE:
        return "chip"
    return "model" if (scenario.system.label, scenario.system.grid) in covered else "device"


# The range that the published tables cover


def outside(scenario: Scenario) -> tuple[str, ...]:
    """What of a scenario lies outside the published rows that the model was fitted on and checked with, in words."""
    return tuple(_outside(scenario))


def _outside(scenario: Scenario) -> Iterable[str]:
    covered = _covered()
    system = scenario.system
    if scenario.chip != WORMHOLE:
        yield (
            f"{system.label}: no published row was measured on {chip_name(scenario.chip)}; what was measured on "
            "Wormhole is scaled by the chips' figures (predicted)"
        )
    elif (system.label, system.grid) not in covered.systems:
        yield f"{system.label}: the published rows are of {_list(label for label, _ in covered.systems)}"
    ranges = (
        ("batch", scenario.batch_size, covered.batches, "{:,.0f}"),
        ("prompt", scenario.padded_prompt, covered.prompts, "{:,.0f} tokens"),
        ("model size", scenario.config.parameter_count / 1e9, covered.sizes, "{:.2g}e9 parameters"),
    )
    for name, value, values, form in ranges:
        low, high = min(values), max(values)
        if not 0.99 * low <= value <= 1.01 * high:
            yield f"{name} {form.format(value)}: the published rows span {form.format(low)} to {form.format(high)}"
    if scenario.images and scenario.vision is not None and not isinstance(scenario.vision.tower, LlamaTower):
        yield "images: no measurement has checked this tower's price"
    elif scenario.images:
        yield "images: the interval is that of text; ttsim.proof.vision has the measurements that checked them"
    longest = scenario.config.max_position_embeddings
    if scenario.prompt_length + scenario.max_generated_tokens > longest:
        yield f"sequences of more than {longest:,} tokens, the model's own limit"
    if scenario.batch_size not in covered.batches and min(covered.batches) < scenario.batch_size:
        yield f"batch {scenario.batch_size}: between the published ones ({_list(map(str, covered.batches))})"
    if scenario.batch_size > 1 and scenario.padded_prompt > 1024:
        yield "long prompts in a batch: the published long-context rows are of batch 1"
    if scenario.software.date not in covered.dates and scenario.software.date > max(covered.dates):
        yield f"software of {scenario.software.date}: the published rows end {max(covered.dates)}"


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
    rows: Sequence[tables.Row] = [row for row in tables.published() if not row.vision and (row.speed or row.ttft)]
    scenarios = [scenario_of(row, "speed") for row in rows]
    return _Covered(
        systems=tuple(dict.fromkeys((s.system.label, s.system.grid) for s in scenarios)),
        batches=tuple(sorted({s.batch_size for s in scenarios})),
        prompts=tuple(sorted({s.padded_prompt for s in scenarios})),
        sizes=tuple(sorted({get_config(row.model).parameter_count / 1e9 for row in rows})),
        dates=tuple(sorted({s.software.date for s in scenarios})),
    )
