"""When each kernel of a run starts: a prompt, then one decode step, on one chip and its host.

Decode: kernels follow one another with the software's dispatch gap, then the host copies results and inputs. Prefill:
host and device overlap; each kernel starts when its share of the longer of the two has passed (`price.prompt_time`),
so that the prompt ends at the TTFT of the report (with several replicas, of which one is shown, not before its own work
is done).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.kernels import host
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.ops.core import OpCall
from ttsim.pricing.price import priced
from ttsim.pricing.program import Block, Program
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Run:
    """One run of one kernel.

    Attributes:
      call: of the op that launches it. kernel: the kernel.
      where: the repetition of a block it belongs to ("decode_layer 3"), "" outside.
      start, time: seconds.
    """

    call: OpCall
    kernel: Kernel
    where: str
    start: float
    time: float

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
    prompt = _prompt(scenario, constants)
    return prompt, _step(scenario, constants, prompt.end)


def _prompt(scenario: Scenario, constants: Mapping[str, Any]) -> Phase:
    machine = scenario.prefill_machine
    launched = [item for program in scenario.prefill_programs for item in _launches(program, machine)]
    times = [_seconds(kernel, constants) for _, kernel, _ in launched]
    gap = machine.software.dispatch_gap
    ttft = scenario.ttft(constants)
    fixed = float(host.prompt(machine, scenario.batch_size, scenario.config.vocab_size).value(constants))
    first_tail = next((i for i, (call, _, _) in enumerate(launched) if call.name == "take_rows"), len(launched))
    tail = sum(times[first_tail:]) + gap * (len(times) - first_tail)
    body = sum(times[:first_tail]) + gap * first_tail
    # Of the body as the host lets it run. The TTFT of replicas is their mean, which may be less than one of them takes.
    span = max(ttft - tail - fixed, body)
    end = span + tail + fixed
    waits = (span - body) / max(first_tail, 1)
    runs, clock = [], 0.0
    for i, ((call, kernel, where), time) in enumerate(zip(launched, times, strict=True)):
        clock += waits if i < first_tail else 0.0
        runs.append(Run(call, kernel, where, clock, time))
        clock += time + gap
    dispatch = float(host.dispatch(machine, first_tail).value(constants))
    work = [HostRun("dispatch of untraced ops", 0.0, min(dispatch, end - fixed))] if dispatch else []
    work.append(HostRun("inputs, read-back, argmax", end - fixed, fixed))
    return Phase("prefill", 0.0, end, tuple(runs), tuple(work), machine)


def _step(scenario: Scenario, constants: Mapping[str, Any], start: float) -> Phase:
    machine = scenario.decode_machine()
    runs, clock = [], start
    for call, kernel, where in _launches(scenario.decode_program, machine):
        time = _seconds(kernel, constants)
        runs.append(Run(call, kernel, where, clock, time))
        clock += time + machine.software.dispatch_gap
    waiting = float(host.step(machine, scenario.batch_size, scenario.config.vocab_size).value(constants))
    work = HostRun("read-back, next inputs", clock, waiting)
    return Phase("decode", start, clock + waiting, tuple(runs), (work,), machine)


def _seconds(kernel: Kernel, constants: Mapping[str, Any]) -> float:
    return float(np.mean(kernel.time(constants)))


def _launches(program: Program, machine: Machine) -> Iterator[tuple[OpCall, Kernel, str]]:
    """Every kernel in execution order: blocks unrolled, equal repetitions numbered through."""
    known: dict[int, Sequence[Kernel]] = {}
    numbers: dict[str, int] = {}

    def walk(block: Block, where: str) -> Iterator[tuple[OpCall, Kernel, str]]:
        for item in block.body:
            if isinstance(item, Block):
                for _ in range(item.count):
                    number = numbers.get(item.name, 0)
                    numbers[item.name] = number + 1
                    yield from walk(item, f"{item.name} {number}")
                continue
            if id(item) not in known:
                known[id(item)] = priced(item, machine)
            for kernel in known[id(item)]:
                yield item, kernel, where

    yield from walk(program.block, "")
