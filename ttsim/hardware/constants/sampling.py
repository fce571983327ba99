"""Constants of choosing the next token on the device."""

from __future__ import annotations

from ttsim.hardware.constants.sources import TARGETS
from ttsim.hardware.quantities import calibrated, sourced

TOPK_COLUMN = sourced(
    "topk_column",
    0.56e-6,
    "s",
    "clock",
    "top-k of 32 rows on one core, a column: tt-metal #38487, #40397; linear + top-k + softmax over 128 experts take "
    "132 us (#38529), of which the linear 30 (tt-mlir #7717) and three small kernels 30",
)
BLACKHOLE_TOPK_COLUMN = sourced(
    "blackhole_topk_column",
    0.152e-6,
    "s",
    "nothing",
    "the same on Blackhole: 8B on P150 takes 1/22 s a step with top-k of two halves, 1/38.5 s with argmax: PR #48886",
)
TOPK_MANY_CORES = sourced("topk_many_cores", 0.35e-3, "s", "clock", "top-k of up to 16,384 columns: tt-metal #38487")
TOPK_SAMPLING = sourced("topk_sampling", 0.123e-3, "s", "clock", f"sampling kernel 68 us and its gap: {TARGETS}")
TOPK_USER = calibrated(
    "topk_user",
    0.128e-3,
    "s",
    "nothing",
    "a step of the top-k path, for each user: batch 32 against batch 1 since 2025-11",
)
