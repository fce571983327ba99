"""Dated facts about the software: what tt-metal and the stacks above it do from which day on, each with its commit.

The facts are lines of `ttsim/data/facts.csv`; this module says what each one means and finds the line that is in force.
Nothing is interpolated between two lines, and nothing is said about a date before the first.
"""

from __future__ import annotations

import csv
import datetime
import fnmatch
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.dates import parse_date
from ttsim.errors import unknown
from ttsim.precision.presets import base_model_name

SERVER = "vllm"  # runs on top of one of the other stacks
STACKS = ("tt_transformers", "tttv2", "galaxy", SERVER)
ANY = ("*",)


class UnknownFactError(ValueError):
    """The facts don't reach this date, stack, model or box."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the table.

    Attributes:
      name: what it is about (a key of `MEANING`).
      since, until: the first day that it holds, and the first that it doesn't (None: it still holds).
      stacks, models, boxes: for whom; ("*",) is all.
      value: as written.
      source: the commit, pull request or file.
    """

    name: str
    since: datetime.date
    until: datetime.date | None
    stacks: tuple[str, ...]
    models: tuple[str, ...]
    boxes: tuple[str, ...]
    value: str
    source: str

    def fits(self, date: datetime.date, place: Place) -> bool:
        """Whether it holds there and then; what a server carries is older than the server."""
        day = date if self.stacks == (SERVER,) else date - place.lag
        return (
            self.since <= day
            and (self.until is None or day < self.until)
            and _named(self.stacks, place.stacks)
            and (self.models == ANY or any(fnmatch.fnmatchcase(place.model, each.casefold()) for each in self.models))
            and _named(self.boxes, place.boxes)
        )

    @property
    def rank(self) -> tuple[Any, ...]:
        """Of two facts that fit, the one with the higher rank is in force."""
        boxes = self.boxes != ANY and not all(name.islower() for name in self.boxes)  # families are in lower case
        return (self.stacks == (SERVER,), self.since, self.models != ANY, boxes)


def _named(names: Sequence[str], wanted: Iterable[str]) -> bool:
    return names == ANY or any(each in names for each in wanted)


@dataclass(frozen=True)
class Place:
    """Where the software runs: what facts may depend on beside the date.

    Attributes:
      stacks: the stack, behind "vllm" if a server runs it.
      model: base name in lower case, "" for none.
      boxes: what tt_transformers calls the chips of one replica ("T3K"), and their family ("wormhole").
      lag: how much older tt-metal is than the day that is asked about (the fact `server_lag`).
    """

    stacks: tuple[str, ...]
    model: str
    boxes: tuple[str, ...]
    lag: datetime.timedelta = datetime.timedelta(0)

    @classmethod
    def of(cls, stack: str = "tt_transformers", model: str = "", boxes: Sequence[str] = ()) -> Place:
        """A place from names.

        Args:
          stack: one of `STACKS`, or two of them, the server first ("vllm galaxy"); "vllm" alone serves tt_transformers.
          model: any spelling that `base_model_name` reads.
        """
        names = stack.split()
        for name in names:
            if name not in STACKS:
                raise unknown("stack", name, STACKS)
        if not names or names == [SERVER]:
            names = [*names, "tt_transformers"]
        return cls(tuple(names), base_model_name(model).casefold() if model else "", tuple(boxes))


