"""Every combination of boxes, precisions, batches and prompts of one model: a page that answers without a simulator."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ttsim.accuracy.estimated import AccuracyEstimate, estimate_accuracy
from ttsim.explore.goal import PRICES
from ttsim.hardware.constants import load_constants
from ttsim.kernels.kernel import UnpricedError
from ttsim.meshes.sharding import ShardingError
from ttsim.models.identity import get_config
from ttsim.proof.intervals import fold_of, interval
from ttsim.scenarios.memory import Memory, activation_bytes, memory_of
from ttsim.scenarios.question import Question
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.timing import Limits, decode_limits, prefill_limits

# Settings from fast to exact: name, precision, changes on top.
SETTINGS = (
    ("all weights bfp4", "performance", "ff2=bfp4,li_ff2=lofi,wqkv=bfp4,li_qkv_decode=lofi,wo=bfp4,li_o_decode=lofi"),
    ("MLP bfp4", "performance", "ff2=bfp4,li_ff2=lofi"),
    ("performance", "performance", ""),
    ("accuracy", "accuracy", ""),
    ("bf16", "bf16", ""),
)
BOXES = ("N150", "N300", "T3K", "TG", "P100", "P150", "P300", "P150x4", "P150x8")
BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (128, 1024, 4096, 16384, 65536, 120_000)


@dataclass(frozen=True)
class GridPoint:
    """One combination; without figures if it doesn't fit or can't be sharded.

    Attributes:
      speed: t/s/u. speed_interval: its low and high over the best, None where nothing tells.
      ttft: seconds. used: bytes of DRAM of a chip.
      decode, prefill: share of the phase's time by the limit that binds.
      problem: why there are no figures.
    """

    speed: float | None = None
    speed_interval: tuple[float, float] | None = None
    ttft: float | None = None
    used: int | None = None
    decode: Mapping[str, float] | None = None
    prefill: Mapping[str, float] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Grid:
    """Points by (system, setting, batch, length), all by index.

    Attributes:
      question: what all points have in common.
      systems, settings, batches, lengths: the axes; settings are names.
      prices: dollars of the boards by system, None if unknown. capacity: bytes of DRAM of a chip by system.
      accuracies: by setting.
      points: in the order of the axes, the last one fastest.
    """

    question: Question
    systems: Sequence[str]
    settings: Sequence[str]
    batches: Sequence[int]
    lengths: Sequence[int]
    prices: Sequence[float | None]
    capacity: Sequence[int]
    accuracies: Sequence[AccuracyEstimate]
    points: Sequence[GridPoint]


def grid(
    question: Question,
    systems: Sequence[str] = BOXES,
    settings: Sequence[tuple[str, str, str]] = SETTINGS,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    constants: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Grid:
    """Simulates every combination.

    Args:
      question: the model, the generated tokens, the date.
      systems, batches, lengths: the axes; prompts beyond the model's own limit are left out.
      settings: (name, precision, override) each.
      constants: of the cost model, by default the calibrated ones.
      progress: called with (points done, points in all).

    Raises:
      ValueError: an unknown name, or no prompt that the model can hold.
    """
    constants = load_constants() if constants is None else constants
    config = get_config(question.model)
    most = config.max_position_embeddings - question.max_generated_tokens
    lengths = [length for length in lengths if length <= most]
    if not lengths:
        raise ValueError(f"{config.name} holds {config.max_position_embeddings} tokens: no prompt of the grid fits")
    points: list[GridPoint] = []
    for device, (_, precision, override) in itertools.product(systems, settings):
        asked = question.change({"device": device, "precision": precision, "override": override})
        points += _points_on(asked, batches, lengths, constants)
        if progress:
            progress(len(points), len(systems) * len(settings) * len(batches) * len(lengths))
    first = {"device": systems[0], "batch_size": 1, "prompt_length": lengths[0]}
    precisions = [
        question.change({**first, "precision": precision, "override": override}).scenario().precision
        for _, precision, override in settings
    ]
    return Grid(
        question=question,
        systems=systems,
        settings=[name for name, _, _ in settings],
        batches=batches,
        lengths=lengths,
        prices=[PRICES.get(name.upper()) for name in systems],
        capacity=[question.change({**first, "device": name}).scenario().memory().capacity for name in systems],
        accuracies=[estimate_accuracy(config, precision) for precision in precisions],
        points=points,
    )


def _points_on(
    question: Question, batches: Sequence[int], lengths: Sequence[int], constants: Mapping[str, float]
) -> list[GridPoint]:
    """The points of one box and precision, by batch and length.

    A decode step of a batch is priced once, at the positions of all lengths; a prompt once for all batches that run it
    alike.
    """
    try:
        scenarios = [
            [question.change({"batch_size": b, "prompt_length": n}).scenario() for n in lengths] for b in batches
        ]
        prompts = {row[0].prompt_users: row for row in reversed(scenarios)}
    except ShardingError as error:
        return [GridPoint(problem=str(error))] * (len(batches) * len(lengths))
    working_sets: dict[int, int] = {}
    prefills: dict[int, Limits] = {}
    points = []
    for row in scenarios:
        same = prompts[row[0].prompt_users]
        memories = [_memory(scenario, prompt, working_sets) for scenario, prompt in zip(row, same, strict=True)]
        fitting = [scenario for scenario, memory in zip(row, memories, strict=True) if memory.free >= 0]
        try:
            steps = iter(decode_limits(fitting, constants))
        except UnpricedError as error:
            points += [GridPoint(used=memory.used, problem=str(error)) for memory in memories]
            continue
        for scenario, prompt, memory in zip(row, same, memories, strict=True):
            if memory.free < 0:
                problem = f"{-memory.free / 1e9:.1f} GB of DRAM too much a chip"
                points.append(GridPoint(used=memory.used, problem=problem))
                continue
            if id(prompt) not in prefills:
                prefills[id(prompt)] = prefill_limits(prompt, constants)
            points.append(_point(scenario, memory, next(steps), prefills[id(prompt)]))
    return points


def _memory(scenario: Scenario, prompt: Scenario, working_sets: dict[int, int]) -> Memory:
    """What a chip holds; `working_sets` remembers those of prompts that several scenarios share."""
    layout, precision = scenario.layout, scenario.precision
    memory = memory_of(layout, precision, scenario.chip, scenario.batch_size, scenario.sequence_length, ())
    if id(prompt) not in working_sets:
        working_sets[id(prompt)] = max(map(activation_bytes, prompt.prefill_programs))
    return dataclasses.replace(memory, activations=working_sets[id(prompt)])


def _point(scenario: Scenario, memory: Memory, step: Limits, prefill: Limits) -> GridPoint:
    speed = 1 / step.time
    found = interval(speed, "speed", fold_of(scenario))
    decode, prompt = ({name: part / each.time for name, part in each.by_limit.items()} for each in (step, prefill))
    return GridPoint(
        speed=speed,
        speed_interval=None if found is None else (found.low / speed, found.high / speed),
        ttft=prefill.time,
        used=memory.used,
        decode=decode,
        prefill=prompt,
    )
