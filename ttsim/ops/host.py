"""What the host does between launches: copies to and from the device, and which launches are recorded in a trace.

Each is an op like the others, with a body (the identity) and a rule that returns host time, so that a decode step or a
prompt is one program: host work, a stretch of launches, host work. `ttsim.pricing.stretches` adds them up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from ttsim.hardware.constants.galaxy import GALAXY_EAGER_PROMPT, GALAXY_SERVER_STEP, GALAXY_SERVER_STEP_SLOW
from ttsim.hardware.constants.host import (
    BLACKHOLE_REPLICAS,
    HOST_CHIP,
    HOST_PROMPT,
    HOST_REPLICA,
    SERVER_PROMPT,
    SERVER_PROMPT_CHIP,
    SERVER_PROMPT_EARLY,
    SERVER_STEP,
)
from ttsim.hardware.quantities import Terms
from ttsim.kernels import galaxy
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.ops.core import Array, OpCall, op

TRACED = "traced"
WORK = ("step", "prompt")
SERVER_SOURCE = "tt-inference-server's own reports against tt-metal's demo"

P = ParamSpec("P")
R = TypeVar("R")


@op(on_host=True)
def copy_to_device(*arrays: Array, work: str) -> tuple[Array, ...]:
    """The inputs of a step or of a prompt, on their way to the device; returns them as they are.

    Args:
      *arrays: tokens, positions, page table.
      work: "step": the inputs of a decode step and its launch; "prompt": those of one prompt, with the slicing of its
        rotary tables, the read-back of its logits and their argmax, which were only measured together.
    """
    _check(work)
    return arrays


@copy_to_device.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    source = "tt_transformers tt/generator.py, demo/simple_text_demo.py"
    if call["work"] == "prompt":
        return [host_work("inputs, read-back and argmax of a prompt", 1 * HOST_PROMPT, source), *server_prompt(machine)]
    work = [host_work("inputs of a step", replicated(1 * HOST_REPLICA, machine), source)]
    if machine.software.server_adds:
        work.append(host_work("server's step", _share(machine) * SERVER_STEP, SERVER_SOURCE))
    return work


@copy_to_device.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    """Tokens and positions stay on the device; a server does its own work on each step and prompt."""
    software = machine.software
    if call["work"] == "prompt":
        # A prompt that runs from a trace is launched at once. The others are dispatched while the device works.
        eager = host_work("dispatch of a prompt", 1 * GALAXY_EAGER_PROMPT, galaxy.LAW)
        traced = call.inputs[0].shape[0] in software.traced_lengths
        return [*([] if traced else [eager]), *server_prompt(machine)]
    if not software.server_adds:
        return []
    time = GALAXY_SERVER_STEP_SLOW if software.fact("galaxy_server") == "slow" else GALAXY_SERVER_STEP
    return [host_work("server's step", 1 * time, SERVER_SOURCE)]


def _share(machine: Machine) -> float:
    """Of what a server does once for all replicas, which it does for one."""
    return 1 / machine.system.data_parallel


def server_prompt(machine: Machine) -> list[Kernel]:
    """What a server adds to the time of a prompt, by its generation."""
    if not machine.software.server_adds:
        return []
    time = {
        "early": 1 * SERVER_PROMPT_EARLY,
        "first": machine.system.chips_per_replica * SERVER_PROMPT_CHIP,
        "second": 1 * SERVER_PROMPT,
    }[machine.software.fact("server")]
    return [host_work("server's prompt", time, SERVER_SOURCE)]


@op(on_host=True)
def read_back(x: Array, *, work: str) -> Array:
    """Tokens or logits that the host reads from every chip of a replica; returns them as they are.

    Args:
      x: [B] tokens or [B, V] logits.
      work: "step", or "prompt", whose read-back is part of what `copy_to_device` pays for.
    """
    _check(work)
    return x


@read_back.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    source = "tt_transformers tt/generator.py, read_decode_output"
    if call["work"] == "prompt":
        return [host_work("read-back of a prompt", Terms(), "part of host_prompt: see copy_to_device", waits=True)]
    time = machine.system.chips_per_replica * HOST_CHIP if machine.software.fact("host_per_chip") else Terms()
    return [host_work("read-back of a step", replicated(time, machine), source, waits=True)]


@read_back.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # tokens stay on the device


def replicated(time: Terms, machine: Machine) -> Terms:
    """The host's work for one replica, which takes longer in a Blackhole box of several."""
    several = machine.chip.family == "blackhole" and machine.system.data_parallel > 1
    return time * BLACKHOLE_REPLICAS if several else time


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """The function as one recorded trace: the host launches all of its ops at once, without a dispatch for each.

    In a program it is a block named "traced"; ops outside of one are dispatched by the host one by one.
    """

    def body(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    body.__name__ = body.__qualname__ = TRACED
    return jax.jit(body)


def _check(work: str) -> None:
    if work not in WORK:
        raise ValueError(f"work must be {' or '.join(map(repr, WORK))}, not {work!r}")
