"""What the simulator answers: speed, TTFT, memory, and where the time goes."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttsim.scenarios.memory import Memory
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.shown import Shown
from ttsim.scenarios.timing import Breakdown

if TYPE_CHECKING:
    from ttsim.accuracy.estimated import AccuracyEstimate


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """The answer to one scenario.

    Attributes:
      scenario: the question.
      speed: tokens per second and user (t/s/u), mean over the generated tokens.
      ttft: seconds to the first token (mean over the prompts of a batch, as tt_transformers prints it).
      memory: DRAM of one chip.
      decode: of one step, the mean over the generated tokens. prefill: of one prompt.
    """

    scenario: Scenario
    speed: float
    ttft: float
    memory: Memory
    decode: Breakdown
    prefill: Breakdown

    @property
    def step(self) -> float:
        """Seconds of a decode step, with the draft model's where there is one."""
        return self.scenario.tokens_per_step / self.speed

    @property
    def throughput(self) -> float:
        """Tokens per second of all users of all replicas."""
        return self.speed * self.scenario.batch_size * self.scenario.system.data_parallel

    @property
    def latency(self) -> float:
        """Seconds of a whole request: the first token, then the others one step each."""
        return self.ttft + (self.scenario.max_generated_tokens - 1) / self.speed

    @functools.cached_property
    def accuracy(self) -> AccuracyEstimate:
        """Top-1 and Top-5 by tt_transformers' accuracy test, estimated without weights, with their sampling error."""
        from ttsim.accuracy.estimated import estimate_accuracy

        return estimate_accuracy(self.scenario.config, self.scenario.precision)

    def __repr__(self) -> str:
        figures = f"{self.speed:.1f} t/s/u, TTFT {1e3 * self.ttft:.1f} ms, {self.memory.free / 1e9:.2f} GB of DRAM free"
        return f"<Report {self.scenario.label}: {figures}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A scenario keeps its traced programs, which hold functions; they are traced again where they are needed.
        scenario = dataclasses.replace(self.scenario)
        return Report, (scenario, self.speed, self.ttft, self.memory, self.decode, self.prefill)
