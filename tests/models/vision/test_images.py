"""Sizes of images: canvases of tiles, grids of patches, and what is said about wrong ones."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.models.config import ModelConfig
from ttsim.models.hf.keys import Keys
from ttsim.models.identity import get_config
from ttsim.models.vision.config import QwenTower
from ttsim.models.vision.images import ImageError, canvas, grid_of, image_size, open_image, tiled_image
from ttsim.models.vision.reading import published_vision_config, qwen_tower, read_vision_config, siglip_tower

TOWER = published_vision_config(get_config("11b")).tower
QWEN = QwenTower(hidden_size=1280, intermediate_size=3420, num_layers=32, num_heads=16, patch_size=14, out_size=3584)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((512, 512), (1, 1)),
        ((1280, 1280), (2, 2)),
        ((990, 941), (2, 2)),
        ((1024, 1024), (2, 2)),
        ((512, 1024), (2, 1)),
        ((1024, 512), (1, 2)),
        ((560, 561), (2, 1)),
        ((896, 896), (2, 2)),
        ((2000, 300), (1, 4)),
    ],
)
def test_canvases_of_the_demo_s_images(size, shape):
    """(width, height) -> (rows, columns) of tiles of 560 pixels, as the reference processor chooses them."""
    chosen = canvas(TOWER, size)
    assert (chosen.rows, chosen.columns) == shape
    assert TOWER.aspect_ratios[chosen.aspect_id - 1] == shape


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4000), st.integers(1, 4000))
def test_no_other_canvas_is_better(width, height):
    """Brute force over all canvases: none enlarges less, or shrinks less, or has fewer tiles for the same scale."""
    chosen = canvas(TOWER, (width, height))

    def scale(rows, columns):
        return min(rows * 560 / height, columns * 560 / width)

    mine = scale(chosen.rows, chosen.columns)
    for rows, columns in TOWER.aspect_ratios:
        other = scale(rows, columns)
        if mine >= 1:
            assert other < 1 or other > mine or (other == mine and rows * columns >= chosen.tiles)
        else:
            assert other < mine or (other == mine and rows * columns >= chosen.tiles)


@settings(deadline=None, max_examples=200)
@given(st.integers(28, 3000), st.integers(28, 3000))
def test_qwen_grids_are_whole_tokens_within_the_bounds(width, height):
    rows, columns = grid_of(QWEN, (width, height))
    assert rows % QWEN.merge == columns % QWEN.merge == 0
    assert 56 * 56 <= rows * columns * 14**2 <= 28 * 28 * 1280


def test_long_images_are_refused():
    with pytest.raises(ImageError, match="factor of 200"):
        grid_of(QWEN, (10_000, 20))


@pytest.mark.parametrize("side", ["tiny", "wide", "tall"])
def test_every_image_becomes_tiles(side):
    """A single pixel, a line and a column: the picture keeps at least one pixel a side."""
    width, height = {"tiny": (1, 1), "wide": (3000, 1), "tall": (1, 3000)}[side]
    image = tiled_image(TOWER, np.full((height, width, 3), 255, np.uint8))
    white = (1 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(image.pixels[0, :, 0, 0], white, rtol=1e-5)
    assert (image.pixels[image.tiles :] == 0).all()


def test_sizes_and_files_as_text(tmp_path):
    assert image_size("640x480") == (640, 480)
    path = tmp_path / "x.png"
    open_image(np.zeros((3, 5, 3), np.uint8)).save(path)
    assert image_size(path) == (5, 3)
    (tmp_path / "x.jpg").write_text("no picture")
    for wrong, hint in (
        ("0x5", "at least 1 pixel"),
        ("9" * 5000 + "x1", "at most 1,000,000"),
        ("nothing.png", "no image at"),
        ("n" * 5000, "is no file name"),
        ("/dev/zero", "is a device"),
        (tmp_path / "x.jpg", "JPEG or PNG"),
    ):
        with pytest.raises(ImageError, match=hint) as error:
            image_size(wrong)
        assert "\n" not in str(error.value)


def test_arrays_of_another_kind_are_refused():
    with pytest.raises(ImageError, match="uint8"):
        open_image(np.zeros((4, 4, 3)))


def test_vision_configs_say_what_is_wrong():
    text = get_config("8b")
    assert published_vision_config(text) is None
    assert read_vision_config({"model_type": "llama"}) is None
    assert isinstance(text, ModelConfig)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "relu"), ("hidden_size", "1152"), ("patch_size", 0), ("layer_norm_eps", "small"), ("depth", [])],
)
def test_a_tower_refuses_a_key_by_its_name(key, value):
    read = {"depth": qwen_tower}.get(key, siglip_tower)
    with pytest.raises(ValueError, match=f"^vision_config.{key}=.*") as error:
        read(Keys({key: value}, within="vision_config"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sides", [(2**31 - 1, 2**31 - 1), (12_000, 12_000)])
def test_an_image_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path, sides):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match=r"bomb\.png is no image that pillow can read"):
        image_size(tmp_path / "bomb.png")


@pytest.mark.parametrize("field", ["num_layers", "hidden_size", "intermediate_size", "num_heads", "patch_size"])
def test_a_tower_far_beyond_any_is_refused_before_it_is_built(field):
    with pytest.raises(ValueError, match=f"vision {field} is 10,?000,?000; at most "):
        dataclasses.replace(TOWER, **{field: 10_000_000})
    with pytest.raises(ValueError, match="vision kept_layers are 5,000; at most 1,024 are simulated"):
        dataclasses.replace(TOWER, kept_layers=(0,) * 5000)
