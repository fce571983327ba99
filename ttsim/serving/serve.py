"""`serve`: a model on a box under a load, and what its users see."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.files.reading import shown
from ttsim.scenarios.memory import CACHE_BLOCK, kv_cache_bytes
from ttsim.serving import workload
from ttsim.serving.cluster import HandOver, Run, run
from ttsim.serving.metrics import Metrics
from ttsim.serving.server import Server, build
from ttsim.serving.workload import Workload

_MOST = 1e9  # of a load
SPACING = 0.2e-3  # seconds between sends of the client at one moment


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A question about load.

    Attributes:
      model, device, data_parallel, precision, date, stack: the server (`ttsim.serving.server.build`).
      policy: changes to its rules. prefix_caching: whether it reuses cached prompts.
      concurrency: users, each with one open request; request_rate: requests per second; trace: a file. One of them, or
        a rate bounded by a concurrency.
      isl, osl, requests, burstiness, prefix, prefix_groups, seed: the workload (`ttsim.serving.workload.make`).
      spacing: seconds between requests that the client sends at the same moment.
      prefill_device: another box that prefills; `device` decodes. link: bytes per second between them.
        link_latency: seconds of a transfer.
    """

    model: str = "Llama3.1-8B"
    device: str = "N300"
    data_parallel: int = 1
    precision: str = "performance"
    date: str | None = None
    stack: str = "vllm"
    policy: str = ""
    prefix_caching: bool = False
    concurrency: int | None = None
    request_rate: float | None = None
    trace: str | None = None
    isl: str = "128"
    osl: str = "128"
    requests: int = 256
    burstiness: float = 1.0
    prefix: int = 0
    prefix_groups: int = 1
    seed: int = 0
    spacing: float = SPACING
    prefill_device: str | None = None
    link: float = 12.5e9
    link_latency: float = 1e-3

    def __post_init__(self) -> None:
        if self.trace and self.request_rate is not None:
            raise ValueError("trace has its own arrivals: leave request_rate out")
        if self.concurrency is None and self.request_rate is None and not self.trace:
            raise ValueError("a load needs concurrency=N, request_rate=R or trace=FILE")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        if not (0 <= self.spacing < math.inf and 0 < self.link < math.inf and 0 <= self.link_latency < math.inf):
            raise ValueError("spacing and link_latency must be at least 0 seconds, and link above 0 bytes per second")

    def change(self, **changes: Any) -> Serving:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def server(self, device: str | None = None) -> Server:
        """The server on `device`, or on another box."""
        return build(
            self.model,
            device or self.device,
            self.precision,
            self.data_parallel if device is None else 1,
            self.date,
            self.stack,
            self.policy,
            self.prefix_caching and (device is not None or not self.prefill_device),
        )

    def workload(self) -> Workload:
        """What is asked."""
        if self.trace:
            return _trace(self.trace)
        return workload.make(
            self.requests,
            self.isl,
            self.osl,
            self.request_rate,
            self.burstiness,
            self.prefix,
            self.prefix_groups,
            self.seed,
        )

    @property
    def load(self) -> str:
        """The load in words."""
        parts = [] if self.concurrency is None else [f"concurrency {self.concurrency}"]
        parts += [] if self.request_rate is None else [f"{self.request_rate:g} requests/s"]
        return ", ".join(parts) or f"trace {self.trace}"


@functools.lru_cache(maxsize=4)
def _trace(path: str) -> Workload:
    return workload.read_trace(path)


@dataclass(frozen=True)
class Served:
    """An answer.

    Attributes:
      question: what was asked. server: on which server; prefill: the box that prefills, if it is another.
      metrics: what its users see.
    """

    question: Serving
    server: Server
    prefill: Server | None
    metrics: Metrics

    @property
    def run(self) -> Run:
        return self.metrics.run

    @property
    def notes(self) -> list[str]:
        """What a reader must know."""
        servers = [self.server] if self.prefill is None else [self.prefill, self.server]
        lines = [note for server in servers for note in server.notes]
        if self.prefill is not None:
            lines.insert(0, "prefill and decode on two boxes: a prediction, no such server has been measured")
        first, rest = self._bursts()
        if rest and abs(first / rest - 1) > 0.05:
            lines.append(
                f"TTFT of the first burst, sent at once: {first:.3g} s on average; of all later requests {rest:.3g} s"
            )
        lines.append(f"requests of the client at one moment are {1e3 * self.question.spacing:g} ms apart")
        lines.append("not modelled: client CPU, tokenizer, network, penalties and grammars, images")
        return lines

    def _bursts(self) -> tuple[float, float]:
        """Mean TTFT of the first requests of a closed loop, and of the others; zeros where there are none."""
        concurrency = self.question.concurrency
        of_each = self.metrics.ttft_of
        if concurrency is None or self.question.request_rate is not None or concurrency >= len(of_each):
            return 0.0, 0.0
        return float(of_each[:concurrency].mean()), float(of_each[concurrency:].mean())


