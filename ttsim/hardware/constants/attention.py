"""Constants of flash attention: decode's chunks and merges, prefill's blocks."""

from __future__ import annotations

from ttsim.hardware.constants.sources import LAYER_8B_N150
from ttsim.hardware.quantities import calibrated, fitted, sourced

_FLASH_DECODE = "tt-metal tech_reports/FlashAttention/FlashDecode.md, figure 5"

# Decode
SDPA_DECODE_START = sourced(
    "sdpa_decode_start",
    11e-6,
    "s",
    "clock",
    f"{LAYER_8B_N150}: 42 us, less one chunk, one merge and the static chunks",
)
SDPA_DECODE_CHUNK = sourced(
    "sdpa_decode_chunk", 10e-6, "s", "clock", f"{_FLASH_DECODE}: slope of T3K, 256 positions of one core"
)
SDPA_MERGE = fitted(
    "sdpa_merge",
    8e-6,
    "s",
    "clock",
    f"merging one more core of a KV head: {_FLASH_DECODE}, intercepts by cores",
    log_width=0.5,
)
SDPA_FUSED_MERGE = calibrated(
    "sdpa_fused_merge",
    3.2e-6,
    "s",
    "clock",
    "merging one more core of a KV head since tt-metal #32501 (one correction kernel in place of six)",
)
STATIC_CHUNKS = fitted(
    "static_chunks",
    6e-6,
    "s",
    "clock",
    "flash decode before dynamic chunks: Galaxy 70B went from 19 to 13 us (tt-metal 24986581ac)",
    log_width=0.5,
)

# Prefill
SDPA_PREFILL_START = sourced(
    "sdpa_prefill_start", 15e-6, "s", "clock", "flash attention beyond its blocks: floor of small-op profiles (judged)"
)
SOFTMAX_BLOCK = fitted(
    "softmax_block",
    40e-6,
    "s",
    "clock",
    "max, subtract, exp and sum of 256 x 256 scores on one core: tt-metal tech_reports/FlashAttention, figure 6: "
    "33 us at head size 0 with the approximate exp of 2024",
    log_width=0.3,
)
SDPA_EFFICIENCY = sourced(
    "sdpa_efficiency",
    0.67,
    "1",
    "nothing",
    "matrix products of flash attention against the peak: slope over the head size, "
    "tt-metal tech_reports/FlashAttention/FlashAttention.md, figure 6",
)
