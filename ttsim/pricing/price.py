"""Prices a program: its kernels in order, and the seconds that device and host need for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ttsim.kernels.host import dispatch
from ttsim.kernels.kernel import Kernel, UnpricedError
from ttsim.kernels.machine import Machine
from ttsim.ops.core import OpCall
from ttsim.ops.host import TRACED
from ttsim.pricing.clocks import Clocks, Launches, Totals
from ttsim.pricing.program import Block, Program
from ttsim.pricing.scaling import scaled

__all__ = ["Cost", "PricedKernel", "Segment", "Stretch", "UnpricedError", "price", "priced", "totals"]


@dataclass(frozen=True)
class PricedKernel:
    """A kernel of a program.

    Attributes:
      call: the call of the device op that launches it.
      where: blocks around the op, outermost first ("_decode_layer").
      kernel: the kernel.
      count: how often it runs.
    """

    call: OpCall
    where: str
    kernel: Kernel
    count: int

    @property
    def op(self) -> str:
        """Name of the device op."""
        return self.call.name


@dataclass(frozen=True)
class Segment:
    """Kernels in order, all of them run `count` times; a kernel's own count says how often it runs in all."""

    kernels: tuple[PricedKernel, ...]
    count: int = 1

    @property
    def waits(self) -> bool:
        """Whether the host waits for the device before it."""
        return any(item.kernel.waits for item in self.kernels)


