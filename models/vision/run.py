"""Run a model that sees on a mesh: its device programs wrapped in `jax.shard_map`.

layout = VisionLayout(config, Layout(config.text, system))
vision = encode_step(layout, vision_precision)(model, pixels, aspect, used)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.sharding import PartitionSpec as P

from ttsim.meshes.systems import DATA_AXIS
from ttsim.models.cache import KVCache
from ttsim.models.parameters import map_parameters
from ttsim.models.vision.cross import VisionCache
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLanguageModel, VisionLayout
from ttsim.precision.slots import AnyPrecision

AnyMesh = Mesh | AbstractMesh | None


@functools.lru_cache(maxsize=32)
def vision_skeleton(layout: VisionLayout) -> VisionLanguageModel:
    """The abstract model: its values are never changed, so that one serves all traces."""
    return VisionLanguageModel(layout)


@functools.lru_cache(maxsize=32)
def model_specs(layout: VisionLayout) -> VisionLanguageModel:
    """A PartitionSpec in place of each parameter: the text model's by its rules, the tower's by its own."""
    text = layout.text.rules
    return map_parameters(lambda p: _spec(text, p), vision_skeleton(layout))


def _spec(rules: Any, param: Any) -> PartitionSpec:
    return rules.spec(*param.get_metadata()["axes"])


def encode_step(layout: VisionLayout, precision: VisionPrecision, mesh: AnyMesh = None) -> Callable[..., Any]:
    """The function (model, pixels [tiles, 3, S, S], aspect, used [tiles]) -> vision tokens [tiles, tokens, d]."""
    step = functools.partial(VisionLanguageModel.encode, layout=layout, precision=precision)
    return _mapped(step, layout, mesh, (P(), P(), P()), P())


def vision_prefill_step(
    layout: VisionLayout,
    precision: AnyPrecision,
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
    precision: AnyPrecision,
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
    return jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
