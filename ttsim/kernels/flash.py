"""Flash decode and flash attention: how the work is split over cores, and what bounds it.

Source of the splits: ttnn operations/transformer sdpa_decode and sdpa program factories; of the times: tt-metal
tech_reports/FlashAttention. What their buffers take of a core's L1 is not checked, wide latents (DeepSeek) included.
"""

from __future__ import annotations

import numpy as np

from ttsim.hardware.chips import Chip
from ttsim.hardware.constants.attention import (
    SDPA_DECODE_CHUNK,
    SDPA_DECODE_START,
    SDPA_EFFICIENCY,
    SDPA_FUSED_MERGE,
    SDPA_MERGE,
    SDPA_PREFILL_START,
    SOFTMAX_BLOCK,
    STATIC_CHUNKS,
)
from ttsim.hardware.constants.matmul import INTERLEAVED_BANDWIDTH
from ttsim.hardware.quantities import seconds
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.matmul import fidelity_name, phases
from ttsim.kernels.shapes import tensor_bytes

DECODE_CHUNK = 256  # `k_chunk_size` of tt_transformers' decode
GRID = 64  # cores: `SDPAProgramConfig(compute_with_storage_grid_size=(8, 8))` on every chip
CHUNK_HEAD = 128  # head size that a chunk's time was measured at; larger heads have as many more bytes and products
MASKED_CHUNK = 128  # `k_chunk_size` of cross attention's decode
MAX_CORES_PER_HEAD = 16  # `max_cores_per_head_batch`


