"""Flipped choices: from noise on the logits to the chances that the first stays the reference's, or in its five."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttsim.accuracy.step_noise import Noise


def kept(noise: Any, xp: Any = np) -> tuple[Any, Any]:
    """Chances that the noisy first choice is the reference's first choice, and that it is among the reference's five.

    Logits in units of the margin scale lie as a Poisson process of density exp(-x), each with Gaussian noise of
    standard deviation r. A token u below a reference point overtakes a value m above that point with intensity

        L(m) = integral_0^inf exp(u) Q((u + m) / r) du = exp(r^2 / 2 - m) Q(m / r - r) - Q(m / r)

    and the reference point's own place, exp(-x), is Gamma(k)-distributed for the k-th best token. Hence

        first:  E[1 / (1 + L(r z))],          z normal
        five:   E[1 / (1 + L(M))^5],          M = max(r z, four of (e + r z)), e exponential.

    Interpolated in a table over r.

    Args:
      noise: r, any shape.
      xp: numpy, or jax.numpy for derivatives.
    """
    grid, first, five = _kept_table()
    return xp.interp(noise, grid, first), xp.interp(noise, grid, five)


@functools.cache
def _kept_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    erfc = np.frompyfunc(math.erfc, 1, 1)

    def tail(x: np.ndarray) -> np.ndarray:
        return 0.5 * np.asarray(erfc(x / math.sqrt(2)), float)

    r = np.concatenate([[1e-3], np.geomspace(1e-2, 8, 60)])[:, None]
    t = np.linspace(-6.5, 38.0, 446)[None]  # m / r
    q, q_shifted = tail(t), tail(t - r)
    tilt = np.exp(np.minimum(r * r / 2 - r * t, 700.0))
    overtaking = np.maximum(tilt * q_shifted - q, 0.0)
    density = np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    first = np.trapezoid(density / (1 + overtaking), t, axis=1)
    # Distribution of the best of the reference's five; beyond the grid it is above everything that could overtake.
    cdf = (1 - q) * np.clip(1 - q - tilt * (1 - q_shifted), 0.0, 1.0) ** 4
    mass = np.diff(cdf, axis=1)
    middle = (overtaking[:, 1:] + overtaking[:, :-1]) / 2
    five = (mass / (1 + middle) ** 5).sum(1) + 1 - cdf[:, -1]
    ends = np.ones(1)
    grid = np.concatenate([[0.0], r[:, 0]])
    return grid, np.concatenate([ends, np.minimum(first, 1)]), np.concatenate([ends, np.minimum(five, 1)])


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def accuracy(
    noise: Noise,
    confidence: tuple[Any, Any],
    early: Any,
    constants: Mapping[str, Any],
    xp: Any = np,
) -> tuple[Any, Any]:
    """Top-1 and Top-5 as fractions.

    Args:
      noise: of the precision.
      confidence: how often the text's next token is the model's first choice, and among its five, percent.
      early: whether only the first 128 positions are compared.
      constants: the fitted ones.
      xp: numpy, or jax.numpy for derivatives.
    """
    spread = constants["noise_spread"]
    # Log-normal over positions, at the same mean square.
    r = xp.sqrt(noise.variance(constants)) * xp.exp(spread * _NODES - spread**2)
    first, five = kept(r, xp)
    share = contested(confidence, constants, xp) * xp.where(early, constants["early_share"], 1.0)
    return 1 - share * (1 - first @ _WEIGHTS), 1 - share * (1 - five @ _WEIGHTS)


def contested(confidence: tuple[Any, Any], constants: Mapping[str, Any], xp: Any = np) -> Any:
    """Share of positions that noise can flip: sqrt(misses * hits of ranks 2 to 5) / contested_scale, at most 1.

    Both counts vanish where the model knows the text by heart. Misses alone would count every confident error, hits of
    ranks 2 to 5 alone are few; on the published rows their geometric mean predicts better than either.
    """
    top1, top5 = confidence
    return xp.minimum(xp.sqrt((100 - top1) * (top5 - top1)) / 100 / constants["contested_scale"], 1.0)
