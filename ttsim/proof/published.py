"""The published tables: 105 rows of speed, TTFT, Top-1 and Top-5, when each was measured, and of what prompt.

Source of the figures: tt-metal models/tt_transformers/PERF.md, commit 0354717896 of 2025-05-12 (data/published.md); of
the dates: that file's git history (data/provenance.csv).
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import datetime
import functools
import re
from collections.abc import Callable, Iterable

from ttsim.dates import TABLE_DATE
from ttsim.errors import unknown
from ttsim.models.identity import find_known
from ttsim.precision.presets import base_model_name
from ttsim.proof.published_tables import DATA, Row, parse_markdown, published_text

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


@functools.cache
def published() -> tuple[Row, ...]:
    """Returns the 105 published rows, in published order, with dates and notes."""
    with open(DATA / "provenance.csv", encoding="utf-8") as file:
        records = {
            (r["table"], r["model"], r["device"], int(r["data_parallel"])): r
            for r in csv.DictReader(line for line in file if not line.startswith("#"))
        }
    rows = parse_markdown(published_text())
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
    from ttsim.models.grids import padded_prefill_length  # loads JAX, which reading the tables doesn't need

    return tokens, padded_prefill_length(tokens)


def _family(model: str) -> str:
    name = base_model_name(model).lower()
    return next((family for family in _PROMPT_TOKENS["questions"] if name.startswith(family)), name)
