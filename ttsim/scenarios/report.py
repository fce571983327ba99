"""What the simulator answers: speed, TTFT, memory, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass

from ttsim.scenarios.memory import Memory
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.timing import Breakdown


@dataclass(frozen=True)
class Report:
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
    def throughput(self) -> float:
        """Tokens per second of all users of all replicas."""
        return self.speed * self.scenario.batch_size * self.scenario.system.data_parallel

    @property
    def latency(self) -> float:
        """Seconds of a whole request: the first token, then the others one step each."""
        return self.ttft + (self.scenario.max_generated_tokens - 1) / self.speed

    def __str__(self) -> str:
        from ttsim.ui.report_text import report_text  # what people see is drawn above what is known

        return report_text(self)
