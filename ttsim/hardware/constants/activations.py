"""Constants of kernels that touch activations only: norms, sums, heads, embeddings, caches."""

from __future__ import annotations

from ttsim.hardware.constants.sources import LAYER_8B_N150, LAYERS, PREFILL_70B
from ttsim.hardware.quantities import fitted, sourced

SMALL_KERNEL_SCALE = fitted(
    "small_kernel_scale",
    0.7,
    "1",
    "nothing",
    "small kernels of 2025-05 against the 2024-11 profiles: non-matmul time per layer fell by 50 to 100 of 170 us "
    "between the 8B profile and the published 8B rows",
    log_width=0.3,
)

# Decode, as the profiles of 2024-11 have it (small_kernel_scale brings them to 2025-05, but for the fixed ones)
ADD_TIME = sourced("add_time", 2.5e-6, "s", "clock", f"{LAYERS}: one row of tiles, L1")
TYPECAST_TIME = sourced("typecast_time", 2.5e-6, "s", "clock", f"{LAYERS}: one row of tiles, L1, taken as an add's")
RESHARD_TIME = sourced("reshard_time", 2.5e-6, "s", "clock", f"{LAYERS}: one row of tiles between shardings of L1")
TO_INTERLEAVED_TIME = sourced(
    "to_interleaved_time",
    3e-6,
    "s",
    "clock",
    f"{LAYERS}: sharded to interleaved, before heads are created and after a norm",
)
TO_SHARDED_TIME = sourced("to_sharded_time", 2e-6, "s", "clock", f"{LAYERS}: interleaved to sharded, after attention")
NORM_SHARD_TIME = sourced(
    "norm_shard_time",
    3e-6,
    "s",
    "clock",
    f"{LAYERS}: interleaved to sharded, before a norm of a Galaxy, taken as its counterpart's",
)
TABLE_LOOKUP_TIME = sourced(
    "table_lookup_time",
    3e-6,
    "s",
    "clock",
    f"{LAYERS}: one of the embedding, transpose and interleaved-to-sharded kernels of a rotary table",
)
ROTARY_TIME = sourced("rotary_time", 4e-6, "s", "clock", f"{LAYERS}: rotary embedding of one row of tiles")
SILU_MUL_TILE_TIME = sourced(
    "silu_mul_tile_time", 4.2e-6, "s", "clock", f"{LAYERS}: silu and product, per tile that one core computes"
)
CONCAT_HEADS_TIME = sourced("concat_heads_time", 3e-6, "s", "clock", f"{LAYERS}: concat heads")
NORM_TIME = sourced("norm_time", 10e-6, "s", "clock", f"{LAYERS}: a sharded norm beyond its tiles")
NORM_TILE_TIME = sourced(
    "norm_tile_time", 0.5e-6, "s", "clock", f"{LAYERS}: a sharded norm, per tile that one core holds"
)
NORM_HALF_TIME = sourced(
    "norm_half_time",
    8e-6,
    "s",
    "clock",
    f"{LAYERS}: one half of a distributed norm, a sharded norm shared out over two kernels (assumed)",
)
CREATE_HEADS_TIME = sourced(
    "create_heads_time",
    1.8e-6,
    "s",
    "clock",
    f"{LAYERS}: create heads beyond its tiles: 21 us for 192 tiles of 8B, 3 us for 12 tiles of 1B; fixed",
)
CREATE_HEADS_TILE_TIME = sourced(
    "create_heads_tile_time", 0.1e-6, "s", "clock", f"{LAYERS}: create heads, per tile: see create_heads_time; fixed"
)
UPDATE_CACHE_TIME = sourced(
    "update_cache_time",
    3.5e-6,
    "s",
    "clock",
    f"{LAYERS}: paged cache update beyond its tiles: 12 us for 32 tiles of 8B, 4 us for 2 tiles of 1B; fixed",
)
UPDATE_CACHE_TILE_TIME = sourced(
    "update_cache_tile_time",
    0.267e-6,
    "s",
    "clock",
    f"{LAYERS}: paged cache update, per tile: see update_cache_time; fixed",
)
FUSED_PAIR = sourced(
    "fused_pair",
    8.8 / 16.2,
    "1",
    "nothing",
    "#35111: Q and K turned, K and V cached by one op each: 8.8 us a layer in place of 16.2",
)
LOGITS_MOVE_COLUMN_TIME = sourced(
    "logits_move_column_time",
    9e-6 / 32_064,
    "s",
    "clock",
    f"{LAYERS}: sharded to interleaved after a piece of the LM head: 9 us for 32,064 columns, per column; fixed",
)

# Layout changes of one row of tiles, as cross attention's decode makes them
RETILE_TIME = sourced(
    "retile_time",
    4e-6,
    "s",
    "clock",
    f"{LAYERS}: untilize, slice, transpose or tilize of one row of tiles: 2 to 6 us, as kernels of their size take",
)

# What one core streams, and launches of kernels that stream from DRAM
CORE_BANDWIDTH = sourced(
    "core_bandwidth",
    12.5e9,
    "B/s",
    "clock",
    "streaming of one core that reads, computes and writes rows of tiles: create heads and concat heads of "
    f"{PREFILL_70B}, 7 to 13.5 GB/s depending on the launch time assumed",
)
NORM_BANDWIDTH = sourced(
    "norm_bandwidth",
    5e9,
    "B/s",
    "clock",
    "the same for the halves of a distributed norm: 128 rows of 2048 take 38 and 44 us on four cores, 3.7 and "
    f"6.4 GB/s: {PREFILL_70B}",
)
EMBEDDING_BANDWIDTH = sourced(
    "embedding_bandwidth", 3.2e9, "B/s", "clock", f"{LAYER_8B_N150}: 32 rows of 8 KiB in 84 us on one core"
)
STREAM_START = sourced(
    "stream_start", 3e-6, "s", "clock", "binary kernels on interleaved tensors: tt-perf-report test data, 2.8 us"
)
ROTARY_STREAM_START = sourced(
    "rotary_stream_start",
    12e-6,
    "s",
    "clock",
    "rotary embedding of a prompt: stream_start, and 9 us more in small-op profiles (judged)",
)
