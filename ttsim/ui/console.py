"""What the scripts share: errors in one line, output to a file or the terminal, progress on a terminal."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from absl import app, flags, logging

from ttsim.ui.problems import Problems
from ttsim.ui.table import Document, Form


def run(main: Callable[[], int | None]) -> None:
    """Runs a script: bad input ends in one line on stderr and exit code 2, an interrupt in 130."""

    def guarded(argv: Sequence[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # JAX reports at INFO which accelerators it did not find
        if len(argv) > 1:
            raise SystemExit(_fail(f"unexpected argument {argv[1]!r}: every option is a flag, see --help"))
        try:
            return main()
        except Problems as error:
            raise SystemExit(max(_fail(problem) for problem in error.problems)) from None
        except BrokenPipeError:
            raise SystemExit(0) from None
        except OSError as error:
            raise SystemExit(_fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))) from None
        except ValueError as error:
            raise SystemExit(_fail(str(error))) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(_fail(" ".join(str(error).split()))) from None


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def write(content: str, path: str | None) -> None:
    """Prints, or writes the whole file or nothing."""
    if path is None:
        sys.stdout.write(content)
        return
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        handle, name = tempfile.mkstemp(dir=target.parent or ".", prefix=f".{target.name}.")
    except OSError as error:
        raise OSError(error.errno, f"can't be written: {error.strerror}", path) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


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
