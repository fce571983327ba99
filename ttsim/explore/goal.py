"""The cheapest system and layout that meets a goal ("speed>=30,ttft<=200ms")."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.errors import unknown
from ttsim.hardware.constants import load_constants
from ttsim.meshes.systems import SYSTEMS
from ttsim.precision.values import Precision
from ttsim.proof.intervals import fold_of, interval
from ttsim.scenarios.question import Question
from ttsim.scenarios.scenario import MAX_BATCH, REFUSALS, Scenario

# List prices of the boards alone, in dollars: n150d, n300d, p100a (hardwareluxx.de, 2025-04), p150a (vendor, 2026); a
# T3K is four N300. No public price of a Galaxy or of a P300 board was found.
PRICES: Mapping[str, float] = {
    "N150": 1099,
    "N300": 1449,
    "T3K": 4 * 1449,
    "P100": 999,
    "P150": 1399,
    "P150X4": 4 * 1399,
    "P150X8": 8 * 1399,
}

UNITS = {
    "speed": {"": 1.0, "t/s/u": 1.0, "t/s": 1.0},
    "throughput": {"": 1.0, "t/s": 1.0},
    "users": {"": 1.0},
    "ttft": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "latency": {"s": 1.0, "ms": 1e-3},
    "top1": {"": 1.0, "%": 1.0},
    "top5": {"": 1.0, "%": 1.0},
}
_MORE = ("speed", "throughput", "users", "top1", "top5")  # the more the better
_PRESETS = ("performance", "accuracy")  # tried where the goal bounds an accuracy


@dataclass(frozen=True)
class Condition:
    """A figure's bound, in SI units; `least` for >=, else <=."""

    figure: str
    least: bool
    bound: float

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


@dataclass(frozen=True)
class Answer:
    """One system and layout.

    Attributes:
      scenario: what runs. price: dollars of the boards, infinite if no price is known.
      precision: the preset's name, or the question's own.
      figures: speed (t/s/u), ttft and latency (s), throughput (t/s), users, top1 and top5 (per cent, estimated).
      meets: whether the best estimate meets the goal. surely: whether the bad end of its intervals does.
      checked: whether measurements tell how far off speed and TTFT may be.
      margin: the smallest ratio by which a condition is met, below 1 if it is not.
    """

    scenario: Scenario
    price: float
    precision: str
    figures: Mapping[str, float]
    meets: bool
    surely: bool
    checked: bool
    margin: float


def parse_goal(goal: str) -> tuple[Condition, ...]:
    """Conditions from "speed>=30,ttft<=200ms,top1>=90".

    Raises:
      ValueError: an unknown figure or unit, or a bound on the wrong side.
    """
    conditions = []
    for item in filter(None, map(str.strip, goal.split(","))):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|>|<)\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z/%]*)", item, re.IGNORECASE)
        if not match:
            raise ValueError(f"goal {item!r} is not figure>=number or figure<=number, e.g. speed>=30 or ttft<=200ms")
        figure, sign, number, unit = match[1].lower(), match[2], match[3], match[4].lower()
        if figure not in UNITS:
            raise unknown("figure in a goal:", figure, UNITS)
        if unit not in UNITS[figure]:
            units = ", ".join(filter(None, UNITS[figure]))
            raise ValueError(f"goal {item!r} needs a unit of {figure}: {units or 'none'}")
        if (figure in _MORE) != sign.startswith(">"):
            raise ValueError(f"goal {item!r}: {figure} is bounded by {'>=' if figure in _MORE else '<='}")
        try:
            bound = float(number) * UNITS[figure][unit]
        except ValueError:
            raise ValueError(f"goal {item!r}: {number!r} is no number") from None
        conditions.append(Condition(figure, sign.startswith(">"), bound))
    if not conditions:
        raise ValueError("an empty goal: give figures and bounds, e.g. speed>=30,ttft<=200ms")
    return tuple(conditions)


