"""Two runs side by side, op by op: where they part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.explore.estimate import Estimate, estimate, record
from ttsim.files.reading import InputError, expect, number, printable, read_json
from ttsim.scenarios.question import Question, parse_changes
from ttsim.scenarios.shown import Shown

_LARGEST = 1e18  # of a figure in a file


@dataclass(frozen=True)
class OpPair:
    """One op of two runs.

    Attributes:
      phase, label: which op.
      left, right: seconds of all its runs in the phase. left_count, right_count: how often it runs, 0 where a run
        lacks it. left_limit, right_limit: what binds the kernel of it that takes longest.
    """

    phase: str
    label: str
    left: float
    right: float
    left_count: int
    right_count: int
    left_limit: str = ""
    right_limit: str = ""

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
    for key in ("top1", "top5"):  # records of earlier versions have none
        if run.get(key) is not None:
            number(run, key, origin, least=0, most=100)
    for key in ("data_parallel", "batch_size", "prompt_length"):
        number(run, key, origin, kind=int, least=1, most=_LARGEST)
    for key in ("speed", "ttft", "throughput", "latency"):
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
            op["limit"] = printable(expect(op.get("limit", ""), str, "limit", place, "a text"))
            number(op, "time", place, least=0, most=_LARGEST)
            number(op, "count", place, least=0, most=_LARGEST)
    return run


def pairs(left: Mapping[str, Any], right: Mapping[str, Any], phase: str) -> list[OpPair]:
    """The ops of a phase in both runs, the largest difference first. Ops are told by label."""
    found: dict[str, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for side, run in enumerate((left, right)):
        for op in run[phase]["ops"]:
            found.setdefault(op.get("label") or op["op"], ([], []))[side].append(op)
    result = []
    for label, sides in found.items():
        times = [sum(op["time"] for op in ops) for ops in sides]
        counts = [sum(op["count"] for op in ops) for ops in sides]
        limits = [max(ops, key=lambda op: op["time"])["limit"] if ops else "" for ops in sides]
        result.append(OpPair(phase, label, *times, *counts, *limits))
    return sorted(result, key=lambda pair: -abs(pair.difference))


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Two runs' records (see `ttsim.explore.estimate.record`) and each phase's ops, the largest difference first."""

    left: Mapping[str, Any]
    right: Mapping[str, Any]
    ops: Mapping[str, list[OpPair]]

    @property
    def regression(self) -> float:
        """What the second run loses against the first, in speed or TTFT: a fraction, negative if it gains in both."""
        slower = self.left["speed"] / self.right["speed"]
        later = self.right["ttft"] / self.left["ttft"]
        return float(max(slower, later)) - 1

    def __repr__(self) -> str:
        return f"<Comparison: {name_of(self.left)} and {name_of(self.right)}>"


def compare(left: Mapping[str, Any] | Estimate, right: Mapping[str, Any] | Estimate) -> Comparison:
    """Puts two runs side by side, op by op.

    Args:
      left, right: estimates, or their records as `--format=json` writes them.
    """
    a, b = (record(run) if isinstance(run, Estimate) else run for run in (left, right))
    return Comparison(a, b, {phase: pairs(a, b, phase) for phase in ("decode", "prefill")})


def name_of(run: Mapping[str, Any]) -> str:
    degree = f" DP={run['data_parallel']}" if run["data_parallel"] > 1 else ""
    return f"{run['model']} {run['device']}{degree} batch {run['batch_size']} prompt {run['prompt_length']}"
