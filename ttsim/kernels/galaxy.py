"""Kernels of the Galaxy's own code (tt-metal models/demos/llama3_70b_galaxy).

The vendor's program for 70B and Qwen3-32B computes what the generic program of a Galaxy does, in fewer and other
kernels: norms that gather their statistics and add the residual, matmuls on a ring of 24 cores behind a prefetcher,
collectives fused with the reshaping around them, and attention that is spread over the columns. So its ops have cost
rules of their own (`cost_on("galaxy")`); an op that runs inside another's kernel has no kernel of its own.

    fused collective   start + received bytes / (sides x links x rate of a link)
    ring matmul        start + tiles of a core x cycles of the fidelity

Times of single ops are the vendor's targets (`ttsim.hardware.constants.galaxy.GALAXY_TARGETS`); prefill is a law of
the rows, fitted on published rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ttsim.hardware.constants.attention import SDPA_DECODE_CHUNK
from ttsim.hardware.constants.galaxy import (
    GALAXY_ATTENTION,
    GALAXY_COLLECTIVE_START,
    GALAXY_GATHER_BANDWIDTH,
    GALAXY_L1_TABLES,
    GALAXY_LINE_DRAM,
    GALAXY_LINE_LINK,
    GALAXY_MATMUL_ROW,
    GALAXY_MERGE,
    GALAXY_MINIMAL_MATMUL_ROW,
    GALAXY_PREFETCH,
    GALAXY_PREFILL_BARRIER,
    GALAXY_PREFILL_START,
    GALAXY_REDUCE_BANDWIDTH,
    GALAXY_RING_DRAM,
    GALAXY_RING_LINK,
    GALAXY_SMALL_OPS,
    GALAXY_SMALL_OPS_ROW,
    GALAXY_TARGETS,
)
from ttsim.hardware.constants.matmul import MCAST_2D_START, MCAST_2D_WEIGHT_BANDWIDTH
from ttsim.hardware.quantities import Constant, seconds
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.matmul import fidelity_name, ring
from ttsim.kernels.shapes import tensor_bytes
from ttsim.numerics.formats import TILE

SOURCE = "tt-metal models/demos/llama3_70b_galaxy/tests/decoder_perf_targets_6u.json"
RING = 24  # cores of a ring matmul
_SMALL_OPS = 14  # calls among which the time of prefill's small kernels is divided
LONGEST_SHORT = 128  # rows: longer prompts set up buffers for every collective
LAW = "law of the rows, fitted on published TTFTs of 2K to 128K tokens"
_PREFILL_128 = "llama3_70b_galaxy perf_targets/prefill_128.json"


def target(name: str, which: str) -> Kernel:
    """A kernel of decode that takes its target."""
    return Kernel(name, start=1 * GALAXY_TARGETS[which], source=SOURCE)


def small(name: str, rows: int, machine: Machine) -> list[Kernel]:
    """A share of what prefill's small kernels take: so much a layer, and so much a row at hidden size 8192."""
    width = (8192 if "70b" in machine.software.place.model else 5120) / 8192
    share = (1 / _SMALL_OPS) * GALAXY_SMALL_OPS + (rows * width / _SMALL_OPS) * GALAXY_SMALL_OPS_ROW
    return [Kernel(name, start=share, source=f"{_PREFILL_128}, prefill_4096.json")]


def within_decode(name: str, shape: Sequence[int], machine: Machine) -> list[Kernel]:
    """Part of another op's kernel in decode; in prefill a share of the small ones."""
    rows = shape[-2] if len(shape) > 1 else shape[0]
    return small(name, rows, machine) if rows > TILE else []


def half(kernel: Kernel, machine: Machine) -> Kernel:
    """Half of a kernel that two calls share: with both calls' gaps it takes the kernel's time and one gap."""
    start = kernel.start * 0.5 + seconds(-0.5 * machine.software.dispatch_gap)
    return Kernel(
        kernel.name,
        start=start,
        limits={name: terms * 0.5 for name, terms in kernel.limits.items()},
        bytes=kernel.bytes / 2,
        cores=kernel.cores,
        source=kernel.source,
    )


def _links(machine: Machine) -> tuple[float, Constant]:
    """(links that bytes arrive over, the rate of one): both directions of a ring of four, or a line's three."""
    return (3.0, GALAXY_LINE_LINK) if machine.system.name == "TG" else (8.0, GALAXY_RING_LINK)


def fused(name: str, received: float, machine: Machine) -> Kernel:
    """A decode collective: `received` bytes arrive at every chip."""
    links, rate = _links(machine)
    return Kernel(
        name,
        start=1 * GALAXY_COLLECTIVE_START,
        limits={"link": received / links / rate},
        bytes=received,
        source=SOURCE,
    )


def prefill_collective(name: str, moved: float, rows: int, rate: Constant = GALAXY_GATHER_BANDWIDTH) -> Kernel:
    """A prefill collective: a start, another where a long prompt needs fresh buffers, and its bytes."""
    start = 1 * GALAXY_PREFILL_START
    if rows > LONGEST_SHORT:
        start = start + GALAXY_PREFILL_BARRIER
    return Kernel(name, start=start, limits={"link": moved / rate}, bytes=moved, source=LAW)


