"""Fits the fitted constants to the published tables, and measures how well rows that were left out are predicted.

    residual = log(model / published) / sigma

weighed by `ttsim.proof.fitting`; its slopes come from differentiating the cost model. A fold is a vector of weights.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttsim.hardware.constants import CONSTANTS, FITTED, prior_constants
from ttsim.pricing.matrices import Programs
from ttsim.proof import fitting
from ttsim.proof import published as tables
from ttsim.proof.fitting import Prior
from ttsim.proof.published_tables import Row
from ttsim.proof.rows import compilations, scenario_of
from ttsim.proof.summary import ErrorSummary

SPEED_SIGMA = 0.02  # noise of a published speed: twins that run the same graph differ by 0.7 %, plus the model's own
TTFT_SIGMA = 0.07  # of a published TTFT: prompts on one chip repeat within 3 %, host-bound ones within 12 %

# Models of one shape: leaving out one of them leaves its twins in.
_FAMILY = {"Llama3.1-8B": "8B", "Llama3.2-11B": "8B", "Mistral-7B": "8B"}

FOLDS: dict[str, Callable[[Row], str]] = {
    "leave-one-model-out": lambda row: row.model,
    "leave-one-family-out": lambda row: _FAMILY.get(row.model, row.model),
    "leave-one-table-out": lambda row: "sweep" if row.table.startswith("sweep") else row.table,
    "leave-one-device-out": lambda row: row.device,
}
KINDS = ("in-sample", *FOLDS)


def measured_rows() -> tuple[Row, ...]:
    """The published rows with a speed or a TTFT, without those of the vision demo."""
    return tuple(row for row in tables.published() if not row.vision and (row.speed or row.ttft))


# The rows as matrices


@dataclass(frozen=True)
class Observations:
    """Published figures, speeds (t/s/u) before TTFTs (s), and the cost model of each as matrices.

    Attributes:
      rows: the row of each figure.
      published: [figures].
      steps: decode steps, a run for each speed. prompts: a run for each TTFT.
      compilations: of each prompt, see `ttsim.proof.rows`.
    """

    rows: tuple[Row, ...]
    published: np.ndarray
    steps: Programs
    prompts: Programs
    compilations: np.ndarray

    @property
    def num_speeds(self) -> int:
        return len(self.steps.runs)

    def predict(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Modelled figures: [figures].

        Args:
          constants: value of each. xp: numpy or jax.numpy.
        """
        ttft = self.prompts.round(constants, xp) / self.prompts.replicas
        ttft = ttft + self.compilations * constants["program_one_off"]
        return xp.concatenate([1 / self.steps.round(constants, xp), ttft])

    def errors(self, constants: Mapping[str, Any]) -> np.ndarray:
        """model / published - 1."""
        return np.asarray(self.predict(constants) / self.published - 1)


def observe(rows: Sequence[Row] | None = None) -> Observations:
    """Prices what the rows ran.

    Args:
      rows: by default `measured_rows()`.
    """
    rows = measured_rows() if rows is None else tuple(rows)
    with_speed, with_ttft = [row for row in rows if row.speed], [row for row in rows if row.ttft]
    return Observations(
        rows=(*with_speed, *with_ttft),
        published=np.array([row.speed for row in with_speed] + [row.ttft for row in with_ttft], float),
        steps=Programs.build([[scenario_of(row, "speed").decode_cost] for row in with_speed]),
        prompts=Programs.build([scenario_of(row, "ttft").prefill_costs for row in with_ttft]),
        compilations=np.array([compilations(row.batch_size) for row in with_ttft]),
    )


# The fit


def priors(names: Sequence[str] = FITTED) -> dict[str, Prior]:
    """What is known of constants before the tables, from the registry."""
    return {name: Prior(CONSTANTS[name].value, CONSTANTS[name].log_width) for name in names}


class _Objective:
    """The figures' residuals, and their slopes, as functions of the constants' widths from their priors."""

    def __init__(self, observations: Observations, free: Sequence[str]) -> None:
        self._observations, self.priors, self._others = observations, priors(free), prior_constants()
        figures = len(observations.published)
        self._sigma = np.where(np.arange(figures) < observations.num_speeds, SPEED_SIGMA, TTFT_SIGMA)
        self._log_published = np.log(observations.published)
        self._slopes = jax.jit(jax.jacfwd(functools.partial(self._residuals, xp=jnp)))

    def constants(self, z: Any, xp: Any = np) -> dict[str, Any]:
        """Every constant's value."""
        return {**self._others, **fitting.constants_at(self.priors, z, xp)}

    def _residuals(self, z: Any, xp: Any) -> Any:
        return (xp.log(self._observations.predict(self.constants(z, xp), xp)) - self._log_published) / self._sigma

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """[figures]"""
        return np.asarray(self._residuals(z, np))

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """[figures, constants]"""
        return np.asarray(self._slopes(jnp.asarray(z, jnp.float32)), float)

    def fit(self, start: np.ndarray, weights: np.ndarray) -> fitting.Fit:
        """The fit of one fold."""
        return fitting.fit(self.residuals, start, slopes=self.slopes, weights=weights)


