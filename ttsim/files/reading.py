"""Bounded readers: every file and text from outside comes in through here.

A reader knows how large its file may be and how deeply it may nest before it looks inside, takes nothing but plain
values, and answers what it can't take with one line that names the file and what would be right.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import reprlib
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

MiB = 2**20
MAX_BYTES = 256 * MiB  # of a JSON or CSV file: the largest tokenizer.json is a tenth of it
MAX_DEPTH = 64  # brackets within brackets
MAX_DIGITS = 400  # of one number; the largest double has 309
_TOML_BYTES, _TOML_LINE = MiB, 10_000  # tomllib's time grows with the square of a dotted key
_JSON_TYPES: Mapping[type, str] = {dict: "an object", list: "a list"}
_SHOWN = 80  # characters of a value in an error line

_REPR = reprlib.Repr()  # of nested values only the outer levels
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * _SHOWN

Source = str | os.PathLike[str]


class InputError(ValueError):
    """A file or text can't be taken: one line that names it, what was found and what would be right."""


def printable(text: str) -> str:
    """The text without what a terminal would obey: control characters and marks that turn its direction become "?".

    Line breaks and tabs become blanks.
    """
    return "".join(
        c if c.isprintable() else " " if c in "\n\r\t" else "?" for c in text.encode("utf-8", "replace").decode()
    )