def reduce_rate(rows: int, machine: Machine) -> Constant:
    """The rate of a prefill reduce-scatter, by its workers a link."""
    workers = machine.software.fact("reduce_workers") if rows > LONGEST_SHORT else 1
    return GALAXY_REDUCE_BANDWIDTH if workers == 4 else GALAXY_GATHER_BANDWIDTH


def lm_head(k: int, n: int, fmt: str, machine: Machine) -> Kernel:
    """The LM head's matmul, which is not prefetched."""
    moved = tensor_bytes(k, n, fmt)
    rate = GALAXY_LINE_DRAM if machine.system.name == "TG" else GALAXY_RING_DRAM
    return Kernel("matmul (LM head)", limits={"dram": moved / rate}, bytes=moved, cores=RING, source=SOURCE)


def prefill_matmul(rows: int, k: int, n: int, setting: str, fmt: str, machine: Machine) -> Kernel:
    """A matmul of a prompt: so much a row and weight, or the time in which its weights arrive."""
    minimal = machine.software.fact("minimal_matmul")
    each = GALAXY_MINIMAL_MATMUL_ROW if minimal.isdecimal() and rows >= int(minimal) else GALAXY_MATMUL_ROW
    weight = tensor_bytes(k, n, fmt)
    return Kernel(
        "matmul (2-D mcast)",
        limits={
            "compute": float(rows) * k * n * each,
            "weights": weight / MCAST_2D_WEIGHT_BANDWIDTH + MCAST_2D_START,
        },
        bytes=weight,
        flops=2 * rows * k * n,
        cores=70,
        fidelity=fidelity_name(setting),
        source="llama3_70b_galaxy perf_targets/prefill_4096.json",
    )


def ring_matmul(k: int, n: int, setting: str, fmt: str, machine: Machine, *, beside: bool) -> Kernel:
    """A matmul on the ring: K and N padded to 24 cores of whole tiles; weights wait in L1.

    w1 and w3 together may be more than the prefetcher's buffer holds: then they wait for DRAM (`beside`).
    """
    kernel = ring(k, n, fmt=fmt, setting=setting, cores=RING, chip=machine.chip)
    stall = max(2 * kernel.bytes - _BUFFER, 0.0) / 2 if beside else 0.0
    return dataclasses.replace(kernel, start=kernel.start + stall / GALAXY_PREFETCH, source=SOURCE)


# Bytes of L1 that the prefetcher may run ahead: 728 tiles of bfp8 on 24 cores, of which Qwen3-32B's targets use 0.77.
_BUFFER = 0.77 * 728 * 1088 * RING


def flash_decode(users: int, kv_heads: int, head_dim: int, fmt: str, machine: Machine) -> Kernel:
    """One query row a slot: a column's 8 slots share the cores whether they are active or not.

    sdpa = s0 + C k/8 ceil(n / c) + m merges,  with c cores a KV head, n chunks of k tiles
    """
    columns = machine.system.grid[1]
    slots = machine.software.slots // columns
    cores = max(machine.software.fact("sdpa_cores") // (slots * kv_heads), 1)
    positions = np.asarray(machine.position)
    row_tiles = positions // 32 + 1
    chunk = np.minimum(8, 2 ** np.ceil(np.log2(row_tiles)))
    chunks = np.ceil(row_tiles / chunk)
    active = np.minimum(cores, chunks)
    merges = np.ceil(np.log2(active)) if "tree" in machine.software.sdpa_merge else active - 1
    # The target's one chunk of 128 positions is half of one of 256.
    work = (chunk / 8 * np.ceil(chunks / cores) - 0.5) * SDPA_DECODE_CHUNK + merges * GALAXY_MERGE
    if machine.software.fact("sdpa_tables_in_l1"):
        work = work * GALAXY_L1_TABLES
    start = GALAXY_TARGETS["sdpa"] + work
    moved = 2 * users * kv_heads * tensor_bytes(32, head_dim, fmt) * row_tiles
    return Kernel("sdpa_decode", start=start, bytes=moved, cores=cores * kv_heads * users, source=SOURCE)


def flash_attention(heads: int, rows: int, head_dim: int, machine: Machine) -> Kernel:
    """A whole prompt's attention; long ones are spread over the devices of a column."""
    if rows <= LONGEST_SHORT:
        return Kernel("sdpa", start=1 * GALAXY_TARGETS["sdpa_prefill"], source=_PREFILL_128)
    ways = machine.software.fact("attention_ways") if rows > 1024 else 1
    flops = 4 * heads * head_dim * rows * rows / 2
    gathered = (ways - 1) / ways * tensor_bytes(rows, heads * head_dim, "bfp8")
    return Kernel(
        "ring_distributed_sdpa" if ways > 1 else "sdpa",
        start=gathered / GALAXY_GATHER_BANDWIDTH,
        limits={"compute": flops / ways / GALAXY_ATTENTION},
        flops=flops / ways,
        cores=70,
        fidelity="HiFi4",
        source="tt-metal 4dcc88f813",
    )
