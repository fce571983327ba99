"""Collectives by topology: a latency per hop, and bytes over the links.

    line of n   n - 1 hops; the last device receives every other shard over one link
    ring of n   n / 2 hops; shards arrive from both sides

Sources: tt-metal tech_reports/CCLs (latency and bandwidth on T3K, one link); `ccl_topology` and `num_links` of
tt_transformers for what runs where (see `meshes.systems`).
"""

from __future__ import annotations

import math
from typing import Literal

from ttsim.hardware.constants import (
    GRID_COLLECTIVE,
    HOP_LATENCY,
    LINK_BANDWIDTH,
    LINK_BYTE_TIME,
    RING,
    ROW_BANDWIDTH,
)
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.shapes import tiles
from ttsim.meshes.systems import System, Topology
from ttsim.numerics.formats import get_format

Memory = Literal["l1", "dram"]


def all_gather(gathered: float, devices: int, memory: Memory, system: System) -> Kernel:
    """Every device ends up with `gathered` bytes, of which it had 1 / devices."""
    return _collective("all_gather", "gather", gathered, devices, memory, system)


def reduce_scatter(tensor: float, devices: int, memory: Memory, system: System) -> Kernel:
    """Sums `tensor` bytes over the devices; each keeps 1 / devices of the sum."""
    return _collective("reduce_scatter", "reduce", tensor, devices, memory, system)


def unaligned_gather(columns: int, devices: int) -> list[Kernel]:
    """What an all-gather of shards adds when their width is not whole tiles: padding inside the gathered row.

    The gathered row is untilized without each shard's padding, joined, and tilized again: three passes of one core that
    reads and writes every tile as 64-byte rows of bf16. Llama's vocabularies divide into tiles on eight chips, Phi's
    (32,064 / 8 = 4008) does not.
    """
    gathered = devices * tiles(columns) * get_format("bf16").tile_bytes
    source = "tt-metal issue #19730 (padded gathers, 2025-03); the three passes: PR #26661"
    return [
        Kernel(name, start=2 * gathered / ROW_BANDWIDTH, cores=1, source=source)
        for name in ("untilize_with_unpadding", "concat", "tilize_with_padding")
    ]


def _collective(name: str, kind: str, tensor: float, devices: int, memory: Memory, system: System) -> Kernel:
    byte_time = LINK_BYTE_TIME[kind, memory]
    if system.topology is Topology.RING:
        hops, links, relative = devices / 2, 2 * system.links, byte_time[RING]
    else:
        nearest = min(byte_time, key=lambda known: abs(known - devices) if known != RING else math.inf)
        hops, links, relative = devices - 1, system.links, byte_time[nearest]
    moved = tensor * (devices - 1) / devices
    start = hops * HOP_LATENCY
    if system.topology is Topology.GRID:
        start = start + GRID_COLLECTIVE
    limits = {"link": relative * (moved / links / LINK_BANDWIDTH)}
    return Kernel(name, start=start, limits=limits, bytes=moved, source="ttnn operations/ccl")
