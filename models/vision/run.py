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
from ttsim.models.vision.config import LlamaTower
from ttsim.models.vision.cross import CROSS_DECODE_LAYER, CROSS_PREFILL_LAYER, VisionCache
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLanguageModel, VisionLayout
from ttsim.precision.slots import PrecisionSlots, abstract_precision, held
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program, trace

AnyMesh = Mesh | AbstractMesh | None


@functools.lru_cache(maxsize=32)
def vision_skeleton(layout: VisionLayout) -> VisionLanguageModel:
    """The abstract model: its values are never changed, so that one serves all traces."""
    return VisionLanguageModel(layout)


@functools.lru_cache(maxsize=32)
def model_specs(layout: VisionLayout) -> VisionLanguageModel:
    """A PartitionSpec in place of each parameter: the text model's by its rules, the tower's by its own."""
    text = layout.text.rules
    return map_parameters(lambda p: parameter_spec(text, p), vision_skeleton(layout))


def parameter_spec(rules: ShardingRules, param: nnx.Variable[Any]) -> PartitionSpec:
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
    vision_precision = held(vision_precision)
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
    vision_precision = held(vision_precision)
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
