"""Collectives by topology: a latency per hop, and bytes over the links.

    line of n   n - 1 hops; the last device receives every other shard over one link
    ring of n   n / 2 hops; shards arrive from both sides

Sources: tt-metal tech_reports/CCLs (latency and bandwidth on T3K, one link); `ccl_topology` and `num_links` of
tt_transformers for what runs where (see `meshes.systems`).
"""

from __future__ import annotations

import math
from typing import Literal

from ttsim.hardware.constants.links import (
    BLACKHOLE_COLLECTIVE,
    BLACKHOLE_PREFILL_COLLECTIVE,
    GRID_COLLECTIVE,
    HOP_LATENCY,
    LINE_GATHER_HOP,
    LINE_GATHER_START,
    LINE_REDUCE_HOP,
    LINE_REDUCE_START,
    LINK_BANDWIDTH,
    LINK_BYTE_TIME,
    RING,
    RING_GATHER_HOP,
    RING_REDUCE_HOP,
    VOCABULARY_JOIN,
)
from ttsim.hardware.quantities import Terms
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import Topology

Memory = Literal["l1", "dram"]


def all_gather(gathered: float, devices: int, memory: Memory, machine: Machine) -> Kernel:
    """Every device ends up with `gathered` bytes, of which it had 1 / devices."""
    return _collective("all_gather", "gather", gathered, devices, memory, machine)


def reduce_scatter(tensor: float, devices: int, memory: Memory, machine: Machine) -> Kernel:
    """Sums `tensor` bytes over the devices; each keeps 1 / devices of the sum."""
    return _collective("reduce_scatter", "reduce", tensor, devices, memory, machine)


def unaligned_gather() -> list[Kernel]:
    """What an all-gather of shards adds when their width is not whole tiles: padding inside the gathered row.

    The gathered row is untilized without each shard's padding, joined, and tilized again: three passes of one core,
    which together took 4.5 ms for Phi-3.5-mini on T3K (32,064 / 8 = 4008 columns) and no more for Qwen3's 151,936.
    Llama's vocabularies divide into tiles on eight chips.
    """
    source = "tt-metal issue #19730 (padded gathers, 2025-03); the three passes: PR #26661"
    return [
        Kernel(name, start=1 / 3 * VOCABULARY_JOIN, cores=1, source=source)
        for name in ("untilize_with_unpadding", "concat", "tilize_with_padding")
    ]


def _start(kind: str, hops: float, memory: Memory, machine: Machine) -> Terms:
    """A collective without its bytes: synchronisation and hops, by the software's generation."""
    system = machine.system
    if system.chip.family == "blackhole":
        if system.topology is Topology.GRID:
            return hops * HOP_LATENCY  # a 256 KiB all-reduce in 30 us over 8 chips: ccl tests of a Blackhole Galaxy
        if memory == "dram":
            return hops * HOP_LATENCY + BLACKHOLE_PREFILL_COLLECTIVE
        ring = machine.software.collectives == "fabric 2026"
        return hops * HOP_LATENCY + BLACKHOLE_COLLECTIVE if ring else hops * HOP_LATENCY
    if system.topology is Topology.GRID:
        return hops * HOP_LATENCY + GRID_COLLECTIVE
    if machine.software.collectives == "legacy":
        return hops * HOP_LATENCY
    ring = system.topology is Topology.RING
    if kind == "gather":
        return hops * (RING_GATHER_HOP if ring else LINE_GATHER_HOP) + LINE_GATHER_START
    return hops * (RING_REDUCE_HOP if ring else LINE_REDUCE_HOP) + LINE_REDUCE_START


def _collective(name: str, kind: str, tensor: float, devices: int, memory: Memory, machine: Machine) -> Kernel:
    system, byte_time = machine.system, LINK_BYTE_TIME[kind, memory]
    if system.topology is Topology.RING:
        hops, links, relative = devices / 2, 2 * system.links, byte_time[RING]
    else:
        nearest = min(byte_time, key=lambda known: abs(known - devices) if known != RING else math.inf)
        hops, links, relative = devices - 1, system.links, byte_time[nearest]
    moved = tensor * (devices - 1) / devices
    start = _start(kind, hops, memory, machine)
    limits = {"link": relative * (moved / links / LINK_BANDWIDTH)}
    return Kernel(name, start=start, limits=limits, bytes=moved, source="ttnn operations/ccl")