def flash_decode(
    users: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    fmt: str,
    setting: str,
    machine: Machine,
    window: int | None = None,
) -> Kernel:
    """One query row per head and user against `machine.position` + 1 positions.

    A KV head of a slot gets up to 16 cores, each takes chunks of 256 positions, then the partial results are merged:
    core by core, or as a tree. A server's program has slots for all users that it may ever have, active or not: idle
    ones keep their cores, and read nothing. Where a slot has more heads than cores, a core takes its heads in rounds.
    Of a sliding window only the chunks that it touches are read.
    """
    software = machine.software
    readers = users if machine.readers is None else machine.readers
    cores = min(machine.chip.cores, GRID)
    slots = max(software.slots, users)
    per_head = max(min(MAX_CORES_PER_HEAD, cores // (kv_heads * slots)), 1)
    rounds = -(-kv_heads * slots // cores)
    last = np.asarray(machine.position)
    chunks = np.ceil((last + 1) / DECODE_CHUNK)
    if window is not None:
        chunks = chunks - np.maximum(last - window + 1, 0) // DECODE_CHUNK
    active = np.minimum(per_head, chunks)
    moved = 2 * readers * kv_heads * chunks * tensor_bytes(DECODE_CHUNK, head_dim, fmt)
    merges = np.ceil(np.log2(active)) if "tree" in software.sdpa_merge else active - 1
    start = SDPA_DECODE_START + merges * (SDPA_FUSED_MERGE if "fused" in software.sdpa_merge else SDPA_MERGE)
    if not software.dynamic_chunks:
        start = start + STATIC_CHUNKS
    return Kernel(
        "sdpa_decode",
        start=start,
        limits={
            "dram": moved / INTERLEAVED_BANDWIDTH,
            "compute": rounds * np.ceil(chunks / per_head) * max(head_dim / CHUNK_HEAD, 1) * SDPA_DECODE_CHUNK,
        },
        bytes=moved,
        flops=4 * readers * heads * head_dim * chunks * DECODE_CHUNK,
        cores=min(cores, per_head * kv_heads * users),
        fidelity=fidelity_name(setting),
        source="tt-metal tech_reports/FlashAttention/FlashDecode.md",
    )


def flash_attention(
    heads: int,
    kv_heads: int,
    rows: int,
    start: int,
    head_dim: int,
    *,
    fmt: str,
    setting: str,
    chip: Chip,
    blocks: int | None = None,
) -> Kernel:
    """Causal attention of rows start..start + rows - 1, in chunks of q x q scores.

    Args:
      blocks: q where a model's code chooses it, and the chip's whole grid with it; None is tt_transformers' choice.

    Cores are split over heads first, then over chunks of q. When every core has an even number of chunks, a light one
    is paired with a heavy one; otherwise the core with the last chunks decides.
    """
    q = blocks or (256 if rows >= 2048 else 64)
    chunks = -(-rows // q)
    cores = chip.cores if blocks else min(chip.cores, GRID)
    per_heads = min(cores, heads)
    per_chunks = min(cores // per_heads, chunks)
    chunks_per_core = -(-chunks // per_chunks)
    heads_per_core = -(-heads // per_heads)
    prefix = start // q
    if chunks_per_core * per_chunks == chunks and chunks_per_core % 2 == 0:
        scores = chunks_per_core * (prefix + (chunks + 1) / 2)
    else:
        last = np.arange(chunks - chunks_per_core, chunks)
        scores = float(np.sum(prefix + last + 1))
    scores *= heads_per_core
    peak = chip.clock * chip.flops_per_cycle / phases(setting)
    moved = tensor_bytes(heads * rows, 2 * head_dim, fmt) + tensor_bytes(kv_heads * (start + rows), 2 * head_dim, fmt)
    return Kernel(
        "sdpa",
        start=1 * SDPA_PREFILL_START,
        limits={
            "compute": scores * (q / 256) ** 2 * SOFTMAX_BLOCK
            + seconds(scores * 4 * q * q * head_dim / peak) / SDPA_EFFICIENCY,
            "dram": moved / INTERLEAVED_BANDWIDTH,
        },
        bytes=moved,
        flops=4 * heads * head_dim * rows * (start + rows / 2),
        cores=per_heads * per_chunks,
        fidelity=fidelity_name(setting),
        source="tt-metal tech_reports/FlashAttention/FlashAttention.md",
    )


def flash_attention_masked(
    heads: int,
    kv_heads: int,
    rows: int,
    length: int,
    head_dim: int,
    *,
    chunk: int,
    fmt: str,
    mask_format: str | None,
    setting: str,
    chip: Chip,
) -> Kernel:
    """Attention of `rows` queries to all of `length` keys under a mask, in chunks of `chunk` x `chunk` scores.

    Cores are split over heads first, then over chunks of q; nothing is skipped, and the core with most chunks decides.
    Every head reads the mask. Keys and values are read once for each round of q chunks.
    """
    q_chunk, k_chunk = min(chunk, 32 * -(-rows // 32)), chunk
    q_chunks, k_chunks = -(-rows // q_chunk), -(-length // k_chunk)
    cores = chip.cores
    per_heads = min(cores, heads)
    per_chunks = min(cores // per_heads, q_chunks)
    rounds = -(-q_chunks // per_chunks)
    blocks = rounds * -(-heads // per_heads) * k_chunks
    peak = chip.clock * chip.flops_per_cycle / phases(setting)
    mask = heads * tensor_bytes(rows, length, mask_format) if mask_format else 0
    moved = mask + tensor_bytes(heads * rows, 2 * head_dim, fmt)
    moved += rounds * tensor_bytes(kv_heads * length, 2 * head_dim, fmt)
    return Kernel(
        "sdpa",
        start=1 * SDPA_PREFILL_START,
        limits={
            "compute": blocks * (q_chunk * k_chunk / 256**2) * SOFTMAX_BLOCK
            + seconds(blocks * 4 * q_chunk * k_chunk * head_dim / peak) / SDPA_EFFICIENCY,
            "dram": moved / INTERLEAVED_BANDWIDTH,
        },
        bytes=moved,
        flops=4 * heads * head_dim * rows * length,
        cores=per_heads * per_chunks,
        fidelity=fidelity_name(setting),
        source="ttnn operations/transformer/sdpa, is_causal=False",
    )


def flash_decode_masked(
    users: int, heads: int, kv_heads: int, length: int, head_dim: int, *, fmt: str, setting: str, chip: Chip
) -> Kernel:
    """One query row per head and user against a whole cache of `length` positions under a mask, in chunks of 128."""
    chunk = MASKED_CHUNK
    cores = chip.cores
    per_head = max(min(MAX_CORES_PER_HEAD, cores // (kv_heads * users)), 1)
    rounds, chunks = -(-kv_heads * users // cores), -(-length // chunk)
    active = min(per_head, chunks)
    moved = 2 * users * kv_heads * chunks * tensor_bytes(chunk, head_dim, fmt)
    return Kernel(
        "sdpa_decode",
        start=SDPA_DECODE_START + (active - 1) * SDPA_MERGE,
        limits={
            "dram": moved / INTERLEAVED_BANDWIDTH,
            "compute": rounds * -(-chunks // per_head) * SDPA_DECODE_CHUNK,
        },
        bytes=moved,
        flops=4 * users * heads * head_dim * chunks * chunk,
        cores=min(cores, per_head * kv_heads * users),
        fidelity=fidelity_name(setting),
        source="ttnn operations/transformer/sdpa_decode, is_causal=False",
    )
