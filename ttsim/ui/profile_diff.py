"""A measured profile beside a simulated run: both as the device profiler lists ops, and where they part."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import InputError, printable, read_csv
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.schedule import Phase, schedule
from ttsim.ui import text
from ttsim.ui.document import Document
from ttsim.ui.perf_report import profile_rows
from ttsim.ui.table import Cell, Column, Paragraph, Table

_LONGEST = 1e15  # ns of one op: eleven days


@dataclass(frozen=True)
class ProfiledOp:
    """One op of a profile: seconds of its kernel and of the gap before it."""

    code: str
    shape: str
    time: float
    gap: float


def read_profile(path: str, phase: str) -> list[ProfiledOp]:
    """The device ops of a profiler's CSV: those of the signpost named like the phase ("decode", "decode_start").

    Without such a name: those after the last signpost that has any.

    Of several devices, collectives take the mean of their times and other ops the longest, as tt-perf-report does.

    Raises:
      InputError: the file isn't such a CSV, or holds no device ops.
    """
    needed = ("OP CODE", "OP TYPE", "DEVICE KERNEL DURATION [ns]")
    try:
        rows = read_csv(path, needed)
    except InputError as error:
        raise InputError(f"{error}: no ops CSV of the device profiler") from None
    devices: dict[str, list[ProfiledOp]] = {}
    for row in _window(rows, phase):
        time = _number(row.get("DEVICE KERNEL DURATION [ns]"))
        if row["OP TYPE"] == "tt_dnn_device" and time is not None:
            op = ProfiledOp(
                printable(row["OP CODE"].strip()) or "(no op code)",
                _profiled_shape(row),
                1e-9 * time,
                1e-9 * (_number(row.get("OP TO OP LATENCY [ns]")) or 0),
            )
            devices.setdefault(row.get("DEVICE ID") or "0", []).append(op)
    if not devices:
        raise InputError(f"{printable(path)}: no device ops with a kernel duration after the last signpost")
    return _merged(list(devices.values()))


def _window(rows: Sequence[dict[str, str]], phase: str) -> Sequence[dict[str, str]]:
    signposts = [i for i, row in enumerate(rows) if row["OP TYPE"] == "signpost"]
    if not signposts:
        return rows
    windows = [rows[first + 1 : last] for first, last in itertools.pairwise([*signposts, len(rows)])]
    named = (window for i, window in zip(signposts, windows, strict=True) if _opens(rows[i]["OP CODE"], phase))
    filled = (window for window in reversed(windows) if any(row["OP TYPE"] == "tt_dnn_device" for row in window))
    return next(named, None) or next(filled, windows[-1])


def _opens(signpost: str, phase: str) -> bool:
    """Whether a signpost's name says that this phase begins: "decode", "Decode_start", not "decode-end"."""
    words = set(re.split(r"[^a-z0-9]+", signpost.casefold()))
    return phase in words and words.isdisjoint(("end", "stop", "finish", "done"))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number <= _LONGEST else None


def _profiled_shape(row: Mapping[str, str]) -> str:
    """M x K x N of a matmul, or rows x columns of the first input, padded."""

    def side(tensor: str, name: str) -> int:
        cell = row.get(f"{tensor}_{name}_PAD[LOGICAL]") or row.get(f"{tensor}_{name}") or ""
        digits = re.match(r"[0-9]{1,12}(?=[.\[]|$)", cell)
        return int(digits[0]) if digits else 1

    m, k = side("INPUT_0", "Y"), side("INPUT_0", "X")
    if "Matmul" in row["OP CODE"]:
        return f"{m} x {k} x {side('INPUT_1', 'X')}"
    return f"{m} x {k}"


def _merged(devices: Sequence[Sequence[ProfiledOp]]) -> list[ProfiledOp]:
    first = devices[0]
    if any(len(other) != len(first) for other in devices):
        return list(first)
    merged = []
    for ops in zip(*devices, strict=True):
        times = [op.time for op in ops]
        time = float(np.mean(times)) if "Gather" in ops[0].code or "Reduce" in ops[0].code else max(times)
        merged.append(ProfiledOp(ops[0].code, ops[0].shape, time, ops[0].gap))
    return merged


@dataclass(frozen=True)
class Difference:
    """One kind of op (code and shape) in a run and in a profile; 0 runs where one lacks it."""

    code: str
    shape: str
    simulated: float
    measured: float
    simulated_count: int
    measured_count: int


_FAMILIES = {
    "AllGatherAsync": "AllGather",
    "Binary": "BinaryNg",
    "ReduceScatterMinimalAsync": "ReduceScatter",
    "SDPA": "ScaledDotProductAttention",
    "SdpaDecode": "ScaledDotProductAttentionDecode",
}


def family(code: str) -> str:
    """An op code without what versions of tt-metal change about it: "BinaryNgDeviceOperation" is "BinaryNg"."""
    name = code.split()[0].removesuffix("DeviceOperation").removesuffix("Operation")
    return _FAMILIES.get(name, name)


