"""Ctrl-C and its kin always end the process, soon, with nothing left behind.

Python delivers a signal to the main thread between two bytecodes. That is too late while a compiler runs for a minute,
and too early inside a garbage collector's callback, where an exception is dropped. So a signal also wakes a thread of
its own, which lets the main thread unwind for a moment and then ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 0.5  # seconds that the main thread has for its `finally` blocks
INTERRUPTED = 128 + signal.SIGINT  # 130, what shells expect

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_cleanups: list[Callable[[], None]] = []
_installed = False


class Interrupted(KeyboardInterrupt):
    """A signal that ends the process; `code` is its exit code, 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


def on_end(cleanup: Callable[[], None]) -> Callable[[], None]:
    """Registers what to do before the process is ended by force; it must not wait for anything."""
    _cleanups.append(cleanup)
    return cleanup


def install() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP end the process within a second: 130, 143 and 129.

    For programs, not for libraries; in other threads than the main one, and the second time, it does nothing. Signals
    that the parent has set to be ignored (`nohup`) stay ignored.
    """
    global _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    _installed = True
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _unwind)
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """A program from its first import on: a signal ends it with its exit code and without a word."""
    install()
    try:
        yield
    except KeyboardInterrupt as error:
        raise SystemExit(getattr(error, "code", INTERRUPTED)) from None


def _unwind(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _watch(read: int) -> None:
    """Ends the process some time after a signal, unless it has ended by then."""
    while True:
        number = os.read(read, 1)[0]
        if number in _SIGNALS and signal.getsignal(number) is _unwind:
            break
    threading.Event().wait(GRACE)
    for cleanup in _cleanups:
        with contextlib.suppress(Exception):
            cleanup()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(128 + number)
