"""Circular buffers: DRAM-sharded matmuls against ttnn 0.81.1's graph capture on a mock N150, multicasts by hand."""

import pytest

from ttsim.hardware.chips import WORMHOLE
from ttsim.kernels import experts, matmul
from ttsim.kernels.kernel import UnpricedError
from ttsim.kernels.l1 import RESERVED_BYTES, Buffers, dram_sharded_buffers, multicast_buffers

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


@pytest.mark.parametrize(
    ("setting", "out_format", "block", "experts", "expected"),
    [
        # 64 tiles of K in 8 blocks, two of each operand in flight; 5 columns of bfp8 tiles (1088 bytes).
        ("hifi2", "bf16", 8, 0, Buffers(2 * 8 * 2048, 2 * 8 * 5 * 1088, 5 * 2048, 5 * 4096)),
        ("hifi2", "fp32", 8, 0, Buffers(2 * 8 * 2048, 2 * 8 * 5 * 1088, 5 * 4096, 0)),
        # 16-bit registers: sums that the packer adds up in L1 are bf16, others have the result's format.
        ("lofi", "bfp8", 8, 0, Buffers(2 * 8 * 2048, 2 * 8 * 5 * 1088, 5 * 1088, 5 * 2048)),
        ("hifi2na", "bfp8", 8, 0, Buffers(2 * 8 * 2048, 2 * 8 * 5 * 1088, 5 * 1088, 0)),
        # One block is the whole product: nothing waits for a second, and nothing is added up in L1.
        ("lofi", "bfp8", 64, 0, Buffers(64 * 2048, 64 * 5 * 1088, 5 * 1088, 0)),
        # A sparse matmul goes on with the next expert: two again, and two pages of 33 bf16 flags, 128 bytes each.
        ("lofi", "bfp8", 64, 33, Buffers(2 * 64 * 2048, 2 * 64 * 5 * 1088, 5 * 1088, 0, 2 * 128)),
    ],
)
def test_buffers_of_a_1d_multicast_by_hand(setting, out_format, block, experts, expected):
    made = multicast_buffers(
        2048, 5, block=block, weight_format="bfp8", setting=setting, out_format=out_format, experts=experts
    )
    assert made == expected


def test_a_model_s_own_1d_multicast_must_fit():
    """64 cores: 24 columns of 8,192 x 49,152 each. 2 x 8 x 2048 + 2 x 8 x 24 x 2048 + 24 x (2048 + 4096) bytes."""
    shape = {"fmt": "bf16", "setting": "hifi4", "chip": WORMHOLE}
    assert matmul.mcast_1d(8192, 49_152, block=8, **shape).bytes
    needed = 32_768 + 60 * (32_768 + 6_144) + RESERVED_BYTES
    message = rf"kernel=\"mcast_1d\" on \[32, 8192\] @ \[8192, 122880\] .* {needed:,} bytes .* has 1,499,136: cut"
    with pytest.raises(UnpricedError, match=message):
        matmul.mcast_1d(8192, 122_880, block=8, **shape)
    # An op that configures itself takes narrower output blocks instead.
    assert matmul.mcast_1d(8192, 122_880, block=2, **shape).bytes


def test_a_sparse_matmul_must_fit():
    """512 tiles of K at once: 2 x 512 x 2048 bytes of rows alone; a quarter of it fits."""
    shape = {"active": 4, "wide": False, "fmt": "bfp8", "setting": "lofi", "inferred": False, "streamed": False}
    needed = 2 * 512 * 2048 + 2 * 512 * 2 * 1088 + 2 * 2048 + 2 * 64 + RESERVED_BYTES
    message = rf"sparse_matmul on .* blocks of 512 tiles of K\) keeps {needed:,} bytes .* flags 128, .*: give it"
    with pytest.raises(UnpricedError, match=message):
        experts.sparse_matmul(32, 16_384, 2880, block=512, chip=WORMHOLE, **shape)
    assert experts.sparse_matmul(32, 16_384, 2880, block=128, chip=WORMHOLE, **shape).bytes
    # Blocks are whole: of 23 tiles (a prime number) the kernel takes one at a time, whatever block is allowed.
    assert experts.sparse_matmul(32, 23 * 32, 2880, block=12, chip=WORMHOLE, **shape).bytes