def goal(
    question: Question,
    conditions: str | Sequence[Condition],
    constants: Mapping[str, float] | None = None,
    systems: Sequence[str] | None = None,
) -> list[Answer]:
    """All systems and layouts that the model runs on: those that meet the goal first, the cheapest first.

    Batches of 1, 2, 4 ... 32 are tried where the goal bounds throughput or users, and both presets where it bounds an
    accuracy; otherwise the question's own.

    Args:
      question: the model, and what the systems have in common.
      conditions: "speed>=30,ttft<=200ms,top1>=90", or what `parse_goal` makes of it.
      constants: of the cost model, by default the calibrated ones.
      systems: names to try, by default all built-in ones.

    Raises:
      ValueError: a goal that can't be read, or a wrong question.
    """
    conditions = parse_goal(conditions) if isinstance(conditions, str) else conditions
    constants = load_constants() if constants is None else constants
    names = list(SYSTEMS) if systems is None else list(systems)
    batches: Sequence[int] = (question.batch_size,)
    if any(condition.figure in ("throughput", "users") for condition in conditions):
        batches = [2**i for i in range(MAX_BATCH.bit_length())]
    precisions: Sequence[str | Precision] = (question.precision,)
    if any(condition.figure in ("top1", "top5") for condition in conditions) and question.precision in _PRESETS:
        precisions = _PRESETS
    answers = []
    for name, batch, precision in itertools.product(names, batches, precisions):
        chips = SYSTEMS[name].num_chips
        for degree in (d for d in range(1, chips + 1) if chips % d == 0):
            try:
                layout = {"device": name, "data_parallel": degree, "batch_size": batch, "precision": precision}
                scenario = question.change(layout).scenario()
                scenario.check_fits()
                answers.append(_answer(scenario, precision, conditions, constants))
            except REFUSALS:
                continue
    best = _best_of_each(answers)
    return sorted(
        best, key=lambda answer: (not answer.meets, answer.price, answer.scenario.system.num_chips, -answer.margin)
    )


def _best_of_each(answers: Sequence[Answer]) -> list[Answer]:
    """The answer of each layout with the batch and precision that serve the goal best."""
    chosen: dict[str, Answer] = {}
    for answer in answers:
        label = answer.scenario.system.label
        if label not in chosen or answer.margin > chosen[label].margin:
            chosen[label] = answer
    return list(chosen.values())


def _answer(
    scenario: Scenario, precision: str | Precision, conditions: Sequence[Condition], constants: Mapping[str, float]
) -> Answer:
    fold, users = fold_of(scenario), scenario.batch_size * scenario.system.data_parallel
    speed, ttft = scenario.speed(constants), scenario.ttft(constants)
    slow, late = interval(speed, "speed", fold), interval(ttft, "ttft", fold)
    steps = scenario.max_generated_tokens - 1
    accuracy = estimate_accuracy(scenario.config, scenario.precision)

    def figures(speed: float, ttft: float, errors: float) -> dict[str, float]:
        named = {"speed": speed, "ttft": ttft, "throughput": speed * users, "latency": ttft + steps / max(speed, 1e-12)}
        tops = {
            "top1": accuracy.top1 - errors * accuracy.top1_sigma,
            "top5": accuracy.top5 - errors * accuracy.top5_sigma,
        }
        return {**named, "users": users, **tops}

    best = figures(speed, ttft, 0)
    worst = figures(slow.low if slow else 0.0, late.high if late else math.inf, 1)
    ratios = [
        best[c.figure] / max(c.bound, 1e-12) if c.least else c.bound / max(best[c.figure], 1e-12) for c in conditions
    ]
    return Answer(
        scenario=scenario,
        price=PRICES.get(scenario.system.name.upper(), math.inf),
        precision=precision if isinstance(precision, str) else "own",
        figures=best,
        meets=all(c.holds(best[c.figure]) for c in conditions),
        surely=all(c.holds(worst[c.figure]) for c in conditions),
        checked=slow is not None and late is not None,
        margin=min(ratios),
    )
