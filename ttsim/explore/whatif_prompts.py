"""Thousands of prompts at once: TTFT of precisions x batches x prompt lengths, as one function of the constants.

The counterpart of `ttsim.explore.whatif` for prefill. Chunks that prompts share (all but the last of a long prompt) are
priced once; a prompt is a sum of chunks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.kernels import host
from ttsim.kernels.kernel import Kernel, Terms, seconds
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.precision.values import Precision, resolve
from ttsim.pricing.matrices import Stack, basis, stack
from ttsim.pricing.price import PricedKernel, PromptParts, price, prompt_time
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class PromptWhatIf:
    """Prompts as matrices. A point is a (precision, batch, length), in this order of axes.

    Attributes:
      precisions, batch_sizes, prompt_lengths: the axes.
      bodies, tails: a program for each distinct chunk. chunks: how often each point runs it, [points, chunks].
      last: the chunk whose tail a point ends with, [points].
      dispatch, fixed: the host's work, a program for each point.
      ops: device ops of a point before its tail, [points].
      replicas: of the system.
    """

    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    bodies: Stack
    tails: Stack
    chunks: np.ndarray
    last: np.ndarray
    dispatch: Stack
    fixed: Stack
    ops: np.ndarray
    replicas: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.precisions), len(self.batch_sizes), len(self.prompt_lengths)

    @classmethod
    def build(
        cls,
        model: str | ModelConfig,
        device: str | System,
        precisions: Sequence[str | Precision],
        batch_sizes: Sequence[int],
        prompt_lengths: Sequence[int],
        data_parallel: int = 1,
        date: str | None = None,
    ) -> PromptWhatIf:
        """Prices a model's prompts on a system.

        Args:
          model, device, data_parallel, date: see `ttsim.simulate`.
          precisions: presets, texts or values. batch_sizes: users of a replica, at most 32.
          prompt_lengths: tokens of a prompt, before padding.

        Raises:
          ValueError: as `ttsim.simulate`, or an empty axis.
        """
        if not (len(precisions) and len(batch_sizes) and len(prompt_lengths)):
            raise ValueError("a what-if needs at least one precision, one batch and one prompt length")
        known: dict[tuple[Any, ...], int] = {}
        bodies: list[list[tuple[Kernel, float]]] = []
        tails: list[list[tuple[Kernel, float]]] = []
        ops: list[int] = []
        points: list[list[int]] = []
        scenarios = [
            [Scenario.of(model, device, "performance", b, n, 2, data_parallel, date) for n in prompt_lengths]
            for b in batch_sizes
        ]
        first = scenarios[0][0]
        machine = first.prefill_machine
        resolved = tuple(resolve(precision, first.config.name, date) for precision in precisions)
        for precision in resolved:
            for row in scenarios:
                for base in row:
                    batch = base.batch_size if base.layout.two_d else 1
                    scenario = dataclasses.replace(base, precision=precision)
                    point = []
                    for chunk in base.prefill_chunks:
                        key = (precision, batch, chunk)
                        if key not in known:
                            known[key] = len(bodies)
                            body, tail = price(scenario.prefill_program(*chunk), machine).split()
                            bodies.append(_kernels(body, machine))
                            tails.append(_kernels(tail, machine))
                            ops.append(sum(item.count for item in body))
                        point.append(known[key])
                    points.append(point)
        counts = np.zeros((len(points), len(bodies)))
        for index, point in enumerate(points):
            np.add.at(counts[index], point, 1)
        dispatched = counts @ np.array(ops, float)
        everyone = [scenario for row in scenarios for scenario in row]
        users = [scenario.batch_size for scenario in everyone] * len(resolved)
        prompts = {b: host.prompt(machine, b, first.config.vocab_size) for b in batch_sizes}
        return cls(
            precisions=resolved,
            batch_sizes=tuple(batch_sizes),
            prompt_lengths=tuple(prompt_lengths),
            bodies=stack(bodies),
            tails=stack(tails),
            chunks=counts,
            last=np.array([point[-1] for point in points]),
            dispatch=stack(
                [
                    [_alone(host.dispatch(scenario.prefill_machine, int(number)))]
                    for scenario, number in zip(everyone * len(resolved), dispatched, strict=True)
                ]
            ),
            fixed=stack([[_alone(prompts[batch])] for batch in users]),
            ops=dispatched,
            replicas=first.system.data_parallel,
        )

    def ttft(self, constants: Mapping[str, Any] | None = None, xp: Any = jnp) -> Any:
        """Seconds to the first token: [precisions, batches, prompt lengths].

        Args:
          constants: of the cost model (numbers, or JAX values to differentiate); by default the calibrated ones.
          xp: jax.numpy or numpy.
        """
        phi = basis(load_constants() if constants is None else constants, xp)
        parts = PromptParts(
            body=self.chunks @ self.bodies.seconds(phi, xp),
            tail=self.tails.seconds(phi, xp)[self.last],
            host=self.dispatch.seconds(phi, xp),
            fixed=self.fixed.seconds(phi, xp),
            ops=self.ops,
            replicas=self.replicas,
        )
        return xp.reshape(prompt_time(parts, xp), self.shape)


def _kernels(items: Sequence[PricedKernel], machine: Machine) -> list[tuple[Kernel, float]]:
    gaps = machine.software.dispatch_gap * sum(item.count for item in items)
    return [(item.kernel, item.count) for item in items] + [_alone(seconds(gaps))]


def _alone(terms: Terms) -> tuple[Kernel, float]:
    return Kernel("", start=terms), 1.0
