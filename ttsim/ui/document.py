"""A document in every format: blocks for people, records for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.ui.fit import text_of
from ttsim.ui.html import fragment_of, page_of
from ttsim.ui.table import (
    FORMS,
    Block,
    Figure,
    Form,
    Paragraph,
    Table,
    columns_of,
    is_left,
    occupied,
    plain,
    printable,
    shown,
)


@dataclass(frozen=True)
class Document:
    """What a tool says.

    Attributes:
      title: of a page. blocks: what people read, in order.
      record: what JSON holds; None is the tables' rows.
      rows: what CSV holds, a mapping a line; None is the tables' rows.
    """

    title: str
    blocks: Sequence[Block]
    record: Any = None
    rows: Sequence[Mapping[str, Any]] | None = None

    def render(self, form: Form = "text", width: int | None = None, colour: bool = False) -> str:
        """The document in a format, with an end of line; see `render`."""
        if form == "text":
            return text_of(self.blocks, columns_of(width), colour)
        if form == "markdown":
            return "\n\n".join(filter(None, map(_markdown, self.blocks))) + "\n"
        if form == "csv":
            return _csv(self.records())
        if form == "json":
            return json.dumps(plain(self.values()), indent=2, allow_nan=False) + "\n"
        if form == "html":
            return page_of(self.title, self.blocks)
        raise ValueError(f"unknown output format {form!r}; valid: {', '.join(FORMS)}")

    def _tables(self) -> list[Table]:
        found = (block.table if isinstance(block, Figure) else block for block in self.blocks)
        return [block for block in found if isinstance(block, Table)]

    def fragment(self) -> str:
        """The document as HTML that stands within another page."""
        return fragment_of(self.blocks)

    def values(self) -> Any:
        """What JSON holds."""
        if self.record is not None:
            return self.record
        tables = [{"title": t.title, "rows": t.records(), "notes": list(t.notes)} for t in self._tables()]
        return {"title": self.title, "tables": tables}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """What CSV holds, a mapping a line."""
        if self.rows is not None:
            return self.rows
        tables = self._tables()
        if len(tables) == 1:
            return tables[0].records()
        return [{"table": table.title, **record} for table in tables for record in table.records()]


def render(blocks: Iterable[Block], form: Form = "text", width: int | None = None, colour: bool = False) -> str:
    """Tables, paragraphs and figures in a format.

    Args:
      blocks: in order.
      form: "text", "markdown", "csv", "json" or "html".
      width: columns of text; None asks the terminal (`columns_of`).
      colour: whether text may hold escape codes.

    Raises:
      ValueError: an unknown format.
    """
    blocks = list(blocks)
    title = next((b.title if isinstance(b, Table) else b.content for b in blocks if not isinstance(b, Figure)), "")
    return Document(title, blocks).render(form, width, colour)


# Markdown and CSV


def _markdown(block: Block) -> str:
    if isinstance(block, Paragraph):
        marks = {0: "", 1: "# ", 2: "## "}[block.level]
        return f"{marks}{printable(block.content)}"
    if isinstance(block, Figure):
        return _markdown(block.table) if block.table else ""
    kept = [i for i in occupied(block) if not block.columns[i].bar]
    rows = [[block.columns[i].heading for i in kept], ["---" if is_left(block, i) else "---:" for i in kept]]
    rows += [[shown(row[i], block.columns[i]) for i in kept] for row in block.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    title = f"## {printable(block.title)}\n\n" if block.title else ""
    return title + "\n".join(lines) + "".join(f"\n\n{note}" for note in block.notes_of(kept))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        values = {name: plain(value) for name, value in row.items()}
        writer.writerow({n: " ".join(map(str, v)) if isinstance(v, list) else v for n, v in values.items()})
    return out.getvalue()
