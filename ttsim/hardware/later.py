"""Constants of software, chips and boxes that the published tables don't have (see `ttsim.hardware.constants`).

The fitted ones are few, shared by all rows of a stack or a chip, and set on rows of `ttsim.proof.measured` that may be
fitted; `scripts/calibrate.py` leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ttsim.hardware.quantities import Constant, ScalesWith, Unit

_CCL = "tt-metal tech_reports/CCLs, results of wormhole_b0 T3K, bfloat16 (2026-09)"
_TARGETS = "tt-metal models/demos/llama3_70b_galaxy decoder_perf_targets_6u.json"


def _sourced(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str) -> Constant:
    return Constant(name=name, value=value, unit=unit, kind="sourced", scales_with=scales_with, source=source)


def _fitted(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str, *, log_width: float) -> Constant:
    return Constant(
        name=name,
        value=value,
        unit=unit,
        kind="fitted",
        scales_with=scales_with,
        source=source,
        log_width=log_width,
        rows="measured",
    )


def _set_once(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str) -> Constant:
    """A constant that was set once on rows of `ttsim.proof.measured`: fitting it again changes no error."""
    return Constant(
        name=name,
        value=value,
        unit=unit,
        kind="calibrated",
        scales_with=scales_with,
        source=f"{source}; set once on rows of measured.csv",
        guess=value,
        rows="measured",
    )


def _calibrated(name: str, value: float, source: str, guess: float) -> Constant:
    """A time that was set once, on the fitted rows of `ttsim.proof.measured`, and is left as it is."""
    return Constant(name=name, value=value, unit="s", kind="calibrated", source=source, guess=guess, rows="measured")


# Choosing the next token
TOPK_COLUMN = _sourced("topk_column", 0.56e-6, "s", "clock", "top-k of 32 rows on one core, a column: #38487, #40397")
BLACKHOLE_TOPK_COLUMN = _sourced(
    "blackhole_topk_column",
    0.152e-6,
    "s",
    "nothing",
    "the same on Blackhole: 8B on P150 takes 1/22 s a step with top-k of two halves, 1/38.5 s with argmax: PR #48886",
)
TOPK_MANY_CORES = _sourced("topk_many_cores", 0.35e-3, "s", "clock", "top-k of up to 16,384 columns: tt-metal #38487")
TOPK_SAMPLING = _sourced("topk_sampling", 0.123e-3, "s", "clock", f"sampling kernel 68 us and its gap: {_TARGETS}")
TOPK_USER = _set_once(
    "topk_user",
    0.128e-3,
    "s",
    "nothing",
    "a step of the top-k path, for each user: batch 32 against batch 1 since 2025-11",
)
HOST_SAMPLING = _fitted(
    "host_sampling",
    11e-9,
    "s",
    "nothing",
    "converting 32 rows and taking their argmax on the host since 2025-06, per vocabulary entry, without the read-back",
    log_width=0.3,
)
TUNNEL_READ_BANDWIDTH = _sourced(
    "tunnel_read_bandwidth",
    4.8e9,
    "B/s",
    "nothing",
    "host reading a chip behind an Ethernet tunnel, pages of 2 KiB: tt-metal benchmark_rw_buffer_golden.json",
)
VOCABULARY_JOIN = _sourced(
    "vocabulary_join",
    4.5e-3,
    "s",
    "clock",
    "joining gathered logits whose shards are not whole tiles: Phi-3.5-mini on T3K against N300, tt-metal #19730",
)

# Kernels
SDPA_FUSED_MERGE = _set_once(
    "sdpa_fused_merge",
    3.2e-6,
    "s",
    "clock",
    "merging one more core of a KV head since tt-metal #32501 (one correction kernel in place of six)",
)
BLACKHOLE_SHARDED_BANDWIDTH = _sourced(
    "blackhole_sharded_bandwidth",
    281.25e9,
    "B/s",
    "dram",
    "sharded reads of Blackhole's DRAM, 500 of 512 GB/s (tt-metal PR #47885), as that share of Wormhole's peak",
)
LINE_GATHER_START = _sourced("line_gather_start", 4.47e-6, "s", "hop", f"all-gather at no hop: {_CCL}")
LINE_GATHER_HOP = _sourced("line_gather_hop", 1.91e-6, "s", "hop", f"all-gather on a line, a hop: {_CCL}")
RING_GATHER_HOP = _sourced("ring_gather_hop", 2.50e-6, "s", "hop", f"all-gather on a ring, a hop: {_CCL}")
LINE_REDUCE_START = _sourced("line_reduce_start", 3.23e-6, "s", "hop", f"reduce-scatter at no hop: {_CCL}")
LINE_REDUCE_HOP = _sourced("line_reduce_hop", 3.97e-6, "s", "hop", f"reduce-scatter on a line, a hop: {_CCL}")
RING_REDUCE_HOP = _sourced("ring_reduce_hop", 3.06e-6, "s", "hop", f"reduce-scatter on a ring, a hop: {_CCL}")
BLACKHOLE_COLLECTIVE = _fitted(
    "blackhole_collective",
    23e-6,
    "s",
    "nothing",
    "a decode collective on several Blackhole chips since 2026-01-22, beyond its hops: tt-metal #33147, 55 us each",
    log_width=0.5,
)
BLACKHOLE_PREFILL_COLLECTIVE = _sourced(
    "blackhole_prefill_collective",
    50e-6,
    "s",
    "nothing",
    "a prefill collective on several Blackhole chips, beyond its hops: tt-metal #33147, 55 to 64 us each with them",
)

# Host and server
BLACKHOLE_OP_CHIP = _fitted(
    "blackhole_op_chip",
    16e-6,
    "s",
    "nothing",
    "host dispatch of an untraced op on one more chip of a Blackhole box",
    log_width=0.3,
)
BLACKHOLE_REPLICAS = _set_once(
    "blackhole_replicas",
    2.0,
    "1",
    "nothing",
    "host work of a replica in a Blackhole box of several, against that of one alone: P150x2 DP=2, P150x8 DP=8 (2025)",
)
FUSED_PAIR = _sourced(
    "fused_pair",
    8.8 / 16.2,
    "1",
    "nothing",
    "#35111: Q and K turned, K and V cached by one op each: 8.8 us a layer in place of 16.2",
)
SERVER_STEP = _set_once(
    "server_step", 0.8e-3, "s", "nothing", "a server's decode step beyond the model's: synchronous vLLM"
)
SERVER_PROMPT_EARLY = _sourced(
    "server_prompt_early", 0.15, "s", "nothing", "a server's prompt to 2025-07: its client adds 100 to 200 ms (#406)"
)
SERVER_PROMPT_CHIP = _calibrated(
    "server_prompt_chip",
    5.7e-3,
    "a server's prompt to 2025-12, a chip of the replica: 8B to 72B on one to eight chips",
    5e-3,
)
SERVER_PROMPT = _sourced(
    "server_prompt", 8e-3, "s", "nothing", "a server's prompt since 2026: about 8 ms, tt-inference-server's own reports"
)

# The Galaxy's own code (tt-metal models/demos/llama3_70b_galaxy)
GALAXY_COLLECTIVE_START = _sourced(
    "galaxy_collective_start", 6.3e-6, "s", "nothing", f"fused collectives, three shapes, two boxes: {_TARGETS}"
)
GALAXY_RING_LINK = _sourced(
    "galaxy_ring_link", 8.75e9, "B/s", "nothing", f"one link of a ring: {_TARGETS}; fabric goldens 8.0 to 9.0 GB/s"
)
GALAXY_LINE_LINK = _sourced(
    "galaxy_line_link",
    10.8e9,
    "B/s",
    "nothing",
    "one link of a line: decoder_perf_targets_4u.json",
)
GALAXY_RING_START = _sourced("galaxy_ring_start", 2.4e-6, "s", "nothing", f"ring matmul beyond its tiles: {_TARGETS}")
GALAXY_PREFETCH = _sourced(
    "galaxy_prefetch", 240e9, "B/s", "nothing", "DRAM prefetcher in performance mode: tt-metal 5d50b410ee, 8ae8aec47e"
)
GALAXY_RING_DRAM = _sourced("galaxy_ring_dram", 253e9, "B/s", "nothing", f"LM head, 35.6 MB in 143 us: {_TARGETS}")
GALAXY_LINE_DRAM = _sourced(
    "galaxy_line_dram", 187e9, "B/s", "nothing", "LM head, 35.6 MB in 196 us: decoder_perf_targets_4u.json"
)
GALAXY_MERGE = _sourced("galaxy_merge", 8e-6, "s", "nothing", "merging one more core of a KV head: prior of sdpa_merge")
GALAXY_L1_TABLES = _set_once(
    "galaxy_l1_tables",
    0.7,
    "1",
    "nothing",
    "flash decode's chunks and merges since positions and page table lie in L1 (tt-metal b8415d02e0)",
)
GALAXY_MATMUL_ROW = _sourced(
    "galaxy_matmul_row",
    2.726e-14,
    "s",
    "nothing",
    "prefill's matmuls, a row and weight: 2985 us for 4096 rows, 26.7e6 weights (perf_targets/prefill_4096.json)",
)
GALAXY_MINIMAL_MATMUL_ROW = _set_once(
    "galaxy_minimal_matmul_row",
    2.02e-14,
    "s",
    "nothing",
    "the same on minimal_matmul: 1.4 to 2.5 times faster (tt-metal df9b7c2d9b)",
)
GALAXY_SMALL_OPS = _sourced(
    "galaxy_small_ops",
    253e-6,
    "s",
    "nothing",
    "prefill's 24 other ops, a layer: prefill_128.json, prefill_4096.json",
)
GALAXY_SMALL_OPS_ROW = _sourced(
    "galaxy_small_ops_row", 0.297e-6, "s", "nothing", "the same, a row: 1469 us at 4096 rows, 291 us at 128"
)
GALAXY_PREFILL_START = _fitted(
    "galaxy_prefill_start", 22e-6, "s", "nothing", "a collective of 128 rows: CI ceilings 16 to 50 us", log_width=0.3
)
GALAXY_PREFILL_BARRIER = _calibrated(
    "galaxy_prefill_barrier",
    46e-6,
    "a collective into fresh buffers, beyond its start: 70B, prompts of 8K to 128K",
    30e-6,
)
GALAXY_GATHER_BANDWIDTH = _set_once(
    "galaxy_gather_bandwidth",
    32e9,
    "B/s",
    "nothing",
    "prefill collectives of one worker a link: 40 % of what four links carry",
)
GALAXY_REDUCE_BANDWIDTH = _sourced(
    "galaxy_reduce_bandwidth",
    86.4e9,
    "B/s",
    "nothing",
    "reduce-scatter of four workers a link: what eight links carry, 10.8 GB/s each (fabric goldens 8.0 to 10.8)",
)
GALAXY_ATTENTION = _sourced(
    "galaxy_attention",
    40.8e12,
    "B/s",  # FLOP/s: a rate, whatever is divided by it
    "nothing",
    "flash attention on 70 cores, HiFi4, in FLOP/s: 37.3e12 on N150's 64, tech_reports/FlashAttention",
)
GALAXY_EAGER_PROMPT = _calibrated(
    "galaxy_eager_prompt", 46e-3, "host work of a prompt that is not traced: 70B, prompts of 8K to 128K", 100e-3
)
GALAXY_SERVER_STEP = _set_once(
    "galaxy_server_step", 1.9e-3, "s", "nothing", "a server's step beyond the model's, since 2025-07-24"
)
GALAXY_SERVER_STEP_SLOW = _sourced(
    "galaxy_server_step_slow", 4.5e-3, "s", "nothing", "the same before tt-inference-server #406: its own measurement"
)

# Small kernels of its decode at 32 users, position 127: GALAXY_TARGETS["norm"]
GALAXY_TARGETS: Mapping[str, Constant] = MappingProxyType(
    {
        name: _sourced(f"galaxy_{name}_time", time, "s", "nothing", f"{what}: {_TARGETS}")
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

LATER: tuple[Constant, ...] = (
    *(value for value in tuple(globals().values()) if isinstance(value, Constant)),
    *GALAXY_TARGETS.values(),
)
