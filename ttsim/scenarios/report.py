"""What the simulator answers: speed, TTFT, memory, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.hardware.constants import CONSTANTS
from ttsim.kernels import host
from ttsim.kernels.kernel import Kernel, Terms
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import Topology
from ttsim.numerics.fidelity import MathFidelity
from ttsim.pricing.describe import formats_of, label_of, shape_of
from ttsim.pricing.price import Cost, PricedKernel, decode_time, price
from ttsim.pricing.program import Program
from ttsim.scenarios.memory import Memory
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import text

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
      limit: what binds ("dram", "compute", "link", ..., "latency"; "dispatch" and "host" for what is no kernel).
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
class Breakdown:
    """Where the time of a phase goes.

    Attributes:
      time: seconds of the phase as a user sees it.
      ops: kernels in program order, then "dispatch" (gaps between kernels) and "host".
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

    def __str__(self) -> str:
        return "\n".join(_part_lines("total", self, rows=20))


@dataclass(frozen=True)
class Report:
    """The answer to one scenario.

    Attributes:
      scenario: the question.
      speed: tokens per second and user (t/s/u), mean over the generated tokens.
      ttft: seconds to the first token (mean over the prompts of a batch, as tt_transformers prints it).
      memory: DRAM of one chip.
      decode: of one step, the mean over the generated tokens. prefill: of one prompt.
    """

    scenario: Scenario
    speed: float
    ttft: float
    memory: Memory
    decode: Breakdown
    prefill: Breakdown

    @property
    def throughput(self) -> float:
        """Tokens per second of all users of all replicas."""
        return self.speed * self.scenario.batch_size * self.scenario.system.data_parallel

    @property
    def latency(self) -> float:
        """Seconds of a whole request: the first token, then the others one step each."""
        return self.ttft + (self.scenario.max_generated_tokens - 1) / self.speed

    def __str__(self) -> str:
        return to_text(self)


def decode_breakdown(scenario: Scenario, constants: Mapping[str, Any]) -> Breakdown:
    """The parts of one decode step, the mean over the generated tokens."""
    cost = scenario.decode_cost()
    vocab_size = scenario.config.vocab_size
    step = float(np.mean(decode_time(cost, constants, batch=scenario.batch_size, vocab_size=vocab_size)))
    waiting = Terms() if cost.host else host.step(cost.machine, scenario.batch_size, vocab_size)
    if cost.host and not cost.machine.software.traced_decode:
        waiting = host.dispatch(cost.machine, cost.dispatches, traced=False)
        return _breakdown([cost], constants, step, waiting, overlapped=True)
    return _breakdown([cost], constants, step, waiting, overlapped=False)


def prefill_breakdown(scenario: Scenario, constants: Mapping[str, Any]) -> Breakdown:
    """The parts of one prompt."""
    costs = scenario.prefill_costs()
    ops = sum(item.count for cost in costs for item in cost.split()[0] if not item.kernel.host)
    machine = costs[0].machine
    waiting = host.dispatch(machine, ops) + host.prompt(machine, scenario.batch_size, scenario.config.vocab_size)
    return _breakdown(costs, constants, scenario.ttft(constants, costs), waiting, overlapped=True)


def program_breakdown(program: Program, machine: Machine, constants: Mapping[str, Any]) -> Breakdown:
    """The parts of any program on the device, without the host."""
    cost = price(program, machine)
    return _breakdown([cost], constants, float(np.mean(cost.device_time(constants))), Terms(), overlapped=False)


def _breakdown(
    costs: Sequence[Cost], constants: Mapping[str, Any], time: float, waiting: Terms, overlapped: bool
) -> Breakdown:
    merged: dict[tuple[Any, ...], list[Any]] = {}
    for cost in costs:
        for item in cost.kernels:
            seconds = float(np.mean(item.kernel.time(constants)))
            kernel = item.kernel
            work = (float(np.mean(kernel.bytes)), float(np.mean(kernel.flops)))
            key = (label_of(item.call), item.where, kernel.name, round(seconds, 12), *work)
            merged.setdefault(key, [item, 0, seconds])[1] += item.count
    gap = costs[0].machine.software.dispatch_gap
    kernels = sum(cost.dispatches for cost in costs)
    ops = [
        _op_time(item, count, seconds, time, constants, costs[0].machine) for item, count, seconds in merged.values()
    ]
    source = costs[0].machine.software.date.isoformat()
    ops.append(_other("dispatch", "gaps between kernels", kernels, kernels * gap, time, f"software of {source}"))
    if waiting:
        ops.append(_other("host", "host", 1, float(waiting.value(constants)), time, "", waiting, constants))
    return Breakdown(time, tuple(ops), overlapped)


