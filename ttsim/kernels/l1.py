"""What a matmul of one row of tiles needs of one core's L1: its circular buffers, from shapes, formats and cores.

Those of DRAM-sharded matmuls equal ttnn 0.81.1's own allocation on a mock N150, byte for byte
(tests/kernels/test_l1.py); those of 1-D multicast and sparse matmuls are read from the sources and were not run.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttsim.errors import UnpricedError
from ttsim.kernels.shapes import largest_divisor, tiles
from ttsim.numerics.fidelity import ComputeSetting, get_setting
from ttsim.numerics.formats import Format, get_format

# Of a core's L1: ttnn 0.81.1 counts it as used by every program.
RESERVED_BYTES = 105_824

_INPUT_BLOCKS, _WEIGHT_BLOCKS = 2, 3  # in flight: matmul_op_multi_core_reuse_mcast_dram_sharded_program_factory.cpp
_MULTICAST_BLOCKS = 2  # in flight of either operand: MCAST_INPUT_BUFFERING_DEPTH of matmul_utilities.hpp
_FLAG_ALIGNMENT = 64  # bytes that a page in the DRAM is padded to, at most (Blackhole; 32 on Wormhole)


@dataclass(frozen=True)
class Buffers:
    """Bytes of one core's circular buffers.

    Attributes:
      in0, in1, out: blocks of activations and weights, and the result.
      partials: partial sums; 0 where they are kept in the result's.
      flags: which experts are computed (sparse matmuls).
    """

    in0: int
    in1: int
    out: int
    partials: int
    flags: int = 0

    @property
    def total(self) -> int:
        return self.in0 + self.in1 + self.out + self.partials + self.flags

    def fit(self, l1_bytes: int) -> bool:
        """Whether they fit a core's L1 beside what is reserved there."""
        return self.total + RESERVED_BYTES <= l1_bytes

    def check(self, l1_bytes: int, what: str, remedy: str) -> None:
        """Refuses what does not fit.

        Raises:
          UnpricedError: with the bytes of each buffer and of the L1, after `what` and before `remedy`.
        """
        if not self.fit(l1_bytes):
            raise UnpricedError(f"{what} keeps {self} in the L1 of a core, which has {l1_bytes:,}: {remedy}")

    def __str__(self) -> str:
        flags = f"flags {self.flags:,}, " if self.flags else ""
        return (
            f"{self.total + RESERVED_BYTES:,} bytes (activations {self.in0:,}, weights {self.in1:,}, result "
            f"{self.out:,}, partial sums {self.partials:,}, {flags}reserved {RESERVED_BYTES:,})"
        )


def dram_sharded_buffers(
    k: int,
    n: int,
    *,
    weight_format: str | Format,
    setting: str | ComputeSetting,
    cores: int,
    in_format: str | Format = "bf16",
    out_format: str | Format = "bf16",
    block: int | None = None,
    banks: int = 12,
) -> Buffers:
    """The circular buffers of [32, k] @ [k, n] with its weight in one shard per DRAM bank.

        in0 = 2 blocks of K, in1 = 3 blocks of K x the columns of a bank, out = the columns of a bank,
        partials = the same, float32 or bf16 by the destination registers

    The columns of a bank are padded to whole subblocks of at most 4 tiles (8 with 16-bit registers): the fewest
    subblocks, and of those the narrowest.

    Args:
      k, n: sizes of the weight.
      weight_format, in_format, out_format: formats of weight, activations and result.
      setting: compute setting, for the registers' width and where partial sums are kept.
      cores: cores that the activations are sharded over.
      block: tiles of K in one block; by default a core's share of K.
      banks: DRAM banks.
    """
    setting = get_setting(setting)
    block = block or max(tiles(k) // cores, 1)
    columns = -(-tiles(n) // banks)
    result, partial = get_format(out_format), _partial_format(setting, get_format(out_format))
    padded = _whole_subblocks(columns, 4 if setting.fp32_dest else 8)
    return Buffers(
        in0=_INPUT_BLOCKS * block * get_format(in_format).tile_bytes,
        in1=_WEIGHT_BLOCKS * block * columns * get_format(weight_format).tile_bytes,
        out=padded * result.tile_bytes,
        partials=0 if partial == result else padded * partial.tile_bytes,
    )


def multicast_buffers(
    k: int,
    columns: int,
    *,
    block: int,
    weight_format: str | Format,
    setting: str | ComputeSetting,
    in_format: str | Format = "bf16",
    out_format: str | Format = "bf16",
    experts: int = 0,
) -> Buffers:
    """The circular buffers of a core that multiplies one row of tiles by `columns` columns of tiles at a time.

        in0 = 2 blocks of K, in1 = 2 blocks of K x the columns (1 of each where one block is the whole product),
        out = the columns, partials = the same, float32 or bf16 by the destination registers, flags = 2 pages

    Args:
      k: rows of the weight. columns: tiles of N in one output block. block: tiles of K in one block.
      weight_format, in_format, out_format: formats of weight, activations and result.
      setting: compute setting, for the registers' width and where partial sums are kept.
      experts: slots of a sparse matmul, whose flags (bf16) the readers of both operands hold; 0 for another matmul.

    Source: tt-metal matmul_multicore_reuse_mcast_1d_program_factory.cpp and, for the flags,
      sparse_matmul_multicore_reuse_mcast_1d_optimized.cpp. Tensors that lie in L1 themselves come on top.
    """
    setting = get_setting(setting)
    blocks = -(-tiles(k) // block)
    held = _MULTICAST_BLOCKS if max(experts, 1) * blocks > 1 else 1
    result = get_format(out_format)
    partial = _partial_format(setting, result, spills=blocks > 1)
    return Buffers(
        in0=held * block * get_format(in_format).tile_bytes,
        in1=held * block * columns * get_format(weight_format).tile_bytes,
        out=columns * result.tile_bytes,
        partials=0 if partial == result else columns * partial.tile_bytes,
        flags=2 * _FLAG_ALIGNMENT * -(-2 * experts // _FLAG_ALIGNMENT),
    )


def _partial_format(setting: ComputeSetting, result: Format, *, spills: bool = True) -> Format:
    """Format in which sums of some blocks of K wait for the others; `spills`: whether there are others."""
    if setting.fp32_dest:
        return get_format("fp32")
    return get_format("bf16") if setting.l1_acc and spills else result


def _whole_subblocks(columns: int, widest: int) -> int:
    """Tiles of a bank's columns, padded to whole subblocks."""
    width = largest_divisor(columns, widest)
    count = columns // width
    for wider in range(width + 1, widest + 1):
        if -(-columns // wider) < count:
            width, count = wider, -(-columns // wider)
    return width * count
