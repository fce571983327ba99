"""Run a model that sees on a mesh: its device programs wrapped in `jax.shard_map`.

layout = VisionLayout(config, Layout(config.text, system))
vision = encode_step(layout, vision_precision)(model, pixels, aspect, used)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.sharding import PartitionSpec as P

from ttsim import ops as tt
from ttsim.meshes.sharding import ShardingRules
from ttsim.meshes.systems import DATA_AXIS
from ttsim.models.cache import KVCache
from ttsim.models.decoder import DECODE_LAYER, PREFILL_LAYER
from ttsim.models.parameters import map_parameters, traits
from ttsim.models.run import one_layer_a_run
from ttsim.models.vision.config import LlamaTower, PatchTower, Qwen3Tower, QwenTower, SiglipTower, TowerConfig
from ttsim.models.vision.cross import CROSS_DECODE_LAYER, CROSS_PREFILL_LAYER, VisionCache
from ttsim.models.vision.layers import TowerLayout, VisionPrecision
from ttsim.models.vision.model import VisionLanguageModel, VisionLayout
from ttsim.models.vision.prompt import DEEPSTACK, PromptVisionModel
from ttsim.models.vision.qwen import QwenImage
from ttsim.models.vision.qwen3 import Qwen3Image
from ttsim.precision.slots import PrecisionSlots, abstract_precision
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program, trace

AnyMesh = Mesh | AbstractMesh | None
Grid = tuple[int, int]  # (rows, columns) of an image's patches


@functools.lru_cache(maxsize=32)
def vision_skeleton(layout: VisionLayout) -> VisionLanguageModel:
    """The abstract model: its values are never changed, so that one serves all traces."""
    return VisionLanguageModel(layout)


@functools.lru_cache(maxsize=32)
def model_specs(layout: VisionLayout) -> VisionLanguageModel:
    """A PartitionSpec in place of each parameter: the text model's by its rules, the tower's by its own."""
    text = layout.text.rules
    return map_parameters(lambda p: _spec(text, p), vision_skeleton(layout))


def _spec(rules: ShardingRules, param: nnx.Variable[Any]) -> PartitionSpec:
    spec: PartitionSpec = rules.spec(*traits(param).axes)
    return spec


def encode_step(layout: VisionLayout, precision: VisionPrecision, mesh: AnyMesh = None) -> Callable[..., Any]:
    """The function (model, pixels [tiles, 3, S, S], aspect, used [tiles]) -> vision tokens [tiles, tokens, d]."""
    step = functools.partial(VisionLanguageModel.encode, layout=layout, precision=precision)
    return _mapped(step, layout, mesh, (P(), P(), P()), P())


def vision_prefill_step(
    layout: VisionLayout,
    precision: Precision,
    vision_precision: VisionPrecision,
    batch: int,
    *,
    logits: Literal["last", "all"] = "last",
    mesh: AnyMesh = None,
) -> Callable[..., Any]:
    """The function (model, tokens, positions, vision, seen, user, last, cache, vision cache) -> (logits, both caches).

    Args and result: see `VisionLanguageModel.prefill`. One replica.
    """
    step = functools.partial(
        VisionLanguageModel.prefill,
        layout=layout,
        precision=precision,
        vision_precision=vision_precision,
        logits=logits,
    )
    caches = (KVCache.specs(layout.text, batch), VisionCache.specs(layout.text))
    return _mapped(step, layout, mesh, (P(),) * 6 + caches, (P(None, layout.text.axis), *caches))


def vision_decode_step(
    layout: VisionLayout,
    precision: Precision,
    vision_precision: VisionPrecision,
    batch: int,
    mesh: AnyMesh = None,
) -> Callable[..., Any]:
    """The function (model, tokens [B], positions [B], seen [B, tiles], cache, vision cache) -> (logits, cache)."""
    step = functools.partial(
        VisionLanguageModel.decode, layout=layout, precision=precision, vision_precision=vision_precision
    )
    cache = KVCache.specs(layout.text, batch)
    specs = (P(DATA_AXIS), P(DATA_AXIS), P(DATA_AXIS), cache, VisionCache.specs(layout.text))
    return _mapped(step, layout, mesh, specs, (P(DATA_AXIS), cache))


def _mapped(step: Any, layout: VisionLayout, mesh: AnyMesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    mesh = layout.text.system.abstract_mesh() if mesh is None else mesh
    specs = (model_specs(layout), *in_specs)
    mapped: Callable[..., Any] = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return mapped


# What one device runs, without devices or weights


def prompt_step(
    layout: VisionLayout, precision: Precision, vision_precision: VisionPrecision, batch: int
) -> Callable[..., Any]:
    """A whole prompt: its images and its text.

    The function (model, pixels [images, tiles, 3, S, S], aspects [images], used [images, tiles], tokens, positions,
    seen, user, last, cache, vision cache) -> (logits, both caches).
    """

    def step(
        model: VisionLanguageModel,
        pixels: Array,
        aspects: Array,
        used: Array,
        tokens_t: Array,
        positions_t: Array,
        seen: Array,
        user: Array,
        last: Array,
        cache: KVCache,
        vision_cache: VisionCache,
    ) -> tuple[Array, KVCache, VisionCache]:
        vision = [
            model.encode(pixels[i], aspects[i], used[i], layout=layout, precision=vision_precision)
            for i in range(layout.images)
        ]
        result: tuple[Array, KVCache, VisionCache] = model.prefill(
            tokens_t,
            positions_t,
            tt.stack_images(*vision, format=vision_precision.activation) if len(vision) > 1 else vision[0][None],
            seen,
            user,
            last,
            cache,
            vision_cache,
            layout=layout,
            precision=precision,
            vision_precision=vision_precision,
        )
        return result

    caches = (KVCache.specs(layout.text, batch), VisionCache.specs(layout.text))
    return _mapped(step, layout, None, (P(),) * 8 + caches, (P(None, layout.text.axis), *caches))


@functools.lru_cache(maxsize=64)
def vision_prompt_program(
    layout: VisionLayout, precision: Precision, vision_precision: VisionPrecision, length: int
) -> Program:
    """What one device, and the host, run for one user's prompt of `length` padded rows."""
    small, slots, counts, value = _one_layer_a_run(layout, precision)
    tower, full = small.config.tower, layout.config.tower
    assert isinstance(tower, LlamaTower)
    assert isinstance(full, LlamaTower)
    images, tiles = layout.images, layout.tiles
    shape: type[jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
    scalar = shape((), jnp.int32)
    program = trace(
        prompt_step(small, slots, vision_precision, 1),
        vision_skeleton(small),
        shape((images, tiles, tower.channels, tower.image_size, tower.image_size), jnp.float32),
        shape((images,), jnp.int32),
        shape((images, tiles), jnp.float32),
        shape((length,), jnp.int32),
        shape((length,), jnp.int32),
        shape((length, images * tiles), jnp.float32),
        scalar,
        scalar,
        KVCache.abstract(small.text, 1),
        VisionCache.abstract(small.text, 1, small.rows),
    )
    program = program.repeat("local_layer", (full.num_layers,) * images)
    program = program.repeat("global_layer", (full.num_global_layers,) * images)
    program = program.repeat(CROSS_PREFILL_LAYER, counts["cross"]).repeat(PREFILL_LAYER, counts["text"])
    return program.fill(value)


@functools.lru_cache(maxsize=64)
def vision_decode_program(
    layout: VisionLayout, precision: Precision, vision_precision: VisionPrecision, batch: int
) -> Program:
    """What one device, and the host, run for one token of each user."""
    small, slots, counts, value = _one_layer_a_run(layout, precision)
    row = jax.ShapeDtypeStruct((batch,), jnp.int32)
    program = trace(
        vision_decode_step(small, slots, vision_precision, batch),
        vision_skeleton(small),
        row,
        row,
        jax.ShapeDtypeStruct((batch, layout.images * layout.tiles), jnp.float32),
        KVCache.abstract(small.text, batch),
        VisionCache.abstract(small.text, batch, small.rows),
    )
    program = program.repeat(CROSS_DECODE_LAYER, counts["cross"]).repeat(DECODE_LAYER, counts["text"])
    return program.fill(value)


def _one_layer_a_run(layout: VisionLayout, precision: Precision) -> Any:
    """The same model with one layer of each kind: (layout, precision's slots, counts by kind, its values)."""
    config, tower = layout.config.text, layout.config.tower
    assert isinstance(tower, LlamaTower)
    text_layers = len(config.self_attention_layers)
    slots, value = abstract_precision(precision, text_layers)
    kinds: list[tuple[int, bool]] = []  # (class, whether it attends to images); a cross layer has the next one's class
    slot = 0
    for index in range(config.num_layers):
        cross = index in config.cross_attention_layers
        kinds.append((slots.classes[min(slot, text_layers - 1)], cross))
        slot += not cross
    distinct = sorted(set(kinds), key=lambda kind: (kind[0], not kind[1]))
    small = dataclasses.replace(
        config,
        num_layers=len(distinct),
        cross_attention_layers=tuple(i for i, (_, cross) in enumerate(distinct) if cross),
    )
    one = dataclasses.replace(tower, num_layers=1, num_global_layers=1, kept_layers=(0,) * len(tower.kept_layers))
    system = dataclasses.replace(layout.text.system, data_parallel=1)
    layout = dataclasses.replace(
        layout,
        config=dataclasses.replace(layout.config, tower=one, text=small),
        text=dataclasses.replace(layout.text, config=small, system=system),
    )
    counts = {
        name: tuple(kinds.count(kind) for kind in distinct if kind[1] == cross)
        for name, cross in (("cross", True), ("text", False))
    }
    classes = tuple(kind[0] for kind in distinct if not kind[1])
    return layout, PrecisionSlots(classes), counts, value


# Models in whose prompt the image's tokens stand


@functools.lru_cache(maxsize=64)
def image_prompt_program(
    layout: VisionLayout, precision: Precision, vision_precision: VisionPrecision, grids: tuple[Grid, ...], length: int
) -> Program:
    """What one device and its host run for a prompt of `length` padded rows in which images stand.

    Args:
      grids: (rows, columns) of patches of each image.
    """
    slots, value = abstract_precision(precision, len(layout.config.text.self_attention_layers))
    text, slots, counts = one_layer_a_run(layout.text, slots)
    tower, tower_counts = _one_layer_a_kind(layout.config.tower)
    small = dataclasses.replace(
        layout, config=dataclasses.replace(layout.config, tower=tower, text=text.config), text=text
    )
    system = text.system
    skeleton = PromptVisionModel(small)
    specs = map_parameters(lambda p: _spec(small.text.rules, p), skeleton)

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
