"""The answers to a goal as people read them: the cheapest that meets it, then all layouts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttsim.explore.goal import Answer
from ttsim.ui.table import Block, Cell, Column, Document, Paragraph, Table

_COLUMNS = (
    Column("system"),
    Column("chips", priority=3),
    Column("boards", "$", 0, priority=1),
    Column("batch", priority=2),
    Column("precision", priority=5),
    Column("speed", "t/s/u", 1),
    Column("TTFT", "ms", 0, scale=1e3),
    Column("throughput", "t/s", 0, priority=4),
    Column("users", priority=6),
    Column("Top-1", "%", 1, priority=1),
    Column("meets", wrap=True),
    Column("margin", "%", 0, scale=100, signed=True),
)
_NOTES = (
    "yes, surely: also at the low end of the 80 % intervals; yes: by the best estimate only; yes, unchecked: no "
    "measurement tells how far off the figures of this chip may be. margin: how far the tightest condition is met.",
    "prices: list prices of the boards alone, 2025-26; the host comes on top. Systems without one come last.",
)


def document(goal: str, answers: Sequence[Answer]) -> Document:
    """The answers in every format; those that meet the goal come first, the cheapest first."""
    rows = [_cells(answer) for answer in answers]
    blocks: list[Block] = [
        Paragraph(headline(goal, answers), level=1),
        Table("", _COLUMNS, rows, notes=_NOTES if rows else ()),
    ]
    records = [_record(answer) for answer in answers]
    return Document(headline(goal, answers), blocks, record={"goal": goal, "answers": records}, rows=records)


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
    layout = f"{best.scenario.system.label}, batch {best.scenario.batch_size}, {best.precision} precision"
    return f"{goal}: {layout} ({price}), {sure}"


def _cells(answer: Answer) -> tuple[object, ...]:
    system, figures = answer.scenario.system, answer.figures
    meets = "yes, surely" if answer.surely else "no"
    if answer.meets and not answer.surely:
        meets = "yes" if answer.checked else "yes, unchecked"
    return (
        system.label,
        system.num_chips,
        answer.price if math.isfinite(answer.price) else "?",
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
    }
