"""What the ops of the two-dimensional program cost on the Galaxy's own code (tt-metal models/demos/llama3_70b_galaxy).

The vendor's program for 70B and Qwen3-32B computes what the generic program of a Galaxy does, in fewer and other
kernels: norms that gather their statistics and add the residual, matmuls on a ring of 24 cores behind a prefetcher,
collectives fused with the reshaping around them, and attention that is spread over the columns. So the same program is
priced by other rules; an op that runs inside another's kernel has no kernel of its own.

    fused collective   start + received bytes / (sides x links x rate of a link)
    ring matmul        start + tiles of a core x cycles of the fidelity

Times of single ops are the vendor's targets (`later.GALAXY_TARGETS`); prefill is a law of the rows, fitted on
published rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ttsim.hardware.attention_constants import SDPA_DECODE_CHUNK
from ttsim.hardware.galaxy_constants import (
    GALAXY_ATTENTION,
    GALAXY_COLLECTIVE_START,
    GALAXY_EAGER_PROMPT,
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
    GALAXY_RING_START,
    GALAXY_SERVER_STEP,
    GALAXY_SERVER_STEP_SLOW,
    GALAXY_SMALL_OPS,
    GALAXY_SMALL_OPS_ROW,
    GALAXY_TARGETS,
)
from ttsim.hardware.matmul_constants import INTERLEAVED_BANDWIDTH, MCAST_2D_START, MCAST_2D_WEIGHT_BANDWIDTH
from ttsim.hardware.quantities import Constant, Terms, seconds
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.kernels.matmul import fidelity_name, tile_math
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.meshes.systems import COLUMN_AXIS
from ttsim.numerics.formats import TILE
from ttsim.ops.core import OpCall
from ttsim.ops.host import SERVER_SOURCE, server_prompt

SOURCE = "tt-metal models/demos/llama3_70b_galaxy/tests/decoder_perf_targets_6u.json"
RING = 24  # cores of a ring matmul
PREFILL_SMALL_OPS = 14  # calls among which the time of prefill's small kernels is divided
LONGEST_SHORT = 128  # rows: longer prompts set up buffers for every collective


def _pair(kernel: Kernel, machine: Machine) -> Kernel:
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


def _fused(name: str, received: float, machine: Machine) -> Kernel:
    """A decode collective: `received` bytes arrive at every chip."""
    links, rate = _links(machine)
    return Kernel(
        name,
        start=1 * GALAXY_COLLECTIVE_START,
        limits={"link": received / links / rate},
        bytes=received,
        source=SOURCE,
    )


def _prefill_collective(name: str, moved: float, rows: int, machine: Machine, rate: Constant) -> Kernel:
    start = 1 * GALAXY_PREFILL_START
    if rows > LONGEST_SHORT:
        start = start + GALAXY_PREFILL_BARRIER
    return Kernel(name, start=start, limits={"link": moved / rate}, bytes=moved, source=_LAW)


_LAW = "law of the rows, fitted on published TTFTs of 2K to 128K tokens"


def _reduce_rate(rows: int, machine: Machine) -> Constant:
    workers = machine.software.fact("reduce_workers") if rows > LONGEST_SHORT else 1
    return GALAXY_REDUCE_BANDWIDTH if workers == 4 else GALAXY_GATHER_BANDWIDTH


def _small(name: str, call: OpCall, machine: Machine, rows: int) -> list[Kernel]:
    """A share of what prefill's small kernels take: so much a layer, and so much a row at hidden size 8192."""
    width = _hidden(machine) / 8192
    share = (1 / PREFILL_SMALL_OPS) * GALAXY_SMALL_OPS + (rows * width / PREFILL_SMALL_OPS) * GALAXY_SMALL_OPS_ROW
    return [Kernel(name, start=share, source="llama3_70b_galaxy perf_targets/prefill_128.json, prefill_4096.json")]


def _hidden(machine: Machine) -> int:
    return 8192 if "70b" in machine.software.place.model else 5120


# Rules


