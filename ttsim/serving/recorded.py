"""A recorded run of `vllm bench serve` beside the simulation: real, simulated, difference.

With --save-detailed the client writes when it sent each request and how long it was: then these very requests are
replayed. Without, the load is made again from num_prompts, the mean lengths, request_rate and max_concurrency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.files.reading import expect, number, read_json
from ttsim.serving.metrics import Metrics
from ttsim.serving.serve import Served, Serving, serve
from ttsim.serving.workload import Workload

_STATISTICS = (("mean", None), ("median", 50), ("p90", 90), ("p95", 95), ("p99", 99))
_FIGURES = ("ttft", "tpot", "itl", "e2el")
_ORIGIN = "the result"


@dataclass(frozen=True)
class Compared:
    """One figure: its name, measured and simulated (ms or per second)."""

    figure: str
    real: float
    simulated: float

    @property
    def difference(self) -> float:
        """simulated / real - 1."""
        return self.simulated / self.real - 1 if self.real else math.nan


def read_result(path: str) -> Mapping[str, Any]:
    """The client's JSON.

    Raises:
      ValueError: no such JSON.
    """
    result = read_json(path, object)
    if not isinstance(result, dict) or "mean_ttft_ms" not in result or "completed" not in result:
        raise ValueError(f"{path} is no result of `vllm bench serve`: it has no completed and mean_ttft_ms")
    return result


def workload_of(result: Mapping[str, Any], question: Serving) -> tuple[Workload, int | None]:
    """(the requests, the client's limit of open ones); a replay of recorded sends has no limit."""
    if result["completed"] == 0:
        raise ValueError("the result has no completed request: there is nothing to compare")
    completed = _whole(result, "completed")
    inputs, outputs, starts = (_numbers(result, key) for key in ("input_lens", "output_lens", "start_times"))
    if starts and len(starts) == len(inputs) == len(outputs):
        kept = [i for i in np.argsort(starts, kind="stable") if outputs[i] > 0 and inputs[i] > 0]
        times = np.array([starts[i] for i in kept]) - min(starts[i] for i in kept)
        asked = Workload(
            prompt=tuple(int(inputs[i]) for i in kept),
            output=tuple(int(outputs[i]) for i in kept),
            arrivals=tuple(times.tolist()),
            label=f"{len(kept)} recorded requests, sent when they were sent",
        )
        return asked, None
    endless = result.get("request_rate") in (None, "inf")
    rate = None if endless else number(result, "request_rate", _ORIGIN, least=1e-6, most=1e6)
    limit = _whole(result, "max_concurrency") if result.get("max_concurrency") else None
    made = question.change(
        request_rate=rate,
        concurrency=limit if limit else None if rate else completed,
        requests=completed,
        isl=str(max(round(_whole(result, "total_input_tokens") / completed), 1)),
        osl=str(max(round(_whole(result, "total_output_tokens") / completed), 1)),
        burstiness=number(result, "burstiness", _ORIGIN, least=1e-3, most=1e3, default=1.0),
    )
    return made.workload(), made.concurrency


def _whole(result: Mapping[str, Any], key: str) -> int:
    return number(result, key, _ORIGIN, kind=int, least=1, most=10**12 if key.startswith("total") else 10**7)


def _numbers(result: Mapping[str, Any], key: str) -> list[float]:
    """A list of numbers of at least 0; empty where there is none."""
    values = expect(result.get(key) or [], list, key, _ORIGIN, "a list of numbers")
    return [number({key: "null" if v is None else v}, key, _ORIGIN, least=0, most=1e12) for v in values]


def compare(path: str, question: Serving) -> tuple[Served, list[Compared]]:
    """Simulates the load of a recorded run on the question's server."""
    result = read_result(path)
    asked, limit = workload_of(result, question)
    served = serve(question.change(concurrency=limit or len(asked.prompt), request_rate=None), asked)
    return served, compared(result, served.metrics)


def compared(result: Mapping[str, Any], metrics: Metrics) -> list[Compared]:
    """Every figure that the client wrote and the simulation has."""
    rows: list[Compared] = []
    for figure in _FIGURES:
        found = getattr(metrics, figure)
        for name, percent in _STATISTICS:
            real = result.get(f"{name}_{figure}_ms")
            if isinstance(real, (int, float)):
                simulated = found.mean if percent is None else found.percentile(percent)
                rows.append(Compared(f"{name} {figure.upper()} ms", float(real), 1e3 * simulated))
    others: Sequence[tuple[str, str]] = (
        ("request_throughput", "request_throughput"),
        ("output_throughput", "output_throughput"),
        ("total_token_throughput", "total_throughput"),
        ("duration", "duration"),
    )
    rows += [
        Compared(name, float(result[name]), float(getattr(metrics, ours)))
        for name, ours in others
        if isinstance(result.get(name), (int, float))
    ]
    return rows
