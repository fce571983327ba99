"""Servers under load as others measured them, beside the simulation.

Twice: with the server's own steps measured (TTFT and TPOT of one user of the same source and length: what is left is
the scheduler's rules) and with the simulator's prices. Rows of one user may be fitted (`ttsim.proof.fit_serving`); rows
under load only check, and those whose figures have led to a rule ("seen") not even that.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from ttsim.dates import parse_period
from ttsim.files.reading import InputError, parse_csv, read_text
from ttsim.models.grids import padded_prefill_length
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
_BOXES = {"WH Galaxy (T3K slice)": "Galaxy T3K"}


@dataclass(frozen=True, kw_only=True)
class LoadRow:
    """One row: what ran, and mean times in seconds (None: not measured).

    Attributes:
      row: its name, or its line. model, device, parallel, source, client, note: as written.
      concurrency, requests, isl, osl: of the load; requests None: as many as the vendor's script sends.
      ttft, tpot, e2el: means. date: of the software. stack: of the server.
      split: "fitted", "checking" or "seen". left_out: why the row doesn't count with simulated steps, "" if it does;
        with "ttft: " before it, only its TTFT doesn't.
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

    def counts(self, kind: str, figure: str) -> bool:
        """Whether a figure counts with "measured_steps" or "own_steps".

        The program is of no matter where its steps were measured; a figure that isn't what it seems counts nowhere.
        """
        only, _, why = self.left_out.rpartition("ttft: ")
        if only or self.left_out.startswith("ttft: "):
            return figure != "ttft"
        return not why or (kind == "measured_steps" and why.startswith(_ANOTHER_PROGRAM))

    @property
    def data_parallel(self) -> int:
        found = re.search(r"DP\s*=\s*(\d+)", self.parallel, re.IGNORECASE)
        return int(found[1]) if found else 1

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
    return _read(text, "serving.csv")


def read_load_rows(path: str) -> list[LoadRow]:
    """Rows of a CSV with the columns of `COLUMNS`.

    Raises:
      MeasuredFileError: a column is missing or a cell is none. OSError: the file can't be read.
    """
    return _read(read_text(path), path)


def _read(text: str, path: str) -> list[LoadRow]:
    try:
        table = parse_csv((line for line in text.splitlines() if not line.startswith("#")), path, COLUMNS)
    except InputError as error:
        raise MeasuredFileError(f"{error}; a row under load has {', '.join(COLUMNS)}") from None
    rows = []
    for number, cells in enumerate(table, 1):
        if not (cells["concurrency"] and cells["isl"] and cells["osl"] and cells["date"]):
            continue  # says nothing about a load
        name = cells.get("row") or str(number)
        try:
            rows.append(
                LoadRow(
                    row=name,
                    model=cells["model"],
                    device=cells["device"],
                    parallel=cells["parallel"],
                    concurrency=int(cells["concurrency"]),
                    requests=int(cells["requests"]) if cells["requests"] else None,
                    isl=int(cells["isl"]),
                    osl=int(cells["osl"]),
                    ttft=_ms(cells["ttft_ms"]),
                    tpot=_ms(cells["tpot_ms"]),
                    e2el=_ms(cells["e2el_ms"]),
                    date=_day(cells["date"]),
                    source=cells.get("source") or "",
                    client=cells.get("client") or "",
                    note=cells.get("note") or "",
                    stack=cells.get("stack") or "vllm",
                    split=cells.get("split") or ("fitted" if cells["concurrency"] == "1" else "checking"),
                    left_out=cells.get("left_out") or "",
                )
            )
        except (ValueError, IndexError) as error:
            raise MeasuredFileError(f"{path}, row {name}: {error}") from None
    return rows


def _ms(cell: str) -> float | None:
    if not cell:
        return None
    value = float(cell)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{cell!r} is no positive number of milliseconds")
    return 1e-3 * value


def _day(cell: str) -> datetime.date:
    """The day that a date cell starts with ("2025-07-25 tt-metal 633160e")."""
    return parse_period(cell.split()[0]).middle


def validate_load(rows: Sequence[LoadRow], progress: Callable[[int, int], None] | None = None) -> list[LoadResult]:
    """Predicts the rows under load; rows of one user serve as measured steps.

    Args:
      rows: all rows, of one user and of several.
      progress: called with (rows done, rows in all).
    """
    loaded = [row for row in rows if row.concurrency > 1 and (row.ttft or row.tpot or row.e2el)]
    results = []
    for row in loaded:
        results.append(LoadResult(row, with_measured_steps(row, rows), with_own_steps(row)))
        if progress:
            progress(len(results), len(loaded))
    return results


def with_own_steps(row: LoadRow) -> Prediction:
    """From the simulator's prices."""
    try:
        server = server_of(row)
        return _predict(row, server.pool)
    except (ValueError, OSError) as error:
        return Prediction({}, refused=" ".join(str(error).split()))


def with_measured_steps(row: LoadRow, rows: Sequence[LoadRow]) -> Prediction:
    """From TTFT and TPOT of one user: the nearest row of the same source that pads its prompt to the same rows."""
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
    device, day = _BOXES.get(row.device, row.device), row.date
    if "host argmax" in row.note:  # measured on the day of #25510, without it
        day = min(day, _DEVICE_ARGMAX_SINCE - datetime.timedelta(days=1))
    return build(row.model, device, data_parallel=row.data_parallel, date=day.isoformat(), stack=row.stack)


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
