"""Prefill of several prompts at once, and what its "TTFT" means.

Since tt-metal #35722 the demo computes all prompts of one padded length as one program, whose rows are those of every
prompt, and prints the program's time over the number of prompts as TTFT: the share of a prompt. No user has a token
before the whole program has run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ttsim.pricing.price import Cost, PricedKernel, price, totals
from ttsim.scenarios.scenario import Scenario


def computed_together(scenario: Scenario) -> bool:
    """Whether the software computes the prompts of this batch in one program."""
    replicas = scenario.system.data_parallel
    return scenario.software.batched_prefill and scenario.batch_size > 1 and replicas == 1


def prompt_share(scenario: Scenario, constants: Mapping[str, float]) -> float:
    """Seconds of the batch's prefill over its prompts: what the demo prints as TTFT."""
    return float(totals([_together(scenario)], constants).round(1)) / scenario.batch_size


def _together(scenario: Scenario) -> Cost:
    """The kernels of all prompts' rows; each prompt attends to itself, so that attention is one prompt's, repeated."""
    users, rows = scenario.batch_size, scenario.padded_prompt
    alone = dataclasses.replace(scenario, batch_size=1).prefill_costs[0]
    attention = [item.kernel for item in alone.kernels if item.op == "sdpa_prefill"]
    whole = price(scenario.prefill_program(0, users * rows, True), scenario.machine())

    def of_prompts(item: PricedKernel) -> PricedKernel:
        if item.op != "sdpa_prefill":
            return item
        kernel = attention.pop(0)
        limits = {name: users * terms for name, terms in kernel.limits.items()}
        every = dataclasses.replace(kernel, start=users * kernel.start, limits=limits, bytes=users * kernel.bytes)
        return dataclasses.replace(item, kernel=every)

    stretches = tuple(
        dataclasses.replace(
            stretch,
            segments=tuple(
                dataclasses.replace(segment, kernels=tuple(map(of_prompts, segment.kernels)))
                for segment in stretch.segments
            ),
        )
        for stretch in whole.stretches
    )
    return Cost(stretches, whole.machine)
