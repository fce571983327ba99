"""Two runs side by side, op by op: where they part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.files.reading import InputError, expect, number, printable, read_json
from ttsim.scenarios.question import Question, parse_changes
from ttsim.ui import text
from ttsim.ui.estimate import estimate, record

_LARGEST = 1e18  # of a figure in a file


@dataclass(frozen=True)
class OpPair:
    """One op of two runs: seconds of all its runs in a phase, and how often it runs (0 where a run lacks it)."""

    phase: str
    label: str
    left: float
    right: float
    left_count: int
    right_count: int

    @property
    def difference(self) -> float:
        return self.right - self.left


def run_of(spec: str, base: Question, constants: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The record of a run.

    Args:
      spec: changes to the question ("device=N300,batch_size=32"), or a file that `--format=json` wrote.
      base: the question that is changed.
    """
    if spec.lower().endswith(".json") or os.path.isfile(spec):
        return _checked(read_json(spec), spec)
    return record(estimate(base.change(parse_changes(spec)).scenario(), constants, advice=False))


def _checked(run: dict[str, Any], origin: str) -> dict[str, Any]:
    """A record from a file: everything that a comparison shows is there and a number or a text."""
    if not {"decode", "prefill", "speed", "ttft"} <= run.keys():
        raise InputError(f"{origin}: not an estimate in JSON (write one with --format=json --out={origin})")
    for key in ("model", "device", "precision"):
        run[key] = printable(expect(run.get(key), str, key, origin, "a text"))
    for key in ("data_parallel", "batch_size", "prompt_length"):
        number(run, key, origin, kind=int, least=1, most=_LARGEST)
    for _, key, _ in FIGURES:
        number(run, key, origin, least=1e-12, most=_LARGEST)
    memory = expect(run.get("memory"), dict, "memory", origin, "an object")
    for key in ("used", "weights", "kv_cache"):
        number(memory, key, f"{origin}: memory", least=0, most=_LARGEST)
    for phase in ("decode", "prefill"):
        found = expect(run[phase], dict, phase, origin, "an object")
        number(found, "time", f"{origin}: {phase}", least=0, most=_LARGEST)
        for i, op in enumerate(expect(found.get("ops"), list, f"{phase} ops", origin, "a list")):
            place = f"{origin}: op {i} of {phase}"
            expect(op, dict, "it", place, "an object")
            label = op.get("label") or op.get("op")
            op["label"] = printable(expect(label, str, "label", place, "a text"))
            number(op, "time", place, least=0, most=_LARGEST)
            number(op, "count", place, least=0, most=_LARGEST)
    return run


def pairs(left: Mapping[str, Any], right: Mapping[str, Any], phase: str) -> list[OpPair]:
    """The ops of a phase in both runs, the largest difference first. Ops are told by label."""
    sums: dict[str, list[float]] = {}
    for side, run in enumerate((left, right)):
        for op in run[phase]["ops"]:
            entry = sums.setdefault(op.get("label") or op["op"], [0.0, 0.0, 0, 0])
            entry[side] += op["time"]
            entry[2 + side] += op["count"]
    found = [OpPair(phase, label, a, b, int(n), int(m)) for label, (a, b, n, m) in sums.items()]
    return sorted(found, key=lambda pair: -abs(pair.difference))


def name_of(run: Mapping[str, Any]) -> str:
    degree = f" DP={run['data_parallel']}" if run["data_parallel"] > 1 else ""
    return f"{run['model']} {run['device']}{degree} batch {run['batch_size']} prompt {run['prompt_length']}"


FIGURES = (
    ("speed, t/s/u", "speed", 1.0),
    ("TTFT, ms", "ttft", 1e3),
    ("throughput, t/s", "throughput", 1.0),
    ("request latency, s", "latency", 1.0),
)


def figure_rows(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, left, right, change) of the headline."""
    rows = []
    for name, key, factor in FIGURES:
        a, b = factor * left[key], factor * right[key]
        rows.append((name, f"{a:,.2f}", f"{b:,.2f}", f"{100 * (b / a - 1):+.1f} %"))
    for name, key in (("DRAM of a chip, GB", "used"), ("weights, GB", "weights"), ("KV cache, GB", "kv_cache")):
        a, b = left["memory"][key] / 1e9, right["memory"][key] / 1e9
        rows.append((name, f"{a:,.2f}", f"{b:,.2f}", f"{100 * (b / a - 1):+.1f} %" if a else ""))
    return rows


def op_rows(found: Sequence[OpPair]) -> list[tuple[str, ...]]:
    """(op, count, count, left ms, right ms, difference ms, ratio) of each pair."""

    def ms(seconds: float, count: int) -> str:
        return f"{1e3 * seconds:.3f}" if count else ""

    return [
        (
            pair.label,
            str(pair.left_count or ""),
            str(pair.right_count or ""),
            ms(pair.left, pair.left_count),
            ms(pair.right, pair.right_count),
            f"{1e3 * pair.difference:+.3f}",
            f"{pair.right / pair.left:.2f}" if pair.left and pair.right_count else "",
        )
        for pair in found
    ]


OP_HEADER = ("op", "count A", "count B", "A ms", "B ms", "B - A ms", "B/A")


def to_text(left: Mapping[str, Any], right: Mapping[str, Any], colour: bool = False) -> str:
    """Headline, then the ops of both phases by how much they differ."""
    lines = [
        text.paint(f"A: {name_of(left)}", text.BOLD, colour),
        text.paint(f"B: {name_of(right)}", text.BOLD, colour),
    ]
    for mark, run, other in (("A", left, right), ("B", right, left)):
        if run["precision"] != other["precision"]:
            lines += [text.paint(line, text.DIM, colour) for line in text.wrap(f"{mark}: {run['precision']}")]
    lines += ["", *text.columns([("", "A", "B", "B/A - 1"), *figure_rows(left, right)], right=(1, 2, 3))]
    for phase, what in (("decode", "decode step"), ("prefill", "prefill")):
        a, b = left[phase]["time"], right[phase]["time"]
        lines += ["", text.paint(f"{what}: {text.duration(a)} and {text.duration(b)}", text.BOLD, colour)]
        header, *body = text.columns([OP_HEADER, *op_rows(pairs(left, right, phase))], right=range(1, 7))
        lines += [text.paint(header, text.DIM, colour), *body]
    return "\n".join(lines) + "\n"


def to_markdown(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    lines = [
        f"# A: {name_of(left)}, B: {name_of(right)}",
        "",
        *_markdown(("", "A", "B", "change"), figure_rows(left, right)),
    ]
    for phase in ("decode", "prefill"):
        lines += ["", f"## {phase}", "", *_markdown(OP_HEADER, op_rows(pairs(left, right, phase)))]
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def to_json(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """{"a": run, "b": run, "ops": {phase: [...]}}."""
    ops = {
        phase: [
            {"label": p.label, "a": p.left, "b": p.right, "a_count": p.left_count, "b_count": p.right_count}
            for p in pairs(left, right, phase)
        ]
        for phase in ("decode", "prefill")
    }
    return json.dumps({"a": left, "b": right, "ops": ops}, indent=2) + "\n"


def to_csv(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """One line for each op of each phase; seconds."""
    lines = ["phase,op,a_count,b_count,a_seconds,b_seconds"]
    for phase in ("decode", "prefill"):
        for p in pairs(left, right, phase):
            lines.append(f"{phase},{p.label},{p.left_count},{p.right_count},{p.left:.9g},{p.right:.9g}")
    return "\n".join(lines) + "\n"
