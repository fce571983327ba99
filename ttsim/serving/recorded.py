"""A recorded run of `vllm bench serve` beside the simulation: real, simulated, difference.

With --save-detailed the client writes when it sent each request and how long it was: then these very requests are
replayed. Without, the load is made again from num_prompts, the mean lengths, request_rate and max_concurrency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from ttsim.files.reading import read_json, shown
from ttsim.serving.metrics import Metrics
from ttsim.serving.serve import Served, Serving, serve
from ttsim.serving.workload import Workload

_STATISTICS = (("mean", None), ("median", 50), ("p90", 90), ("p95", 95), ("p99", 99))
_MOST = 2**40  # of anything that is counted, and seconds of a clock
_FIGURES = ("ttft", "tpot", "itl", "e2el")


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
    """(the requests, the client's limit of open ones); a replay of recorded sends has no limit.

    Raises:
      ValueError: a field that is needed is missing, or is no such number.
    """
    completed = int(_number(result, "completed", 1, whole=True))
    detailed = [result.get(name) for name in ("input_lens", "output_lens", "start_times")]
    if all(isinstance(column, list) and column for column in detailed):
        return _replay(*(_column(result, name) for name in ("input_lens", "output_lens", "start_times"))), None
    rate = None if result.get("request_rate") in (None, "inf") else _number(result, "request_rate", 0)
    rate = rate if rate and math.isfinite(rate) else None
    limit = None if result.get("max_concurrency") is None else int(_number(result, "max_concurrency", 1, whole=True))
    totals = [_number(result, f"total_{side}_tokens", 0, whole=True) for side in ("input", "output")]
    burstiness = 1.0 if result.get("burstiness") is None else _number(result, "burstiness", 0)
    made = question.change(
        request_rate=rate,
        concurrency=limit or (None if rate else completed),
        requests=completed,
        isl=str(max(round(totals[0] / completed), 1)),
        osl=str(max(round(totals[1] / completed), 1)),
        burstiness=burstiness,
    )
    return made.workload(), made.concurrency


def _number(result: Mapping[str, Any], name: str, least: float, *, whole: bool = False) -> float:
    """A number of the client's JSON; NaN never, infinity only where it isn't counted."""
    value = result.get(name)
    kind = f"{'whole ' if whole else ''}number of at least {least:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the result's {name} is {shown(value)}, no {kind}")
    if math.isnan(value) or value < least or (whole and (value > _MOST or value != int(value))):
        raise ValueError(
            f"the result's {name} is {shown(value)}, no {kind}{f' and at most {_MOST:,}' if whole else ''}"
        )
    return float(value)


def _column(result: Mapping[str, Any], name: str) -> list[float]:
    """A list of numbers of the client's JSON."""
    for value in result[name]:
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST
        if not good or (name != "start_times" and (value < 0 or value != int(value))):
            raise ValueError(f"the result's {name} holds {shown(value)}, no number that a client writes")
    return list(result[name])


def _replay(inputs: Sequence[float], outputs: Sequence[float], starts: Sequence[float]) -> Workload:
    """The requests that were sent, when they were sent; those that failed have no tokens."""
    if not len(inputs) == len(outputs) == len(starts):
        raise ValueError(
            f"the result has {len(inputs)} input_lens, {len(outputs)} output_lens and {len(starts)} start_times: "
            "one of each for every request"
        )
    kept = [i for i in np.argsort(starts, kind="stable") if outputs[i] > 0 and inputs[i] > 0]
    if not kept:
        raise ValueError("every request of the result failed: there is nothing to replay")
    return Workload(
        prompt=tuple(int(inputs[i]) for i in kept),
        output=tuple(int(outputs[i]) for i in kept),
        arrivals=tuple(float(starts[i] - starts[kept[0]]) for i in kept),
        label=f"{len(kept)} recorded requests, sent when they were sent",
    )


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
            if _finite(real):
                simulated = found.mean if percent is None else found.percentile(percent)
                rows.append(Compared(f"{name} {figure.upper()} ms", float(real), 1e3 * simulated))
    others: Sequence[tuple[str, str]] = (
        ("request_throughput", "request_throughput"),
        ("output_throughput", "output_throughput"),
        ("total_token_throughput", "total_throughput"),
        ("duration", "duration"),
    )
    for name, ours in others:
        real = result.get(name)
        if _finite(real):
            rows.append(Compared(name, float(real), float(getattr(metrics, ours))))
    return rows


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
