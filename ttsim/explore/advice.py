"""Known levers, each tried on the scenario at hand: what it would bring, and what it costs.

A lever is a scenario with one thing changed; its gain is the ratio of two simulations, so that no rule of thumb is
quoted that the simulator itself does not agree with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.hardware.constants import load_constants
from ttsim.hardware.vision_software import FACTS
from ttsim.meshes.systems import SYSTEMS, System, split
from ttsim.models.layout import CHUNK_MULTIPLE
from ttsim.scenarios.question import Question, as_scenario
from ttsim.scenarios.scenario import MAX_BATCH, REFUSALS, Scenario

WORTH = 0.02  # gains below this aren't mentioned


@dataclass(frozen=True)
class Advice:
    """One lever.

    Attributes:
      change: what to change, in words.
      flag: how to ask for it here, empty if the software decides.
      speed, ttft, throughput: the figure with the change over the figure without.
      cost: what it costs, in words.
    """

    change: str
    flag: str
    speed: float
    ttft: float
    throughput: float
    cost: str

    @property
    def gain(self) -> float:
        return max(self.speed, 1 / self.ttft, self.throughput) - 1


def advise(question: Question | Scenario, constants: Mapping[str, Any] | None = None) -> tuple[Advice, ...]:
    """The levers that gain more than 2 % in speed, TTFT or throughput, the largest first within each kind.

    Args:
      question: or its scenario.
      constants: of the cost model, by default the calibrated ones.
    """
    scenario = as_scenario(question)
    constants = load_constants() if constants is None else constants
    base = _figures(scenario, constants)
    groups = (
        _formats(scenario),
        _fidelities(scenario),
        _software(scenario),
        _images(scenario),
        _padding(scenario),
        _batch(scenario),
        _systems(scenario),
    )
    result: list[Advice] = []
    for group in groups:
        found = []
        for changed, change, flag, cost in group:
            try:
                figures = _figures(changed, constants)
            except REFUSALS:
                continue
            if changed.precision != scenario.precision:
                cost = _accuracy(scenario, changed)
            speed, ttft, throughput = (new / old for new, old in zip(figures, base, strict=True))
            found.append(Advice(change, flag, speed, ttft, throughput, cost))
        result += sorted((advice for advice in found if advice.gain > WORTH), key=lambda advice: -advice.gain)
    return tuple(result)


def _accuracy(scenario: Scenario, changed: Scenario) -> str:
    """What a change of precision costs, by the estimate without weights; it knows of decode's noise only."""
    before, after = (estimate_accuracy(s.config, s.precision).top1 for s in (scenario, changed))
    if abs(before - after) < 0.05:
        return "accuracy of the prompt: measure it first"
    return f"Top-1 {before:.1f} -> {after:.1f} % (estimated)"


def _figures(scenario: Scenario, constants: Mapping[str, Any]) -> tuple[float, float, float]:
    """(speed, TTFT, throughput), if the scenario fits."""
    scenario.check_fits()
    speed = scenario.speed(constants)
    return speed, scenario.ttft(constants), speed * scenario.batch_size * scenario.system.data_parallel


Lever = tuple[Scenario, str, str, str]


def _changed(scenario: Scenario, **changes: Any) -> Scenario:
    return dataclasses.replace(scenario, **changes)


def _formats(scenario: Scenario) -> Iterator[Lever]:
    first = scenario.precision.layer(0)
    weights = {"ff1_3": "li_ff1_3", "ff2": "li_ff2", "wqkv": "li_qkv_decode", "wo": "li_o_decode"}
    for group, setting in weights.items():
        if getattr(first, group) in ("bfp8", "bf16"):
            change = {group: "bfp4", setting: "lofi"}
            yield (
                _changed(scenario, precision=scenario.precision.replace(**change)),
                f"{group} in bfp4 with LoFi",
                f"--override={group}=bfp4,{setting}=lofi",
                "",
            )
    if first.kv_cache in ("bfp8", "bf16"):
        yield (
            _changed(scenario, precision=scenario.precision.replace(kv_cache="bfp4")),
            "KV cache in bfp4",
            "--override=kv_cache=bfp4",
            "",
        )


