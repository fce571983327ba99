"""Measurements beside predictions: the error of each row, whether its interval holds it, and the errors by group.

    error = predicted / measured - 1

What can't be predicted is refused in one line, row by row; nothing leaves a mean silently.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ttsim.hardware.constants import load_constants
from ttsim.pricing.price import totals
from ttsim.proof import published, words
from ttsim.proof.intervals import Interval, fold_of, interval
from ttsim.proof.load_rows import requests_sent, serve_closed
from ttsim.proof.measured import Measured
from ttsim.proof.rows import compilations
from ttsim.proof.summary import ErrorSummary
from ttsim.scenarios.batched import computed_together, prompt_share
from ttsim.scenarios.scenario import MAX_BATCH, Scenario
from ttsim.serving.server import build

Figure = Literal["speed", "ttft"]
FIGURES: tuple[Figure, ...] = ("speed", "ttft")
DEFAULT_ISL, DEFAULT_OSL = 128, 200  # of a row that doesn't say: the tables' prompts and answers


@dataclass(frozen=True)
class Validated:
    """A row beside its prediction.

    Attributes:
      measured: the row.
      values: predicted speed (tokens per second and user) and TTFT (seconds); a figure that isn't measured is left out.
      intervals: of each predicted figure, None where nothing tells how wide it is.
      refused: why nothing is predicted, None if something is.
      notes: what was assumed.
      groups: {kind of group: the group that the row is in}.
    """

    measured: Measured
    values: Mapping[Figure, float] = field(default_factory=dict)
    intervals: Mapping[Figure, Interval | None] = field(default_factory=dict)
    refused: str | None = None
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)

    def published(self, figure: Figure) -> float | None:
        """The figure that was measured."""
        return self.measured.speed if figure == "speed" else self.measured.ttft

    def error(self, figure: Figure) -> float | None:
        """Predicted / measured - 1."""
        truth, value = self.published(figure), self.values.get(figure)
        return None if truth is None or value is None else value / truth - 1

    def inside(self, figure: Figure) -> bool | None:
        """Whether the interval holds what was measured; None without an interval or a measurement."""
        truth, found = self.published(figure), self.intervals.get(figure)
        return None if truth is None or found is None else found.low <= truth <= found.high

    def record(self) -> dict[str, Any]:
        """The row as JSON and CSV have it, times in ms."""
        row = self.measured
        speed, ttft = self.intervals.get("speed"), self.intervals.get("ttft")
        value = self.values.get("ttft")
        return {
            "row": row.row,
            "model": row.model,
            "device": row.device,
            "parallel": row.parallel,
            "batch": row.batch,
            "isl": row.isl,
            "osl": row.osl,
            "date": None if row.date is None else str(row.date),
            "stack": row.stack,
            "precision": row.precision,
            "source": row.source,
            "decode_tsu": row.speed,
            "speed": self.values.get("speed"),
            "speed_error": self.error("speed"),
            "speed_low": speed.low if speed else None,
            "speed_high": speed.high if speed else None,
            "speed_inside": self.inside("speed"),
            "ttft_measured_ms": None if row.ttft is None else 1e3 * row.ttft,
            "ttft_ms": None if value is None else 1e3 * value,
            "ttft_error": self.error("ttft"),
            "ttft_low_ms": 1e3 * ttft.low if ttft else None,
            "ttft_high_ms": 1e3 * ttft.high if ttft else None,
            "ttft_inside": self.inside("ttft"),
            "refused": self.refused,
            "left_out": row.left_out or ("target" if row.kind == "ci_target" else None),
            "notes": list(self.notes),
        }


def validate(
    rows: Sequence[Measured],
    constants: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Validated]:
    """Predicts rows.

    Args:
      rows: see `ttsim.proof.measured`.
      constants: of the cost model, by default the calibrated ones.
      progress: called with (rows done, rows in all).
    """
    constants = load_constants() if constants is None else constants
    done = []
    for row in rows:
        done.append(_validate(row, constants))
        if progress:
            progress(len(done), len(rows))
    return done


def _validate(row: Measured, constants: Mapping[str, float]) -> Validated:
    groups = _groups(row, None)
    if row.problems:
        return Validated(row, refused="; ".join(row.problems), groups=groups)
    try:
        first = scenario_of(row)
        groups = _groups(row, first)
        first.check_fits()
        wanted = [figure for figure in FIGURES if (row.speed if figure == "speed" else row.ttft) is not None]
        values = predict(first, row, wanted, constants)
        intervals = _intervals(first, row, values, constants)
    except (ValueError, OSError) as error:
        return Validated(row, refused=" ".join(str(error).split()) or type(error).__name__, groups=groups)
    if not values:
        return Validated(
            row, refused="; ".join(row.notes) or "the row has neither decode_tsu nor ttft_ms", groups=groups
        )
    return Validated(row, values, intervals, notes=tuple(_assumed(row, first)), groups=groups)


def scenario_of(row: Measured, date: datetime.date | None = None) -> Scenario:
    """What a row ran, with the software of its date (or of another one).

    Raises:
      ValueError: an unknown name, or what the simulator can't run.
    """
    if not row.model:
        raise ValueError("the row has no model")
    system = row.system()
    return Scenario.of(
        row.model,
        system,
        words.read_precision(row.precision)[0],
        min(row.users(system), MAX_BATCH) if row.under_load else row.users(system),
        row.isl or DEFAULT_ISL,
        max(row.osl or DEFAULT_OSL, 2),
        date=date or (row.date.middle if row.date else None),
        stack=row.software_stack(system),
        prefetcher=row.prefetcher,
    )


def predict(
    scenario: Scenario, row: Measured, figures: Sequence[Figure], constants: Mapping[str, float]
) -> dict[Figure, float]:
    """Figures as they were measured.

    A client with several requests open sees what the server makes of them: TTFT with the wait for others, and its
    users' speed with the prompts that came between (`ttsim.proof.load_rows`). With one open it sees the server's work
    in a prompt, which a server's table without its client leaves out. The TTFT of the demo is the share of a prompt
    where prompts are computed together, and until 2025-06 holds what one of them compiled.
    """
    if row.under_load:
        return _under_load(scenario, row, figures, constants) if figures else {}
    alone: dict[Figure, Callable[[], float]] = {
        "speed": lambda: scenario.speed(constants),
        "ttft": lambda: _first_token(scenario, row, constants),
    }
    return {figure: alone[figure]() for figure in figures}


def _first_token(scenario: Scenario, row: Measured, constants: Mapping[str, float]) -> float:
    if computed_together(scenario):
        return prompt_share(scenario, constants)
    if row.client:
        return float(totals(scenario.prefill_costs, constants).alone)
    if scenario.software.served:
        scenario = dataclasses.replace(scenario, software=scenario.software.without_server())
    compiled = compilations(scenario.batch_size) if scenario.software.odd_prompt_compiles else 0.0
    return float(scenario.ttft(constants)) + compiled * constants["program_one_off"]


def _under_load(
    scenario: Scenario, row: Measured, figures: Sequence[Figure], constants: Mapping[str, float]
) -> dict[Figure, float]:
    """The means that a client with as many open requests as the row's users would report, from one run."""
    system = row.system()
    users, isl, osl = row.requests(system), scenario.prompt_length, scenario.max_generated_tokens
    server = build(
        row.model,
        system,
        words.read_precision(row.precision)[0],
        date=scenario.software.date.isoformat(),
        stack=row.software_stack(system),
        constants=constants,
    )
    metrics = serve_closed(server.pool, users, requests_sent(users, isl, osl), isl, osl)
    return {figure: float(metrics.ttft.mean if figure == "ttft" else 1 / metrics.tpot.mean) for figure in figures}


