"""Every published row beside its simulation, and the errors per table and per device."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ttsim.accuracy.estimated import AccuracyEstimate, estimate_row, sampling_sigma
from ttsim.accuracy.results import AccuracyReport
from ttsim.hardware.constants import load_constants
from ttsim.proof import published as tables
from ttsim.proof.published import Row
from ttsim.proof.rows import row_ttft, scenario_of
from ttsim.proof.summary import ErrorSummary
from ttsim.ui import text

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
NOT_COMPARED = "vision demo: simulated as text only, left out of the errors of speed and TTFT"
PREDICTED = "predicted: the table has no figure"
_ACCURACY_KINDS = (
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
    def compared(self) -> bool:
        """Whether the row counts in the errors of speed and TTFT; its accuracy is text only and always counts."""
        return not self.row.vision

    @property
    def speed_error(self) -> float | None:
        return self.speed / self.row.speed - 1 if self.row.speed else None

    @property
    def ttft_error(self) -> float | None:
        return self.ttft / self.row.ttft - 1 if self.row.ttft else None

    @property
    def top1_error(self) -> float | None:
        """Points."""
        return None if self.row.top1 is None else self.accuracy.top1 - self.row.top1

    @property
    def top5_error(self) -> float | None:
        """Points."""
        return None if self.row.top5 is None else self.accuracy.top5 - self.row.top5

    @property
    def notes(self) -> tuple[str, ...]:
        notes = list(self.row.notes)
        if not self.compared:
            notes.append(NOT_COMPARED)
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
    return _summaries([item for item in items if item.compared], ("speed", "ttft"))


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


# Formats


def to_json(items: Sequence[Reproduction]) -> str:
    """{"rows": [...], "summary": {figure: {group: {name: statistics}}}}, all in-sample.

    Errors of speed and ttft are fractions; those of top1 and top5 are points.
    """
    summary = {**_plain(summaries(items)), **_plain(accuracy_summaries(items))}
    return json.dumps({"rows": [item.record() for item in items], "summary": summary}, indent=2) + "\n"


def _plain(result: Summaries) -> dict[str, Any]:
    return {
        figure: {group: {k: dataclasses.asdict(v) for k, v in named.items()} for group, named in groups.items()}
        for figure, groups in result.items()
    }


def to_csv(items: Sequence[Reproduction]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, KEYS, lineterminator="\n")
    writer.writeheader()
    for item in items:
        writer.writerow({**item.record(), "notes": "; ".join(item.notes)})
    return out.getvalue()


def to_markdown(items: Sequence[Reproduction]) -> str:
    """The tables in the published layout, with simulated speed and TTFT and estimated Top-1 and Top-5."""
    return tables.to_markdown(
        dataclasses.replace(i.row, speed=i.speed, ttft=i.ttft, top1=i.accuracy.top1, top5=i.accuracy.top5)
        for i in items
    )


_HEADER = (
    "Model",
    "Device",
    "t/s/u",
    "sim.",
    "error",
    "TTFT ms",
    "sim.",
    "error",
    "Top-1",
    "sim.",
    "Top-5",
    "sim.",
    "",
)


def to_text(items: Sequence[Reproduction], colour: bool = False) -> str:
    """Aligned tables of at most 120 columns: published, simulated or estimated, error; then errors and notes."""
    lines: list[str] = []
    notes: dict[str, int] = {}
    for title, group in _by_title(items):
        lines += ["", *(text.paint(line, text.BOLD, colour) for line in textwrap.wrap(title, 118))]
        rows: list[tuple[str, ...]] = [_HEADER]
        rows += [_text_row(item, notes, colour) for item in group]
        header, *body = text.align(rows, left=2)
        lines += [text.paint(header, text.DIM, colour), *body]
    lines += ["", text.paint("Errors: simulated / published - 1", text.BOLD, colour)]
    lines += _text_summary(items, colour)
    lines += ["", text.paint("Top-1 and Top-5: simulated - published, in points, in-sample", text.BOLD, colour)]
    lines += _text_accuracy_summary(items, colour)
    if notes:
        lines += ["", text.paint("Notes", text.BOLD, colour)]
        for note, number in notes.items():
            lines += textwrap.wrap(f"[{number}] {note}", 118, subsequent_indent="    ")
    if any("predicted" in n for item in items for n in item.notes):
        lines.append("  *  " + PREDICTED)
    kinds = {item.accuracy_kind for item in items if tables.has_accuracy(item.row.table)}
    lines += [f"  {mark}  {note}" for kind, mark, note in _ACCURACY_KINDS if kind in kinds]
    return "\n".join(lines).lstrip("\n") + "\n"


def _by_title(items: Sequence[Reproduction]) -> Iterable[tuple[str, list[Reproduction]]]:
    groups: dict[str, list[Reproduction]] = {}
    for item in items:
        groups.setdefault(item.row.title, []).append(item)
    return groups.items()


def _text_row(item: Reproduction, notes: dict[str, int], colour: bool) -> tuple[str, ...]:
    row = item.row
    marks = [str(notes.setdefault(note, len(notes) + 1)) for note in item.notes if PREDICTED not in note]

    def error(value: float | None) -> str:
        if value is None:
            return ""
        if not item.compared:
            return "--"
        size = abs(value)
        code = text.GREEN if size <= 0.05 else text.YELLOW if size <= 0.15 else text.RED
        return text.paint(f"{100 * value:+.1f} %", code, colour)

    def simulated(value: float, published: float | None, digits: int) -> str:
        mark = "*" if published is None else " "
        return text.paint(f"{value:.{digits}f}{mark}", text.DIM, colour and published is None)

    accuracy = ("",) * 4
    if tables.has_accuracy(row.table):
        a, mark = item.accuracy, next(mark for kind, mark, _ in _ACCURACY_KINDS if kind == item.accuracy_kind)
        accuracy = (
            "" if row.top1 is None else f"{row.top1:.0f}",
            f"{mark}{a.top1:.1f}±{a.top1_sigma:.1f}",
            "" if row.top5 is None else f"{row.top5:.0f}",
            f"{mark}{a.top5:.1f}±{a.top5_sigma:.1f}",
        )
    return (
        row.model,
        row.device_label,
        "" if row.speed is None else _published(row.speed, 1),
        simulated(item.speed, row.speed, 1),
        error(item.speed_error),
        "" if row.ttft is None else _published(1e3 * row.ttft, 0),
        simulated(1e3 * item.ttft, row.ttft, 0),
        error(item.ttft_error),
        *accuracy,
        f"[{','.join(marks)}]" if marks else "",
    )


def _published(value: float, digits: int) -> str:
    """A published figure with the digits of its table, or with the two that it has."""
    return f"{value:.{digits}f}" if abs(value - round(value, digits)) < 1e-6 else f"{value:.2f}"


def _text_summary(items: Sequence[Reproduction], colour: bool) -> list[str]:
    result = summaries(items)
    rows: list[tuple[str, ...]] = [("", "", *("rows", "median", "mean", "P90", "max", "bias") * 2)]
    for group in ("all", "table", "device"):
        names = dict.fromkeys([*result["speed"][group], *result["ttft"][group]])
        for name in names:
            cells = []
            for figure in ("speed", "ttft"):
                summary = result[figure][group].get(name)
                cells += [""] * 6 if summary is None else _summary_cells(summary)
            rows.append(("" if group == "all" else group, name, *cells))
    header, *body = text.align(rows, left=2)
    over = " " * (header.find("rows")) + "speed" + " " * (header.rfind("rows") - header.find("rows") - 5) + "TTFT"
    left_out = sum(1 for item in items if not item.compared)
    tail = [f"left out: {left_out} rows of the vision demo"] if left_out else []
    return [text.paint(over, text.DIM, colour), text.paint(header, text.DIM, colour), *body, *tail]


def _text_accuracy_summary(items: Sequence[Reproduction], colour: bool) -> list[str]:
    result = accuracy_summaries(items)
    rows: list[Sequence[str]] = [("", "", *("rows", "median", "mean", "max", "bias") * 2)]
    for group, named in result["top1"].items():
        for name in named:
            cells = [cell for figure in result.values() for cell in _point_cells(figure[group][name])]
            rows.append(("" if group == "all" else group, name, *cells))
    if len(rows) == 1:
        return ["no row has an accuracy"]
    header, *body = text.align(rows, left=2)
    over = " " * header.find("rows") + "Top-1" + " " * (header.rfind("rows") - header.find("rows") - 5) + "Top-5"
    tail = "models left out of the fit have larger errors: scripts/calibrate_accuracy.py"
    return [text.paint(over, text.DIM, colour), text.paint(header, text.DIM, colour), *body, tail]


def _point_cells(summary: ErrorSummary) -> list[str]:
    values = (summary.median, summary.mean, summary.max)
    return [str(summary.rows), *(f"{value:.1f}" for value in values), f"{summary.bias:+.1f}"]


def _summary_cells(summary: ErrorSummary) -> list[str]:
    values = (summary.median, summary.mean, summary.p90, summary.max)
    return [str(summary.rows), *(f"{100 * value:.1f} %" for value in values), f"{100 * summary.bias:+.1f} %"]


FORMATS: dict[str, Callable[[Sequence[Reproduction]], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
}
