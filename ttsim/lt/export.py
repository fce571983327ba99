"""Finished jobs -> the published tables in markdown, and the sweep's plots and point lists."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttsim.files.writing import write_file, write_files
from ttsim.lt import commands
from ttsim.lt.state import Job
from ttsim.precision.presets import preset
from ttsim.proof import published, published_tables
from ttsim.proof.published_tables import Row

if TYPE_CHECKING:
    from ttsim.explore.front import Kind, Point

# Test of a demo -> the section that its row goes into.
_SECTIONS = {
    "batch-32": ("batch-32", "Short-Context, Batch-32"),
    "DP-4-b32": ("batch-32", "Short-Context, Batch-32"),
    "long-context-64k": ("long-context", "Long-context (64K Tokens)"),
}
_REPLICAS = re.compile(r"DP-(\d+)")


def rows_of(jobs: Sequence[Job]) -> list[Row]:
    """One row a section, model and device, from the jobs that are Finished or ended in an Error, in queue order."""
    rows: dict[tuple[str, str, str, int], Row] = {}
    for job in jobs:
        if job.status not in ("Finished", "Error"):
            continue
        row = _empty_row(job)
        if row is None:
            continue
        key = (row.table, row.model, row.device, row.data_parallel)
        figures = {name: getattr(job, name) for name in ("speed", "ttft", "top1", "top5")}
        known = {name: value for name, value in figures.items() if value is not None}
        rows[key] = dataclasses.replace(rows.get(key, row), **known)
    order = {title: i for i, title in enumerate(["performance", "accuracy", "long-context", "batch-32"])}
    return sorted(rows.values(), key=lambda row: order.get(row.table, len(order)))


def _empty_row(job: Job) -> Row | None:
    try:
        task = commands.task(job.command)
    except ValueError:
        return None
    if task.kind == "report" or task.json is not None or task.test.startswith("ci-"):
        return None
    if task.sweep is not None:
        table, title, precision = f"sweep-{task.sweep}", _sweep_titles()[task.sweep], _sweep_titles()[task.sweep]
    else:
        table, title = _SECTIONS.get(task.test, (task.preset, task.preset.capitalize()))
        precision = task.preset
    replicas = _REPLICAS.search(task.test)
    name = commands.NAMES.get(job.model, job.model)
    return Row(
        table=table,
        title=title,
        model=name,
        device=job.device.upper(),
        data_parallel=int(replicas[1]) if replicas else 1,
        precision=precision,
    )


def _sweep_titles() -> list[str]:
    return list(dict.fromkeys(row.title for row in published.published() if row.table.startswith("sweep-")))


def to_markdown(jobs: Sequence[Job]) -> str:
    """The tables in the published layout; figures that no job gave are N/A.

    Raises:
      ValueError: no job has a row.
    """
    rows = rows_of(jobs)
    if not rows:
        raise ValueError("no finished job that belongs in a table: run demo, accuracy, table or pareto first")
    return "\n".join(map(_not_available, published_tables.to_markdown(rows).splitlines())) + "\n"


def _not_available(line: str) -> str:
    if not line.startswith("|"):
        return line
    cells = line.strip("|").split("|")
    return "|" + "|".join(cell if cell.strip() else f" {'N/A':<{len(cell) - 1}}" for cell in cells) + "|"


def export(jobs: Sequence[Job], path: Path) -> list[str]:
    """Writes the tables, and for sweeps the plots beside them; returns lines that say what was written."""
    said = []
    sweeps = any("-dmf-" in job.command for job in jobs if job.status == "Finished")
    if rows_of(jobs) or not sweeps:  # decoder JSONs have no section in the tables, only points in the plots
        write_file(to_markdown(jobs), path)
        said.append(f"Table written to {path}")
    if sweeps and (written := _plots(jobs, path.parent / "data_plots")):
        said.append(f"Plots written to .svg files in {path.parent / 'data_plots'}/ ({len(written)})")
    return said


def _plots(jobs: Sequence[Job], folder: Path) -> list[Path]:
    written = []
    for (model, device), group in _sweeps(jobs).items():
        points = _points(group)
        if not points:
            continue
        from ttsim.ui.front_page import svg  # heavy: only where there is something to plot

        folder.mkdir(parents=True, exist_ok=True)
        name = commands.NAMES.get(model, model)
        stem = f"{name}_{device.upper()}"
        plot = folder / f"{stem}_pareto.svg"
        title = f"{name} on {device.upper()}"
        points_csv = folder / f"{stem}_point_desc.csv"
        write_files({str(plot): svg(points, title), str(points_csv): _point_list(points)})
        written.append(plot)
    return written


def _sweeps(jobs: Iterable[Job]) -> dict[tuple[str, str], list[Job]]:
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if job.status == "Finished" and "-dmf-" in job.command:
            groups.setdefault((job.model, job.device), []).append(job)
    return groups


def _points(jobs: Sequence[Job]) -> list[Point]:
    """The points of one model on one device: settings with both a speed and an accuracy."""
    from ttsim.explore.front import Point

    by_setting: dict[str, dict[str, Job]] = {}
    for job in jobs:
        by_setting.setdefault(job.setting, {})[job.command.partition("-")[0]] = job
    points: list[Point] = []
    for setting, pair in by_setting.items():
        if {"demo", "accuracy"} <= set(pair):
            demo, accuracy = pair["demo"], pair["accuracy"]
            figures = (demo.speed or 0.0, demo.ttft or 0.0, accuracy.top1 or 0.0, accuracy.top5 or 0.0)
            kind: Kind = "measured" if accuracy.kind == "measured" else "estimated"
            points.append(Point(len(points), setting, preset("performance", "1b"), *figures, kind))
    return points


def _point_list(points: Sequence[Point]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("index", "speed", "top1", "description"))
    for p in points:
        writer.writerow((p.index, round(p.speed, 2), round(p.top1, 2), p.description))
    return out.getvalue()
