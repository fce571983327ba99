"""When each kernel of a run starts: a prompt, then one decode step, on one chip and its host.

The two clocks of `ttsim.pricing.clocks`, launch by launch: the host works and dispatches, a launch starts when it has
been dispatched and the one before it has ended. With several replicas, of which one is shown, the headline is that of
a round of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.hardware.quantities import average
from ttsim.kernels.host import dispatch
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.ops.core import OpCall
from ttsim.pricing.price import Cost, PricedKernel, Segment
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Run:
    """One run of one kernel.

    Attributes:
      call: of the op that launches it. kernel: the kernel.
      where: the repetition of a block it belongs to ("decode_layer 3"), "" outside.
      start, time: seconds.
      traced: whether it is part of a trace.
    """

    call: OpCall
    kernel: Kernel
    where: str
    start: float
    time: float
    traced: bool

    @property
    def end(self) -> float:
        return self.start + self.time


@dataclass(frozen=True)
class HostRun:
    """What the host does for a while."""

    name: str
    start: float
    time: float


@dataclass(frozen=True)
class Phase:
    """A prompt or a decode step: kernels in execution order, the host's work, and the machine."""

    name: str
    start: float
    end: float
    runs: tuple[Run, ...]
    host: tuple[HostRun, ...]
    machine: Machine


def schedule(scenario: Scenario, constants: Mapping[str, Any]) -> tuple[Phase, Phase]:
    """The prompt, and right after it a decode step, the mean over the generated tokens."""
    prompt = _phase("prefill", scenario.prefill_costs, constants, 0.0)
    return prompt, _phase("decode", (scenario.decode_cost,), constants, prompt.end)


def _phase(name: str, costs: tuple[Cost, ...], constants: Mapping[str, Any], start: float) -> Phase:
    machine = costs[0].machine
    gap, call = machine.software.dispatch_gap, float(dispatch(machine.system).value(constants))
    host = device = start
    runs: list[Run] = []
    work: list[HostRun] = []
    numbers: dict[str, int] = {}
    for stretch in (stretch for cost in costs for stretch in cost.stretches):
        began = host
        for item, where in (each for segment in stretch.segments for each in _unrolled(segment, numbers)):
            time = average(item.kernel.time(constants))
            if stretch.kind == "host":
                host = max(host, device) if item.kernel.waits else host
                if time:
                    work.append(HostRun(f"{item.op}: {item.kernel.name}", host, time))
                host += time
                continue
            host += call if stretch.kind == "eager" else 0.0
            begin = max(host, device)
            runs.append(Run(item.call, item.kernel, where, begin, time, stretch.kind == "traced"))
            device = begin + time + gap
        if stretch.kind == "eager":
            work.append(HostRun("dispatch of untraced launches", began, host - began))
    return Phase(name, start, max(host, device), tuple(runs), tuple(work), machine)


def _unrolled(segment: Segment, numbers: dict[str, int]) -> Iterator[tuple[PricedKernel, str]]:
    """A segment's kernels as often as they run, each with its repetition of the block, numbered through."""
    for _ in range(segment.count):
        block = segment.kernels[0].where.partition("/")[0]
        number = numbers.get(block, 0)
        numbers[block] = number + 1
        for item in segment.kernels:
            for _ in range(item.count // segment.count):
                yield item, f"{block} {number}" if block else ""
