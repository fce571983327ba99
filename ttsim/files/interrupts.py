"""Ctrl-C and its kin always end the process, soon, without a word and with nothing left behind.

An exception out of a signal handler is no way to end a program: Python drops and prints it where it lands in a garbage
collector's callback, a `__del__` or a weak reference's callback, a library may catch it, and it comes too late while a
compiler runs for a minute. So a signal raises nothing. It wakes a thread of its own, which undoes what was registered
here and ends the process, while the main thread, wherever it is, stands still.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 0.75  # seconds after which the process ends, whatever is not undone by then
INTERRUPTED = 128 + signal.SIGINT  # 130, what shells expect

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_cleanups: list[Callable[[], None]] = []
_wake: int | None = None  # the end of a pipe that the thread doesn't read; None until `install`


def on_end(cleanup: Callable[[], None]) -> Callable[[], None]:
    """Registers what to do when a signal ends the process.

    It runs in another thread while the main one stands still, for three quarters of a second at most.
    """
    _cleanups.append(cleanup)
    return cleanup


@contextlib.contextmanager
def undoing(cleanup: Callable[[], None]) -> Iterator[None]:
    """What to do if a signal ends the process within (see `on_end`)."""
    on_end(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


def install() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP end the process within a second: 130, 143 and 129.

    For programs, not for libraries; in other threads than the main one, and the second time, it does nothing. Signals
    that the parent has set to be ignored (`nohup`) stay ignored.
    """
    global _wake
    if _wake is not None or threading.current_thread() is not threading.main_thread():
        return
    read, _wake = os.pipe()
    os.set_blocking(_wake, False)
    for number in _SIGNALS:  # first: a handler ends the process without the thread too, only later
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stand_still)
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(_wake, warn_on_full_buffer=False)  # also while the main thread runs no bytecode


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """A program from its first import on: a signal ends it with its exit code and without a word."""
    install()
    try:
        yield
    except KeyboardInterrupt:  # from where no handler of ours stands: another thread's program, an embedding one
        raise SystemExit(INTERRUPTED) from None


# The names are bound here: a signal may come when the interpreter has begun to take modules apart.
def _stand_still(
    number: int,
    frame: FrameType | None,
    write: Callable[[int, bytes], int] = os.write,
    wait: Callable[[float], None] = time.sleep,
    end: Callable[[int], None] = os._exit,
) -> None:
    """Keeps the main thread from saying or doing anything more, and ends the process if the other thread can't."""
    try:
        if _wake is not None:
            write(_wake, bytes([number]))  # again: an event loop may have taken the wakeup descriptor
        wait(GRACE)
    finally:
        end(128 + number)


def _watch(read: int) -> None:
    """Waits for a signal that is ours, undoes what is registered, ends the process."""
    number = 0
    while number not in _SIGNALS or signal.getsignal(number) is not _stand_still:
        number = os.read(read, 1)[0]
    undone = threading.Event()
    try:
        # Not by `threading`: the main thread may stand still with the lock that its threads start under.
        _thread.start_new_thread(_undo, (undone,))
        undone.wait(GRACE)
    finally:
        os._exit(128 + number)


def _undo(undone: threading.Event) -> None:
    for cleanup in reversed(_cleanups):
        with contextlib.suppress(Exception):
            cleanup()
    undone.set()
