"""What a generation of the server adds to the programs.

    seconds of a prompt, within its step = fixed + lane x lanes + chip x chips of the process

Fitted by least squares on the TTFT of one user less the priced prompt, for prompts of at most 2,048 tokens of the rows
that `fitted_on` names (`ttsim/data/serving.csv`); no row under load is fitted.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from ttsim.meshes.systems import System, Topology
from ttsim.serving.prices import HostCosts


@dataclass(frozen=True)
class Generation:
    """A server and its client.

    Attributes:
      until: first day of the next generation. name: in words. fixed, lane, chip: seconds.
      fitted_on: the rows.
    """

    until: datetime.date
    name: str
    fixed: float
    lane: float
    chip: float
    fitted_on: str


# 8 ms of a request are outside every step, 4 before and 4 after it (tt-inference-server's own timers, 2026).
OUTSIDE = 4e-3
GENERATIONS = (
    Generation(
        datetime.date(2025, 8, 1),
        "V0, client of mid 2025",
        47.5e-3,
        11.2e-3,
        2.87e-3,
        "S001, S011, S013, S015, S019, S035, S038",
    ),
    Generation(datetime.date(2026, 1, 1), "V0, autumn 2025", 7.0e-3, 0.0, 2.6e-3, "S059, S085"),
    Generation(datetime.date.max, "V1", 0.0, 0.0, 1.6e-3, "S003, S007, S051"),
)
# Host work of a synchronous step beyond what the demo's loop has: 4.5 ms (70B Galaxy) to 7 ms (GPT-OSS on four lanes);
# asynchronous steps hide it (vllm-tt-plugin model_runner.py and its pull requests, 2026).
GALAXY_STEP = 4.5e-3


def host_costs(day: datetime.date, system: System, lanes: int = 1) -> tuple[HostCosts, str]:
    """What the server of a date adds, and a note that says so."""
    found = next(generation for generation in GENERATIONS if day < generation.until)
    chips = system.num_chips if lanes > 1 else system.chips_per_replica
    prompt = found.fixed + found.lane * lanes + found.chip * chips
    step = GALAXY_STEP if system.topology is Topology.GRID and system.data_parallel == 1 else 0.0
    costs = HostCosts(before=OUTSIDE, after=OUTSIDE, prompt=prompt, decode_step=step)
    return costs, f"server: {found.name}, {1e3 * prompt:.0f} ms a prompt (fitted on {found.fitted_on})"
