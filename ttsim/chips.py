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
    """

    name: str
    compute_grid: tuple[int, int]
    clock: float
    dram_bytes: int
    dram_banks: int

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
)

CHIPS = {chip.name: chip for chip in (WORMHOLE,)}
