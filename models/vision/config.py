"""What a model that sees is made of: a tower that reads images, a fusion that hands them over, and a text model.

The three are separate choices. A tower turns pixels into states; the fusion says how the text model meets them:

    cross_attention   layers of their own attend to the image's tokens (Llama-3.2-Vision)
    embeddings        the image's tokens stand in the prompt, in place of the image token (Gemma-3, Qwen2.5-VL)
    deepstack         as embeddings, and states of earlier vision layers are added after the first text layers
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ttsim.files.reading import shown
from ttsim.models.config import ModelConfig

Fusion = Literal["cross_attention", "embeddings", "deepstack"]

# [height, width] in tiles that Llama-3.2-Vision's checkpoints list (vision_config.supported_aspect_ratios).
ASPECT_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Far beyond any tower, as for the text (ttsim.models.config): larger ones would be built and traced for minutes.
_MOST: Mapping[str, int] = MappingProxyType(
    {
        "num_layers": 1024,
        "num_global_layers": 1024,
        "num_heads": 2**12,
        "hidden_size": 2**18,
        "intermediate_size": 2**20,
        "patch_size": 2**12,
        "channels": 2**10,
    }
)


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """What all vision towers have.

    Attributes:
        hidden_size, intermediate_size, num_layers, num_heads: of the encoder.
        patch_size: pixels of a patch's side.
        channels: colours of a pixel.
        norm_eps: of the layer norms.
        activation: of the MLP, a name of `tt.linear_bias`.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    channels: int = 3
    norm_eps: float = 1e-5
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for field, most in _MOST.items():
            if (size := getattr(self, field, 0)) > most:
                raise ValueError(f"vision {field} is {shown(size)}; at most {most:,} is simulated")
        for field in ("kept_layers", "full_layers", "deepstack_layers"):
            if (count := len(getattr(self, field, ()))) > _MOST["num_layers"]:
                raise ValueError(f"vision {field} are {count:,}; at most {_MOST['num_layers']:,} are simulated")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"vision hidden_size={self.hidden_size} does not divide over {self.num_heads} heads")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """Values of one patch."""
        return self.channels * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class LlamaTower(TowerConfig):
    """Llama-3.2-Vision's: an image is cut into up to four tiles, local layers are followed by gated global ones.

    Attributes:
        image_size: pixels of a tile's side.
        max_tiles: most tiles of an image.
        num_global_layers: gated layers after the `num_layers` local ones.
        kept_layers: local layers whose *input* becomes a part of the features.
        aspect_ratios: [height, width] in tiles that an image may be cut into; an image's id counts them from 1.
    """

    image_size: int
    max_tiles: int = 4
    num_global_layers: int
    kept_layers: tuple[int, ...]
    aspect_ratios: tuple[tuple[int, int], ...] = ASPECT_RATIOS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")
        outside = [i for i in self.kept_layers if not 0 <= i < self.num_layers]
        if outside:
            raise ValueError(f"intermediate_layers_indices {outside} are not among the {self.num_layers} layers")

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of a tile: its patches and the class token."""
        return self.patches + 1

    @property
    def feature_size(self) -> int:
        """Width of what the projector reads: the last state and the kept ones."""
        return self.hidden_size * (1 + len(self.kept_layers))


@dataclass(frozen=True, kw_only=True)
class SiglipTower(TowerConfig):
    """Gemma-3's: one square image, learned positions, full attention, biases everywhere.

    Attributes:
        image_size: pixels of the image's side.
        image_tokens: tokens that the image has in the prompt, after average pooling; a square number.
        projector_eps: of the RMS norm before the projector, whose weight is added to one.
    """

    image_size: int
    image_tokens: int = 256
    projector_eps: float = 1e-6

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def pool(self) -> int:
        """Patches of a side that become one token."""
        side = math.isqrt(self.image_tokens)
        if side * side != self.image_tokens or self.patches_per_side % side:
            raise ValueError(
                f"mm_tokens_per_image={self.image_tokens} is no square that divides {self.patches_per_side} patches "
                "a side"
            )
        return self.patches_per_side // side


@dataclass(frozen=True, kw_only=True)
class PatchTower(TowerConfig):
    """Qwen's: images of any size, cut into patches, several of which are merged into one token of the prompt.

    Attributes:
      merge: patches of a side that the merger makes one token of.
      frames: frames of one patch; a still image is repeated.
      out_size: width of the tokens.
      theta: base of the rotary frequencies.
      pixel_mean, pixel_std: of each colour, which the processor takes away and divides by.
      min_pixels, max_pixels: bounds of the processor; checkpoints raise the second.
    """

    merge: int = 2
    frames: int = 2
    out_size: int
    theta: float = 10000.0
    norm_eps: float = 1e-6
    pixel_mean: tuple[float, float, float] = CLIP_MEAN
    pixel_std: tuple[float, float, float] = CLIP_STD
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    @property
    def patch_values(self) -> int:
        return self.channels * self.frames * self.patch_size**2

    @property
    def merged_size(self) -> int:
        """Width of the merger: the patches of one token side by side."""
        return self.hidden_size * self.merge**2


@dataclass(frozen=True, kw_only=True)
class QwenTower(PatchTower):
    """Qwen2.5-VL's: 2-D rotary positions, attention in windows except in a few layers.

    Attributes:
      window: pixels of a window's side.
      full_layers: layers that attend to the whole image.
    """

    window: int = 112
    full_layers: tuple[int, ...] = (7, 15, 23, 31)
    activation: str = "silu"

    @property
    def window_tokens(self) -> int:
        """Tokens (merged patches) of a window's side."""
        return self.window // self.merge // self.patch_size


@dataclass(frozen=True, kw_only=True)
class Qwen3Tower(PatchTower):
    """Qwen3-VL's: learned positions between whose values is interpolated, and states of several layers for the text.

    Attributes:
      positions: learned ones, of a square grid.
      deepstack_layers: layers whose states, merged, are added after the first text layers.
    """

    positions: int = 2304
    deepstack_layers: tuple[int, ...] = (8, 16, 24)
    activation: str = "gelu_tanh"
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    min_pixels: int = 256 * 256
    max_pixels: int = 4096 * 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isqrt(self.positions) ** 2 != self.positions:
            raise ValueError(f"num_position_embeddings={self.positions} is no square number")
        if outside := [i for i in self.deepstack_layers if i >= self.num_layers]:
            raise ValueError(f"deepstack_visual_indexes {outside} are not among the {self.num_layers} layers")

    @property
    def positions_per_side(self) -> int:
        return math.isqrt(self.positions)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A model that sees.

    Attributes:
        tower: what reads the image.
        fusion: how the text model meets it.
        text: the text model.
        image_token: id of the token that stands for an image (or for each of its tokens) in a prompt.
        extra_tokens: rows that the embedding table has after the vocabulary (Llama: 8, the image token first).
        mrope_section: rotary pairs that turn with time, height and width (Qwen-VL), or ().
        whole_images: whether the rows of an image see each other, also those after them (Gemma-3).
        mrope_interleaved: whether those stand in turns (Qwen3-VL), or side by side.
    """

    tower: TowerConfig
    fusion: Fusion
    text: ModelConfig
    image_token: int
    extra_tokens: int = 0
    mrope_section: tuple[int, ...] = ()
    mrope_interleaved: bool = False
    whole_images: bool = False
