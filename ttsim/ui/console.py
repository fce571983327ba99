"""What the scripts share: errors in one line, output to a file or the terminal, progress on a terminal."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO, cast

from absl import app, flags, logging

from ttsim.errors import Problems
from ttsim.files import interrupts
from ttsim.files.reading import printable
from ttsim.files.writing import write_file
from ttsim.ui.document import Document
from ttsim.ui.table import Form

_LONGEST = 2000  # characters of an error line
# Objects between two searches for cycles. A trace makes hundreds of thousands that all stay, and with Python's own 700
# a quarter of a command's time goes into walking them and JAX's modules again and again.
_COLLECT_AFTER = 100_000
STDOUT = "standard output"


@interrupts.on_end
def _say_what_was_said() -> None:
    """Lines that were printed before a signal and still stand in the buffer."""
    if sys.stdout is not None:
        sys.stdout.flush()


def run(main: Callable[[], int | None]) -> None:
    """Runs a script: bad input ends in one line on stderr and exit code 2, an interrupt in 130 within a second."""
    interrupts.install()
    gc.set_threshold(_COLLECT_AFTER)
    _any_outputs()

    def guarded(argv: Sequence[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # JAX reports at INFO which accelerators it did not find
        if len(argv) > 1:
            raise SystemExit(_fail(f"unexpected argument {argv[1]!r}: every option is a flag, see --help"))
        with guard():
            code = main()
            with _stdout() as stream:
                stream.flush()
            return code

    with guard():
        app.run(guarded, flags_parser=_parse)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Turns what ends a program early into an exit code, and bad input into lines on stderr."""
    try:
        yield
    except Problems as error:
        raise SystemExit(max(_fail(problem) for problem in error.problems)) from None
    except BrokenPipeError:
        # The reader has seen enough. Nothing may be written when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except OSError as error:
        if error.filename == STDOUT:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(_fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))) from None
    except ValueError as error:
        raise SystemExit(_fail(str(error))) from None
    except KeyboardInterrupt:
        raise SystemExit(interrupts.INTERRUPTED) from None


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(_fail(_plainly(str(error)))) from None


def _plainly(message: str) -> str:
    """A flag's error without Python's own words."""
    message = re.sub(r"invalid literal for int\(\) with base \d+: (.*)", r"a whole number is wanted, not \1", message)
    return re.sub(r"could not convert string to float: (.*)", r"a number is wanted, not \1", message)


def _fail(message: str) -> int:
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}... ({len(line):,} characters)"
    with contextlib.suppress(OSError, AttributeError):  # nobody listens: the exit code says it
        print(f"error: {line}", file=sys.stderr, flush=True)
    return 2


def warn(lines: Iterable[str]) -> None:
    """Lines on stderr about what went wrong and did not end the program."""
    for line in lines:
        _fail(line)


def silence() -> None:
    """Prints nothing from here on: another process of the run does."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of the process


def write(content: str, path: str | None) -> None:
    """Prints, or writes the whole file or nothing (see `ttsim.files.writing`)."""
    if path is not None:
        write_file(content, path)
        return
    with _stdout() as stream:
        stream.write(content)


@contextlib.contextmanager
def _stdout() -> Iterator[TextIO]:
    """Standard output; what goes wrong with it carries its name."""
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"can't be written: {error.strerror}", STDOUT) from None


# What stands in for a character that the terminal's encoding lacks; all others become "?".
_PLAIN = {
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "µ": "u",
    "²": "2",
    "→": "->",
    "█": "#",
}


class _Closed(io.TextIOBase):
    """Standard output of a process that was started without one."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed", STDOUT)


def _any_outputs() -> None:
    """Output in any encoding, what an ASCII terminal can't show spelled out; and outputs that are closed."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of the process

    def spell(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        return "".join(_PLAIN.get(c, "|" if "▏" <= c <= "▉" else "?") for c in missing), error.end

    codecs.register_error("ttsim.spell", spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="ttsim.spell")


def show(document: Document, form: str, path: str | None = None) -> None:
    """Prints a document in a format, as wide as the terminal, or writes it to a file."""
    write(document.render(cast(Form, form), colour=colour(path)), path)


def progress(label: str) -> Callable[[int, int], None] | None:
    """A counter on stderr, or None when stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\r\x1b[K" if done == total else ""
        print(f"\r{label} {done}/{total}{end}", end="", file=sys.stderr, flush=True)

    return show


def colour(path: str | None) -> bool:
    """Whether output may be coloured: on a terminal, unless NO_COLOR is set."""
    return path is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
