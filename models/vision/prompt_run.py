"""Programs of models in whose prompt the image's tokens stand: one device and its host, without devices or weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from ttsim import ops as tt
from ttsim.models.cache import KVCache
from ttsim.models.decoder import PREFILL_LAYER
from ttsim.models.parameters import map_parameters
from ttsim.models.run import one_layer_a_run
from ttsim.models.vision.config import PatchTower, Qwen3Tower, QwenTower, SiglipTower, TowerConfig
from ttsim.models.vision.layers import TowerLayout, VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.prompt import DEEPSTACK, PromptVisionModel
from ttsim.models.vision.qwen import QwenImage
from ttsim.models.vision.qwen3 import Qwen3Image
from ttsim.models.vision.run import parameter_spec
from ttsim.precision.slots import abstract_precision, held
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program, trace

Grid = tuple[int, int]  # (rows, columns) of an image's patches


@functools.lru_cache(maxsize=64)
def image_prompt_program(
    layout: VisionLayout, precision: Precision, vision_precision: VisionPrecision, grids: tuple[Grid, ...], length: int
) -> Program:
    """What one device and its host run for a prompt of `length` padded rows in which images stand.

    Args:
      grids: (rows, columns) of patches of each image.
    """
    slots, value = abstract_precision(precision, len(layout.config.text.self_attention_layers))
    vision_precision = held(vision_precision)
    text, slots, counts = one_layer_a_run(layout.text, slots)
    tower, tower_counts = _one_layer_a_kind(layout.config.tower)
    small = dataclasses.replace(
        layout, config=dataclasses.replace(layout.config, tower=tower, text=text.config), text=text
    )
    system = text.system
    skeleton = PromptVisionModel(small)
    specs = map_parameters(lambda p: parameter_spec(small.text.rules, p), skeleton)

    def step(
        model: PromptVisionModel,
        images: tuple[Any, ...],
        tokens_t: Array,
        positions: Array,
        places: Array,
        blocks_t: Array | None,
        user: Array,
        last: Array,
        cache: KVCache,
    ) -> tuple[Array, KVCache]:
        seen = [model.encode(image, layout=small, precision=vision_precision) for image in images]
        joined = [tt.join_rows(*parts, format=vision_precision.activation) for parts in zip(*seen, strict=True)]
        vision = tuple(joined) if len(seen) > 1 else seen[0]
        tokens_t, positions = tt.copy_to_device(tokens_t, positions, work="prompt")
        logits, cache = model.prefill(
            tokens_t,
            positions,
            vision,
            places,
            user,
            last,
            cache,
            layout=small,
            precision=slots,
            blocks_t=blocks_t,
        )
        return tt.read_back(logits, work="prompt"), cache

    caches = KVCache.specs(small.text, 1)
    mapped = jax.shard_map(
        step,
        mesh=system.abstract_mesh(),
        in_specs=(specs, *(P(),) * 7, caches),
        out_specs=(P(None, small.text.axis), caches),
        check_vma=False,
    )
    shape: type[jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
    scalar = shape((), jnp.int32)
    images = tuple(abstract_image(layout.tower, grid) for grid in grids)
    tokens = sum(image_tokens(layout.config.tower, grid) for grid in grids)
    positions = (3, length) if layout.config.mrope_section else (length,)
    program = trace(
        mapped,
        skeleton,
        images,
        shape((length,), jnp.int32),
        shape(positions, jnp.int32),
        shape((tokens,), jnp.int32),
        shape((length,), jnp.int32) if layout.config.whole_images else None,
        scalar,
        scalar,
        KVCache.abstract(small.text, 1),
    )
    for block, each in tower_counts.items():
        program = program.repeat(block, each * len(grids))
    if deep := len(getattr(layout.config.tower, "deepstack_layers", ())):
        traced = min(deep, len(counts))
        program = program.repeat(DEEPSTACK, (deep - traced + 1, *(1,) * (traced - 1)))
    return program.repeat(PREFILL_LAYER, counts).fill(value)


def image_tokens(tower: TowerConfig, grid: Grid) -> int:
    """Tokens that an image has in the prompt."""
    if isinstance(tower, PatchTower):
        return grid[0] * grid[1] // tower.merge**2
    assert isinstance(tower, SiglipTower)
    return tower.image_tokens


def abstract_image(layout: TowerLayout, grid: Grid) -> Any:
    """What the tower reads of an image of this many patches, without values."""
    tower = layout.tower
    shape: type[jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
    if isinstance(tower, SiglipTower):
        return shape((tower.channels, tower.image_size, tower.image_size), jnp.float32)
    assert isinstance(tower, PatchTower)
    rows = grid[0] * grid[1]
    table = shape((rows, layout.head_size // 2), jnp.float32)
    patches, mask = shape((rows, tower.patch_values), jnp.float32), shape((rows, rows), jnp.float32)
    if isinstance(tower, Qwen3Tower):
        return Qwen3Image(patches, table, table, shape((rows, 4), jnp.int32), shape((rows, 4), jnp.float32))
    return QwenImage(patches, table, table, mask, shape((rows // tower.merge**2,), jnp.int32))


def _one_layer_a_kind(tower: TowerConfig) -> tuple[TowerConfig, dict[str, tuple[int, ...]]]:
    """The tower with one layer of each kind, and how often each stands in it, by the block's name."""
    if isinstance(tower, SiglipTower):
        return dataclasses.replace(tower, num_layers=1), {"siglip_layer": (tower.num_layers,)}
    if isinstance(tower, Qwen3Tower):
        small3 = dataclasses.replace(tower, num_layers=1, deepstack_layers=(0,))
        return small3, {"qwen3_layer": (tower.num_layers,), "deepstack_merger": (len(tower.deepstack_layers),)}
    assert isinstance(tower, QwenTower)
    full = len([layer for layer in tower.full_layers if layer < tower.num_layers])
    small = dataclasses.replace(tower, num_layers=2, full_layers=(1,))
    return small, {"qwen_layer": (tower.num_layers - full, full)}
