"""Fits the fitted constants to the published tables, and measures how well rows that were left out are predicted.

    minimise  sum over figures of w * rho(log(model / published) / sigma) + sum over constants of z^2 / 2
    with      rho(x) = sqrt(1 + x^2) - 1  and  constant = prior * exp(width * z)

by gradient descent (Adam) through the cost model. All folds are fitted at once: a fold is a vector of weights w.
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
import optax

from ttsim.hardware.constants import CONSTANTS, FITTED, prior_constants
from ttsim.pricing.matrices import Programs
from ttsim.proof import published as tables
from ttsim.proof.published import Row
from ttsim.proof.rows import compilations, scenario_of
from ttsim.proof.summary import ErrorSummary

SPEED_SIGMA = 0.02  # noise of a published speed: twins that run the same graph differ by 0.7 %, plus the model's own
TTFT_SIGMA = 0.07  # of a published TTFT: prompts on one chip repeat within 3 %, host-bound ones within 12 %
STEPS = 400

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
        compilations=np.array([compilations(row) for row in with_ttft]),
    )


# The fit


@dataclass(frozen=True)
class _Objective:
    """The loss of one fold as a function of z, the constants' deviations from their priors in widths."""

    observations: Observations
    free: tuple[str, ...]

    def constants(self, z: Any) -> dict[str, Any]:
        values = {name: CONSTANTS[name].value * jnp.exp(CONSTANTS[name].log_width * z[i]) for i, name in self._free()}
        return prior_constants() | values

    def _free(self) -> list[tuple[int, str]]:
        return list(enumerate(self.free))

    def __call__(self, z: Any, weight: Any) -> Any:
        o = self.observations
        sigma = np.where(np.arange(len(o.published)) < o.num_speeds, SPEED_SIGMA, TTFT_SIGMA)
        error = (jnp.log(o.predict(self.constants(z), jnp)) - np.log(o.published)) / sigma
        return jnp.sum(weight * (jnp.sqrt(1 + error**2) - 1)) + 0.5 * jnp.sum(z**2)


def fit(
    observations: Observations, weights: Any, *, steps: int = STEPS, free: Sequence[str] = FITTED
) -> dict[str, np.ndarray]:
    """The fitted constants of each fold.

    Args:
      observations: the figures.
      weights: [folds, figures], zero for a figure that is left out.
      steps: of gradient descent. free: constants that are fitted; others stay at their priors.

    Returns:
      Every constant's value: [folds].
    """
    objective = _Objective(observations, tuple(free))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.15, steps))

    def descend(weight: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            z, state = carry
            updates, state = optimizer.update(jax.grad(objective)(z, weight), state)
            return (optax.apply_updates(z, updates), state), None

        z = jnp.zeros(len(objective.free))
        (z, _), _ = jax.lax.scan(step, (z, optimizer.init(z)), None, length=steps)
        return objective.constants(z)

    fitted = jax.jit(jax.vmap(descend))(jnp.asarray(weights, jnp.float32))
    return {name: np.asarray(value, float) for name, value in fitted.items()}


def log_deviations(observations: Observations, constants: Mapping[str, float]) -> dict[str, float]:
    """One standard deviation of the log of each fitted constant, from the loss's curvature at its minimum."""
    objective = _Objective(observations, FITTED)
    z = jnp.array([np.log(constants[n] / CONSTANTS[n].value) / CONSTANTS[n].log_width for n in FITTED])
    curvature = jax.jit(jax.hessian(objective))(z, jnp.ones(len(observations.published)))
    variance = np.diag(np.linalg.inv(np.asarray(curvature, float)))
    return {n: float(CONSTANTS[n].log_width * np.sqrt(v)) for n, v in zip(FITTED, variance, strict=True)}


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


def calibrate(observations: Observations, *, steps: int = STEPS) -> Calibration:
    """Fits the constants to all figures, and again without each model, family, table and device."""
    weights, held_out = [np.ones(len(observations.rows))], []
    for kind, group_of in FOLDS.items():
        groups = np.array([group_of(row) for row in observations.rows])
        for group in dict.fromkeys(groups):
            held_out.append((kind, groups == group))
            weights.append((groups != group).astype(float))
    fitted = fit(observations, np.stack(weights), steps=steps)
    folds = [{name: float(values[i]) for name, values in fitted.items()} for i in range(len(weights))]

    errors = {kind: observations.errors(folds[0]) for kind in KINDS}
    for constants, (kind, left_out) in zip(folds[1:], held_out, strict=True):
        errors[kind] = np.where(left_out, observations.errors(constants), errors[kind])
    without_a_model = [c for c, (kind, _) in zip(folds[1:], held_out, strict=True) if kind == "leave-one-model-out"]
    number = observations.num_speeds
    return Calibration(
        rows=observations.rows,
        figures=("speed",) * number + ("ttft",) * (len(observations.rows) - number),
        constants=folds[0],
        deviations=log_deviations(observations, folds[0]),
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
