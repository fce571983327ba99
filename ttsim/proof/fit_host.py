"""The host's constants fitted to one's own rows: what the simulator can't know of another computer.

In logarithms, with prior widths w from the registry,

    minimise  sum of huber(log(measured / predicted) / s)  +  sum of (log(c / c0) / w)^2 / 2

by damped Gauss-Newton steps with finite differences. Device constants stay as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ttsim.hardware.constants import CONSTANTS, FITTED
from ttsim.proof.measured import Measured
from ttsim.proof.validate import FIGURES, predict, scenario_of

NOISE = 0.03  # of a measurement, as a share: repeated rows of one configuration differ by 0.5 to 4 %
_HUBER = 2.0  # residuals of more noise than this count linearly
_STEP, _ROUNDS = 0.02, 12


def host_constants() -> tuple[str, ...]:
    """Names of the fitted constants that are times of the host."""
    return tuple(name for name in FITTED if name.startswith("host_"))


def fit_host(rows: Sequence[Measured], constants: Mapping[str, float]) -> dict[str, float]:
    """All constants, the host's fitted to the rows that can be predicted.

    Raises:
      ValueError: no row can be.
    """
    predictions = list(_predictions(rows))
    if not predictions:
        raise ValueError("no row of the measurements can be predicted: the host can't be fitted to them")
    names = host_constants()
    width = np.array([CONSTANTS[name].log_width or 0.5 for name in names])
    start = np.log([constants[name] for name in names])

    def residuals(shift: np.ndarray) -> np.ndarray:
        tried = {**constants, **dict(zip(names, np.exp(start + shift), strict=True))}
        return np.array([math.log(truth / value(tried)) for truth, value in predictions]) / NOISE

    shift = np.zeros(len(names))
    for _ in range(_ROUNDS):
        now = residuals(shift)
        slopes = np.stack([(residuals(shift + _STEP * unit) - now) / _STEP for unit in np.eye(len(names))], axis=1)
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(now), 1e-9))
        normal = slopes.T @ (weight[:, None] * slopes) + np.diag(width**-2.0)
        step = np.linalg.solve(normal, -(slopes.T @ (weight * now)) - shift / width**2)
        shift = shift + np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-4:
            break
    return {**constants, **dict(zip(names, np.exp(start + shift).tolist(), strict=True))}


def _predictions(
    rows: Sequence[Measured],
) -> Iterator[tuple[float, Callable[[Mapping[str, float]], float]]]:
    """(measured, prediction as a function of the constants) of every figure that has both."""
    for row in rows:
        if row.problems or not row.counts:
            continue
        try:
            scenario = scenario_of(row)
        except (ValueError, OSError):
            continue
        for figure in FIGURES:
            truth = row.speed if figure == "speed" else row.ttft
            if truth is not None:
                yield truth, functools.partial(predict, scenario, row, figure)