def _fidelities(scenario: Scenario) -> Iterator[Lever]:
    first = scenario.precision.layer(0)
    for setting, lower in (("sdpa_prefill", "hifi2"), ("li_qkv_prefill", "lofi"), ("li_o_prefill", "lofi")):
        if getattr(first, setting) != lower:
            yield (
                _changed(scenario, precision=scenario.precision.replace(**{setting: lower})),
                f"{setting} at {lower}",
                f"--override={setting}={lower}",
                "",
            )


def _software(scenario: Scenario) -> Iterator[Lever]:
    software = scenario.software
    if not software.traced_prefill:
        yield (
            _changed(
                scenario, software=dataclasses.replace(software, traced_lengths=frozenset({scenario.padded_prompt}))
            ),
            "prefill from a trace",
            "--date=2025-11-13",
            "software of 2025-11-13 or newer",
        )
    if scenario.batch_size > software.device_argmax:
        yield (
            _changed(scenario, software=dataclasses.replace(software, device_argmax=MAX_BATCH)),
            "sampling on the device",
            "--date=2025-07-23",
            "software of 2025-07-23 or newer",
        )


def _images(scenario: Scenario) -> Iterator[Lever]:
    if scenario.images and scenario.system.chips_per_replica > 1:
        yield (
            _changed(scenario, scattered_sums=True),
            "reduce-scatter + all-gather in the vision tower, in place of gathering all partial sums",
            "",
            "a change to tt-metal's llama_image_attention.py and llama_image_mlp.py",
        )
    if scenario.images:
        since, _, _ = FACTS["dynamic_tiles"]
        if scenario.software.date < since:
            yield (
                _changed(scenario, software=dataclasses.replace(scenario.software, date=since)),
                "vision tokens stay on the devices, and only the tiles that an image needs are computed",
                f"--date={since}",
                "software of 2025-07 or newer",
            )


def _padding(scenario: Scenario) -> Iterator[Lever]:
    """A prompt up to a quarter longer that is cut into fewer chunks: their length must divide the prompt's."""
    now, chunk = scenario.padded_prompt, scenario.layout.prefill_chunk
    if len(scenario.prefill_chunks) < 2 or scenario.images:
        return
    longer = range(now + CHUNK_MULTIPLE, min(now + now // 4, scenario.config.max_position_embeddings), CHUNK_MULTIPLE)
    best = min(longer, key=lambda length: (length // chunk(length), length), default=now)
    if best // chunk(best) < len(scenario.prefill_chunks):
        yield (
            _changed(scenario, prompt_length=best),
            f"prompt padded to {best:,}",
            f"--prompt_length={best}",
            f"{best // chunk(best)} chunks of {chunk(best):,} tokens, not {len(scenario.prefill_chunks)}",
        )


def _batch(scenario: Scenario) -> Iterator[Lever]:
    for batch in (8, MAX_BATCH):
        if batch > scenario.batch_size:
            yield (
                _changed(scenario, batch_size=batch),
                f"batch {batch}",
                f"--batch_size={batch}",
                "more users share each step",
            )


def _systems(scenario: Scenario) -> Iterator[Lever]:
    """The next smaller and the next larger system of the chip, and this one cut into two replicas or joined."""
    system = scenario.system
    same = sorted(
        (s for s in SYSTEMS.values() if s.chip == system.chip and s.num_chips <= 32), key=lambda s: s.num_chips
    )
    for other in same:
        if other.num_chips != system.num_chips:
            times = other.num_chips / system.num_chips
            yield (
                _changed(scenario, system=other),
                f"{other.name} ({_chips(other.num_chips)})",
                f"--device={other.name}",
                f"{times:g} x the chips",
            )
    whole = SYSTEMS.get(system.name)
    for degree in _degrees(whole) if whole else ():
        if degree != system.data_parallel:
            other = split(whole, degree) if whole else system
            yield (
                _changed(scenario, system=other),
                f"{degree} replicas of {_chips(other.chips_per_replica)}" if degree > 1 else "one replica on all chips",
                f"--data_parallel={degree}",
                "the same chips",
            )


def _degrees(system: System) -> list[int]:
    return [d for d in (1, 2, 4, 8, 16, 32) if system.num_chips % d == 0 and d <= system.num_chips]


def _chips(number: int) -> str:
    return "1 chip" if number == 1 else f"{number} chips"
