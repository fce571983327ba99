"""Which prompts, or parts of prompts, the next prefill step of a lane computes.

Source: vLLM v1/core/sched/scheduler.py and the plugin's scheduler.py: first come, first served; the head of the queue
blocks; chunks of a prompt that was cut go first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ttsim.serving.accounts import Totals
from ttsim.serving.lane import Lane
from ttsim.serving.policy import Policy
from ttsim.serving.requests import Requests


class Taken(NamedTuple):
    """What a prefill step computes of one request: so many tokens, behind those that are in the cache."""

    lane: Lane
    request: int
    tokens: int
    cached: int


def go_on(
    lane: Lane, policy: Policy, requests: Requests, taken: list[Taken], preempt: Callable[[Lane], None]
) -> tuple[int, bool]:
    """Takes the next chunks of the prompts that are cut.

    Args:
      taken: what the step computes, appended to. preempt: makes the youngest running request of a lane give up.

    Returns:
      Tokens left of the step's budget, and whether a request was preempted.
    """
    size, budget, lost = policy.block_size, policy.max_num_batched_tokens, False
    for request in list(lane.partial):
        if request not in lane.partial or not budget:
            continue
        cached = lane.partial[request]
        tokens = min(requests.prompt[request] + requests.made[request] - cached, budget)
        needed = -(-(cached + tokens) // size) - -(-cached // size)
        while needed > lane.free and request in lane.partial:
            preempt(lane)
            lost = True
        if request not in lane.partial:
            break
        lane.grow(needed)
        if lane.cache is not None:
            lane.cache.fill(request, (cached + tokens) // size)
        taken.append(Taken(lane, request, tokens, cached))
        budget -= tokens
    return budget, lost


def admit(
    lane: Lane, policy: Policy, requests: Requests, taken: list[Taken], budget: int, clock: int, totals: Totals
) -> None:
    """Takes requests from the head of the queue until one doesn't fit."""
    size, waiting, running = policy.block_size, lane.waiting, lane.running
    while waiting and len(running) < policy.max_num_seqs and budget:
        request = waiting[0]
        total = requests.prompt[request] + requests.made[request]
        hit, idle, group = 0, 0, requests.group[request]
        if lane.cache is not None and group >= 0:
            hit = lane.cache.hit(group, min(requests.shared[request], total - 1) // size)
            idle = lane.cache.idle(group, hit)
        tokens = total - hit * size
        if tokens > budget:
            if not policy.chunked_prefill:
                return
            tokens = budget
        new = -(-(hit * size + tokens) // size) - hit
        if new + idle > lane.free - policy.watermark:
            return
        lane.free -= new + idle
        if lane.cache is not None:
            lane.cache.take(request, group, hit, new, (hit * size + tokens) // size)
        waiting.popleft()
        running[request] = None
        if requests.admitted[request] < 0:
            requests.admitted[request] = clock
        if requests.made[request]:
            totals.recomputed += tokens
        totals.hit_tokens += hit * size
        taken.append(Taken(lane, request, tokens, hit * size))
        budget -= tokens
