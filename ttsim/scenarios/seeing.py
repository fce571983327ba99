"""A scenario whose prompt has images: its programs, and the memory that they need.

The tower runs once for each image, then the text model reads the prompt; users come one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

from ttsim.files.reading import shown
from ttsim.hardware.chips import Chip
from ttsim.hardware.software import Sampler, Software
from ttsim.hardware.vision_software import vision_software
from ttsim.models.config import ModelConfig
from ttsim.models.grids import TILE, round_up
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.parameters import is_variable, key_names, traits
from ttsim.models.run import decode_program
from ttsim.models.storage import tensor_bytes_of
from ttsim.models.vision.config import LlamaTower, PatchTower, SiglipTower, TowerConfig, VisionConfig
from ttsim.models.vision.images import canvas, check_size, grid_of
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.prompt import PromptVisionModel
from ttsim.models.vision.prompt_run import image_prompt_program, image_tokens
from ttsim.models.vision.reading import VISION_TYPES, published_names, published_vision_config, read_vision_config
from ttsim.models.vision.run import vision_decode_program, vision_prompt_program, vision_skeleton
from ttsim.numerics.formats import tile_padded_bytes
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program
from ttsim.scenarios.memory import KEPT_OF_BANK, Memory, kv_cache_bytes, memory_of, trace_bytes, weight_bytes

Sizes = tuple[tuple[int, int], ...]

# The demo behind the published rows: its four prompts have 19, 16, 22 and 18 tokens, all padded to 128, and every image
# took four tiles. Source: tt-metal models/tt_transformers/demo/simple_vision_demo.py, 2025-04.
VISION_DEMO_TOKENS, VISION_DEMO_IMAGE = 19, (1024, 1024)


def vision_of(model: str | os.PathLike[str] | ModelConfig) -> VisionConfig | None:
    """The vision part of a checkpoint's path, or of what `get_config` takes; None if it has none."""
    if isinstance(model, str | os.PathLike) and os.path.exists(model) and (found := read_vision_config(model)):
        return found
    return published_vision_config(get_config(model))


class Asked(Protocol):
    """What is read of a scenario (`ttsim.scenarios.scenario.Scenario`), which is built on what is here."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def software(self) -> Software: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def images(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def vision(self) -> VisionConfig | None: ...
    @property
    def scattered_sums(self) -> bool: ...
    @property
    def chip(self) -> Chip: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def sampler(self) -> Sampler: ...
    @property
    def padded_prompt(self) -> int: ...
    @property
    def sequence_length(self) -> int: ...


def image_sizes(name: str, vision: VisionConfig | None, images: Sequence[tuple[int, int]]) -> tuple[Sizes, int]:
    """The images' sizes, and the tokens that they add to a prompt.

    Args:
      name: of the model.

    Raises:
      ValueError: the model takes no images, or a size is none.
    """
    if vision is None:
        raise ValueError(
            f"{name} takes no images here: images are priced for {', '.join(published_names())}, "
            f"and for a config.json with a vision_config and model_type {', '.join(VISION_TYPES)}"
        )
    if not isinstance(images, Sequence) or not all(isinstance(size, Sequence) for size in images):
        raise ValueError(f"images are pairs of width and height in pixels, like ((512, 512),), not {shown(images)}")
    sizes = tuple(check_size(size) for size in images)
    if isinstance(vision.tower, LlamaTower):
        return sizes, 0
    # The images' tokens are a part of the prompt.
    return sizes, sum(image_tokens(vision.tower, grid) for grid in grids_of(vision.tower, sizes))


@dataclass(frozen=True)
class Seeing:
    """What a scenario with images runs.

    Attributes:
      scenario: the question. layout: of the whole model. precision: of its vision part.
    """

    scenario: Asked
    layout: VisionLayout
    precision: VisionPrecision

    @functools.cached_property
    def prompt_program(self) -> Program:
        s, tower = self.scenario, self.layout.config.tower
        if not isinstance(tower, LlamaTower):
            grids = grids_of(tower, s.images)
            return image_prompt_program(self.layout, s.precision, self.precision, grids, s.padded_prompt)
        return vision_prompt_program(self.layout, s.precision, self.precision, s.padded_prompt)

    @functools.cached_property
    def decode_program(self) -> Program:
        s = self.scenario
        if not isinstance(self.layout.config.tower, LlamaTower):  # decode does not meet the image any more
            return decode_program(self.layout.text, s.precision, s.batch_size, sample=s.sampler)
        return vision_decode_program(self.layout, s.precision, self.precision, s.batch_size)

    @property
    def memory(self) -> Memory:
        """The DRAM of one chip: text model, cross layers and tower, both caches, and the tower's working set.

        The embedding table stays on the host, which looks tokens up.
        """
        s = self.scenario
        if not isinstance(self.layout.config.tower, LlamaTower):
            return _memory_with_tower(self)
        return Memory(
            weights=weight_bytes(self.layout.text, s.precision) + vision_weight_bytes(self),
            kv_cache=kv_cache_bytes(self.layout.text, s.precision, s.batch_size, s.sequence_length)
            + cross_cache_bytes(self),
            activations=tower_activation_bytes(self),
            reserved=trace_bytes(s.chip),
            capacity=s.chip.dram_bytes,
            system=s.chip.dram_banks * KEPT_OF_BANK,
        )


def seeing_of(scenario: Asked) -> Seeing:
    """The vision side of a scenario that has images."""
    vision, software = scenario.vision, vision_software(scenario.software.date, scenario.config.name)
    assert vision is not None
    tower = vision.tower
    precision = VisionPrecision.of(scenario.config.hidden_size, scenario.precision.layer(0))
    if not isinstance(tower, LlamaTower):
        return Seeing(scenario, VisionLayout(vision, scenario.layout, len(scenario.images), 1, software), precision)
    tiles = max(canvas(tower, size).tiles for size in scenario.images) if software.dynamic_tiles else tower.max_tiles
    tiles = 1 << (tiles - 1).bit_length()  # the tower's programs are for 1, 2 and 4 tiles
    tiles = min(tiles, tower.max_tiles)
    layout = VisionLayout(vision, scenario.layout, len(scenario.images), tiles, software, scenario.scattered_sums)
    return Seeing(scenario, layout, precision)


def grids_of(tower: TowerConfig, sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of patches of each image, for a tower whose tokens stand in the prompt."""
    if isinstance(tower, PatchTower):
        return tuple(grid_of(tower, size) for size in sizes)
    assert isinstance(tower, SiglipTower)
    return ((tower.patches_per_side,) * 2,) * len(sizes)


