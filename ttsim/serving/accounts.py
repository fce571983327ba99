"""What an engine did: its steps, for timelines, and the sums over its run."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A prefill step, or a stretch of decode steps.

    Attributes:
      start, end: ticks. prompts: (request, tokens) of a prefill step. steps: of a decode stretch.
      users: requests that decode. rows, context: of the first step's price.
    """

    start: int
    end: int
    prompts: tuple[tuple[int, int], ...]
    steps: int
    users: int
    rows: int
    context: int


@dataclass(slots=True)
class Totals:
    """Sums over an engine's run; times in ticks.

    Attributes:
      prefill, decode: busy times. user_time: integral of the decoding requests over decode time.
      block_time: integral of the used blocks over busy time (linear within a stretch). peak_blocks: most in use.
      prefill_tokens: computed, before padding. hit_tokens: found in the prefix cache. recomputed: after preemptions.
      prefill_steps, decode_steps: how many. row_steps: rows computed by decode steps, the empty ones too.
      odd_gaps, odd_counts: gaps between tokens that are no plain decode step, and of how many requests.
    """

    prefill: int = 0
    decode: int = 0
    user_time: int = 0
    block_time: float = 0.0
    peak_blocks: int = 0
    prefill_tokens: int = 0
    hit_tokens: int = 0
    recomputed: int = 0
    prefill_steps: int = 0
    decode_steps: int = 0
    row_steps: int = 0
    odd_gaps: array[int] = field(default_factory=lambda: array("q"))
    odd_counts: array[int] = field(default_factory=lambda: array("q"))

    def gap(self, gap: int, count: int) -> None:
        """A gap between tokens of so many requests that is no plain decode step."""
        self.odd_gaps.append(gap)
        self.odd_counts.append(count)
