"""Chips as data, in SI units, each figure with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One Tenstorrent chip.

    Attributes:
      name: "wormhole" or "blackhole".
      compute_grid: (rows, columns) of Tensix cores that tt_transformers computes on.
      clock: cycles per second.
      dram_bytes: capacity of the DRAM.
      dram_banks: banks, each with one reader in a DRAM-sharded matmul.
      dram_bandwidth: peak of all banks, bytes per second.
      link_bandwidth: one Ethernet link, one direction, bytes per second.
      flops_per_cycle: of one core's matrix engine at LoFi; the phases of a fidelity divide it.
    """

    name: str
    compute_grid: tuple[int, int]
    clock: float
    dram_bytes: int
    dram_banks: int
    dram_bandwidth: float
    link_bandwidth: float
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
)

CHIPS = {chip.name: chip for chip in (WORMHOLE,)}
