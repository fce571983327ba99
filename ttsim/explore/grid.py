"""Every combination of boxes, precisions, batches and prompts of one model: a page that answers without a simulator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ttsim.accuracy.estimated import AccuracyEstimate, estimate_accuracy
from ttsim.explore.goal import PRICES
from ttsim.hardware.constants import load_constants
from ttsim.meshes.sharding import ShardingError
from ttsim.models.identity import get_config
from ttsim.proof.intervals import fold_of, interval
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.question import Question
from ttsim.scenarios.simulate import report_of

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
    axes = list(itertools.product(systems, settings, batches, lengths))
    points = []
    for device, (_, precision, override), batch, length in axes:
        changes = {"device": device, "precision": precision, "override": override}
        points.append(_point(question.change({**changes, "batch_size": batch, "prompt_length": length}), constants))
        if progress:
            progress(len(points), len(axes))
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


def _point(question: Question, constants: Mapping[str, float]) -> GridPoint:
    try:
        scenario = question.scenario()
        memory = scenario.memory()
        report = report_of(scenario, constants)
    except ShardingError as error:
        return GridPoint(problem=str(error))
    except DoesNotFitError:
        return GridPoint(used=memory.used, problem=f"{-memory.free / 1e9:.1f} GB of DRAM too much a chip")
    found = interval(report.speed, "speed", fold_of(scenario))
    return GridPoint(
        speed=report.speed,
        speed_interval=None if found is None else (found.low / report.speed, found.high / report.speed),
        ttft=report.ttft,
        used=memory.used,
        decode={name: time / report.decode.time for name, time in report.decode.by_limit().items()},
        prefill={name: time / report.prefill.time for name, time in report.prefill.by_limit().items()},
    )
