"""What a client asks and when: lengths, arrivals, traces, as vLLM's benchmark client makes them.

    lengths     "128", "1k:8k" (uniform), "lognormal:512:1.2", a public trace ("azure-code"), a file (a number a line)
    arrivals    all at once; gamma intervals of a rate (shape 1: Poisson), scaled so that the last one is at n / rate
    traces      CSV or JSONL with time, prompt, output and, if prefixes are shared, prefix and group

Sources: vLLM benchmarks/serve.py and datasets.py (2026).
"""

from __future__ import annotations

import csv
import datetime
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.errors import unknown
from ttsim.files.reading import parse_csv, parse_json, read_text, shown
from ttsim.scenarios.question import parse_number
from ttsim.serving.cluster import Load
from ttsim.serving.requests import Requests

DATASETS = ("azure-conversation", "azure-code")  # in `ttsim/data/lengths.csv`, which says where they are from
_MOST, _LEAST = 131_072, 4
_LONGEST = 2**26  # tokens of a prompt or an output
_MOST_REQUESTS = 10_000_000

# Names of a trace's columns: ours, those of Azure's public traces, BurstGPT's and Mooncake's. The factor makes seconds.
_COLUMNS: Mapping[str, Mapping[str, float]] = {
    "time": {
        "time": 1.0,
        "arrival": 1.0,
        "arrival_time": 1.0,
        "timestamp": 1e-3,
        "Timestamp": 1.0,
        "TIMESTAMP": 1.0,
    },
    "prompt": {"prompt": 1, "isl": 1, "input_length": 1, "prompt_len": 1, "ContextTokens": 1, "Request tokens": 1},
    "output": {"output": 1, "osl": 1, "output_length": 1, "output_len": 1, "GeneratedTokens": 1, "Response tokens": 1},
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
    counts = {
        "requests": (requests, 1, _MOST_REQUESTS),
        "prefix": (prefix, 0, _LONGEST),
        "prefix_groups": (groups, 1, _MOST_REQUESTS),
        "seed": (seed, 0, 2**64 - 1),
    }
    for name, (count, least, most) in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not least <= count <= most:
            raise ValueError(f"{name} must be a whole number of {least:,} to {most:,}, not {shown(count)}")
    random = np.random.default_rng(seed)
    if isl.strip() == osl.strip() and isl.strip() in DATASETS:  # a prompt and its own answer
        pairs = _trace_lengths(isl.strip())
        prompt, output = pairs[random.integers(0, len(pairs), requests)].T
    else:
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
    if not burstiness >= 1e-3:
        raise ValueError(
            f"burstiness must be at least 0.001 (1: Poisson, less: burstier, inf: constant intervals), not {burstiness}"
        )
    if math.isinf(burstiness):
        return np.arange(1, requests + 1) / rate
    times = np.cumsum(random.gamma(burstiness, 1.0, requests))
    if not times[-1] > 0:  # so bursty that every interval vanishes
        times[-1] = 1.0
    return np.asarray(times / times[-1] * (requests / rate))


def lengths(text: str, number: int, random: np.random.Generator, side: int, name: str) -> np.ndarray:
    """`number` lengths; `side` 0 is a data set's prompts, 1 its outputs."""
    text = text.strip()
    if text.startswith("lognormal:"):
        return _lognormal(text, number, random, name)
    if text in DATASETS:
        known = _trace_lengths(text)[:, side]
        return np.asarray(known[random.integers(0, len(known), number)])
    if os.path.isfile(text):  # where Path would raise for what is too long to be a name
        values = [parse_number(line, f"{text}: a length") for line in read_text(text).split()]
        if not values:
            raise ValueError(f"{text} holds no lengths: give a whole number a line")
        return np.resize(np.array([_not_too_long(value, f"{text}: a length") for value in values]), number)
    low, colon, high = text.partition(":")
    if not low[:1].isdigit():
        raise unknown(name, text, ["128", "1k:8k", "lognormal:median:sigma", *DATASETS, "a file of lengths"])
    first = _not_too_long(parse_number(low, name), name)
    last = _not_too_long(parse_number(high, name), name) if colon else first
    if last < first:
        raise ValueError(f"{name}={text!r}: the first length is above the second")
    return random.integers(first, last + 1, number)


def _not_too_long(tokens: int, name: str) -> int:
    if tokens > _LONGEST:
        raise ValueError(f"{name} must be at most {_LONGEST:,} tokens, not {tokens:,}")
    return tokens


def _lognormal(text: str, number: int, random: np.random.Generator, name: str) -> np.ndarray:
    try:
        _, median, sigma = text.split(":")
        shape = float(median), float(sigma)
        if not (1 <= shape[0] <= _LONGEST and 0 <= shape[1] <= 10):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{name}={shown(text)} is not lognormal:median:sigma with a median of 1 to {_LONGEST:,} tokens and a sigma "
            "of 0 to 10, e.g. lognormal:512:1.0"
        ) from None
    values = np.rint(shape[0] * np.exp(shape[1] * random.standard_normal(number)))
    return np.clip(values, _LEAST, _MOST).astype(int)


