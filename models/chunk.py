"""A prompt, or a chunk of it, as one program computes it: where it starts, what comes before and after its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chunk:
    """A prompt's rows from `start` on.

    Attributes:
      start: position of the first row.
      logits: "last" computes those of the 32 rows around the wanted one, "all" of every row, "none" only fills the
        cache.
      numerics: "decode" uses decode's formats and settings: with teacher forcing this one pass computes what so many
        decode steps would.
      first: whether the host copies the prompt's inputs before it; None: if it starts at 0.
      traced: whether the device's ops are recorded in one trace.
      untilize: where logits become rows.
    """

    start: int = 0
    logits: Literal["none", "last", "all"] = "last"
    numerics: Literal["prefill", "decode"] = "prefill"
    first: bool | None = None
    traced: bool = False
    untilize: Literal["dram", "host"] = "dram"

    @property
    def copied(self) -> bool:
        """Whether the host copies the prompt's inputs before it."""
        return self.start == 0 if self.first is None else self.first


WHOLE = Chunk()
