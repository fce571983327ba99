"""Every constant of the cost model: value, unit, kind, source, and how it scales to another chip.

A *sourced* constant is a measurement or a specification; a *fitted* one is physical, shared by all rows of the tables,
starts from a prior that has a source itself, and is set by `scripts/calibrate.py`, which writes `data/constants.json`.
A *calibrated* one was set once, on measurements that its source names (`ttsim.proof.vision`).
Cost rules import the values and compute with them (`ttsim.hardware.quantities`); no number with a unit stands in one.

To add one: give it a line here, in the group of the kernels that use it. Its name is its variable in lower case.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from ttsim.errors import UnknownConstantError as UnknownConstantError
from ttsim.files.reading import number, printable, read_json, shown
from ttsim.hardware.expert_constants import EXPERT_CONSTANTS
from ttsim.hardware.later import LATER
from ttsim.hardware.quantities import Constant, ScalesWith, Unit


def _sourced(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str) -> Constant:
    return Constant(name=name, value=value, unit=unit, kind="sourced", scales_with=scales_with, source=source)


def _fitted(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str, *, log_width: float) -> Constant:
    return Constant(
        name=name, value=value, unit=unit, kind="fitted", scales_with=scales_with, source=source, log_width=log_width
    )


def _calibrated(name: str, value: float, unit: Unit, source: str, *, guess: float) -> Constant:
    origin = f"guessed {guess:g}, calibrated on five intervals of Llama-3.2-11B's vision demo (ttsim.proof.vision)"
    return Constant(name=name, value=value, unit=unit, kind="calibrated", source=f"{source}; {origin}", guess=guess)


_LAYER_1B_T3K = "op profile of a Llama-3.2-1B decode layer on T3K, tt-metal tech_reports/LLMs, op-to-op gap (2024-11)"
_LAYER_8B_N150 = "op profile of a Llama-3.1-8B decode layer on N150, tt-perf-report example_perf_report.png (2024-11)"
_LAYERS = "op profiles of decode layers of 2024-11: 8B on N150 (tt-perf-report example), 1B on T3K (tech_reports/LLMs)"
_PREFILL_70B = "tt-metal models/demos/llama3_subdevices/tests/perf_targets/prefill_128.json (Galaxy 70B, 2025-05)"
_CCL = "tt-metal tech_reports/CCLs, results of wormhole_b0 T3K, bfloat16 (2026-09)"
_FLASH_DECODE = "tt-metal tech_reports/FlashAttention/FlashDecode.md, figure 5"

# Matrix kernels of decode
DRAM_SHARDED_START = _sourced(
    "dram_sharded_start",
    6.2e-6,
    "s",
    "clock",
    f"{_LAYER_8B_N150}: five matmuls of 18.4 to 140.4 MB are 6.2 us + bytes / 259.6 GB/s within 1.6 %",
)
DRAM_SHARDED_BANDWIDTH = _sourced(
    "dram_sharded_bandwidth", 259.6e9, "B/s", "dram", f"{_LAYER_8B_N150}: see dram_sharded_start"
)
BLOCK_LATENCY = _fitted(
    "block_latency",
    0.6e-6,
    "s",
    "noc",
    f"one block of K of a DRAM-sharded matmul (multicast, semaphores): {_LAYER_1B_T3K}, 29 to 31 us for 32 blocks",
    log_width=0.3,
)
TILE_PACK = _fitted(
    "tile_pack",
    32e-9,
    "s",
    "noc",
    "packing one output tile of one block of K onto the sum in L1: 32 cycles of 32 values "
    "(tt-isa-documentation, WormholeB0 Packer)",
    log_width=0.5,
)
INTERLEAVED_BANDWIDTH = _sourced(
    "interleaved_bandwidth",
    190e9,
    "B/s",
    "dram",
    "DRAM interleaved over 12 banks: tt-metal tech_reports/LLMs/llms.md 4.6",
)
MCAST_1D_FLOOR = _sourced(
    "mcast_1d_floor", 30e-6, "s", "clock", f"{_LAYER_1B_T3K}: 1-D multicast matmuls take 29 to 31 us whatever N"
)

# Kernels that touch activations only
SMALL_KERNEL_SCALE = _fitted(
    "small_kernel_scale",
    0.7,
    "1",
    "nothing",
    "small kernels of 2025-05 against the 2024-11 profiles: non-matmul time per layer fell by 50 to 100 of 170 us "
    "between the 8B profile and the published 8B rows",
    log_width=0.3,
)
CORE_BANDWIDTH = _sourced(
    "core_bandwidth",
    12.5e9,
    "B/s",
    "clock",
    "streaming of one core that reads, computes and writes rows of tiles: create heads and concat heads of "
    f"{_PREFILL_70B}, 7 to 13.5 GB/s depending on the launch time assumed",
)
NORM_BANDWIDTH = _sourced(
    "norm_bandwidth",
    5e9,
    "B/s",
    "clock",
    "the same for the halves of a distributed norm: 128 rows of 2048 take 38 and 44 us on four cores, 3.7 and "
    f"6.4 GB/s: {_PREFILL_70B}",
)
EMBEDDING_BANDWIDTH = _sourced(
    "embedding_bandwidth", 3.2e9, "B/s", "clock", f"{_LAYER_8B_N150}: 32 rows of 8 KiB in 84 us on one core"
)
ROW_BANDWIDTH = _sourced(
    "row_bandwidth",
    2.75e9,
    "B/s",
    "clock",
    "64-byte rows moved by one core: transfer rates by packet size of tt-npe, wormhole_b0 "
    "(5.5 B/cycle at 128 B, halved at 64 B) at 1 GHz",
)

# Collectives
HOP_LATENCY = _fitted(
    "hop_latency",
    3.0e-6,
    "s",
    "hop",
    f"one hop of a collective, synchronisation included: 4.5 us + 1.9 us per hop (line), + 2.5 us per hop (ring), "
    f"all-gather, {_CCL}; the collectives of 2025 were not faster",
    log_width=0.4,
)
LINK_BANDWIDTH = _sourced(
    "link_bandwidth",
    11.7e9,
    "B/s",
    "link",
    f"one Ethernet link, one direction: all-gather of 32 MiB on a line of 4 or 8, {_CCL} (12.5 GB/s raw)",
)
GRID_COLLECTIVE = _fitted(
    "grid_collective",
    20e-6,
    "s",
    "hop",
    "what a collective on a Galaxy takes beyond its hops: 16 to 22 us for norm + gather and for all-reduce at 4U, "
    "tt-metal models/demos/llama3_70b_galaxy/tests/decoder_perf_targets_4u.json, slower before their tuning",
    log_width=0.5,
)

# Attention
SDPA_DECODE_START = _sourced(
    "sdpa_decode_start",
    11e-6,
    "s",
    "clock",
    f"{_LAYER_8B_N150}: 42 us, less one chunk, one merge and the static chunks",
)
SDPA_DECODE_CHUNK = _sourced(
    "sdpa_decode_chunk", 10e-6, "s", "clock", f"{_FLASH_DECODE}: slope of T3K, 256 positions of one core"
)
SDPA_MERGE = _fitted(
    "sdpa_merge",
    8e-6,
    "s",
    "clock",
    f"merging one more core of a KV head: {_FLASH_DECODE}, intercepts by cores",
    log_width=0.5,
)
STATIC_CHUNKS = _fitted(
    "static_chunks",
    6e-6,
    "s",
    "clock",
    "flash decode before dynamic chunks: Galaxy 70B went from 19 to 13 us (tt-metal 24986581ac)",
    log_width=0.5,
)
SOFTMAX_BLOCK = _fitted(
    "softmax_block",
    40e-6,
    "s",
    "clock",
    "max, subtract, exp and sum of 256 x 256 scores on one core: tt-metal tech_reports/FlashAttention, figure 6: "
    "33 us at head size 0 with the approximate exp of 2024",
    log_width=0.3,
)
SDPA_EFFICIENCY = _sourced(
    "sdpa_efficiency",
    0.67,
    "1",
    "nothing",
    "matrix products of flash attention against the peak: slope over the head size, "
    "tt-metal tech_reports/FlashAttention/FlashAttention.md, figure 6",
)

# Matrix kernels of prefill
MCAST_2D_WEIGHT_BANDWIDTH = _sourced(
    "mcast_2d_weight_bandwidth",
    70.5e9,
    "B/s",
    "noc",
    f"weights read by the eight cores of one row: QKV, WO, FF1, FF2 of {_PREFILL_70B} are 5 us + bytes / 70.5 GB/s",
)
PHASE_OVERHEAD = _sourced(
    "phase_overhead",
    1.27,
    "1",
    "nothing",
    "cycles of a fidelity phase against the ideal 16: best tuned GEMMs of N150 (200, 101, 52 TFLOP/s), "
    "tt-metal tech_reports/GEMM_FLOPS",
)
TILE_OVERHEAD = _fitted(
    "tile_overhead",
    40e-9,
    "s",
    "noc",
    "waiting of a tile product of a prefill matmul for its operands, beyond its phases: default configurations are 2 "
    "to 2.5 times slower than tuned ones (tt-metal df9b7c2d9b). On Blackhole it is taken to shrink with the NoC: with "
    "the clock alone prompts there since 2025-09 come out 20 to 30 % too slow, with the NoC those before 10 % too fast",
    log_width=0.4,
)

# Host
HOST_REPLICA = _fitted(
    "host_replica",
    0.45e-3,
    "s",
    "nothing",
    "host work of one replica and decode step: DP rows against single ones",
    log_width=0.4,
)
HOST_CHIP = _fitted(
    "host_chip",
    0.18e-3,
    "s",
    "nothing",
    "host work of one more chip: DP rows, 0.7 to 0.9 ms per replica of one and two chips; a Galaxy's 7 ms",
    log_width=0.3,
)
HOST_ARGMAX = _fitted(
    "host_argmax",
    40e-9,
    "s",
    "nothing",
    "reading and taking the argmax of 32 rows, per vocabulary entry: batch 32 against batch 1, 5 to 6 ms",
    log_width=0.3,
)
HOST_OP = _fitted(
    "host_op",
    32e-6,
    "s",
    "nothing",
    "host dispatch of one untraced op on one device: 24 to 48 us, tt-metal tech_reports/Metal2OpMigration",
    log_width=0.3,
)
HOST_OP_CHIP = _fitted(
    "host_op_chip",
    4e-6,
    "s",
    "nothing",
    "the same per further device: T3K layers of 1B take 1.7 to 2 ms on the host, N300 layers 1.4 ms",
    log_width=0.5,
)
HOST_PROMPT = _fitted(
    "host_prompt",
    6e-3,
    "s",
    "nothing",
    "host work of one prompt: copies of tokens and page table, read-back, argmax (traced 1B prefill of 2025-10)",
    log_width=0.5,
)
PROGRAM_ONE_OFF = _fitted(
    "program_one_off",
    0.4,
    "s",
    "nothing",
    "compiling the program variants of a prompt unlike the warm-up's: about four kernels of 0.1 s",
    log_width=0.5,
)

# Kernels of decode that touch activations only, as the profiles of 2024-11 have them (small_kernel_scale brings them to
# 2025-05, but for the fixed ones)
ADD_TIME = _sourced("add_time", 2.5e-6, "s", "clock", f"{_LAYERS}: one row of tiles, L1")
TYPECAST_TIME = _sourced("typecast_time", 2.5e-6, "s", "clock", f"{_LAYERS}: one row of tiles, L1, taken as an add's")
RESHARD_TIME = _sourced("reshard_time", 2.5e-6, "s", "clock", f"{_LAYERS}: one row of tiles between shardings of L1")
TO_INTERLEAVED_TIME = _sourced(
    "to_interleaved_time",
    3e-6,
    "s",
    "clock",
    f"{_LAYERS}: sharded to interleaved, before heads are created and after a norm",
)
TO_SHARDED_TIME = _sourced("to_sharded_time", 2e-6, "s", "clock", f"{_LAYERS}: interleaved to sharded, after attention")
NORM_SHARD_TIME = _sourced(
    "norm_shard_time",
    3e-6,
    "s",
    "clock",
    f"{_LAYERS}: interleaved to sharded, before a norm of a Galaxy, taken as its counterpart's",
)
TABLE_LOOKUP_TIME = _sourced(
    "table_lookup_time",
    3e-6,
    "s",
    "clock",
    f"{_LAYERS}: one of the embedding, transpose and interleaved-to-sharded kernels of a rotary table",
)
ROTARY_TIME = _sourced("rotary_time", 4e-6, "s", "clock", f"{_LAYERS}: rotary embedding of one row of tiles")
SILU_MUL_TILE_TIME = _sourced(
    "silu_mul_tile_time", 4.2e-6, "s", "clock", f"{_LAYERS}: silu and product, per tile that one core computes"
)
CONCAT_HEADS_TIME = _sourced("concat_heads_time", 3e-6, "s", "clock", f"{_LAYERS}: concat heads")
NORM_TIME = _sourced("norm_time", 10e-6, "s", "clock", f"{_LAYERS}: a sharded norm beyond its tiles")
NORM_TILE_TIME = _sourced(
    "norm_tile_time", 0.5e-6, "s", "clock", f"{_LAYERS}: a sharded norm, per tile that one core holds"
)
NORM_HALF_TIME = _sourced(
    "norm_half_time",
    8e-6,
    "s",
    "clock",
    f"{_LAYERS}: one half of a distributed norm, a sharded norm shared out over two kernels (assumed)",
)
CREATE_HEADS_TIME = _sourced(
    "create_heads_time",
    1.8e-6,
    "s",
    "clock",
    f"{_LAYERS}: create heads beyond its tiles: 21 us for 192 tiles of 8B, 3 us for 12 tiles of 1B; fixed",
)
CREATE_HEADS_TILE_TIME = _sourced(
    "create_heads_tile_time", 0.1e-6, "s", "clock", f"{_LAYERS}: create heads, per tile: see create_heads_time; fixed"
)
UPDATE_CACHE_TIME = _sourced(
    "update_cache_time",
    3.5e-6,
    "s",
    "clock",
    f"{_LAYERS}: paged cache update beyond its tiles: 12 us for 32 tiles of 8B, 4 us for 2 tiles of 1B; fixed",
)
UPDATE_CACHE_TILE_TIME = _sourced(
    "update_cache_tile_time",
    0.267e-6,
    "s",
    "clock",
    f"{_LAYERS}: paged cache update, per tile: see update_cache_time; fixed",
)
LOGITS_MOVE_COLUMN_TIME = _sourced(
    "logits_move_column_time",
    9e-6 / 32_064,
    "s",
    "clock",
    f"{_LAYERS}: sharded to interleaved after a piece of the LM head: 9 us for 32,064 columns, per column; fixed",
)

# Launches of kernels that stream from DRAM
STREAM_START = _sourced(
    "stream_start", 3e-6, "s", "clock", "binary kernels on interleaved tensors: tt-perf-report test data, 2.8 us"
)
ROTARY_STREAM_START = _sourced(
    "rotary_stream_start",
    12e-6,
    "s",
    "clock",
    "rotary embedding of a prompt: stream_start, and 9 us more in small-op profiles (judged)",
)
MCAST_2D_START = _sourced(
    "mcast_2d_start", 5e-6, "s", "clock", f"2-D multicast matmuls: see mcast_2d_weight_bandwidth, {_PREFILL_70B}"
)
SDPA_PREFILL_START = _sourced(
    "sdpa_prefill_start", 15e-6, "s", "clock", "flash attention beyond its blocks: floor of small-op profiles (judged)"
)

# Time of a byte on a link against link_bandwidth, by collective and memory, then by devices of a line or on both links
# of a ring: LINK_BYTE_TIME["gather", "dram"][RING]
RING = 0
LINK_BYTE_TIME: Mapping[tuple[str, str], Mapping[int, Constant]] = {
    (collective, memory): {
        devices: _sourced(
            f"{collective}_{memory}_{f'line_{devices}' if devices else 'ring'}",
            ratio,
            "1",
            "nothing",
            f"{_CCL}: {source}",
        )
        for devices, ratio in ratios.items()
    }
    for collective, memory, ratios, source in (
        (
            "gather",
            "dram",
            {2: 1.85, 4: 1.0, 8: 1.0, RING: 1.14},
            "all-gather of 32 MiB, 6.34, 11.7 and 11.7 GB/s on lines of 2, 4 and 8, 20.5 on a ring",
        ),
        (
            "reduce",
            "dram",
            {2: 1.33, 4: 1.14, 8: 1.08, RING: 1.42},
            "reduce-scatter of 32 MiB, 8.8, 10.3 and 10.8 GB/s on lines of 2, 4 and 8, 16.5 on a ring",
        ),
        ("gather", "l1", {2: 1.0, 4: 1.0, 8: 1.0, RING: 1.0}, "an all-gather out of L1 fills the link"),
        (
            "reduce",
            "l1",
            {2: 0.9, 4: 1.2, 8: 1.6, RING: 2.25},
            "reduce-scatter out of L1 against an all-gather of the same size as both grow from 64 to 256 KiB, 13.1 / "
            "15.1 us, 15.8 / 13.0 and 23.3 / 14.7 on lines of 2, 4 and 8, 25.1 / 11.2 on a ring",
        ),
    )
}

# Untilizing 128,256 logits on the host, by chips of the replica (software before tt-metal bcfc2c1a3f, 2025-03-17)
HOST_UNTILIZE: Mapping[int, Constant] = {
    chips: _sourced(f"host_untilize_{chips}", time, "s", "nothing", f"TTFT of {what}, before and after bcfc2c1a3f")
    for chips, time, what in ((1, 32e-3, "1B on N150"), (2, 30e-3, "1B on N300"), (8, 17e-3, "8B on T3K"))
}


# Layout changes of one row of tiles, as cross attention's decode makes them
RETILE_TIME = _sourced(
    "retile_time",
    4e-6,
    "s",
    "clock",
    f"{_LAYERS}: untilize, slice, transpose or tilize of one row of tiles: 2 to 6 us, as kernels of their size take",
)

# The host's work on images, on their tokens and on masks: times of one element of a tensor
HOST_IMAGE = _calibrated(
    "host_image", 0.117, "s", "resizing, cutting, unfolding and copying one image, with small tensors", guess=0.12
)
HOST_MASK = _calibrated(
    "host_mask", 2.92e-9, "s", "an element of the tower's mask: outer product, scale, stripes", guess=3.0e-9
)
HOST_CONVERT = _calibrated("host_convert", 1.27e-9, "s", "float32 to bf16, and a copy of one's own", guess=1.5e-9)
HOST_TILIZE = _sourced("host_tilize", 1.10e-9, "s", "nothing", "tt-metal #21125: 71.8 ms for 8096 x 8096, one copy")
HOST_TILIZE_SLOW = _sourced(
    "host_tilize_slow", 3.0, "1", "nothing", "tt-metal #20335 (2025-04-18): 10.5 M float32 from 78.7 to 26.2 ms"
)
HOST_TILIZE_THREADS: Mapping[int, Constant] = {
    2: _sourced("host_tilize_2", 1.1, "1", "nothing", "two threads side by side against one (assumed)"),
    8: _calibrated("host_tilize_8", 2.40, "1", "eight threads side by side against one", guess=2.5),
}
HOST_UNTILIZE_ELEMENT = _sourced(
    "host_untilize_element", 1.06e-9, "s", "nothing", "tt-metal #20335: untilize against tilize, 25.3 and 26.2 ms"
)
HOST_UNTILIZE_SLOW = _sourced("host_untilize_slow", 2.6, "1", "nothing", "tt-metal #20335: from 65.7 to 25.3 ms")
HOST_UNPAD = _calibrated("host_unpad", 1.98e-9, "s", "cutting the padding off what was read", guess=2.0e-9)
HOST_JOIN = _calibrated("host_join", 0.50e-9, "s", "joining what was read from several devices", guess=0.5e-9)
HOST_POST = _calibrated("host_post", 2.46e-9, "s", "to float32, and padded again", guess=2.5e-9)
HOST_READ = _sourced("host_read", 4.8e9, "B/s", "nothing", "device to host: tt-metal benchmark_rw_buffer_golden.json")
HOST_WRITE = _sourced("host_write", 11e9, "B/s", "nothing", "host to device, one PCIe link of two chips: the same file")
HOST_WRITE_ALL = _sourced("host_write_all", 30e9, "B/s", "nothing", "over the four PCIe links of a T3K: the same file")
HOST_MULTIPLY = _sourced(
    "host_multiply",
    2e-12,
    "s",
    "nothing",
    "float32 multiply and add of torch's matmul: 1 TFLOP/s of all cores (assumed)",
)
HOST_LOGITS = _sourced(
    "host_logits",
    18.7e-9,
    "s",
    "nothing",
    "reading 32 rows of bf16 logits, converting one and its argmax, per vocabulary entry: 8.2 MB at host_read, and "
    "0.7 ms (assumed)",
)
HOST_STEP_INPUTS = _sourced(
    "host_step_inputs", 0.9e-3, "s", "nothing", "five small tensors of a step with images, built and copied (assumed)"
)


def _all() -> Iterator[Constant]:
    """Every constant of this module, those in tables too."""
    for value in tuple(globals().values()):
        if isinstance(value, Constant):
            yield value
    yield from LATER
    for table in (*LINK_BYTE_TIME.values(), HOST_UNTILIZE, HOST_TILIZE_THREADS):
        yield from table.values()
    yield from EXPERT_CONSTANTS


CONSTANTS: Mapping[str, Constant] = MappingProxyType({constant.name: constant for constant in _all()})
FITTED: tuple[str, ...] = tuple(c.name for c in CONSTANTS.values() if c.kind == "fitted" and c.rows == "tables")
FITTED_LATER: tuple[str, ...] = tuple(c.name for c in LATER if c.kind == "fitted")


def prior_constants() -> dict[str, float]:
    """Sourced values, and the centre of the prior of each fitted constant."""
    return {name: constant.value for name, constant in CONSTANTS.items()}


def load_constants(path: str | os.PathLike[str] | None = None) -> Mapping[str, float]:
    """Sourced values and the fitted ones of a file.

    Args:
      path: what `constants_json` says; None is the calibration that ships with the package.

    Raises:
      UnknownConstantError: the file names a constant that isn't a fitted one.
    """
    if path is None:
        return _shipped()
    return _checked(read_json(path), os.fspath(path))


def constants_json(values: Mapping[str, float]) -> str:
    """The fitted constants as {name: value}, to five digits."""
    values = {**_shipped(), **values}
    rounded = {name: float(f"{values[name]:.5g}") for name in (*FITTED, *FITTED_LATER)}
    return json.dumps(rounded, indent=2) + "\n"


@functools.cache
def _shipped() -> Mapping[str, float]:
    text = resources.files("ttsim.data").joinpath("constants.json").read_text(encoding="utf-8")
    return _checked(json.loads(text), "constants.json")


def _checked(fitted: Mapping[str, Any], origin: str) -> Mapping[str, float]:
    for name in fitted:
        if name not in (*FITTED, *FITTED_LATER):
            near = difflib.get_close_matches(name[:80], (*FITTED, *FITTED_LATER), n=3, cutoff=0.3)
            nearest = ", ".join(near or FITTED)
            raise UnknownConstantError(f"{printable(origin)}: no fitted constant {shown(name)}: nearest are {nearest}")
        # A thousandth to a thousandfold of what is likely: beyond that it is a mistake, and prices lose their digits.
        likely = CONSTANTS[name].value
        number(fitted, name, origin, least=likely / 1e3, most=likely * 1e3)
    return MappingProxyType({**prior_constants(), **fitted})
