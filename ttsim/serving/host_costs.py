"""What a generation of the server adds to the programs, fitted on rows of one user (`ttsim.proof.serving`).

The measured TTFT of one user less the priced prompt is a constant of the server's generation and of how it drives the
chips, not of the length: 155 ms +- 10 from 128 to 16,384 tokens. It is spent inside the step, once per prompt.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from ttsim.meshes.systems import System
from ttsim.serving.prices import HostCosts


@dataclass(frozen=True)
class Generation:
    """Seconds of one prompt in a server: fixed + per lane + per chip of the process.

    Attributes:
      until: first day of the next generation. name: in words. fixed, lane, chip: seconds, fitted.
      fitted_on: the rows. decode_step: seconds of a decode step. source: of it.
    """

    until: datetime.date
    name: str
    fixed: float
    lane: float
    chip: float
    decode_step: float
    fitted_on: str


# 8 ms of a request are outside every step, 4 before and 4 after it (tt-inference-server's own timers, 2026). A
# synchronous step has 4.5 ms of host work (70B Galaxy) to 7 ms (GPT-OSS), which asynchronous steps hide.
OUTSIDE = 4e-3
GENERATIONS = (
    Generation(
        datetime.date(2025, 8, 1), "V0 with the client of mid 2025", 55e-3, 14e-3, 1.4e-3, 0.0, "S001, S011 to S049"
    ),
    Generation(datetime.date(2026, 1, 1), "V0 of autumn 2025", 7e-3, 0.0, 2.6e-3, 0.0, "S059, S085"),
    Generation(datetime.date.max, "V1", 15e-3, 0.0, 0.0, 0.0, "S051"),
)


def host_costs(day: datetime.date, system: System, lanes: int = 1) -> tuple[HostCosts, str]:
    """What the server of a date adds, and a note that says so."""
    found = next(generation for generation in GENERATIONS if day < generation.until)
    chips = system.num_chips if lanes > 1 else system.chips_per_replica
    prompt = found.fixed + found.lane * lanes + found.chip * chips
    costs = HostCosts(before=OUTSIDE, after=OUTSIDE, prompt=prompt, decode_step=found.decode_step)
    return costs, f"server: {found.name}, {1e3 * prompt:.0f} ms a prompt (fitted on {found.fitted_on})"