def fit(observations: Observations, weights: Any, *, free: Sequence[str] = FITTED) -> list[dict[str, float]]:
    """Every constant's value, for each fold.

    Args:
      observations: the figures.
      weights: [folds, figures], zero for a figure that is left out.
      free: constants that are fitted; others stay at their priors.
    """
    return _fit(_Objective(observations, free), weights)[0]


def _fit(objective: _Objective, weights: Any) -> tuple[list[dict[str, float]], fitting.Fit]:
    """The constants of each fold, and the first one's fit, from which the others start."""
    weights = np.asarray(weights, float)
    first = objective.fit(np.zeros(len(objective.priors)), weights[0])
    fits = [first, *(objective.fit(first.z, fold) for fold in weights[1:])]
    return [{name: float(value) for name, value in objective.constants(found.z).items()} for found in fits], first


# The whole calibration


@dataclass(frozen=True)
class Calibration:
    """Fitted constants, and the errors of figures that were and weren't fitted.

    Attributes:
      rows: the row of each figure. figures: "speed" or "ttft" for each.
      constants: value of each constant.
      deviations: one standard deviation of the log of each fitted constant.
      ranges: (lowest, highest) of each fitted constant over the leave-one-model-out folds.
      errors: model / published - 1 of each figure, by kind (`KINDS`).
    """

    rows: tuple[Row, ...]
    figures: tuple[str, ...]
    constants: Mapping[str, float]
    deviations: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    errors: Mapping[str, np.ndarray]

    def summary(self, kind: str, figure: str, rows: Callable[[Row], bool] = lambda row: True) -> ErrorSummary | None:
        """Statistics of one kind of errors over the rows that `rows` accepts."""
        chosen = [
            error
            for row, name, error in zip(self.rows, self.figures, self.errors[kind], strict=True)
            if name == figure and rows(row)
        ]
        return ErrorSummary.of(chosen)


def calibrate(observations: Observations) -> Calibration:
    """Fits the constants to all figures, and again without each model, family, table and device."""
    weights, held_out = [np.ones(len(observations.rows))], []
    for kind, group_of in FOLDS.items():
        groups = np.array([group_of(row) for row in observations.rows])
        for group in dict.fromkeys(groups):
            held_out.append((kind, groups == group))
            weights.append((groups != group).astype(float))
    objective = _Objective(observations, FITTED)
    folds, first = _fit(objective, weights)

    errors = {kind: observations.errors(folds[0]) for kind in KINDS}
    for constants, (kind, left_out) in zip(folds[1:], held_out, strict=True):
        errors[kind] = np.where(left_out, observations.errors(constants), errors[kind])
    without_a_model = [c for c, (kind, _) in zip(folds[1:], held_out, strict=True) if kind == "leave-one-model-out"]
    number = observations.num_speeds
    return Calibration(
        rows=observations.rows,
        figures=("speed",) * number + ("ttft",) * (len(observations.rows) - number),
        constants=folds[0],
        deviations={
            name: float(prior.width * deviation)
            for (name, prior), deviation in zip(objective.priors.items(), first.deviations(), strict=True)
        },
        ranges={n: (min(c[n] for c in without_a_model), max(c[n] for c in without_a_model)) for n in FITTED},
        errors=errors,
    )


# The calibration as data


def to_json(calibration: Calibration) -> str:
    """The summary, the ranges of the constants and every figure's errors."""
    summaries = {
        kind: {figure: _rounded(calibration.summary(kind, figure)) for figure in ("speed", "ttft")} for kind in KINDS
    }
    constants = {
        name: {
            "log_deviation": round(calibration.deviations[name], 4),
            "without_one_model": [float(f"{value:.4g}") for value in calibration.ranges[name]],
        }
        for name in FITTED
    }
    figures = [
        {
            "table": row.table,
            "model": row.model,
            "device": row.device_label,
            "figure": figure,
            **{kind: round(float(calibration.errors[kind][i]), 5) for kind in KINDS},
        }
        for i, (row, figure) in enumerate(zip(calibration.rows, calibration.figures, strict=True))
    ]
    lines = ",\n    ".join(json.dumps(figure) for figure in figures)
    head = json.dumps({"summary": summaries, "constants": constants}, indent=2).removesuffix("\n}")
    return f'{head},\n  "figures": [\n    {lines}\n  ]\n}}\n'


@functools.cache
def load_summary() -> Mapping[str, Any]:
    """The calibration that ships with the package: {"summary": {kind: {figure: ...}}, "constants", "figures"}."""
    text = resources.files("ttsim.data").joinpath("calibration.json").read_text(encoding="utf-8")
    summary: Mapping[str, Any] = json.loads(text)
    return summary


def _rounded(summary: ErrorSummary | None) -> dict[str, float] | None:
    if summary is None:
        return None
    return {name: round(value, 5) for name, value in dataclasses.asdict(summary).items()}
