"""Servers under load as others measured them, beside the simulation.

Twice: with the server's own steps measured (TTFT and TPOT of one user of the same source and length: what is left is
the scheduler's rules) and with the simulator's prices. Rows of one user may be fitted (`ttsim.proof.fit_serving`); rows
under load only check, and those whose figures have led to a rule ("seen") not even that.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeVar

from ttsim.files.reading import InputError, csv_lines, parse_csv, read_text
from ttsim.hardware import facts
from ttsim.models.grids import padded_prefill_length
from ttsim.proof import box_words, words
from ttsim.proof.measured import MeasuredFileError
from ttsim.proof.summary import ErrorSummary
from ttsim.serving import workload
from ttsim.serving.cluster import Pool, run
from ttsim.serving.host_costs import OUTSIDE
from ttsim.serving.metrics import Metrics
from ttsim.serving.policy import policy_of
from ttsim.serving.prices import FormulaPrices, HostCosts
from ttsim.serving.serve import SPACING
from ttsim.serving.server import Server, build

FIGURES = ("ttft", "tpot", "e2el")
COLUMNS = (
    "model",
    "device",
    "parallel",
    "concurrency",
    "requests",
    "isl",
    "osl",
    "ttft_ms",
    "tpot_ms",
    "e2el_ms",
    "date",
)
_DEVICE_ARGMAX_SINCE = datetime.date(2025, 7, 23)  # tt-metal #25510
_ANOTHER_PROGRAM = ("other program", "slow host", "throttled")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class LoadRow:
    """One row: what ran, and mean times in seconds (None: not measured).

    Attributes:
      row: its name, or its line. model, device, parallel, source, client, note: as written.
      concurrency, requests, isl, osl: of the load; requests None: as many as the vendor's script sends.
      ttft, tpot, e2el: means. date: of the software. stack: of the server.
      split: "fitted", "checking" or "seen". left_out: why the row doesn't count with simulated steps, "" if it does;
        with "ttft: " before it, only its TTFT doesn't. problem: cells that can't be read, "" if all can.
    """

    row: str
    model: str
    device: str
    parallel: str
    concurrency: int
    requests: int | None
    isl: int
    osl: int
    ttft: float | None
    tpot: float | None
    e2el: float | None
    date: datetime.date
    source: str
    client: str
    note: str
    stack: str = "vllm"
    split: str = "checking"
    left_out: str = ""
    problem: str = ""

    def counts(self, kind: str, figure: str) -> bool:
        """Whether a figure counts with "measured_steps" or "own_steps".

        The program is of no matter where its steps were measured; a figure that isn't what it seems counts nowhere.
        """
        only, _, why = self.left_out.rpartition("ttft: ")
        if only or self.left_out.startswith("ttft: "):
            return figure != "ttft"
        return not why or (kind == "measured_steps" and why.startswith(_ANOTHER_PROGRAM))

    @property
    def sent(self) -> int:
        """Requests in all; where the row doesn't say, those of the vendor's benchmark."""
        return self.requests or requests_sent(self.concurrency, self.isl, self.osl)


@dataclass(frozen=True)
class Prediction:
    """Mean times in seconds by figure, and the load's share of capacity; or why there is none."""

    values: Mapping[str, float]
    load_share: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class LoadResult:
    """A row under load, its prediction from measured single-user steps and from the simulator's prices."""

    row: LoadRow
    measured_steps: Prediction
    own_steps: Prediction

    def error(self, kind: str, figure: str) -> float | None:
        """Predicted / measured - 1; `kind` is "measured_steps" or "own_steps"."""
        truth, value = getattr(self.row, figure), getattr(self, kind).values.get(figure)
        return None if truth is None or value is None else value / truth - 1


def shipped() -> list[LoadRow]:
    """The rows that ship with the project."""
    text = resources.files("ttsim.data").joinpath("serving.csv").read_text(encoding="utf-8")
    return [row for row in _read(text, "serving.csv") if not row.problem]  # some say nothing about a load


