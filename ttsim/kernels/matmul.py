"""Matrix kernels: DRAM-sharded, ring or 1-D multicast (decode) and 2-D multicast (prefill).

Source of the configurations: tt-metal models/tt_transformers/tt/model_config.py (`dram_matmul_config`,
`matmul_1d_config`, `matmul_config`) of 2025-05; of the kernels: ttnn operations/matmul/device.
"""

from __future__ import annotations

from typing import Literal

from ttsim.hardware.chips import Chip
from ttsim.hardware.constants.galaxy import GALAXY_RING_START
from ttsim.hardware.constants.matmul import (
    BLACKHOLE_SHARDED_BANDWIDTH,
    BLOCK_LATENCY,
    DRAM_SHARDED_BANDWIDTH,
    DRAM_SHARDED_START,
    INTERLEAVED_BANDWIDTH,
    MCAST_1D_FLOOR,
    MCAST_1D_START,
    MCAST_2D_START,
    MCAST_2D_WEIGHT_BANDWIDTH,
    PHASE_OVERHEAD,
    TILE_OVERHEAD,
    TILE_PACK,
    TUNED_TILE_OVERHEAD,
)
from ttsim.hardware.quantities import Terms, seconds
from ttsim.kernels.kernel import Kernel, UnpricedError
from ttsim.kernels.l1 import dram_sharded_buffers, multicast_buffers
from ttsim.kernels.shapes import largest_divisor, tensor_bytes, tiles
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.formats import TILE, get_format

Config = Literal["default", "tuned", "minimal"]

MAX_BLOCK = 8  # tiles of K in one block: `find_largest_divisor(k // (tile * cores))` of model_config.py
SELF_CONFIGURED_BLOCK = 2  # the same of a 1-D multicast that ttnn configures (matmul_program_config.cpp)


def phases(setting: str) -> int:
    """Fidelity phases of a compute setting; the exact one, which no device has, counts as HiFi4."""
    fidelity = get_setting(setting).fidelity
    return 4 if fidelity is None else fidelity.value


def tile_math(setting: str, chip: Chip) -> Terms:
    """A 32 x 32 x 32 tile product on one core: 16 cycles per phase (tech_reports/matrix_engine)."""
    return seconds(16 * phases(setting) / chip.clock)


def check_one_tile(kernel: str, rows: int) -> None:
    """Refuses more rows than one tile has.

    Raises:
      UnpricedError: with the rows.
    """
    if rows > TILE:
        raise UnpricedError(
            f'kernel="{kernel}" multiplies one row of tiles, at most {TILE} rows, and got {rows}: say "mcast_2d"'
        )


def fidelity_name(setting: str) -> str:
    fidelity = get_setting(setting).fidelity
    return "" if fidelity is None else fidelity.name


