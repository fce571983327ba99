"""Constants of matmul kernels: what they stream from DRAM, and what a tile product takes."""

from __future__ import annotations

from ttsim.hardware.constants.sources import LAYER_1B_T3K, LAYER_8B_N150, PREFILL_70B
from ttsim.hardware.quantities import fitted, sourced

# Decode
DRAM_SHARDED_START = sourced(
    "dram_sharded_start",
    6.2e-6,
    "s",
    "clock",
    f"{LAYER_8B_N150}: five matmuls of 18.4 to 140.4 MB are 6.2 us + bytes / 259.6 GB/s within 1.6 %",
)
DRAM_SHARDED_BANDWIDTH = sourced(
    "dram_sharded_bandwidth", 259.6e9, "B/s", "dram", f"{LAYER_8B_N150}: see dram_sharded_start"
)
BLACKHOLE_SHARDED_BANDWIDTH = sourced(
    "blackhole_sharded_bandwidth",
    281.25e9,
    "B/s",
    "dram",
    "sharded reads of Blackhole's DRAM, 500 of 512 GB/s (tt-metal PR #47885), as that share of Wormhole's peak",
)
BLOCK_LATENCY = fitted(
    "block_latency",
    0.6e-6,
    "s",
    "noc",
    f"one block of K of a DRAM-sharded matmul (multicast, semaphores): {LAYER_1B_T3K}, 29 to 31 us for 32 blocks",
    log_width=0.3,
)
TILE_PACK = fitted(
    "tile_pack",
    32e-9,
    "s",
    "noc",
    "packing one output tile of one block of K onto the sum in L1: 32 cycles of 32 values "
    "(tt-isa-documentation, WormholeB0 Packer)",
    log_width=0.5,
)
INTERLEAVED_BANDWIDTH = sourced(
    "interleaved_bandwidth",
    190e9,
    "B/s",
    "dram",
    "DRAM interleaved over 12 banks: tt-metal tech_reports/LLMs/llms.md 4.6",
)
MCAST_1D_FLOOR = sourced(
    "mcast_1d_floor", 30e-6, "s", "clock", f"{LAYER_1B_T3K}: 1-D multicast matmuls take 29 to 31 us whatever N"
)
MCAST_1D_START = sourced(
    "mcast_1d_start",
    10e-6,
    "s",
    "clock",
    "a 1-D multicast matmul without its blocks: 32 x 512 x 2880 takes 15 us (tt-mlir #7717), of which 8 blocks of two "
    "tiles 4.8; 32 x 2048 takes 29 to 31 (Llama 3.2 1B on T3K), of which 32 blocks 19",
)

# Prefill
MCAST_2D_START = sourced(
    "mcast_2d_start", 5e-6, "s", "clock", f"2-D multicast matmuls: see mcast_2d_weight_bandwidth, {PREFILL_70B}"
)
MCAST_2D_WEIGHT_BANDWIDTH = sourced(
    "mcast_2d_weight_bandwidth",
    70.5e9,
    "B/s",
    "noc",
    f"weights read by the eight cores of one row: QKV, WO, FF1, FF2 of {PREFILL_70B} are 5 us + bytes / 70.5 GB/s",
)
PHASE_OVERHEAD = sourced(
    "phase_overhead",
    1.27,
    "1",
    "nothing",
    "cycles of a fidelity phase against the ideal 16: best tuned GEMMs of N150 (200, 101, 52 TFLOP/s), "
    "tt-metal tech_reports/GEMM_FLOPS",
)
TILE_OVERHEAD = fitted(
    "tile_overhead",
    40e-9,
    "s",
    "noc",
    "waiting of a tile product of a prefill matmul for its operands, beyond its phases: default configurations are 2 "
    "to 2.5 times slower than tuned ones (tt-metal df9b7c2d9b). On Blackhole it is taken to shrink with the NoC: with "
    "the clock alone prompts there since 2025-09 come out 20 to 30 % too slow, with the NoC those before 10 % too fast",
    log_width=0.4,
)
TUNED_TILE_OVERHEAD = sourced(
    "tuned_tile_overhead",
    8.6e-9,
    "s",
    "clock",
    "one tile product beyond its phases where a model tunes the program: 2048 x 4096 x 6176 in HiFi2 on 64 cores of an "
    "N150 in 1255 us, 2048 x 4096 x 5120 in 1012 (tt-metal models/demos/blackhole/qwen36 tt/model_config.py): 49.0 and "
    "49.4 ns each, of which two phases are 40.6",
)
