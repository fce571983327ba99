"""The vendor's catalogue as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ttsim.explore.catalogue import Answer
from ttsim.meshes.lookup import get_system
from ttsim.ui.document import Document
from ttsim.ui.table import Cell, Column, Paragraph, Table

_COLUMNS = (
    Column("Model", key="model"),
    Column("Box", key="device"),
    Column("Code", key="implementation", priority=5),
    Column("Users", key="users"),
    Column("Context", "tokens", key="context", priority=2),
    Column("Fits", key="fits"),
    Column("Free", "GB", 1, scale=1e-9, key="free", priority=3),
    Column("Speed", "t/s/u", 1, key="speed"),
    Column("from", "t/s/u", 1, key="speed_low", priority=4),
    Column("to", "t/s/u", 1, key="speed_high", priority=4),
    Column("TTFT", "ms", 0, scale=1e3, key="ttft"),
    Column("from", "ms", 0, scale=1e3, key="ttft_low", priority=4),
    Column("to", "ms", 0, scale=1e3, key="ttft_high", priority=4),
    Column("Top-1", "%", 1, key="top1"),
)


def document(answers: Sequence[Answer], prompt_length: int) -> Document:
    """The answers as a table, with the reasons of those that have none and how often each doubt holds."""
    answered = [answer for answer in answers if not answer.problem]
    fitting = sum(bool(answer.fits) for answer in answered)
    records = [answer.record() for answer in answers]
    rows = [[_cell(column, record) for column in _COLUMNS] for record in records if not record["problem"]]
    doubts = Counter(note for answer in answered for note in answer.notes)
    notes = [f"{count} of them: {note}" for note, count in doubts.most_common()]
    refused = [(a.entry.repository, get_system(a.entry.device).name, a.problem) for a in answers if a.problem]
    columns = (Column("Model"), Column("Box"), Column("Reason", wrap=True))
    blocks: list[Paragraph | Table] = [
        Paragraph("The vendor's catalogue of released models", level=1),
        Paragraph(
            f"{len(answered)} of {len(answers)} pairs answered, {fitting} fit with the list's users and context. "
            f"Speeds are of all users at prompts of {prompt_length} tokens, TTFT of a lone prompt; ranges hold 80 %. "
            "Top-1 is estimated."
        ),
        Table("Catalogue", _COLUMNS, rows, notes=notes),
    ]
    if refused:
        blocks.append(Table("Not answered", columns, refused))
    return Document("The vendor's catalogue", blocks, record=records, rows=records)


def _cell(column: Column, record: dict[str, object]) -> object:
    value = record[column.key]
    if column.key == "device":  # JSON and CSV keep the list's own spelling
        return Cell(value, get_system(str(value)).name)
    if column.key == "fits":
        return Cell(value, "yes" if value else "no", "good" if value else "bad")
    return value
