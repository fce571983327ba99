"""How the vendor's server starts a model on a box: engines, lanes, slots and cache, by the settings that it ships.

Several replicas of a model are served in one of three ways:

    gathered   V0: one scheduler with one queue and one pool of blocks for all replicas; their steps are one program
    ranks      V1: an engine for each replica, with its own scheduler and pool
    lanes      V1, models whose generator takes all replicas: one process, a queue and a pool each, all in one mode

Source: tt-inference-server release_model_spec.json 0.20.0 (`ttsim/data/servers.csv`); tenstorrent/vllm
worker/tt_worker.py (2025), get_num_available_blocks_tt; vllm-tt-plugin e3fc849 (2026), worker.py and platform.py.
"""

from __future__ import annotations

import csv
import datetime
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from ttsim.meshes.systems import Topology
from ttsim.scenarios.scenario import MAX_BATCH, Scenario
from ttsim.serving.policy import policy_of, scheduler

Kind = Literal["one engine", "gathered", "ranks", "lanes"]

_POOL_TOKENS = 131_072  # max_tokens_all_users, but for:
_POOL_EXCEPTIONS = (  # (model, chips at most, tokens until V1, tokens since)
    (r"llama-?3\.1-8b|qwen3-8b", 1, 65_536, 32_768),
    (r"mistral-7b|gemma-3-4b", 1, 65_536, 65_536),
    (r"gemma-3-4b|qwen2\.5-14b", 2, 65_536, 65_536),
    (r"llama-?3\.2-90b|qwen2\.5-vl-72b", 8, 65_536, 65_536),
    (r"deepseek-r1-0528", 1_000, 32_768, 32_768),
)
# Models whose generator takes several replicas into one process.
_LANE_MODELS = re.compile(r"llama-?3.*70b|qwen3-32b|gpt-oss|gemma-3-27b", re.IGNORECASE)
_GALAXY_CODE_SINCE = datetime.date(2025, 7, 1)  # llama3_70b_galaxy in the server


@dataclass(frozen=True)
class Spec:
    """A line of the vendor's settings.

    Attributes:
      impl: the code that runs the model. replicas: of the model on the box. slots: of a replica.
      lanes: in which one replica's slots are cut. context: longest request. block: positions of a cache block.
      pool: tokens of the cache, where the line says so.
    """

    impl: str
    replicas: int
    slots: int
    lanes: int
    context: int
    block: int
    pool: int | None

    @property
    def own_code(self) -> bool:
        """Whether the Galaxy's own code runs it."""
        return self.impl.endswith("_galaxy")

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Spec:
        slots, degree = int(row["max_num_seqs"]), int(row["data_parallel"] or 1)
        replicas, lanes = degree, 1
        if row["impl"].endswith("_galaxy"):  # all chips are one replica, whose rows the lanes share
            replicas, slots, lanes = 1, slots * degree, degree
        elif degree == 1 and slots > MAX_BATCH:  # V0's way to write data_parallel: 4 x 32
            replicas, slots = slots // MAX_BATCH, MAX_BATCH
        return cls(
            impl=row["impl"],
            replicas=replicas,
            slots=slots,
            lanes=lanes,
            context=int(row["max_context"]),
            block=int(row["block_size"]),
            pool=int(row["max_tokens_all_users_override"]) if row["max_tokens_all_users_override"] else None,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server of a model on a box.

    Attributes:
      kind: how replicas are served. engines: independent ones. replicas: of the model, in one engine.
      lanes: of an engine. slots: of a lane. rows: of one replica's program.
      context: longest request. block: positions of a cache block. blocks, watermark: of a lane's pool.
      notes: what was assumed.
    """

    kind: Kind
    engines: int
    replicas: int
    lanes: int
    slots: int
    rows: int
    context: int
    block: int
    blocks: int
    watermark: int
    notes: tuple[str, ...]


def settings_of(scenario: Scenario) -> Settings:
    """How the server of the scenario's date is started."""
    degree, day, notes = scenario.system.data_parallel, scenario.software.date, []
    spec, longest = find(scenario), scenario.config.max_position_embeddings
    if spec is None:
        known = scenario.software.slots if scenario.software.served else 0
        spec = Spec("tt_transformers", degree, known or MAX_BATCH, 1, longest, 64, None)
        notes.append(f"no vendor settings for this pair: {spec.slots} slots, blocks of 64, 131072 tokens of cache")
    rows = min(spec.slots, MAX_BATCH)
    if rows < spec.slots:
        notes.append(f"the vendor starts {spec.slots} slots; {rows}, the rows of one tile, are priced")
    v0 = scheduler(day) == "v0"
    kind: Kind = "one engine"
    if degree > 1:
        kind = "gathered" if v0 else "lanes" if _LANE_MODELS.search(scenario.config.known_name) else "ranks"
    elif spec.lanes > 1 and not v0:
        kind = "lanes"
    replicas = 1 if kind == "ranks" else degree
    lanes = (degree if degree > 1 else spec.lanes) if kind == "lanes" else 1
    slots = rows * replicas // lanes
    tokens, looks = _pool_tokens(scenario, spec, v0), policy_of(day).steps_per_look
    blocks = -(-(tokens + (spec.block + looks - 1) * slots) // spec.block)
    watermark = 0
    if v0:  # a hundredth more, which its admission leaves free
        blocks = blocks * 101 // 100
        watermark = blocks // 100
    return Settings(
        kind=kind,
        engines=degree if kind == "ranks" else 1,
        replicas=replicas,
        lanes=lanes,
        slots=slots,
        rows=rows,
        context=min(spec.context, longest),
        block=spec.block,
        blocks=blocks,
        watermark=watermark,
        notes=tuple(notes),
    )


def stack_of(scenario: Scenario, stack: str) -> str:
    """The stack that the server runs: where "vllm" leaves it open, the Galaxy's own code, if the settings name it."""
    own = stack == "vllm" and scenario.software.date >= _GALAXY_CODE_SINCE and len(scenario.system.grid) > 1
    spec = find(scenario) if own else None
    return "vllm galaxy" if spec is not None and spec.own_code else stack


def find(scenario: Scenario) -> Spec | None:
    """The vendor's settings for a model on a box with so many replicas; else those of one replica alone."""
    system, model = scenario.system, _folded(scenario.config.known_name)
    box, replica = {_folded(system.name)}, {_folded(name) for name in system.box_names}
    for names in (box, replica):
        if names & {"tg", "whgalaxy"}:
            names.add("galaxy")
    same = [(row["device"], Spec.of(row)) for row in _rows() if _folded(row["model"]) == model]
    for names, replicas in ((box | replica, system.data_parallel), (replica - {"galaxy"}, 1)):
        for device, spec in same:
            fits = spec.replicas == replicas and spec.own_code <= (system.topology is Topology.GRID)
            if fits and _folded(device) in names:
                return spec
    return None


@functools.cache
def _rows() -> tuple[Mapping[str, str], ...]:
    text = resources.files("ttsim.data").joinpath("servers.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9.]|instruct|-it$", "", name.lower())


def _pool_tokens(scenario: Scenario, spec: Spec, v0: bool) -> int:
    if spec.pool is not None:
        return spec.pool
    chips = scenario.system.chips_per_replica
    for pattern, most, before, since in _POOL_EXCEPTIONS:
        if chips <= most and re.search(pattern, scenario.config.known_name, re.IGNORECASE):
            return before if v0 else since
    return _POOL_TOKENS
