"""Prefill of several prompts at once, and what its "TTFT" means.

Since tt-metal #35722 the demo computes all prompts of one padded length as one program, whose rows are those of every
prompt, and prints the program's time over the number of prompts as TTFT: the share of a prompt. No user has a token
before the whole program has run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ttsim.pricing.price import Cost, PricedKernel, prefill_time
from ttsim.scenarios.scenario import Scenario


def computed_together(scenario: Scenario) -> bool:
    """Whether the software computes the prompts of this batch in one program."""
    replicas = scenario.system.data_parallel
    return scenario.software.batched_prefill and scenario.batch_size > 1 and replicas == 1


def prompt_share(scenario: Scenario, constants: Mapping[str, float]) -> float:
    """Seconds of the batch's prefill over its prompts: what the demo prints as TTFT."""
    time = prefill_time(
        [_together(scenario)], constants, batch=scenario.batch_size, vocab_size=scenario.config.vocab_size
    )
    return float(time) / scenario.batch_size


def _together(scenario: Scenario) -> Cost:
    """The kernels of all prompts' rows; each prompt attends to itself, so that attention is one prompt's, repeated."""
    users, rows = scenario.batch_size, scenario.padded_prompt
    machine = scenario.prefill_machine
    (alone,) = dataclasses.replace(scenario, batch_size=1).prefill_costs()[:1]
    whole = scenario.price_prompt(0, users * rows, True)
    attention: dict[str, list[PricedKernel]] = {}
    for item in alone.kernels:
        if item.op == "sdpa_prefill":
            attention.setdefault(item.where, []).append(dataclasses.replace(item, count=item.count * users))
    kernels = tuple(
        attention.get(item.where, [item]).pop(0) if item.op == "sdpa_prefill" else item for item in whole.kernels
    )
    return Cost(kernels, machine)
