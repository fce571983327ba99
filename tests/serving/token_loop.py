"""The scheduler's rules once more, one step and one token at a time: what `ttsim.serving.engine` must equal.

Nothing here is shared with the engine but the policy, the prices and the requests' sizes. The pool is a list of blocks
with contents; times are ticks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

TICK = 1e-12


def _ticks(seconds):
    return round(seconds / TICK)


class Blocks:
    """Numbered blocks: what each holds, who uses it, and the free ones in the order in which they are reused."""

    def __init__(self, count):
        self.content = [None] * count
        self.users = [0] * count
        self.free = list(range(count))

    def find(self, keys):
        """Blocks that hold the first of these contents, without a gap."""
        found = []
        for key in keys:
            if key not in self.content:
                break
            found.append(self.content.index(key))
        return found

    def idle(self, blocks):
        return sum(self.users[b] == 0 for b in blocks)

    def use(self, blocks):
        for b in blocks:
            if self.users[b] == 0:
                self.free.remove(b)
            self.users[b] += 1

    def new(self):
        b = self.free.pop(0)
        self.content[b], self.users[b] = None, 1
        return b

    def release(self, blocks):
        for b in reversed(blocks):
            self.users[b] -= 1
            if self.users[b] == 0:
                self.free.append(b)


@dataclass
class Job:
    prompt: int
    output: int
    group: int
    shared: int
    index: int
    tokens: list = field(default_factory=list)
    blocks: list = field(default_factory=list)
    cached: int = 0
    target: int = 0  # tokens that its prefill computes in all; cached < target: it is being prefilled
    preemptions: int = 0
    admitted: int | None = None


@dataclass
class Loop:
    tokens: list
    sent: list
    free: list
    preemptions: int
    admitted: list
    hits: int


def token_loop(requests, load, pool):
    policy, prices, host = pool.policy, pool.prices, pool.host
    n = len(requests)
    jobs = [Job(requests.prompt[i], requests.output[i], requests.group[i], requests.shared[i], i) for i in range(n)]
    lanes = [{"queue": [], "running": [], "pool": Blocks(policy.blocks)} for _ in range(policy.lanes)]
    spacing, before, after = _ticks(load.spacing), _ticks(host.before), _ticks(host.after)
    arrivals = [_ticks(t) for t in load.arrivals]
    sent = [None] * n
    limit = n if load.concurrency is None else min(load.concurrency, n)
    for i in range(limit):
        same = sum(arrivals[k] == arrivals[i] for k in range(i))
        sent[i] = arrivals[i] + same * spacing
    unsent, delivered = limit, set()
    clock, hits = 0, 0
    prefills_in_row = forced = 0
    same_rows = entering = False
    late = []  # jobs whose last token isn't out yet

    def size(tokens):
        return -(-tokens // policy.block_size)

    def keys(job):
        """Contents of the prompt's full blocks that others may have too."""
        if not policy.prefix_caching or job.group < 0:
            return []
        return [(job.group, i) for i in range(job.shared // policy.block_size)]

    def mark(job):
        for i, key in enumerate(keys(job)):
            if (
                i < len(job.blocks)
                and (i + 1) * policy.block_size <= job.cached
                and key not in lane_of(job)["pool"].content
            ):
                lane_of(job)["pool"].content[job.blocks[i]] = key

    def lane_of(job):
        return next(lane for lane in lanes if job in lane["running"] or job in lane["queue"])

    def preempt(lane):
        job = lane["running"].pop()
        lane["pool"].release(job.blocks)
        job.blocks, job.cached = [], 0
        job.preemptions += 1
        lane["queue"].insert(0, job)

    def end(job, lane):
        nonlocal unsent
        lane["pool"].release(job.blocks)
        lane["running"].remove(job)
        return job

    while True:
        # arrivals until now
        for i in sorted(
            (i for i in range(n) if sent[i] is not None and i not in delivered), key=lambda i: (sent[i], i)
        ):
            if sent[i] + before <= clock:
                lane = min(lanes, key=lambda x: 4 * len(x["queue"]) + len(x["running"]))
                lane["queue"].append(jobs[i])
                delivered.add(i)
        if not any(lane["queue"] or lane["running"] for lane in lanes):
            coming = [sent[i] + before for i in range(n) if sent[i] is not None and i not in delivered]
            if not coming:
                break
            clock = max(clock, min(coming))
            continue
        decoding = [job for lane in lanes for job in lane["running"] if job.cached >= job.target]
        if not decoding:
            forced = 0
        batch, lost = [], False
        if not (forced and decoding):
            for lane in lanes:
                budget, blocked = policy.max_num_batched_tokens, False
                for job in [job for job in lane["running"] if job.cached < job.target]:
                    if job not in lane["running"] or not budget:
                        continue
                    chunk = min(job.target - job.cached, budget)
                    while (
                        size(job.cached + chunk) - len(job.blocks) > len(lane["pool"].free) and job in lane["running"]
                    ):
                        preempt(lane)
                        blocked = lost = True
                    if job not in lane["running"]:
                        break
                    while len(job.blocks) < size(job.cached + chunk):
                        job.blocks.append(lane["pool"].new())
                    batch.append((lane, job, chunk, job.cached))
                    budget -= chunk
                    job.cached += chunk
                    mark(job)
                    job.cached -= chunk
                while not blocked and lane["queue"] and len(lane["running"]) < policy.max_num_seqs and budget:
                    job = lane["queue"][0]
                    total = job.prompt + len(job.tokens)
                    found = lane["pool"].find(keys(job)[: (total - 1) // policy.block_size])
                    cached = len(found) * policy.block_size
                    chunk = total - cached
                    if chunk > budget and not policy.chunked_prefill:
                        break
                    chunk = min(chunk, budget)
                    need = size(cached + chunk) - len(found)
                    if need + lane["pool"].idle(found) > len(lane["pool"].free) - policy.watermark:
                        break
                    lane["pool"].use(found)
                    job.blocks = [*found, *(lane["pool"].new() for _ in range(need))]
                    job.target, job.cached = total, cached
                    lane["queue"].pop(0)
                    lane["running"].append(job)
                    job.admitted = clock if job.admitted is None else job.admitted
                    hits += cached
                    batch.append((lane, job, chunk, cached))
                    budget -= chunk
                    job.cached += chunk
                    mark(job)
                    job.cached -= chunk
        if batch:
            start = clock
            time = _ticks(host.prefill_step)
            if any(job.cached + chunk < job.target for _, job, chunk, _ in batch):
                time += _ticks(host.partial_step)
            rows = {prices.padded(chunk) for _, _, chunk, _ in batch}
            power = 1
            while power < len(batch):
                power *= 2
            together = (
                policy.batched_prefill
                and len(batch) > 1
                and len(rows) == 1
                and not any(cached for *_, cached in batch)
                and power * max(rows) < 131072
            )
            each = {}
            if together:
                whole = _ticks(prices.prefill(power, max(chunk for _, _, chunk, _ in batch), 0))
                whole += len(batch) * _ticks(host.prompt)
                whole += sum(chunk for _, _, chunk, _ in batch) * _ticks(host.prompt_token)
                passed = 0
                for k, (_, job, _, _) in enumerate(batch):
                    each[job.index] = whole * (k + 1) // len(batch) - passed
                    passed = whole * (k + 1) // len(batch)
            else:
                for _, job, chunk, cached in batch:
                    each[job.index] = _ticks(prices.prefill(1, chunk, cached)) + _ticks(host.prompt)
                    each[job.index] += chunk * _ticks(host.prompt_token)
            moment, ends = start + time, {}
            for _, job, _, _ in batch:
                moment += each[job.index]
                ends[job.index] = moment
            if policy.parallel_lanes:
                clock = start + time
                clock += max(sum(each[job.index] for at, job, _, _ in batch if at is lane) for lane in lanes)
            else:
                clock = moment
            for job in late:
                if job in [j for lane in lanes for j in lane["running"]]:
                    job.tokens[-1] = clock
            done = []
            for lane, job, chunk, _ in batch:
                job.cached += chunk
                if job.cached == job.target:
                    single = policy.first_tokens == "prompt" and not policy.parallel_lanes
                    job.tokens.append(ends[job.index] if single else clock)
                    if len(job.tokens) == job.output:
                        done.append(end(job, lane))
            if policy.prefill_steps and decoding:
                prefills_in_row += 1
                if prefills_in_row >= policy.prefill_steps:
                    forced = policy.decode_steps
            same_rows, entering, late = False, True, []
        else:
            look = min(policy.steps_per_look, max(job.output - len(job.tokens) for job in decoding))
            for lane in lanes:

                def short(lane=lane, look=look):
                    return sum(size(j.cached + look) - len(j.blocks) for j in lane["running"] if j.cached >= j.target)

                while short() > len(lane["pool"].free):
                    preempt(lane)
                    lost = True
            decoding = [job for lane in lanes for job in lane["running"] if job.cached >= job.target]
            if not decoding:
                continue
            look = min(look, max(job.output - len(job.tokens) for job in decoding))
            if lost:
                same_rows = False
            rows = policy.max_num_seqs
            if not policy.every_slot:
                rows = max(sum(j.cached >= j.target for j in lane["running"]) for lane in lanes)
            for lane in lanes:
                for job in lane["running"]:
                    while job in decoding and len(job.blocks) < size(job.cached + look):
                        job.blocks.append(lane["pool"].new())
            if entering:
                clock += _ticks(host.decode_entry)
            longest = max(job.cached for job in decoding)
            stored = max(sum(job.cached for job in lane["running"] if job in decoding) for lane in lanes)
            readers = -(-stored // longest)
            for _ in range(look):
                longest = max(job.cached for job in decoding)
                device = float(prices.decode(rows, readers, np.array([longest]))[0]) + len(decoding) * host.sample
                if policy.async_scheduling and same_rows:
                    clock += _ticks(max(device, host.decode_step))
                else:
                    clock += _ticks(device + host.decode_step)
                for job in decoding:
                    job.cached += 1
                    job.target = job.cached
            done = []
            for lane in lanes:
                for job in list(lane["running"]):
                    if job in decoding:
                        job.tokens += [clock] * min(look, job.output - len(job.tokens))
            ended = [job for job in decoding if len(job.tokens) == job.output]
            late = list(decoding) if policy.async_scheduling and same_rows and not ended else []
            same_rows, entering, prefills_in_row = not ended, False, 0
            forced = max(forced - look, 0)
            for job in sorted(ended, key=lambda job: job.index):
                done.append(end(job, next(lane for lane in lanes if job in lane["running"])))
        for k, job in enumerate(done):
            if unsent < n:
                order = sum(other.tokens[-1] == job.tokens[-1] for other in done[:k])
                sent[unsent] = max(job.tokens[-1] + after + order * spacing, arrivals[unsent])
                unsent += 1
    return Loop(
        tokens=[job.tokens for job in jobs],
        sent=sent,
        free=[len(lane["pool"].free) for lane in lanes],
        preemptions=sum(job.preemptions for job in jobs),
        admitted=[job.admitted for job in jobs],
        hits=hits,
    )
