"""Images -> pixel values, as each model's reference processor makes them.

Sizes alone (`canvas`, `grid_of`) say how many tokens an image becomes; the pixels need pillow, which resizes as the
processors do.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsim.files.reading import InputError, printable, read_bytes, shown
from ttsim.models.vision.config import CLIP_MEAN, CLIP_STD, LlamaTower, PatchTower, SiglipTower

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # (width, height) in pixels
_LONGEST = 1_000_000  # pixels of a side
_DIGITS = 20  # of a side that are read: more than the longest has


class ImageError(ValueError):
    """An image can't be read, or has a size that the model does not take."""


def _missing(path: str | os.PathLike[str]) -> bool:
    try:
        return not Path(path).expanduser().exists()
    except OSError:  # a name that no file can have: who reads it says so
        return False


def open_image(source: str | os.PathLike[str] | np.ndarray | Any) -> Image:
    """An RGB image from a file (JPEG, PNG, ...), an array [height, width, 3] of uint8, or a pillow image.

    Raises:
        ImageError: there is no such file, it is no image, or pillow is not installed.
    """
    if isinstance(source, str | os.PathLike) and _missing(source):  # whether or not there is pillow
        raise ImageError(f"no image at {printable(os.fspath(source))}: give a JPEG or PNG file, or a size like 512x512")
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ImageError("reading images needs pillow: pip install 'ttsim-jax[images]'") from None
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[-1] != 3:
            raise ImageError(f"an image array is uint8 [height, width, 3], not {source.dtype} {list(source.shape)}")
        return Image.fromarray(source)
    path = Path(source).expanduser()
    name = printable(os.fspath(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # of more than 89 million pixels
            with Image.open(io.BytesIO(read_bytes(path))) as image:
                return image.convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"no image at {name}: give a JPEG or PNG file, or a size like 512x512") from None
    except InputError as error:
        raise ImageError(f"{error}: give a JPEG or PNG file, or a size like 512x512") from None
    except Exception as error:  # the decoders of damaged files raise whatever they meet
        reason = " ".join(str(error).split())[:120]
        raise ImageError(f"{name} is no image that pillow can read ({reason}): expected JPEG or PNG") from None


def image_size(text: str | os.PathLike[str]) -> Size:
    """(width, height) of "512x384", or of an image file, whose header alone is read.

    Raises:
        ImageError: it is neither.
    """
    width, cross, height = os.fspath(text).lower().partition("x")
    if cross and width.strip().isdecimal() and height.strip().isdecimal():
        return check_size((int(width[:_DIGITS]), int(height[:_DIGITS])))
    return check_size(open_image(text).size)


def check_size(size: Sequence[int]) -> Size:
    """(width, height), each at least one pixel and at most a million."""
    if len(size) != 2 or any(not isinstance(side, int | np.integer) or not 1 <= side <= _LONGEST for side in size):
        sides = f"a width and a height of at least 1 pixel and at most {_LONGEST:,}"
        raise ImageError(f"an image has {sides}, like 512x512, not {shown(size)}")
    return int(size[0]), int(size[1])


# Llama-3.2-Vision: tiles


@dataclass(frozen=True)
class Canvas:
    """How an image lies on tiles.

    Attributes:
        rows, columns: of tiles.
        aspect_id: the canvas's number in the model's list, from 1.
    """

    rows: int
    columns: int
    aspect_id: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns


def canvas(tower: LlamaTower, size: Size) -> Canvas:
    """The tiles that an image is laid on: the smallest canvas that needs no shrinking, else the one that shrinks least.

    With s = min(canvas / image) over both sides: the smallest s >= 1, else the largest; of several, the smallest area.

    Source: transformers models/mllama/image_processing_mllama.py, get_optimal_tiled_canvas.
    """
    width, height = check_size(size)
    allowed = [(h, w) for h, w in tower.aspect_ratios if h * w <= tower.max_tiles]
    scales = [min(h * tower.image_size / height, w * tower.image_size / width) for h, w in allowed]
    growing = [scale for scale in scales if scale >= 1]
    chosen = min(growing) if growing else max(scales)
    best = min((shape for shape, scale in zip(allowed, scales, strict=True) if scale == chosen), key=math.prod)
    return Canvas(*best, tower.aspect_ratios.index(best) + 1)


@dataclass(frozen=True)
class TiledImage:
    """One image as Llama-3.2-Vision's tower reads it.

    Attributes:
        pixels: float32 [max_tiles, 3, S, S]; unused tiles are zero.
        aspect_id: of its canvas. tiles: used ones.
    """

    pixels: np.ndarray
    aspect_id: int
    tiles: int


def tiled_image(tower: LlamaTower, source: Any) -> TiledImage:
    """Resizes (bilinear, keeping the aspect ratio), pads with zeros, scales by CLIP's mean and deviation, cuts tiles.

    Source: transformers models/mllama/image_processing_mllama.py (resize, pad, rescale, normalize, split_to_tiles).
    """
    image = open_image(source)
    shape, side = canvas(tower, image.size), tower.image_size
    width, height = image.size
    room_w, room_h = shape.columns * side, shape.rows * side
    # Not enlarged beyond the tile, nor beyond the canvas.
    target_w, target_h = (min(max(n, side), room) for n, room in ((width, room_w), (height, room_h)))
    scale_w, scale_h = target_w / width, target_h / height
    if scale_w < scale_h:
        new_w, new_h = target_w, min(math.floor(height * scale_w) or 1, target_h)
    else:
        new_w, new_h = min(math.floor(width * scale_h) or 1, target_w), target_h
    padded = np.zeros((room_h, room_w, 3), np.float32)
    padded[:new_h, :new_w] = np.asarray(_resized(image, (new_w, new_h), "BILINEAR"), np.float32)
    normal = normalised(padded, CLIP_MEAN, CLIP_STD)
    tiles = normal.reshape(shape.rows, side, shape.columns, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
    pixels = np.zeros((tower.max_tiles, 3, side, side), np.float32)
    pixels[: shape.tiles] = tiles
    return TiledImage(pixels, shape.aspect_id, shape.tiles)


# Gemma-3: one square


def square_image(tower: SiglipTower, source: Any) -> np.ndarray:
    """float32 [3, S, S]: resized to a square (bilinear), values in -1 ... 1.

    Source: transformers models/gemma3/image_processing_gemma3.py (without pan and scan).
    """
    image = _resized(open_image(source), (tower.image_size,) * 2, "BILINEAR")
    return normalised(np.asarray(image, np.float32), (0.5,) * 3, (0.5,) * 3).transpose(2, 0, 1)


# Qwen: any size


def grid_of(
    tower: PatchTower, size: Size, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """(rows, columns) of patches: both sides rounded to whole tokens, the area within bounds, the aspect ratio kept.

    Source: transformers models/qwen2_vl/image_processing_qwen2_vl.py, smart_resize.

    Raises:
        ImageError: one side is more than 200 times the other.
    """
    width, height = check_size(size)
    min_pixels, max_pixels = min_pixels or tower.min_pixels, max_pixels or tower.max_pixels
    factor = tower.patch_size * tower.merge
    if max(width, height) / min(width, height) > 200:
        raise ImageError(f"an image of {width}x{height} is too long: the sides may differ by a factor of 200")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows // tower.patch_size, columns // tower.patch_size


def patched_image(tower: PatchTower, source: Any, **bounds: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(patches [rows x columns, 3 x frames x P x P], (rows, columns)), in the merger's order: token by token.

    Source: transformers models/qwen2_vl/image_processing_qwen2_vl.py.
    """
    image = open_image(source)
    rows, columns = grid_of(tower, image.size, **bounds)
    side, merge = tower.patch_size, tower.merge
    image = _resized(image, (columns * side, rows * side), "BICUBIC")
    pixels = normalised(np.asarray(image, np.float32), tower.pixel_mean, tower.pixel_std).transpose(2, 0, 1)
    cut = pixels.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
    patches = cut.transpose(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, side * side)
    return np.repeat(patches, tower.frames, axis=2).reshape(rows * columns, -1), (rows, columns)


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(pixels / 255 - mean) / std in float32, over the last axis."""
    scaled = (pixels * np.float64(1 / 255)).astype(np.float32)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def _resized(image: Image, size: Size, method: str) -> Image:
    from PIL import Image as pillow

    return image.resize(size, getattr(pillow.Resampling, method))
