"""Collectives by topology: a latency per hop, and bytes over the links.

    line of n   n - 1 hops; the last device receives every other shard over one link
    ring of n   n / 2 hops; shards arrive from both sides

Source of the shape: the fits of tt-metal tech_reports/CCLs; of the topology: `ccl_topology` and `num_links` of
tt_transformers (see `meshes.systems`).
"""

from __future__ import annotations

from ttsim.cost.kernel import Kernel, over, times
from ttsim.cost.machine import Machine
from ttsim.meshes.systems import Topology

# Bytes of a reduce-scatter against an all-gather of the same tensor: growth from 64 to 256 KiB in tt-metal
# tech_reports/CCLs (T3K): 13.1 / 15.1 us on 2 chips, 15.8 / 13.0 on 4, 23.3 / 14.7 on 8; ring of 8 25.1 / 11.2 us.
_REDUCE_LINE = {2: 0.9, 4: 1.2, 8: 1.6}
_REDUCE_RING = 2.25


def all_gather(gathered: float, devices: int, machine: Machine, *, name: str = "all_gather") -> Kernel:
    """Every device ends up with `gathered` bytes, of which it had 1 / devices."""
    return _collective(name, gathered, devices, machine, 1.0)


def reduce_scatter(tensor: float, devices: int, machine: Machine) -> Kernel:
    """Sums `tensor` bytes over the devices; each keeps 1 / devices of the sum."""
    ring = machine.system.topology is Topology.RING
    factor = _REDUCE_RING if ring else _REDUCE_LINE.get(devices, 1.6)
    return _collective("reduce_scatter", tensor, devices, machine, factor)


def _collective(name: str, tensor: float, devices: int, machine: Machine, factor: float) -> Kernel:
    system = machine.system
    ring = system.topology is Topology.RING
    hops = devices // 2 if ring else devices - 1
    moved = tensor * (devices - 1) / devices
    start = times(hops, "hop_latency")
    if system.topology is Topology.GRID:
        start = start + times(1, "grid_collective")
    return Kernel(
        name,
        start=start,
        limits={"link": over(factor * moved / (system.links * (2 if ring else 1)), "link_bandwidth")},
        bytes=moved,
        source="ttnn operations/ccl",
    )
