"""Circular buffers of DRAM-sharded matmuls against ttnn 0.81.1's graph capture on a mock N150."""

import pytest

from ttsim.hardware.chips import WORMHOLE
from ttsim.kernels import matmul
from ttsim.kernels.kernel import UnpricedError
from ttsim.kernels.l1 import RESERVED_BYTES, Buffers, dram_sharded_buffers

BFP8 = {"weight_format": "bfp8", "setting": "hifi4"}  # bfp8 weights, bf16 in and out, float32 registers


@pytest.mark.parametrize(
    ("k", "n", "cores", "expected"),
    [
        (4096, 4096, 32, Buffers(16384, 143616, 24576, 49152)),
        (4096, 14336, 32, Buffers(16384, 496128, 81920, 163840)),
        (14336, 4096, 64, Buffers(28672, 251328, 24576, 49152)),
    ],
)
def test_buffers_are_those_that_ttnn_allocates(k, n, cores, expected):
    buffers = dram_sharded_buffers(k, n, cores=cores, **BFP8)
    assert buffers == expected
    assert buffers.fit(WORMHOLE.l1_bytes)


def test_the_kernel_refuses_what_ttnn_refuses():
    """With the numbers of ttnn's own error; half of the columns fit, as on two chips."""
    shape = {"fmt": "bfp8", "setting": "hifi4", "cores": 64, "chip": WORMHOLE}
    with pytest.raises(UnpricedError, match=r"\[32, 8192\] @ \[8192, 28672\].* 1,568,352 bytes .* has 1,499,136"):
        matmul.dram_sharded(8192, 28672, **shape)
    assert matmul.dram_sharded(8192, 14336, **shape).bytes
    # Two readers of a bank share its columns.
    assert matmul.dram_sharded(8192, 28672, readers=2, **shape).bytes


@pytest.mark.parametrize(("cores", "asked"), [(64, 1_568_352), (16, 4_555_104)])
def test_what_ttnn_refuses_does_not_fit(cores, asked):
    """The sums in ttnn's errors, 8192 x 28672: "beyond max L1 size of 1499136 B"."""
    buffers = dram_sharded_buffers(8192, 28672, cores=cores, **BFP8)
    assert buffers.total + RESERVED_BYTES == asked
    assert not buffers.fit(WORMHOLE.l1_bytes)


def test_a_buffer_that_fits_to_the_byte():
    buffers = Buffers(1, 2, 3, 4)
    assert buffers.fit(10 + RESERVED_BYTES)
    assert not buffers.fit(9 + RESERVED_BYTES)


def test_narrow_registers_keep_partial_sums_as_bf16_in_the_result():
    """11 columns of tiles in a bank: two subblocks of 6 tiles, of at most 8."""
    wide, narrow = (
        dram_sharded_buffers(4096, 4096, cores=32, weight_format="bfp4", setting=s) for s in ("hifi4", "lofi")
    )
    assert narrow == Buffers(wide.in0, 3 * 4 * 11 * 576, 12 * 2048, 0)
    bfp8 = dram_sharded_buffers(4096, 4096, cores=32, weight_format="bfp4", setting="lofi", out_format="bfp8")
    assert (bfp8.out, bfp8.partials) == (12 * 1088, 12 * 2048)
    spilled = dram_sharded_buffers(4096, 4096, cores=32, weight_format="bfp4", setting="hifi2na", out_format="bfp8")
    assert spilled.partials == 0


def test_shorter_blocks_of_k_take_less():
    whole, half = (dram_sharded_buffers(8192, 28672, cores=64, block=block, **BFP8) for block in (4, 2))
    assert (half.in0, half.in1) == (whole.in0 // 2, whole.in1 // 2)
    assert half.fit(WORMHOLE.l1_bytes)