@dataclass(frozen=True)
class Stretch:
    """A part of a program: work of the host, one trace, or launches that the host dispatches one by one."""

    kind: Literal["host", "traced", "eager"]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Cost:
    """A program on one machine: its stretches in order."""

    stretches: tuple[Stretch, ...]
    machine: Machine

    @property
    def kernels(self) -> tuple[PricedKernel, ...]:
        """All kernels in order, the host's work too."""
        return tuple(item for stretch in self.stretches for segment in stretch.segments for item in segment.kernels)

    @property
    def launches(self) -> int:
        """Kernels that the device runs."""
        return sum(item.count for item in self.kernels if item.kernel.place == "device")

    def device_time(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds on the device, gaps between kernels included (one for each position of the machine)."""
        gap = self.machine.software.dispatch_gap
        device = (item for item in self.kernels if item.kernel.place == "device")
        return sum((item.count * (item.kernel.time(constants, xp) + gap) for item in device), start=0.0)


Rule = Callable[[OpCall], Sequence[Kernel]]  # the kernels of a call


def price(program: Program, machine: Machine, known: dict[int, Sequence[Kernel]] | None = None) -> Cost:
    """The kernels of a program.

    Args:
      program: what one device runs. machine: what it runs on.
      known: remembers the kernels by the call's identity, for programs that share calls on one machine.

    Raises:
      UnpricedError: the program holds primitives outside every device op, or an op without a cost rule.
    """
    if program.unpriced:
        listed = ", ".join(f"{item.primitive} x{item.count} in {item.where}" for item in program.unpriced)
        raise UnpricedError(f"no price for {listed}: make each a device op (ttsim.ops.op) with a cost rule")
    known = {} if known is None else known

    def rule(call: OpCall) -> Sequence[Kernel]:
        if id(call) not in known:
            known[id(call)] = priced(call, machine)
        return known[id(call)]

    return Cost(tuple(_stretches(program.block.body, rule)), machine)


def priced(call: OpCall, machine: Machine) -> Sequence[Kernel]:
    """The kernels that one call of an op launches."""
    for stack in machine.software.place.stacks:
        if stack in call.op.stack_rules:
            return call.op.stack_rules[stack](call, machine)
    if call.op.rule is None:
        raise UnpricedError(f"op {call.name} has no cost rule: attach one with @{call.name}.cost")
    return scaled(call.op.rule(call, machine), machine.chip)


def _stretches(body: Sequence[Block | OpCall], rule: Rule) -> Iterator[Stretch]:
    """The stretches of a block; host work and traces end a stretch of untraced launches."""
    eager: list[Segment] = []
    for item in body:
        if isinstance(item, Block) and item.name == TRACED:
            yield from _flushed(eager)
            yield Stretch("traced", tuple(_segments(item.body, rule)))
            continue
        if isinstance(item, Block):
            eager += _segments([item], rule)
            continue
        for kernel in rule(item):
            segment = Segment((PricedKernel(item, "", kernel, 1),))
            if kernel.place == "host":
                yield from _flushed(eager)
                yield Stretch("host", (segment,))
            else:
                _join(eager, segment)
    yield from _flushed(eager)


def _flushed(eager: list[Segment]) -> Iterator[Stretch]:
    if eager:
        yield Stretch("eager", tuple(eager))
        eager.clear()


def _join(segments: list[Segment], segment: Segment) -> None:
    """Appends a segment; loose kernels join the loose ones before them."""
    if segments and segments[-1].count == segment.count == 1:
        segments[-1] = Segment((*segments[-1].kernels, *segment.kernels))
    else:
        segments.append(segment)


def _segments(body: Sequence[Block | OpCall], rule: Rule) -> list[Segment]:
    """The launches of a block that is one trace, or of a repeated block: every inner block a segment of its own."""
    segments: list[Segment] = []
    for item in body:
        if isinstance(item, Block):
            kernels = tuple(_flat(item, item.name, item.count, rule)) if item.count else ()
            if kernels:
                segments.append(Segment(kernels, item.count))
            continue
        for kernel in rule(item):
            _join(segments, Segment((PricedKernel(item, "", kernel, 1),)))
    for segment in segments:
        for each in segment.kernels:
            if each.kernel.place == "host":
                raise UnpricedError(f"{each.op} is work of the host inside {each.where or 'a trace'}: move it outside")
    return segments


def _flat(block: Block, where: str, times: int, rule: Rule) -> Iterator[PricedKernel]:
    for item in block.body:
        if isinstance(item, Block):
            yield from _flat(item, f"{where}/{item.name}", times * item.count, rule)
            continue
        for kernel in rule(item):
            yield PricedKernel(item, where, kernel, times)


def kernel_seconds(costs: Sequence[Cost], constants: Mapping[str, Any]) -> dict[int, Any]:
    """Seconds of each kernel by its `id`; a number, or an array of one for each position."""
    times: dict[int, Any] = {}
    for item in (item for cost in costs for item in cost.kernels):
        if id(item.kernel) not in times:
            times[id(item.kernel)] = item.kernel.time(constants)
    return times


def totals(costs: Sequence[Cost], constants: Mapping[str, Any], times: Mapping[int, Any] | None = None) -> Totals:
    """Runs programs one after the other on the clocks of one host and one device (`ttsim.pricing.clocks`).

    Args:
      costs: the programs, in order: the chunks of a prompt, or one step.
      constants: value of each constant.
      times: `kernel_seconds`, where they are at hand.
    """
    times = kernel_seconds(costs, constants) if times is None else times
    machine = costs[0].machine
    gap, call = machine.software.dispatch_gap, float(dispatch(machine.system).value(constants))
    clocks, work, launched = Clocks(), 0.0, 0
    spent = {"eager": 0.0, "traced": 0.0}
    for stretch in (stretch for cost in costs for stretch in cost.stretches):
        for segment in stretch.segments:
            spans = np.stack(np.broadcast_arrays(*(times[id(item.kernel)] for item in segment.kernels))).astype(float)
            if stretch.kind == "host":
                clocks, work = clocks.work(spans.sum(0), segment.waits), work + spans.sum(0)
                continue
            each = _spread([item.count // segment.count for item in segment.kernels], spans)
            launches = Launches.of(spans + gap, each, call if stretch.kind == "eager" else 0.0).repeat(segment.count)
            clocks = clocks.launch(launches)
            spent[stretch.kind] = spent[stretch.kind] + launches.device
            launched += sum(item.count for item in segment.kernels) if stretch.kind == "eager" else 0
    return Totals(clocks.end(), work, launched * call, spent["eager"], spent["traced"], launched)


def _spread(counts: Sequence[int], times: np.ndarray) -> np.ndarray:
    column: np.ndarray = np.reshape(np.asarray(counts, float), (-1, *[1] * (times.ndim - 1)))
    spread: np.ndarray = column + np.zeros_like(times)
    return spread
