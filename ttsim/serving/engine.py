"""One server engine, a step or a stretch of equal steps at a time.

All running requests advance by one token a decode step, and a step's price depends on the rows and the longest context
only. So between two events (an end, an arrival that can enter, a full pool, the end of a forced stretch) any number of
decode steps is one difference of prefix sums, and nothing is done per token: about 2.4 events a request. The result is
the one that a loop over single steps gives, to the tick (`tests/serving/token_loop.py`).
"""

from __future__ import annotations

import dataclasses
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from ttsim.serving.clock import ticks
from ttsim.serving.policy import BATCHED_TOKENS, Policy
from ttsim.serving.prefixes import PrefixCache
from ttsim.serving.prices import HostCosts, StepPrices
from ttsim.serving.requests import Requests


@dataclass
class Lane:
    """A queue, the requests that run, and their pool.

    Attributes:
      waiting: the queue. running: admitted requests, oldest first. decoding: how many of them decode.
      partial: tokens in the cache of prompts that are cut.
      free: blocks. due: requests that need a new block before decode step D, by D modulo the block size.
    """

    free: int
    due: list[int]
    cache: PrefixCache | None
    waiting: deque[int] = field(default_factory=deque)
    running: dict[int, None] = field(default_factory=dict)
    decoding: int = 0
    partial: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What an engine did, for timelines: a prefill step, or a stretch of decode steps.

    Attributes:
      start, end: ticks. prompts: (request, tokens) of a prefill step. steps: of a decode stretch.
      users: requests that decode. rows, context: of the first step's price.
    """

    start: int
    end: int
    prompts: tuple[tuple[int, int], ...]
    steps: int
    users: int
    rows: int
    context: int


@dataclass
class Totals:
    """Sums over an engine's run; times in ticks.

    Attributes:
      prefill, decode: busy times. user_time: integral of the decoding requests over decode time.
      block_time: integral of the used blocks over busy time (linear within a stretch). peak_blocks: most in use.
      prefill_tokens: computed, before padding. hit_tokens: found in the prefix cache. recomputed: after preemptions.
      prefill_steps, decode_steps: how many. row_steps: rows computed by decode steps, the empty ones too.
      odd_gaps, odd_counts: gaps between tokens that are no plain decode step, and of how many requests.
    """

    prefill: int = 0
    decode: int = 0
    user_time: int = 0
    block_time: float = 0.0
    peak_blocks: int = 0
    prefill_tokens: int = 0
    hit_tokens: int = 0
    recomputed: int = 0
    prefill_steps: int = 0
    decode_steps: int = 0
    row_steps: int = 0
    odd_gaps: array[int] = field(default_factory=lambda: array("q"))
    odd_counts: array[int] = field(default_factory=lambda: array("q"))


@dataclass
class _Rows:
    """Decode prices of one number of rows: prefix sums over contexts, and how many gaps were a step of each context."""

    first: list[int]  # steps that nothing overlaps
    later: list[int]  # steady steps; the same list without async_scheduling
    gaps: list[int]  # differences over contexts of the number of gaps


class Engine:
    """A scheduler process with its lanes. `finish` what ended at `clock`, `add` what arrived until then, `decide`."""

    def __init__(
        self,
        policy: Policy,
        prices: StepPrices,
        host: HostCosts,
        requests: Requests,
        longest: int,
        log: list[Step] | None = None,
        handed_over: bool = False,
    ) -> None:
        """An idle engine.

        Args:
          longest: tokens of the longest request, prompt and output.
          log: where steps go, if they are wanted.
          handed_over: requests come with their cache and their first token from another engine; only what is preempted
            is prefilled here.
        """
        self._handed_over = handed_over
        self.policy, self.requests, self.totals, self.clock = policy, requests, Totals(), 0
        self.lanes = [
            Lane(policy.blocks, [0] * policy.block_size, PrefixCache(policy.blocks) if policy.prefix_caching else None)
            for _ in range(policy.lanes)
        ]
        self.jobs = 0  # waiting and running
        self._prices, self._log, self._longest = prices, log, longest + policy.steps_per_look + 1
        self._host = {f.name: ticks(getattr(host, f.name)) for f in dataclasses.fields(host)}
        self._host_seconds = host
        self._rows: dict[int, _Rows] = {}
        self._prompts: dict[tuple[int, int, int], int] = {}
        self._arrived: list[int] = []
        self._last_start = -1  # of the last step
        self._steps = 0  # decode steps so far: D
        self._decoding = 0
        self._base: dict[int, int] = {}  # of a decoding request: its context less D
        self._lane: dict[int, Lane] = {}
        self._ends: list[tuple[int, int]] = []  # (D at its end, request); stale entries are dropped when met
        self._end: dict[int, int] = {}
        self._contexts: list[tuple[int, int]] = []  # (-base, request); likewise
        self._ended: list[int] = []  # requests that prefill alone answered, until `finish`
        self._run = self._forced = 0  # prefill steps since a decode; decode steps that must come first
        self._fresh: dict[int, int] = {}  # last token of requests that came since the last decode step
        self._token = 0  # last token of the other decoding requests
        self._lost: dict[int, int] = {}  # last token of preempted requests
        self._steady = self._late = self._entry = False
        self._last_context, self._last_rows = 0, _Rows([], [], [])

    # Around a step

    def add(self, request: int, moment: int) -> None:
        """A request arrives; the scheduler sees it between this step and the next."""
        self.jobs += 1
        if moment <= self._last_start:  # it was seen before the last step of this stretch
            self._join(request)
        else:
            self._arrived.append(request)

    def _join(self, request: int) -> None:
        """A request joins the lane with the least 4 x waiting + running, the lowest on ties."""
        lane = min(self.lanes, key=_load) if len(self.lanes) > 1 else self.lanes[0]
        lane.waiting.append(request)
        self._lane[request] = lane

    def load(self) -> int:
        """What a router compares: 4 x waiting + running."""
        return 4 * len(self._arrived) + sum(map(_load, self.lanes))

    def finish(self) -> list[int]:
        """Frees what ended with the last step; the requests whose last token a decode step yielded at `clock`."""
        for request in self._ended:
            self._release(request, self.requests.prompt[request] + self.requests.made[request] - 1)
        self.jobs -= len(self._ended)
        done: list[int] = []
        self._ended = []
        ends, steps = self._ends, self._steps
        while ends and ends[0][0] <= steps:
            end, request = heappop(ends)
            if self._end.get(request) != end or request not in self._base:
                continue
            base = self._base.pop(request)
            del self._end[request]
            lane = self._lane[request]
            lane.due[-base % self.policy.block_size] -= 1
            lane.decoding -= 1
            self._decoding -= 1
            self._release(request, base + steps)
            self.requests.done[request] = self.clock
            self.requests.made[request] = self.requests.output[request]
            done.append(request)
            self._steady = self._late = False
        self.jobs -= len(done)
        return done

    def _release(self, request: int, cached: int) -> None:
        lane, size = self._lane.pop(request), self.policy.block_size
        blocks = -(-cached // size)
        if lane.cache is None:
            lane.free += blocks
        else:
            lane.free += lane.cache.give_back(request, blocks, cached // size)
        del lane.running[request]

    def decide(self, horizon: int | None) -> list[int]:
        """Runs the next step, or a stretch of equal ones.

        Args:
          horizon: ticks at which a request may arrive; steps that could admit one end at or just after it.

        Returns:
          The requests whose last token a prefill step yielded.
        """
        for request in self._arrived:
            self._join(request)
        self._arrived.clear()
        preempted = False
        if not self._decoding:
            self._forced = 0
        if not (self._forced and self._decoding) and self._wanting():
            ran, preempted = self._prefill()
            if ran:
                return self._ended
        if self._decoding:
            self._decode(horizon, preempted)
        return self._ended

    def _wanting(self) -> bool:
        """Whether a queue holds a request, or a prompt is cut."""
        for lane in self.lanes:  # noqa: SIM110 - it runs at every step, and a generator costs five times as much
            if lane.waiting or lane.partial:
                return True
        return False

    def _open(self) -> bool:
        """Whether a request that arrives could be admitted."""
        for lane in self.lanes:  # noqa: SIM110 - as above
            if not lane.waiting and len(lane.running) < self.policy.max_num_seqs:
                return True
        return False

    # Prefill

    def _prefill(self) -> tuple[bool, bool]:
        """(whether anything was prefilled, whether something was preempted)."""
        taken: list[tuple[Lane, int, int, int]] = []  # (lane, request, tokens to compute, tokens in the cache)
        preempted = False
        for lane in self.lanes:
            budget = self.policy.max_num_batched_tokens
            if lane.partial:
                budget, lost = self._continue(lane, budget, taken)
                preempted |= lost
                if lost:
                    continue
            if lane.waiting:
                self._admit(lane, budget, taken)
        if not taken:
            return False, preempted
        self._run_prefill(taken)
        return True, preempted

    def _continue(self, lane: Lane, budget: int, taken: list[tuple[Lane, int, int, int]]) -> tuple[int, bool]:
        """Next chunks of the prompts that are cut: (tokens left of the budget, whether a request was preempted)."""
        size, requests, lost = self.policy.block_size, self.requests, False
        for request in list(lane.partial):
            if request not in lane.partial or not budget:
                continue
            cached = lane.partial[request]
            tokens = min(requests.prompt[request] + requests.made[request] - cached, budget)
            needed = -(-(cached + tokens) // size) - -(-cached // size)
            while needed > lane.free and request in lane.partial:
                self._preempt(lane)
                lost = True
            if request not in lane.partial:
                break
            self._grow(lane, needed)
            if lane.cache is not None:
                lane.cache.fill(request, (cached + tokens) // size)
            taken.append((lane, request, tokens, cached))
            budget -= tokens
        return budget, lost

    def _admit(self, lane: Lane, budget: int, taken: list[tuple[Lane, int, int, int]]) -> None:
        """Takes requests from the head of the queue until one doesn't fit."""
        policy, requests, size = self.policy, self.requests, self.policy.block_size
        while lane.waiting and len(lane.running) < policy.max_num_seqs and budget:
            request = lane.waiting[0]
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
            lane.waiting.popleft()
            lane.running[request] = None
            if requests.admitted[request] < 0:
                requests.admitted[request] = self.clock
            if requests.made[request]:
                self.totals.recomputed += tokens
            self.totals.hit_tokens += hit * size
            taken.append((lane, request, tokens, hit * size))
            budget -= tokens

    def _run_prefill(self, taken: list[tuple[Lane, int, int, int]]) -> None:
        """One prefill step over what was taken; advances the clock."""
        requests, policy, totals = self.requests, self.policy, self.totals
        start, decoded = self.clock, self._decoding > 0
        partial = False
        finished = []
        for lane, request, tokens, cached in taken:
            if cached + tokens < requests.prompt[request] + requests.made[request]:
                lane.partial[request] = cached + tokens
                partial = True
            else:
                lane.partial.pop(request, None)
                finished.append(request)
            totals.prefill_tokens += tokens
        times = self._prompt_times(taken)
        fixed = self._host["prefill_step"] + (self._host["partial_step"] if partial else 0)
        if policy.parallel_lanes:
            sums: dict[int, int] = {}
            for (lane, *_), time in zip(taken, times, strict=True):
                sums[id(lane)] = sums.get(id(lane), 0) + time
            self.clock += fixed + max(sums.values())
        else:
            self.clock += fixed + sum(times)
        self._last_start = start
        totals.prefill += self.clock - start
        totals.prefill_steps += 1
        self._account(start, 0)
        if self._late:
            self._publish_late()
        moment, each = start + fixed, policy.first_tokens == "prompt" and not policy.parallel_lanes
        for (_, request, tokens, cached), time in zip(taken, times, strict=True):
            moment += time
            if cached + tokens == requests.prompt[request] + requests.made[request]:
                self._yield_token(request, moment if each else self.clock)
        if policy.prefill_steps and decoded:
            self._run += 1
            if self._run >= policy.prefill_steps:
                self._forced = policy.decode_steps
        self._steady, self._entry = False, True
        if self._log is not None:
            prompts = tuple((request, tokens) for _, request, tokens, _ in taken)
            self._log.append(Step(start, self.clock, prompts, 0, self._decoding, 0, 0))

    def _prompt_times(self, taken: list[tuple[Lane, int, int, int]]) -> list[int]:
        """Ticks of each prompt of a step; a batch's are its parts."""
        n, made = len(taken), self.requests.made
        if self._handed_over:
            return [self._price(1, tokens, 0) if made[i] else 0 for _, i, tokens, _ in taken]
        if n > 1 and self.policy.batched_prefill and not any(cached for *_, cached in taken):
            rows = {self._prices.padded(tokens) for _, _, tokens, _ in taken}
            batch = 1 << (n - 1).bit_length()
            if len(rows) == 1 and batch * max(rows) < BATCHED_TOKENS:
                longest = max(tokens for _, _, tokens, _ in taken)
                whole = self._price(batch, longest, 0) + n * self._host["prompt"]
                return [whole * (i + 1) // n - whole * i // n for i in range(n)]
        return [self._price(1, tokens, cached) + self._host["prompt"] for _, _, tokens, cached in taken]

    def _price(self, prompts: int, tokens: int, cached: int) -> int:
        key = prompts, tokens, cached
        if key not in self._prompts:
            self._prompts[key] = ticks(self._prices.prefill(*key))
        return self._prompts[key]

    def _yield_token(self, request: int, moment: int) -> None:
        """A prompt's program yields a token: the first one, or the next after a preemption."""
        requests, steps = self.requests, self._steps
        cached = requests.prompt[request] + requests.made[request]
        requests.made[request] += 1
        if requests.made[request] > 1:
            self._gap(moment - self._lost.pop(request), 1)
        elif requests.first[request] < 0:
            requests.first[request] = moment
        else:  # handed over
            moment = requests.first[request]
        left = requests.output[request] - requests.made[request]
        if not left:
            requests.done[request] = moment
            self._ended.append(request)
            return
        lane, look = self._lane[request], self.policy.steps_per_look
        base, end = cached - steps, steps + -(-left // look) * look
        self._base[request], self._end[request] = base, end
        heappush(self._ends, (end, request))
        heappush(self._contexts, (-base, request))
        lane.due[-base % self.policy.block_size] += 1
        lane.decoding += 1
        self._decoding += 1
        self._fresh[request] = moment

    # Decode

    def _decode(self, horizon: int | None, preempted: bool) -> None:
        """As many decode steps as nothing can interrupt; advances the clock."""
        policy, look = self.policy, self.policy.steps_per_look
        for lane in self.lanes:
            while lane.decoding and self._needed(lane, look) > lane.free:
                self._preempt(lane)
                preempted = True
        if not self._decoding:
            return
        steps, context = self._next_end() - self._steps, self._longest_context()
        if preempted:  # what was preempted may fit again after this step
            steps, self._steady = look, False
        if self._forced and self._wanting():
            steps = min(steps, -(-self._forced // look) * look)
        rows = policy.max_num_seqs if policy.every_slot else max(lane.decoding for lane in self.lanes)
        price = self._rows.get(rows) or self._tabulate(rows)
        later = price.later
        first = price.later if self._steady else price.first
        extra = self._host["decode_entry"] if self._entry else 0
        extra += (first[context + 1] - first[context]) - (later[context + 1] - later[context])
        if horizon is not None and self._open():
            goal = horizon - self.clock - extra + later[context]
            reach = bisect_left(later, goal, context + 1, context + steps) - context
            steps = min(steps, -(-reach // look) * look)
        for lane in self.lanes:
            if lane.decoding and lane.decoding * (steps // policy.block_size + 1) > lane.free:
                while steps > look and self._needed(lane, steps) > lane.free:
                    steps = max(look, self._affordable(lane, steps) // look * look)
        taken = 0
        for lane in self.lanes:
            if lane.decoding:
                needed = self._needed(lane, steps)
                taken += needed
                self._grow(lane, needed)
        start = self.clock
        self.clock += extra + later[context + steps] - later[context]
        last = later[context + steps] - later[context + steps - look]
        self._last_start = self.clock - last if steps > look else start
        self._record_gaps(price, start, context, steps, extra)
        self._late = policy.async_scheduling and (steps > 1 or self._steady)
        self._steps += steps
        self._last_context = context + steps - 1
        self._last_rows = price
        self._steady, self._entry, self._run = True, False, 0
        self._forced = max(self._forced - steps, 0)
        totals, busy = self.totals, self.clock - start
        totals.decode += busy
        totals.decode_steps += steps
        totals.row_steps += steps * rows * len(self.lanes)
        totals.user_time += busy * self._decoding
        self._account(start, taken)
        if self._log is not None:
            self._log.append(Step(start, self.clock, (), steps, self._decoding, rows, context))

    def _next_end(self) -> int:
        ends = self._ends
        while self._end.get(ends[0][1]) != ends[0][0] or ends[0][1] not in self._base:
            heappop(ends)
        return ends[0][0]

    def _longest_context(self) -> int:
        contexts = self._contexts
        while self._base.get(contexts[0][1]) != -contexts[0][0]:
            heappop(contexts)
        return self._steps - contexts[0][0]

    def _needed(self, lane: Lane, steps: int) -> int:
        """Blocks that a lane's decoding requests take in the next steps."""
        size, due = self.policy.block_size, lane.due
        cycles, rest = divmod(steps, size)
        first = self._steps % size
        end = first + rest
        partly = sum(due[first:end]) if end <= size else sum(due[first:]) + sum(due[: end - size])
        return cycles * lane.decoding + partly

    def _affordable(self, lane: Lane, steps: int) -> int:
        """Most steps below `steps` whose blocks a lane has."""
        low, high = 0, steps - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._needed(lane, middle) <= lane.free else (low, middle - 1)
        return low

    def _grow(self, lane: Lane, blocks: int) -> None:
        lane.free -= blocks
        if lane.cache is not None and blocks:
            lane.cache.take_plain(blocks)

    def _preempt(self, lane: Lane) -> None:
        """The youngest running request loses its blocks and goes to the head of the queue."""
        request = next(reversed(lane.running))
        requests, size = self.requests, self.policy.block_size
        if request in lane.partial:
            cached = lane.partial.pop(request)
        else:
            base = self._base.pop(request)
            del self._end[request]
            cached = base + self._steps
            lane.due[-base % size] -= 1
            lane.decoding -= 1
            self._decoding -= 1
            requests.made[request] = cached + 1 - requests.prompt[request]
            self._lost[request] = self._fresh.pop(request, self._token)
        self._release(request, cached)
        lane.waiting.appendleft(request)
        self._lane[request] = lane
        requests.preemptions[request] += 1

    # Accounts

    def _tabulate(self, rows: int) -> _Rows:
        times = self._prices.decode(rows, np.arange(1, self._longest + 1))
        alone = _sums(np.asarray(times, float) + self._host_seconds.decode_step)
        later = alone
        if self.policy.async_scheduling:
            later = _sums(np.maximum(np.asarray(times, float), self._host_seconds.decode_step))
        self._rows[rows] = _Rows(alone, later, [0] * (len(alone) + 1))
        return self._rows[rows]

    def _gap(self, gap: int, count: int) -> None:
        self.totals.odd_gaps.append(gap)
        self.totals.odd_counts.append(count)

    def _record_gaps(self, price: _Rows, start: int, context: int, steps: int, extra: int) -> None:
        """Gaps between tokens that a stretch ends, request by request where they differ."""
        later, users, look = price.later, self._decoding, self.policy.steps_per_look
        first = start + extra + later[context + look] - later[context]
        old = users - len(self._fresh)
        begin = context + look
        if old:
            if self._token == start and not extra and look == 1:
                price.gaps[context] += old
                price.gaps[context + 1] -= old
            else:
                self._gap(first - self._token, old)
        for moment in self._fresh.values():
            self._gap(first - moment, 1)
        self._fresh.clear()
        end = context + steps
        if look == 1:
            price.gaps[begin] += users
            price.gaps[end] -= users
        else:
            for at in range(begin, end, look):
                self._gap(later[at + look] - later[at], users)
        self._token = self.clock

    def _publish_late(self) -> None:
        """The last decode step's tokens reach the clients after the prefill that has just run."""
        self._late = False
        price, at, users = self._last_rows, self._last_context, self._decoding
        if not users:
            return
        price.gaps[at] -= users
        price.gaps[at + 1] += users
        self._gap(price.later[at + 1] - price.later[at] + self.clock - self._token, users)
        self._token = self.clock

    def _account(self, start: int, taken: int) -> None:
        """Integrates the pool's use over a step in which `taken` blocks were added evenly."""
        used = 0
        for lane in self.lanes:
            used += self.policy.blocks - lane.free
        totals = self.totals
        if used > totals.peak_blocks:
            totals.peak_blocks = used
        totals.block_time += (self.clock - start) * (used - taken / 2)

    def step_gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """(ticks, how many gaps between tokens were a plain decode step of so many)."""
        values, counts = [], []
        for price in self._rows.values():
            number = np.cumsum(np.array(price.gaps[: len(price.later) - 1]))
            used = np.flatnonzero(number)
            values.append(np.diff(np.array(price.later))[used])
            counts.append(number[used])
        if not values:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(values), np.concatenate(counts)


def _load(lane: Lane) -> int:
    return 4 * len(lane.waiting) + len(lane.running)


def _sums(times: np.ndarray) -> list[int]:
    """Prefix sums in ticks over contexts: entry c is the time of steps at contexts below c (context 0 is never run)."""
    whole = np.rint(times * 1e12).astype(np.int64)
    return [0, 0, *np.cumsum(whole).tolist()]


def least_loaded(engines: Sequence[Engine]) -> Engine:
    """The engine with the least 4 x waiting + running, the first on ties."""
    return min(engines, key=Engine.load) if len(engines) > 1 else engines[0]