def _intervals(
    scenario: Scenario, row: Measured, values: Mapping[Figure, float], constants: Mapping[str, float]
) -> dict[Figure, Interval | None]:
    """The interval of each figure; of a month or a year it spans what its first and last day would give."""
    found = {figure: interval(value, figure, fold_of(scenario)) for figure, value in values.items()}
    known = [figure for figure, one in found.items() if one is not None]
    if not known or row.date is None or row.date.first == row.date.last:
        return found
    days = (scenario_of(row, day) for day in (row.date.first, row.date.last))
    ends = [predict(day, row, known, constants) for day in days if day.software != scenario.software]
    for figure in known:
        one, ratios = found[figure], [end[figure] / values[figure] for end in ends]
        if one is not None:
            found[figure] = one.spanning(min([1.0, *ratios]), max([1.0, *ratios]))
    return found


def _assumed(row: Measured, scenario: Scenario) -> Iterable[str]:
    """What the row doesn't say, or says in a word or a range."""
    yield from row.assumed
    for name, value, assumed in (
        ("batch", row.batch, 1),
        ("isl", row.isl, DEFAULT_ISL),
        ("osl", row.osl if row.speed is not None else 1, DEFAULT_OSL),
    ):
        if value is None:
            yield f"{name} {assumed} assumed"
    if row.date is None:
        yield f"software of {scenario.software.date} assumed"
    elif row.date.first != row.date.last:
        yield f"software of {scenario.software.date}, in the middle of {row.date}"
    if not row.stack:
        yield f"stack {scenario.software.stack} assumed"