def serve(question: Serving, asked: Workload | None = None, keep_steps: bool = False) -> Served:
    """Simulates a load on a server.

    Args:
      question: the server and the load. asked: the workload, if it is at hand.
      keep_steps: keep every step, for timelines.

    Raises:
      ValueError: an unknown name, a load that is none, or a request that can't run.
    """
    server = question.server()
    asked = question.workload() if asked is None else asked
    longest = max(map(sum, zip(asked.prompt, asked.output, strict=True)))
    if longest > server.limit:
        raise ValueError(
            f"the longest request has {longest} tokens and the server takes {server.limit} (max_model_len): shorten it"
        )
    pool, hand_over, prefill = server.pool, None, None
    if question.prefill_device:
        prefill = question.server(question.prefill_device)
        pool = prefill.pool
        decode = dataclasses.replace(server.pool, policy=dataclasses.replace(server.pool.policy, prefix_caching=False))
        hand_over = HandOver(pool=decode, latency=question.link_latency, per_token=cache_bytes(server) / question.link)
    result = run(
        asked.requests(),
        asked.load(question.concurrency, question.spacing),
        pool,
        hand_over=hand_over,
        keep_steps=keep_steps,
    )
    return Served(question, server, prefill, Metrics(result))


def cache_bytes(server: Server) -> float:
    """Bytes of all chips' cache that one token takes."""
    scenario = server.scenario
    block = kv_cache_bytes(scenario.layout, scenario.precision, 1, CACHE_BLOCK)
    return block / CACHE_BLOCK * scenario.system.chips_per_replica


# Several loads


def parse_load_sweep(text: str) -> tuple[str, tuple[int | float, ...]]:
    """(field, values) of "concurrency=1..128" (doubling), "concurrency=1,8,32" or "request_rate=0.5..8".

    Raises:
      ValueError: another field, or values that are none.
    """
    name, _, listed = map(str.strip, text.partition("="))
    if name not in ("concurrency", "request_rate"):
        raise ValueError(f"--sweep={shown(text)}: sweep concurrency=1..128 or request_rate=0.5..8")
    try:
        if ".." in listed:
            low, high = map(float, listed.split(".."))
            values = [low]
            while 0 < low <= high <= _MOST and values[-1] * 2 < high:
                values.append(values[-1] * 2)
            values += [high] if values[-1] < high else []
        else:
            values = [float(item) for item in listed.split(",")]
    except ValueError:
        values = []
    whole = name == "concurrency"
    good = bool(values) and all(0 < v <= _MOST and (not whole or v == int(v)) for v in values)
    if not good or sorted(set(values)) != values:
        kind = "whole numbers" if whole else "numbers"
        raise ValueError(f"--sweep={shown(text)}: give ascending positive {kind}, e.g. {name}=1..128 or {name}=1,8,32")
    return name, tuple(int(v) if whole else v for v in values)


def sweep(question: Serving, field: str, values: Sequence[int | float]) -> list[Served]:
    """One answer for each value of a load."""
    other: Mapping[str, Any] = {"request_rate": None} if field == "concurrency" else {"concurrency": None}
    answers = []
    for value in values:
        changed = question.change(**{**other, field: value})
        if field == "concurrency":  # enough waves that the first burst doesn't decide
            changed = changed.change(requests=max(question.requests, 4 * int(value)))
        answers.append(serve(changed))
    return answers


def knee(answers: Sequence[Served]) -> int:
    """The load where throughput over latency is highest (Kleinrock's power): more load costs more than it brings."""
    power = [a.metrics.request_throughput / a.metrics.e2el.mean for a in answers]
    return max(range(len(power)), key=power.__getitem__)