def dram_sharded(
    k: int,
    n: int,
    *,
    fmt: str,
    setting: str,
    cores: int,
    chip: Chip,
    readers: int = 1,
    in_format: str = "bf16",
    out_format: str = "bf16",
) -> Kernel:
    """One row of tiles times a weight that lies in one shard per DRAM bank: [32, k] @ [k, n].

    One worker per bank (or two `readers`) reads its shard in blocks of K, as long as the blocks of the input's shards.
    A worker's chain is a latency per block, then tile products, whose partial sums are packed to L1 after every block.
    The destination register has two halves, so that one half is packed while the other is computed: of the shorter of
    the two, half hides. DRAM streams beside the chain. N is padded to whole tiles in every bank.

    Raises:
      UnpricedError: a worker's buffers don't fit its L1; the message has the bytes.
    """
    banks = chip.dram_banks
    k_tiles, n_tiles = tiles(k), -(-tiles(n) // (banks * readers))
    block = largest_divisor(max(k_tiles // cores, 1), MAX_BLOCK)
    buffers = dram_sharded_buffers(
        k,
        n,
        weight_format=fmt,
        setting=setting,
        cores=cores,
        in_format=in_format,
        out_format=out_format,
        block=block,
        banks=banks * readers,
    )
    what = f'kernel="dram_sharded" on [{TILE}, {k}] @ [{k}, {n}] ({fmt}, {cores} cores)'
    buffers.check(chip.l1_bytes, what, "cut the weight over more chips or give it a smaller format")
    blocks = k_tiles // block
    moved = k_tiles * -(-tiles(n) // banks) * banks * get_format(fmt).tile_bytes
    latency = blocks * BLOCK_LATENCY
    math = k_tiles * n_tiles * tile_math(setting, chip)
    pack = blocks * n_tiles * TILE_PACK
    return Kernel(
        "matmul (DRAM-sharded)",
        start=1 * DRAM_SHARDED_START,
        limits={
            "dram": moved / (DRAM_SHARDED_BANDWIDTH if chip.family == "wormhole" else BLACKHOLE_SHARDED_BANDWIDTH),
            "compute": latency + math + pack * 0.5,
            "pack": latency + pack + math * 0.5,
        },
        bytes=moved,
        flops=2 * TILE * k * n,
        cores=banks * readers,
        fidelity=fidelity_name(setting),
        source="ttnn matmul_op_multi_core_reuse_mcast_dram_sharded_program_factory",
    )


def ring(k: int, n: int, *, fmt: str, setting: str, cores: int, chip: Chip) -> Kernel:
    """One row of tiles times a weight that a prefetcher has brought to the L1 of a ring of cores: [32, k] @ [k, n].

    time = start + tiles of K x (tiles of N / cores) x cycles of the fidelity, K and N padded to whole tiles a core

    DRAM streams beside the program's other ops and is no limit of this one (see `ttsim.scenarios.prefetching`).
    """
    k_tiles, n_tiles = (-(-tiles(size) // cores) * cores for size in (k, n))
    return Kernel(
        "matmul (ring)",
        start=n_tiles // cores * k_tiles * tile_math(setting, chip) + GALAXY_RING_START,
        bytes=tensor_bytes(TILE * k_tiles, TILE * n_tiles, fmt),
        flops=2 * TILE * k * n,
        cores=cores,
        fidelity=fidelity_name(setting),
        source="ttnn matmul_multicore_reuse_mcast_1d_program_factory, gather_in0 with a global circular buffer",
    )


def mcast_1d(k: int, n: int, *, fmt: str, setting: str, chip: Chip, block: int | None = None) -> Kernel:
    """One row of tiles times an interleaved weight, the input multicast to all cores: a chain of blocks, or DRAM.

    A model's own program must fit a core's L1; the whole grid is counted, so that what is refused fits no smaller one.
    An op that configures itself shrinks its output blocks until they fit, and the blocks of the Galaxy's program are
    not known: neither is checked.

    Args:
      block: most tiles of K in one block (2 where the op configures itself, 8 where the model does); None is the
        Galaxy's program, whose chain is the floor that was measured.

    Raises:
      UnpricedError: a core's buffers don't fit its L1; the message has the bytes.
    """
    moved = tensor_bytes(k, n, fmt)
    chain = 1 * MCAST_1D_FLOOR
    if block is not None:
        tiles_of_k = largest_divisor(tiles(k), block)
        chain = tiles(k) // tiles_of_k * BLOCK_LATENCY + MCAST_1D_START
        if block > SELF_CONFIGURED_BLOCK:
            columns = -(-tiles(n) // chip.cores)
            buffers = multicast_buffers(k, columns, block=tiles_of_k, weight_format=fmt, setting=setting)
            what = f'kernel="mcast_1d" on [{TILE}, {k}] @ [{k}, {n}] ({fmt}, blocks of {tiles_of_k} tiles of K)'
            buffers.check(chip.l1_bytes, what, "cut the weight over more chips or give it a smaller format")
    return Kernel(
        "matmul (1-D mcast)",
        limits={"compute": chain, "dram": moved / INTERLEAVED_BANDWIDTH},
        bytes=moved,
        flops=2 * TILE * k * n,
        cores=chip.cores,
        fidelity=fidelity_name(setting),
        source="ttnn matmul_op_multi_core_reuse_mcast_1d_program_factory",
    )


TUNED_GRIDS = {"wormhole": (8, 8), "blackhole": (10, 8)}  # qwen36 tt/tp_common.py, `prefill_grid_default`


def prefill_grid(chip: Chip, pass_rows: int) -> tuple[int, int, int]:
    """(rows, columns, most rows of one pass) that tt_transformers computes prefill on.

    On Blackhole 8 rows by as many columns as the DRAM has banks, in passes of 512 rows (`prefill_len_cutoff`,
    `dram_shard_grid_width` of model_config.py), whatever the firmware leaves of the chip.
    """
    if chip.family == "wormhole":
        return (*chip.compute_grid, pass_rows)
    return 8, chip.dram_banks, min(pass_rows, 512)


def mcast_2d(
    rows: int,
    k: int,
    n: int,
    *,
    fmt: str,
    in_format: str,
    out_format: str,
    setting: str,
    pass_rows: int,
    chip: Chip,
    config: Config = "default",
    throttle: float = 1.0,
) -> Kernel:
    """[rows, k] @ [k, n] on the whole grid: rows over the grid's rows, columns over its columns.

    `rows` are computed in passes of at most `pass_rows`; every pass reads the weight again, through the cores of one
    row of the grid. The tile products of a core are padded to its share of the pass. Whether its buffers fit the L1 is
    not checked.

    Args:
      config: "default", whose sub-blocks are single tiles; "tuned", a model's own grid and wide sub-blocks, in one
        pass; "minimal", minimal_matmul, which has no overhead beside the phases.
      throttle: share of its speed that the matrix unit is held to (`TT_MM_THROTTLE_PERF`).
    """
    grid_rows, grid_columns, pass_rows = prefill_grid(chip, pass_rows)
    if config == "tuned":
        grid_rows, grid_columns = TUNED_GRIDS[chip.family]
        pass_rows = rows
    block_rows = min(rows, pass_rows)
    passes = -(-rows // block_rows)
    products = -(-tiles(block_rows) // grid_rows) * -(-tiles(n) // grid_columns) * tiles(k)
    math = tile_math(setting, chip) * (1 / throttle) * PHASE_OVERHEAD
    if config != "minimal":
        math = math + (TUNED_TILE_OVERHEAD if config == "tuned" else TILE_OVERHEAD)
    weight = tensor_bytes(k, n, fmt)
    activations = tensor_bytes(block_rows, k, in_format) + tensor_bytes(block_rows, n, out_format)
    return Kernel(
        "matmul (2-D mcast)",
        start=1 * MCAST_2D_START,
        limits={
            "compute": passes * products * math,
            "weights": passes * weight / MCAST_2D_WEIGHT_BANDWIDTH,
            "dram": passes * activations / INTERLEAVED_BANDWIDTH,
        },
        bytes=passes * (weight + activations),
        flops=2 * rows * k * n,
        cores=min(grid_rows, tiles(block_rows)) * grid_columns,
        fidelity=fidelity_name(setting),
        source="ttnn matmul_op_multi_core_reuse_mcast_2d_program_factory",
    )