def shown(value: object) -> str:
    """A value as an error line shows it: its repr, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * _SHOWN:
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    text = printable(_REPR.repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def read_bytes(path: Source, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file or pipe, at most `limit` of them.

    Raises:
      OSError: it can't be opened; the error carries the file's name.
      InputError: it is larger, a device, or no name that a file can have.
    """
    name = os.fspath(path)
    _check_name(name)
    with open(name, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size > limit:
            raise InputError(f"{printable(name)} has {status.st_size:,} bytes, more than the {limit:,} that are read")
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise InputError(f"{printable(name)} is a device, not a file")
        data = file.read(limit + 1)  # a pipe has no size, and a file may grow
    if len(data) > limit:
        raise InputError(f"{printable(name)} has more than the {limit:,} bytes that are read")
    return data


def user_path(name: Source) -> Path:
    """The path that somebody typed: "~" is a home folder, where there is one; whether the path exists is not looked at.

    Raises:
      InputError: no file can have that name.
    """
    _check_name(os.fspath(name))
    return Path(os.path.expanduser(name))  # Path's own raises RuntimeError for a user whom nobody knows


def _check_name(name: str) -> None:
    if not name or "\0" in name or len(name) > 4000 or any(len(part) > 255 for part in name.split("/")):
        raise InputError(f"{shown(name)} is no file name")


def read_text(path: Source, limit: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, with or without a byte order mark (see `read_bytes`)."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte {data[error.start]:#04x}"
        raise InputError(f"{printable(os.fspath(path))} is no UTF-8 text: {found} at position {error.start}") from None


def read_json(path: Source, kind: type = dict, limit: int = MAX_BYTES) -> Any:
    """A JSON file of which the outermost value is a `kind` (`dict` or `list`; `object` takes any).

    Raises:
      OSError: it can't be opened.
      InputError: it is no JSON, too large or nested too deeply, or holds something else.
    """
    return parse_json(read_text(path, limit), os.fspath(path), kind)


def parse_json(text: str, origin: str, kind: type = dict) -> Any:
    """JSON of plain values: finite numbers of at most 400 digits, at most 64 brackets deep.

    Args:
      origin: what error lines call it.
      kind: see `read_json`.
    """
    origin = printable(origin)
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise InputError(f"{origin} is nested too deeply: at most {MAX_DEPTH} brackets are read") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{origin} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:  # a number's
        raise InputError(f"{origin}: {error}") from None
    _check_depth(value, origin)
    if not isinstance(value, kind):
        found = {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
        raise InputError(f"{origin} holds {found} where {_JSON_TYPES[kind]} is expected")
    return value


def read_toml(path: Source) -> dict[str, Any]:
    """A TOML file (see `read_text`, `parse_toml`)."""
    return parse_toml(read_text(path, _TOML_BYTES), os.fspath(path))


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """TOML of at most 1 MiB, lines of at most 10,000 characters, and 64 brackets or dots deep."""
    origin = printable(origin)
    if len(text) > _TOML_BYTES or max(map(len, text.split("\n"))) > _TOML_LINE:
        raise InputError(f"{origin} is no TOML file of ours: more than 1 MiB, or a line of over {_TOML_LINE:,}")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{origin} is nested too deeply: at most {MAX_DEPTH} brackets are read") from None
    except ValueError as error:  # TOMLDecodeError is one; a number of too many digits another
        raise InputError(f"{origin} is no TOML: {printable(str(error))[:200]}") from None
    _check_depth(value, origin)
    return value


def read_csv(path: Source, columns: Sequence[str], limit: int = MAX_BYTES) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; cells that a row lacks are empty.

    Args:
      columns: those that it must have.

    Raises:
      OSError, InputError: see `read_text`; or a column is missing.
    """
    return parse_csv(io.StringIO(read_text(path, limit), newline=""), os.fspath(path), columns)


def csv_delimiter(header: str) -> str:
    """What separates the cells below a header: commas, or the semicolons or tabs that a spreadsheet writes."""
    return max(",;\t", key=header.count)


def csv_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a CSV text with their numbers and ends, which quotes may span, without comments (#)."""
    lines = enumerate(io.StringIO(text, newline=None), start=1)
    return [(number, line) for number, line in lines if not line.startswith("#")]


def parse_csv(lines: Iterable[str], origin: str, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of CSV lines, the first of which is the header (see `read_csv`)."""
    origin = printable(origin)
    try:
        kept = list(lines)
        reader = csv.DictReader(kept, restval="", delimiter=csv_delimiter(kept[0] if kept else ""))
        header = list(reader.fieldnames or [])
        if missing := [name for name in columns if name not in header]:
            raise InputError(f"{origin} lacks the columns {', '.join(missing)}")
        return [{key: value for key, value in row.items() if key is not None} for row in reader]
    except csv.Error as error:
        raise InputError(f"{origin} is no CSV: {error}") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(digits)} is beyond the range of a double")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(value: Any, origin: str) -> None:
    """Refuses a value that nests deeper than later code should follow."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [child for each in level for child in each if isinstance(child, dict | list)]
        if not level:
            return
    raise InputError(f"{origin} is nested too deeply: at most {MAX_DEPTH} brackets are read")


# Values of a JSON object


@overload
def number(
    table: Mapping[str, Any],
    key: str,
    origin: str,
    *,
    kind: type[int],
    least: float = ...,
    most: float = ...,
    default: int | None = ...,
) -> int: ...


@overload
def number(
    table: Mapping[str, Any],
    key: str,
    origin: str,
    *,
    kind: type[float] = ...,
    least: float = ...,
    most: float = ...,
    default: float | None = ...,
) -> float: ...


def number(
    table: Mapping[str, Any],
    key: str,
    origin: str,
    *,
    kind: type[int] | type[float] = float,
    least: float = -math.inf,
    most: float = math.inf,
    default: float | None = None,
) -> float:
    """The number behind a key, within its bounds.

    Args:
      origin: what error lines call the table. default: of an absent key or null; without one the key is needed.
    """
    value = table.get(key)
    if value is None:
        if default is None:
            raise InputError(f"{printable(origin)} has no {key!r}")
        return default
    good = isinstance(value, int) if kind is int else isinstance(value, int | float)
    if isinstance(value, bool) or not good or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        bounds = "" if least == -math.inf else f" of at least {least:g}"
        bounds = f" of {least:g} to {most:g}" if math.isfinite(most) else bounds
        raise InputError(f"{printable(origin)}: {key} must be {what}{bounds}, not {shown(value)}")
    return kind(value)


def expect(value: Any, kind: type | tuple[type, ...], key: str, origin: str, what: str) -> Any:
    """The value, if it is of this type; else an error line: `origin: key must be what, not ...`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{printable(origin)}: {key} must be {what}, not {shown(value)}")
    return value


def inside(folder: Source, name: Any, origin: str) -> str:
    """The path of a file that another file names, which must lie in its folder.

    Raises:
      InputError: no text, an absolute path, or one that climbs out of the folder.
    """
    expect(name, str, "a file name", origin, "a text")
    if not name or "\0" in name or len(name) > 255 or os.path.basename(name) != name or name in (".", ".."):
        raise InputError(f"{printable(origin)} names the file {shown(name)}: expected a name in its own folder")
    return os.path.join(os.fspath(folder), name)
