"""Constants of the Galaxy's own code (tt-metal models/demos/llama3_70b_galaxy), measured on that box."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ttsim.hardware.constants.sources import TARGETS
from ttsim.hardware.quantities import Constant, calibrated, fitted, sourced

GALAXY_COLLECTIVE_START = sourced(
    "galaxy_collective_start", 6.3e-6, "s", "nothing", f"fused collectives, three shapes, two boxes: {TARGETS}"
)
GALAXY_RING_LINK = sourced(
    "galaxy_ring_link",
    8.75e9,
    "B/s",
    "nothing",
    f"one link of a ring: {TARGETS}; fabric goldens 8.0 to 9.0 GB/s",
)
GALAXY_LINE_LINK = sourced(
    "galaxy_line_link", 10.8e9, "B/s", "nothing", "one link of a line: decoder_perf_targets_4u.json"
)
GALAXY_RING_START = sourced("galaxy_ring_start", 2.4e-6, "s", "nothing", f"ring matmul beyond its tiles: {TARGETS}")
GALAXY_PREFETCH = sourced(
    "galaxy_prefetch", 240e9, "B/s", "nothing", "DRAM prefetcher in performance mode: tt-metal 5d50b410ee, 8ae8aec47e"
)
GALAXY_RING_DRAM = sourced("galaxy_ring_dram", 253e9, "B/s", "nothing", f"LM head, 35.6 MB in 143 us: {TARGETS}")
GALAXY_LINE_DRAM = sourced(
    "galaxy_line_dram", 187e9, "B/s", "nothing", "LM head, 35.6 MB in 196 us: decoder_perf_targets_4u.json"
)
GALAXY_MERGE = sourced("galaxy_merge", 8e-6, "s", "nothing", "merging one more core of a KV head: prior of sdpa_merge")
GALAXY_L1_TABLES = calibrated(
    "galaxy_l1_tables",
    0.7,
    "1",
    "nothing",
    "flash decode's chunks and merges since positions and page table lie in L1 (tt-metal b8415d02e0)",
)
GALAXY_MATMUL_ROW = sourced(
    "galaxy_matmul_row",
    2.726e-14,
    "s",
    "nothing",
    "prefill's matmuls, a row and weight: 2985 us for 4096 rows, 26.7e6 weights (perf_targets/prefill_4096.json)",
)
GALAXY_MINIMAL_MATMUL_ROW = calibrated(
    "galaxy_minimal_matmul_row",
    2.02e-14,
    "s",
    "nothing",
    "the same on minimal_matmul: 1.4 to 2.5 times faster (tt-metal df9b7c2d9b)",
)
GALAXY_SMALL_OPS = sourced(
    "galaxy_small_ops", 253e-6, "s", "nothing", "prefill's 24 other ops, a layer: prefill_128.json, prefill_4096.json"
)
GALAXY_SMALL_OPS_ROW = sourced(
    "galaxy_small_ops_row", 0.297e-6, "s", "nothing", "the same, a row: 1469 us at 4096 rows, 291 us at 128"
)
GALAXY_PREFILL_START = fitted(
    "galaxy_prefill_start",
    22e-6,
    "s",
    "nothing",
    "a collective of 128 rows: CI ceilings 16 to 50 us",
    log_width=0.3,
    rows="measured",
)
GALAXY_PREFILL_BARRIER = calibrated(
    "galaxy_prefill_barrier",
    46e-6,
    "s",
    "nothing",
    "a collective into fresh buffers, beyond its start: 70B, prompts of 8K to 128K",
    guess=30e-6,
)
GALAXY_GATHER_BANDWIDTH = calibrated(
    "galaxy_gather_bandwidth",
    32e9,
    "B/s",
    "nothing",
    "prefill collectives of one worker a link: 40 % of what four links carry",
)
GALAXY_REDUCE_BANDWIDTH = sourced(
    "galaxy_reduce_bandwidth",
    86.4e9,
    "B/s",
    "nothing",
    "reduce-scatter of four workers a link: what eight links carry, 10.8 GB/s each (fabric goldens 8.0 to 10.8)",
)
GALAXY_ATTENTION = sourced(
    "galaxy_attention",
    40.8e12,
    "FLOP/s",
    "nothing",
    "flash attention on 70 cores, HiFi4: 37.3e12 on N150's 64, tech_reports/FlashAttention",
)
GALAXY_EAGER_PROMPT = calibrated(
    "galaxy_eager_prompt",
    46e-3,
    "s",
    "nothing",
    "host work of a prompt that is not traced: 70B, prompts of 8K to 128K",
    guess=100e-3,
)
GALAXY_SERVER_STEP = calibrated(
    "galaxy_server_step", 1.9e-3, "s", "nothing", "a server's step beyond the model's, since 2025-07-24"
)
GALAXY_SERVER_STEP_SLOW = sourced(
    "galaxy_server_step_slow", 4.5e-3, "s", "nothing", "the same before tt-inference-server #406: its own measurement"
)

# Small kernels of its decode at 32 users, position 127: GALAXY_TARGETS["norm"]
GALAXY_TARGETS: Mapping[str, Constant] = MappingProxyType(
    {
        name: sourced(f"galaxy_{name}_time", time, "s", "nothing", f"{what}: {TARGETS}")
        for name, time, what in (
            ("norm", 10.2e-6, "RMSAllGather without its collective"),
            ("rotary", 2.2e-6, "RotaryEmbeddingLlamaFusedQK"),
            ("update_cache", 4.5e-6, "PagedFusedUpdateCache: K and V"),
            ("sdpa", 8.1e-6, "ScaledDotProductAttentionDecode, one chunk of 128"),
            ("silu_mul", 2.4e-6, "BinaryMult"),
            ("typecast", 20e-6, "of the logits"),
            ("to_interleaved", 8.4e-6, "of the logits"),
            ("gather_best", 11.5e-6, "of 32 values, and of their indices"),
            ("sampling", 123e-6, "68, and 55 of gap"),
            ("tail", 27.6e-6, "nine small ops, plus-one"),
            ("embedding", 11e-6, "and 11 of the rotary rows"),
            ("sdpa_prefill", 30e-6, "128 rows: perf_targets/prefill_128.json"),
        )
    }
)
