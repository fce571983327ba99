"""Measurements beside predictions as people read them: row by row, and the errors by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttsim.proof.intervals import COVERAGE
from ttsim.proof.validate import FIGURES, Figure, Group, Validated, groups
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_HEADS = {"speed": "t/s/u", "ttft": "TTFT ms"}
_UNITS = {"speed": 1.0, "ttft": 1e3}
_COLUMNS = (
    Column("Row"),
    Column("Model"),
    Column("Device"),
    Column("Stack", priority=3),
    Column("Date", priority=3),
    Column("Batch", priority=2),
    Column("ISL", priority=2),
    *(
        column
        for figure in FIGURES
        for column in (
            Column(_HEADS[figure], right=True),
            Column("sim.", right=True),
            Column("error", right=True),
            Column("interval", priority=1, right=True),
        )
    ),
)


def document(items: Sequence[Validated]) -> Document:
    """The rows and groups in every format.

    JSON is {"rows": [...], "groups": [...]}; errors and coverage are fractions, times are ms. CSV is the rows.
    """
    predicted = [item for item in items if item.refused is None]
    blocks: list[Block] = []
    if predicted:
        blocks.append(Table("Measured and predicted", _COLUMNS, [_cells(item) for item in predicted]))
    refused = [item for item in items if item.refused is not None]
    if refused:
        columns = (Column("Row"), Column("Model"), Column("Device"), Column("why", wrap=True))
        rows = [(item.measured.row, item.measured.model, item.measured.device, item.refused) for item in refused]
        blocks.append(Table("Refused", columns, rows))
    found = groups(items)
    if found:
        blocks.append(_summary(found, items))
    assumed: dict[str, list[str]] = {}
    for item in predicted:
        for note in item.notes:
            assumed.setdefault(note, []).append(item.measured.row)
    if assumed:
        said = "; ".join(f"{note}: {', '.join(rows)}" for note, rows in assumed.items())
        blocks.append(Paragraph(f"What rows don't say: {said}", style="faint"))
    records = [item.record() for item in items]
    return Document(
        title="Measured and predicted",
        blocks=blocks,
        record={"rows": records, "groups": [group.record() for group in found]},
        rows=[{**record, "notes": "; ".join(record["notes"])} for record in records],
    )


def _cells(item: Validated) -> list[Any]:
    row = item.measured
    parallel = "" if row.parallel in ("", "single") else f" {row.parallel}"
    cells: list[Any] = [
        row.row,
        row.model,
        row.device + parallel,
        row.stack,
        "" if row.date is None else str(row.date),
        row.batch,
        row.isl,
    ]
    for figure in FIGURES:
        cells += _figure(item, figure)
    return cells


def _figure(item: Validated, figure: Figure) -> list[Any]:
    truth, value, found = item.published(figure), item.values.get(figure), item.intervals.get(figure)
    if truth is None or value is None:
        return ["", "", "", ""]
    unit, error = _UNITS[figure], item.error(figure)
    assert error is not None
    style = "good" if abs(error) <= 0.05 else "warn" if abs(error) <= 0.15 else "bad"
    shown = "--" if not item.measured.counts else f"{100 * error:+.1f} %"
    interval = "unknown"
    if found is not None:
        interval = f"{_number(found.low * unit)}..{_number(found.high * unit)}{'' if item.inside(figure) else ' !'}"
    return [_number(truth * unit), _number(value * unit), Cell(error, shown, style), interval]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _summary(found: Sequence[Group], items: Sequence[Validated]) -> Table:
    columns = (
        Column("by"),
        Column("group"),
        Column("figure"),
        Column("n"),
        Column("median", "%", 1),
        Column("mean", "%", 1),
        Column("P90", "%", 1),
        Column("bias", "%", 1, signed=True),
        Column("inside", "%", 0),
    )
    rows = [
        (
            "" if group.kind == "all" else group.kind,
            group.name,
            "TTFT" if group.figure == "ttft" else group.figure,
            group.summary.rows,
            *(100 * value for value in (group.summary.median, group.summary.mean, group.summary.p90)),
            100 * group.summary.bias,
            None if group.coverage is None else 100 * group.coverage,
        )
        for group in found
    ]
    left_out = [item for item in items if not item.measured.counts and item.refused is None]
    refused = sum(item.refused is not None for item in items)
    notes = [f"inside: share of the measurements that the {100 * COVERAGE:.0f} % intervals hold"]
    if refused:
        notes.append(f"{refused} {'row is' if refused == 1 else 'rows are'} refused and in no mean")
    if left_out:
        rows_are = "row is" if len(left_out) == 1 else "rows are"
        notes.append(f"{len(left_out)} {rows_are} left out of the means (--): " + _reasons(left_out))
    return Table("Errors: predicted / measured - 1", columns, rows, notes)


def _reasons(items: Sequence[Validated]) -> str:
    counts: dict[str, int] = {}
    for item in items:
        reason = item.measured.left_out or "a target of continuous integration"
        counts[reason] = counts.get(reason, 0) + 1
    return ", ".join(f"{reason} ({number})" for reason, number in counts.items())
