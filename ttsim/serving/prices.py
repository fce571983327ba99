"""What a step costs: the interface that the event simulation asks, and prices given as plain functions.

The simulation knows no hardware. Prices on a simulated box are in `ttsim.serving.server`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class StepPrices(Protocol):
    """Seconds of prefill and decode on one engine's chips."""

    def padded(self, tokens: int) -> int:
        """Rows that a prompt of so many tokens is computed with."""

    def prefill(self, prompts: int, tokens: int, prefix: int) -> float:
        """Seconds of one prefill program.

        Args:
          prompts: that run as one program (1: a prompt by itself).
          tokens: that each computes, before padding. prefix: tokens before them that are in the cache.
        """

    def decode(self, rows: int, readers: int, contexts: np.ndarray) -> np.ndarray:
        """Seconds of a decode step at each longest context (tokens before the new one).

        Args:
          rows: slots of a lane that are computed. readers: users at the longest context whose cache is as large as that
            of all users of the lane together: idle slots read nothing, and shorter contexts less.
        """


@dataclass(frozen=True, kw_only=True)
class HostCosts:
    """What the server adds to the programs, in seconds.

    Attributes:
      before, after: of one request outside every step: from the client to the scheduler's queue, and from a token to
        the client.
      prompt, prompt_token: within a prefill step, for each prompt, and for each token of it that is computed.
      prefill_step: for each prefill step.
      decode_step: for each decode step; asynchronous steps take the longer of it and the device.
      sample: within a decode step, for each request that decodes: the host chooses its token.
      decode_entry: for the first decode step after a prefill.
      partial_step: for a prefill step with a chunk that doesn't end its prompt (its sampling is on the host).
    """

    before: float = 0.0
    after: float = 0.0
    prompt: float = 0.0
    prompt_token: float = 0.0
    prefill_step: float = 0.0
    decode_step: float = 0.0
    sample: float = 0.0
    decode_entry: float = 0.0
    partial_step: float = 0.0


NO_HOST = HostCosts()


@dataclass(frozen=True)
class FormulaPrices:
    """Prices by functions: of measured single-user figures, or made up for a test.

    Attributes:
      prompt: seconds of one prompt by (tokens, prefix).
      step: seconds of a decode step by (rows, readers, contexts), an array over contexts.
      batch: seconds of `prompts` prompts as one program by (prompts, tokens); by default so many single ones.
      pad: rows of a prompt.
    """

    prompt: Callable[[int, int], float]
    step: Callable[[int, int, np.ndarray], np.ndarray | float]
    batch: Callable[[int, int], float] | None = None
    pad: Callable[[int], int] = lambda tokens: tokens

    def padded(self, tokens: int) -> int:
        return self.pad(tokens)

    def prefill(self, prompts: int, tokens: int, prefix: int) -> float:
        if prompts > 1 and self.batch is not None:
            return self.batch(prompts, tokens)
        return prompts * self.prompt(tokens, prefix)

    def decode(self, rows: int, readers: int, contexts: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.step(rows, readers, contexts), np.shape(contexts))
