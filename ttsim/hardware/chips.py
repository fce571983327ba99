"""Chips as data, in SI units, each figure with its source.

Wormhole is the chip that the published tables were measured on. Blackhole's figures are specifications and
microbenchmarks (see `ttsim.pricing.scaling`). Grids are those that firmware of 2026 leaves; older ones are facts
(`compute_grid` of `ttsim.hardware.facts`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One Tenstorrent chip.

    Attributes:
      name: "wormhole", "blackhole_p150", ...
      family: "wormhole" or "blackhole".
      compute_grid: (rows, columns) of Tensix cores that tt_transformers computes on.
      clock: cycles per second.
      dram_bytes: capacity of the DRAM.
      dram_banks: banks, each with one reader (or two: `readers_per_bank`) in a DRAM-sharded matmul.
      dram_bandwidth: peak of all banks, bytes per second.
      link_bandwidth: one Ethernet link, one direction, bytes per second.
      hop_latency: seconds to forward a packet through one chip.
      noc_bytes_per_cycle: over one link of the on-chip network.
      l1_bytes: SRAM of one core that tensors and circular buffers can use.
      dispatch_ratio: gap between traced kernels against Wormhole's with the same software.
      request_cycles: of the chip's clock between two DRAM reads of one endpoint and NoC; a read is one tile, so that
        small formats don't reach the peak.
      host_read_bandwidth: of the host reading the chip's DRAM over PCIe in pages of 2 KiB, bytes per second.
      power: most that the chip may draw, watts; 0 if not known.
      flops_per_cycle: of one core's matrix engine at LoFi; the phases of a fidelity divide it.
    """

    name: str
    family: str
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
    request_cycles: float = 6.8
    host_read_bandwidth: float = 12.6e9
    power: float = 0.0
    flops_per_cycle: int = 4096  # 8 x 16 times 16 x 16 a cycle: tech_reports/matrix_engine

    @property
    def cores(self) -> int:
        return self.compute_grid[0] * self.compute_grid[1]

    @property
    def title(self) -> str:
        """The name as people write it: "Wormhole", "Blackhole P150"."""
        first, _, rest = self.name.partition("_")
        return f"{first.capitalize()} {rest.upper()}".strip()


WORMHOLE = Chip(
    name="wormhole",
    family="wormhole",
    # 8 x 8 with Ethernet dispatch (wormhole_b0_80_arch_eth_dispatch.yaml), which the published runs used.
    compute_grid=(8, 8),
    clock=1.0e9,  # tech_reports/GEMM_FLOPS
    dram_bytes=12 * 2**30,  # 6 controllers x 2 channels of 1 GiB: soc_descriptors/wormhole_b0_80_arch.yaml
    dram_banks=12,
    dram_bandwidth=288e9,  # 12 GT/s: tech_reports/Saturating_DRAM_bandwidth
    link_bandwidth=12.5e9,  # 100 Gb/s: tech_reports/EthernetMultichip
    hop_latency=711e-9,  # per-hop forwarding, 1-D fabric: tech_reports/CCLs
    noc_bytes_per_cycle=30.0,  # tt-npe device_models/wormhole_b0.hpp
    request_cycles=6.8,  # tt-metal issue #55898
    host_read_bandwidth=12.6e9,  # benchmark_rw_buffer_golden.json, 2 KiB pages, a chip on PCIe
    power=160.0,  # N150 board limit, 150 W a chip of an N300: docs.tenstorrent.com
)
WORMHOLE_6U = dataclasses.replace(
    WORMHOLE,
    name="wormhole_6u",
    dram_bandwidth=336e9,  # 14 GT/s on the Galaxy of 2025 (6U): tech_reports/Saturating_DRAM_bandwidth
)

BLACKHOLE_P150 = Chip(
    name="blackhole_p150",
    family="blackhole",
    # Firmware 19.5 (2026-01) hides two of fourteen columns, and one dispatches: tt-system-firmware P150A fw_table.txt.
    compute_grid=(10, 11),
    clock=1.35e9,  # asic_fmax of fw_table.txt; 800 MHz with firmware 18.6 and 18.7 (tt-firmware #26)
    dram_bytes=32 * 2**30,
    dram_banks=8,
    dram_bandwidth=512e9,  # 16 GT/s: tech_reports/Saturating_DRAM_bandwidth, Blackhole
    link_bandwidth=25e9,  # links of 400 Gb/s at half rate: tech_reports/CCLs (2026-09)
    hop_latency=515e-9,  # per-hop forwarding, 1-D fabric: tech_reports/CCLs
    noc_bytes_per_cycle=60.9,  # tt-npe device_models/blackhole.hpp
    dispatch_ratio=1.30 / 1.57,  # pgm_dispatch_golden.json of both chips, 2026-04-13
    request_cycles=16.4,  # tt-metal issue #55898
    host_read_bandwidth=14.4e9,  # benchmark_rw_buffer_golden.json, P150
    power=150.0,  # TDP limit of P150A, 300 W a board: fw_table.txt
)
BLACKHOLE_P100 = dataclasses.replace(
    BLACKHOLE_P150,
    name="blackhole_p100",
    dram_bytes=28 * 2**30,
    dram_banks=7,
    dram_bandwidth=448e9,
)
BLACKHOLE_P300 = dataclasses.replace(BLACKHOLE_P150, name="blackhole_p300", power=125.0)  # P300C fw_table.txt
BLACKHOLE_GALAXY = dataclasses.replace(
    BLACKHOLE_P150,
    name="blackhole_galaxy",
    compute_grid=(10, 12),  # one column off: GALAXY_REVC fw_table.txt
    power=130.0,
)

CHIPS = MappingProxyType(
    {
        chip.name: chip
        for chip in (WORMHOLE, WORMHOLE_6U, BLACKHOLE_P100, BLACKHOLE_P150, BLACKHOLE_P300, BLACKHOLE_GALAXY)
    }
)