def _memory_with_tower(seeing: Seeing) -> Memory:
    """The text model's memory with the tower's weights, and its states and mask where they are larger."""
    import jax

    layout, s = seeing.layout, seeing.scenario
    memory = memory_of(layout.text, s.precision, s.chip, s.batch_size, s.sequence_length, [seeing.prompt_program])
    sizes = dict(zip(layout.text.system.axis_names, layout.text.system.mesh_shape, strict=True))
    tower = 0
    for _, param in jax.tree.leaves_with_path(PromptVisionModel(layout).tower, is_leaf=is_variable):
        shape, spec = param.get_value().shape, layout.tower.rules.spec(*traits(param).axes)
        local = tuple(size // sizes.get(axis, 1) for size, axis in zip(shape, spec, strict=True))
        tower += tile_padded_bytes(
            (local[0] if len(local) > 1 else 1, prod(local[1:]) if len(local) > 1 else local[0]),
            seeing.precision.weights,
        )
    return dataclasses.replace(memory, weights=memory.weights + tower)


def vision_weight_bytes(seeing: Seeing) -> int:
    """One chip's cross-attention layers, tower and projector, less the embedding table."""
    import jax

    layout, s = seeing.layout, seeing.scenario
    text = layout.text
    sizes = dict(zip(text.system.axis_names, text.system.mesh_shape, strict=True))
    cross = {str(i) for i in text.config.cross_attention_layers}
    total = 0
    for keys, param in jax.tree.leaves_with_path(vision_skeleton(layout), is_leaf=is_variable):
        names = [name for name in key_names(keys) if name != "value"]
        shape = param.get_value().shape
        kind = traits(param)
        spec = text.rules.spec(*kind.axes)
        local = tuple(size // sizes.get(axis, 1) for size, axis in zip(shape, spec, strict=True))
        local = (local[0], prod(local[1:])) if names[-1].startswith(("wqkv", "wkv")) else local
        if names[0] == "tower":
            fmt = seeing.precision.weights if len(shape) > 1 else "bf16"
            total += tile_padded_bytes((1, *local) if len(local) == 1 else local, fmt)
        elif names[:2] == ["text", "layers"] and names[2] in cross:
            total += tensor_bytes_of(kind, local, s.precision.layer(0), s.precision, text)
        elif names == ["text", "embedding_vd"]:
            total -= tensor_bytes_of(kind, local, None, s.precision, text)
    return total


def cross_cache_bytes(seeing: Seeing) -> int:
    """One chip's keys and values of the images of all users."""
    layout, users = seeing.layout, seeing.scenario.batch_size
    text = layout.text
    shape = (users * text.config.num_kv_heads // text.ways * layout.rows, text.config.head_dim)
    layers = len(text.config.cross_attention_layers)
    return 2 * layers * tile_padded_bytes(shape, seeing.precision.cross_cache)


def tower_activation_bytes(seeing: Seeing) -> int:
    """The tower at its widest: all chips' partial sums, the mask, the residual stream and the kept states."""
    layout = seeing.layout
    tower = layout.config.tower
    assert isinstance(tower, LlamaTower)
    rows, fmt = layout.tiles * round_up(tower.tokens, TILE), seeing.precision.activation
    state = tile_padded_bytes((rows, tower.hidden_size), fmt)
    kept = 2 + len(tower.kept_layers)
    return (layout.text.ways + kept) * state + tile_padded_bytes((rows, rows), fmt)
