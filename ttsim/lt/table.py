"""The job list as plain text, for runs without the screen."""

from __future__ import annotations

from collections.abc import Sequence

from ttsim.lt.state import Job
from ttsim.ui import text

_COLOURS = {"Finished": text.GREEN, "Error": text.RED}


def to_text(jobs: Sequence[Job], colour: bool = False) -> str:
    """One line a job, in the screen's columns."""
    rows = [("Command", "Model", "Device", "Status", "Speed", "TTFT(ms)", "Top-1", "Top-5", "")]
    rows += [
        (
            job.command,
            job.model,
            job.device,
            text.paint(job.status, _COLOURS.get(job.status, text.DIM), colour),
            "" if job.speed is None else f"{job.speed:.1f}",
            "" if job.ttft is None else f"{1e3 * job.ttft:.0f}",
            "" if job.top1 is None else f"{job.top1:.0f}",
            "" if job.top5 is None else f"{job.top5:.0f}",
            job.kind or (job.output if job.status == "Error" else ""),
        )
        for job in jobs
    ]
    lines = text.align([row[:8] for row in rows], left=4)
    return "\n".join(f"{line}  {row[8]}".rstrip() for line, row in zip(lines, rows, strict=True)) + "\n"
