"""Steps of a server priced as programs of a simulated box.

decode step  = the traced decode program of all slots, the cache read of those that are in use
prompt       = its prefill program, padded; after a cached prefix the chunks from there on
batch        = one program of prompts x rows, with the attention of each prompt by itself
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ttsim.hardware.quantities import average
from ttsim.models.decoder import PREFILL_LAYER
from ttsim.models.grids import padded_prefill_length
from ttsim.scenarios.memory import CACHE_BLOCK
from ttsim.scenarios.scenario import Scenario


class SimulatedPrices:
    """Step prices of one engine: a scenario's programs at the rows, contexts and prompts that the server asks for."""

    def __init__(self, scenario: Scenario, constants: Mapping[str, float], slots: int) -> None:
        """Prices of an engine.

        Args:
          scenario: its batch is the rows of one replica's program, its system the chips of the engine.
          slots: of a lane. They may be those of several replicas, or a part of a program's rows.
        """
        self.scenario, self._constants, self._slots = scenario, constants, slots
        self._decode: dict[tuple[int, int], np.ndarray] = {}
        self._prefill: dict[tuple[int, int, int], float] = {}

    def padded(self, tokens: int) -> int:
        return padded_prefill_length(tokens)

    def decode(self, rows: int, readers: int, contexts: np.ndarray) -> np.ndarray:
        """Every context is priced itself: the programs take arrays of positions.

        Where a lane's users are spread over several replicas, they are spread evenly.
        """
        share = self.scenario.batch_size / self._slots  # rows of a program for each slot of a lane
        key = math.ceil(rows * share), math.ceil(readers * share)
        most = int(np.max(contexts))
        known = self._decode.get(key, np.zeros(0))
        if len(known) < most:
            scenario = dataclasses.replace(self.scenario, batch_size=key[0])
            more = np.arange(len(known) + 1, most + 1)
            times = np.asarray(scenario.step_times(self._constants, more, key[1]), float)
            known = self._decode[key] = np.concatenate([known, times])
        return np.asarray(known[np.asarray(contexts) - 1])

    def prefill(self, prompts: int, tokens: int, prefix: int) -> float:
        key = prompts, self.padded(tokens), prefix // CACHE_BLOCK * CACHE_BLOCK
        if key not in self._prefill:
            self._prefill[key] = self._together(prompts, key[1]) if prompts > 1 else self._alone(*key[1:])
        return self._prefill[key]

    def _prompt(self, rows: int) -> Scenario:
        # A prompt's program knows the users only where they are spread over the chips of a replica; the prompts of an
        # engine run one after the other, whichever replica they are for.
        batch = self.scenario.batch_size if self.scenario.layout.two_d else 1
        alone = dataclasses.replace(self.scenario.system, data_parallel=1)
        return dataclasses.replace(self.scenario, prompt_length=rows, batch_size=batch, system=alone)

    def _alone(self, rows: int, prefix: int) -> float:
        scenario = self._prompt(rows)
        if prefix:
            scenario = dataclasses.replace(scenario, prompt_length=prefix + rows, prefix_hit=prefix)
        return float(scenario.ttft(self._constants))

    def _together(self, prompts: int, rows: int) -> float:
        """One program of `prompts` x `rows` rows: a prompt's time, and what the device has to do beyond one prompt.

        batch = T(rows) + R(prompts x rows) - R(rows) + (prompts - 1) A(rows)

        with A the attention, which stays within a prompt, and R all other kernels of the layers.
        """
        alone, attention = self._layers(rows)
        return self._alone(rows, 0) + self._layers(prompts * rows)[0] - alone + (prompts - 1) * attention

    def _layers(self, rows: int) -> tuple[float, float]:
        """Device seconds of a prompt's layers: (all kernels but attention, attention)."""
        others = attention = 0.0
        for cost in self._prompt(rows).prefill_costs:
            gap = cost.machine.software.dispatch_gap
            for item in cost.kernels:
                if not item.where.startswith(PREFILL_LAYER):
                    continue
                time = item.count * (average(item.kernel.time(self._constants)) + gap)
                if item.op == "sdpa_prefill":
                    attention += time
                else:
                    others += time
        return others, attention
