"""What the text demo prints: its log's lines, and those of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ttsim.generation.clock import Clock
from ttsim.generation.generate import Generation
from ttsim.models.grids import padded_prefill_length
from ttsim.scenarios.scenario import Scenario


def iteration_lines(clock: Clock, wall: Sequence[float] = (), every: int = 1) -> Iterator[str]:
    """The device's log line of each iteration, with the wall time here beside it."""
    for i, seconds in enumerate(clock.steps):
        if every > 1 and i not in (0, 1, len(clock.steps) - 1) and i % every:
            continue
        line = f"Iteration {i}: {1e3 * seconds:.2f} ms @ {1 / seconds:.1f} tok/s/user"
        line += f" ({clock.users / seconds:.1f} tok/s throughput)"
        yield line + (f" | here {1e3 * wall[i]:.0f} ms" if i < len(wall) else "")


def summary_lines(clock: Clock, lengths: Sequence[int], generation: Generation | None = None) -> list[str]:
    """The performance metrics in the words of the demo's log, and those of this machine."""
    padded = sorted({padded_prefill_length(n) for n in lengths})
    lines = [
        f"Prompts: {len(lengths)} of {min(lengths)} to {max(lengths)} tokens, padded to {', '.join(map(str, padded))}",
        f"Average Time to First Token (TTFT): {1e3 * clock.ttft:.1f} ms",
        f"Average speed: {1e3 * clock.step:.2f} ms @ {clock.speed:.1f} tok/s/user "
        f"({clock.throughput:.1f} tok/s throughput)",
    ]
    for token in (1, 128, 1024, 4096):
        if token < len(clock.steps):
            seconds = clock.steps[token]
            lines.append(f"Token {token} decode time: {1e3 * seconds:.2f} ms [{1 / seconds:.1f} t/s/u]")
    if generation:
        steps = generation.step_times[1:] or generation.step_times
        first = generation.step_times[0] if generation.step_times else 0.0
        mean = float(np.mean(steps)) if steps else 0.0
        lines.append(
            f"Here: prefill {sum(generation.prefill_times):.2f} s, first decode {first:.2f} s (both compile the first "
            f"time), then {1e3 * mean:.1f} ms an iteration" + (f" @ {1 / mean:.1f} tok/s/user" if mean else "")
        )
    return lines


def header_lines(scenario: Scenario, precision_name: str, test: str) -> list[str]:
    name = f"{scenario.config.name} on {scenario.system.label}, {test}, batch {scenario.batch_size}"
    shown = precision_name if precision_name == str(scenario.precision) else f"{precision_name}: {scenario.precision}"
    return [name, shown if len(shown) < 400 else precision_name]
