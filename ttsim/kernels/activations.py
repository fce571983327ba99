"""Kernels that work on activations: fixed times in L1, streaming in DRAM.

Times in L1 are those of two op profiles of 2024-11 (`ttsim.hardware.constants.activations`), under one fitted scale
where the kernels have become faster since; a time that grows with the shape goes through both profiles.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from ttsim.hardware.chips import Chip
from ttsim.hardware.constants.activations import CORE_BANDWIDTH, FUSED_PAIR, SMALL_KERNEL_SCALE, STREAM_START
from ttsim.hardware.constants.matmul import INTERLEAVED_BANDWIDTH
from ttsim.hardware.quantities import Constant, Terms
from ttsim.hardware.software import Software
from ttsim.kernels.kernel import Kernel, UnpricedError
from ttsim.kernels.shapes import tiles
from ttsim.numerics.formats import TILE, get_format

_PROFILES = "op profiles of 2024-11: tt-perf-report example_perf_report.png, tt-metal tech_reports/LLMs"


def small(name: str, time: Constant | Terms, *, cores: int = 1) -> Kernel:
    """A kernel on L1 that took `time` in the profiles of 2024-11."""
    return Kernel(name, start=time * SMALL_KERNEL_SCALE, cores=cores, source=_PROFILES)


def fixed(name: str, time: Terms, *, cores: int = 1) -> Kernel:
    """A kernel on L1 whose time has not changed since the profiles of 2024-11."""
    return Kernel(name, start=time, cores=cores, source=_PROFILES)


def stream(name: str, moved: float, chip: Chip) -> Kernel:
    """An elementwise kernel on interleaved tensors: a launch, and its bytes through DRAM."""
    return Kernel(
        name,
        start=1 * STREAM_START,
        limits={"dram": moved / INTERLEAVED_BANDWIDTH},
        bytes=moved,
        cores=chip.cores,
        source="binary kernels on interleaved tensors: tt-perf-report test data, 2.8 us",
    )


def stream_rows(
    name: str, moved: float, rows: int, chip: Chip, *, start: Constant = STREAM_START, rate: Constant = CORE_BANDWIDTH
) -> Kernel:
    """A kernel that gives each core whole rows of tiles: few rows keep few cores busy."""
    cores = min(chip.cores, tiles(rows))
    return Kernel(
        name,
        start=1 * start,
        limits={"dram": moved / INTERLEAVED_BANDWIDTH, "core": (moved / cores) / rate},
        bytes=moved,
        cores=cores,
        source="tt-metal perf_targets/prefill_128.json (Galaxy 70B): create heads, concat heads, rotary",
    )


def check_l1(op: str, rows: int, columns: int, fmt: str, tensors: int, chip: Chip) -> None:
    """Refuses tensors of L1 that are no single row of tiles, or that the cores' L1 can't hold together.

    Args:
      op: for the message. rows, columns, fmt: of each tensor. tensors: how many are alive at once.

    Raises:
      UnpricedError: with the rows, or with the bytes.
    """
    if rows > TILE:
        raise UnpricedError(
            f'{op} with memory="l1" works on one row of tiles, at most {TILE} rows, and got {rows}: say memory="dram"'
        )
    needed, held = tensors * tiles(columns) * get_format(fmt).tile_bytes, chip.cores * chip.l1_bytes
    if needed > held:
        raise UnpricedError(
            f'{op} with memory="l1" holds {needed:,} bytes, and {chip.cores} cores have {held:,} bytes of L1: '
            'say memory="dram"'
        )


Pair = Literal["", "first", "second"]  # which of two equal ops that later software does in one


def one_of_pair(name: str, one: Kernel, pair: Pair, software: Software) -> list[Kernel]:
    """One of two equal ops, or, where the software has one op for both, that one for the first of them."""
    if not pair or not software.fused_rope_cache:
        return [dataclasses.replace(one, name=name)]
    if pair == "second":
        return []
    return [dataclasses.replace(one, name=f"{name}_fused", start=2 * one.start * FUSED_PAIR)]
