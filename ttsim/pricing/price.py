"""Prices a program: its kernels, the time of a decode step and the time to the first token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.kernels import host
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.ops.core import OpCall
from ttsim.ops.galaxy import RULES as GALAXY_RULES
from ttsim.pricing.program import Block, Program
from ttsim.pricing.scaling import scaled


class UnpricedError(ValueError):
    """A program holds work that the simulator has no price for."""


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
class Cost:
    """The kernels of one program on one machine, in order; the tail is what follows prefill's last layer."""

    kernels: tuple[PricedKernel, ...]
    machine: Machine

    @property
    def dispatches(self) -> int:
        """Kernels that the device runs."""
        return sum(item.count for item in self.kernels)

    def split(self) -> tuple[tuple[PricedKernel, ...], tuple[PricedKernel, ...]]:
        """(body, tail): the tail starts where prefill takes the rows that it needs logits of."""
        ops = [item.op for item in self.kernels]
        first = ops.index("take_rows") if "take_rows" in ops else len(ops)
        return self.kernels[:first], self.kernels[first:]

    def device_time(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds on the device, gaps between kernels included (one for each position of the machine)."""
        return _time(self.kernels, self.machine, constants, xp)

    def by_op(self, constants: Mapping[str, Any]) -> dict[str, float]:
        """Seconds of each op, gaps included; the mean over positions."""
        seconds: dict[str, float] = {}
        for item in self.kernels:
            time = float(np.mean(_time((item,), self.machine, constants)))
            seconds[item.op] = seconds.get(item.op, 0.0) + time
        return seconds


def _time(kernels: Sequence[PricedKernel], machine: Machine, constants: Mapping[str, Any], xp: Any = np) -> Any:
    gap = machine.software.dispatch_gap
    return sum((item.count * (item.kernel.time(constants, xp) + gap) for item in kernels), start=0.0)


def price(program: Program, machine: Machine) -> Cost:
    """The kernels of a program.

    Args:
      program: what one device runs. machine: what it runs on.

    Raises:
      UnpricedError: the program holds primitives outside every device op, or an op without a cost rule.
    """
    if program.unpriced:
        listed = ", ".join(f"{item.primitive} x{item.count} in {item.where}" for item in program.unpriced)
        raise UnpricedError(f"no price for {listed}: make each a device op (ttsim.ops.op) with a cost rule")
    return Cost(tuple(_kernels(program.block, "", 1, machine)), machine)


def _kernels(block: Block, where: str, times: int, machine: Machine) -> Iterator[PricedKernel]:
    for item in block.body:
        if isinstance(item, Block):
            yield from _kernels(item, f"{where}/{item.name}".lstrip("/"), times * item.count, machine)
            continue
        for kernel in priced(item, machine):
            yield PricedKernel(item, where, kernel, times)


def priced(call: OpCall, machine: Machine) -> Sequence[Kernel]:
    """The kernels that one call of an op launches."""
    if machine.software.galaxy and call.name in GALAXY_RULES:
        return GALAXY_RULES[call.name](call, machine)
    if call.op.rule is None:
        raise UnpricedError(f"op {call.name} has no cost rule: attach one with @{call.name}.cost")
    return scaled(call.op.rule(call, machine), machine.chip)


def decode_time(cost: Cost, constants: Mapping[str, Any], *, batch: int, vocab_size: int, xp: Any = np) -> Any:
    """Seconds of one decode step: the device, then the host for every replica in turn.

    Args:
      cost: of the decode program. constants: value of each constant.
      batch: users of one replica. vocab_size: logits of one user. xp: numpy or jax.numpy.

    Returns:
      Seconds, one for each position of the machine.
    """
    return cost.device_time(constants, xp) + host.step(cost.machine, batch, vocab_size).value(constants)


@dataclass(frozen=True)
class PromptParts:
    """What the time of a prompt is made of, in seconds; each a number or an array.

    Attributes:
      body: the device, up to prefill's last layer. tail: after it.
      host: the host's dispatch of the body. fixed: once per prompt.
      ops: device ops of the body. replicas: prefilled in turn by one host.
    """

    body: Any
    tail: Any
    host: Any
    fixed: Any
    ops: Any
    replicas: Any


def prompt_time(parts: PromptParts, xp: Any = np) -> Any:
    """Seconds per prompt (TTFT): the longer of host and device, then the tail.

    The host runs ahead of a device by at most the prefetch queue. While it serves one replica, the others work off what
    is queued, which hides that share of their time; never more than what host or device need in all.
    """
    alone = xp.maximum(parts.host, parts.body)
    queued = xp.minimum(1.0, host.PREFETCH_QUEUE / parts.ops)
    shared = alone * (1 - queued * (parts.replicas - 1) / parts.replicas)
    floor = xp.maximum(parts.host, parts.body / parts.replicas)
    return xp.maximum(shared, floor) + parts.tail + parts.fixed


def prefill_time(
    costs: Sequence[Cost], constants: Mapping[str, Any], *, batch: int, vocab_size: int, xp: Any = np
) -> Any:
    """Seconds to the first token: total prefill time over the number of prompts, as tt_transformers prints it.

    Args:
      costs: of the prompt's chunks, in order; the last one holds the tail.
      constants: value of each constant.
      batch: users of one replica. vocab_size: logits of one user. xp: numpy or jax.numpy.
    """
    machine = costs[0].machine
    bodies, tail = [cost.split()[0] for cost in costs], costs[-1].split()[1]
    ops = sum(item.count for body in bodies for item in body)
    parts = PromptParts(
        body=sum(_time(body, machine, constants, xp) for body in bodies),
        tail=_time(tail, machine, constants, xp),
        host=host.dispatch(machine, ops).value(constants),
        fixed=host.prompt(machine, batch, vocab_size).value(constants),
        ops=ops,
        replicas=machine.system.data_parallel,
    )
    return prompt_time(parts, xp)
