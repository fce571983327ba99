"""A run as a Chrome trace, which ui.perfetto.dev and chrome://tracing open.

One process; a track for the host and one for each chip of a replica; a slice for each kernel inside one for its layer;
flow arrows tie the slices of one collective across chips. Times are microseconds.

Source of the format: "Trace Event Format" (Google), JSON object format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.kernels.machine import Machine
from ttsim.ops.core import OpCall
from ttsim.pricing.describe import formats_of, shape_of
from ttsim.scenarios.question import Question, as_scenario
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.schedule import Phase, Run, schedule

_PID = 1
_HOST = 0  # track of the host; chip i has track i + 1


def timeline(question: Question | Scenario, constants: Mapping[str, Any] | None = None) -> str:
    """The prompt and one decode step of a run as Chrome's trace format in JSON, which ui.perfetto.dev opens.

    Args:
      question: or its scenario.
      constants: of the cost model, by default the calibrated ones.
    """
    scenario = as_scenario(question)
    constants = load_constants() if constants is None else constants
    phases = schedule(scenario, constants)
    events = [*_names(scenario), *(event for phase in phases for event in _phase(phase, constants))]
    about = {
        "title": f"{scenario.label} (simulated by ttsim)",
        "precision": scenario.precision.to_text(),
        "software": scenario.software.date.isoformat(),
        "replicas": f"chips of one of {scenario.system.data_parallel}",
    }
    trace = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}
    return json.dumps(trace, separators=(",", ":")) + "\n"


def _names(scenario: Scenario) -> Iterator[dict[str, Any]]:
    yield _meta("process_name", _HOST, {"name": f"{scenario.label} (simulated)"})
    chips = scenario.system.chips_per_replica
    for track in range(chips + 1):
        name = "host" if track == _HOST else f"chip {track - 1}"
        yield _meta("thread_name", track, {"name": name})
        yield _meta("thread_sort_index", track, {"sort_index": track})


def _meta(name: str, track: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": _PID, "tid": track, "name": name, "args": args}


def _slice(name: str, track: int, category: str, start: float, time: float, args: Any = None) -> dict[str, Any]:
    event = {"ph": "X", "pid": _PID, "tid": track, "name": name, "cat": category}
    event |= {"ts": round(1e6 * start, 4), "dur": round(1e6 * time, 4)}
    return event | {"args": args} if args else event


def _phase(phase: Phase, constants: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for work in phase.host:
        yield _slice(f"{phase.name}: {work.name}", _HOST, "host", work.start, work.time)
    chips = phase.machine.system.chips_per_replica
    blocks = list(_blocks(phase))
    described: dict[int, tuple[str, dict[str, Any]]] = {}
    for chip in range(chips):
        yield _slice(phase.name, chip + 1, "phase", phase.start, phase.end - phase.start)
        for name, start, end in blocks:
            yield _slice(name, chip + 1, "block", start, end - start)
        for run in phase.runs:
            if id(run.kernel) not in described:
                described[id(run.kernel)] = _name(run), _arguments(run, constants)
            name, arguments = described[id(run.kernel)]
            category = "collective" if "axis" in run.call.attributes else "op"
            yield _slice(name, chip + 1, category, run.start, run.time, arguments)
    yield from _flows(phase)


def _blocks(phase: Phase) -> Iterator[tuple[str, float, float]]:
    """(name, start, end) of each repetition of a block."""
    current, start, end = "", 0.0, 0.0
    for run in phase.runs:
        if run.where != current:
            if current:
                yield current, start, end
            current, start = run.where, run.start
        end = run.end
    if current:
        yield current, start, end


def _name(run: Run) -> str:
    return f"{run.call.label}: {run.kernel.name}" if run.kernel.name != run.call.name else run.call.name


def _arguments(run: Run, constants: Mapping[str, Any]) -> dict[str, Any]:
    kernel = run.kernel
    arguments = {
        "shape": shape_of(run.call, kernel),
        "formats": formats_of(run.call),
        "bytes": int(np.mean(kernel.bytes)),
        "flops": int(np.mean(kernel.flops)),
        "limit": kernel.binding(constants),
        "fidelity": kernel.fidelity,
        "cores": kernel.cores,
    }
    return {key: value for key, value in arguments.items() if value}


def _flows(phase: Phase) -> Iterator[dict[str, Any]]:
    """Arrows from the first chip of each group of a collective to the others."""
    number = 0
    for run in phase.runs:
        if "axis" not in run.call.attributes:
            continue
        middle = run.start + run.time / 2
        for group in groups_of(run.call, phase.machine):
            number += 1
            for i, chip in enumerate(group):
                kind = "s" if i == 0 else "f" if i == len(group) - 1 else "t"
                event = {"ph": kind, "pid": _PID, "tid": chip + 1, "name": run.call.name, "cat": "collective"}
                event |= {"ts": round(1e6 * middle, 4), "id": f"{phase.name}-{number}"}
                yield event | {"bp": "e"} if kind == "f" else event


def groups_of(call: OpCall, machine: Machine) -> list[list[int]]:
    """Chips of one replica that a collective joins, by group: all of a line or ring, a row or column of a Galaxy."""
    system = machine.system
    chips = np.arange(system.chips_per_replica).reshape(system.grid)
    axis = system.axis_names[1:].index(call.attributes["axis"])
    groups = np.moveaxis(chips, axis, -1).reshape(-1, system.grid[axis])
    return [[int(chip) for chip in group] for group in groups if len(group) > 1]
