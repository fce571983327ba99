"""A run in the column layout of tt-metal's device profiler, which `tt-perf-report` reads; and a profile beside a run.

Signposts "prefill" and "decode" part the two phases, so that `tt-perf-report run.csv` shows the decode step and
`--start-signpost prefill --end-signpost decode` the prompt. The rows are those of one chip: all chips run the same.

Source of the layout: tt-perf-report 1.4 (perf_report.py), format v2.1.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import InputError, printable, read_csv
from ttsim.kernels.matmul import MAX_BLOCK
from ttsim.kernels.shapes import largest_divisor, tiles
from ttsim.meshes.systems import System
from ttsim.numerics.formats import TILE
from ttsim.ops.core import array_shape
from ttsim.pricing.describe import in_l1, matrix_shape
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.schedule import Phase, Run, schedule
from ttsim.ui import text
from ttsim.ui.document import Document
from ttsim.ui.table import Cell, Column, Paragraph, Table

_TYPES = {"bf16": "BFLOAT16", "bfp8": "BFLOAT8_B", "bfp4": "BFLOAT4_B", "bfp2": "BFLOAT2_B", "fp32": "FLOAT32"}
_FIDELITIES = {"LOFI": "LoFi", "HIFI2": "HiFi2", "HIFI3": "HiFi3", "HIFI4": "HiFi4"}
_TENSORS = ("INPUT_0", "INPUT_1", "OUTPUT_0")
_SIDES = ("W", "Z", "Y", "X")

COLUMNS = (
    "OP CODE",
    "OP TYPE",
    "GLOBAL CALL COUNT",
    "DEVICE ID",
    "DEVICE ARCH",
    "ATTRIBUTES",
    "MATH FIDELITY",
    "CORE COUNT",
    "AVAILABLE WORKER CORE COUNT",
    "HOST START TS",
    "HOST END TS",
    "HOST DURATION [ns]",
    "DEVICE FW DURATION [ns]",
    "DEVICE KERNEL DURATION [ns]",
    "OP TO OP LATENCY [ns]",
    *(
        f"{t}_{field}"
        for t in _TENSORS
        for field in (*(f"{s}_PAD[LOGICAL]" for s in _SIDES), "LAYOUT", "DATATYPE", "MEMORY")
    ),
    "METAL TRACE ID",
    "SIMULATED KERNEL",
)


def to_csv(scenario: Scenario, constants: Mapping[str, Any]) -> str:
    """The prompt and one decode step as the profiler would have written them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    count = 0
    for phase in schedule(scenario, constants):
        writer.writerow({"OP CODE": phase.name, "OP TYPE": "signpost", "HOST START TS": _ns(phase.start)})
        for row in _rows(phase, scenario.system):
            count += 1
            writer.writerow({"GLOBAL CALL COUNT": 1024 * count, **row})
    return out.getvalue()


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)


def _rows(phase: Phase, system: System) -> Iterator[dict[str, Any]]:
    machine = phase.machine
    before = phase.start
    for run in phase.runs:
        kernel = run.kernel
        yield {
            "OP CODE": kernel.op_code,
            "OP TYPE": "tt_dnn_device",
            "DEVICE ID": 0,
            "DEVICE ARCH": arch_of(system),
            "ATTRIBUTES": _attributes(run),
            "MATH FIDELITY": _FIDELITIES.get(kernel.fidelity, "HiFi4"),
            "CORE COUNT": kernel.cores or machine.chip.cores,
            "AVAILABLE WORKER CORE COUNT": machine.chip.cores,
            "HOST START TS": _ns(run.start) + 1,  # after the signpost of its phase
            "HOST END TS": _ns(run.end) + 1,
            "HOST DURATION [ns]": _ns(run.time),
            "DEVICE FW DURATION [ns]": _ns(run.time),
            "DEVICE KERNEL DURATION [ns]": _ns(run.time),
            "OP TO OP LATENCY [ns]": _ns(max(run.start - before, 0.0)),
            "METAL TRACE ID": 0 if run.traced else "",
            "SIMULATED KERNEL": kernel.name,
            **_tensors(run),
        }
        before = run.end


def arch_of(system: System) -> str:
    """What tt-perf-report calls the chip: "wormhole_b0", "blackhole", or "p100" for its seven banks."""
    if system.chip.family == "wormhole":
        return "wormhole_b0"
    return "p100" if "p100" in system.chip.name else "blackhole"


