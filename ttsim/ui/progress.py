"""A progress bar on stderr, shown to people only."""

from __future__ import annotations

import sys
from typing import TextIO

_WIDTH = 30


class Progress:
    """`label [#####     ] 12/30 note`, rewritten in place; silent unless the stream is a terminal.

    Args:
      label: what is being done.
      total: steps.
      show: False is silent everywhere, True everywhere visible; None asks the stream.
    """

    def __init__(self, label: str, total: int, show: bool | None = None, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._show = self._stream is not None and (self._stream.isatty() if show is None else show)
        self._label, self._total, self._done = label, total, 0

    def __enter__(self) -> Progress:
        self._draw("")
        return self

    def __exit__(self, *_: object) -> None:
        if self._show:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def advance(self, note: str = "") -> None:
        """One step done."""
        self._done += 1
        self._draw(note)

    def _draw(self, note: str) -> None:
        if not self._show:
            return
        filled = _WIDTH * self._done // max(1, self._total)
        bar = "#" * filled + " " * (_WIDTH - filled)
        self._stream.write(f"\r\x1b[K{self._label} [{bar}] {self._done}/{self._total} {note}"[:120])
        self._stream.flush()
