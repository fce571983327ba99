"""The vendor's catalogue of released models as one answer: does each fit its box, how fast is it, how accurate?

    for answer in catalogue_answers():                  # every pair of model and box
        print(answer.entry.repository, answer.entry.device, answer.speed, answer.problem)
    catalogue_answers(device="P150x4")                  # every model, on my box

A server keeps one pool of cache for all its users: a model fits if the pool holds one user's whole context and a block
for each user beside the weights.
Source of the list: `model_spec.json` of tt-inference-server 0.25.0 (2026-10); of the pool: its `tt_worker.py`.
"""

from __future__ import annotations

import csv
import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.hardware.constants import load_constants
from ttsim.kernels.kernel import UnpricedError
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.identity import describe_identity, get_config
from ttsim.proof.intervals import fold_of, interval, outside
from ttsim.scenarios.capacity import activations_by_length
from ttsim.scenarios.memory import CACHE_BLOCK, kept_bytes, pool_bytes, weight_bytes
from ttsim.scenarios.scenario import MAX_BATCH, Scenario

CATALOGUE_DATE = datetime.date(2026, 10, 1)  # of the release
# Implementations that run one model on all chips of a Galaxy; the others cut it into replicas.
_WHOLE_BOX = ("llama3_70b_galaxy", "qwen3_32b_galaxy", "gpt_oss")
# Replicas of one that runs on the rows of its boxes.
_ROWS = {"deepseek_r1_galaxy": 4}
_REASONS = {"diffusion_gemma": "it generates blocks by diffusion, not token after token"}
# Implementations whose op sequence is the one that is priced.
_PRICED = ("tt_transformers",)