def _norm(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, _ = rows_and_columns(call.inputs[0])
    if rows > TILE:
        return _small("rms_norm (distributed)", call, machine, rows)
    return [Kernel("RMSAllGather", start=GALAXY_TARGETS["norm"] + GALAXY_COLLECTIVE_START, source=SOURCE)]


def _all_gather(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    if columns == 1:
        if rows > TILE:
            return [_prefill_collective("all_gather (statistics)", 96.0 * rows, rows, machine, GALAXY_GATHER_BANDWIDTH)]
        return []  # within the norm
    devices = call.num_devices
    if columns == 32 and call["axis"] != COLUMN_AXIS:
        return [Kernel("all_gather", start=1 * GALAXY_TARGETS["gather_best"], source=SOURCE)]
    received = (devices - 1) * tensor_bytes(rows, columns, call["format"])
    if rows <= TILE:
        return [_fused("AllGather", received, machine)]
    longest = machine.software.fact("fused_gather_matmul")
    if longest and rows >= longest:
        return []  # within w2's matmul, which takes longer
    return [_prefill_collective("all_gather", received, rows, machine, GALAXY_GATHER_BANDWIDTH)]


def _reduce_scatter(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    devices = call.num_devices
    received = (devices - 1) / devices * tensor_bytes(rows, columns, call["format"])
    if rows <= TILE:  # w1's sum travels while w3 is computed
        return [_pair(_fused("ReduceScatter", received, machine), machine)]
    return [_prefill_collective("reduce_scatter", received, rows, machine, _reduce_rate(rows, machine))]


def _all_reduce(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    devices, fmt = call.num_devices, call["format"]
    tensor = tensor_bytes(rows, columns, fmt)
    part = (devices - 1) / devices
    if rows <= TILE:
        if call["axis"] == COLUMN_AXIS and not call.attributes.get("composite"):
            # The sum of QKV is scattered by user, 8 a column, in bf16, with the heads cut in the same kernel.
            return [_fused("ReduceScatter + create heads", part * tensor_bytes(rows, columns, "bf16"), machine)]
        return [_fused("AllReduceAsync", (devices - 1) * tensor, machine)]
    kernels = [
        _prefill_collective("reduce_scatter", part * tensor, rows, machine, _reduce_rate(rows, machine)),
        _prefill_collective("all_gather", part * tensor, rows, machine, GALAXY_GATHER_BANDWIDTH),
    ]
    if call["axis"] != COLUMN_AXIS and LONGEST_SHORT < rows <= machine.software.fact("wo_gather"):
        # wo's sum gathers whole copies and adds them; of the two sums of a layer each carries half of it.
        more = 0.5 * (devices - 1 - 2 * part) * tensor
        kernels.append(
            Kernel(
                "all_gather (copies) + fast_reduce_nc",
                start=more / GALAXY_GATHER_BANDWIDTH + 0.5 * (devices + 1) * tensor / INTERLEAVED_BANDWIDTH,
                bytes=more,
                source="tt-metal d406ab4dd7",
            )
        )
    return kernels


def _linear(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, k = rows_and_columns(call.inputs[0])
    n = math.prod(call.inputs[1].shape[1:])
    if call["kernel"] == "dram_sharded":  # the LM head is not prefetched
        moved = tensor_bytes(k, n, call["weight_format"])
        rate = GALAXY_LINE_DRAM if machine.system.name == "TG" else GALAXY_RING_DRAM
        return [Kernel("matmul (LM head)", limits={"dram": moved / rate}, bytes=moved, cores=RING, source=SOURCE)]
    setting, fmt = call["setting"], call["weight_format"]
    mlp = "ff" in str(call.groups.get("weight_format", ""))
    if mlp and machine.software.fact("mlp_weights") != "preset":
        setting, fmt = "hifi2", machine.software.fact("mlp_weights")
    if rows <= TILE:
        return [_ring_matmul(k, n, setting, fmt, machine, beside=call.groups.get("weight_format") == "ff1_3")]
    rows_time: Terms = float(rows) * k * n * GALAXY_MATMUL_ROW
    minimal = machine.software.fact("minimal_matmul")
    if minimal.isdecimal() and rows >= int(minimal):
        rows_time = float(rows) * k * n * GALAXY_MINIMAL_MATMUL_ROW
    weight = tensor_bytes(k, n, fmt)
    return [
        Kernel(
            "matmul (2-D mcast)",
            limits={"compute": rows_time, "weights": weight / MCAST_2D_WEIGHT_BANDWIDTH + MCAST_2D_START},
            bytes=weight,
            flops=2 * rows * k * n,
            cores=70,
            fidelity=fidelity_name(setting),
            source="llama3_70b_galaxy perf_targets/prefill_4096.json",
        )
    ]


def _ring_matmul(k: int, n: int, setting: str, fmt: str, machine: Machine, *, beside: bool) -> Kernel:
    """A matmul on the ring: K and N padded to 24 cores of whole tiles; weights wait in L1.

    w1 and w3 together may be more than the prefetcher's buffer holds: then they wait for DRAM (`beside`).
    """
    k_tiles, n_tiles = (-(-tiles(size) // RING) * RING for size in (k, n))
    math_time = n_tiles // RING * k_tiles * tile_math(setting, machine.chip)
    start = math_time + GALAXY_RING_START
    moved = tensor_bytes(32 * k_tiles, 32 * n_tiles, fmt)
    if beside:
        stall = max(2 * moved - _BUFFER, 0.0) / 2
        start = start + stall / GALAXY_PREFETCH
    return Kernel(
        "matmul (ring)",
        start=start,
        bytes=moved,
        flops=2 * 32 * k * n,
        cores=RING,
        fidelity=fidelity_name(setting),
        source=SOURCE,
    )


# Bytes of L1 that the prefetcher may run ahead: 728 tiles of bfp8 on 24 cores, of which Qwen3-32B's targets use 0.77.
_BUFFER = 0.77 * 728 * 1088 * RING


def _sdpa_decode(call: OpCall, machine: Machine) -> list[Kernel]:
    """One query row a slot: a column's 8 slots share the cores whether they are active or not.

    sdpa = s0 + C k/8 ceil(n / c) + m merges,  with c cores a KV head, n chunks of k tiles
    """
    users, _, head_dim = call.inputs[0].shape
    kv_heads = call.inputs[1].shape[1]
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
    moved = 2 * users * kv_heads * tensor_bytes(32, head_dim, call["kv_format"]) * row_tiles
    return [Kernel("sdpa_decode", start=start, bytes=moved, cores=cores * kv_heads * users, source=SOURCE)]


def _sdpa_prefill(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    if rows <= LONGEST_SHORT:
        return [
            Kernel(
                "sdpa",
                start=1 * GALAXY_TARGETS["sdpa_prefill"],
                source="llama3_70b_galaxy perf_targets/prefill_128.json",
            )
        ]
    ways = machine.software.fact("attention_ways") if rows > 1024 else 1
    flops = 4 * heads * head_dim * rows * rows / 2
    gathered = (ways - 1) / ways * tensor_bytes(rows, heads * head_dim, "bfp8")
    return [
        Kernel(
            "ring_distributed_sdpa" if ways > 1 else "sdpa",
            start=gathered / GALAXY_GATHER_BANDWIDTH,
            limits={"compute": flops / ways / GALAXY_ATTENTION},
            flops=flops / ways,
            cores=70,
            fidelity="HiFi4",
            source="tt-metal 4dcc88f813",
        )
    ]


def _rotary(call: OpCall, machine: Machine) -> list[Kernel]:
    if call.inputs[0].shape[1] > TILE:
        return _small("rotary_embedding_llama", call, machine, call.inputs[0].shape[1])
    kernel = Kernel("rotary_embedding_llama_fused_qk", start=1 * GALAXY_TARGETS["rotary"], source=SOURCE)
    return [_pair(kernel, machine)]


def _update_cache(call: OpCall, machine: Machine) -> list[Kernel]:
    kernel = Kernel("paged_fused_update_cache", start=1 * GALAXY_TARGETS["update_cache"], source=SOURCE)
    return [_pair(kernel, machine)]


def _topk(call: OpCall, machine: Machine) -> list[Kernel]:
    share = call.inputs[0].shape[-1] / 16_384
    return [
        Kernel("sharded_to_interleaved", start=1 * GALAXY_TARGETS["to_interleaved"], source=SOURCE),
        Kernel("typecast", start=share * GALAXY_TARGETS["typecast"], source=SOURCE),
        Kernel("topk", start=seconds(machine.software.fact("topk_time") * share), source=SOURCE),
    ]


def _choose(call: OpCall, machine: Machine) -> list[Kernel]:
    return [
        Kernel("sampling", start=1 * GALAXY_TARGETS["sampling"], source=SOURCE),
        Kernel("plus_one and small ops", start=1 * GALAXY_TARGETS["tail"], source=SOURCE),
    ]


def _target(name: str) -> Callable[[OpCall, Machine], list[Kernel]]:
    """A kernel of decode that takes its target; in prefill a share of the small ones."""

    def rule(call: OpCall, machine: Machine) -> list[Kernel]:
        rows = rows_and_columns(call.inputs[0])[0]
        if rows > TILE:
            return _small(call.name, call, machine, rows)
        return [Kernel(call.name, start=1 * GALAXY_TARGETS[name], source=SOURCE)]

    return rule


def _within(call: OpCall, machine: Machine) -> list[Kernel]:
    """Part of another op's kernel in decode; in prefill a share of the small ones."""
    shape = call.inputs[0].shape
    rows = shape[-2] if len(shape) > 1 else shape[0]
    return _small(call.name, call, machine, rows) if rows > TILE else []


def _nothing(call: OpCall, machine: Machine) -> list[Kernel]:
    """Part of another op's kernel, or done once before."""
    return []


def _copy_to_device(call: OpCall, machine: Machine) -> list[Kernel]:
    """Tokens and positions stay on the device; a server does its own work on each step and prompt."""
    software = machine.software
    if call["work"] == "prompt":
        # A prompt that runs from a trace is launched at once. The others are dispatched while the device works.
        eager = host_work("dispatch of a prompt", 1 * GALAXY_EAGER_PROMPT, _LAW)
        traced = call.inputs[0].shape[0] in software.traced_lengths
        return [*([] if traced else [eager]), *server_prompt(machine)]
    if not software.server_adds:
        return []
    time = GALAXY_SERVER_STEP_SLOW if software.fact("galaxy_server") == "slow" else GALAXY_SERVER_STEP
    return [host_work("server's step", 1 * time, SERVER_SOURCE)]


RULES: Mapping[str, Callable[[OpCall, Machine], Sequence[Kernel]]] = MappingProxyType(
    {
        "copy_to_device": _copy_to_device,
        "read_back": _nothing,
        "embedding": lambda call, machine: [Kernel("embedding", start=1 * GALAXY_TARGETS["embedding"], source=SOURCE)],
        "rotary_tables": lambda call, machine: [
            Kernel("embedding", start=1 * GALAXY_TARGETS["embedding"], source=SOURCE)
        ],
        "reshard": _nothing,
        "rms_norm_stats": _nothing,
        "rms_norm_apply": _norm,
        "all_gather": _all_gather,
        "reduce_scatter": _reduce_scatter,
        "all_reduce": _all_reduce,
        "linear": _linear,
        "select_users": _nothing,
        "select_rows": _nothing,
        "create_heads_decode": _nothing,
        "concat_heads_decode": _nothing,
        "create_heads_prefill": _within,
        "concat_heads_prefill": _within,
        "typecast": _within,
        "fill_cache": lambda call, machine: _small("paged_fill_cache", call, machine, call.inputs[1].shape[1]),
        "rotary": _rotary,
        "update_cache": _update_cache,
        "sdpa_decode": _sdpa_decode,
        "sdpa_prefill": _sdpa_prefill,
        "add": _within,
        "silu_mul": _target("silu_mul"),
        "topk": _topk,
        "choose": _choose,
    }
)
