"""Percentiles, throughput and load of a run, as `vllm bench serve` defines them.

    TTFT = first token at the client - sent          E2EL = last token at the client - sent
    TPOT = (E2EL - TTFT) / (output - 1), requests with more than one token
    ITL  = times between tokens, of all requests together

Source: vLLM benchmarks/serve.py and lib/endpoint_request_func.py (2026).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.errors import unknown
from ttsim.files.reading import shown
from ttsim.serving.clock import TICKS_PER_SECOND, seconds
from ttsim.serving.cluster import Pool, Run
from ttsim.serving.policy import BATCHED_TOKENS

PERCENTILES = (50, 90, 95, 99)
SLO_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
SLO_FIGURES = ("ttft", "tpot", "e2el", "itl")


@dataclass(frozen=True)
class Distribution:
    """Seconds: distinct values, ascending, and how often each comes."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Distribution:
        distinct, counts = np.unique(values, return_counts=True)
        return cls(distinct, counts)

    @property
    def mean(self) -> float:
        return float(np.average(self.values, weights=self.counts)) if len(self.values) else 0.0

    @property
    def std(self) -> float:
        if not len(self.values):
            return 0.0
        return float(np.sqrt(np.average((self.values - self.mean) ** 2, weights=self.counts)))

    def percentile(self, percent: float) -> float:
        """Between the two nearest values, as numpy's default has it."""
        if not len(self.values):
            return 0.0
        ends = np.cumsum(self.counts)
        place = percent / 100 * (ends[-1] - 1)
        low, high = (self.values[np.searchsorted(ends, k, side="right")] for k in (np.floor(place), np.ceil(place)))
        return float(low + (high - low) * (place - np.floor(place)))

    def record(self) -> dict[str, float]:
        """Milliseconds by name."""
        named = {f"p{p}": 1e3 * self.percentile(p) for p in PERCENTILES}
        return {"mean": 1e3 * self.mean, **named, "std": 1e3 * self.std}


