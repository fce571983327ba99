"""What is going on, in one line on stderr that people watch: it fits the terminal, and its seconds go on."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO

_BAR = 30
_LEAST = 20  # columns that hold a line at all
_PAUSE = 1.0  # seconds between two redraws of a step that takes long


class Progress:
    """`label [#####     ] 12/30 note, 12 s`, rewritten in place; silent unless the stream is a terminal.

    Args:
      label: what is being done.
      total: steps; 0 draws no bar.
      show: False is silent everywhere, True everywhere visible; None asks the stream.
      first: what the first step does besides ("compiling").
    """

    def __init__(
        self, label: str, total: int, show: bool | None = None, stream: TextIO | None = None, *, first: str = ""
    ):
        self._stream = sys.stderr if stream is None else stream
        self._show = self._stream is not None and (self._stream.isatty() if show is None else show)
        self._label, self._total, self._done, self._note = label, total, 0, first
        self._began = time.monotonic()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._clock: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._draw()
        if self._show:
            self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._clock is not None:
            self._clock.join()
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def advance(self, note: str = "") -> None:
        """One step done."""
        with self._lock:
            self._done, self._note, self._began = self._done + 1, note, time.monotonic()
        self._draw()

    def line(self, width: int) -> str:
        """The line in at most so many columns: the bar goes before the words do."""
        counted = f" {self._done}/{self._total}" if self._total else ""
        seconds = int(time.monotonic() - self._began)
        note = ", ".join(part for part in (self._note, f"{seconds} s" if seconds >= 2 else "") if part)
        words = f"{self._label}{counted} {note}".rstrip()
        if self._total and len(words) + _BAR + 3 <= width:
            filled = _BAR * min(self._done, self._total) // self._total
            words = f"{self._label} [{'#' * filled:<{_BAR}}]{counted} {note}".rstrip()
        return words[:width]

    def _draw(self) -> None:
        if not self._show:
            return
        width = max(shutil.get_terminal_size((80, 24)).columns - 1, _LEAST)  # a full line would wrap
        with self._lock:
            self._stream.write(f"\r\x1b[K{self.line(width)}")
            self._stream.flush()

    def _tick(self) -> None:
        while not self._over.wait(_PAUSE):
            self._draw()
