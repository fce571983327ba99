"""Constants of the kernels that only models with code of their own launch: experts, latents, delta nets, Gemma-4.

Each is a published kernel time or what follows from one; none was fitted to the speed of a model. Values are those of
Wormhole at 1 GHz; where a source measured a Blackhole (1.35 GHz) and the kernel's time goes with the clock, it is
scaled.
"""

from __future__ import annotations

from ttsim.hardware.quantities import sourced

SPARSE_TILE = sourced(
    "sparse_tile",
    106e-9,
    "s",
    "clock",
    "one tile of a core's share of an expert's weight, which the core reads by itself: sparse_matmul of gpt-oss-20b on "
    "a P150 (tt-metal models/demos/gpt_oss expert_configs, PR #51400), 34.3 us an expert of 2880 x 5760 on 45 cores, "
    "43.2 on 30, 57.0 of 2880 x 2880 on 12, less block_latency a block of K; mean of the three, within 9 %",
)
SPARSE_SLOT = sourced(
    "sparse_slot",
    1.07e-6,
    "s",
    "clock",
    "an expert's slot where the number of active ones is inferred: 158.0 against 107.7 us for two "
    "matmuls over 32 slots on a P300 (tt-metal models/demos/blackhole/qwen3_coder_30b_a3b), 1.35 GHz",
)
ROUTER_FUSED = sourced(
    "router_fused", 67e-6, "s", "clock", "topk_router_gpt: 32 tokens, 2880 x 128, top 4 (tt-metal PR #38529, #40174)"
)
GATE_SIGMOID = sourced(
    "gate_sigmoid",
    765e-6,
    "s",
    "clock",
    "DeepSeek's gate as about 25 ops, 128 decode tokens over 256 experts: 807 us (tt-metal PR "
    "#39337), less the matmul's 42",
)
TILED_RESHAPE = sourced(
    "tiled_reshape",
    12e-6,
    "s",
    "clock",
    "a reshape, transpose or permute of a tiled [experts, 32, width] tensor: an estimate between a "
    "small kernel's 2.5 us and the 35 to 45 us of large ones on Blackhole (tt-metal issue #55553)",
)
FILL_PAD = sourced(
    "fill_pad",
    155e-6,
    "s",
    "clock",
    "FillPad of gathered rows whose shards are no whole tiles, 2880 columns on Wormhole (tt-mlir #7718)",
)
FILL_PAD_BLACKHOLE = sourced(
    "fill_pad_blackhole",
    5.9e-6,
    "s",
    "nothing",
    "the same, 2048 columns on a P300 (tt-metal models/demos/blackhole/qwen3_coder_30b_a3b); the "
    "sources differ more than the chips do",
)
REDUCE_SLICE = sourced(
    "reduce_slice", 13e-6, "s", "clock", "FastReduceNC and Slice after the gather of an all-reduce (tt-mlir #7718)"
)
COMBINE_BANDWIDTH = sourced(
    "combine_bandwidth",
    34e9,
    "B/s",
    "link",
    "selective_reduce_combine: 108 us for 32 rows of 7168 bf16 values from 8 experts (tt-metal PR #36858)",
)
COMBINE_LINK_BANDWIDTH = sourced(
    "combine_link_bandwidth",
    1.22e9,
    "B/s",
    "link",
    "the unfused all_to_all_combine, about 3 ms for the same rows on one link (tt-metal PR #36858); "
    "the dispatch's time is not published and taken to be alike",
)
