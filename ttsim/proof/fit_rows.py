"""Constants fitted to measured rows: those of later software to the shipped ones, the host's to one's own.

In logarithms, with r = log(measured / predicted), prior widths w from the registry and a robust weight,

    minimise  sum of huber(r / s)  +  sum of (log(c / c0) / w)^2 / 2

by Gauss-Newton steps; how a prediction moves with each constant is found by finite differences. Leaving a source out
takes its rows from the last step, whose slopes are those of the whole fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttsim.hardware.constants import CONSTANTS, FITTED
from ttsim.proof.measured import Measured
from ttsim.proof.validate import FIGURES, Figure, predict, scenario_of
from ttsim.scenarios.scenario import Scenario

NOISE = 0.03  # of a measurement, as a share: repeated rows of one configuration differ by 0.5 to 4 %
_HUBER = 2.0  # residuals of more noise than this count linearly
_STEP, _LARGEST = 0.02, 0.5  # of a constant's logarithm: for a slope, and of one round


@dataclass(frozen=True)
class Prediction:
    """A figure of a row, as a function of the constants.

    Attributes:
      row, figure, measured: which figure of which row, and what it is.
      scenario: what ran.
      value: the prediction by the constants.
    """

    row: Measured
    figure: Figure
    measured: float
    scenario: Scenario
    value: Callable[[Mapping[str, float]], float]

    @property
    def shared(self) -> bool:
        """Whether the program is the one that the constants are for: a dense model's, not code of a family's own."""
        config = self.scenario.config
        return config.experts is None and config.latent is None and config.delta is None

    def residual(self, constants: Mapping[str, float]) -> float:
        """log(measured / predicted)."""
        return math.log(self.measured / self.value(constants))


def predictions(rows: Sequence[Measured]) -> Iterator[Prediction]:
    """Every figure that counts and can be predicted; a server's TTFT only where nothing waits for other requests."""
    for row in rows:
        if row.problems or not row.counts:
            continue
        try:
            scenario = scenario_of(row)
        except (ValueError, OSError):
            continue
        for figure in FIGURES:
            truth = row.speed if figure == "speed" else row.ttft
            waits = figure == "ttft" and row.client and scenario.batch_size > 1
            if truth is not None and not waits:
                yield Prediction(row, figure, truth, scenario, functools.partial(predict, scenario, row, figure))


def fit_host(rows: Sequence[Measured], constants: Mapping[str, float]) -> dict[str, float]:
    """All constants, the host's fitted to the rows that can be predicted.

    Raises:
      ValueError: no row can be.
    """
    known = list(predictions(rows))
    if not known:
        raise ValueError("no row of the measurements can be predicted: the host can't be fitted to them")
    return fit(known, constants, host_constants()).constants


def host_constants() -> tuple[str, ...]:
    """Names of the fitted constants that are times of the host."""
    return tuple(name for name in FITTED if name.startswith("host_"))


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes:
      constants: all constants.
      names: those that were free.
      known: the figures that it was fitted on, or that it may be held out on.
      residuals, slopes: of the figures at the solution, in units of noise: [figures] and [figures, names].
      shift: log(constant / where the fit began): [names].
    """

    constants: dict[str, float]
    names: tuple[str, ...]
    known: tuple[Prediction, ...]
    residuals: np.ndarray
    slopes: np.ndarray
    shift: np.ndarray

    def held_out(self) -> list[float]:
        """predicted / measured - 1 of each figure, by constants that were fitted without its source."""
        sources = np.array([item.row.source for item in self.known])
        errors = np.zeros(len(sources))
        for source in dict.fromkeys(sources):
            out = sources == source
            # Residuals in the linear form around the solution: r(x) = r - S (x - x0)
            moved = _solve(self.residuals[~out], self.slopes[~out], self.shift, _width(self.names))
            errors[out] = np.expm1(-NOISE * (self.residuals[out] + self.slopes[out] @ moved))
        return errors.tolist()


def fit(known: Sequence[Prediction], constants: Mapping[str, float], names: Sequence[str], rounds: int = 12) -> Fit:
    """Fits constants to figures, starting from (and held back towards) the given ones.

    Args:
      known: figures to fit.
      constants: all constants. names: which are free.
      rounds: most Gauss-Newton steps.
    """
    names, width = tuple(names), _width(names)
    start = np.log([constants[name] for name in names])

    def at(shift: np.ndarray) -> dict[str, float]:
        return {**constants, **dict(zip(names, np.exp(start + shift).tolist(), strict=True))}

    def residuals(shift: np.ndarray) -> np.ndarray:
        tried = at(shift)
        return np.array([item.residual(tried) for item in known]) / NOISE

    used = [_names_in(item, constants) for item in known]

    def slopes_at(shift: np.ndarray, now: np.ndarray) -> np.ndarray:
        slopes = np.zeros((len(known), len(names)))
        for column, (name, unit) in enumerate(zip(names, np.eye(len(names)), strict=True)):
            tried = at(shift + _STEP * unit)
            for row, item in enumerate(known):
                if name in used[row]:
                    slopes[row, column] = (item.residual(tried) / NOISE - now[row]) / _STEP
        return slopes

    shift = np.zeros(len(names))
    now = residuals(shift)
    slopes = np.zeros((len(known), len(names)))
    for _ in range(rounds):
        slopes = slopes_at(shift, now)
        step = _solve(now, slopes, shift, width)
        shift = shift + np.clip(step, -_LARGEST, _LARGEST)
        now = residuals(shift)
        if np.abs(step).max() < 1e-3:
            break
    return Fit(at(shift), names, tuple(known), now, slopes, shift)


class _Recording(dict[str, float]):
    """Constants that remember which of them were asked for."""

    def __init__(self, constants: Mapping[str, float]):
        super().__init__(constants)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> float:
        self.seen.add(name)
        return super().__getitem__(name)


def _names_in(item: Prediction, constants: Mapping[str, float]) -> set[str]:
    """Names of the constants that a prediction rests on."""
    recording = _Recording(constants)
    item.value(recording)
    return recording.seen


def _width(names: Sequence[str]) -> np.ndarray:
    return np.array([CONSTANTS[name].log_width or 0.5 for name in names])


def _solve(residuals: np.ndarray, slopes: np.ndarray, shift: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The step from `shift` to the minimum of the linear form, residuals weighted by Huber at where it lands."""
    step = np.zeros(len(shift))
    for _ in range(20):
        size = np.abs(residuals + slopes @ step)
        weight = np.minimum(1.0, _HUBER / np.maximum(size, 1e-9))
        normal = slopes.T @ (weight[:, None] * slopes) + np.diag(width**-2.0)
        step = np.linalg.solve(normal, -(slopes.T @ (weight * residuals)) - shift / width**2)
    return step
