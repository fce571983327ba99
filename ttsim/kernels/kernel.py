"""What a cost rule returns: kernels, whose times are linear forms in a few named constants.

A kernel takes

    time = start + max over its limits (DRAM, compute, link, ...)

and every term is a `Terms`: seconds, plus amounts of named constants (a latency per block), plus amounts divided by
named constants (bytes over a bandwidth). Amounts are numbers or arrays of numbers (a position of decode may be an
array of positions), so that one program prices many points at once. Because the form is linear, a whole table of
programs becomes a few matrices, which is what makes calibration a gradient descent and sweeps fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SECONDS = ""  # the key of plain seconds


class Terms(dict[str, Any]):
    """A linear form: {"" : seconds, "name": amount x constant, "/name": amount / constant}."""

    def __add__(self, other: Terms) -> Terms:
        total = Terms(self)
        for key, amount in other.items():
            total[key] = total.get(key, 0.0) + amount
        return total

    def __mul__(self, factor: Any) -> Terms:
        return Terms({key: amount * factor for key, amount in self.items()})

    __rmul__ = __mul__

    def value(self, constants: Mapping[str, Any]) -> Any:
        """The form's value in seconds.

        Args:
          constants: value of each named constant, in SI units.
        """
        total: Any = 0.0
        for key, amount in self.items():
            if key == SECONDS:
                total = total + amount
            elif key.startswith("/"):
                total = total + amount / constants[key[1:]]
            else:
                total = total + amount * constants[key]
        return total


def seconds(amount: Any) -> Terms:
    """A known time in seconds."""
    return Terms({SECONDS: amount})


def times(amount: Any, constant: str) -> Terms:
    """amount x constant: so many blocks of this latency."""
    return Terms({constant: amount})


def over(amount: Any, constant: str) -> Terms:
    """amount / constant: so many bytes at this bandwidth."""
    return Terms({"/" + constant: amount})


@dataclass(frozen=True)
class Kernel:
    """One program that the device runs.

    Attributes:
      name: what tt-metal calls it ("matmul (DRAM-sharded)", "all_gather").
      start: time that is always paid: launch, first tile, synchronisation.
      limits: what bounds the work, by name ("dram", "weights", "compute", "pack", "core", "link"); the largest is paid.
      bytes: moved from and to DRAM (collectives: over the links of one device).
      flops: floating-point operations of one device.
      cores: Tensix cores that work.
      fidelity: math fidelity of a matrix kernel.
      source: where the rule comes from.
      host: whether the host does it, while the devices wait.
    """

    name: str
    start: Terms = field(default_factory=Terms)
    limits: Mapping[str, Terms] = field(default_factory=dict)
    bytes: Any = 0.0
    flops: Any = 0.0
    cores: int = 0
    fidelity: str = ""
    source: str = ""
    host: bool = False

    def time(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds, without the gap before the next kernel.

        Args:
          constants: value of each named constant. xp: numpy, or jax.numpy to differentiate by the constants.
        """
        times = [terms.value(constants) for terms in self.limits.values()]
        largest = times[0] if times else 0.0
        for other in times[1:]:
            largest = xp.maximum(largest, other)
        return self.start.value(constants) + largest

    def binding(self, constants: Mapping[str, Any]) -> str:
        """The limit that binds ("latency" when the start is longer than every limit)."""
        values = {name: float(np.mean(terms.value(constants))) for name, terms in self.limits.items()}
        values["latency"] = float(np.mean(self.start.value(constants)))
        return max(values, key=lambda name: values[name])
