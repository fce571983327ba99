"""The answers to a goal as people read them: the cheapest that meets it, then all layouts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttsim.explore.goal import Answer
from ttsim.hardware.boards import YEARS
from ttsim.ui.document import Document
from ttsim.ui.launches import launches
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_COLUMNS = (
    Column("system"),
    Column("chips", priority=3),
    Column("boards", "$", 0, priority=1),
    Column("$/Mtok", "", 2, scale=1e6, priority=2, key="price_per_token"),
    Column("kWh/Mtok", "", 2, scale=1e6 / 3.6e6, priority=8, key="energy_per_token"),
    Column("batch", priority=1),
    Column("precision", priority=5),
    Column("speed", "t/s/u", 1),
    Column("TTFT", "ms", 0, scale=1e3),
    Column("throughput", "t/s", 0, priority=4),
    Column("users", priority=6),
    Column("Top-1", "%", 1, priority=1),
    Column("meets", wrap=True),
    Column("margin", "%", 0, scale=100, signed=True),
)
_LAUNCHES = 3  # choices whose launch lines text shows; every format for programs has all
_NOTES = (
    "yes, surely: also at the low end of the 80 % intervals; yes: by the best estimate only; yes, unchecked: no "
    "measurement tells how far off the figures of this chip may be. margin: how far the tightest condition is met.",
    "prices: list prices of the boards alone, 2025-26; the host comes on top. Systems without one come last.",
)


def document(goal: str, answers: Sequence[Answer], years: float = YEARS) -> Document:
    """The answers in every format; those that meet the goal come first, the cheapest first."""
    meanings = {
        "$/Mtok": f"boards' price over a million tokens, at {years:g} years of this load (--years), no power, no host",
        "kWh/Mtok": "energy of a million tokens at the boards' power limit, below which a load stays",
    }
    rows = [_cells(answer) for answer in answers]
    blocks: list[Block] = [
        Paragraph(headline(goal, answers), level=1),
        Table("", _COLUMNS, rows, notes=_NOTES if rows else (), meanings=meanings),
        *_launches(answers),
    ]
    records = [_record(answer) for answer in answers]
    return Document(headline(goal, answers), blocks, record={"goal": goal, "answers": records}, rows=records)


def _launches(answers: Sequence[Answer]) -> list[Block]:
    """How the first choices are started on hardware."""
    chosen = [answer for answer in answers if answer.meets and answer.launch][:_LAUNCHES]
    notes = dict.fromkeys(answer.unsaid for answer in chosen if answer.unsaid)
    return launches([(_name(answer), answer.launch) for answer in chosen], [f"{note}." for note in notes])


def _name(answer: Answer) -> str:
    return f"{answer.scenario.system.label}, batch {answer.scenario.batch_size}, {answer.precision} precision"


def headline(goal: str, answers: Sequence[Answer]) -> str:
    """The cheapest answer in words."""
    goal = ", ".join(part.strip() for part in goal.split(","))
    if not answers:
        return "the model fits on no system"
    meeting = [answer for answer in answers if answer.meets]
    if not meeting:
        nearest = max(answers, key=lambda answer: answer.margin)
        reached = f"{nearest.scenario.system.label}, reaches {100 * nearest.margin:.0f} %"
        return f"{goal}: no system meets it; the nearest, {reached}"
    best = meeting[0]
    price = f"boards of about {best.price:,.0f} $" if math.isfinite(best.price) else "no public price"
    sure = "also at the low end of its intervals" if best.surely else "but not at the low end of its intervals"
    return f"{goal}: {_name(best)} ({price}), {sure}"


def _cells(answer: Answer) -> tuple[object, ...]:
    system, figures = answer.scenario.system, answer.figures
    meets = "yes, surely" if answer.surely else "no"
    if answer.meets and not answer.surely:
        meets = "yes" if answer.checked else "yes, unchecked"
    return (
        system.label,
        system.num_chips,
        answer.price if math.isfinite(answer.price) else "?",
        answer.token_price,
        answer.energy_bound,
        answer.scenario.batch_size,
        answer.precision,
        figures["speed"],
        figures["ttft"],
        figures["throughput"],
        figures["users"],
        figures["top1"],
        Cell(answer.meets, meets, "good" if answer.surely else "" if answer.meets else "faint"),
        answer.margin - 1,
    )


def _record(answer: Answer) -> dict[str, object]:
    """A layout in SI units; a price of null is unknown."""
    system = answer.scenario.system
    return {
        "system": system.name,
        "data_parallel": system.data_parallel,
        "chips": system.num_chips,
        "batch_size": answer.scenario.batch_size,
        "precision": answer.precision,
        "board_price": answer.price if math.isfinite(answer.price) else None,
        **answer.figures,
        "meets": answer.meets,
        "meets_at_low_end": answer.surely,
        "checked": answer.checked,
        "margin": answer.margin,
        "price_per_token": answer.token_price,
        "energy_per_token_at_most": answer.energy_bound,
        "launch": answer.launch,
    }
