"""The job list as plain text, for runs without the screen."""

from __future__ import annotations

from collections.abc import Sequence

from ttsim.lt.state import Job
from ttsim.ui.document import render
from ttsim.ui.table import Cell, Column, Table

_STYLES = {"Finished": "good", "Error": "bad"}
_COLUMNS = (
    Column("Command"),
    Column("Model"),
    Column("Device"),
    Column("Status"),
    Column("Speed", digits=1),
    Column("TTFT(ms)", digits=0, scale=1e3),
    Column("Top-1", digits=0),
    Column("Top-5", digits=0),
    Column("", wrap=True, key="kind"),
)


def to_text(jobs: Sequence[Job], colour: bool = False, width: int | None = None) -> str:
    """One line a job, in the screen's columns."""
    rows = [
        (
            job.command,
            job.model,
            job.device,
            Cell(job.status, style=_STYLES.get(job.status, "faint")),
            job.speed,
            job.ttft,
            job.top1,
            job.top5,
            job.kind or (job.output if job.status == "Error" else ""),
        )
        for job in jobs
    ]
    return render([Table("", _COLUMNS, rows)], "text", width, colour)
