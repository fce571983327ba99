"""Collectives by topology: a latency per hop, and bytes over the links.

    line of n   n - 1 hops; the last device receives every other shard over one link
    ring of n   n / 2 hops; shards arrive from both sides

Sources: tt-metal tech_reports/CCLs (latency and bandwidth on T3K, one link); `ccl_topology` and `num_links` of
tt_transformers for what runs where (see `meshes.systems`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ttsim.kernels.kernel import Kernel, Terms, over, times
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import Topology

# Time of a byte against a link's bandwidth, by devices of a line, and on both links of a ring (key 0). From tt-metal
# tech_reports/CCLs, T3K, against 11.7 GB/s (all-gather on a line of 8).
_RING = 0
# Tensors in DRAM (prefill), at 32 MiB: all-gather 6.34, 11.7, 11.7 and 20.5 GB/s; reduce-scatter 8.8, 10.3, 10.8, 16.5.
_DRAM_GATHER = {2: 1.85, 4: 1.0, 8: 1.0, _RING: 1.14}
_DRAM_REDUCE = {2: 1.33, 4: 1.14, 8: 1.08, _RING: 1.42}
# Tensors in L1 (decode): an all-gather fills the link. A reduce-scatter takes the tables' ratio to an all-gather of the
# same size as both grow from 64 to 256 KiB: 13.1 / 15.1 us, 15.8 / 13.0, 23.3 / 14.7 and 25.1 / 11.2.
_L1_GATHER = {2: 1.0, 4: 1.0, 8: 1.0, _RING: 1.0}
_L1_REDUCE = {2: 0.9, 4: 1.2, 8: 1.6, _RING: 2.25}


def all_gather(gathered: float, devices: int, machine: Machine) -> Kernel:
    """Every device ends up with `gathered` bytes, of which it had 1 / devices."""
    byte_time = _L1_GATHER if machine.phase == "decode" else _DRAM_GATHER
    return _collective("all_gather", gathered, devices, machine, byte_time)


def unaligned_gather() -> list[Kernel]:
    """What an all-gather of shards adds when their width is not whole tiles: padding inside the gathered row.

    The gathered row is untilized without each shard's padding, joined, and tilized again: three passes of one core,
    which together took 4.5 ms for Phi-3.5-mini on T3K (32,064 / 8 = 4008 columns) and no more for Qwen3's 151,936.
    Llama's vocabularies divide into tiles on eight chips.
    """
    source = "tt-metal issue #19730 (padded gathers, 2025-03); the three passes: PR #26661"
    return [
        Kernel(name, start=times(1 / 3, "vocabulary_join"), cores=1, source=source)
        for name in ("untilize_with_unpadding", "concat", "tilize_with_padding")
    ]


def reduce_scatter(tensor: float, devices: int, machine: Machine) -> Kernel:
    """Sums `tensor` bytes over the devices; each keeps 1 / devices of the sum."""
    byte_time = _L1_REDUCE if machine.phase == "decode" else _DRAM_REDUCE
    return _collective("reduce_scatter", tensor, devices, machine, byte_time)


def _start(name: str, hops: float, machine: Machine) -> Terms:
    """Seconds of a collective without its bytes: synchronisation and hops, by the software's generation."""
    system = machine.system
    if system.chip.family == "blackhole":
        start = times(hops, "hop_latency")
        if machine.phase == "prefill":
            return start + times(1, "blackhole_prefill_collective")
        return start + times(1, "blackhole_collective") if machine.software.collectives == "fabric 2026" else start
    if system.topology is Topology.GRID:
        return times(hops, "hop_latency") + times(1, "grid_collective")
    if machine.software.collectives == "legacy":
        return times(hops, "hop_latency")
    kind = "reduce" if name == "reduce_scatter" else "gather"
    ring = system.topology is Topology.RING
    return times(1, f"line_{kind}_start") + times(hops, f"{'ring' if ring else 'line'}_{kind}_hop")


def _collective(name: str, tensor: float, devices: int, machine: Machine, byte_time: Mapping[int, float]) -> Kernel:
    system = machine.system
    if system.topology is Topology.RING:
        hops, links, relative = devices / 2, 2 * system.links, byte_time[_RING]
    else:
        nearest = min(byte_time, key=lambda known: abs(known - devices) if known else math.inf)
        hops, links, relative = devices - 1, system.links, byte_time[nearest]
    moved = tensor * (devices - 1) / devices
    start = _start(name, hops, machine)
    limits = {"link": over(relative * moved / links, "link_bandwidth")}
    return Kernel(name, start=start, limits=limits, bytes=moved, source="ttnn operations/ccl")
