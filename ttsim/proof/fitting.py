"""The one fitter: the most probable constants, given figures and what was known of the constants before.

    minimise  sum over figures of w s^2 (sqrt(1 + (r / s)^2) - 1)  +  sum over constants of z^2 / 2
    with      constant = centre * exp(width * z)

r is a figure's residual in units of its noise, w its weight. Residuals far beyond s count by their amount, not by its
square (pseudo-Huber), so that one odd figure doesn't bend the others. `scipy.optimize.least_squares` finds the minimum;
what is fitted, and to what, is said where the residuals are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

_STEP = 1e-3


@dataclass(frozen=True)
class Prior:
    """What is known of a constant before a fit: log-normal around `centre`, `width` wide in the logarithm."""

    centre: float
    width: float


def constants_at(priors: Mapping[str, Prior], z: Any, xp: Any = np) -> dict[str, Any]:
    """The constants that are `z` widths from their centres, [constants]; `xp` is numpy or jax.numpy."""
    return {name: prior.centre * xp.exp(prior.width * z[i]) for i, (name, prior) in enumerate(priors.items())}


@dataclass(frozen=True)
class Fit:
    """Where a fit ended.

    Attributes:
      z: the unknowns: [unknowns].
      residuals, slopes: of the figures there, in units of noise: [figures] and [figures, unknowns].
      soft: the residual from which figures count less.
    """

    z: np.ndarray
    residuals: np.ndarray
    slopes: np.ndarray
    soft: float

    def without(self, left_out: np.ndarray) -> np.ndarray:
        """Residuals of all figures after a fit without some: [figures]; by the slopes here, not by pricing anew.

        Args:
          left_out: whether each figure is: [figures].
        """

        def linear(z: np.ndarray) -> np.ndarray:
            return np.asarray(self.residuals + self.slopes @ (z - self.z))

        found = fit(linear, self.z, slopes=lambda z: self.slopes, weights=np.where(left_out, 0.0, 1.0), soft=self.soft)
        return found.residuals

    def deviations(self) -> np.ndarray:
        """One standard deviation of each unknown, by the curvature of the loss: [unknowns]."""
        curvature = (1 + (self.residuals / self.soft) ** 2) ** -1.5
        normal = self.slopes.T @ (curvature[:, None] * self.slopes) + np.eye(len(self.z))
        return np.asarray(np.sqrt(np.diag(np.linalg.inv(normal))))


def fit(
    residuals: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    *,
    slopes: Callable[[np.ndarray], np.ndarray] | None = None,
    weights: np.ndarray | None = None,
    soft: float = 1.0,
    prior: bool = True,
    least: float = -math.inf,
) -> Fit:
    """Minimises the loss above.

    Args:
      residuals: of the figures, in units of their noise, by the unknowns: [unknowns] -> [figures].
      start: where to begin: [unknowns].
      slopes: the residuals' derivatives, [figures, unknowns]; by steps of 1e-3 of an unknown if not given.
      weights: of the figures, 1 by default; 0 leaves one out. soft: s, in units of noise.
      prior: whether the unknowns are widths from a prior at 0. Without, they are free and may be scaled as they like.
      least: lower bound of every unknown.
    """
    start = np.asarray(start, float)
    figures, unknowns = len(residuals(start)), len(start)
    w = np.ones(figures) if weights is None else np.asarray(weights, float)

    def loss(squares: np.ndarray) -> np.ndarray:
        """scipy's rho, and its two derivatives, of the squared rows: the figures, then the priors."""
        root = np.sqrt(1 + squares[:figures] / soft**2)
        ours = np.stack([2 * w * soft**2 * (root - 1), w / root, -w / (2 * soft**2) / root**3])
        rest = squares[figures:]
        return np.concatenate([ours, np.stack([rest, np.ones_like(rest), np.zeros_like(rest)])], axis=1)

    def rows(z: np.ndarray) -> np.ndarray:
        return np.concatenate([residuals(z), z]) if prior else residuals(z)

    slopes = _differences(residuals) if slopes is None else slopes

    def jacobian(z: np.ndarray) -> np.ndarray:
        return np.concatenate([slopes(z), np.eye(unknowns)]) if prior else slopes(z)

    z = least_squares(
        rows,
        start,
        jac=jacobian,
        loss=loss,
        bounds=(least, np.inf),
        x_scale=1.0 if prior else "jac",
        xtol=1e-7,
        ftol=1e-9,
    ).x
    return Fit(z, residuals(z), slopes(z), soft)


def _differences(residuals: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def slopes(z: np.ndarray) -> np.ndarray:
        here = residuals(z)
        return np.stack([(residuals(z + _STEP * unit) - here) / _STEP for unit in np.eye(len(z))], axis=1)

    return slopes