# How a value is read, by fact, and what it says.
def _flag(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _lengths(text: str) -> frozenset[int]:
    return frozenset() if text == "none" else frozenset(map(int, text.split()))


def _grid(text: str) -> tuple[int, int]:
    rows, columns = map(int, text.split("x"))
    return rows, columns


def _sampler(text: str) -> tuple[str, int]:
    """("argmax", most users whose argmax the device takes) or ("topk", 32)."""
    kind, _, users = text.partition(" ")
    return {"argmax": "argmax", "topk": "topk"}[kind], int(users or 32)


MEANING: dict[str, tuple[Callable[[str], Any], str]] = {
    "dispatch_gap": (float, "seconds between the end of a traced kernel and the start of the next, on Wormhole"),
    "sampler": (_sampler, "the next token: argmax on the device up to so many users (host beyond), or top-k"),
    "host_argmax": (str, "reading logits and taking their argmax on the host: slow, fast"),
    "topk_power_of_two": (_flag, "top-k runs on many cores only if its width is a power of two"),
    "topk_padded": (_flag, "logits are padded to a power of two before top-k"),
    "vocabulary_join": (_flag, "gathered logits whose shards are not whole tiles are joined anew"),
    "async_read": (_flag, "a step is submitted before the token of the last one is read"),
    "host_per_chip": (_flag, "each chip of a replica takes the host time in a step of decode"),
    "dynamic_chunks": (_flag, "flash decode takes small chunks while the context is short"),
    "sdpa_merge": (str, "how flash decode merges its cores' results: series, fused series, fused tree"),
    "fused_rope_cache": (_flag, "Q and K are rotated, and K and V cached, by one op each"),
    "readers_per_bank": (int, "cores that read one DRAM bank in a DRAM-sharded matmul"),
    "tf32_reload": (_flag, "matmuls reload float32 sums between blocks of K as TF32"),
    "matmul_spills": (str, "format of sums between blocks of K of a DRAM-sharded matmul with float32 registers"),
    "prefetcher": (str, "weights stream into L1 beside other ops: no, on request, always"),
    "server_lag": (int, "days that the tt-metal of a server is older than the server"),
    "slots": (int, "users that the program is made for, active or not"),
    "collectives": (str, "generation of the collectives: legacy, fabric, tuned fabric"),
    "links": (int, "links that a collective uses between two neighbours"),
    "topology": (str, "how the chips of a replica are connected: linear, ring"),
    "traced_lengths": (_lengths, "padded prompt lengths that run from a trace"),
    "prefix_cache": (_flag, "the cache that an earlier prompt has left of a prefix is used"),
    "traced_prefix": (_flag, "what a prefix leaves of a prompt runs from a trace, where its length does"),
    "traced_chunks": (_flag, "every chunk of a prompt runs from a trace, whatever its length"),
    "prefill_padding": (str, "how prompts are padded: 2048, 1024 (least power of two or multiple), traced"),
    "batched_prefill": (_flag, "prompts of one padded length are computed together"),
    "device_untilize": (_flag, "prefill's logits are untilized on the device"),
    "odd_prompt_compiles": (_flag, "a prompt unlike the warm-up's compiles while it is timed"),
    "prefill_chunk": (int, "thousands of tokens of one pass of prefill, where it departs from the table of 2025-05"),
    "throttled_matmul": (float, "share of their speed that matmuls on more than 48 cores are held to"),
    "minimal_matmul": (str, "prefill's matmuls run on minimal_matmul: no, yes (QKV and W2), or from this length on"),
    "attention_ways": (int, "columns of a Galaxy that share prefill's attention"),
    "reduce_workers": (int, "workers a link of a Galaxy's reduce-scatter in prefill"),
    "wo_gather": (int, "longest prompt whose wo is summed by gathering whole copies"),
    "fused_gather_matmul": (int, "from this length on w2 is one op with the gather of its input; 0 is never"),
    "sdpa_cores": (int, "cores of the Galaxy's flash decode"),
    "sdpa_tables_in_l1": (_flag, "flash decode reads positions and page table from L1"),
    "mlp_weights": (str, "format of the Galaxy's MLP weights: preset, bf16"),
    "scheduler": (str, "rules of the server's scheduler: v0, v1, plugin"),
    "server_plugin": (_flag, "the server is vLLM with a plugin, not a fork of it"),
    "server": (str, "generation of the server's own work on a prompt: early, first, second"),
    "galaxy_server": (str, "the server's own work on a decode step of the Galaxy's code: slow, fast"),
    "topk_time": (float, "seconds of the Galaxy's top-k over 16,384 columns"),
    "compute_grid": (_grid, "rows x columns of cores that the firmware leaves"),
    "release": (str, "a release of tt-metal"),
}


@functools.cache
def facts() -> tuple[Fact, ...]:
    """All facts, in the order of the table."""
    text = resources.files("ttsim.data").joinpath("facts.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Fact(
            name=row["fact"],
            since=datetime.date.fromisoformat(row["since"]),
            until=datetime.date.fromisoformat(row["until"]) if row["until"] else None,
            stacks=tuple(row["stacks"].split()),
            models=tuple(row["models"].split()),
            boxes=tuple(row["boxes"].split()),
            value=row["value"],
            source=row["source"],
        )
        for row in rows
    )


