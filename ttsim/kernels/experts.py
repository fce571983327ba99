"""What routed experts launch: sparse matmuls, routing, and the exchange of tokens between rows of chips.

Sources: tt-metal models/demos/{gpt_oss,deepseek_v3,gemma4}/tt for the sequences; `ttsim.hardware.constants.experts`
for the times.
"""

from __future__ import annotations

from ttsim.hardware.chips import Chip
from ttsim.hardware.constants.activations import ADD_TIME, CORE_BANDWIDTH, SMALL_KERNEL_SCALE
from ttsim.hardware.constants.experts import (
    COMBINE_BANDWIDTH,
    COMBINE_LINK_BANDWIDTH,
    FILL_PAD,
    FILL_PAD_BLACKHOLE,
    GATE_SIGMOID,
    ROUTER_FUSED,
    SPARSE_SLOT,
    SPARSE_TILE,
    TILED_RESHAPE,
)
from ttsim.hardware.constants.links import HOP_LATENCY
from ttsim.hardware.constants.matmul import BLOCK_LATENCY, INTERLEAVED_BANDWIDTH
from ttsim.hardware.constants.sampling import TOPK_COLUMN
from ttsim.hardware.quantities import Terms
from ttsim.kernels import matmul
from ttsim.kernels.activations import small
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.l1 import multicast_buffers
from ttsim.kernels.shapes import largest_divisor, tensor_bytes, tiles
from ttsim.numerics.formats import TILE, get_format

SPARSE_GRIDS = (12, 30)  # cores of the gpt-oss demo's gate and up, and of its down projection: 3 x 4 and 5 x 6
SPARSE_COLUMNS = (1, 2)  # tiles of N in one output block of either: tt/experts/config.py, `*_subblock_w`


def sparse_matmul(
    experts: int,
    k: int,
    n: int,
    *,
    active: float,
    wide: bool,
    block: int,
    fmt: str,
    setting: str,
    inferred: bool,
    streamed: bool,
    chip: Chip,
) -> Kernel:
    """`ttnn.sparse_matmul`: one row of tiles times the weights of `active` of `experts` experts, one after the other.

    Each core reads its tiles of an expert one by one, block of K by block. One core reads the row of tiles and sends it
    to the others, anew for each expert; a prompt's rows come from the DRAM at what one core can read. Where the number
    of active experts is inferred, every slot costs a handshake.

    Args:
      experts: slots on this chip. k, n: an expert's weight [k, n]. active: experts computed.
      wide: the gate or up projection (12 cores), otherwise the down projection (30). block: tiles of K in one block.
      streamed: whether the rows lie in the DRAM.

    Raises:
      UnpricedError: a core's buffers don't fit its L1; the message has the bytes.
    """
    whole = largest_divisor(tiles(k), block)  # the kernel takes whole blocks only: gpt_oss `_largest_divisor_at_most`
    buffers = multicast_buffers(
        k, SPARSE_COLUMNS[0 if wide else 1], block=whole, weight_format=fmt, setting=setting, experts=experts
    )
    what = f"sparse_matmul on [{TILE}, {k}] @ [{experts}, {k}, {n}] ({fmt}, blocks of {whole} tiles of K)"
    buffers.check(chip.l1_bytes, what, "give it shorter blocks (block=)")
    cores = min(tiles(n), SPARSE_GRIDS[0 if wide else 1])
    per_core = tiles(k) * -(-tiles(n) // cores)
    blocks = -(-tiles(k) // block)
    moved = active * tensor_bytes(k, n, fmt)
    chain = active * per_core * SPARSE_TILE + active * blocks * BLOCK_LATENCY
    limits = {"core": chain, "dram": moved / INTERLEAVED_BANDWIDTH}
    if streamed:
        limits["rows"] = active * (tensor_bytes(TILE, k, "bf16") / CORE_BANDWIDTH + blocks * BLOCK_LATENCY)
    return Kernel(
        "sparse_matmul",
        start=experts * SPARSE_SLOT if inferred else Terms(),
        limits=limits,
        bytes=moved,
        flops=2 * TILE * k * n * active,
        cores=cores,
        fidelity=matmul.fidelity_name(setting),
        source="ttnn operations/matmul sparse_matmul: the reader takes one tile at a time",
    )


def layout_changes(count: int) -> list[Kernel]:
    """Reshapes, transposes and permutes of tiled [experts, 32, width] tensors."""
    source = "tt-metal models/demos/gpt_oss/tt/experts: around each sparse_matmul"
    return [Kernel("reshape (tiled)", start=1 * TILED_RESHAPE, source=source) for _ in range(count)]


def on_experts(name: str, experts: int, rows: int, columns: int, operands: int, chip: Chip) -> Kernel:
    """An elementwise kernel over [experts, rows, columns] bf16 values on the whole grid, without padding of rows."""
    moved = (operands + 1) * tensor_bytes(experts * rows, columns, "bf16")
    cores = chip.cores
    return Kernel(
        name,
        start=ADD_TIME * SMALL_KERNEL_SCALE,
        limits={"core": (moved / cores) / CORE_BANDWIDTH, "dram": moved / INTERLEAVED_BANDWIDTH},
        bytes=moved,
        cores=cores,
        source="binary kernels on interleaved tensors",
    )


def route(rows: int, experts: int, scoring: str, fused: bool, chip: Chip) -> list[Kernel]:
    """From logits to weights: top-k on one core a row of tiles, softmax, zeros and scatter; or a fused op's share.

    Args:
      fused: one op from the hidden state to weights (gpt-oss: 128 experts and exactly 32 tokens).
    """
    rounds = -(-tiles(rows) // chip.cores)
    if fused:
        return [Kernel("topk_router_gpt", start=1 * ROUTER_FUSED, cores=12, source="tt-metal PR #38529")]
    if scoring == "sigmoid":
        return [Kernel("moe_gate (25 ops)", start=rounds * GATE_SIGMOID, source="tt-metal PR #39337")]
    top = Kernel("topk", start=rounds * max(experts, 2 * TILE) * TOPK_COLUMN, cores=1, source="ttnn topk")
    return [top, *(small(name, ADD_TIME) for name in ("softmax", "zeros", "scatter"))]


def exchange(name: str, rows: int, columns: int, active: int, devices: int, *, fused: bool, links: int) -> Kernel:
    """Dispatch of `rows` tokens of this chip to their experts on other rows of chips, or the combination of results.

    Args:
      active: copies of a token that travel: its experts. fused: `moe_gpt`'s dispatch and selective combine, otherwise
        the plain all-to-all ops, whose rate is that of a link.
    """
    moved = min(active, devices) * rows * columns * get_format("bf16").bytes_per_value
    limit = moved / COMBINE_BANDWIDTH if fused else (moved / links) / COMBINE_LINK_BANDWIDTH
    return Kernel(
        name,
        start=devices / 2 * HOP_LATENCY,
        limits={"link": limit},
        bytes=moved,
        source="ttnn operations/ccl all_to_all_dispatch, all_to_all_combine, selective_reduce_combine",
    )


def fill_pad(chip: Chip) -> Kernel:
    """Zeros in the padding of gathered rows, before they are summed."""
    time = FILL_PAD_BLACKHOLE if chip.name.startswith("blackhole") else FILL_PAD
    return Kernel("fill_pad", start=1 * time, cores=8, source="tt-mlir #7718; tt-metal qwen3_coder_30b_a3b")
