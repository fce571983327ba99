"""Thousands of decode steps at once: precisions x batches x contexts, as one function of the constants.

    times = WhatIf.build("Llama3.1-8B", "N150", precisions, batch_sizes, contexts).step_time(constants)

Programs are priced once, with arrays of positions, into matrices (`ttsim.pricing.matrices`); what is left is a few
products and maxima, which JAX can jit and differentiate with respect to the constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.models.run import prefill_program
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision
from ttsim.pricing.matrices import Programs
from ttsim.scenarios.given import whole
from ttsim.scenarios.memory import CACHE_BLOCK, activation_bytes, kept_bytes, kv_cache_bytes, weight_bytes
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class WhatIf:
    """Decode steps as matrices.

    Attributes:
      precisions, batch_sizes, contexts: the axes, in this order.
      steps: a run for each (precision, batch), its kernels at each context.
      users: tokens that one step computes, [batches].
      used: DRAM of one chip in bytes, [precisions, batches, contexts]. capacity: what it has.
    """

    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: Programs
    users: np.ndarray
    used: np.ndarray
    capacity: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.precisions), len(self.batch_sizes), len(self.contexts)

    @property
    def fits(self) -> np.ndarray:
        """Whether each point fits in DRAM: [precisions, batches, contexts]."""
        return self.used <= self.capacity

    @classmethod
    def build(
        cls,
        model: str | ModelConfig,
        device: str | System,
        precisions: Sequence[str | Precision],
        batch_sizes: Sequence[int],
        contexts: Sequence[int],
        data_parallel: int = 1,
        date: str | None = None,
    ) -> WhatIf:
        """Prices a model on a system.

        Args:
          model, device, data_parallel, date: see `ttsim.simulate`.
          precisions: presets, texts or values. batch_sizes: users of a replica, at most 32.
          contexts: tokens before the one that a step computes.

        Raises:
          ValueError: as `ttsim.simulate`, or an empty axis.
        """
        if not (len(precisions) and len(batch_sizes) and len(contexts)):
            raise ValueError("a what-if needs at least one precision, one batch and one context")
        positions = np.array([whole("a context", tokens, 1) for tokens in contexts])
        used = np.zeros((len(precisions), len(batch_sizes), len(contexts)))
        scenarios = [Scenario.of(model, device, "performance", b, 1, 2, data_parallel, date) for b in batch_sizes]
        resolved = tuple(resolve(precision, scenarios[0].config.known_name, date) for precision in precisions)
        runs = []
        for i, precision in enumerate(resolved):
            for j, base in enumerate(scenarios):
                scenario = dataclasses.replace(base, precision=precision)
                runs.append([scenario.price_decode(positions)])
                used[i, j] = _used(scenario, positions)
        return cls(
            precisions=resolved,
            batch_sizes=tuple(batch_sizes),
            contexts=tuple(contexts),
            steps=Programs.build(runs),
            users=np.array([b * scenarios[0].system.data_parallel for b in batch_sizes]),
            used=used,
            capacity=scenarios[0].chip.dram_bytes,
        )

    def step_time(self, constants: Mapping[str, Any] | None = None, xp: Any = jnp) -> Any:
        """Seconds of a decode step: [precisions, batches, contexts].

        Args:
          constants: of the cost model (numbers, or JAX values to differentiate); by default the calibrated ones.
          xp: jax.numpy or numpy.
        """
        constants = load_constants() if constants is None else constants
        return xp.reshape(self.steps.rounds(constants, xp), self.shape)

    def speed(self, constants: Mapping[str, Any] | None = None, xp: Any = jnp) -> Any:
        """Tokens per second and user: [precisions, batches, contexts]."""
        return 1 / self.step_time(constants, xp)

    def throughput(self, constants: Mapping[str, Any] | None = None, xp: Any = jnp) -> Any:
        """Tokens per second of all users: [precisions, batches, contexts]."""
        return self.users[None, :, None] * self.speed(constants, xp)


def _used(scenario: Scenario, positions: np.ndarray) -> np.ndarray:
    """Bytes of DRAM of one chip at each context: weights, trace, a short prompt's activations, and the cache."""
    layout, precision, batch = scenario.layout, scenario.precision, scenario.batch_size
    blocks = -(-(positions + 1) // CACHE_BLOCK)
    rows = 128
    working_set = activation_bytes(prefill_program(layout, precision, batch if layout.two_d else 1, rows))
    fixed = weight_bytes(layout, precision) + kept_bytes(scenario.chip) + working_set
    return fixed + blocks * kv_cache_bytes(layout, precision, batch, CACHE_BLOCK)