@functools.cache
def _by_name() -> dict[str, tuple[Fact, ...]]:
    found: dict[str, list[Fact]] = {name: [] for name in MEANING}
    for fact in facts():
        found[fact.name].append(fact)
    return {name: tuple(sorted(lines, key=lambda fact: fact.rank)) for name, lines in found.items()}


@functools.lru_cache(maxsize=65536)
def find(name: str, date: datetime.date, place: Place) -> Fact | None:
    """The fact of this name that is in force, None if none is."""
    if name not in MEANING:
        raise unknown("fact", name, MEANING)
    return next((fact for fact in reversed(_by_name()[name]) if fact.fits(date, place)), None)


def value(name: str, date: datetime.date, place: Place) -> Any:
    """What the fact in force says, read as `MEANING` says.

    Raises:
      UnknownFactError: none is in force: the date is before the first, or the stack doesn't have it.
    """
    fact = find(name, date, place)
    if fact is None:
        first = min((each.since for each in _by_name()[name]), default=None)
        raise UnknownFactError(
            f"{name} of {' on '.join(place.stacks)} on {date} is not known: the facts begin on {first}"
        )
    return MEANING[name][0](fact.value)


def value_or(name: str, default: Any, date: datetime.date, place: Place) -> Any:
    """What the fact in force says, or a default where none is."""
    return default if find(name, date, place) is None else value(name, date, place)


def in_force(date: datetime.date, place: Place) -> tuple[Fact, ...]:
    """The fact in force of each name, in the order of `MEANING`."""
    found = (find(name, date, place) for name in MEANING if name != "release")
    return tuple(fact for fact in found if fact is not None)


def newest() -> datetime.date:
    """The day of the newest fact about tt-metal: what changed after it is not known."""
    return max(fact.since for fact in facts() if fact.stacks != (SERVER,))


def staleness(date: datetime.date) -> str | None:
    """What a report of a date past the newest fact must say, None for an older date."""
    if date <= newest():
        return None
    return f"software of {date} is newer than the newest fact ({newest()}): what changed since is not known"


def date_of(text: datetime.date | str | None) -> datetime.date:
    """A day from a day, a text in ISO format, a release of tt-metal ("v0.59.0"), or None (the published tables').

    Raises:
      ValueError: it is no day and no known release.
    """
    if isinstance(text, str) and text.strip().lower().startswith("v"):
        releases = {fact.value: fact.since for fact in _by_name()["release"]}
        if text.strip().lower() not in releases:
            raise unknown("release", text.strip(), releases)
        return releases[text.strip().lower()]
    return parse_date(text)


# What people read


def table(date: datetime.date, place: Place) -> list[tuple[str, str, str, str, str]]:
    """(fact, value, since, meaning, source) of every fact in force."""
    return [
        (fact.name, fact.value, fact.since.isoformat(), MEANING[fact.name][1], fact.source)
        for fact in in_force(date, place)
    ]


def describe(date: datetime.date, place: Place) -> str:
    """The facts in force as text: a heading, one line each, and what is not known."""
    rows = table(date, place)
    name_width, value_width = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    where = " ".join(filter(None, (place.model, f"on {place.boxes[0]}" if place.boxes else "")))
    lines = [f"{' on '.join(place.stacks)} of {date}{', ' + where if where else ''}"]
    for name, text, since, meaning, source in rows:
        lines.append(f"  {name:<{name_width}}  {text:<{value_width}}  since {since}  {meaning} [{source}]")
    return "\n".join([*lines, *filter(None, [staleness(date)])]) + "\n"
