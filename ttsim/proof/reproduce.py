"""Every published row beside its simulation, and the errors per table and per device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ttsim.accuracy.estimated import AccuracyEstimate, sampling_sigma
from ttsim.accuracy.results import AccuracyReport
from ttsim.hardware.constants import load_constants
from ttsim.proof import published as tables
from ttsim.proof.published_tables import Row
from ttsim.proof.rows import estimate_row, row_ttft, scenario_of
from ttsim.proof.summary import ErrorSummary

KEYS = (
    "table",
    "model",
    "device",
    "data_parallel",
    "batch_size",
    "prompt_length",
    "precision",
    "speed_published",
    "speed",
    "ttft_published_ms",
    "ttft_ms",
    "top1_published",
    "top5_published",
    "notes",
    "top1",
    "top5",
    "top1_kind",
    "top5_kind",
)
NEVER_FITTED = "vision demo: no constant is fitted to its speed or TTFT"
PREDICTED = "predicted: the table has no figure"
ACCURACY_KINDS = (
    ("estimated", "~", "estimated without weights, ± the sampling error of the test's 511 or 128 positions"),
    ("measured", "=", "measured: weights were run as the device would, ± the sampling error of the positions compared"),
)


@dataclass(frozen=True)
class Reproduction:
    """A published row and its simulation.

    Attributes:
      row: as published.
      prompt_length: tokens of the prompt, before padding.
      speed: simulated tokens per second and user. ttft: simulated seconds.
      accuracy: Top-1 and Top-5; of a row whose table has none, those of the accuracy test at its precision.
      accuracy_kind: whether weights were run for it.
    """

    row: Row
    prompt_length: int
    speed: float
    ttft: float
    accuracy: AccuracyEstimate
    accuracy_kind: Literal["estimated", "measured"] = "estimated"

    @property
    def speed_error(self) -> float | None:
        return self.speed / self.row.speed - 1 if self.row.speed else None

    @property
    def ttft_error(self) -> float | None:
        return self.ttft / self.row.ttft - 1 if self.row.ttft else None

    @property
    def top1_error(self) -> float | None:
        """Points."""
        return None if self.row.top1 is None or self.row.copied_accuracy else self.accuracy.top1 - self.row.top1

    @property
    def top5_error(self) -> float | None:
        """Points."""
        return None if self.row.top5 is None or self.row.copied_accuracy else self.accuracy.top5 - self.row.top5

    @property
    def notes(self) -> tuple[str, ...]:
        notes = list(self.row.notes)
        if self.row.vision:
            notes.append(NEVER_FITTED)
        missing = [name for name, value in (("speed", self.row.speed), ("TTFT", self.row.ttft)) if value is None]
        if missing:
            notes.append(f"{' and '.join(missing)} {PREDICTED}")
        return tuple(notes)

    def record(self) -> dict[str, Any]:
        """The row as JSON and CSV have it: times in ms, missing figures None."""
        row = self.row
        return dict(
            zip(
                KEYS,
                (
                    row.table,
                    row.model,
                    row.device,
                    row.data_parallel,
                    row.batch_size,
                    self.prompt_length,
                    row.precision,
                    row.speed,
                    round(self.speed, 4),
                    None if row.ttft is None else round(1e3 * row.ttft, 4),
                    round(1e3 * self.ttft, 4),
                    row.top1,
                    row.top5,
                    list(self.notes),
                    round(self.accuracy.top1, 2),
                    round(self.accuracy.top5, 2),
                    self.accuracy_kind,
                    self.accuracy_kind,
                ),
                strict=True,
            )
        )


def reproduce(
    rows: Sequence[Row] | None = None,
    constants: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reproduction]:
    """Simulates published rows.

    Args:
      rows: the rows, by default all of `ttsim.proof.published.published()`.
      constants: of the cost model, by default the calibrated ones.
      progress: called with (rows done, rows in all).
    """
    rows = tables.published() if rows is None else rows
    constants = load_constants() if constants is None else constants
    done = []
    for row in rows:
        speed = scenario_of(row, "speed")
        ttft = row_ttft(row, constants)
        done.append(Reproduction(row, speed.prompt_length, speed.speed(constants), ttft, estimate_row(row)))
        if progress:
            progress(len(done), len(rows))
    return done


def with_measurements(items: Sequence[Reproduction], reports: Mapping[int, AccuracyReport]) -> list[Reproduction]:
    """The rows with measured accuracies in place of estimates, {index: report} (see `ttsim.proof.accuracy_rows`)."""
    result = list(items)
    for index, report in reports.items():
        positions = report.protocol.decode * report.windows
        measured = AccuracyEstimate(
            top1=report.top1,
            top5=report.top5,
            top1_sigma=sampling_sigma(report.top1, positions),
            top5_sigma=sampling_sigma(report.top5, positions),
            positions=positions,
            in_range=True,
        )
        result[index] = dataclasses.replace(items[index], accuracy=measured, accuracy_kind="measured")
    return result


_GROUPS: dict[str, Callable[[Reproduction], str]] = {
    "all": lambda item: "all",
    "table": lambda item: "sweep" if item.row.table.startswith("sweep") else item.row.table,
    "device": lambda item: item.row.device_label,
}
Summaries = dict[str, dict[str, dict[str, ErrorSummary]]]


def summaries(items: Sequence[Reproduction]) -> Summaries:
    """Errors of "speed" and "ttft", each for "all", by table and by device: {figure: {group: {name: summary}}}."""
    return _summaries(items, ("speed", "ttft"))


def accuracy_summaries(items: Sequence[Reproduction]) -> Summaries:
    """Errors of "top1" and "top5" in points, estimated - published, grouped as in `summaries`; in-sample."""
    return _summaries(items, ("top1", "top5"))


def _summaries(items: Sequence[Reproduction], figures: Sequence[str]) -> Summaries:
    result: Summaries = {}
    for figure in figures:
        result[figure] = {}
        for group, key in _GROUPS.items():
            errors: dict[str, list[float]] = {}
            for item in items:
                error = getattr(item, f"{figure}_error")
                if error is not None:
                    errors.setdefault(key(item), []).append(error)
            found = {name: ErrorSummary.of(values) for name, values in errors.items()}
            result[figure][group] = {name: summary for name, summary in found.items() if summary}
    return result
