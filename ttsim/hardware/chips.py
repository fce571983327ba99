"""Chips as data, in SI units, each figure with its source.

Wormhole is the chip that the published tables were measured on. Blackhole's figures are specifications and
microbenchmarks: what the simulator says of it is a prediction (see `ttsim.pricing.scaling`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One Tenstorrent chip.

    Attributes:
      name: "wormhole", "blackhole_p150", ...
      compute_grid: (rows, columns) of Tensix cores that tt_transformers computes on.
      clock: cycles per second.
      dram_bytes: capacity of the DRAM.
      dram_banks: banks, each with one reader in a DRAM-sharded matmul.
      dram_bandwidth: peak of all banks, bytes per second.
      link_bandwidth: one Ethernet link, one direction, bytes per second.
      hop_latency: seconds to forward a packet through one chip.
      noc_bytes_per_cycle: over one link of the on-chip network.
      l1_bytes: SRAM of one core that tensors and circular buffers can use.
      dispatch_ratio: gap between traced kernels against Wormhole's with the same software.
      flops_per_cycle: of one core's matrix engine at LoFi; the phases of a fidelity divide it.
    """

    name: str
    compute_grid: tuple[int, int]
    clock: float
    dram_bytes: int
    dram_banks: int
    dram_bandwidth: float
    link_bandwidth: float
    hop_latency: float
    noc_bytes_per_cycle: float
    l1_bytes: int = 1_499_136  # 1.5 MB less 73 KiB of firmware and mailboxes: ttnn 0.81.1, on Wormhole and Blackhole
    dispatch_ratio: float = 1.0
    flops_per_cycle: int = 4096  # 8 x 16 times 16 x 16 a cycle: tech_reports/matrix_engine

    @property
    def cores(self) -> int:
        return self.compute_grid[0] * self.compute_grid[1]


WORMHOLE = Chip(
    name="wormhole",
    # 8 x 8 with Ethernet dispatch (wormhole_b0_80_arch_eth_dispatch.yaml), which the published runs used.
    compute_grid=(8, 8),
    clock=1.0e9,  # tech_reports/GEMM_FLOPS
    dram_bytes=12 * 2**30,  # 6 controllers x 2 channels of 1 GiB: soc_descriptors/wormhole_b0_80_arch.yaml
    dram_banks=12,
    dram_bandwidth=288e9,  # 12 GT/s: tech_reports/Saturating_DRAM_bandwidth
    link_bandwidth=12.5e9,  # 100 Gb/s: tech_reports/EthernetMultichip
    hop_latency=711e-9,  # per-hop forwarding, 1-D fabric: tech_reports/CCLs
    noc_bytes_per_cycle=30.0,  # tt-npe device_models/wormhole_b0.hpp
)

BLACKHOLE_P150 = Chip(
    name="blackhole_p150",
    # 13 columns x 10 rows of the first boards, which the published GEMM tables used (firmware of 2026 leaves 11 x 10).
    compute_grid=(10, 13),
    clock=1.35e9,  # tech_reports/GEMM_FLOPS
    dram_bytes=32 * 2**30,
    dram_banks=8,
    dram_bandwidth=512e9,  # 16 GT/s: tech_reports/Saturating_DRAM_bandwidth, Blackhole
    link_bandwidth=25e9,  # links of 400 Gb/s at half rate: tech_reports/CCLs (2026-09)
    hop_latency=515e-9,  # per-hop forwarding, 1-D fabric: tech_reports/CCLs
    noc_bytes_per_cycle=60.9,  # tt-npe device_models/blackhole.hpp
    dispatch_ratio=1.30 / 1.57,  # pgm_dispatch_golden.json of both chips, 2026-04-13
)
BLACKHOLE_P100 = dataclasses.replace(
    BLACKHOLE_P150,
    name="blackhole_p100",
    compute_grid=(10, 12),  # 120 cores: blackhole_140_arch.yaml
    dram_bytes=28 * 2**30,
    dram_banks=7,
    dram_bandwidth=448e9,
)

CHIPS = {chip.name: chip for chip in (WORMHOLE, BLACKHOLE_P100, BLACKHOLE_P150)}


def register(chip: Chip) -> None:
    """Makes a chip known by its name.

    Raises:
      ValueError: another chip has this name.
    """
    if CHIPS.setdefault(chip.name, chip) != chip:
        raise ValueError(f"there is a chip named {chip.name!r} with other figures: give this one another name")
