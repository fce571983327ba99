"""The published tables: 105 rows of speed, TTFT, Top-1 and Top-5, when each was measured, and markdown in and out.

Source of the figures: tt-metal models/tt_transformers/PERF.md, commit 0354717896 of 2025-05-12 (data/published.md); of
the dates: that file's git history (data/provenance.csv). Times are in seconds; the tables' ms are only in markdown.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import datetime
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.dates import TABLE_DATE
from ttsim.errors import unknown
from ttsim.models.identity import find_known
from ttsim.precision.values import base_model_name

_DATA = pathlib.Path(str(resources.files("ttsim.data")))

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

# Tokens of user 0 in tt_transformers' demo, chat template included, counted with each family's own tokenizer on
# input_data_questions_prefill_128.json and input_data_long_64k.json. Qwen2.5's template adds a default system prompt.
# Phi's count is a lower bound (129 tokens and at least 3 of the template); it is padded to 256 all the same.
_PROMPT_TOKENS = {
    "questions": {"llama": 118, "mistral": 124, "qwen2.5": 139, "phi": 132},
    "long-64k": {"llama": 60_696},
}
PROMPTS = tuple(_PROMPT_TOKENS)

COPIED = "speed and TTFT repeat the Performance table digit for digit: not a run of their own"
COPIED_ACCURACY = (
    "Top-1 and Top-5 repeat the 11B row digit for digit: not a measurement of this model, left out of errors"
)
VISION = "from the vision demo: TTFT holds the image encoder, speed equals the demo's CI target, accuracy is text only"
VISION_DATE = datetime.date(2025, 4, 2)  # of the pull request that brought the figures: tt-metal's branch of that day
HOST_UNTILIZE = "TTFT holds the untilizing of the logits on the host, about 30 ms for Llama, until 2025-03-17"
SHORT_TEST = "accuracy over 128 positions: not comparable with the 511 of the other rows"
SHARED_ACCURACY = "one Top-1 and Top-5 for all devices of the model: a floor for CI, not this device's own measurement"
TG_ACCURACY = "no sign of an accuracy run on TG"
PHI_PROMPT = "prompt length is a lower bound; padded to 256 tokens whatever it is"
LLAMA_PROMPT = "prompt length is that of Llama's tokenizer"


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


@functools.cache
def published() -> tuple[Row, ...]:
    """Returns the 105 published rows, in published order, with dates and notes."""
    with open(_DATA / "provenance.csv", encoding="utf-8") as file:
        records = {
            (r["table"], r["model"], r["device"], int(r["data_parallel"])): r
            for r in csv.DictReader(line for line in file if not line.startswith("#"))
        }
    rows = parse_markdown(_published_text())
    rows = tuple(_with_provenance(r, records[r.table, r.model, r.device, r.data_parallel]) for r in rows)
    dated = collections.Counter((r.table, r.model, r.accuracy_date) for r in rows)
    return tuple(
        dataclasses.replace(r, notes=(*r.notes, SHARED_ACCURACY))
        if r.accuracy_date == TABLE_DATE and dated[r.table, r.model, TABLE_DATE] > 1
        else r
        for r in rows
    )


def _with_provenance(row: Row, record: dict[str, str]) -> Row:
    def first_seen(figure: str) -> datetime.date | None:
        text = record[f"{figure}_date"]
        return datetime.date.fromisoformat(text) if text else None

    def measured(figure: str) -> datetime.date | None:
        # A figure older than the speed beside it was measured again with that speed, and came out the same.
        dates = [d for d in (first_seen(figure), first_seen("speed")) if d]
        return max(dates) if first_seen(figure) else None

    accuracy_date, ttft_date = measured("accuracy"), measured("ttft")
    sweep = row.table.startswith("sweep-")
    short_test = accuracy_date is not None and accuracy_date < TABLE_DATE
    # The sweep came into the table on the day of the change, but its TTFT is 30 ms above the same runs after it.
    host_untilize = ttft_date is not None and (sweep or ttft_date < datetime.date(2025, 3, 17))
    copied = row.table == "accuracy" and row.model == "Mistral-7B"
    vision = row.model == "Llama3.2-90B"
    copied_accuracy = vision and row.table == "performance"
    notes = {
        COPIED: copied,
        COPIED_ACCURACY: copied_accuracy,
        VISION: vision,
        HOST_UNTILIZE: host_untilize,
        SHORT_TEST: short_test,
        TG_ACCURACY: accuracy_date == TABLE_DATE and row.device == "TG",
        PHI_PROMPT: row.model.startswith("Phi"),
        LLAMA_PROMPT: _family(row.model) not in _PROMPT_TOKENS[row.prompt],
    }
    return dataclasses.replace(
        row,
        speed_date=VISION_DATE if vision else first_seen("speed"),
        ttft_date=VISION_DATE if vision else ttft_date,
        accuracy_date=accuracy_date,
        accuracy_positions=128 if short_test else 511,
        copied=copied,
        copied_accuracy=copied_accuracy,
        host_untilize=host_untilize,
        vision=vision,
        notes=tuple(note for note, holds in notes.items() if holds),
    )


def select(
    rows: Iterable[Row],
    table: str | Iterable[str] = (),
    model: str | Iterable[str] = (),
    device: str | Iterable[str] = (),
) -> tuple[Row, ...]:
    """Returns the rows of the given tables, models and devices, in their order; an empty filter lets all through.

    Args:
      rows: where to select from.
      table: ids or titles; "sweep" is all twelve sweep tables.
      model: names as published, as on Hugging Face or short ("8b").
      device: by any of a system's names. "T3K" takes every T3K row, "T3K DP=4" or "T3K (DP=4)" those of four replicas,
        "T3K DP=1" those of one.

    Raises:
      ValueError: a name fits none of `rows`; the message has the nearest ones.
    """
    everything = chosen = tuple(rows)
    filters: tuple[tuple[str, str | Iterable[str], Callable[[str], Callable[[Row], bool]], list[str]], ...] = (
        ("table", table, _in_table, [*(r.table for r in everything), "sweep"]),
        ("model", model, _of_model, [r.model for r in everything]),
        ("device", device, _on_device, [r.device_label for r in everything]),
    )
    for kind, given, named, labels in filters:
        fitting: set[Row] = set()
        names = (given,) if isinstance(given, str) else tuple(given)
        for name in names:
            found = list(filter(named(name), everything))
            if not found:
                raise unknown(kind, name, dict.fromkeys(labels))
            fitting.update(found)
        if names:
            chosen = tuple(r for r in chosen if r in fitting)
    return chosen


def _in_table(name: str) -> Callable[[Row], bool]:
    name = name.strip().lower()
    return lambda row: name in (row.table, row.title.lower()) or (name == "sweep" and row.table.startswith("sweep-"))


def _of_model(name: str) -> Callable[[Row], bool]:
    known = find_known(name)  # by its repository or short name, as everywhere
    names = {base_model_name(name).lower(), known.name.lower() if known else ""}
    return lambda row: row.model.lower() in names


def _on_device(name: str) -> Callable[[Row], bool]:
    from ttsim.meshes.lookup import system_name  # JAX comes with the systems: not for reading the tables

    replicas = re.search(r"\bdp\s*=?\s*(\d+)\s*\)?\s*$", name, re.IGNORECASE)
    device = system_name(name[: replicas.start()] if replicas else name)
    return lambda row: row.device == device and (replicas is None or replicas[1] == str(row.data_parallel))


# Markdown


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
def _published_text() -> str:
    return (_DATA / "published.md").read_text(encoding="utf-8")


@functools.cache
def _published_sweeps() -> dict[str, str]:
    titles = re.findall(r"^## (precision_cfg.*)$", _published_text(), re.MULTILINE)
    return {title: f"sweep-{i}" for i, title in enumerate(titles)}


# Prompt lengths


def prompt_tokens(model: str, prompt: str = "questions") -> tuple[int, int]:
    """Returns (tokens, padded tokens) of user 0's prompt in tt_transformers' demo, chat template included.

    A model of a family without a count gets Llama's, and with "long-64k" every model does: `published()` notes it.

    Args:
      model: a name as published or as on Hugging Face.
      prompt: "questions" (batch-1 and batch-32 demos) or "long-64k".
    """
    if prompt not in PROMPTS:
        raise unknown("prompt", prompt, PROMPTS)
    counts = _PROMPT_TOKENS[prompt]
    tokens = counts.get(_family(model), counts["llama"])
    from ttsim.models.layout import padded_prefill_length  # loads JAX, which reading the tables doesn't need

    return tokens, padded_prefill_length(tokens)


def _family(model: str) -> str:
    name = base_model_name(model).lower()
    return next((family for family in _PROMPT_TOKENS["questions"] if name.startswith(family)), name)