def differences(simulated: Sequence[ProfiledOp], measured: Sequence[ProfiledOp]) -> list[Difference]:
    """Ops by code, and matmuls also by shape, the largest difference first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for side, ops in enumerate((simulated, measured)):
        for op in ops:
            code = family(op.code)
            key = code, op.shape if "Matmul" in code else ""
            entry = sums.setdefault(key, [0.0, 0.0, 0, 0])
            entry[side] += op.time
            entry[2 + side] += 1
    found = [Difference(code, shape, a, b, int(n), int(m)) for (code, shape), (a, b, n, m) in sums.items()]
    return sorted(found, key=lambda d: -abs(d.simulated - d.measured))


def simulated_ops(phase: Phase) -> list[ProfiledOp]:
    """A phase as a profile would show it."""
    columns = list(profile_rows(phase, phase.machine.system))
    return [
        ProfiledOp(
            r["OP CODE"], _profiled_shape(r), 1e-9 * r["DEVICE KERNEL DURATION [ns]"], 1e-9 * r["OP TO OP LATENCY [ns]"]
        )
        for r in columns
    ]


def _sequence(simulated: Sequence[ProfiledOp], measured: Sequence[ProfiledOp]) -> str:
    """Where the order of ops first differs, in words."""

    def name(op: ProfiledOp) -> str:
        code = family(op.code)
        return f"{code} {op.shape}" if "Matmul" in code else code

    for i, (ours, theirs) in enumerate(zip(simulated, measured, strict=False)):
        if name(ours) != name(theirs):
            return f"the sequences part at op {i + 1}: {name(ours)} here, {name(theirs)} there"
    if len(simulated) != len(measured):
        longer = "simulation" if len(simulated) > len(measured) else "profile"
        return f"the sequences agree up to op {min(len(simulated), len(measured))}, where only the {longer} goes on"
    return "the sequences of ops are the same"


def diff(scenario: Scenario, constants: Mapping[str, Any], path: str, phase: str = "decode") -> Document:
    """A run and a profile lined up op by op, and where they part."""
    measured = read_profile(path, phase)
    prompt, step = schedule(scenario, constants)
    simulated = simulated_ops(step if phase == "decode" else prompt)
    found = differences(simulated, measured)
    total = sum(abs(d.simulated - d.measured) for d in found) or 1.0
    ours, theirs = sum(op.time for op in simulated), sum(op.time for op in measured)
    gaps = [sum(op.gap for op in ops[1:]) for ops in (simulated, measured)]
    head = (
        f"{scenario.label}, {phase}: simulated kernels {text.duration(ours)} in {len(simulated):,} ops, "
        f"{Path(path).name} {text.duration(theirs)} in {len(measured):,} ({ours / theirs:.2f} x); "
        f"gaps {text.duration(gaps[0])} and {text.duration(gaps[1])}"
    )
    where = f"{_parting(found)}; {_sequence(simulated, measured)}"
    columns = (
        Column("op"),
        Column("shape", priority=1),
        Column("simulated", right=True),
        Column("measured", right=True),
        Column("count sim.", priority=2),
        Column("count meas.", priority=2),
        Column("sim/meas", digits=2),
        Column("part of the gap", "%", 0, scale=100),
    )
    rows = [
        (
            d.code,
            d.shape,
            Cell(d.simulated, text.duration(d.simulated) if d.simulated_count else ""),
            Cell(d.measured, text.duration(d.measured) if d.measured_count else ""),
            d.simulated_count or None,
            d.measured_count or None,
            d.simulated / d.measured if d.measured and d.simulated_count else None,
            abs(d.simulated - d.measured) / total,
        )
        for d in found
    ]
    ops = [dataclasses.asdict(d) for d in found]
    record = {
        "phase": phase,
        "simulated": {"time": ours, "ops": len(simulated), "gaps": gaps[0]},
        "measured": {"time": theirs, "ops": len(measured), "gaps": gaps[1], "file": path},
        "regression": theirs / ours - 1,
        "where": where,
        "ops": ops,
    }
    return Document(head, [Paragraph(head, level=1), Paragraph(where), Table("", columns, rows)], record, ops)


def _parting(found: Sequence[Difference]) -> str:
    """Where run and profile differ most, in words."""
    part = next((d for d in found if d.simulated != d.measured), None)
    if part is None:
        return "they agree op by op"
    if not part.measured_count or not part.simulated_count:
        why = f"only the {'profile' if part.measured_count else 'simulation'} has it"
    elif part.simulated_count != part.measured_count:
        why = f"it runs {part.simulated_count} times here and {part.measured_count} times there"
    else:
        here, there = (text.duration(t / part.measured_count) for t in (part.simulated, part.measured))
        why = f"each takes {here} here and {there} there"
    return f"they part most at {f'{part.code} {part.shape}'.strip()}: {why}"
