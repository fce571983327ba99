"""Device tile layout: the vendor's bytes, and where each value of a tile lies."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.numerics import conversion, formats, tiles

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics_bfp.npz"))
BYTES = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics_bytes.npz"))


def bits(x):
    x = np.asarray(x)
    return x.view({4: np.uint32, 2: np.uint16}[x.dtype.itemsize])


def golden_tiles(blocks):
    """[2880, 16] blocks in face order -> 45 tiles stacked as [1440, 32]."""
    faces = blocks.reshape(45, 2, 2, 16, 16)  # tile, face row, face column, row, column
    return faces.transpose(0, 1, 3, 2, 4).reshape(45 * 32, 32)


@pytest.mark.parametrize("name", ["bfp8", "bfp4", "bfp2"])
def test_bytes_equal_vendor(name):
    x, expected = golden_tiles(GOLDEN["x"]), GOLDEN[f"packed_{name}"]
    packed = tiles.pack_tiles(x, name)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(packed, expected)
    np.testing.assert_array_equal(tiles.pack_tiles(conversion.quantize(x, name), name), expected)
    values = tiles.unpack_tiles(expected, name, x.shape)
    np.testing.assert_array_equal(bits(values), bits(golden_tiles(GOLDEN[f"y_{name}"])))


@pytest.mark.parametrize("name", ["bfp8", "bfp4"])
def test_any_bytes_decode_as_the_vendor_decodes_them(name):
    """Includes codes the packer never writes: negative zeros, and exponents that underflow."""
    values = tiles.unpack_tiles(BYTES[f"bytes_{name}"], name, (32, 512))
    np.testing.assert_array_equal(bits(values), bits(BYTES[f"decoded_{name}"]))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("bfp4", shape) for shape in [(1,), (40,), (5, 7), (33, 65), (2, 3, 31, 100), (0, 4), (3, 0)]]
    + [("bf16", (33, 65)), ("fp32", (2, 3, 31, 100)), ("bfp8", (2, 40)), ("bfp2", (2, 40))],
)
def test_round_trip_of_any_shape(name, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packed = tiles.pack_tiles(x, name)
    assert packed.shape[1] == formats.FORMATS[name].tile_bytes
    assert packed.size == formats.tile_padded_bytes(shape, name)
    values = tiles.unpack_tiles(packed, name, shape)
    np.testing.assert_array_equal(values, conversion.dequantize(conversion.quantize(x, name)))


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_faces_and_tiles_are_in_row_major_order(name):
    x = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64) % 128
    x[1] += 1
    dtype = {"bf16": jnp.bfloat16, "fp32": np.float32}[name]
    packed = tiles.pack_tiles(x, name).view(dtype).astype(np.float32)
    for tile in range(8):
        corner = x[tile // 4, 32 * (tile // 2 % 2) :, 32 * (tile % 2) :]
        faces = [corner[r : r + 16, c : c + 16].ravel() for r in (0, 16) for c in (0, 16)]
        np.testing.assert_array_equal(packed[tile], np.concatenate(faces))


def test_padding_is_zero_and_leaves_shared_exponents_alone():
    packed = tiles.pack_tiles(np.full((8, 8), 1.5, np.float32), "bfp8")[0]
    exponents, codes = packed[:64].reshape(4, 16), packed[64:].reshape(4, 16, 16)
    assert (exponents[0, :8] == 127).all()
    assert exponents.sum() == 8 * 127
    assert (codes[0, :8, :8] == 0x60).all()
    assert codes.astype(int).sum() == 64 * 0x60


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="take 1088 bytes, got 1000"):
        tiles.unpack_tiles(np.zeros(1000, np.uint8), "bfp8", (32, 32))
    with pytest.raises(ValueError, match="cannot pack a bfp8 BlockArray as bfp4"):
        tiles.pack_tiles(conversion.quantize(jnp.ones(16), "bfp8"), "bfp4")
    with pytest.raises(ValueError, match="scalar"):
        tiles.pack_tiles(jnp.float32(1), "bf16")
    with pytest.raises(ValueError, match="unknown format"):
        tiles.pack_tiles(jnp.ones((2, 2)), "bfp16")
