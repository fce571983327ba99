"""A scenario priced once: seconds of a decode step and of a prompt, and of every kernel and piece of host work in them.

Reports, tables, timelines and comparisons are views on these values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.hardware.constants import CONSTANTS
from ttsim.hardware.quantities import NUMBER, Terms, average, factor_value
from ttsim.kernels.host import dispatch
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import Topology
from ttsim.numerics.fidelity import MathFidelity
from ttsim.pricing.describe import formats_of, shape_of
from ttsim.pricing.price import Cost, PricedKernel, kernel_seconds, price, totals
from ttsim.pricing.program import Program
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.shown import Shown

PHASES = {fidelity.name: fidelity.value for fidelity in MathFidelity}  # passes of the matrix engine by fidelity


@dataclass(frozen=True)
class OpTime:
    """One kernel of a program, with all the times that it runs.

    Attributes:
      op: the device op that launches it. kernel: its name. where: the block around it.
      count: how often it runs.
      time: seconds of all runs, without gaps.
      share: of the whole phase (device, gaps and host).
      bytes: of one run: DRAM traffic, or bytes over the links for a collective.
      flops: of one run.
      cores: that work. fidelity: of a matrix kernel.
      limit: what binds ("dram", "compute", "link", ..., "latency"; "dispatch" for gaps, "host" for the host's work).
      source: where the rule comes from.
      label: the op with its tensor group ("linear ff2"). shape, formats: of one run on one device, in words.
      possible_bandwidth: bytes per second of the chip's DRAM (collectives: of the links in use), at its peak.
      possible_flop_rate: FLOP per second of the cores that work, at their fidelity.
      constants: those of the cost model that the time is made of.
      fitted: share of the time that rests on fitted constants; the rest is sourced.
    """

    op: str
    kernel: str
    where: str
    count: int
    time: float
    share: float
    bytes: float
    flops: float
    cores: int
    fidelity: str
    limit: str
    source: str
    label: str = ""
    shape: str = ""
    formats: str = ""
    possible_bandwidth: float = 0.0
    possible_flop_rate: float = 0.0
    constants: tuple[str, ...] = ()
    fitted: float = 0.0

    @property
    def kind(self) -> str:
        """Where the time comes from: "sourced", "fitted", or "mixed" (5 to 95 % of it rest on fitted constants)."""
        return "sourced" if self.fitted < 0.05 else "fitted" if self.fitted > 0.95 else "mixed"

    @property
    def bandwidth(self) -> float:
        """Achieved bytes per second."""
        return self.bytes * self.count / self.time if self.time else 0.0

    @property
    def flop_rate(self) -> float:
        """Achieved FLOP per second."""
        return self.flops * self.count / self.time if self.time else 0.0


@dataclass(frozen=True)
class Breakdown(Shown):
    """Where the time of a phase goes.

    Attributes:
      time: seconds of the phase as a user sees it.
      ops: kernels and the host's work in program order, then the host's dispatch of untraced launches, and the gaps
        between kernels.
      overlapped: whether host and device work at the same time (prefill), so that the parts add up to more.
    """

    time: float
    ops: tuple[OpTime, ...]
    overlapped: bool

    def largest(self, count: int = 10) -> list[OpTime]:
        return sorted(self.ops, key=lambda op: -op.time)[:count]

    def by_limit(self) -> dict[str, float]:
        """Seconds by the limit that binds, the largest first."""
        totals: dict[str, float] = {}
        for op in self.ops:
            totals[op.limit] = totals.get(op.limit, 0.0) + op.time
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Limits:
    """Seconds of a phase, and of its parts by the limit that binds: a `Breakdown` without its ops."""

    time: float
    by_limit: Mapping[str, float]


def time_decode(scenario: Scenario, constants: Mapping[str, Any]) -> Breakdown:
    """One decode step, the mean over the generated tokens: every replica's host work in turn, and the device."""
    costs, replicas = [scenario.decode_cost], scenario.system.data_parallel
    times = kernel_seconds(costs, constants)
    step = average(totals(costs, constants, times).round(replicas))
    return _breakdown(costs, constants, times, step, replicas)


def decode_limits(scenarios: Sequence[Scenario], constants: Mapping[str, Any]) -> list[Limits]:
    """As `time_decode`, of scenarios that differ in their prompts' lengths alone: priced at once, and only by limit."""
    if not scenarios:
        return []
    replicas = scenarios[0].system.data_parallel
    positions = np.concatenate([scenario.timed_positions for scenario in scenarios])
    costs = [scenarios[0].price_decode(positions)]
    times = kernel_seconds(costs, constants)
    steps = _means(totals(costs, constants, times).round(replicas), positions, len(scenarios))
    limits = _limits(costs, constants, times, replicas, positions, len(scenarios))
    return [Limits(time, each) for time, each in zip(steps, limits, strict=True)]


def prefill_limits(scenario: Scenario, constants: Mapping[str, Any]) -> Limits:
    """As `time_prefill`, only by limit."""
    costs, replicas = scenario.prefill_costs, scenario.system.data_parallel
    times = kernel_seconds(costs, constants)
    ttft = float(totals(costs, constants, times).round(replicas)) / replicas
    return Limits(ttft, _limits(costs, constants, times, 1, np.zeros(1), 1)[0])


def _limits(
    costs: Sequence[Cost],
    constants: Mapping[str, Any],
    times: Mapping[int, Any],
    rounds: int,
    positions: np.ndarray,
    parts: int,
) -> list[dict[str, float]]:
    """Seconds by the limit that binds, in each of `parts` equal parts of the positions (see `_breakdown`)."""
    limits: list[dict[str, float]] = [{} for _ in range(parts)]

    def add(part: int, limit: str, seconds: float) -> None:
        limits[part][limit] = limits[part].get(limit, 0.0) + seconds

    runs: dict[int, int] = {}  # of each kernel; programs share them
    kernels = {}
    for item in (item for cost in costs for item in cost.kernels):
        kernels[id(item.kernel)] = item.kernel
        runs[id(item.kernel)] = runs.get(id(item.kernel), 0) + item.count
    for key, kernel in kernels.items():
        on_host = kernel.place == "host"
        count = runs[key] * (rounds if on_host else 1)
        seconds = _means(times[key], positions, parts)
        candidates = {**kernel.limits, "latency": kernel.start}
        values = [_means(terms.value(constants), positions, parts) for terms in candidates.values()]
        for part, each in enumerate(zip(*values, strict=True)):
            add(part, "host" if on_host else [*candidates][each.index(max(each))], count * seconds[part])
    stretches = [stretch for cost in costs for stretch in cost.stretches if stretch.kind == "eager"]
    eager = sum(item.count for stretch in stretches for segment in stretch.segments for item in segment.kernels)
    machine = costs[0].machine
    for part in range(parts):
        add(part, "dispatch", sum(cost.launches for cost in costs) * machine.software.dispatch_gap)
        if eager:
            add(part, "host", eager * float(dispatch(machine.system).value(constants)))
    return limits


def _means(values: Any, positions: np.ndarray, parts: int) -> list[float]:
    """The means over each of `parts` equal parts of the positions."""
    if np.ndim(values) == 0:
        return [float(values)] * parts
    means: list[float] = np.broadcast_to(values, positions.shape).reshape(parts, -1).mean(axis=1).tolist()
    return means


def time_prefill(scenario: Scenario, constants: Mapping[str, Any]) -> Breakdown:
    """One prompt: the time to the first token, and what device and host do in it, partly at the same time."""
    costs, replicas = scenario.prefill_costs, scenario.system.data_parallel
    times = kernel_seconds(costs, constants)
    ttft = float(totals(costs, constants, times).round(replicas)) / replicas
    return _breakdown(costs, constants, times, ttft, 1)


def time_program(program: Program, machine: Machine, constants: Mapping[str, Any]) -> Breakdown:
    """Any program on the device, without the host: its kernels and the gaps between them."""
    cost = price(program, machine)
    times = kernel_seconds([cost], constants)
    return _breakdown([cost], constants, times, average(cost.device_time(constants)), 0)


def _breakdown(
    costs: Sequence[Cost], constants: Mapping[str, Any], times: Mapping[int, Any], time: float, rounds: int
) -> Breakdown:
    """The parts of `time`; the host's work counts `rounds` times, once for each replica that it serves."""
    machine = costs[0].machine
    merged: dict[tuple[Any, ...], list[Any]] = {}
    eager = 0
    for cost in costs:
        for stretch in cost.stretches:
            for item in (item for segment in stretch.segments for item in segment.kernels):
                if stretch.kind == "host" and not rounds:
                    continue
                kernel, seconds = item.kernel, average(times[id(item.kernel)])
                work = (average(kernel.bytes), average(kernel.flops))
                key = (item.call.label, item.where, kernel.name, round(seconds, 12), *work)
                merged.setdefault(key, [item, 0, seconds])[1] += item.count * (rounds if stretch.kind == "host" else 1)
                eager += item.count if stretch.kind == "eager" else 0
    ops = [_op_time(item, count, seconds, time, constants, machine) for item, count, seconds in merged.values()]
    if eager and rounds:
        ops.append(_dispatch(eager, dispatch(machine.system), time, constants))
    ops.append(_gaps(sum(cost.launches for cost in costs), machine, time))
    return Breakdown(time, tuple(ops), overlapped=bool(eager and rounds))


def _op_time(
    item: PricedKernel, count: int, seconds: float, total: float, constants: Mapping[str, Any], machine: Machine
) -> OpTime:
    kernel, chip = item.kernel, machine.chip
    names, fitted = _provenance(_paid(kernel, constants), constants)
    on_host = kernel.place == "host"
    return OpTime(
        op=item.op,
        kernel=kernel.name,
        where=item.where,
        count=count,
        time=seconds * count,
        share=seconds * count / total,
        bytes=average(kernel.bytes),
        flops=average(kernel.flops),
        cores=kernel.cores,
        fidelity=kernel.fidelity,
        limit="host" if on_host else kernel.binding(constants),
        source=kernel.source,
        label=item.call.label,
        shape=shape_of(item.call, kernel),
        formats=formats_of(item.call),
        possible_bandwidth=0.0 if on_host else link_rate(machine) if "link" in kernel.limits else chip.dram_bandwidth,
        possible_flop_rate=kernel.cores * chip.flops_per_cycle * chip.clock / PHASES.get(kernel.fidelity, 4),
        constants=names,
        fitted=fitted,
    )


def link_rate(machine: Machine) -> float:
    """Bytes per second that one chip can receive over the links of a collective."""
    sides = 2 if machine.system.topology is Topology.RING else 1
    return machine.system.links * sides * machine.chip.link_bandwidth


def _dispatch(launches: int, each: Terms, total: float, constants: Mapping[str, Any]) -> OpTime:
    """The host's dispatch of launches that are in no trace, beside the device."""
    names, fitted = _provenance(each, constants)
    time = launches * float(each.value(constants))
    return _part(
        "dispatch of untraced launches",
        "host",
        launches,
        time,
        total,
        "; ".join(CONSTANTS[name].source for name in names),
        names,
        fitted,
    )


def _gaps(launches: int, machine: Machine, total: float) -> OpTime:
    software = machine.software
    source = f"software of {software.date.isoformat()}"
    return _part("gaps between kernels", "dispatch", launches, launches * software.dispatch_gap, total, source, (), 0.0)


def _part(
    name: str,
    limit: str,
    count: int,
    time: float,
    total: float,
    source: str,
    constants: tuple[str, ...],
    fitted: float,
) -> OpTime:
    """A part of a phase that is no kernel and no op."""
    return OpTime(
        op=limit,
        kernel=name,
        where="",
        count=count,
        time=time,
        share=time / total,
        bytes=0.0,
        flops=0.0,
        cores=0,
        fidelity="",
        limit=limit,
        source=source,
        label=name if limit == "host" else limit,
        constants=constants,
        fitted=fitted,
    )


def _paid(kernel: Kernel, constants: Mapping[str, Any]) -> Terms:
    """The terms that a kernel's time is the sum of: its start and its longest limit."""
    limits = list(kernel.limits.values())
    longest = max(limits, key=lambda terms: average(terms.value(constants)), default=Terms())
    return kernel.start + longest


def _provenance(terms: Terms, constants: Mapping[str, Any]) -> tuple[tuple[str, ...], float]:
    """Names of the constants in a time, and the share of it that rests on fitted ones."""
    parts = {factor: average(amount * factor_value(factor, constants)) for factor, amount in terms.items()}
    total = sum(parts.values())
    names = {factor: [name for name, _ in factor] for factor, seconds in parts.items() if factor != NUMBER and seconds}
    fitted = sum(parts[f] for f, each in names.items() if any(CONSTANTS[name].kind == "fitted" for name in each))
    return tuple(dict.fromkeys(name for each in names.values() for name in each)), fitted / total if total else 0.0
