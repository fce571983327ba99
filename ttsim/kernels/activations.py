"""Kernels that work on activations: fixed times of decode, streaming of prefill.

Times of decode are those of two op profiles of 2024-11 (Llama-3.1-8B on N150, tt-perf-report example_perf_report.png;
Llama-3.2-1B on T3K, tt-metal tech_reports/LLMs), all under one fitted scale; a time that grows with the shape goes
through both profiles.
"""

from __future__ import annotations

from typing import Any

from ttsim.kernels.kernel import Kernel, over, seconds, times
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tiles

_PROFILES = "op profiles of 2024-11: tt-perf-report example_perf_report.png, tt-metal tech_reports/LLMs"


def small(name: str, time: Any, *, cores: int = 1) -> Kernel:
    """A decode kernel that took `time` seconds in the profiles of 2024-11."""
    return Kernel(name, start=times(time, "small_kernel_scale"), cores=cores, source=_PROFILES)


def fixed(name: str, time: Any, *, cores: int = 1) -> Kernel:
    """A decode kernel whose time has not changed since the profiles of 2024-11."""
    return Kernel(name, start=seconds(time), cores=cores, source=_PROFILES)


def stream(name: str, moved: float, machine: Machine) -> Kernel:
    """An elementwise kernel on interleaved tensors: a launch, and its bytes through DRAM."""
    return Kernel(
        name,
        start=seconds(3e-6),
        limits={"dram": over(moved, "interleaved_bandwidth")},
        bytes=moved,
        cores=machine.chip.cores,
        source="binary kernels on interleaved tensors: tt-perf-report test data, 2.8 us",
    )


def stream_rows(
    name: str, moved: float, rows: int, machine: Machine, *, start: float = 3e-6, rate: str = "core_bandwidth"
) -> Kernel:
    """A kernel that gives each core whole rows of tiles: few rows keep few cores busy."""
    cores = min(machine.chip.cores, tiles(rows))
    return Kernel(
        name,
        start=seconds(start),
        limits={"dram": over(moved, "interleaved_bandwidth"), "core": over(moved / cores, rate)},
        bytes=moved,
        cores=cores,
        source="tt-metal perf_targets/prefill_128.json (Galaxy 70B): create heads, concat heads, rotary",
    )
