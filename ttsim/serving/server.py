"""A simulated box as a server: the steps' prices, the settings that the vendor starts it with, what the server adds.

decode step  = the traced decode program at all `max_num_seqs` rows and the longest context
prompt       = its prefill program, padded; after a cached prefix the chunks from there on
batch        = one program of prompts x rows, with the attention of each prompt by itself
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.meshes.systems import System
from ttsim.models.layout import padded_prefill_length
from ttsim.models.transformer import PREFILL_LAYER
from ttsim.scenarios.memory import CACHE_BLOCK
from ttsim.scenarios.scenario import MAX_BATCH, Scenario
from ttsim.serving.cluster import Pool
from ttsim.serving.host_costs import host_costs
from ttsim.serving.policy import Policy, parse_policy, policy_of

_POOL_TOKENS = 131_072  # max_tokens_all_users of the plugin's models, but for:
_POOL_EXCEPTIONS = (  # (model, chips at most, tokens): vllm-tt-plugin e3fc849 and tt_transformers generator_vllm.py
    (r"llama-?3\.1-8b|qwen3-8b", 1, 32_768),
    (r"mistral-7b|gemma-3-4b", 1, 65_536),
    (r"gemma-3-4b|qwen2\.5-14b", 2, 65_536),
    (r"llama-?3\.2-90b|qwen2\.5-vl-72b", 8, 65_536),
    (r"deepseek-r1-0528", 1_000, 32_768),
)
# Models whose generator takes data-parallel lanes into one process (Galaxy).
_LANE_MODELS = re.compile(r"llama-?3.*70b|qwen3-32b|gpt-oss|gemma-3-27b", re.IGNORECASE)
_PREFIX_MODELS = re.compile(r"llama|qwen|mistral-7b|qwq", re.IGNORECASE)  # declare prefix caching
_PREFIX_SINCE = datetime.date(2026, 1, 8)  # tt-metal #33883
_RANKS_SINCE = datetime.date(2026, 1, 1)  # V1: standard data parallelism is independent engines
_LANES, _RANKS = "lanes", "ranks"


@dataclass(frozen=True, kw_only=True)
class _AfterPrefix(Scenario):
    """A prompt of which the first `prefix` tokens are in the cache: its chunks start behind them."""

    prefix: int

    @property
    def prefill_chunks(self) -> tuple[tuple[int, int, bool], ...]:
        end = self.prefix + self.padded_prompt
        rows = min(self.layout.prefill_chunk(end), self.padded_prompt)
        return tuple((i, min(rows, end - i), i + rows >= end) for i in range(self.prefix, end, rows))


class SimulatedPrices:
    """Step prices of one engine: a scenario's programs at the rows, contexts and prompts that the server asks for."""

    def __init__(self, scenario: Scenario, constants: Mapping[str, float]) -> None:
        """`scenario`'s batch is the engine's slots (of a lane), its system the chips of the engine."""
        self.scenario, self._constants = scenario, constants
        self._decode: dict[int, np.ndarray] = {}
        self._prefill: dict[tuple[int, int, int], float] = {}

    def padded(self, tokens: int) -> int:
        return padded_prefill_length(tokens)

    def decode(self, rows: int, contexts: np.ndarray) -> np.ndarray:
        """Every context is priced itself: the programs take arrays of positions."""
        most = int(np.max(contexts))
        known = self._decode.get(rows, np.zeros(0))
        if len(known) < most:
            scenario = dataclasses.replace(self.scenario, batch_size=rows)
            more = np.arange(len(known) + 1, most + 1)
            times = np.asarray(scenario.step_times(self._constants, more), float)
            known = self._decode[rows] = np.concatenate([known, times])
        return known[np.asarray(contexts) - 1]

    def prefill(self, prompts: int, tokens: int, prefix: int) -> float:
        key = prompts, self.padded(tokens), prefix // CACHE_BLOCK * CACHE_BLOCK
        if key not in self._prefill:
            self._prefill[key] = self._together(prompts, key[1]) if prompts > 1 else self._alone(*key[1:])
        return self._prefill[key]

    def _prompt(self, rows: int) -> Scenario:
        # A prompt's program knows the users only where they are spread over the chips of a replica.
        batch = self.scenario.batch_size if self.scenario.layout.two_d else 1
        return dataclasses.replace(self.scenario, prompt_length=rows, batch_size=batch)

    def _alone(self, rows: int, prefix: int) -> float:
        scenario = self._prompt(rows)
        if prefix:
            fields = {field.name: getattr(scenario, field.name) for field in dataclasses.fields(scenario)}
            scenario = _AfterPrefix(**fields, prefix=prefix)
        return float(scenario.ttft(self._constants))

    def _together(self, prompts: int, rows: int) -> float:
        """One program of `prompts` x `rows` rows: a prompt's time, and what the device has to do beyond one prompt.

        batch = T(rows) + R(prompts x rows) - R(rows) + (prompts - 1) A(rows)

        with A the attention, which stays within a prompt, and R all other kernels of the layers.
        """
        alone, attention = self._layers(rows)
        return self._alone(rows, 0) + self._layers(prompts * rows)[0] - alone + (prompts - 1) * attention

    def _layers(self, rows: int) -> tuple[float, float]:
        """Device seconds of a prompt's layers: (all kernels but attention, attention)."""
        others = attention = 0.0
        for cost in self._prompt(rows).prefill_costs:
            gap = cost.machine.software.dispatch_gap
            for item in cost.kernels:
                if not item.where.startswith(PREFILL_LAYER):
                    continue
                time = item.count * (float(np.mean(item.kernel.time(self._constants))) + gap)
                if item.op == "sdpa_prefill":
                    attention += time
                else:
                    others += time
        return others, attention


