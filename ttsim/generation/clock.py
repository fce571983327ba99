"""The simulated clock of a generation: when the device would have had each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.models.grids import padded_prefill_length
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Clock:
    """Times of a batch on the device.

    Attributes:
      ttft: seconds to the first token, mean over the users (prompts are prefilled one after another).
      steps: seconds of each decode iteration, [iterations].
      users: of all replicas.
    """

    ttft: float
    steps: np.ndarray
    users: int

    @property
    def step(self) -> float:
        """Mean seconds of an iteration. The first one compiles on the device and isn't counted, unless it is alone."""
        timed = self.steps[1:] if self.steps.size > 1 else self.steps
        return float(timed.mean())

    @property
    def speed(self) -> float:
        """Tokens per second and user (t/s/u)."""
        return 1 / self.step

    @property
    def throughput(self) -> float:
        """Tokens per second of all users."""
        return self.users * self.speed


def simulate_clock(
    scenario: Scenario,
    prompt_lengths: Sequence[int],
    iterations: int,
    constants: Mapping[str, float] | None = None,
) -> Clock:
    """The clock of a batch of prompts.

    A step waits for the user with the longest sequence. TTFT is the mean of the prompts' prefill times, which depend
    on their padded lengths.

    Args:
      scenario: model, system, precision and batch; its prompt length is not used.
      prompt_lengths: tokens of each prompt. iterations: decode steps.
      constants: of the cost model, by default the calibrated ones.
    """
    constants = load_constants() if constants is None else constants
    users = scenario.batch_size * scenario.system.data_parallel
    lengths = list(prompt_lengths)
    longest = dataclasses.replace(scenario, prompt_length=max(lengths), max_generated_tokens=max(2, iterations))
    times = {padded: _prefill_time(scenario, padded, constants) for padded in {*map(padded_prefill_length, lengths)}}
    ttft = float(np.mean([times[padded_prefill_length(length)] for length in lengths]))
    steps = longest.step_times(constants, max(lengths) + np.arange(max(1, iterations)))
    return Clock(ttft, np.asarray(steps), users)


def _prefill_time(scenario: Scenario, padded: int, constants: Mapping[str, float]) -> float:
    return dataclasses.replace(scenario, prompt_length=padded).ttft(constants)