def read_load_rows(path: str) -> list[LoadRow]:
    """Rows of a CSV with the columns of `COLUMNS`.

    Raises:
      MeasuredFileError: a column is missing or a cell is none. OSError: the file can't be read.
    """
    return _read(read_text(path), path)


def _read(text: str, path: str) -> list[LoadRow]:
    try:
        table = parse_csv((line for _, line in csv_lines(text)), path, COLUMNS)
    except InputError as error:
        raise MeasuredFileError(f"{error}; a row under load has {', '.join(COLUMNS)}") from None
    return [_row(cells, number) for number, cells in enumerate(table, 1) if any(cells.get(name) for name in COLUMNS)]


def _row(cells: Mapping[str, str], number: int) -> LoadRow:
    """A row as `ttsim.proof.words` reads it; a cell that can't be read is a problem of its row."""
    problems: list[str] = []
    text = {name: (value or "").strip() for name, value in cells.items()}

    def read(reader: Callable[..., _T], name: str, *more: str, least: bool = False) -> _T | None:
        try:
            found = reader(text.get(name, ""), *more)
        except ValueError as error:
            problems.append(str(error))
            return None
        if least and (found.value if isinstance(found, words.Read) else getattr(found, "number", None)) is None:
            problems.append(f"{name} {text.get(name, '')!r} says no number")
        return found

    users = read(words.read_users, "concurrency", least=True)
    isl, osl = (read(words.read_tokens, name, name, least=True) for name in ("isl", "osl"))
    asked = read(words.read_tokens, "requests", "requests")
    times = [read(words.read_figure, f"{figure}_ms", f"{figure}_ms") for figure in FIGURES]
    period, _ = read(words.read_date, "date") or (None, "")
    stacks, _ = read(words.read_stack, "stack") or ((), "")
    ttft, tpot, e2el = (1e-3 * found.value if found and found.value else None for found in times)
    concurrency = (users.number if users else None) or 1
    if users and users.each:
        concurrency *= box_words.read_parallel(text["parallel"]).replicas
    return LoadRow(
        row=text.get("row") or str(number),
        model=box_words.read_model(text["model"]),
        device=text["device"],
        parallel=text["parallel"],
        concurrency=concurrency,
        requests=int(asked.value) if asked and asked.value else None,
        isl=int(isl.value) if isl and isl.value else 1,
        osl=int(osl.value) if osl and osl.value else 1,
        ttft=ttft,
        tpot=tpot,
        e2el=e2el,
        date=period.middle if period else facts.newest(),
        source=text.get("source", ""),
        client=text.get("client", ""),
        note=text.get("note", ""),
        stack=" ".join(stacks if facts.SERVER in stacks else (facts.SERVER, *stacks)),
        split=text.get("split") or ("fitted" if concurrency == 1 else "checking"),
        left_out=text.get("left_out", ""),
        problem="; ".join(problems),
    )


def validate_load(
    rows: Sequence[LoadRow], progress: Callable[[int, int], None] | None = None, *, single: bool = False
) -> list[LoadResult]:
    """Predicts the rows under load; rows of one user serve as measured steps.

    Args:
      rows: all rows, of one user and of several.
      progress: called with (rows done, rows in all).
      single: whether rows of one user are predicted too.
    """
    figures = [row for row in rows if row.ttft or row.tpot or row.e2el or row.problem]
    loaded = [row for row in figures if single or row.concurrency > 1]
    results = []
    for row in loaded:
        results.append(LoadResult(row, with_measured_steps(row, rows), with_own_steps(row)))
        if progress:
            progress(len(results), len(loaded))
    return results


def with_own_steps(row: LoadRow) -> Prediction:
    """From the simulator's prices."""
    if row.problem:
        return Prediction({}, refused=row.problem)
    try:
        server = server_of(row)
        return _predict(row, server.pool)
    except (ValueError, OSError) as error:
        return Prediction({}, refused=" ".join(str(error).split()))


