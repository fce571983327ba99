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

from ttsim.hardware.constants import load_constants
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision
from ttsim.pricing.matrices import Programs
from ttsim.pricing.price import Cost, price
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True)
class PromptWhatIf:
    """Prompts as matrices. A point is a (precision, batch, length), in this order of axes.

    Attributes:
      precisions, batch_sizes, prompt_lengths: the axes.
      prompts: a run of chunks for each point.
    """

    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    prompts: Programs

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
        known: dict[tuple[Any, ...], Cost] = {}
        scenarios = [
            Scenario.of(model, device, "performance", b, n, 2, data_parallel, date)
            for b in batch_sizes
            for n in prompt_lengths
        ]
        resolved = tuple(resolve(precision, scenarios[0].config.known_name, date) for precision in precisions)
        machine = scenarios[0].machine()
        runs = []
        for precision in resolved:
            for base in scenarios:
                scenario = dataclasses.replace(base, precision=precision)
                run = []
                for chunk in base.prefill_chunks:
                    key = (precision, base.prompt_users, chunk)
                    if key not in known:
                        known[key] = price(scenario.prefill_program(*chunk), machine)
                    run.append(known[key])
                runs.append(run)
        return cls(
            precisions=resolved,
            batch_sizes=tuple(batch_sizes),
            prompt_lengths=tuple(prompt_lengths),
            prompts=Programs.build(runs),
        )

    def ttft(self, constants: Mapping[str, Any] | None = None, xp: Any = jnp) -> Any:
        """Seconds to the first token: [precisions, batches, prompt lengths].

        Args:
          constants: of the cost model (numbers, or JAX values to differentiate); by default the calibrated ones.
          xp: jax.numpy or numpy.
        """
        constants = load_constants() if constants is None else constants
        return xp.reshape(self.prompts.round(constants, xp) / self.prompts.replicas, self.shape)
