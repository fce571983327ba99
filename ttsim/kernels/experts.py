"""What routed experts launch: sparse matmuls, routing, and the exchange of tokens between rows of chips.

Sources: tt-metal models/demos/{gpt_oss,deepseek_v3,gemma4}/tt for the sequences; `ttsim.hardware.expert_constants`
for the times.
"""

from __future__ import annotations

from ttsim.kernels import activations as tensix
from ttsim.kernels import matmul
from ttsim.kernels.kernel import Kernel, over, seconds, times
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import largest_divisor, tensor_bytes, tiles
from ttsim.numerics.formats import TILE, get_format

SPARSE_BLOCK_TILES = 30  # tiles of K in one block: the most that the gpt-oss demo's configurations take
SPARSE_GRIDS = (12, 30)  # cores of its gate and up, and of its down projection: 3 x 4 and 5 x 6
SMALL_TIME = 2.5e-6  # s, an elementwise kernel on one row of tiles, as in `ttsim.ops.eltwise`


def sparse_matmul(
    experts: int, k: int, n: int, *, active: float, wide: bool, fmt: str, setting: str, inferred: bool, machine: Machine
) -> Kernel:
    """`ttnn.sparse_matmul`: one row of tiles times the weights of `active` of `experts` experts, one after the other.

    Each core reads its tiles of an expert one by one, block of K by block. Where the number of active experts is
    inferred, every slot costs a handshake.

    Args:
      experts: slots on this chip. k, n: an expert's weight [k, n]. active: experts computed.
      wide: the gate or up projection (12 cores), otherwise the down projection (30).
    """
    cores = largest_divisor(tiles(n), SPARSE_GRIDS[0 if wide else 1])
    per_core = tiles(k) * -(-tiles(n) // cores)
    blocks = -(-tiles(k) // SPARSE_BLOCK_TILES)
    moved = active * tensor_bytes(k, n, fmt)
    chain = times(active * per_core, "sparse_tile") + times(active * blocks, "sparse_block")
    return Kernel(
        "sparse_matmul",
        start=times(experts, "sparse_slot") if inferred else seconds(0.0),
        limits={"core": chain, "dram": over(moved, "interleaved_bandwidth")},
        bytes=moved,
        flops=2 * TILE * k * n * active,
        cores=cores,
        fidelity=matmul.fidelity_name(setting),
        source="ttnn operations/matmul sparse_matmul: the reader takes one tile at a time",
    )


def layout_changes(count: int) -> list[Kernel]:
    """Reshapes, transposes and permutes of tiled [experts, 32, width] tensors."""
    source = "tt-metal models/demos/gpt_oss/tt/experts: around each sparse_matmul"
    return [Kernel("reshape (tiled)", start=times(1, "tiled_reshape"), source=source) for _ in range(count)]


def on_experts(name: str, experts: int, rows: int, columns: int, operands: int, machine: Machine) -> Kernel:
    """An elementwise kernel over [experts, rows, columns] bf16 values on the whole grid, without padding of rows."""
    moved = (operands + 1) * tensor_bytes(experts * rows, columns, "bf16")
    cores = machine.chip.cores
    return Kernel(
        name,
        start=times(SMALL_TIME, "small_kernel_scale"),
        limits={"core": over(moved / cores, "core_bandwidth"), "dram": over(moved, "interleaved_bandwidth")},
        bytes=moved,
        cores=cores,
        source="binary kernels on interleaved tensors",
    )


def route(rows: int, experts: int, scoring: str, fused: bool, machine: Machine) -> list[Kernel]:
    """From logits to weights: top-k on one core a row of tiles, softmax, zeros and scatter; or a fused op's share.

    Args:
      fused: one op from the hidden state to weights (gpt-oss: 128 experts and exactly 32 tokens).
    """
    rounds = -(-tiles(rows) // machine.chip.cores)
    if fused:
        return [Kernel("topk_router_gpt", start=times(1, "router_fused"), cores=12, source="tt-metal PR #38529")]
    if scoring == "sigmoid":
        return [Kernel("moe_gate (25 ops)", start=times(rounds, "gate_sigmoid"), source="tt-metal PR #39337")]
    top = Kernel("topk", start=times(rounds * max(experts, 2 * TILE), "topk_column"), cores=1, source="ttnn topk")
    return [top, *(tensix.small(name, SMALL_TIME) for name in ("softmax", "zeros", "scatter"))]


def exchange(name: str, rows: int, columns: int, active: int, devices: int, *, fused: bool, links: int) -> Kernel:
    """Dispatch of `rows` tokens of this chip to their experts on other rows of chips, or the combination of results.

    Args:
      active: copies of a token that travel: its experts. fused: `moe_gpt`'s dispatch and selective combine, otherwise
        the plain all-to-all ops, whose rate is that of a link.
    """
    moved = min(active, devices) * rows * columns * get_format("bf16").bytes_per_value
    limit = over(moved, "combine_bandwidth") if fused else over(moved / links, "combine_link_bandwidth")
    return Kernel(
        name,
        start=times(devices / 2, "hop_latency"),
        limits={"link": limit},
        bytes=moved,
        source="ttnn operations/ccl all_to_all_dispatch, all_to_all_combine, selective_reduce_combine",
    )


def fill_pad(machine: Machine) -> Kernel:
    """Zeros in the padding of gathered rows, before they are summed."""
    name = "fill_pad_blackhole" if machine.chip.name.startswith("blackhole") else "fill_pad"
    return Kernel("fill_pad", start=times(1, name), cores=8, source="tt-mlir #7718; tt-metal qwen3_coder_30b_a3b")
