"""One server engine, a step or a stretch of equal steps at a time.

All running requests advance by one token a decode step, and a step's price depends on the rows, the longest context and
how much cache is read (`ttsim.serving.tables`). So between two events (an end, an arrival that can enter, a full pool,
the end of a forced stretch, a change of what is read) any number of decode steps is one difference of prefix sums, and
nothing is done per token. The result is the one that a loop over single steps gives, to the tick
(`tests/serving/token_loop.py`).
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush

from ttsim.serving.accounts import Step, Totals
from ttsim.serving.admission import Taken, admit, go_on
from ttsim.serving.clock import ticks
from ttsim.serving.gaps import Gaps
from ttsim.serving.lane import Lane
from ttsim.serving.policy import BATCHED_TOKENS, Policy
from ttsim.serving.prefixes import PrefixCache
from ttsim.serving.prices import HostCosts, StepPrices
from ttsim.serving.requests import Requests
from ttsim.serving.tables import StepTables


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
        self.tables = StepTables(policy, prices, host, longest + policy.steps_per_look + 1)
        self._prices, self._log = prices, log
        self._host = {f.name: ticks(getattr(host, f.name)) for f in dataclasses.fields(host)}
        self._prompts: dict[tuple[int, int, int], int] = {}
        self._arrived: list[int] = []
        self._last_start = -1  # of the last step
        self._gaps = Gaps(self.totals, policy.steps_per_look)
        self._lane: dict[int, Lane] = {}
        self._steps = 0  # decode steps so far: D
        self._decoding = 0
        self._base: dict[int, int] = {}  # of a decoding request: its context less D
        # Heaps; entries of requests that decode no longer, or anew, are dropped when they are met.
        self._end: dict[int, int] = {}
        self._ends: list[tuple[int, int]] = []  # (D at its end, request)
        self._contexts: list[tuple[int, int]] = []  # (-base, request)
        self._last: dict[int, int] = {}  # D of the last token, for looks of several steps
        self._lasts: list[tuple[int, int]] = []  # (-that, request)
        self._ended: list[int] = []  # requests that prefill alone answered, until `finish`
        self._run = self._forced = 0  # prefill steps since a decode; decode steps that must come first
        self._steady = self._entry = False  # the same requests as in the last step; the first step after a prefill

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
        lane = min(self.lanes, key=Lane.load) if len(self.lanes) > 1 else self.lanes[0]
        lane.waiting.append(request)
        self._lane[request] = lane

    def load(self) -> int:
        """What a router compares: 4 x waiting + running."""
        return 4 * len(self._arrived) + sum(map(Lane.load, self.lanes))

    def finish(self) -> list[int]:
        """Frees what ended with the last step; the requests whose last token a decode step yielded at `clock`."""
        done: list[int] = []
        requests, ends, steps = self.requests, self._ends, self._steps
        if self._ended:
            for request in self._ended:
                self._release(request, requests.prompt[request] + requests.made[request] - 1)
            self.jobs -= len(self._ended)
            self._ended = []
        while ends and ends[0][0] <= steps:
            end, request = heappop(ends)
            if self._end.get(request) != end:
                continue
            context = self._leave(request)
            self._release(request, context)
            requests.done[request] = self.clock
            requests.made[request] = requests.output[request]
            done.append(request)
        if done:
            self.jobs -= len(done)
            self._steady = False
            self._gaps.sent()
        return done

    def _leave(self, request: int) -> int:
        """A request decodes no longer; the tokens in its cache."""
        base = self._base.pop(request)
        del self._end[request]
        self._last.pop(request, None)
        self._lane[request].leave(base)
        self._decoding -= 1
        return base + self._steps

    def _release(self, request: int, cached: int) -> None:
        self._lane.pop(request).release(request, cached)

    def _preempt(self, lane: Lane) -> None:
        """The youngest running request loses its blocks and goes to the head of the queue."""
        request = next(reversed(lane.running))
        if request in lane.partial:
            cached = lane.partial.pop(request)
        else:
            cached = self._leave(request)
            self.requests.made[request] = cached + 1 - self.requests.prompt[request]
            self._gaps.preempted(request)
        lane.release(request, cached)
        lane.waiting.appendleft(request)
        self.requests.preemptions[request] += 1

    def decide(self, horizon: int | None) -> list[int]:
        """Runs the next step, or a stretch of equal ones.

        Args:
          horizon: ticks at which a request may arrive; steps that could admit one end at or just after it.

        Returns:
          The requests whose last token a prefill step yielded.
        """
        if self._arrived:
            for request in self._arrived:
                self._join(request)
            self._arrived.clear()
        preempted = False
        if not self._decoding:
            self._forced = 0
        if not self._forced and self._wanting():
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
        policy, requests = self.policy, self.requests
        taken: list[Taken] = []
        preempted = False
        for lane in self.lanes:
            budget = policy.max_num_batched_tokens
            if lane.partial:
                budget, lost = go_on(lane, policy, requests, taken, self._preempt)
                preempted |= lost
                if lost:
                    continue
            if lane.waiting:
                admit(lane, policy, requests, taken, budget, self.clock, self.totals)
        if taken:
            self._run_prefill(taken)
        return bool(taken), preempted

    def _run_prefill(self, taken: list[Taken]) -> None:
        """One prefill step; advances the clock."""
        requests, policy, totals, start = self.requests, self.policy, self.totals, self.clock
        cut, ending = False, []
        for lane, request, tokens, cached in taken:
            totals.prefill_tokens += tokens
            ends = cached + tokens == requests.prompt[request] + requests.made[request]
            ending.append(ends)
            if not ends:
                lane.partial[request] = cached + tokens
                cut = True
            elif lane.partial:
                lane.partial.pop(request, None)
        times = self._prompt_times(taken)
        fixed = self._host["prefill_step"] + (self._host["partial_step"] if cut else 0)
        if policy.parallel_lanes:
            sums: dict[int, int] = {}
            for each, time in zip(taken, times, strict=True):
                sums[id(each.lane)] = sums.get(id(each.lane), 0) + time
            self.clock += fixed + max(sums.values())
        else:
            self.clock += fixed + sum(times)
        if policy.prefill_steps and self._decoding:
            self._run += 1
            if self._run >= policy.prefill_steps:
                self._forced = policy.decode_steps
        self._last_start = start
        totals.prefill += self.clock - start
        totals.prefill_steps += 1
        self._account(start, 0)
        self._gaps.publish(self.clock, self._decoding)
        moment, alone = start + fixed, policy.first_tokens == "prompt" and not policy.parallel_lanes
        users = self._decoding
        for each, time, ends in zip(taken, times, ending, strict=True):
            moment += time
            if ends:
                self._yield_token(each.request, moment if alone else self.clock)
        self._steady, self._entry = False, True
        if self._log is not None:
            prompts = tuple((each.request, each.tokens) for each in taken)
            self._log.append(Step(start, self.clock, prompts, 0, users, 0, 0))

    def _prompt_times(self, taken: list[Taken]) -> list[int]:
        """Ticks of each prompt of a step; a batch's are its parts."""
        n, made = len(taken), self.requests.made
        if self._handed_over:
            return [self._price(1, each.tokens, 0) if made[each.request] else 0 for each in taken]
        if n > 1 and self.policy.batched_prefill and not any(each.cached for each in taken):
            rows = {self._prices.padded(each.tokens) for each in taken}
            batch = 1 << (n - 1).bit_length()
            if len(rows) == 1 and batch * max(rows) < BATCHED_TOKENS:
                longest = max(each.tokens for each in taken)
                whole = self._price(batch, longest, 0) + n * self._host["prompt"]
                whole += self._host["prompt_token"] * sum(each.tokens for each in taken)
                return [whole * (i + 1) // n - whole * i // n for i in range(n)]
        each_prompt, each_token = self._host["prompt"], self._host["prompt_token"]
        return [self._price(1, tokens, cached) + each_prompt + each_token * tokens for _, _, tokens, cached in taken]

    def _price(self, prompts: int, tokens: int, cached: int) -> int:
        key = prompts, tokens, cached
        if key not in self._prompts:
            self._prompts[key] = ticks(self._prices.prefill(*key))
        return self._prompts[key]

    def _yield_token(self, request: int, moment: int) -> None:
        """A prompt's program yields a token: the first one, or the next after a preemption."""
        requests, steps = self.requests, self._steps
        base = requests.prompt[request] + requests.made[request] - steps
        requests.made[request] += 1
        if requests.made[request] > 1:
            self._gaps.recomputed(request, moment)
        elif requests.first[request] < 0:
            requests.first[request] = moment
        else:  # handed over
            moment = requests.first[request]
        left = requests.output[request] - requests.made[request]
        if not left:
            requests.done[request] = moment
            self._ended.append(request)
            return
        look = self.policy.steps_per_look
        end = steps + -(-left // look) * look
        self._base[request], self._end[request] = base, end
        heappush(self._ends, (end, request))
        heappush(self._contexts, (-base, request))
        if look > 1:
            self._last[request] = steps + left
            heappush(self._lasts, (-steps - left, request))
        self._lane[request].enter(base)
        self._decoding += 1
        self._gaps.fresh[request] = moment

    # Decode

    def _decode(self, horizon: int | None, preempted: bool) -> None:
        """As many decode steps as nothing can interrupt; advances the clock."""
        policy, look, done, lanes = self.policy, self.policy.steps_per_look, self._steps, self.lanes
        now = look if look == 1 else min(look, self._left())
        for lane in lanes:
            while lane.decoding and lane.needed(done, now) > lane.free:
                self._preempt(lane)
                preempted = True
        users = self._decoding
        if not users:
            return
        context, steps, left = self._longest_context(), self._next_end() - done, 0
        if look > 1:  # a look computes no more than some request still wants
            left = self._left()
            steps = min(steps, left)
        if preempted:  # what was preempted may fit again after this step
            steps, self._steady = min(steps, look), False
        if self._forced and self._wanting():
            steps = min(steps, -(-self._forced // look) * look)
        rows = policy.max_num_seqs if policy.every_slot else max(lane.decoding for lane in lanes)
        readers, lasting = self._readers(context)
        steps = min(steps, lasting)
        table = self.tables.get(rows, readers, users)
        later = table.later
        extra = self._host["decode_entry"] if self._entry else 0
        if not self._steady and table.first is not later:
            extra += (table.first[context + 1] - table.first[context]) - (later[context + 1] - later[context])
        if horizon is not None and steps > look and self._open():
            goal = horizon - self.clock - extra + later[context]
            reach = bisect_left(later, goal, context + 1, context + steps) - context
            steps = min(steps, -(-reach // look) * look)
        taken = 0
        for lane in lanes:
            if lane.decoding and lane.decoding * (steps // policy.block_size + 1) > lane.free:
                while steps > look and lane.needed(done, steps) > lane.free:
                    steps = max(look, lane.affordable(done, steps) // look * look)
        for lane in lanes:
            if lane.decoding:
                needed = lane.needed(done, steps)
                taken += needed
                lane.grow(needed)
        start = self.clock
        self._gaps.stretch(table, start, context, steps, extra, users)
        busy = extra + later[context + steps] - later[context]
        self.clock = start + busy
        last = min(look, steps)
        self._last_start = (
            self.clock - later[context + steps] + later[context + steps - last] if steps > last else start
        )
        if policy.async_scheduling and (steps > 1 or self._steady):
            self._gaps.hold_back(table, context + steps - 1)
        else:
            self._gaps.sent()
        self._steps = done + steps
        if steps == left:
            self._all_end()
        self._steady, self._entry, self._run = True, False, 0
        self._forced = max(self._forced - steps, 0)
        totals = self.totals
        totals.decode += busy
        totals.decode_steps += steps
        totals.row_steps += steps * rows * len(lanes)
        totals.user_time += busy * users
        self._account(start, taken)
        if self._log is not None:
            self._log.append(Step(start, self.clock, (), steps, users, rows, context))

    def _next_end(self) -> int:
        ends, end = self._ends, self._end
        while end.get(ends[0][1]) != ends[0][0]:
            heappop(ends)
        return ends[0][0]

    def _longest_context(self) -> int:
        contexts, base = self._contexts, self._base
        while base.get(contexts[0][1]) != -contexts[0][0]:
            heappop(contexts)
        return self._steps - contexts[0][0]

    def _left(self) -> int:
        """Decode steps until the last token of the request that wants the most."""
        lasts, last = self._lasts, self._last
        while last.get(lasts[0][1]) != -lasts[0][0]:
            heappop(lasts)
        return -lasts[0][0] - self._steps

    def _all_end(self) -> None:
        """The look ended with the last token that any request wants."""
        self._end = dict.fromkeys(sorted(self._base), self._steps)
        self._ends = [(end, request) for request, end in self._end.items()]

    def _readers(self, context: int) -> tuple[int, int]:
        """(the readers of the next step, steps for which there are no more): see `StepPrices.decode`.

        With n requests, the sum of their contexts grows by n and the longest by one a step: there are r readers until
        sum + n k > r (longest + k).
        """
        steps, look = self._steps, self.policy.steps_per_look
        most = 1
        for lane in self.lanes:
            most = max(most, -(-(lane.bases + lane.decoding * steps) // context))
        lasting = 1 << 60
        for lane in self.lanes:
            if lane.decoding > most:
                slack = most * context - lane.bases - lane.decoding * steps
                lasting = min(lasting, slack // (lane.decoding - most) // look * look + look)
        return most, lasting

    def _account(self, start: int, taken: int) -> None:
        """Integrates the pool's use over a step in which `taken` blocks were added evenly."""
        used = self.policy.blocks * len(self.lanes)
        for lane in self.lanes:
            used -= lane.free
        totals = self.totals
        if used > totals.peak_blocks:
            totals.peak_blocks = used
        totals.block_time += (self.clock - start) * (used - taken / 2)


def least_loaded(engines: Sequence[Engine]) -> Engine:
    """The engine with the least 4 x waiting + running, the first on ties."""
    return min(engines, key=Engine.load) if len(engines) > 1 else engines[0]
