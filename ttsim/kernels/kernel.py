"""What a cost rule returns: kernels, whose times are linear forms in constants.

A kernel takes

    time = start + max over its limits (DRAM, compute, link, ...)

and every term is a `Terms` of `ttsim.hardware.quantities`, in seconds. Because the form is linear in products of
constants, a whole table of programs becomes a few matrices, which is what makes calibration a gradient descent and
sweeps fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ttsim.hardware.quantities import Terms, UnitError


class UnpricedError(ValueError):
    """A program holds work that the simulator has no price for, or a kernel can't do what it is asked to."""


@dataclass(frozen=True)
class Kernel:
    """One launch on the device, or one piece of work of the host.

    Attributes:
      name: what tt-metal calls it ("matmul (DRAM-sharded)", "all_gather").
      start: time that is always paid: launch, first tile, synchronisation.
      limits: what bounds the work, by name ("dram", "weights", "compute", "pack", "core", "link"); the largest is paid.
      bytes: moved from and to DRAM (collectives: over the links of one device).
      flops: floating-point operations of one device.
      cores: Tensix cores that work.
      fidelity: math fidelity of a matrix kernel.
      source: where the rule comes from.
      place: "device", or "host" for what the host does between launches.
      waits: whether the host waits for the device before this work (a read-back).

    Raises:
      UnitError: a term is no time.
    """

    name: str
    start: Terms = field(default_factory=Terms)
    limits: Mapping[str, Terms] = field(default_factory=dict)
    bytes: Any = 0.0
    flops: Any = 0.0
    cores: int = 0
    fidelity: str = ""
    source: str = ""
    place: Literal["device", "host"] = "device"
    waits: bool = False

    def __post_init__(self) -> None:
        for what, terms in (("start", self.start), *self.limits.items()):
            if not isinstance(terms, Terms) or terms.unit != "s":
                raise UnitError(f"{what} of {self.name} is no time in seconds: {terms!r}")

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


def host_work(name: str, time: Terms, source: str, *, waits: bool = False) -> Kernel:
    """A piece of work of the host: it launches nothing and leaves no gap between kernels."""
    return Kernel(name, start=time, source=source, place="host", waits=waits)
