"""Several mistakes at once, one line each."""

from __future__ import annotations

from collections.abc import Sequence


class Problems(ValueError):
    """A list of mistakes in one input; scripts print a line for each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
