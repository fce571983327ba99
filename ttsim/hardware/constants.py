"""Every constant of the cost model: its name, unit, and where its value comes from.

A *sourced* constant is a measurement or a specification; a *fitted* one is physical, shared by all rows of the tables,
starts from a prior that has a source itself, and is set by `scripts/calibrate.py`, which writes `data/constants.json`.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One named number of the cost model.

    Attributes:
      name: what cost rules call it.
      value: a sourced constant's value; the centre of a fitted one's prior.
      unit: SI unit ("s", "B/s", "1").
      kind: "sourced" or "fitted".
      source: where the value (a fitted constant's prior) comes from.
      log_width: standard deviation of the prior in log space (fitted constants).
      rows: what a fitted one is fitted on: the published "tables", or the rows "measured" by others since.
    """

    name: str
    value: float
    unit: str
    kind: Literal["sourced", "fitted"]
    source: str
    log_width: float = 0.0
    rows: Literal["tables", "measured"] = "tables"


def _sourced(name: str, value: float, unit: str, source: str) -> Constant:
    return Constant(name=name, value=value, unit=unit, kind="sourced", source=source)


def _fitted(name: str, value: float, unit: str, log_width: float, source: str) -> Constant:
    return Constant(name=name, value=value, unit=unit, kind="fitted", source=source, log_width=log_width)


def _later(name: str, value: float, unit: str, log_width: float, source: str) -> Constant:
    """A constant of software or chips that the tables don't have, fitted on rows of `ttsim.proof.measured`."""
    return Constant(
        name=name, value=value, unit=unit, kind="fitted", source=source, log_width=log_width, rows="measured"
    )


_LAYER_1B_T3K = "op profile of a Llama-3.2-1B decode layer on T3K, tt-metal tech_reports/LLMs, op-to-op gap (2024-11)"
_LAYER_8B_N150 = "op profile of a Llama-3.1-8B decode layer on N150, tt-perf-report example_perf_report.png (2024-11)"
_PREFILL_70B = "tt-metal models/demos/llama3_subdevices/tests/perf_targets/prefill_128.json (Galaxy 70B, 2025-05)"
_CCL = "tt-metal tech_reports/CCLs, results of wormhole_b0 T3K, bfloat16 (2026-09)"
_GALAXY = "tt-metal models/demos/llama3_70b_galaxy decoder_perf_targets_6u.json"
_FLASH_DECODE = "tt-metal tech_reports/FlashAttention/FlashDecode.md, figure 5"