# Groups


@functools.cache
def _table_models() -> frozenset[str]:
    return frozenset(row.model for row in published.published())


def _groups(row: Measured, scenario: Scenario | None) -> dict[str, str]:
    """The group of each kind that a row is in."""
    if scenario is None:
        return {"all": "all"}
    tokens = scenario.prompt_length
    return {
        "all": "all",
        "stack and period": f"{scenario.software.stack}, {_period(row)}",
        "box": scenario.system.label,
        "model": "in the tables" if scenario.config.name in _table_models() else "not in the tables",
        "batch": "1 user" if scenario.batch_size == 1 else "2 to 8 users" if scenario.batch_size <= 8 else "more users",
        "context": "to 1K" if tokens <= 1024 else "1K to 8K" if tokens <= 8192 else "8K to 32K" if tokens <= 32768
        else "more than 32K",
    }  # fmt: skip


def _period(row: Measured) -> str:
    if row.date is None:
        return "no date"
    day = row.date.middle
    if day <= datetime.date(2025, 5, 31):
        return "to 2025-05"
    return "2025-06 to 2025-10" if day <= datetime.date(2025, 10, 31) else "since 2025-11"


@dataclass(frozen=True)
class Group:
    """Errors of one figure in one group.

    Attributes:
      kind, name: what groups the rows, and which group.
      figure: "speed" or "ttft".
      summary: of the errors of the rows that count.
      coverage: share of the measurements that the intervals hold; None if there are none.
    """

    kind: str
    name: str
    figure: Figure
    summary: ErrorSummary
    coverage: float | None

    def record(self) -> dict[str, Any]:
        """As JSON and CSV have it; errors and coverage are fractions."""
        return {
            "group": self.kind,
            "name": self.name,
            "figure": self.figure,
            "n": self.summary.rows,
            "median": self.summary.median,
            "mean": self.summary.mean,
            "p90": self.summary.p90,
            "max": self.summary.max,
            "bias": self.summary.bias,
            "coverage": self.coverage,
        }


def groups(items: Sequence[Validated]) -> list[Group]:
    """Errors by stack and period, box, model, batch and context, of the rows that count."""
    counted = [item for item in items if item.measured.counts and item.refused is None]
    found = []
    for kind in dict.fromkeys(kind for item in counted for kind in item.groups):
        for name in sorted({item.groups[kind] for item in counted}):
            members = [item for item in counted if item.groups[kind] == name]
            for figure in FIGURES:
                errors = [error for item in members if (error := item.error(figure)) is not None]
                held = [inside for item in members if (inside := item.inside(figure)) is not None]
                if summary := ErrorSummary.of(errors):
                    found.append(Group(kind, name, figure, summary, sum(held) / len(held) if held else None))
    return found