def _op_time(
    item: PricedKernel, count: int, seconds: float, total: float, constants: Mapping[str, Any], machine: Machine
) -> OpTime:
    kernel, chip = item.kernel, machine.chip
    limit = "host" if kernel.host else kernel.binding(constants)
    names, fitted = _provenance(_paid(kernel, constants), constants)
    return OpTime(
        op=item.op,
        kernel=kernel.name,
        where=item.where,
        count=count,
        time=seconds * count,
        share=seconds * count / total,
        bytes=float(np.mean(kernel.bytes)),
        flops=float(np.mean(kernel.flops)),
        cores=kernel.cores,
        fidelity=kernel.fidelity,
        limit=limit,
        source=kernel.source,
        label=label_of(item.call),
        shape=shape_of(item.call, kernel),
        formats=formats_of(item.call),
        possible_bandwidth=_link_rate(machine) if "link" in kernel.limits else chip.dram_bandwidth,
        possible_flop_rate=kernel.cores * chip.flops_per_cycle * chip.clock / PHASES.get(kernel.fidelity, 4),
        constants=names,
        fitted=fitted,
    )


def _link_rate(machine: Machine) -> float:
    sides = 2 if machine.system.topology is Topology.RING else 1
    return machine.system.links * sides * machine.chip.link_bandwidth


def _paid(kernel: Kernel, constants: Mapping[str, Any]) -> Terms:
    """The terms that a kernel's time is the sum of: its start and its longest limit."""
    limits = list(kernel.limits.values())
    longest = max(limits, key=lambda terms: float(np.mean(terms.value(constants))), default=Terms())
    return kernel.start + longest


def _provenance(terms: Terms, constants: Mapping[str, Any]) -> tuple[tuple[str, ...], float]:
    """Names of the constants in a time, and the share of it that rests on fitted ones."""
    parts = {key: float(np.mean(Terms({key: amount}).value(constants))) for key, amount in terms.items()}
    total = sum(parts.values())
    names = {key: key.lstrip("/") for key, seconds in parts.items() if key and seconds}
    fitted = sum(parts[key] for key, name in names.items() if CONSTANTS[name].kind == "fitted")
    return tuple(dict.fromkeys(names.values())), fitted / total if total else 0.0


def _other(
    limit: str,
    name: str,
    count: int,
    seconds: float,
    total: float,
    source: str,
    terms: Terms | None = None,
    constants: Mapping[str, Any] | None = None,
) -> OpTime:
    """A part of a phase that is no kernel."""
    names, fitted = _provenance(terms, constants) if terms and constants else ((), 0.0)
    source = source or "; ".join(CONSTANTS[each].source for each in names)
    return OpTime(
        limit,
        name,
        "",
        count,
        seconds,
        seconds / total,
        0.0,
        0.0,
        0,
        "",
        limit,
        source,
        label=limit,
        constants=names,
        fitted=fitted,
    )


def to_text(report: Report, rows: int = 12) -> str:
    """The headline, the memory, and the largest parts of prefill and decode."""
    s, m = report.scenario, report.memory
    lines = [
        f"{s.label}, prompt {s.prompt_length} (padded to {s.padded_prompt}), {s.max_generated_tokens} tokens",
        f"  {s.precision}",
        "",
        f"  speed       {report.speed:8.1f} t/s/u   ({text.duration(report.decode.time)} a step)",
        f"  throughput  {report.throughput:8.1f} t/s",
        f"  TTFT        {1e3 * report.ttft:8.1f} ms",
        f"  DRAM        {m.used / 1e9:8.2f} GB of {m.capacity / 1e9:.2f} a chip: weights {m.weights / 1e9:.2f}, "
        f"KV cache {m.kv_cache / 1e9:.2f}, activations {m.activations / 1e9:.2f}, free {m.free / 1e9:.2f}",
    ]
    for name, part in (("decode step", report.decode), ("prefill", report.prefill)):
        lines += ["", *_part_lines(name, part, rows)]
    return "\n".join(lines)


def _part_lines(name: str, part: Breakdown, rows: int) -> list[str]:
    limits = ", ".join(f"{limit} {100 * time / part.time:.0f} %" for limit, time in part.by_limit().items())
    table: list[tuple[str, ...]] = [
        ("op", "kernel", "time", "share", "count", "each", "GB/s", "TFLOP/s", "cores", "limit")
    ]
    table += [_text_row(op) for op in part.largest(rows)]
    return [f"{name}: {text.duration(part.time)} ({limits})", *("  " + line for line in text.align(table, left=2))]


def _text_row(op: OpTime) -> tuple[str, ...]:
    return (
        op.op,
        op.kernel + (f" {op.fidelity}" if op.fidelity else ""),
        text.duration(op.time),
        f"{100 * op.share:.1f} %",
        str(op.count),
        text.duration(op.time / op.count),
        f"{op.bandwidth / 1e9:.0f}" if op.bytes else "",
        f"{op.flop_rate / 1e12:.1f}" if op.flops else "",
        str(op.cores or ""),
        op.limit,
    )