@dataclass(frozen=True)
class Entry:
    """One pair of the catalogue.

    Attributes:
      repository, device: as the catalogue writes them.
      implementation: the code that runs it ("tt_transformers", "gpt_oss", ...).
      kind: "LLM" or "VLM". status: "EXPERIMENTAL", "FUNCTIONAL" or "COMPLETE".
      users: most concurrent users of the box. context: longest sequence, in tokens.
      replicas: that the box is cut into, 0 where the catalogue doesn't say.
      release: of tt-inference-server that the pair was last tested with.
    """

    repository: str
    device: str
    implementation: str
    kind: str
    status: str
    users: int
    context: int
    replicas: int
    release: str

    @property
    def data_parallel(self) -> int:
        """Independent replicas of the model on the box."""
        if self.implementation in _WHOLE_BOX:
            return 1
        return _ROWS.get(self.implementation) or self.replicas or max(1, self.users // MAX_BATCH)

    @property
    def batch_size(self) -> int:
        """Users of one replica, at most the rows of one tile."""
        return max(1, min(MAX_BATCH, self.users // self.data_parallel))


@dataclass(frozen=True)
class Answer:
    """What is known of one pair.

    Attributes:
      entry: the pair.
      fits: whether the weights and the pool fit beside each other; None where that can't be told.
      free: bytes of a chip's DRAM that are left, negative where they are missing.
      speed: tokens per second and user at the catalogue's concurrency. ttft: seconds of a lone prompt.
      speed_range, ttft_range: intervals around them, None where nothing tells their width.
      top1: estimated Top-1 in percent, and its standard deviation by sampling.
      rule: how the model was told.
      notes: what lies outside what the model of the hardware was checked with.
      problem: why there is no answer, or "".
    """

    entry: Entry
    fits: bool | None = None
    free: int | None = None
    speed: float | None = None
    speed_range: tuple[float, float] | None = None
    ttft: float | None = None
    ttft_range: tuple[float, float] | None = None
    top1: float | None = None
    top1_sigma: float | None = None
    rule: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """A flat row for tables: SI units, None where there is no figure."""
        low, high = self.speed_range or (None, None)
        first, last = self.ttft_range or (None, None)
        return {
            "model": self.entry.repository,
            "device": self.entry.device,
            "implementation": self.entry.implementation,
            "users": self.entry.users,
            "context": self.entry.context,
            "fits": self.fits,
            "free": self.free,
            "speed": self.speed,
            "speed_low": low,
            "speed_high": high,
            "ttft": self.ttft,
            "ttft_low": first,
            "ttft_high": last,
            "top1": self.top1,
            "top1_sigma": self.top1_sigma,
            "rule": self.rule,
            "notes": "; ".join(self.notes),
            "problem": self.problem,
        }


@functools.cache
def catalogue_entries() -> tuple[Entry, ...]:
    """Every pair of the catalogue, in its order."""
    text = (resources.files("ttsim.data") / "catalogue.csv").read_text(encoding="utf-8")
    return tuple(
        Entry(
            repository=row["repo"],
            device=row["device"],
            implementation=row["impl"],
            kind=row["type"],
            status=row["status"],
            users=int(row["conc"]),
            context=int(row["ctx"]),
            replicas=int(row["dp"] or 0),
            release=row["version"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def catalogue_answers(
    device: str | None = None,
    *,
    precision: str = "performance",
    prompt_length: int = 128,
    date: datetime.date | str | None = CATALOGUE_DATE,
    constants: Mapping[str, float] | None = None,
    entries: Sequence[Entry] | None = None,
) -> list[Answer]:
    """Answers for the whole catalogue.

    Args:
      device: None answers every pair on its own box; a name answers every model on that box, with the largest
        concurrency of one replica and context that the catalogue has for it.
      precision: a preset, or a text as in `ttsim.simulate`.
      prompt_length: tokens of the prompts of speed and TTFT.
      date: of the software. constants: of the cost model; by default the calibrated ones.
      entries: the pairs, by default all.

    Raises:
      ValueError: there is no such device.
    """
    constants = load_constants() if constants is None else constants
    pairs = list(catalogue_entries() if entries is None else entries)
    if device is not None:
        device = get_system(device).name
        pairs = [
            _on(device, [e for e in pairs if e.repository == name])
            for name in dict.fromkeys(e.repository for e in pairs)
        ]
    return [_answer(entry, precision, prompt_length, date, constants) for entry in pairs]


def _on(device: str, entries: Sequence[Entry]) -> Entry:
    """A model of the catalogue on another box."""
    known = next((e for e in entries if _same_box(e.device, device)), None)
    if known:
        return known
    best = max(entries, key=lambda e: (e.implementation == "tt_transformers", e.context, e.batch_size))
    return Entry(
        repository=best.repository,
        device=device,
        implementation=best.implementation,
        kind=best.kind,
        status="",
        users=best.batch_size,
        context=best.context,
        replicas=1,
        release="",
    )


def _same_box(one: str, other: str) -> bool:
    try:
        return get_system(one) == get_system(other)
    except ValueError:
        return False


def _answer(
    entry: Entry, precision: str, prompt_length: int, date: datetime.date | str | None, constants: Mapping[str, Any]
) -> Answer:
    if entry.implementation in _REASONS:
        return Answer(entry, problem=_REASONS[entry.implementation])
    try:
        config = get_config(entry.repository)
        system = get_system(entry.device, entry.data_parallel)
        scenario, lone = _scenarios(entry.repository, system, precision, entry.batch_size, prompt_length, date)
        free = _free(scenario, entry)
        # What doesn't fit has a price all the same: of the same box with more DRAM.
        speed, ttft = _figures(scenario, lone, constants)
        estimate = estimate_accuracy(config, precision)
    except (ValueError, UnpricedError) as error:
        return Answer(entry, problem=str(error))
    fold = fold_of(scenario)
    around = [interval(speed, "speed", fold), interval(ttft, "ttft", fold)]
    speed_range, ttft_range = (None if found is None else (found.low, found.high) for found in around)
    notes = outside(scenario)
    if entry.implementation not in _PRICED:
        notes = (*notes, f"priced as tt_transformers runs it, not as {entry.implementation} does")
    if entry.context > config.max_position_embeddings:
        notes = (*notes, f"the context is longer than the model's own limit of {config.max_position_embeddings:,}")
    return Answer(
        entry,
        fits=free >= 0,
        free=free,
        speed=speed,
        speed_range=speed_range,
        ttft=ttft,
        ttft_range=ttft_range,
        top1=estimate.top1,
        top1_sigma=estimate.top1_sigma,
        rule=describe_identity(config),
        notes=notes,
    )


@functools.lru_cache(maxsize=512)
def _scenarios(
    model: str, system: System, precision: str, batch: int, prompt_length: int, date: datetime.date | str | None
) -> tuple[Scenario, Scenario]:
    """All users of a replica, and a lone one, whose prompt is not waited for."""
    full = Scenario.of(model, system, precision, batch, prompt_length, 200, date=date)
    return full, Scenario.of(model, system, precision, 1, prompt_length, 200, date=date)


def _figures(scenario: Scenario, lone: Scenario, constants: Mapping[str, Any]) -> tuple[float, float]:
    return scenario.speed(constants), lone.ttft(constants)


def _free(scenario: Scenario, entry: Entry) -> int:
    """Bytes of one chip's DRAM beside weights, trace, activations and a pool for the context and every user's block."""
    layout, precision = scenario.layout, scenario.precision
    cache = pool_bytes(layout, precision, scenario.batch_size, entry.context + CACHE_BLOCK * scenario.batch_size)
    activations = activations_by_length(scenario)(entry.context)
    used = weight_bytes(layout, precision) + cache + int(activations) + kept_bytes(scenario.chip)
    return scenario.chip.dram_bytes - used
