"""Two runs side by side as people read them: the headline, then the ops of both phases by how much they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttsim.explore.compare import Comparison, OpPair, name_of
from ttsim.ui import text
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

PHASES = {"decode": "decode step", "prefill": "prefill"}
_FIGURES = (  # name, where the record has it, factor, decimals, whether the difference counts rather than the ratio
    ("speed, t/s/u", ("speed",), 1.0, 2, False),
    ("TTFT, ms", ("ttft",), 1e3, 2, False),
    ("throughput, t/s", ("throughput",), 1.0, 2, False),
    ("request latency, s", ("latency",), 1.0, 2, False),
    ("Top-1, %", ("top1",), 1.0, 1, True),
    ("Top-5, %", ("top5",), 1.0, 1, True),
    ("DRAM of a chip, GB", ("memory", "used"), 1e-9, 2, False),
    ("weights, GB", ("memory", "weights"), 1e-9, 2, False),
    ("KV cache, GB", ("memory", "kv_cache"), 1e-9, 2, False),
)


def document(comparison: Comparison) -> Document:
    """The comparison in every format."""
    left, right, found = comparison.left, comparison.right, comparison.ops
    blocks: list[Block] = [Paragraph(f"A: {name_of(left)}", "strong"), Paragraph(f"B: {name_of(right)}", "strong")]
    for mark, run, other in (("A", left, right), ("B", right, left)):
        if run["precision"] != other["precision"]:
            blocks.append(Paragraph(f"{mark}: {text.precision_text(run['precision'])}", "faint"))
    blocks.append(_headline(left, right))
    blocks += [_ops(phase, found[phase], left, right) for phase in PHASES]
    rows = [
        {"phase": phase, "op": p.label, "a_count": p.left_count, "b_count": p.right_count}
        | {"a_seconds": p.left, "b_seconds": p.right}
        for phase, each in found.items()
        for p in each
    ]
    ops = {
        phase: [
            {"label": p.label, "a": p.left, "b": p.right, "a_count": p.left_count, "b_count": p.right_count}
            for p in each
        ]
        for phase, each in found.items()
    }
    title = f"A: {name_of(left)}, B: {name_of(right)}"
    record = {"a": left, "b": right, "regression": comparison.regression, "ops": ops}
    return Document(title, blocks, record=record, rows=rows)


def _headline(left: Mapping[str, Any], right: Mapping[str, Any]) -> Table:
    rows = []
    for name, path, factor, digits, points in _FIGURES:
        a, b = (_figure(run, path) for run in (left, right))
        change = ""
        if a is not None and b is not None:
            change = f"{b - a:+.1f} points" if points else f"{100 * (b / a - 1):+.1f} %" if a else ""
        shown = (Cell(v, "" if v is None else f"{factor * v:,.{digits}f}") for v in (a, b))
        rows.append((name, *shown, change))
    columns = (Column("", key="figure"), Column("A"), Column("B"), Column("B against A", key="change", right=True))
    return Table("Headline", columns, rows)


def _figure(run: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = run
    for name in path:
        value = value.get(name)
    return None if value is None else float(value)


def _ops(phase: str, found: list[OpPair], left: Mapping[str, Any], right: Mapping[str, Any]) -> Table:
    columns = (
        Column("op"),
        Column("count A", priority=3),
        Column("count B", priority=3),
        Column("A", "ms", 3, scale=1e3),
        Column("B", "ms", 3, scale=1e3),
        Column("B - A", "ms", 3, scale=1e3, signed=True),
        Column("B/A", digits=2, priority=1),
        Column("limit A", priority=2),
        Column("limit B", priority=2),
    )
    rows = [
        (
            pair.label,
            pair.left_count or None,
            pair.right_count or None,
            pair.left if pair.left_count else None,
            pair.right if pair.right_count else None,
            pair.difference,
            pair.right / pair.left if pair.left and pair.right_count else None,
            pair.left_limit,
            pair.right_limit,
        )
        for pair in found
    ]
    times = [text.duration(run[phase]["time"]) for run in (left, right)]
    return Table(f"{PHASES[phase]}: {times[0]} and {times[1]}", columns, rows)
