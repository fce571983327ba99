"""A breakdown as text."""

from __future__ import annotations

from ttsim.scenarios.timing import Breakdown
from ttsim.ui.estimate_page import ops_table
from ttsim.ui.table import render


def breakdown_text(part: Breakdown, rows: int = 20) -> str:
    """The largest parts of a breakdown, in a table that fits the terminal."""
    return render([ops_table("total", part, rows)], "text").rstrip("\n")
