"""Which box serves so many users within their limits: layouts and precisions, ranked by what they cost.

boxes          = users / (most users of one box within the limits), rounded up
tokens per joule   = output tokens per second / board power limit       (a lower bound: no load power is published)
tokens/s per $1000 = output tokens per second / list price of the boards
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.explore.launch import ServerOptions, server
from ttsim.hardware.boards import LIST_PRICES, POWER_LIMITS, token_price
from ttsim.meshes.systems import SYSTEMS
from ttsim.scenarios.scenario import REFUSALS
from ttsim.serving.serve import Served, Serving, serve

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
        return self.served.server.scenario.system.name

    @property
    def price(self) -> float | None:
        """Dollars of all boards."""
        price = LIST_PRICES.get(self._name)
        return None if price is None else price * self.boxes

    @property
    def power(self) -> float | None:
        """Watts of all boards at their limit."""
        power = POWER_LIMITS.get(self._name)
        return None if power is None else power * self.boxes

    @property
    def tokens_per_joule(self) -> float | None:
        power = POWER_LIMITS.get(self._name)
        return None if power is None else self.served.metrics.output_throughput / power

    @property
    def token_price(self) -> float | None:
        """Dollars of boards per output token (`ttsim.hardware.boards.token_price`)."""
        return token_price(self._name, self.served.metrics.output_throughput)

    @property
    def throughput_per_1000_dollars(self) -> float | None:
        price = LIST_PRICES.get(self._name)
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
    found = served.server
    policy = found.pool.policy
    options = ServerOptions(
        max_num_seqs=policy.max_num_seqs,
        max_model_len=found.limit,
        max_num_batched_tokens=policy.max_num_batched_tokens,
        block_size=policy.block_size,
        data_parallel=found.data_parallel,
        steps_per_look=policy.steps_per_look,
        prefix_caching=policy.prefix_caching,
        chunked_prefill=policy.chunked_prefill,
    )
    scenario = dataclasses.replace(found.scenario, software=found.software)
    return server(scenario, options, served.question.model)
