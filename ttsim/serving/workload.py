"""What a client asks and when: lengths, arrivals, traces, as vLLM's benchmark client makes them.

    lengths     "128", "1k:8k" (uniform), "lognormal:512:1.2", a data set's shape ("sharegpt"), a file (a number a line)
    arrivals    all at once; gamma intervals of a rate (shape 1: Poisson), scaled so that the last one is at n / rate
    traces      CSV or JSONL with time, prompt, output and, if prefixes are shared, prefix and group

Sources: vLLM benchmarks/serve.py and datasets.py (2026).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.errors import unknown
from ttsim.files.reading import parse_json, read_text
from ttsim.scenarios.question import parse_number
from ttsim.serving.cluster import Load
from ttsim.serving.requests import Requests

# Log-normal shapes (median, sigma of the logarithm) of prompts and outputs. ShareGPT: means of 217 and 202 tokens (vLLM
# benchmarks/README.md, 1000 prompts). Azure's traces: medians of Splitwise, arXiv 2311.18677, section III; sigma 1 is
# assumed. They stand in for a file of lengths of one's own.
DATASETS: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "sharegpt": ((100.0, 1.25), (110.0, 1.1)),
    "azure-conversation": ((1_020.0, 1.0), (129.0, 1.0)),
    "azure-code": ((1_500.0, 1.0), (13.0, 1.0)),
}
_MOST, _LEAST = 131_072, 4

# Names of a trace's columns: ours, Azure's public traces and Mooncake's. The factor makes seconds.
_COLUMNS: Mapping[str, Mapping[str, float]] = {
    "time": {"time": 1.0, "arrival": 1.0, "arrival_time": 1.0, "timestamp": 1e-3},
    "prompt": {"prompt": 1, "isl": 1, "input_length": 1, "prompt_len": 1, "ContextTokens": 1},
    "output": {"output": 1, "osl": 1, "output_length": 1, "output_len": 1, "GeneratedTokens": 1},
    "prefix": {"prefix": 1},
    "group": {"group": 1},
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests and their arrivals.

    Attributes:
      prompt, output: tokens. arrivals: seconds.
      group, shared: which requests share how many tokens at their start; None: none do.
      label: in words.
    """

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    arrivals: tuple[float, ...]
    group: tuple[int, ...] | None = None
    shared: tuple[int, ...] | None = None
    label: str = ""

    def requests(self) -> Requests:
        """Fresh columns for one run."""
        return Requests(self.prompt, self.output, self.group, self.shared)

    def load(self, concurrency: int | None = None, spacing: float = 0.0) -> Load:
        return Load(arrivals=self.arrivals, concurrency=concurrency, spacing=spacing)


def make(
    requests: int,
    isl: str = "128",
    osl: str = "128",
    rate: float | None = None,
    burstiness: float = 1.0,
    prefix: int = 0,
    groups: int = 1,
    seed: int = 0,
) -> Workload:
    """A workload from the client's settings.

    Args:
      requests: how many. isl, osl: lengths of prompts and outputs (see above).
      rate: requests per second; None: all at once.
      burstiness: shape of the gamma intervals: 1 Poisson, less is burstier, inf constant.
      prefix: tokens that the prompts of a group share, in front of their own. groups: how many prefixes there are.
      seed: of everything random.

    Raises:
      ValueError: a length, rate or number that is none.
    """
    if requests < 1:
        raise ValueError(f"requests must be at least 1, not {requests}")
    if groups < 1 or prefix < 0:
        raise ValueError(f"prefix must be at least 0 and prefix_groups at least 1, not {prefix} and {groups}")
    random = np.random.default_rng(seed)
    prompt = lengths(isl, requests, random, 0, "isl")
    output = lengths(osl, requests, random, 1, "osl")
    arrivals = np.zeros(requests) if rate is None else intervals(requests, rate, burstiness, random)
    group = random.integers(0, groups, requests) if prefix else None
    how = "all at once" if rate is None else f"{rate:g} requests/s"
    return Workload(
        prompt=tuple((prompt + prefix).tolist()),
        output=tuple(output.tolist()),
        arrivals=tuple(arrivals.tolist()),
        group=None if group is None else tuple(group.tolist()),
        shared=(prefix,) * requests if prefix else None,
        label=f"{requests} requests, ISL {isl}{f' + {prefix} shared' if prefix else ''}, OSL {osl}, {how}",
    )


