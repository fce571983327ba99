"""One or several engines and the client that loads them: the event loop over all of them.

The engine with the earliest clock goes next: what ended there may bring the client's next request, what arrived until
then joins a queue, and it decides its next step. An engine that runs a stretch of decode steps stops at the first step
end after anything that could bring it a request.

Sources: vLLM benchmarks/serve.py (client), v1/engine/core_client.py (router between data-parallel ranks).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import numpy as np

from ttsim.serving.accounts import Step, Totals
from ttsim.serving.clock import TICKS_PER_SECOND, ticks
from ttsim.serving.engine import Engine
from ttsim.serving.policy import Policy
from ttsim.serving.prices import NO_HOST, HostCosts, StepPrices
from ttsim.serving.requests import Requests

LONGEST_RUN = 2e6  # seconds of arrivals, so that all times fit 64 bits of ticks


@dataclass(frozen=True, kw_only=True)
class Load:
    """How requests reach the server.

    Attributes:
      arrivals: seconds at which each request exists, ascending.
      concurrency: most requests that the client has open; the next is sent when one ends (None: no limit).
      spacing: seconds between requests that the client sends at the same moment.
    """

    arrivals: Sequence[float]
    concurrency: int | None = None
    spacing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Engines of one kind.

    Attributes:
      policy, prices, host: of each engine. count: independent engines, each with its own scheduler and chips.
    """

    policy: Policy
    prices: StepPrices
    host: HostCosts = NO_HOST
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """Decode on other engines than prefill.

    Attributes:
      pool: the decode engines. latency: seconds of a transfer. per_token: seconds for each token of the prompt's cache.
    """

    pool: Pool
    latency: float
    per_token: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What happened. Times are ticks.

    Attributes:
      requests: the columns. after: ticks from a token to the client. totals: of each engine, prefill engines first.
      gaps, counts: distinct gaps between tokens, and how often. logs: each engine's steps, if they were kept.
      pools: whose engines these are, prefill first.
    """

    requests: Requests
    after: int
    totals: tuple[Totals, ...]
    gaps: np.ndarray
    counts: np.ndarray
    logs: tuple[tuple[Step, ...], ...]
    pools: tuple[Pool, ...]


@dataclass
class _Client:
    """Sends requests; times are those at which they reach the queue."""

    requests: Requests
    arrivals: list[int]
    limit: int | None
    spacing: int
    before: int
    after: int
    heap: list[tuple[int, int]] = field(default_factory=list)
    unsent: int = 0

    def __post_init__(self) -> None:
        n = len(self.arrivals)
        self.unsent = n if self.limit is None else min(self.limit, n)
        moment, burst = -1, 0
        for i in range(self.unsent):
            burst = burst + 1 if self.arrivals[i] == moment else 0
            moment = self.arrivals[i]
            self._send(i, moment + burst * self.spacing)
        heapify(self.heap)

    def _send(self, request: int, moment: int) -> None:
        self.requests.sent[request] = moment
        self.requests.queued[request] = moment + self.before
        self.heap.append((moment + self.before, request))

    def ended(self, done: Sequence[int]) -> None:
        """Sends the next request for each that has ended."""
        ended, burst = -1, 0
        for request in done:
            if self.unsent >= len(self.arrivals):
                return
            burst = burst + 1 if self.requests.done[request] == ended else 0
            ended = self.requests.done[request]
            i, self.unsent = self.unsent, self.unsent + 1
            moment = max(ended + self.after + burst * self.spacing, self.arrivals[i])
            self.requests.sent[i], self.requests.queued[i] = moment, moment + self.before
            heappush(self.heap, (moment + self.before, i))


def run(
    requests: Requests, load: Load, pool: Pool, *, hand_over: HandOver | None = None, keep_steps: bool = False
) -> Run:
    """Simulates requests until the last one ends.

    Args:
      requests: what is asked; its columns of times are filled in. load: when.
      pool: the engines. hand_over: engines that decode what `pool` has prefilled.
      keep_steps: keep every step, for timelines.

    Raises:
      ValueError: no request, arrivals out of order, or a request that could never run.
    """
    _check(requests, load, pool, hand_over)
    longest = max(map(sum, zip(requests.prompt, requests.output, strict=True)))
    logs: list[list[Step]] = []

    def engines(pool: Pool, columns: Requests, handed_over: bool = False) -> list[Engine]:
        made = []
        for _ in range(pool.count):
            logs.append([])
            log = logs[-1] if keep_steps else None
            made.append(Engine(pool.policy, pool.prices, pool.host, columns, longest, log, handed_over))
        return made

    front_columns = requests
    if hand_over:
        front_columns = Requests(requests.prompt, [1] * len(requests), requests.group, requests.shared)
    front = engines(pool, front_columns)
    back = engines(hand_over.pool, requests, handed_over=True) if hand_over else []
    client = _Client(
        front_columns,
        [ticks(t) for t in load.arrivals],
        load.concurrency,
        ticks(load.spacing),
        ticks(pool.host.before),
        ticks((hand_over.pool if hand_over else pool).host.after),
    )
    if hand_over:
        client.requests = requests
        requests.sent, requests.queued = front_columns.sent, front_columns.queued
    collects = gc.isenabled()
    gc.disable()  # the loop makes millions of tuples and no cycle: looking for one takes a fifth of the time
    try:
        if pool.count == 1 and not hand_over:
            _loop_alone(client, front[0])
        else:
            _loop(requests, front_columns, client, front, back, hand_over)
    finally:
        if collects:
            gc.enable()
    if hand_over:
        requests.admitted = front_columns.admitted
    if max(requests.done) > 4 * LONGEST_RUN * TICKS_PER_SECOND:
        days = max(requests.done) / TICKS_PER_SECOND / 86_400
        raise ValueError(f"the requests take {days:,.0f} days: give fewer, or shorter ones")
    gaps, counts = _gaps([*(back or front)])
    return Run(
        requests=requests,
        after=client.after,
        totals=tuple(engine.totals for engine in (*front, *back)),
        gaps=gaps,
        counts=counts,
        logs=tuple(map(tuple, logs)),
        pools=(pool, hand_over.pool) if hand_over else (pool,),
    )


def _loop_alone(client: _Client, engine: Engine) -> None:
    """`_loop` of one engine, which needs no router."""
    arrivals = client.heap
    if plain := engine.plain():
        plain.run(arrivals, client.ended)
        return
    while engine.jobs or arrivals:
        if not engine.jobs:
            engine.clock = max(engine.clock, arrivals[0][0])
        while arrivals and arrivals[0][0] < engine.clock:
            moment, request = heappop(arrivals)
            engine.add(request, moment)
        if done := engine.finish():
            client.ended(done)
        while arrivals and arrivals[0][0] <= engine.clock:
            moment, request = heappop(arrivals)
            engine.add(request, moment)
        if engine.jobs and (answered := engine.decide(arrivals[0][0] if arrivals else None)):
            client.ended(answered)


def _loop(
    requests: Requests,
    front_columns: Requests,
    client: _Client,
    front: list[Engine],
    back: list[Engine],
    hand_over: HandOver | None,
) -> None:
    latency = ticks(hand_over.latency) if hand_over else 0
    moving: list[tuple[int, int]] = []  # caches on their way to a decode engine
    everyone = [*front, *back]
    arrivals = client.heap
    limited = client.limit is not None or hand_over is not None

    def deliver(until: int) -> None:
        for heap, group in ((arrivals, front), (moving, back)):
            while heap and heap[0][0] <= until:
                moment, request = heappop(heap)
                engine = min(group, key=Engine.load) if len(group) > 1 else group[0]  # the first on ties
                if not engine.jobs:
                    engine.clock = max(engine.clock, moment)
                engine.add(request, moment)

    while True:
        engine = min((e for e in everyone if e.jobs), key=_clock, default=None)
        coming = min((heap[0][0] for heap in (arrivals, moving) if heap), default=None)
        if engine is None:
            if coming is None:
                return
            deliver(coming)
            continue
        if coming is not None and coming < engine.clock:
            deliver(coming)
            continue
        client.ended(engine.finish())
        deliver(engine.clock)
        if not engine.jobs:
            continue
        horizon = min((heap[0][0] for heap in (arrivals, moving) if heap), default=None)
        if limited:
            others = min((e.clock for e in everyone if e.jobs and e is not engine), default=None)
            if others is not None:
                horizon = others if horizon is None else min(horizon, others)
        answered = engine.decide(horizon)
        if not (back and engine in front):
            client.ended(answered)
            continue
        assert hand_over is not None
        for request in answered:
            requests.first[request] = front_columns.first[request]
            if requests.output[request] == 1:
                requests.done[request], requests.made[request] = front_columns.done[request], 1
                client.ended([request])
                continue
            transfer = latency + ticks(hand_over.per_token * requests.prompt[request])
            heappush(moving, (front_columns.done[request] + transfer, request))


def _clock(engine: Engine) -> int:
    return engine.clock


def _gaps(engines: Sequence[Engine]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct gaps between tokens of a request over all engines, ascending, and their counts."""
    values, counts = [], []
    for engine in engines:
        plain, number = engine.tables.gaps()
        values += [plain, np.array(engine.totals.odd_gaps, dtype=np.int64)]
        counts += [number, np.array(engine.totals.odd_counts, dtype=np.int64)]
    gaps, inverse = np.unique(np.concatenate(values), return_inverse=True)
    total = np.zeros(len(gaps), np.int64)
    np.add.at(total, inverse, np.concatenate(counts))
    requests = engines[0].requests
    missing = sum(requests.output) - len(requests) - int(total.sum())
    if missing:  # tokens that a look of several steps sends together
        gaps, total = np.concatenate([[0], gaps]), np.concatenate([[missing], total])
    return gaps, total


