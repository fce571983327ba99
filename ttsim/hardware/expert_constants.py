"""Constants of the kernels that only mixture-of-experts, latent-attention and delta-net models launch.

Each is (name, value, unit, what it scales with, source): a published kernel time or what follows from one. None was
fitted to the speed of a model. Values are those of Wormhole at 1 GHz; where a source measured a Blackhole (1.35 GHz)
and the kernel's time goes with the clock, it is scaled.
"""

from __future__ import annotations

_SPARSE = (
    "sparse_matmul of gpt-oss-20b on a P150 (tt-metal models/demos/gpt_oss expert_configs, PR #51400): 34.3 us an "
    "expert of 2880 x 5760 on 45 cores, 43.2 on 30, 57.0 of 2880 x 2880 on 12; least squares over both, within 12 %"
)

SOURCED: tuple[tuple[str, float, str, str, str], ...] = (
    (
        "sparse_tile",
        89e-9,
        "s",
        "cycles",
        f"one tile of a core's share of an expert's weight, read by itself: {_SPARSE}",
    ),
    ("sparse_block", 2.6e-6, "s", "cycles", f"one block of K of an expert: {_SPARSE}"),
    (
        "sparse_slot",
        1.07e-6,
        "s",
        "cycles",
        "an expert's slot where the number of active ones is inferred: 158.0 against 107.7 us for two matmuls over 32 "
        "slots on a P300 (tt-metal models/demos/blackhole/qwen3_coder_30b_a3b), 1.35 GHz",
    ),
    (
        "topk_column",
        0.56e-6,
        "s",
        "cycles",
        "top-k of 32 rows on one core, per column: linear + top-k + softmax over 128 experts take 132 us "
        "(tt-metal PR #38529), of which the linear 30 (tt-mlir #7717) and three small kernels 30",
    ),
    (
        "router_fused",
        67e-6,
        "s",
        "cycles",
        "topk_router_gpt: 32 tokens, 2880 x 128, top 4 (tt-metal PR #38529, #40174)",
    ),
    (
        "gate_sigmoid",
        765e-6,
        "s",
        "cycles",
        "DeepSeek's gate as about 25 ops, 128 decode tokens over 256 experts: 807 us (tt-metal PR #39337), less the "
        "matmul's 42",
    ),
    (
        "tiled_reshape",
        12e-6,
        "s",
        "cycles",
        "a reshape, transpose or permute of a tiled [experts, 32, width] tensor: an estimate between a small kernel's "
        "2.5 us and the 35 to 45 us of large ones on Blackhole (tt-metal issue #55553)",
    ),
    (
        "fill_pad",
        155e-6,
        "s",
        "cycles",
        "FillPad of gathered rows whose shards are no whole tiles, 2880 columns on Wormhole (tt-mlir #7718)",
    ),
    (
        "fill_pad_blackhole",
        5.9e-6,
        "s",
        "none",
        "the same, 2048 columns on a P300 (tt-metal models/demos/blackhole/qwen3_coder_30b_a3b); the sources differ "
        "more than the chips do",
    ),
    ("reduce_slice", 13e-6, "s", "cycles", "FastReduceNC and Slice after the gather of an all-reduce (tt-mlir #7718)"),
    (
        "combine_bandwidth",
        34e9,
        "B/s",
        "link",
        "selective_reduce_combine: 108 us for 32 rows of 7168 bf16 values from 8 experts (tt-metal PR #36858)",
    ),
    (
        "combine_link_bandwidth",
        1.22e9,
        "B/s",
        "link",
        "the unfused all_to_all_combine, about 3 ms for the same rows on one link (tt-metal PR #36858); the dispatch's "
        "time is not published and taken to be alike",
    ),
)
