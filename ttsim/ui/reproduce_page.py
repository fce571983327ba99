"""Published rows beside their simulation as people read them, with the errors by table and by device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from ttsim.proof.published_tables import has_accuracy, to_markdown
from ttsim.proof.reproduce import ACCURACY_KINDS, PREDICTED, Reproduction, Summaries, accuracy_summaries, summaries
from ttsim.proof.summary import ErrorSummary
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_COLUMNS = (
    Column("Model"),
    Column("Device"),
    Column("t/s/u", right=True),
    Column("sim.", right=True),
    Column("error", right=True),
    Column("TTFT ms", right=True),
    Column("sim.", right=True),
    Column("error", right=True),
    Column("Top-1", priority=1, right=True),
    Column("sim.", priority=1, right=True),
    Column("Top-5", priority=2, right=True),
    Column("sim.", priority=2, right=True),
    Column("", priority=3, key="notes"),
)


def document(items: Sequence[Reproduction]) -> Document:
    """The rows in every format.

    JSON is {"rows": [...], "summary": {figure: {group: {name: statistics}}}}, all in-sample: errors of speed and ttft
    are fractions, those of top1 and top5 are points.
    """
    notes: dict[str, int] = {}
    blocks: list[Block] = [
        Table(title, _COLUMNS, [_cells(item, notes) for item in group]) for title, group in _by_title(items)
    ]
    times, tops = summaries(items), accuracy_summaries(items)
    blocks.append(_summary("Errors: simulated / published - 1, in %", times, 100, []))
    tail = ["models left out of the fit have larger errors: ttsim calibrate --accuracy"]
    blocks.append(_summary("Top-1 and Top-5: simulated - published, in points, in-sample", tops, 1, tail))
    blocks += _notes(items, notes)
    records = [item.record() for item in items]
    summary = {
        figure: {group: {k: dataclasses.asdict(v) for k, v in named.items()} for group, named in groups.items()}
        for figure, groups in {**times, **tops}.items()
    }
    rows = [{**record, "notes": "; ".join(record["notes"])} for record in records]
    return Document("Published rows and their simulation", blocks, {"rows": records, "summary": summary}, rows)


def published_layout(items: Sequence[Reproduction]) -> str:
    """Markdown tables in the published layout, with simulated speed and TTFT and estimated Top-1 and Top-5."""
    return to_markdown(
        dataclasses.replace(i.row, speed=i.speed, ttft=i.ttft, top1=i.accuracy.top1, top5=i.accuracy.top5)
        for i in items
    )


def _by_title(items: Sequence[Reproduction]) -> Iterable[tuple[str, list[Reproduction]]]:
    groups: dict[str, list[Reproduction]] = {}
    for item in items:
        groups.setdefault(item.row.title, []).append(item)
    return groups.items()


def _cells(item: Reproduction, notes: dict[str, int]) -> tuple[Any, ...]:
    row = item.row
    marks = [str(notes.setdefault(note, len(notes) + 1)) for note in item.notes if PREDICTED not in note]

    def error(value: float | None) -> Cell:
        if value is None:
            return Cell(value, "")
        style = "good" if abs(value) <= 0.05 else "warn" if abs(value) <= 0.15 else "bad"
        return Cell(value, f"{100 * value:+.1f} %", style)

    def simulated(value: float, published: float | None, digits: int) -> Cell:
        missing = published is None
        return Cell(value, f"{value:.{digits}f}{'*' * missing}", "faint" * missing)

    accuracy: tuple[Any, ...] = ("",) * 4
    if has_accuracy(row.table):
        a, mark = item.accuracy, next(mark for kind, mark, _ in ACCURACY_KINDS if kind == item.accuracy_kind)
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


_STATISTICS = ("rows", "median", "mean", "p90", "max", "bias")


def _summary(title: str, result: Summaries, scale: float, notes: Sequence[str]) -> Table:
    """Statistics of two figures, for all rows, by table and by device."""
    names = {"speed": "speed", "ttft": "TTFT", "top1": "Top-1", "top5": "Top-5"}
    columns = [Column("", key="group"), Column("", key="name")]
    for figure in result:
        columns += [
            Column(f"{names[figure]} {'P90' if s == 'p90' else s}", "", None if s == "rows" else 1, 1, scale=scale)
            if s in ("p90", "max")
            else Column(f"{names[figure]} {s}", "", None if s == "rows" else 1, scale=1 if s == "rows" else scale)
            if s != "bias"
            else Column(f"{names[figure]} bias", "", 1, 2, scale=scale, signed=True)
            for s in _STATISTICS
        ]
    rows = []
    for group in ("all", "table", "device"):
        for name in dict.fromkeys(name for figure in result for name in result[figure].get(group, {})):
            cells = [_statistics(result[figure][group].get(name)) for figure in result]
            rows.append(("" if group == "all" else group, name, *(value for each in cells for value in each)))
    if not rows:
        return Table(title, (Column(""),), [("no row has one",)])
    return Table(title, columns, rows, notes)


def _statistics(summary: ErrorSummary | None) -> list[Any]:
    return [None if summary is None else getattr(summary, name) for name in _STATISTICS]


def _notes(items: Sequence[Reproduction], notes: dict[str, int]) -> list[Block]:
    blocks: list[Block] = [Paragraph("Notes", level=2)] if notes else []
    blocks += [Paragraph(f"[{number}] {note}") for note, number in notes.items()]
    if any("predicted" in note for item in items for note in item.notes):
        blocks.append(Paragraph(f"*  {PREDICTED}"))
    kinds = {item.accuracy_kind for item in items if has_accuracy(item.row.table)}
    return blocks + [Paragraph(f"{mark}  {note}") for kind, mark, note in ACCURACY_KINDS if kind in kinds]