def _attributes(run: Run) -> str:
    if run.kernel.name != "matmul (DRAM-sharded)":
        kind = {"matmul (2-D mcast)": "MultiCast", "matmul (1-D mcast)": "MultiCast1D"}.get(run.kernel.name)
        return f"{{'program_config': 'MatmulMultiCoreReuse{kind}ProgramConfig()'}}" if kind else ""
    k, cores = array_shape(run.call.inputs[0])[-1], run.call.attributes.get("cores") or 1
    block = largest_divisor(max(tiles(k) // cores, 1), MAX_BLOCK)
    config = f"MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(in0_block_w={block};per_core_M=1)"
    return f"{{'program_config': '{config}'}}"


def _tensors(run: Run) -> dict[str, Any]:
    """Shapes, types and places of the first inputs and the output."""
    call, attributes = run.call, run.call.attributes
    place = "L1_WIDTH_SHARDED" if in_l1(call) else "DRAM_INTERLEAVED"
    own = str(attributes.get("format") or attributes.get("out_format") or "bf16")
    in_format = str(attributes.get("in_format") or ("bf16" if "weight_format" in attributes else own))
    matrix = matrix_shape(call, run.kernel)
    if matrix:
        m, k, n = matrix
        rows = math.prod(array_shape(call.inputs[0])[:-1])
        weight_place = "DRAM_WIDTH_SHARDED" if run.kernel.name == "matmul (DRAM-sharded)" else "DRAM_INTERLEAVED"
        weight = str(attributes["weight_format"])
        return {
            **_tensor("INPUT_0", (rows, k), in_format, place),
            **_tensor("INPUT_1", (k, n), weight, weight_place),
            **_tensor("OUTPUT_0", (rows if m >= rows else m, n), str(attributes["out_format"]), place),
        }
    shapes = [array_shape(value) for value in call.inputs[:2]]
    cached = "kv_format" in attributes or call.name in ("update_cache", "fill_cache", "read_cache")
    result: dict[str, Any] = {}
    for i, shape in enumerate(shapes):
        is_cache = cached and i == (0 if "kv_format" not in attributes else 1)
        table = call.name == "embedding" and i == 1
        fmt = str(attributes.get("kv_format", own)) if is_cache else in_format
        result |= _tensor(_TENSORS[i], shape, fmt, "DRAM_INTERLEAVED" if is_cache or table else place)
    if "Matmul" in run.kernel.op_code and len(shapes) < 2:  # the rows are picked by a product from the left
        picked = (call.outputs[0].shape[0], math.prod(shapes[0][:-1]))
        result |= _tensor("INPUT_0", picked, own, "DRAM_INTERLEAVED") | _tensor("INPUT_1", shapes[0], own, place)
    return result | _tensor("OUTPUT_0", tuple(call.outputs[0].shape), own, place)


def _tensor(name: str, shape: Sequence[int], fmt: str, place: str) -> dict[str, Any]:
    sides = [*([1] * (4 - len(shape))), *shape][-4:]
    padded = [*sides[:2], *(tiles(side) * TILE for side in sides[2:])]
    columns = {f"{name}_{s}_PAD[LOGICAL]": f"{p}[{n}]" for s, p, n in zip(_SIDES, padded, sides, strict=True)}
    return columns | {
        f"{name}_LAYOUT": "TILE",
        f"{name}_DATATYPE": _TYPES.get(fmt, "BFLOAT16"),
        f"{name}_MEMORY": f"DEV_0_{place}",
    }


# A profile beside a run

_LONGEST = 1e15  # ns of one op: eleven days


@dataclass(frozen=True)
class ProfiledOp:
    """One op of a profile: seconds of its kernel and of the gap before it."""

    code: str
    shape: str
    time: float
    gap: float


def read_profile(path: str, phase: str) -> list[ProfiledOp]:
    """The device ops of a profiler's CSV, those after the last signpost or after the one named like the phase.

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
    named = [i for i in signposts if rows[i]["OP CODE"] == phase]
    if not signposts:
        return rows
    first = named[0] if named else signposts[-1]
    last = next((i for i in signposts if i > first), len(rows))
    return rows[first + 1 : last]


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
    columns = list(_rows(phase, phase.machine.system))
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
