"""Constants fitted to measured rows: those of later software to the shipped ones, the host's to one's own.

    residual = log(measured / predicted) / noise

weighed by `ttsim.proof.fitting`, the constants held back towards those of the registry. How a prediction moves with a
constant is found by finite differences; leaving a source out fits the others by the slopes of the whole fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttsim.hardware.constants import CONSTANTS, FITTED
from ttsim.proof import fitting
from ttsim.proof.fitting import Prior
from ttsim.proof.intervals import OWN_CODE, family_of
from ttsim.proof.measured import Measured
from ttsim.proof.validate import FIGURES, Figure, predict, scenario_of
from ttsim.scenarios.scenario import Scenario

NOISE = 0.03  # of a measurement, as a share: repeated rows of one configuration differ by 0.5 to 4 %
_SOFT = 2.0  # noises from which a residual counts by its amount
_STEP = 0.02  # of a constant's prior width, for a slope


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
        return family_of(self.scenario) != OWN_CODE

    def residual(self, constants: Mapping[str, float]) -> float:
        """log(measured / predicted)."""
        return math.log(self.measured / self.value(constants))


def predictions(rows: Sequence[Measured]) -> Iterator[Prediction]:
    """Every figure that counts and can be predicted; not those of servers under load, to which nothing is fitted."""
    for row in rows:
        if row.problems or not row.counts or row.under_load:
            continue
        try:
            scenario = scenario_of(row)
        except (ValueError, OSError):
            continue
        for figure in FIGURES:
            truth = row.speed if figure == "speed" else row.ttft
            if truth is not None:
                yield Prediction(row, figure, truth, scenario, functools.partial(_figure, scenario, row, figure))


def _figure(scenario: Scenario, row: Measured, figure: Figure, constants: Mapping[str, float]) -> float:
    return predict(scenario, row, (figure,), constants)[figure]


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
class FittedRows:
    """What a fit found.

    Attributes:
      constants: all constants.
      known: the figures that it was fitted on, or that it may be held out on.
      found: where it ended.
    """

    constants: dict[str, float]
    known: tuple[Prediction, ...]
    found: fitting.Fit

    def held_out(self) -> list[float]:
        """predicted / measured - 1 of each figure, by constants that were fitted without its source."""
        sources = np.array([item.row.source for item in self.known])
        errors = np.zeros(len(sources))
        for source in dict.fromkeys(sources):
            out = sources == source
            errors[out] = np.expm1(-NOISE * self.found.without(out)[out])
        return errors.tolist()


def fit(known: Sequence[Prediction], constants: Mapping[str, float], names: Sequence[str]) -> FittedRows:
    """Fits constants to figures, starting from (and held back towards) the given ones.

    Args:
      known: figures to fit.
      constants: all constants. names: which are free.
    """
    priors = {name: Prior(constants[name], CONSTANTS[name].log_width or 0.5) for name in names}
    used = [_names_in(item, constants) for item in known]

    def at(z: np.ndarray) -> dict[str, float]:
        free = {name: float(value) for name, value in fitting.constants_at(priors, z).items()}
        return {**constants, **free}

    def residuals(z: np.ndarray) -> np.ndarray:
        tried = at(z)
        return np.array([item.residual(tried) for item in known]) / NOISE

    def slopes(z: np.ndarray) -> np.ndarray:
        """Prices a row anew only for the constants that it rests on."""
        here, found = residuals(z), np.zeros((len(known), len(priors)))
        for column, (name, unit) in enumerate(zip(priors, np.eye(len(priors)), strict=True)):
            tried = at(z + _STEP * unit)
            for row, item in enumerate(known):
                if name in used[row]:
                    found[row, column] = (item.residual(tried) / NOISE - here[row]) / _STEP
        return found

    found = fitting.fit(residuals, np.zeros(len(priors)), slopes=slopes, soft=_SOFT)
    return FittedRows(at(found.z), tuple(known), found)


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
