"""A served load as a Chrome trace (ui.perfetto.dev): a track of steps for each engine, and one for each slot.

Source of the format: "Trace Event Format" (Google), JSON object format. Times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ttsim.serving.accounts import Step
from ttsim.serving.clock import TICKS_PER_SECOND
from ttsim.serving.serve import Served

_MOST = 20_000  # requests that a trace holds: more are no timeline


def to_json(served: Served) -> str:
    """The steps of every engine and the requests in their slots.

    Raises:
      ValueError: the run kept no steps, or has too many requests.
    """
    if not any(served.run.logs):
        raise ValueError("a timeline needs the run's steps: serve(..., keep_steps=True)")
    if len(served.run.requests) > _MOST:
        raise ValueError(f"a timeline of {len(served.run.requests)} requests can't be read: give at most {_MOST}")
    events = [event for i, log in enumerate(served.run.logs) for event in _engine(i, log)]
    events += _slots(served)
    about = {"title": f"{served.server.label}, {served.question.load} (simulated by ttsim)"}
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    return json.dumps(trace, separators=(",", ":")) + "\n"


def _microseconds(ticks: int) -> float:
    return round(ticks * 1e6 / TICKS_PER_SECOND, 3)


def _name(process: int, track: int, kind: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": track, "name": kind, "args": {"name": name}}


def _slice(process: int, track: int, name: str, start: int, end: int, args: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": _microseconds(start), "dur": _microseconds(end - start)}
    return {"ph": "X", "pid": process, "tid": track, "name": name, **times, "args": args}


def _engine(number: int, log: tuple[Step, ...]) -> Iterator[dict[str, Any]]:
    yield _name(0, number, "thread_name", f"engine {number}")
    for step in log:
        if step.prompts:
            tokens = sum(tokens for _, tokens in step.prompts)
            args = {
                "requests": [request for request, _ in step.prompts],
                "tokens": tokens,
                "waiting decodes": step.users,
            }
            yield _slice(0, number, f"prefill {len(step.prompts)} prompts", step.start, step.end, args)
        else:
            args = {"users": step.users, "rows": step.rows, "longest context": step.context}
            yield _slice(0, number, f"{step.steps} decode steps, {step.users} users", step.start, step.end, args)


def _slots(served: Served) -> Iterator[dict[str, Any]]:
    """Each request from its admission to its end, in the lowest slot that is free then."""
    requests = served.run.requests
    yield _name(0, 0, "process_name", "steps")
    yield _name(1, 0, "process_name", "slots")
    order = sorted(range(len(requests)), key=lambda i: (requests.admitted[i], i))
    free_at: list[int] = []
    for i in order:
        start, first, end = requests.admitted[i], requests.first[i], requests.done[i]
        slot = next((s for s, t in enumerate(free_at) if t <= start), len(free_at))
        if slot == len(free_at):
            free_at.append(end)
            yield _name(1, slot, "thread_name", f"slot {slot}")
        free_at[slot] = end
        args = {
            "prompt": requests.prompt[i],
            "output": requests.output[i],
            "waited ms": _microseconds(start - requests.queued[i]) / 1e3,
            "preemptions": requests.preemptions[i],
        }
        yield _slice(1, slot, f"request {i}: prefill", start, first, args)
        yield _slice(1, slot, f"request {i}: decode", first, end, args)
