"""What a generation of the server adds to the programs.

    seconds of a prompt, within its step = fixed + lane x replicas + chip x chips + token x tokens       of the process
    seconds of a decode step = the prices' own constant of a server

The constants stand in `ttsim/data/server_costs.csv`, with the rows of one user that they were fitted on
(`ttsim.proof.fit_serving`); no row under load is fitted.
"""

from __future__ import annotations

import csv
import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from ttsim.hardware.constants.galaxy import GALAXY_SERVER_STEP, GALAXY_SERVER_STEP_SLOW
from ttsim.hardware.constants.host import SERVER_STEP
from ttsim.hardware.software import Software
from ttsim.scenarios.scenario import Scenario
from ttsim.serving.policy import scheduler
from ttsim.serving.prices import HostCosts

# 8 ms of a request are outside every step, 4 before and 4 after it (tt-inference-server's own timers, 2026).
OUTSIDE = 4e-3
# torch.argmax of one user's logits on one core, an entry of the vocabulary: measured, 0.57 ms for 128,256 entries of
# bf16, which V0 takes as they come, and 0.14 ms of float32, to which V1 casts them first.
SAMPLE_ENTRY_V0, SAMPLE_ENTRY_V1 = 4.4e-9, 1.1e-9


@dataclass(frozen=True)
class Generation:
    """A server and its client.

    Attributes:
      until: first day of the next generation. name: in words. fixed, lane, chip, token: seconds.
      fitted_on: the rows.
    """

    until: datetime.date
    name: str
    fixed: float
    lane: float
    chip: float
    token: float
    fitted_on: str


@functools.cache
def generations() -> Sequence[Generation]:
    """In the order of their dates."""
    text = resources.files("ttsim.data").joinpath("server_costs.csv").read_text(encoding="utf-8")
    return tuple(
        Generation(
            until=datetime.date.fromisoformat(row["until"]),
            name=row["name"],
            fixed=1e-3 * float(row["fixed_ms"]),
            lane=1e-3 * float(row["lane_ms"]),
            chip=1e-3 * float(row["chip_ms"]),
            token=1e-6 * float(row["token_us"]),
            fitted_on=row["fitted_on"],
        )
        for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    )


def generation_of(day: datetime.date) -> Generation:
    """The server of a date."""
    return next(generation for generation in generations() if day < generation.until)


def server_step(software: Software, constants: Mapping[str, float]) -> float:
    """Seconds that a server's decode step takes beyond the model's, as far as the prices know."""
    if not software.served:
        return 0.0
    step = SERVER_STEP
    if software.galaxy:
        step = GALAXY_SERVER_STEP_SLOW if software.fact("galaxy_server") == "slow" else GALAXY_SERVER_STEP
    return constants[step.name]


def host_costs(scenario: Scenario, software: Software, constants: Mapping[str, float]) -> tuple[HostCosts, str]:
    """What the server of a date adds to the steps of an engine.

    Args:
      scenario: of one engine, priced without a server. software: the same with it. constants: of the cost model.

    Returns:
      The costs, and a note that says what they are.
    """
    system, found = scenario.system, generation_of(software.date)
    entry = 0.0  # V0 of autumn 2025: a step of 32 users takes as long as one user's (S086)
    if scheduler(software.date) != "v0":
        entry = SAMPLE_ENTRY_V1
    elif found is generations()[0]:
        entry = SAMPLE_ENTRY_V0
    costs = HostCosts(
        before=OUTSIDE,
        after=OUTSIDE,
        prompt=found.fixed + found.lane * system.data_parallel + found.chip * system.num_chips,
        prompt_token=found.token,
        decode_step=server_step(software, constants),
        sample=entry * scenario.config.vocab_size if scenario.sampler == "host" else 0.0,
    )
    each = f" and {1e6 * found.token:.1f} us a token" if found.token else ""
    return costs, f"server: {found.name}, {1e3 * costs.prompt:.0f} ms a prompt{each} (fitted on {found.fitted_on})"
