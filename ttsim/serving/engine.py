"""One server engine, a step or a stretch of equal steps at a time.

All running requests advance by one token a decode step, and a step's price depends on the rows, the longest context and
how much cache is read (`ttsim.serving.tables`). So between two events (an end, an arrival that can enter, a full pool,
the end of a forced stretch, a change of what is read) any number of decode steps is one difference of prefix sums, and
nothing is done per token. The result is the one that a loop over single steps gives, to the tick
(`tests/serving/token_loop.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from ttsim.serving.accounts import Step, Totals
from ttsim.serving.admission import Taken, admit, go_on
from ttsim.serving.clock import ticks
from ttsim.serving.decoding import Decoding
from ttsim.serving.gaps import Gaps
from ttsim.serving.lane import Lane, readers
from ttsim.serving.plain import Plain, is_plain
from ttsim.serving.policy import Policy
from ttsim.serving.prefixes import PrefixCache
from ttsim.serving.prices import HostCosts, StepPrices
from ttsim.serving.prompt_times import PromptTimes
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
        self._log, self._pool = log, policy.blocks * policy.lanes
        self._slots, self._size, self._look = policy.max_num_seqs, policy.block_size, policy.steps_per_look
        self._prompt_times = PromptTimes(policy, prices, host, requests, handed_over)
        self._of_prefill, self._of_cut = ticks(host.prefill_step), ticks(host.partial_step)
        self._of_entry = ticks(host.decode_entry)
        self._arrived: list[int] = []
        self._last_start = -1  # of the last step
        self._gaps = Gaps(self.totals, policy.steps_per_look)
        self._lane: dict[int, Lane] = {}
        self._decodes = Decoding(policy.steps_per_look)
        self._decoding = 0  # how many
        self._ended: list[int] = []  # requests that prefill alone answered, until `finish`
        self._run = self._forced = 0  # prefill steps since a decode; decode steps that must come first
        self._steady = self._entry = False  # the same requests as in the last step; the first step after a prefill

    def plain(self) -> Plain | None:
        """The same engine, idle, for requests that meet none of its rarer rules; None where they may."""
        if self._log is not None or self._handed_over or not is_plain(self.policy, self.requests):
            return None
        prompts, (lane, *_) = self.requests.prompt, self.lanes

        def step(taken: Sequence[int]) -> int:
            times = self._prompt_times([Taken(lane, request, prompts[request], 0) for request in taken])
            return self._of_prefill + sum(times)

        return Plain(self.policy, self.requests, self.tables, self.totals, step, self._of_entry)

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
        requests = self.requests
        if self._ended:
            for request in self._ended:
                self._release(request, requests.prompt[request] + requests.made[request] - 1)
            self.jobs -= len(self._ended)
            self._ended = []
        done = self._decodes.ended()
        if done:
            for request in done:
                self._release(request, self._leave(request))
                requests.done[request] = self.clock
                requests.made[request] = requests.output[request]
            self.jobs -= len(done)
            self._steady = False
            self._gaps.sent()
        return done

    def _leave(self, request: int) -> int:
        """A request decodes no longer; the tokens in its cache."""
        base = self._decodes.leave(request)
        self._lane[request].leave(base)
        self._decoding -= 1
        return base + self._decodes.steps

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
        """Whether a request waits for whom there is a slot, or a prompt is cut."""
        for lane in self.lanes:  # noqa: SIM110 - it runs at every step, and a generator costs five times as much
            if (lane.waiting and len(lane.running) < self._slots) or lane.partial:
                return True
        return False

    def _open(self) -> bool:
        """Whether a request that arrives could be admitted."""
        for lane in self.lanes:  # noqa: SIM110 - as above
            if not lane.waiting and len(lane.running) < self._slots:
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
            if cached + tokens == requests.prompt[request] + requests.made[request]:
                ending.append(True)
                if lane.partial:
                    lane.partial.pop(request, None)
            else:
                ending.append(False)
                lane.partial[request] = cached + tokens
                cut = True
        times = self._prompt_times(taken)
        fixed = self._of_prefill + (self._of_cut if cut else 0)
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
        self._account(self.clock - start, 0)
        self._gaps.publish(self.clock, self._decoding)
        users = self._decoding
        if policy.first_tokens == "prompt" and not policy.parallel_lanes:
            moments = [start + fixed + passed for passed in accumulate(times)]
        else:
            moments = [self.clock] * len(taken)
        for each, moment, ends in zip(taken, moments, ending, strict=True):
            if ends:
                self._yield_token(each.request, moment)
        self._steady, self._entry = False, True
        if self._log is not None:
            prompts = tuple((each.request, each.tokens) for each in taken)
            self._log.append(Step(start, self.clock, prompts, 0, users, 0, 0))

    def _yield_token(self, request: int, moment: int) -> None:
        """A prompt's program yields a token: the first one, or the next after a preemption."""
        requests = self.requests
        made = requests.made[request]
        base = requests.prompt[request] + made - self._decodes.steps
        requests.made[request] = made + 1
        if made:
            self._gaps.recomputed(request, moment)
        elif requests.first[request] < 0:
            requests.first[request] = moment
        else:  # handed over
            moment = requests.first[request]
        left = requests.output[request] - made - 1
        if not left:
            requests.done[request] = moment
            self._ended.append(request)
            return
        self._decodes.enter(request, base, left)
        self._lane[request].enter(base)
        self._decoding += 1
        self._gaps.fresh[request] = moment

    # Decode

    def _decode(self, horizon: int | None, preempted: bool) -> None:
        """As many decode steps as nothing can interrupt; advances the clock."""
        policy, look, size, lanes, decodes = self.policy, self._look, self._size, self.lanes, self._decodes
        done = decodes.steps
        now = look if look == 1 else min(look, decodes.left())
        for lane in lanes:
            while lane.decoding * (now // size + 1) > lane.free and lane.needed(done, now) > lane.free:
                self._preempt(lane)
                preempted = True
        users = self._decoding
        if not users:
            return
        context, steps, left = decodes.longest_context(), decodes.next_end(), 0
        if look > 1:  # a look computes no more than some request still wants
            left = decodes.left()
            steps = min(steps, left)
        if preempted:  # what was preempted may fit again after this step
            steps, self._steady = min(steps, look), False
        if self._forced and self._wanting():
            steps = min(steps, -(-self._forced // look) * look)
        rows = policy.max_num_seqs if policy.every_slot else max(lane.decoding for lane in lanes)
        most, lasting = readers(lanes, done, context, look)
        steps = min(steps, lasting)
        table = self.tables.get(rows, most, users)
        later = table.later
        extra = self._of_entry if self._entry else 0
        if not self._steady and table.first is not later:
            extra += (table.first[context + 1] - table.first[context]) - (later[context + 1] - later[context])
        if horizon is not None and steps > look and self._open():
            goal = horizon - self.clock - extra + later[context]
            reach = bisect_left(later, goal, context + 1, context + steps) - context
            steps = min(steps, -(-reach // look) * look)
        taken = 0
        for lane in lanes:
            if lane.decoding * (steps // size + 1) > lane.free:
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
        decodes.steps = done + steps
        if steps == left:
            decodes.all_end()
        self._steady, self._entry, self._run = True, False, 0
        self._forced = max(self._forced - steps, 0)
        totals = self.totals
        totals.decode += busy
        totals.decode_steps += steps
        totals.row_steps += steps * rows * len(lanes)
        totals.user_time += busy * users
        self._account(busy, taken)
        if self._log is not None:
            self._log.append(Step(start, self.clock, (), steps, users, rows, context))

    def _account(self, busy: int, taken: int) -> None:
        """Integrates the pool's use over a step in which `taken` blocks were added evenly."""
        lanes, totals = self.lanes, self.totals
        used = self._pool - (lanes[0].free if len(lanes) == 1 else sum(lane.free for lane in lanes))
        if used > totals.peak_blocks:
            totals.peak_blocks = used
        totals.block_time += busy * (used - taken / 2)