def with_measured_steps(row: LoadRow, rows: Sequence[LoadRow]) -> Prediction:
    """From TTFT and TPOT of one user: the nearest row of the same source that pads its prompt to the same rows."""
    if row.problem or row.concurrency == 1:
        return Prediction({}, refused=row.problem or "a row of one user")
    alike = [
        other
        for other in rows
        if other.concurrency == 1
        and other.ttft
        and other.tpot
        and other.counts("measured_steps", "ttft")
        and (other.model, other.device, other.parallel, other.source)
        == (row.model, row.device, row.parallel, row.source)
        and padded_prefill_length(other.isl) == padded_prefill_length(row.isl)
    ]
    if not alike:
        return Prediction({}, refused="no row of one user with this padded prompt")
    one = min(alike, key=lambda other: (abs(other.isl - row.isl), other.note != row.note, abs(other.osl - row.osl)))
    prompt, step = (one.ttft or 0.0) - 2 * OUTSIDE, one.tpot or 0.0
    try:
        pool = server_of(row).pool
    except ValueError:  # a model that can't be priced: the date's rules with their defaults
        policy, count, sample = dataclasses.replace(policy_of(row.date), chunked_prefill=False), 1, 0.0
        policy = dataclasses.replace(policy, max_num_batched_tokens=131_072)
    else:
        policy, count, sample = pool.policy, pool.count, pool.host.sample
    prices = FormulaPrices(
        prompt=lambda tokens, prefix: prompt,
        step=lambda rows, readers, contexts: step - sample,  # the measured step has one user's
        pad=padded_prefill_length,
    )
    host = HostCosts(before=OUTSIDE, after=OUTSIDE, sample=sample)
    policy = dataclasses.replace(policy, batched_prefill=False)  # one user's prompt tells nothing of a batch
    return _predict(row, Pool(policy=policy, prices=prices, host=host, count=count))


def requests_sent(concurrency: int, isl: int, osl: int) -> int:
    """Requests that tt-inference-server's benchmark (2026) sends at a concurrency."""
    waves = 8 if max(isl, osl) <= 128 else 4 if osl <= 1024 and isl <= 4096 else 2
    return concurrency * (waves if isl <= 16_384 else 1)


def serve_closed(pool: Pool, concurrency: int, requests: int, isl: int, osl: int) -> Metrics:
    """What a client sees that keeps so many requests of one length open."""
    asked = workload.make(requests, str(isl), str(osl))
    return Metrics(run(asked.requests(), asked.load(concurrency, SPACING), pool))


def _predict(row: LoadRow, pool: Pool) -> Prediction:
    metrics = serve_closed(pool, row.concurrency, row.sent, row.isl, row.osl)
    values = {figure: getattr(metrics, figure).mean for figure in FIGURES}
    return Prediction(values, metrics.request_throughput / metrics.capacity)


def server_of(row: LoadRow) -> Server:
    """The server that a row says was measured."""
    day, (system, _) = row.date, box_words.read_box(row.device, row.parallel)
    if "host argmax" in row.note:  # measured on the day of #25510, without it
        day = min(day, _DEVICE_ARGMAX_SINCE - datetime.timedelta(days=1))
    return build(row.model, system, date=day.isoformat(), stack=row.stack)


def summaries(
    results: Sequence[LoadResult], splits: Sequence[str] = ("checking",)
) -> list[tuple[str, str, ErrorSummary]]:
    """(kind, figure, errors) of the rows that count, of these splits."""
    found = []
    for kind in ("measured_steps", "own_steps"):
        for figure in FIGURES:
            errors = [
                error
                for result in results
                if result.row.split in splits
                and result.row.counts(kind, figure)
                and (error := result.error(kind, figure)) is not None
            ]
            if summary := ErrorSummary.of(errors):
                found.append((kind, figure, summary))
    return found
