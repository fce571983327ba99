"""Speeds and times to the first token that others measured: the rows that ship with the project, and any CSV like them.

A row says what ran in the words that people publish: `device` as a box is called, `parallel` like "TP=8" or
"DP=4,TP=8", `date` a day, month or year. An empty cell is unknown. A column `prefetcher` (yes, no), or else a note,
says whether the DRAM prefetcher was asked for; a note also says that a row is of the state before the change that its
date is of ("main (before)"), or of another fidelity ("all-LoFi").

Which of the shipped rows a constant may be fitted on was decided before any was fitted: those of sources whose
SHA-256 begins with a hexadecimal digit below 8 (`fitted`). The rows of the other sources only check. Targets of
continuous integration, rows that asked for the prefetcher and those that are left out (`left_out` says why) are never
fitted.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TypeVar

from ttsim.dates import Period
from ttsim.files.reading import InputError, csv_delimiter, csv_lines, read_text
from ttsim.hardware.facts import SERVER
from ttsim.meshes.systems import System, Topology, part_of
from ttsim.proof import box_words, remarks, words
from ttsim.scenarios.scenario import MAX_BATCH

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
_T = TypeVar("_T")
ROWS = MAX_BATCH  # users of one replica at most
# The models that the Galaxy's own code runs, as far as a row's stack says only "vllm", or nothing since that code came.
_GALAXY_MODELS = re.compile(r"llama.*70b|qwen3-32b", re.IGNORECASE)
_GALAXY_CODE = datetime.date(2025, 6, 1)


class MeasuredFileError(ValueError):
    """A file is no CSV of measurements."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what ran, as written, and what was measured.

    Attributes:
      row: its name, or its line in the file.
      model, device, parallel, stack, precision, source: as written.
      batch: users of all replicas, or of each. isl, osl: tokens of a prompt and of an answer. None is unknown.
      speed: tokens per second and user. ttft: seconds.
      date: when; None is unknown.
      kind: "measured" or "ci_target". left_out: why the row doesn't count, "" if it does.
      each: whether the users are counted for each replica. prefetcher: whether the DRAM prefetcher was asked for.
      stacks: those that `stack` names, the server first.
      problems: cells that can't be read, one line each. notes: what was read from a range or a word.
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
    each: bool = False
    prefetcher: bool = False
    stacks: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> bool:
        """Whether the row is of a measurement that is what it seems."""
        return not self.left_out and self.kind == "measured"

    @property
    def fitted(self) -> bool:
        """Whether constants may be fitted on it."""
        return self.counts and not self.prefetcher and int(hashlib.sha256(self.source.encode()).hexdigest()[0], 16) < 8

    @property
    def client(self) -> bool:
        """Whether a server's client measured it, from the outside, with the wait for others: not a table of a demo."""
        table = "PERF.md" in self.source or "README" in self.source
        return "tt-inference-server" in self.source or (SERVER in self.stacks and not table)

    @property
    def under_load(self) -> bool:
        """Whether that client had several requests open."""
        return self.client and (self.batch or 1) > 1

    @property
    def served(self) -> bool:
        """Whether a server ran it: its stack or its source says so."""
        return SERVER in self.stacks or self.client

    @functools.cached_property
    def _box(self) -> tuple[System, str]:
        """The box, cut as the row says, and what was assumed."""
        box, note = box_words.read_box(self.device, self.parallel)
        users, box_chips = self.batch or 1, box.num_chips
        cut = box_words.read_parallel(self.parallel)
        told = (cut.chips is not None or cut.replicas > 1) and "ep" not in self.parallel.casefold()  # experts over all
        if self.each or self.client or box.data_parallel > 1 or users <= ROWS or told:
            return box, note
        # More users than a replica has rows: there were several.
        fits = (n for n in range(2, box_chips + 1) if box_chips % n == 0 and users <= n * ROWS)
        if (replicas := next(fits, None)) is None:
            return box, note
        assumed = f"DP={replicas} assumed: {users} users are at most {ROWS} a replica"
        return part_of(box, replicas), "; ".join(filter(None, (note, assumed)))

    def system(self) -> System:
        """The box, cut as the row says.

        Raises:
          ValueError: no such box, or it can't be cut like that.
        """
        return self._box[0]

    @property
    def assumed(self) -> tuple[str, ...]:
        """What was assumed where a cell is a range, a word or ambiguous.

        Raises:
          ValueError: as `system` does.
        """
        read = (*self.notes, *self._box[1].split("; "), words.read_precision(self.precision)[1])
        return tuple(dict.fromkeys(filter(None, read)))

    def software_stack(self, system: System) -> str:
        """The stack, with what a server runs on top of.

        Raises:
          ValueError: there is no such stack.
        """
        names = list(self.stacks)
        if self.served and SERVER not in names:
            names.insert(0, SERVER)
        if system.topology is Topology.GRID and _GALAXY_MODELS.search(self.model):
            late = self.date is not None and self.date.first >= _GALAXY_CODE
            if names == [SERVER] or (not names and late):
                names.append("galaxy")
        return " ".join(names or ["tt_transformers"])

    def users(self, system: System) -> int:
        """Users of one replica; one if the row doesn't say."""
        return (self.batch or 1) if self.each else -(-(self.batch or 1) // system.data_parallel)

    def requests(self, system: System) -> int:
        """Requests that are open at once, of all replicas."""
        return (self.batch or 1) * (system.data_parallel if self.each else 1)


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
    numbered = csv_lines(text)
    try:
        delimiter = csv_delimiter(numbered[0][1] if numbered else "")
        reader = csv.reader([line for _, line in numbered], delimiter=delimiter, strict=True)
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
    return tuple(_row(dict(zip(head, cells, strict=False)), line, cells[len(head) :]) for line, cells in table[1:])


def _row(cells: Mapping[str, str], line: int, beyond: Sequence[str] = ()) -> Measured:
    text = {name: value.strip() for name, value in cells.items()}
    problems: list[str] = []
    if any(cell.strip() for cell in beyond):  # which cell had a comma too many isn't known
        problems.append("more cells than columns: a cell with a comma in it stands in quotes")
    notes: list[str] = []

    def read(name: str, reader: Callable[[str], _T]) -> _T | None:
        try:
            return reader(text.get(name, ""))
        except ValueError as error:
            problems.append(str(error))
            return None

    def number(name: str, reader: Callable[[str, str], words.Read], *, figure: bool = False) -> float | None:
        try:
            found = reader(text.get(name, ""), name)
        except ValueError as error:
            (notes if figure else problems).append(str(error))
            return None
        notes.extend(filter(None, [found.note]))
        return found.value

    users = read("batch", words.read_users) or words.Users(None)
    date = read("date", words.read_date)
    stacks = read("stack", words.read_stack)
    notes.extend(filter(None, [users.note, date[1] if date else "", stacks[1] if stacks else ""]))
    isl, osl = number("isl", words.read_tokens), number("osl", words.read_tokens)
    ttft_ms = number("ttft_ms", words.read_figure, figure=True)
    when, told = date[0] if date else None, text.get("note", "")
    if when and when.first == when.last and remarks.is_before(told):
        day = when.first - datetime.timedelta(days=1)
        when = Period(day, day)
        notes.append("software of the day before: the row is of the state before a change")
    return Measured(
        row=text.get("row") or f"line {line}",
        model=box_words.read_model(text.get("model", "")),
        device=text.get("device", ""),
        parallel=text.get("parallel", ""),
        batch=users.number,
        each=users.each,
        isl=None if isl is None else int(isl),
        osl=None if osl is None else int(osl),
        ttft=None if ttft_ms is None else 1e-3 * ttft_ms,
        speed=number("decode_tsu", words.read_figure, figure=True),
        date=when,
        stack=text.get("stack", ""),
        stacks=stacks[0] if stacks else (),
        precision=text.get("precision") or remarks.precision_of_note(told),
        source=text.get("source", ""),
        kind=text.get("kind") or "measured",
        left_out=text.get("left_out", ""),
        prefetcher=bool(read("prefetcher", lambda cell: remarks.read_prefetcher(cell, told))),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def sources(rows: Iterable[Measured]) -> tuple[str, ...]:
    """The sources of rows, in their order, each once."""
    return tuple(dict.fromkeys(row.source for row in rows))
