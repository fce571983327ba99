"""`ttsim.serving.engine` for the plain case, two to three times as fast: the loop that a million requests go through.

Plain is: one engine of one lane, a look at every step, no prefix cache, nothing cut or interleaved, and a pool that
holds the longest request in every slot, so that nothing is ever preempted. What is left of the rules is written out in
one loop over local variables: a prefill step for who can enter, else a stretch of decode steps up to the next event.
The results are the engine's to the tick (`tests/serving/test_engine.py` compares both with a loop over tokens).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from ttsim.serving.accounts import Totals
from ttsim.serving.policy import Policy
from ttsim.serving.requests import Requests
from ttsim.serving.tables import StepTable, StepTables

# Heap entries are one integer each, (what is sorted by) x 2^40 + (what is looked up): they compare without a tuple.
_BITS = 40
_LOW = (1 << _BITS) - 1


def is_plain(policy: Policy, requests: Requests) -> bool:
    """Whether `Plain` has every rule that these requests could meet."""
    longest = max(map(sum, zip(requests.prompt, requests.output, strict=True)))
    blocks = -(-longest // policy.block_size) * policy.max_num_seqs
    return (
        policy.lanes == policy.steps_per_look == 1
        and not (policy.prefix_caching or policy.prefill_steps)
        and policy.first_tokens == "step"
        and max(requests.prompt) <= policy.max_num_batched_tokens
        and not (policy.chunked_prefill and longest * policy.max_num_seqs > policy.max_num_batched_tokens)
        and blocks <= policy.blocks - policy.watermark
        and sum(requests.output) + longest < _LOW
    )


class Plain:
    """One plain engine and its client's requests, from the first to the last."""

    def __init__(
        self,
        policy: Policy,
        requests: Requests,
        tables: StepTables,
        totals: Totals,
        prompt_times: Callable[[Sequence[int]], int],
        entry: int,
    ) -> None:
        """An idle engine.

        Args:
          prompt_times: ticks of a prefill step of these requests. entry: of the first decode step after a prefill.
        """
        self._policy, self._requests, self._tables, self._totals = policy, requests, tables, totals
        self._prompt_times, self._of_entry = prompt_times, entry

    def run(self, arrivals: list[tuple[int, int]], ended: Callable[[Sequence[int]], None]) -> None:
        """Runs until nothing waits, decodes or arrives.

        Args:
          arrivals: heap of (tick, request). ended: told of requests that ended, it may add to the heap.
        """
        policy, totals, tables = self._policy, self._totals, self._tables
        prompt, output = self._requests.prompt, self._requests.output
        admitted, first, done_at, made = (getattr(self._requests, n) for n in ("admitted", "first", "done", "made"))
        prompt_times, of_entry, get_table = self._prompt_times, self._of_entry, tables.get
        slots, size, most_tokens = policy.max_num_seqs, policy.block_size, policy.max_num_batched_tokens
        overlapped, every_slot = policy.async_scheduling, policy.every_slot
        odd_gaps, odd_counts = totals.odd_gaps.append, totals.odd_counts.append

        of_one: dict[int, int] = {}  # ticks of a prefill step of one prompt, by its tokens
        known: dict[int, StepTable] = {}  # by readers and users
        waiting: deque[int] = deque()
        ends: list[int] = []  # (decode step of the end, request)
        contexts: list[int] = []  # (step at which the context would be 0, end): the longest context first
        due = [0] * size  # requests that take a block before decode step D, by D modulo the block size
        clock = step = users = 0  # step: D, decode steps so far; users: requests that decode
        bases = 0  # sum over users of context less D
        used = peak = 0  # blocks
        steady = entry = False  # the same users as in the last step; the first step after a prefill
        fresh: list[int] = []  # last token of users that came since the last decode step
        token = 0  # last token of the others
        held = None  # table and context of the last step, if a prefill may hold its tokens back
        prefill = decode = user_time = prefill_tokens = prefill_steps = row_steps = 0
        block_time = 0.0

        while True:
            while arrivals and arrivals[0][0] <= clock:
                waiting.append(heappop(arrivals)[1])

            if waiting and users < slots:
                budget, taken = most_tokens, []
                start, before = clock, users
                while waiting and users < slots and budget:
                    request = waiting[0]
                    tokens = prompt[request]
                    if tokens > budget:
                        break
                    waiting.popleft()
                    admitted[request] = start
                    used += -(-tokens // size)
                    budget -= tokens
                    users += 1
                    taken.append(request)
                if len(taken) > 1:
                    busy = prompt_times(taken)
                elif (busy := of_one.get(most_tokens - budget, 0)) == 0:
                    busy = of_one[most_tokens - budget] = prompt_times(taken)
                clock = start + busy
                prefill += busy
                prefill_steps += 1
                prefill_tokens += most_tokens - budget
                if used > peak:
                    peak = used
                block_time += busy * used
                if held is not None:
                    if before:
                        table, at = held
                        table.gaps[at] -= before
                        table.gaps[at + 1] += before
                        odd_gaps(table.later[at + 1] - table.later[at] + clock - token)
                        odd_counts(before)
                        token = clock
                    held = None
                answered = []
                for request in taken:
                    first[request] = clock
                    left = output[request] - 1
                    if left:
                        tokens = prompt[request]
                        end = step + left
                        heappush(ends, end << _BITS | request)
                        heappush(contexts, (step - tokens + _LOW) << _BITS | end)
                        due[(step - tokens) % size] += 1
                        bases += tokens - step
                        fresh.append(clock)
                    else:
                        made[request] = 1
                        done_at[request] = clock
                        answered.append(request)
                steady, entry = False, True
                if answered:
                    users -= len(answered)
                    for request in answered:
                        used -= -(-prompt[request] // size)
                    ended(answered)
                continue

            if not users:
                if not arrivals:
                    break
                clock = max(clock, arrivals[0][0])
                continue

            while contexts[0] & _LOW <= step:
                heappop(contexts)
            context = step - (contexts[0] >> _BITS) + _LOW
            steps = (ends[0] >> _BITS) - step
            stored = bases + users * step
            readers = -(-stored // context) if stored > context else 1
            if users > readers:
                lasting = (readers * context - stored) // (users - readers) + 1
                if lasting < steps:
                    steps = lasting
            rows = slots if every_slot else users
            key = readers << 20 | users
            if key not in known:
                known[key] = get_table(rows, readers, users)
            table = known[key]
            later, gaps = table.later, table.gaps
            extra = of_entry if entry else 0
            if not steady and table.first is not later:
                extra += (table.first[context + 1] - table.first[context]) - (later[context + 1] - later[context])
            if steps > 1 and arrivals and users < slots:
                goal = arrivals[0][0] - clock - extra + later[context]
                steps = bisect_left(later, goal, context + 1, context + steps) - context

            cycles, rest = divmod(steps, size)
            begin = step % size
            stop = begin + rest
            needed = cycles * users
            needed += sum(due[begin:stop]) if stop <= size else sum(due[begin:]) + sum(due[: stop - size])
            used += needed

            old = users - len(fresh)
            of_first = extra + later[context + 1] - later[context]
            if old:
                if not extra and token == clock:
                    gaps[context] += old
                    gaps[context + 1] -= old
                else:
                    odd_gaps(clock + of_first - token)
                    odd_counts(old)
            if fresh:
                for moment in fresh:
                    odd_gaps(clock + of_first - moment)
                    odd_counts(1)
                fresh = []
            gaps[context + 1] += users
            gaps[context + steps] -= users

            busy = extra + later[context + steps] - later[context]
            clock += busy
            token = clock
            held = (table, context + steps - 1) if overlapped and (steps > 1 or steady) else None
            step += steps
            steady, entry = True, False
            decode += busy
            row_steps += steps * rows
            user_time += busy * users
            if used > peak:
                peak = used
            block_time += busy * (used - needed / 2)

            if ends[0] >> _BITS <= step:
                done = []
                while ends and ends[0] >> _BITS <= step:
                    request = heappop(ends) & _LOW
                    tokens = prompt[request]
                    base = tokens + output[request] - 1 - step
                    due[-base % size] -= 1
                    bases -= base
                    used -= -(-(base + step) // size)
                    done_at[request] = clock
                    made[request] = output[request]
                    done.append(request)
                users -= len(done)
                steady, held = False, None
                ended(done)

        totals.prefill, totals.decode, totals.user_time, totals.block_time = prefill, decode, user_time, block_time
        totals.peak_blocks, totals.prefill_tokens, totals.prefill_steps = peak, prefill_tokens, prefill_steps
        totals.decode_steps, totals.row_steps = step, row_steps