def intervals(requests: int, rate: float, burstiness: float, random: np.random.Generator) -> np.ndarray:
    """Arrival times: cumulated gamma intervals, scaled so that the last arrival is at requests / rate."""
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"request_rate must be a positive number of requests per second, not {rate}")
    if not burstiness > 0:
        raise ValueError(f"burstiness must be positive (1: Poisson, inf: constant intervals), not {burstiness}")
    if math.isinf(burstiness):
        return np.arange(1, requests + 1) / rate
    times = np.cumsum(random.gamma(burstiness, 1 / (rate * burstiness), requests))
    return np.asarray(times * (requests / rate / times[-1]))


def lengths(text: str, number: int, random: np.random.Generator, side: int, name: str) -> np.ndarray:
    """`number` lengths; `side` 0 is a data set's prompts, 1 its outputs."""
    text = text.strip()
    if text.startswith("lognormal:"):
        try:
            _, median, sigma = text.split(":")
            shape = float(median), float(sigma)
        except ValueError:
            raise ValueError(f"{name}={text!r} is not lognormal:median:sigma, e.g. lognormal:512:1.0") from None
        return _lognormal(shape, number, random)
    if text in DATASETS:
        return _lognormal(DATASETS[text][side], number, random)
    if Path(text).is_file():
        values = [parse_number(line, f"{text}: a length") for line in read_text(text).split()]
        if not values:
            raise ValueError(f"{text} holds no lengths: give a whole number a line")
        return np.resize(np.array(values), number)
    low, colon, high = text.partition(":")
    if not low[:1].isdigit():
        raise unknown(name, text, ["128", "1k:8k", "lognormal:median:sigma", *DATASETS, "a file of lengths"])
    first = parse_number(low, name)
    last = parse_number(high, name) if colon else first
    if last < first:
        raise ValueError(f"{name}={text!r}: the first length is above the second")
    return random.integers(first, last + 1, number)


def _lognormal(shape: tuple[float, float], number: int, random: np.random.Generator) -> np.ndarray:
    values = np.rint(shape[0] * np.exp(shape[1] * random.standard_normal(number)))
    return np.clip(values, _LEAST, _MOST).astype(int)


def read_trace(path: str) -> Workload:
    """A workload from a CSV or JSONL file.

    Raises:
      ValueError: a column is missing or a value is none, with the line. OSError: the file can't be read.
    """
    content = read_text(path)
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty: a trace has time, prompt and output on each line")
    rows: list[Mapping[str, Any]]
    if lines[0].lstrip().startswith("{"):
        rows = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    else:
        try:
            rows = list(csv.DictReader(lines, restval=""))
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path} has a header and no requests")
    return trace_of(rows, path)


def trace_of(rows: Sequence[Mapping[str, Any]], path: str = "trace") -> Workload:
    """A workload of rows with time, prompt and output (and prefix, group)."""
    names = {field: _name(field, rows[0]) for field in _COLUMNS}
    for field in ("time", "prompt", "output"):
        if names[field] is None:
            raise ValueError(f"{path} has no column {field} (or {', '.join(list(_COLUMNS[field])[1:])})")

    def column(field: str, whole: bool) -> list[Any]:
        name = names[field]
        if name is None:
            return [0] * len(rows)
        values = []
        for number, row in enumerate(rows, 1):
            try:
                value = float(row[name]) * _COLUMNS[field][name]
                if not math.isfinite(value) or value < 0 or (whole and value != int(value)):
                    raise ValueError
            except (TypeError, ValueError, KeyError):
                raise ValueError(f"{path}, request {number}: {field} is {row.get(name)!r}, no number >= 0") from None
            values.append(int(value) if whole else value)
        return values

    times = np.array(column("time", whole=False))
    order = np.argsort(times, kind="stable")
    prompt, output, prefix, group = (np.array(column(f, True)) for f in ("prompt", "output", "prefix", "group"))
    if (prompt < 1).any() or (output < 1).any() or (prefix > prompt).any():
        raise ValueError(f"{path}: every request has a prompt and an output of at least 1 token, and prefix <= prompt")
    shares = prefix.any()
    return Workload(
        prompt=tuple(prompt[order].tolist()),
        output=tuple(output[order].tolist()),
        arrivals=tuple((times[order] - times.min()).tolist()),
        group=tuple(group[order].tolist()) if shares else None,
        shared=tuple(prefix[order].tolist()) if shares else None,
        label=f"{len(rows)} requests of {Path(path).name}",
    )


def _name(field: str, row: Mapping[str, Any]) -> str | None:
    return next((name for name in _COLUMNS[field] if name in row), None)
