"""Speculative decoding as a parameter of a question: drafted tokens, and how many of them are accepted.

A step verifies the drafted tokens of every user and the one after them, a row of the program each; what it yields is
the accepted ones and the next:

    time of a step = a decode step of users x (drafted + 1) rows + drafted x a step of the draft model
    tokens a step  = accepted + 1

How many are accepted is a figure of the models and the text, which is given and not simulated. Without a draft model
(heads of the model itself, n-grams) drafting counts as free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ttsim.files.reading import shown


@dataclass(frozen=True)
class Speculation:
    """Tokens drafted a step, the mean number of them that is accepted, and the draft model ("" for none)."""

    drafted: int
    accepted: float
    model: str = ""

    @property
    def rows(self) -> int:
        """Rows of a user in a step that verifies."""
        return self.drafted + 1

    def __str__(self) -> str:
        by = f" by {self.model}" if self.model else ""
        return f"{self.drafted} tokens drafted{by}, {self.accepted:g} accepted"


def parse_speculation(text: str) -> Speculation | None:
    """ "4:2.5" or "4:2.5:1b": drafted, accepted, and the draft model; None of "".

    Raises:
      ValueError: it is no such text, or more are accepted than drafted.
    """
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*(\d{1,2})\s*:\s*(\d{1,2}(?:\.\d{1,9})?)\s*(?::\s*(\S.*?))?\s*", text)
    if match is None:
        raise ValueError(f"speculate {shown(text)} is not drafted:accepted[:draft model], like 4:2.5 or 4:2.5:1b")
    found = Speculation(int(match[1]), float(match[2]), match[3] or "")
    if not 1 <= found.drafted <= 31 or found.accepted > found.drafted:
        raise ValueError(f"speculate {shown(text)}: 1 to 31 tokens are drafted, and at most as many accepted")
    return found