def _check(requests: Requests, load: Load, pool: Pool, hand_over: HandOver | None) -> None:
    if not len(requests):
        raise ValueError("a run needs at least one request")
    if len(load.arrivals) != len(requests):
        raise ValueError(f"{len(requests)} requests and {len(load.arrivals)} arrivals: give one for each")
    if load.concurrency is not None and load.concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {load.concurrency}")
    if min(requests.prompt) < 1 or min(requests.output) < 1:
        raise ValueError("every request has a prompt and an output of at least one token")
    arrivals = np.asarray(load.arrivals, float)
    if not np.isfinite(arrivals).all() or (arrivals < 0).any() or (np.diff(arrivals) < 0).any():
        raise ValueError("arrivals must be finite seconds in ascending order, the first at 0 or later")
    if arrivals[-1] > LONGEST_RUN or load.spacing * len(arrivals) > LONGEST_RUN:
        raise ValueError(
            f"requests arrive over {max(arrivals[-1], load.spacing * len(arrivals)):.3g} s; a run of at most "
            f"{LONGEST_RUN:,.0f} s (23 days) is simulated: give fewer, or a higher rate"
        )
    # The longest request decides: a shorter one needs less of everything.
    prompts, outputs = np.array(requests.prompt), np.array(requests.output)
    longest = int(np.argmax(prompts if hand_over else prompts + outputs))
    pool.policy.check(int(prompts[longest]), 1 if hand_over else int(outputs[longest]))
    if hand_over:
        longest = int(np.argmax(prompts + outputs))
        hand_over.pool.policy.check(int(prompts[longest]), int(outputs[longest]))
