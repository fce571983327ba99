"""Speeds and times to the first token that others measured: the rows that ship with the project, and any CSV like them.

A row says what ran in the words that people publish: `device` as a box is called, `parallel` like "TP=8" or
"DP=4,TP=8", `date` a day, month or year. An empty cell is unknown.

Which of the shipped rows a constant may be fitted on was decided before any was fitted: those of sources whose
SHA-256 begins with a hexadecimal digit below 8 (`fitted`). The rows of the other sources only check. Targets of
continuous integration and rows that are left out (`left_out` says why) are never fitted.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ttsim.dates import Period, parse_period
from ttsim.errors import UnknownSystemError
from ttsim.files.reading import InputError, read_text
from ttsim.hardware.facts import SERVER, STACKS
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System, Topology

COLUMNS = (
    "model",
    "device",
    "parallel",
    "batch",
    "isl",
    "osl",
    "ttft_ms",
    "decode_tsu",
    "date",
    "stack",
    "precision",
    "source",
)
# The models that the Galaxy's own code runs, as far as a row's stack says only "vllm".
_GALAXY_MODELS = re.compile(r"llama.*70b|qwen3-32b", re.IGNORECASE)


class MeasuredFileError(ValueError):
    """A file is no CSV of measurements."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what ran, as written, and what was measured.

    Attributes:
      row: its name, or its line in the file.
      model, device, parallel, stack, precision, source: as written.
      batch: users of all replicas. isl, osl: tokens of a prompt and of an answer. None is unknown.
      speed: tokens per second and user. ttft: seconds.
      date: when; None is unknown.
      kind: "measured" or "ci_target". left_out: why the row doesn't count, "" if it does.
      problems: cells that can't be read, one line each.
    """

    row: str
    model: str
    device: str
    parallel: str = ""
    batch: int | None = None
    isl: int | None = None
    osl: int | None = None
    ttft: float | None = None
    speed: float | None = None
    date: Period | None = None
    stack: str = ""
    precision: str = ""
    source: str = ""
    kind: str = "measured"
    left_out: str = ""
    problems: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> bool:
        """Whether the row is of a measurement that is what it seems."""
        return not self.left_out and self.kind == "measured"

    @property
    def fitted(self) -> bool:
        """Whether constants may be fitted on it."""
        return self.counts and int(hashlib.sha256(self.source.encode()).hexdigest()[0], 16) < 8

    @property
    def client(self) -> bool:
        """Whether a server's client measured it, from the outside, with the wait for others: not a table of a demo."""
        table = "PERF.md" in self.source or "README" in self.source
        return "tt-inference-server" in self.source or (SERVER in self.stack and not table)

    @property
    def under_load(self) -> bool:
        """Whether that client had several requests open."""
        return self.client and (self.batch or 1) > 1

    @property
    def served(self) -> bool:
        """Whether a server ran it: its stack or its source says so."""
        return SERVER in self.stack or self.client

    def system(self) -> System:
        """The box, cut as `parallel` says.

        Raises:
          ValueError: no such box, or it can't be cut like that.
        """
        box = get_system(self.device)
        replicas, chips = _parallel(self.parallel)
        if chips is None:
            return get_system(box, replicas)
        if replicas * chips > box.num_chips:
            raise UnknownSystemError(f"{self.device} has {box.num_chips} chips, not {replicas} x {chips}")
        return get_system(box, box.num_chips // chips)

    def software_stack(self, system: System) -> str:
        """The stack, with what a server runs on top of.

        Raises:
          ValueError: there is no such stack.
        """
        names = self.stack.lower().replace(",", " ").split() or ["tt_transformers"]
        unknown = [name for name in names if name not in STACKS]
        if unknown:
            raise ValueError(f"no stack {unknown[0]!r}: one of {', '.join(STACKS)}")
        if self.served and SERVER not in names:
            names.insert(0, SERVER)
        if names == [SERVER] and system.topology is Topology.GRID and _GALAXY_MODELS.search(self.model):
            names.append("galaxy")
        return " ".join(names)

    def users(self, system: System) -> int:
        """Users of one replica; one if the row doesn't say."""
        return -(-(self.batch or 1) // system.data_parallel)


def _parallel(text: str) -> tuple[int, int | None]:
    """(replicas, chips of each if it says) of "TP=8", "DP=4,TP=8", "DP=4 of 1x8", "mesh 4x8", "single" or nothing."""
    words = text.strip().lower()
    if words in ("", "-", "none"):
        return 1, None
    if words in ("single", "1"):
        return 1, 1
    counts = {name: int(number) for name, number in re.findall(r"\b(dp|tp)\s*[=/:]?\s*([0-9]{1,6})", words)}
    if mesh := re.search(r"([0-9]{1,6})\s*x\s*([0-9]{1,6})", words):
        counts.setdefault("tp", int(mesh[1]) * int(mesh[2]))
    if "tp/ep" in words and (both := re.search(r"tp/ep\s*=?\s*(\d+)", words)):
        counts["tp"] = int(both[1])
    if not counts or 0 in counts.values():
        raise ValueError(f"parallel {text!r} is not like TP=8 or DP=4,TP=8")
    return counts.get("dp", 1), counts.get("tp")


def read_measured(path: str | Path) -> tuple[Measured, ...]:
    """The rows of a CSV file with the columns `COLUMNS`, others ignored.

    Raises:
      MeasuredFileError: it is no such file. A cell that can't be read is a problem of its row.
    """
    try:
        text = read_text(path)
    except InputError as error:
        raise MeasuredFileError(str(error)) from None
    return parse_measured(text, str(path))


def shipped() -> tuple[Measured, ...]:
    """The rows that ship with the project."""
    return parse_measured(resources.files("ttsim.data").joinpath("measured.csv").read_text(encoding="utf-8"))


def parse_measured(text: str, origin: str = "measurements") -> tuple[Measured, ...]:
    """The rows of a CSV text (see `read_measured`); lines that begin with # are comments.

    Args:
      origin: what an error calls it.
    """
    numbered = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if not line.startswith("#")]
    try:
        reader = csv.reader([line for _, line in numbered], strict=True)
        table = [(numbered[min(reader.line_num, len(numbered)) - 1][0], cells) for cells in reader if cells]
    except csv.Error as error:
        raise MeasuredFileError(f"{origin}: no CSV: {error}") from None
    if not table:
        raise MeasuredFileError(f"{origin} is empty: a first line of columns is needed: {', '.join(COLUMNS)}")
    head = [name.strip().lower() for name in table[0][1]]
    missing = [name for name in ("model", "device") if name not in head]
    if missing or not {"ttft_ms", "decode_tsu"} & set(head):
        needed = missing or ["ttft_ms or decode_tsu"]
        raise MeasuredFileError(f"{origin} has no column {', '.join(needed)}: columns are {', '.join(COLUMNS)}")
    twice = [name for name in COLUMNS if head.count(name) > 1]
    if twice:
        raise MeasuredFileError(f"{origin} has the column {twice[0]} twice")
    return tuple(_row(dict(zip(head, cells, strict=False)), line) for line, cells in table[1:])


def _row(cells: Mapping[str, str], line: int) -> Measured:
    text = {name: value.strip() for name, value in cells.items()}
    problems: list[str] = []

    def number(name: str, least: float) -> float | None:
        cell = text.get(name, "").replace(",", "").replace("_", "")
        if cell in ("", "-", "N/A", "n/a", "?"):
            return None
        try:
            value = float(cell)
            if not least <= value < float("inf"):
                raise ValueError
        except ValueError:
            problems.append(f"{name} {text[name]!r} is no number of at least {least:g}")
            return None
        return value

    def count(name: str) -> int | None:
        value = number(name, 1)
        if value is not None and value != int(value):
            problems.append(f"{name} {text[name]!r} is no whole number")
            return None
        return None if value is None else int(value)

    date = None
    if text.get("date"):
        try:
            date = parse_period(text["date"])
        except ValueError as error:
            problems.append(str(error))
    ttft_ms, speed = number("ttft_ms", 1e-3), number("decode_tsu", 1e-3)
    return Measured(
        row=text.get("row") or f"line {line}",
        model=text.get("model", ""),
        device=text.get("device", ""),
        parallel=text.get("parallel", ""),
        batch=count("batch"),
        isl=count("isl"),
        osl=count("osl"),
        ttft=None if ttft_ms is None else 1e-3 * ttft_ms,
        speed=speed,
        date=date,
        stack=text.get("stack", ""),
        precision=text.get("precision", ""),
        source=text.get("source", ""),
        kind=text.get("kind") or "measured",
        left_out=text.get("left_out", ""),
        problems=tuple(problems),
    )


def sources(rows: Iterable[Measured]) -> tuple[str, ...]:
    """The sources of rows, in their order, each once."""
    return tuple(dict.fromkeys(row.source for row in rows))
