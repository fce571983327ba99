"""Command lines that a reader copies: with continued lines in text, whole in markdown, in a frame on a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ttsim.explore.launch import continued
from ttsim.ui.table import Block, Column, Figure, Paragraph, Table

_PAGE_WIDTH = 100  # characters of a page's frame


def launches(commands: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> list[Block]:
    """How choices (name, command) are started on hardware; nothing if there are none."""
    if not commands:
        return []
    table = Table("", (Column("system"), Column("command", wrap=True)), commands)

    def lines(width: int) -> list[str]:
        return [
            line
            for name, command in commands
            for line in (f"{name}:", *(f"  {part}" for part in continued(command, width - 2)))
        ]

    shown = "".join(
        f"<p>{escape(name)}</p><pre>{escape(chr(10).join(continued(command, _PAGE_WIDTH)))}</pre>"
        for name, command in commands
    )
    return [
        Paragraph("To start it on hardware", level=2),
        Figure(lines, shown, table),
        *(Paragraph(note, "faint") for note in notes),
    ]