_ALL = (
    # Matrix kernels of decode
    _sourced(
        "dram_sharded_start",
        6.2e-6,
        "s",
        f"{_LAYER_8B_N150}: five matmuls of 18.4 to 140.4 MB are 6.2 us + bytes / 259.6 GB/s within 1.6 %",
    ),
    _sourced("dram_sharded_bandwidth", 259.6e9, "B/s", f"{_LAYER_8B_N150}: see dram_sharded_start"),
    _fitted(
        "block_latency",
        0.6e-6,
        "s",
        0.3,
        f"one block of K of a DRAM-sharded matmul (multicast, semaphores): {_LAYER_1B_T3K}, 29 to 31 us for 32 blocks",
    ),
    _fitted(
        "tile_pack",
        32e-9,
        "s",
        0.5,
        "packing one output tile of one block of K onto the sum in L1: 32 cycles of 32 values "
        "(tt-isa-documentation, WormholeB0 Packer)",
    ),
    _sourced(
        "interleaved_bandwidth", 190e9, "B/s", "DRAM interleaved over 12 banks: tt-metal tech_reports/LLMs/llms.md 4.6"
    ),
    _sourced("mcast_1d_floor", 30e-6, "s", f"{_LAYER_1B_T3K}: 1-D multicast matmuls take 29 to 31 us whatever N"),
    # Kernels that touch activations only
    _fitted(
        "small_kernel_scale",
        0.7,
        "1",
        0.3,
        "small kernels of 2025-05 against the 2024-11 profiles: non-matmul time per layer fell by 50 to 100 of 170 us "
        "between the 8B profile and the published 8B rows",
    ),
    _sourced(
        "core_bandwidth",
        12.5e9,
        "B/s",
        f"streaming of one core that reads, computes and writes rows of tiles: create heads and concat heads of "
        f"{_PREFILL_70B}, 7 to 13.5 GB/s depending on the launch time assumed",
    ),
    _sourced(
        "norm_bandwidth",
        5e9,
        "B/s",
        f"the same for the halves of a distributed norm: 128 rows of 2048 take 38 and 44 us on four cores, 3.7 and "
        f"6.4 GB/s: {_PREFILL_70B}",
    ),
    _sourced("embedding_bandwidth", 3.2e9, "B/s", f"{_LAYER_8B_N150}: 32 rows of 8 KiB in 84 us on one core"),
    _sourced(
        "row_bandwidth",
        2.75e9,
        "B/s",
        "64-byte rows moved by one core: transfer rates by packet size of tt-npe, wormhole_b0 "
        "(5.5 B/cycle at 128 B, halved at 64 B) at 1 GHz",
    ),
    _sourced(
        "vocabulary_join",
        4.5e-3,
        "s",
        "joining gathered logits whose shards are not whole tiles: published speed of Phi-3.5-mini on T3K against "
        "N300, tt-metal issue #19730",
    ),
    # Collectives
    _fitted(
        "hop_latency",
        3.0e-6,
        "s",
        0.4,
        f"one hop of a collective, synchronisation included: 4.5 us + 1.9 us per hop (line), + 2.5 us per hop (ring), "
        f"all-gather, {_CCL}; the collectives of 2025 were not faster",
    ),
    _sourced(
        "link_bandwidth",
        11.7e9,
        "B/s",
        f"one Ethernet link, one direction: all-gather of 32 MiB on a line of 4 or 8, {_CCL} (12.5 GB/s raw)",
    ),
    _fitted(
        "grid_collective",
        20e-6,
        "s",
        0.5,
        "what a collective on a Galaxy takes beyond its hops: 16 to 22 us for norm + gather and for all-reduce at 4U, "
        "tt-metal models/demos/llama3_70b_galaxy/tests/decoder_perf_targets_4u.json, slower before their tuning",
    ),
    # Attention
    _sourced(
        "sdpa_decode_start", 11e-6, "s", f"{_LAYER_8B_N150}: 42 us, less one chunk, one merge and the static chunks"
    ),
    _sourced("sdpa_decode_chunk", 10e-6, "s", f"{_FLASH_DECODE}: slope of T3K, 256 positions of one core"),
    _fitted("sdpa_merge", 8e-6, "s", 0.5, f"merging one more core of a KV head: {_FLASH_DECODE}, intercepts by cores"),
    _fitted(
        "static_chunks",
        6e-6,
        "s",
        0.5,
        "flash decode before dynamic chunks: Galaxy 70B went from 19 to 13 us (tt-metal 24986581ac)",
    ),
    _fitted(
        "softmax_block",
        40e-6,
        "s",
        0.3,
        "max, subtract, exp and sum of 256 x 256 scores on one core: tt-metal tech_reports/FlashAttention, figure 6: "
        "33 us at head size 0 with the approximate exp of 2024",
    ),
    _sourced(
        "sdpa_efficiency",
        0.67,
        "1",
        "matrix products of flash attention against the peak: slope over the head size, "
        "tt-metal tech_reports/FlashAttention/FlashAttention.md, figure 6",
    ),
    # Matrix kernels of prefill
    _sourced(
        "mcast_2d_weight_bandwidth",
        70.5e9,
        "B/s",
        f"weights read by the eight cores of one row: QKV, WO, FF1, FF2 of {_PREFILL_70B} are 5 us + bytes / 70.5 GB/s",
    ),
    _sourced(
        "phase_overhead",
        1.27,
        "1",
        "cycles of a fidelity phase against the ideal 16: best tuned GEMMs of N150 (200, 101, 52 TFLOP/s), "
        "tt-metal tech_reports/GEMM_FLOPS",
    ),
    _fitted(
        "tile_overhead",
        40e-9,
        "s",
        0.4,
        "cycles of one tile product of a prefill matmul beyond its phases: default configurations are 2 to 2.5 times "
        "slower than tuned ones (tt-metal df9b7c2d9b)",
    ),
    # Host
    _fitted("host_replica", 0.45e-3, "s", 0.4, "host work of one replica and decode step: DP rows against single ones"),
    _fitted(
        "host_chip",
        0.18e-3,
        "s",
        0.3,
        "host work of one more chip: DP rows, 0.7 to 0.9 ms per replica of one and two chips; a Galaxy's 7 ms",
    ),
    _fitted(
        "host_argmax",
        40e-9,
        "s",
        0.3,
        "reading and taking the argmax of 32 rows, per vocabulary entry: batch 32 against batch 1, 5 to 6 ms",
    ),
    _fitted(
        "host_op",
        32e-6,
        "s",
        0.3,
        "host dispatch of one untraced op on one device: 24 to 48 us, tt-metal tech_reports/Metal2OpMigration",
    ),
    _fitted(
        "host_op_chip",
        4e-6,
        "s",
        0.5,
        "the same per further device: T3K layers of 1B take 1.7 to 2 ms on the host, N300 layers 1.4 ms",
    ),
    _fitted(
        "host_prompt",
        6e-3,
        "s",
        0.5,
        "host work of one prompt: copies of tokens and page table, read-back, argmax (traced 1B prefill of 2025-10)",
    ),
    _fitted(
        "program_one_off",
        0.4,
        "s",
        0.5,
        "compiling the program variants of a prompt unlike the warm-up's: about four kernels of 0.1 s",
    ),
    # Software after the tables
    _sourced("topk_column", 0.56e-6, "s", "top-k of a 32-row tile on one core, a column: tt-metal #38487, #40397"),
    _sourced("topk_many_cores", 0.35e-3, "s", "top-k of up to 16,384 columns on many cores: tt-metal #38487"),
    _sourced(
        "topk_sampling",
        0.123e-3,
        "s",
        "sampling kernel 68 us and its gap: llama3_70b_galaxy decoder_perf_targets_6u.json",
    ),
    _later("topk_user", 0.128e-3, "s", 0.5, "a step of the top-k path, a user: batch 32 against batch 1 since 2025-11"),
    _later(
        "sdpa_fused_merge",
        3.2e-6,
        "s",
        0.5,
        "merging one more core of a KV head since tt-metal #32501 (one correction kernel in place of six)",
    ),
    _sourced("line_gather_start", 4.47e-6, "s", f"all-gather on a line, at no hop: {_CCL}"),
    _sourced("line_gather_hop", 1.91e-6, "s", f"all-gather on a line, a hop: {_CCL}"),
    _sourced("ring_gather_hop", 2.50e-6, "s", f"all-gather on a ring, a hop: {_CCL}"),
    _sourced("line_reduce_start", 3.23e-6, "s", f"reduce-scatter, at no hop: {_CCL}"),
    _sourced("line_reduce_hop", 3.97e-6, "s", f"reduce-scatter on a line, a hop: {_CCL}"),
    _sourced("ring_reduce_hop", 3.06e-6, "s", f"reduce-scatter on a ring, a hop: {_CCL}"),
    _later(
        "blackhole_collective",
        23e-6,
        "s",
        0.5,
        "a decode collective on several Blackhole chips since 2026-01-22 beyond its hops: tt-metal #33147, 55 us each",
    ),
    _later(
        "blackhole_prefill_collective",
        50e-6,
        "s",
        0.5,
        "a prefill collective on several Blackhole chips beyond its hops: 55 to 64 us each in tt-metal #33147",
    ),
    _later("blackhole_tile_overhead", 40e-9, "s", 0.2, "tile_overhead on Blackhole, in Wormhole's cycles"),
    _later("blackhole_op_chip", 16e-6, "s", 0.3, "host dispatch of an untraced op on one more chip of a Blackhole box"),
    _later(
        "host_argmax_2025_06",
        11e-9,
        "s",
        0.3,
        "conversion and argmax of 32 rows on the host since 2025-06, per vocabulary entry, without the read-back",
    ),
    _sourced(
        "tunnel_read_bandwidth",
        4.8e9,
        "B/s",
        "host reading a chip behind an Ethernet tunnel, pages of 2 KiB: tt-metal benchmark_rw_buffer_golden.json",
    ),
    _later("server_step", 0.8e-3, "s", 0.5, "a server's decode step beyond the model's: synchronous vLLM, 1 to 4.5 ms"),
    _later("server_prompt_early", 0.15, "s", 0.5, "a server's prompt to 2025-07: its client added 100 to 200 ms"),
    _later("server_prompt_chip", 5.7e-3, "s", 0.5, "a server's prompt to 2025, for each chip of the replica"),
    # The Galaxy's own code
    _sourced("galaxy_collective_start", 6.3e-6, "s", f"fused collectives of three shapes and two boxes: {_GALAXY}"),
    _sourced(
        "galaxy_ring_link", 8.75e9, "B/s", "one link, ring: tt-metal fabric goldens of the Galaxy, 8.0 to 9.0 GB/s"
    ),
    _sourced(
        "galaxy_line_link", 10.8e9, "B/s", "one link, line: decoder_perf_targets_4u.json; fabric multicast 10.1 GB/s"
    ),
    _sourced("galaxy_ring_start", 2.4e-6, "s", f"ring matmul beyond its tiles: {_GALAXY}"),
    _sourced("galaxy_prefetch", 240e9, "B/s", "DRAM prefetcher in performance mode: tt-metal 5d50b410ee, 8ae8aec47e"),
    _sourced("galaxy_ring_dram", 253e9, "B/s", f"LM head, 35.6 MB in 143 us: {_GALAXY}"),
    _sourced("galaxy_line_dram", 187e9, "B/s", "LM head, 35.6 MB in 196 us: decoder_perf_targets_4u.json"),
    _sourced(
        "galaxy_matmul_row",
        2.726e-14,
        "s",
        "prefill's matmuls, a row and weight: 2985 us for 4096 rows, 26.7e6 weights (perf_targets/prefill_4096.json)",
    ),
    _later("galaxy_minimal_matmul_row", 2.02e-14, "s", 0.2, "the same on minimal_matmul: 1.4 to 2.5 times faster"),
    _sourced(
        "galaxy_small_ops", 253e-6, "s", "prefill's 24 other ops, a layer: perf_targets prefill_128, prefill_4096"
    ),
    _sourced("galaxy_small_ops_row", 0.297e-6, "s", "the same, a row: 1469 us at 4096 rows, 291 us at 128"),
    _later("galaxy_prefill_start", 22e-6, "s", 0.3, "a collective of 128 rows: CI ceilings 16 to 50 us"),
    _later("galaxy_prefill_barrier", 46e-6, "s", 0.5, "a collective into fresh buffers, beyond its start"),
    _later("galaxy_gather_bandwidth", 32e9, "B/s", 0.3, "prefill collectives of one worker a link: 40 % of four links"),
    _later("galaxy_reduce_bandwidth", 85e9, "B/s", 0.2, "reduce-scatter of four workers a link: the links' limit"),
    _later("galaxy_attention", 40.3e12, "1/s", 0.2, "flash attention on 70 cores, HiFi4: 37 TFLOP/s on N150's 64"),
    _later("galaxy_eager_prompt", 46e-3, "s", 0.5, "host work of a prompt that is not traced"),
    _later("galaxy_server_step", 1.9e-3, "s", 0.3, "a server's decode step beyond the model's, since 2025-07-24"),
    _later("galaxy_server_step_2025_07", 4.5e-3, "s", 0.3, "the same before: synchronous vLLM"),
    _later("host_chip_6u", 0.04e-3, "s", 0.5, "host work of one chip and step where all 32 chips are on PCIe"),
    _later("server_prompt", 8e-3, "s", 0.3, "a server's prompt since 2026: about 8 ms (tt-inference-server)"),
)

