"""The cheapest system and layout that meets a goal ("speed>=30,ttft<=200ms")."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttsim.hardware.constants import load_constants
from ttsim.meshes.sharding import ShardingError
from ttsim.meshes.systems import SYSTEMS
from ttsim.precision.text import unknown
from ttsim.proof.intervals import fold_of, interval
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.question import Question
from ttsim.scenarios.scenario import MAX_BATCH, Scenario
from ttsim.ui import text

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
}
_MORE = ("speed", "throughput", "users")  # the more the better


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
      figures: speed (t/s/u), ttft and latency (s), throughput (t/s), users.
      meets: whether the best estimate meets the goal. surely: whether the bad end of its intervals does.
      margin: the smallest ratio by which a condition is met, below 1 if it is not.
    """

    scenario: Scenario
    price: float
    figures: Mapping[str, float]
    meets: bool
    surely: bool
    margin: float


def parse_goal(goal: str) -> tuple[Condition, ...]:
    """Conditions from "speed>=30,ttft<=200ms".

    Raises:
      ValueError: an unknown figure or unit, or a bound on the wrong side.
    """
    conditions = []
    for item in filter(None, map(str.strip, goal.split(","))):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|>|<)\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z/]*)", item, re.IGNORECASE)
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


def search(
    question: Question,
    conditions: Sequence[Condition],
    constants: Mapping[str, float] | None = None,
    systems: Sequence[str] | None = None,
) -> list[Answer]:
    """All systems and layouts that the model runs on: those that meet the goal first, the cheapest first.

    Batches of 1, 2, 4 ... 32 are tried where the goal bounds throughput or users; otherwise the question's own.

    Args:
      systems: names to try, by default all built-in ones.
    """
    constants = load_constants() if constants is None else constants
    names = list(SYSTEMS) if systems is None else list(systems)
    batches: Sequence[int] = (question.batch_size,)
    if any(condition.figure in ("throughput", "users") for condition in conditions):
        batches = [2**i for i in range(MAX_BATCH.bit_length())]
    answers = []
    for name, batch in itertools.product(names, batches):
        chips = SYSTEMS[name].num_chips
        for degree in (d for d in range(1, chips + 1) if chips % d == 0):
            try:
                scenario = question.change({"device": name, "data_parallel": degree, "batch_size": batch}).scenario()
                scenario.check_fits()
            except (ShardingError, DoesNotFitError):
                continue
            answers.append(_answer(scenario, conditions, constants))
    best = _best_batch(answers)
    return sorted(
        best, key=lambda answer: (not answer.meets, answer.price, answer.scenario.system.num_chips, -answer.margin)
    )


def _best_batch(answers: Sequence[Answer]) -> list[Answer]:
    """The answer of each layout with the batch that serves the goal best."""
    chosen: dict[str, Answer] = {}
    for answer in answers:
        label = answer.scenario.system.label
        if label not in chosen or answer.margin > chosen[label].margin:
            chosen[label] = answer
    return list(chosen.values())


def _answer(scenario: Scenario, conditions: Sequence[Condition], constants: Mapping[str, float]) -> Answer:
    fold, users = fold_of(scenario), scenario.batch_size * scenario.system.data_parallel
    speed, ttft = scenario.speed(constants), scenario.ttft(constants)
    slow, late = interval(speed, "speed", fold), interval(ttft, "ttft", fold)
    steps = scenario.max_generated_tokens - 1

    def figures(speed: float, ttft: float) -> dict[str, float]:
        named = {"speed": speed, "ttft": ttft, "throughput": speed * users, "latency": ttft + steps / max(speed, 1e-12)}
        return {**named, "users": users}

    best = figures(speed, ttft)
    worst = figures(slow.low if slow else 0.0, late.high if late else math.inf)
    ratios = [best[c.figure] / c.bound if c.least else c.bound / max(best[c.figure], 1e-12) for c in conditions]
    return Answer(
        scenario=scenario,
        price=PRICES.get(scenario.system.name.upper(), math.inf),
        figures=best,
        meets=all(c.holds(best[c.figure]) for c in conditions),
        surely=all(c.holds(worst[c.figure]) for c in conditions),
        margin=min(ratios),
    )


_HEADER = (
    "system",
    "chips",
    "boards $",
    "batch",
    "speed t/s/u",
    "TTFT ms",
    "throughput t/s",
    "users",
    "meets",
    "margin",
)


def to_text(goal: str, answers: Sequence[Answer], colour: bool = False) -> str:
    """The cheapest answer in words, then all layouts as a table."""
    meeting = [answer for answer in answers if answer.meets]
    if not answers:
        return "the model fits on no system\n"
    if meeting:
        best = meeting[0]
        price = f"boards of about {best.price:,.0f} $" if math.isfinite(best.price) else "no public price"
        sure = "also at the low end of its intervals" if best.surely else "but not at the low end of its intervals"
        head = f"{goal}: {best.scenario.system.label}, batch {best.scenario.batch_size} ({price}), {sure}"
    else:
        nearest = max(answers, key=lambda answer: answer.margin)
        head = f"{goal}: no system meets it; the nearest, {nearest.scenario.system.label}, reaches {nearest.margin:.0%}"
    rows = [_HEADER, *(_cells(answer) for answer in answers)]
    header, *body = text.columns(rows, right=range(1, 8))
    note = "prices: list prices of the boards alone, 2025-26, where public; the host comes on top"
    lines = [*(text.paint(line, text.BOLD, colour) for line in text.wrap(head)), text.paint(header, text.DIM, colour)]
    return "\n".join([*lines, *body, *(text.paint(line, text.DIM, colour) for line in text.wrap(note))]) + "\n"


def _cells(answer: Answer) -> tuple[str, ...]:
    system, figures = answer.scenario.system, answer.figures
    return (
        system.label,
        str(system.num_chips),
        f"{answer.price:,.0f}" if math.isfinite(answer.price) else "?",
        str(answer.scenario.batch_size),
        f"{figures['speed']:.1f}",
        f"{1e3 * figures['ttft']:,.0f}",
        f"{figures['throughput']:,.0f}",
        f"{figures['users']:.0f}",
        "yes, surely" if answer.surely else "yes" if answer.meets else "no",
        f"{100 * (answer.margin - 1):+.0f} %",
    )


def to_json(goal: str, answers: Sequence[Answer]) -> str:
    """The layouts in the text's order; a price of null is unknown."""
    records = [
        {
            "system": answer.scenario.system.name,
            "data_parallel": answer.scenario.system.data_parallel,
            "chips": answer.scenario.system.num_chips,
            "batch_size": answer.scenario.batch_size,
            "board_price": answer.price if math.isfinite(answer.price) else None,
            **answer.figures,
            "meets": answer.meets,
            "meets_at_low_end": answer.surely,
            "margin": answer.margin,
        }
        for answer in answers
    ]
    return json.dumps({"goal": goal, "answers": records}, indent=2) + "\n"