@functools.cache
def _trace_lengths(dataset: str) -> np.ndarray:
    """(prompt, output) of requests of a public trace."""
    text = resources.files("ttsim.data").joinpath("lengths.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return np.array([(int(row["prompt"]), int(row["output"])) for row in rows if row["dataset"] == dataset])


def read_trace(path: str) -> Workload:
    """A workload from a CSV or JSONL file.

    Raises:
      ValueError: a column is missing or a value is none, with the line. OSError: the file can't be read.
    """
    content = read_text(path)
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty: a trace has time, prompt and output on each line")
    rows: list[Any]
    if lines[0].lstrip().startswith(("{", "[")):
        rows = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    else:
        rows = parse_csv(lines, path)
    if not rows:
        raise ValueError(f"{path} has a header and no requests")
    return trace_of(rows, path)


def trace_of(rows: Sequence[Any], path: str = "trace") -> Workload:
    """A workload of rows with time, prompt and output (and prefix, group)."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, request {number} is no object with time, prompt and output")
    names = {field: _name(field, rows[0]) for field in _COLUMNS}
    for field in ("time", "prompt", "output"):
        if names[field] is None:
            raise ValueError(f"{path} has no column {field} (or {', '.join(list(_COLUMNS[field])[1:])})")

    def column(field: str) -> list[float]:
        name = names[field]
        if name is None:
            return [0] * len(rows)
        read = _moment if field == "time" else _tokens
        values = []
        for number, row in enumerate(rows, 1):
            try:
                values.append(read(row[name]) * _COLUMNS[field][name])
            except (TypeError, ValueError, KeyError, OverflowError):
                what = "time" if field == "time" else f"whole number of 0 to {_LONGEST:,}"
                raise ValueError(f"{path}, request {number}: {field} is {shown(row.get(name))}, no {what}") from None
        return values

    times = np.array(column("time"))
    times -= times.min()
    order = np.argsort(times, kind="stable")
    prompt, output, prefix, group = (
        np.array(column(f), dtype=np.int64) for f in ("prompt", "output", "prefix", "group")
    )
    if (prompt < 1).any() or (output < 1).any() or (prefix > prompt).any():
        bad = 1 + int(np.argmax((prompt < 1) | (output < 1) | (prefix > prompt)))
        raise ValueError(
            f"{path}, request {bad}: a request has a prompt and an output of at least 1 token, and prefix <= prompt"
        )
    shares = prefix.any()
    return Workload(
        prompt=tuple(prompt[order].tolist()),
        output=tuple(output[order].tolist()),
        arrivals=tuple(times[order].tolist()),
        group=tuple(group[order].tolist()) if shares else None,
        shared=tuple(prefix[order].tolist()) if shares else None,
        label=f"{len(rows)} requests of {Path(path).name}",
    )


def _moment(cell: Any) -> float:
    """Seconds of a number, or of a date and time (Azure's traces have seven decimals)."""
    if isinstance(cell, bool):
        raise ValueError
    try:
        value = float(cell)
    except ValueError:
        whole, _, fraction = str(cell).strip().partition(".")
        value = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC).timestamp()
        value += float(f"0.{fraction}") if fraction else 0.0
    if not math.isfinite(value) or value < 0:
        raise ValueError
    return value


def _tokens(cell: Any) -> int:
    value = float(cell)
    if isinstance(cell, bool) or not 0 <= value <= _LONGEST or value != int(value):
        raise ValueError
    return int(value)


def _name(field: str, row: Mapping[str, Any]) -> str | None:
    return next((name for name in _COLUMNS[field] if name in row), None)