@dataclass(frozen=True, kw_only=True)
class Server:
    """A box that serves a model.

    Attributes:
      scenario: of one engine. pool: its engines. data_parallel: replicas in all.
      kind: "one engine", "lanes" or "ranks". limit: longest request, prompt and output. notes: what was assumed.
    """

    scenario: Scenario
    pool: Pool
    data_parallel: int
    kind: str
    limit: int
    notes: tuple[str, ...]

    @property
    def slots(self) -> int:
        """Requests that run at once."""
        return self.pool.count * self.pool.policy.lanes * self.pool.policy.max_num_seqs

    @property
    def label(self) -> str:
        degree = "" if self.data_parallel == 1 else f" DP={self.data_parallel} ({self.kind})"
        return f"{self.scenario.config.name} on {self.scenario.system.name}{degree}"


def build(
    model: str,
    device: str | System,
    precision: str = "performance",
    data_parallel: int = 1,
    date: str | None = None,
    stack: str = "vllm",
    policy: str = "",
    prefix_caching: bool = False,
    constants: Mapping[str, float] | None = None,
) -> Server:
    """The server of a model on a box, as it is started by default.

    Args:
      model, device, precision, data_parallel, date: see `ttsim.simulate`. stack: "vllm", "vllm galaxy".
      policy: changes to the server's rules (`ttsim.serving.policy.parse_policy`).
      prefix_caching: whether the cache of earlier prompts is used.

    Raises:
      ValueError: an unknown name, or a model or rule that the server doesn't have.
    """
    constants = load_constants() if constants is None else constants
    whole = Scenario.of(model, device, precision, 1, 128, 2, data_parallel, date, stack=stack)
    degree, day, notes = whole.system.data_parallel, whole.software.date, []
    lanes = degree > 1 and (day < _RANKS_SINCE or bool(_LANE_MODELS.search(whole.config.known_name)))
    kind = "one engine" if degree == 1 else _LANES if lanes else _RANKS
    spec = _spec(whole)
    slots = min(int(spec["max_num_seqs"]), MAX_BATCH) if spec else MAX_BATCH
    if not spec:
        notes.append("no vendor settings for this pair: 32 slots, blocks of 64, 131072 tokens of cache")
    elif int(spec["max_num_seqs"]) > MAX_BATCH:
        notes.append(f"the vendor starts {spec['max_num_seqs']} slots; {MAX_BATCH}, the rows of one tile, are priced")
    context = int(spec["max_context"]) if spec else whole.config.max_position_embeddings
    context = min(context, whole.config.max_position_embeddings)
    block = int(spec["block_size"]) if spec else 64
    tokens = _pool_tokens(whole, spec)
    chunked = _attends_fully(whole)
    settings: dict[str, Any] = {
        "max_num_seqs": slots,
        "block_size": block,
        "blocks": -(-(tokens + block * slots) // block),
        "lanes": degree if lanes else 1,
        "async_scheduling": whole.software.fact("async_read") and stack.split()[0] == "vllm",
        "batched_prefill": whole.software.fact("batched_prefill"),
        "chunked_prefill": chunked and True,
    }
    base = _dated(day, settings)
    if not base.chunked_prefill:
        base = dataclasses.replace(base, max_num_batched_tokens=context)
    rules = parse_policy(policy, base)
    if prefix_caching or rules.prefix_caching:
        if not _PREFIX_MODELS.search(whole.config.known_name):
            raise ValueError(f"the server has no prefix cache for {whole.config.name}: leave prefix_caching out")
        if day < _PREFIX_SINCE:
            raise ValueError(f"the server has a prefix cache since {_PREFIX_SINCE}; the software is of {day}")
        rules = dataclasses.replace(rules, prefix_caching=True)
    system = whole.system if lanes else dataclasses.replace(whole.system, data_parallel=1)
    # The server's own time is this package's (`host_costs`): the programs are priced without it.
    software = whole.software.without_server()
    scenario = dataclasses.replace(whole, system=system, batch_size=rules.max_num_seqs, software=software)
    if rules.max_num_seqs > MAX_BATCH:
        raise ValueError(f"max_num_seqs must be at most {MAX_BATCH}, the rows of one tile, not {rules.max_num_seqs}")
    host, host_note = host_costs(day, whole.system, lanes=degree if lanes else 1)
    notes.append(host_note)
    pool = Pool(
        policy=rules,
        prices=_prices(scenario, tuple(sorted(constants.items()))),
        host=host,
        count=1 if lanes else degree,
    )
    return Server(scenario=scenario, pool=pool, data_parallel=degree, kind=kind, limit=context, notes=tuple(notes))


def _dated(day: datetime.date, settings: Mapping[str, Any]) -> Policy:
    """The policy of the date; what the model's table of facts says goes before the policy's own dates."""
    settings = dict(settings)
    base = policy_of(day, **{k: settings[k] for k in ("max_num_seqs", "block_size", "blocks", "lanes")})
    looks = base.steps_per_look > 1
    return dataclasses.replace(
        base,
        async_scheduling=bool(settings["async_scheduling"]) and not looks,
        batched_prefill=bool(settings["batched_prefill"]),
        chunked_prefill=settings["chunked_prefill"] and base.chunked_prefill,
    )


@functools.lru_cache(maxsize=64)
def _prices(scenario: Scenario, constants: tuple[tuple[str, float], ...]) -> SimulatedPrices:
    """One set of prices for all loads of a server."""
    return SimulatedPrices(scenario, dict(constants))


def _attends_fully(scenario: Scenario) -> bool:
    return not getattr(scenario.config, "sliding_window", None)


@functools.cache
def _specs() -> tuple[Mapping[str, str], ...]:
    text = resources.files("ttsim.data").joinpath("servers.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9.]|instruct|-it$", "", name.lower())


def _spec(scenario: Scenario) -> Mapping[str, str] | None:
    """The vendor's settings for a model on a box with so many replicas."""
    names = {_folded(name) for name in scenario.system.box_names}
    model, degree = _folded(scenario.config.known_name), scenario.system.data_parallel
    if names & {"tg", "galaxy", "whgalaxy"}:
        names.add("galaxy")
    for row in _specs():
        same = _folded(row["model"]) == model and _folded(row["device"]) in names
        if same and int(row["data_parallel"] or 1) == degree:
            return row
    return None


def _pool_tokens(scenario: Scenario, spec: Mapping[str, str] | None) -> int:
    if spec and spec["max_tokens_all_users_override"]:
        return int(spec["max_tokens_all_users_override"])
    chips = scenario.system.chips_per_replica
    for pattern, most, tokens in _POOL_EXCEPTIONS:
        if chips <= most and re.search(pattern, scenario.config.known_name, re.IGNORECASE):
            return tokens
    return _POOL_TOKENS