@dataclass(frozen=True)
class Metrics:
    """Figures of one run; times in seconds, rates per second."""

    run: Run

    @functools.cached_property
    def _columns(self) -> Mapping[str, np.ndarray]:
        requests = self.run.requests
        names = ("sent", "queued", "admitted", "first", "done", "output", "prompt")
        return {name: np.array(getattr(requests, name), dtype=np.int64) for name in names}

    @functools.cached_property
    def ttft_of(self) -> np.ndarray:
        """Of each request."""
        return np.asarray(seconds(self._columns["first"] + self.run.after - self._columns["sent"]))

    @functools.cached_property
    def e2el_of(self) -> np.ndarray:
        return np.asarray(seconds(self._columns["done"] + self.run.after - self._columns["sent"]))

    @functools.cached_property
    def tpot_of(self) -> np.ndarray:
        """Of each request; NaN with one token."""
        steps = self._columns["output"] - 1
        return np.where(steps > 0, (self.e2el_of - self.ttft_of) / np.maximum(steps, 1), np.nan)

    @property
    def ttft(self) -> Distribution:
        return Distribution.of(self.ttft_of)

    @property
    def e2el(self) -> Distribution:
        return Distribution.of(self.e2el_of)

    @property
    def tpot(self) -> Distribution:
        return Distribution.of(self.tpot_of[~np.isnan(self.tpot_of)])

    @property
    def itl(self) -> Distribution:
        return Distribution(seconds(self.run.gaps), self.run.counts)

    @property
    def queue(self) -> Distribution:
        """From the scheduler's queue to the start of the step that takes the request."""
        return Distribution.of(seconds(self._columns["admitted"] - self._columns["queued"]))

    @functools.cached_property
    def duration(self) -> float:
        """First send to last token."""
        return seconds(int(self._columns["done"].max()) + self.run.after - int(self._columns["sent"].min()))

    @property
    def request_throughput(self) -> float:
        return len(self.run.requests) / self.duration

    @property
    def output_throughput(self) -> float:
        return int(self._columns["output"].sum()) / self.duration

    @property
    def total_throughput(self) -> float:
        return int(self._columns["output"].sum() + self._columns["prompt"].sum()) / self.duration

    @property
    def longest_stall(self) -> float:
        """The longest time between two tokens of a request."""
        return seconds(int(self.run.gaps[-1])) if len(self.run.gaps) else 0.0

    def meeting(self, slo: Mapping[str, float]) -> np.ndarray:
        """Whether each request meets its limits (those on TTFT, TPOT and E2EL)."""
        good = np.ones(len(self.run.requests), bool)
        for figure, of_each in (("ttft", self.ttft_of), ("tpot", self.tpot_of), ("e2el", self.e2el_of)):
            if figure in slo:
                good &= ~(of_each > slo[figure])  # a request of one token has no TPOT, and meets it
        return good

    def goodput(self, slo: Mapping[str, float]) -> float:
        """Requests per second that meet their limits."""
        return float(self.meeting(slo).sum()) / self.duration

    @functools.cached_property
    def capacity(self) -> float:
        """Requests per second of an engine that is always full, times the engines (see `capacity`)."""
        columns = self._columns
        return capacity(self.run.pools, columns["prompt"], columns["output"])

    def record(self, slo: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The figures by the names of the benchmark client."""
        run, totals, policy = self.run, self.run.totals, self.run.pools[0].policy
        busy = self.duration * len(totals)
        blocks = sum(pool.count * pool.policy.lanes * pool.policy.blocks for pool in run.pools)
        rows = sum(t.row_steps for t in totals)
        made = int((self._columns["output"] - 1).sum())
        share = self.request_throughput / self.capacity
        return {
            "completed": len(run.requests),
            "duration": self.duration,
            "total_input_tokens": int(self._columns["prompt"].sum()),
            "total_output_tokens": int(self._columns["output"].sum()),
            "ttft_ms": self.ttft.record(),
            "tpot_ms": self.tpot.record(),
            "itl_ms": self.itl.record(),
            "e2el_ms": self.e2el.record(),
            "queue_ms": self.queue.record(),
            "request_throughput": self.request_throughput,
            "output_throughput": self.output_throughput,
            "total_throughput": self.total_throughput,
            "goodput": self.goodput(slo) if slo else None,
            "meeting_slo": float(self.meeting(slo).mean()) if slo else None,
            "preemptions": sum(run.requests.preemptions),
            "longest_decode_stall_ms": 1e3 * self.longest_stall,
            "capacity_requests_per_s": self.capacity,
            "load_share": share,
            "utilisation": {
                "prefill": seconds(sum(t.prefill for t in totals)) / busy,
                "decode": seconds(sum(t.decode for t in totals)) / busy,
                "idle": max(1 - seconds(sum(t.prefill + t.decode for t in totals)) / busy, 0.0),
                "decode_rows_used": made / rows if rows else 0.0,
                "mean_decoding": sum(t.user_time for t in totals) / max(sum(t.decode for t in totals), 1),
            },
            "kv_pool": {
                "blocks": blocks,
                "block_size": policy.block_size,
                "peak": max(t.peak_blocks for t in totals) / (policy.blocks * policy.lanes),
                "mean": sum(t.block_time for t in totals) / (busy * TICKS_PER_SECOND) / (blocks / len(totals)),
            },
            "prefix_cache_hit_rate": _share(sum(t.hit_tokens for t in totals), sum(t.prefill_tokens for t in totals)),
            "recomputed_tokens": sum(t.recomputed for t in totals),
            "prefill_steps": sum(t.prefill_steps for t in totals),
            "decode_steps": sum(t.decode_steps for t in totals),
        }


def _share(hit: int, computed: int) -> float:
    return hit / (hit + computed) if hit else 0.0


def capacity(pools: tuple[Pool, ...], prompt: np.ndarray, output: np.ndarray) -> float:
    """Requests per second when every slot is always full.

        mu = B / (B T + (mean output - 1) d(B))          of each engine, B its slots or what its pool holds

    T is the mean prompt's time in the step, d the decode step at the mean context. With prefill on engines of its own,
    the slower of the two sides counts.
    """
    mean_output, mean_context = float(output.mean()), float(prompt.mean() + output.mean() / 2)
    distinct: np.ndarray
    counts: np.ndarray
    distinct, counts = np.unique(prompt, return_counts=True)
    if len(distinct) > 64:  # enough for a mean
        distinct = np.quantile(prompt, (np.arange(64) + 0.5) / 64, method="nearest")
        counts = np.ones(64)
    sides = []
    for i, pool in enumerate(pools):
        policy, host = pool.policy, pool.host
        prefills, decodes = i == 0, i == len(pools) - 1
        times = [_prompt_time(pool, int(n)) + host.prompt + host.prompt_token * n for n in distinct]
        prompt_time = float(np.average(times, weights=counts)) if prefills else 0.0
        held = -(-(mean_context + mean_output / 2) // policy.block_size)
        slots = min(policy.max_num_seqs, max(policy.blocks // held, 1.0)) * policy.lanes
        rows = policy.max_num_seqs if policy.every_slot else min(policy.max_num_seqs, int(slots / policy.lanes) or 1)
        readers = max(min(rows, int(slots / policy.lanes)), 1)  # every slot in use, at the mean context
        step = float(pool.prices.decode(rows, readers, np.array([max(int(mean_context), 1)]))[0])
        step += slots * host.sample
        hidden = max(step, host.decode_step) if policy.async_scheduling else step + host.decode_step
        decode = (mean_output - 1) * hidden if decodes else 0.0
        waits = prompt_time * (slots / policy.lanes if policy.parallel_lanes else slots)
        sides.append(pool.count * slots / max(waits + decode, 1e-12))
    return min(sides)


def _prompt_time(pool: Pool, tokens: int) -> float:
    """Seconds of one prompt, as a share of the largest batch where prompts are batched."""
    alone, policy = pool.prices.prefill(1, tokens, 0), pool.policy
    rows, batch = pool.prices.padded(tokens), 1
    while 2 * batch <= policy.max_num_seqs and 2 * batch * rows < BATCHED_TOKENS:
        batch *= 2
    if not policy.batched_prefill or batch == 1:
        return alone
    return min(alone, pool.prices.prefill(batch, tokens, 0) / batch)


def parse_slo(text: str) -> dict[str, float]:
    """Limits in seconds from "ttft<=2s,tpot<=50ms".

    Raises:
      ValueError: an unknown figure or unit, or no bound.
    """
    slo = {}
    for item in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\w+)\s*<=?\s*(\d+(?:\.\d+)?)\s*([a-z]+)", item.lower())
        if not match:
            raise ValueError(f"slo {shown(item)} is not figure<=time, e.g. ttft<=2s or tpot<=50ms")
        figure, number, unit = match.groups()
        if figure not in SLO_FIGURES:
            raise unknown("figure of an slo:", figure, SLO_FIGURES)
        if unit not in SLO_UNITS:
            raise unknown("unit of an slo:", unit, SLO_UNITS)
        slo[figure] = float(number) * SLO_UNITS[unit]
        if not 0 < slo[figure] < math.inf:
            raise ValueError(f"slo {shown(item)}: a limit is a time above 0")
    if not slo:
        raise ValueError("an empty slo: give limits, e.g. ttft<=2s,tpot<=50ms")
    return slo
