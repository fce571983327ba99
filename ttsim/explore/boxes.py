"""Which box serves so many users within their limits: layouts and precisions, ranked by what they cost.

boxes          = users / (most users of one box within the limits), rounded up
tokens per joule   = output tokens per second / board power limit       (a lower bound: no load power is published)
tokens/s per $1000 = output tokens per second / list price of the boards
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.explore.goal import PRICES
from ttsim.meshes.systems import SYSTEMS
from ttsim.scenarios.scenario import REFUSALS
from ttsim.serving.serve import Served, Serving, serve

# Board power limits (TBP) in watts: specifications of tenstorrent.github.io 05e6d45 (2026), not measured loads.
# Measured points are few: one P150 at 800 MHz takes 42 W in decode (tt-metal regression document, 2026-06).
POWER: Mapping[str, float] = {
    "N150": 160,
    "N300": 300,
    "N150X4": 4 * 160,
    "T3K": 4 * 300,
    "P100": 300,
    "P150": 300,
    "P150X2": 2 * 300,
    "P150X4": 4 * 300,
    "P150X8": 8 * 300,
    "P300": 600,
    "P300X2": 2 * 600,
}
_WAVES = 4  # requests of a trial: waves of its users


@dataclass(frozen=True)
class Offer:
    """One box and layout.

    Attributes:
      served: at the most users that it serves within the limits, or at one user if none.
      meets: whether it serves any. users: so many, of one box. boxes: that all users need.
      top1: estimated, percent; None if it can't be told. binds: the limit that stops it from serving more.
    """

    served: Served
    meets: bool
    users: int
    boxes: int
    top1: float | None
    binds: str

    @property
    def _name(self) -> str:
        return self.served.server.scenario.system.name.upper()

    @property
    def price(self) -> float | None:
        """Dollars of all boards."""
        price = PRICES.get(self._name)
        return None if price is None else price * self.boxes

    @property
    def power(self) -> float | None:
        """Watts of all boards at their limit."""
        power = POWER.get(self._name)
        return None if power is None else power * self.boxes

    @property
    def tokens_per_joule(self) -> float | None:
        power = POWER.get(self._name)
        return None if power is None else self.served.metrics.output_throughput / power

    @property
    def throughput_per_1000_dollars(self) -> float | None:
        price = PRICES.get(self._name)
        return None if price is None else 1000 * self.served.metrics.output_throughput / price


def find(
    question: Serving,
    slo: Mapping[str, float],
    precisions: Sequence[str] = ("performance",),
    devices: Sequence[str] | None = None,
    percent: float = 99,
) -> list[Offer]:
    """All boxes and layouts, those that meet the limits first, the cheapest first.

    Args:
      question: model, lengths and users (`concurrency`).
      slo: limits in seconds of the given percentile. precisions, devices: to try; by default all boxes.

    Raises:
      ValueError: no users are given.
    """
    if question.concurrency is None or question.request_rate is not None or question.trace:
        raise ValueError("a goal is for users: give --concurrency=N and neither request_rate nor trace")
    offers = []
    for name in devices or list(SYSTEMS):
        for degree in (d for d in range(1, SYSTEMS[name].num_chips + 1) if SYSTEMS[name].num_chips % d == 0):
            for precision in precisions:
                changed = question.change(device=name, data_parallel=degree, precision=precision)
                try:
                    changed.server().scenario.check_fits()
                    offers.append(_offer(changed, slo, percent))
                except REFUSALS:
                    continue
    return sorted(offers, key=_rank)


def _rank(offer: Offer) -> tuple[bool, float, float, float]:
    price = math.inf if offer.price is None else offer.price
    chips = offer.boxes * offer.served.server.scenario.system.num_chips
    return not offer.meets, price, chips, -offer.served.metrics.output_throughput


def violations(served: Served, slo: Mapping[str, float], percent: float) -> dict[str, float]:
    """How many times over its limit each figure is; at most 1 meets it."""
    return {f: getattr(served.metrics, f).percentile(percent) / limit for f, limit in slo.items()}


def _offer(question: Serving, slo: Mapping[str, float], percent: float) -> Offer:
    """Bisects the users that a box serves within the limits."""
    wanted = question.concurrency or 1
    known: dict[int, tuple[Served, dict[str, float]]] = {}

    def trial(users: int) -> bool:
        if users not in known:
            served = serve(question.change(concurrency=users, requests=max(_WAVES * users, 32)))
            known[users] = served, violations(served, slo, percent)
        return max(known[users][1].values()) <= 1

    low, high = 0, wanted
    if trial(wanted):
        low = wanted
    while high - low > max(low // 16, 1):  # to a sixteenth
        middle = (low + high) // 2
        low, high = (middle, high) if trial(middle) else (low, middle)
    if not low:
        trial(1)
        low = 1 if max(known[1][1].values()) <= 1 else 0
    served, _ = known[max(low, 1)]
    worst = "" if low == wanted else max(known[high][1].items(), key=lambda item: item[1])[0] if high in known else ""
    accuracy = estimate_accuracy(served.server.scenario.config, served.server.scenario.precision)
    return Offer(
        served=served,
        meets=low > 0,
        users=low,
        boxes=-(-wanted // low) if low else 1,
        top1=accuracy.top1,
        binds=worst,
    )


def launch_flags(served: Served) -> str:
    """The vLLM server's command line for a layout."""
    server = served.server
    policy = server.pool.policy
    flags = [
        f"--model {server.scenario.config.name}",
        f"--max-num-seqs {policy.max_num_seqs}",
        f"--max-model-len {server.limit}",
        f"--max-num-batched-tokens {policy.max_num_batched_tokens}",
        f"--block-size {policy.block_size}",
    ]
    if server.data_parallel > 1:
        flags.append(f"--data_parallel_size {server.data_parallel}")
    if policy.steps_per_look > 1:
        flags.append(f"--num_scheduler_steps {policy.steps_per_look}")
    flags.append("--enable-prefix-caching" if policy.prefix_caching else "--no-enable-prefix-caching")
    flags.append("--enable-chunked-prefill" if policy.chunked_prefill else "--no-enable-chunked-prefill")
    return f"MESH_DEVICE={server.scenario.system.name} vllm serve {' '.join(flags)}"
