"""Tables of measurements as markdown in the published layout: a row's fields, and tables in and out.

Source of the layout: tt-metal models/tt_transformers/PERF.md. Times are in seconds; the tables' ms are only in
markdown.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import pathlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.errors import unknown

DATA = pathlib.Path(str(resources.files("ttsim.data")))
# id -> title, users per replica, prompt, preset. The last two are "bfp4 MLP FF1+FF3": performance.
# The twelve sweep tables, sweep-0 to sweep-11, come after these; their titles are their precision.
_TABLES = {
    "performance": ("Performance", 1, "questions", "performance"),
    "accuracy": ("Accuracy", 1, "questions", "accuracy"),
    "long-context": ("Long-context (64K Tokens)", 1, "long-64k", "performance"),
    "batch-32": ("Short-Context, Batch-32", 32, "questions", "performance"),
}
_TOP_HEADING = "# Model performance and accuracy"
_SWEEP_HEADING = "# Llama 3 model precision and math fidelity"
_FIELDS = {
    "Top-1 (%)": "top1",
    "Top-5 (%)": "top5",
    "Speed (t/s/u)": "speed",
    "TTFT (ms)": "ttft",
    "avg TTFT (ms)": "ttft",
}


@dataclass(frozen=True)
class Row:
    """One row of a table: what was run, and its figures (None where the table has none).

    A simulated row is `dataclasses.replace(row, speed=..., ttft=...)`.
    """

    table: str  # performance, accuracy, long-context, batch-32, sweep-0 ... sweep-11
    title: str  # the section's heading
    model: str  # as published: Llama3.2-1B
    device: str  # N150, N300, T3K, TG
    data_parallel: int = 1  # replicas the device is cut into
    batch_size: int = 1  # users per replica
    prompt: str = "questions"  # one of PROMPTS
    prompt_tokens: int | None = None  # tokens of user 0, where the caller knows better than `prompt_tokens()`
    precision: str = "performance"  # a preset's name or the precision_cfg/fidelity_cfg text
    speed: float | None = None  # tokens per second and user (t/s/u)
    ttft: float | None = None  # seconds
    top1: float | None = None  # percent
    top5: float | None = None  # percent
    speed_date: datetime.date | None = None  # when the figures were measured, at the latest
    ttft_date: datetime.date | None = None
    accuracy_date: datetime.date | None = None
    accuracy_positions: int = 511  # tokens the accuracy test compares
    copied: bool = False  # speed and TTFT are another table's
    copied_accuracy: bool = False  # Top-1 and Top-5 are another model's
    host_untilize: bool = False  # TTFT measured while the host still untilized the logits
    vision: bool = False  # measured with the vision demo
    notes: tuple[str, ...] = ()

    @property
    def device_label(self) -> str:
        """The device as people write it: "T3K", "T3K DP=4"."""
        return self.device if self.data_parallel == 1 else f"{self.device} DP={self.data_parallel}"

    @property
    def speed_precision(self) -> str:
        """The precision that speed and TTFT were measured with: `precision`, unless they are copied."""
        return "performance" if self.copied else self.precision


def to_markdown(rows: Iterable[Row]) -> str:
    """Writes rows as tables in the published layout: its headings, columns, device cells and units.

    Speed has one decimal, TTFT and accuracies none; a speed or TTFT that is exact with two (29.75) keeps them.
    """
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.title, []).append(row)
    lines = [_TOP_HEADING, ""]
    for title, section in sections.items():
        if section[0].table.startswith("sweep-") and _SWEEP_HEADING not in lines:
            lines += [_SWEEP_HEADING, ""]
        lines += [f"## {title}", "", *_table(section), ""]
    return "\n".join(lines)


def has_accuracy(table: str) -> bool:
    """Whether a table has columns for Top-1 and Top-5."""
    return table not in ("long-context", "batch-32")


def _table(rows: list[Row]) -> Iterator[str]:
    kind = rows[0].table
    accuracy = ("Top-1 (%)", "Top-5 (%)") if has_accuracy(kind) else ()
    columns = ("Model", "Device", *accuracy, "Speed (t/s/u)", "avg TTFT (ms)" if kind == "batch-32" else "TTFT (ms)")
    widths = [17, 11] if kind in ("performance", "accuracy") else [14, 6]
    cells = [[_cell(row, column) for column in columns] for row in rows]
    least = [*widths, *(len(c) for c in columns[2:])]
    widths = [max(w, *(len(line[i]) for line in cells)) for i, w in enumerate(least)]

    def line(texts: Iterable[str]) -> str:
        return "|" + "|".join(f" {text:<{width}} " for text, width in zip(texts, widths, strict=True)) + "|"

    yield line(columns)
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    yield from map(line, cells)


def _cell(row: Row, column: str) -> str:
    if column == "Model":
        return row.model
    if column == "Device":
        return row.device if row.data_parallel == 1 else f"{row.device:<3}  (DP={row.data_parallel})"
    value = getattr(row, _FIELDS[column])
    if value is None:
        return ""
    if _FIELDS[column] in ("top1", "top5"):
        return f"{value:.0f}"
    value, decimals = (value, 1) if column == "Speed (t/s/u)" else (value * 1e3, 0)
    exact_with_two = abs(value - round(value, 2)) < 1e-9 < abs(value - round(value, decimals))
    return f"{value:.{2 if exact_with_two else decimals}f}"


def parse_markdown(text: str) -> tuple[Row, ...]:
    """Reads tables in the published layout; "", "N/A" and "-" are no figure.

    Rows have what the tables say and no more: dates and notes are those of `published()` only. A precision section that
    was not published is sweep-12, sweep-13 and so on.

    Raises:
      ValueError: a table under an unknown heading, an unknown column, or a figure that is no number.
    """
    rows: list[Row] = []
    sweeps = dict(_published_sweeps())
    title = ""
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            title, columns = " ".join(line.lstrip("#").split()), []
        if not line.startswith("|") or not set(line) - set("|-: "):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not columns:
            columns = cells
            _check_columns(columns, number)
            continue
        if len(cells) != len(columns):
            raise ValueError(f"line {number} has {len(cells)} cells under {len(columns)} columns: {line!r}")
        cell = dict(zip(columns, cells, strict=True))
        figures: dict[str, Any] = {
            _FIELDS[c]: _parse_figure(text, c, number) for c, text in cell.items() if c in _FIELDS
        }
        device, data_parallel = _parse_device(cell["Device"], number)
        row = Row(**_section(title, sweeps), model=cell["Model"], device=device, data_parallel=data_parallel)
        rows.append(dataclasses.replace(row, **figures))
    return tuple(rows)


def _section(title: str, sweeps: dict[str, str]) -> dict[str, Any]:
    """Returns the fields of a Row that its section's title decides; a new sweep title is added to `sweeps`."""
    for table, (known, batch_size, prompt, precision) in _TABLES.items():
        if title.lower() == known.lower():
            return {"table": table, "title": known, "batch_size": batch_size, "prompt": prompt, "precision": precision}
    if title.startswith("precision_cfg"):
        return {"table": sweeps.setdefault(title, f"sweep-{len(sweeps)}"), "title": title, "precision": title}
    raise unknown("section", title, [*(known for known, *_ in _TABLES.values()), "precision_cfg = {...}"])


def _check_columns(columns: list[str], number: int) -> None:
    for column in columns:
        if column not in ("Model", "Device", *_FIELDS):
            raise unknown(f"column in line {number}:", column, ("Model", "Device", *_FIELDS))
    for column in ("Model", "Device"):
        if column not in columns:
            raise ValueError(f"the table at line {number} has no column {column}")


def _parse_device(text: str, number: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\w+)(?:\s*\(DP=(\d+)\))?", text)
    if not match:
        raise ValueError(f"line {number}: {text!r} is not a device such as 'T3K' or 'T3K  (DP=4)'")
    return match[1], int(match[2] or 1)


def _parse_figure(text: str, column: str, number: int) -> float | None:
    if text in ("", "-", "N/A"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"line {number}: {column} is not a number: {text!r}") from None
    return value / 1e3 if _FIELDS[column] == "ttft" else value


@functools.cache
def published_text() -> str:
    return (DATA / "published.md").read_text(encoding="utf-8")


@functools.cache
def _published_sweeps() -> dict[str, str]:
    titles = re.findall(r"^## (precision_cfg.*)$", published_text(), re.MULTILINE)
    return {title: f"sweep-{i}" for i, title in enumerate(titles)}