CONSTANTS: Mapping[str, Constant] = MappingProxyType({constant.name: constant for constant in _ALL})
FITTED: tuple[str, ...] = tuple(c.name for c in _ALL if c.kind == "fitted" and c.rows == "tables")
FITTED_LATER: tuple[str, ...] = tuple(c.name for c in _ALL if c.kind == "fitted" and c.rows == "measured")


class UnknownConstantError(KeyError):
    """No constant of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


def prior_constants() -> dict[str, float]:
    """Sourced values, and the centre of the prior of each fitted constant."""
    return {name: constant.value for name, constant in CONSTANTS.items()}


def load_constants(path: str | os.PathLike[str] | None = None) -> Mapping[str, float]:
    """Sourced values and the fitted ones of a file.

    Args:
      path: what `save_constants` wrote; None is the calibration that ships with the package.

    Raises:
      UnknownConstantError: the file names a constant that isn't a fitted one.
    """
    if path is None:
        return _shipped()
    return _read(Path(path).read_text(encoding="utf-8"))


def save_constants(path: str | os.PathLike[str], values: Mapping[str, float]) -> None:
    """Writes the fitted constants as {name: value}, to five digits."""
    values = {**_shipped(), **values}
    rounded = {name: float(f"{values[name]:.5g}") for name in (*FITTED, *FITTED_LATER)}
    Path(path).write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


@functools.cache
def _shipped() -> Mapping[str, float]:
    return _read(resources.files("ttsim.data").joinpath("constants.json").read_text(encoding="utf-8"))


def _read(text: str) -> Mapping[str, float]:
    fitted = json.loads(text)
    for name, value in fitted.items():
        if name not in (*FITTED, *FITTED_LATER):
            near = difflib.get_close_matches(name, (*FITTED, *FITTED_LATER), n=3, cutoff=0.3)
            raise UnknownConstantError(
                f"no fitted constant {name!r}: nearest are {', '.join(near) or ', '.join(FITTED)}"
            )
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"constant {name!r} must be positive, not {value!r}")
    return MappingProxyType({**prior_constants(), **fitted})
