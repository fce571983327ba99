"""Many kernels as a few matrices: what makes calibration a gradient descent.

A kernel is linear in phi = (1, c_1 ... c_n, 1 / c_1 ... 1 / c_n) but for a maximum, so the seconds of all programs are

    counts @ (starts @ phi + max over limits of (limits @ phi))

with equal kernels of different programs stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.hardware.constants import CONSTANTS
from ttsim.kernels.kernel import SECONDS, Kernel, Terms

_COLUMN = {SECONDS: 0}
_COLUMN |= {name: 1 + i for i, name in enumerate(CONSTANTS)}
_COLUMN |= {"/" + name: 1 + len(CONSTANTS) + i for i, name in enumerate(CONSTANTS)}


def basis(constants: Mapping[str, Any], xp: Any = np) -> Any:
    """phi of these constants: [1 + 2 n], in the order of `CONSTANTS`."""
    values = xp.stack([xp.asarray(constants[name]) for name in CONSTANTS])
    return xp.concatenate([xp.ones(1), values, 1 / values])


@dataclass(frozen=True)
class Stack:
    """Programs as matrices.

    Attributes:
      starts: [kernels, 1 + 2 n]. limits: [kernels, most limits of a kernel, 1 + 2 n]. counts: [programs, kernels].
    """

    starts: Any
    limits: Any
    counts: Any

    def seconds(self, phi: Any, xp: Any = np) -> Any:
        """Seconds of each program: [programs].

        Args:
          phi: `basis(constants)`. xp: numpy or jax.numpy.
        """
        return self.counts @ (self.starts @ phi + xp.max(self.limits @ phi, axis=1))


def stack(programs: Iterable[Sequence[tuple[Kernel, float]]]) -> Stack:
    """Stacks programs, each a list of (kernel, how often it runs).

    A kernel whose amounts are arrays (a price for each position) counts as the mean over them.
    """
    ordinals: dict[bytes, int] = {}
    kernels: list[tuple[Any, list[Any]]] = []
    counts: list[dict[int, float]] = []
    for program in programs:
        row: dict[int, float] = {}
        for kernel, count in program:
            for start, limits, weight in _points(kernel):
                key = b"".join(part.tobytes() for part in (start, *limits))
                ordinal = ordinals.setdefault(key, len(kernels))
                if ordinal == len(kernels):
                    kernels.append((start, limits))
                row[ordinal] = row.get(ordinal, 0.0) + count * weight
        counts.append(row)
    most = max((len(limits) for _, limits in kernels), default=1) or 1
    padded = np.zeros((len(kernels), most, len(_COLUMN)))
    for i, (_, limits) in enumerate(kernels):
        padded[i, : len(limits)] = limits if limits else 0
    matrix = np.zeros((len(counts), len(kernels)))
    for i, row in enumerate(counts):
        matrix[i, list(row)] = list(row.values())
    return Stack(np.array([start for start, _ in kernels]), padded, matrix)


def vectors(kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """(starts [points, 1 + 2 n], limits [points, limits, 1 + 2 n]) of a kernel; one point if no amount is an array."""
    start, limits = _vector(kernel.start), [_vector(terms) for terms in kernel.limits.values()]
    points = max(v.shape[0] for v in (start, *limits))
    start, *limits = (np.broadcast_to(v, (points, v.shape[1])) for v in (start, *limits))
    return start, np.stack(limits, axis=1) if limits else np.zeros((points, 1, start.shape[1]))


def _points(kernel: Kernel) -> Iterable[tuple[Any, list[Any], float]]:
    """(start, limits, weight) of each distinct point of a kernel."""
    start, limits = _vector(kernel.start), [_vector(terms) for terms in kernel.limits.values()]
    number = max(v.shape[0] for v in (start, *limits))
    if number == 1:
        yield start[0], [v[0] for v in limits], 1.0
        return
    start, *limits = (np.broadcast_to(v, (number, v.shape[1])) for v in (start, *limits))
    together, repeats = np.unique(np.stack([start, *limits], axis=1), axis=0, return_counts=True)
    for point, repeat in zip(together, repeats, strict=True):
        yield point[0], list(point[1:]), repeat / number


def _vector(terms: Terms) -> np.ndarray:
    """[points, 1 + 2 n]."""
    number = max((np.size(amount) for amount in terms.values()), default=1)
    vector = np.zeros((number, len(_COLUMN)))
    for key, amount in terms.items():
        vector[:, _COLUMN[key]] = amount
    return vector
