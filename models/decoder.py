"""One decoder layer: a mixer and an MLP between their norms, and the residual stream past them.

Axes in names: b users, t tokens of a prompt, d hidden size.

Source: tt-metal models/tt_transformers tt/{decoder,distributed_norm}.py, May 2025.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.attention import Attention, Rotary
from ttsim.models.deltanet import DeltaNet
from ttsim.models.experts import expert_mlp
from ttsim.models.features import LayerKind
from ttsim.models.latent import LatentAttention
from ttsim.models.layer_inputs import LayerInput
from ttsim.models.layout import Layout
from ttsim.models.mlp import MLP
from ttsim.models.parallel import Galaxy, OneAxis, decode_stage
from ttsim.models.parameters import Parameter, parameter
from ttsim.models.reused import ReusedAttention
from ttsim.precision.values import LayerPrecision

Stage = OneAxis | Galaxy

# How a layer's tokens see each other, and what follows: classes by `LayerKind.mixer` and `LayerKind.mlp`.
#
# A mixer is made with (layout, kind, rngs) and has
#   decode(h_bd, rotary, positions, keys, values, stage, kind) -> (out, keys, values)
#   prefill(h_td, rotary, user, last, keys, values, stage, kind, start) -> (out, keys, values)
# where `last` is the last row that is no padding (None: all count), and keys and values are the two arrays that
# `ttsim.models.cache` keeps for a layer of its kind. An MLP is made alike
# and has __call__(h, stage, residual) -> out. Both leave `out` in the residual stream's sharding.
MIXERS: dict[str, Any] = {
    "attention": Attention,
    "reused": ReusedAttention,
    "latent": LatentAttention,
    "delta": DeltaNet,
}
MLPS: dict[str, Any] = {"dense": MLP, "experts": expert_mlp}


class DecoderLayer(nnx.Module):
    """A mixer and an MLP, each with the norms that `ModelConfig.block` places around it."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        c = layout.config

        def norm(wanted: bool) -> Parameter | None:
            return parameter((c.hidden_size,), ("norm",), rngs, scale=0) if wanted else None

        self.attention_norm_d = norm(c.block != "post")
        self.attention = MIXERS[kind.mixer](layout, kind, rngs)
        self.attention_out_norm_d = norm(c.block in ("post", "sandwich"))
        self.mlp_norm_d = norm(c.block in ("pre", "sandwich"))
        self.mlp = MLPS[kind.mlp](layout, kind, rngs)
        self.mlp_out_norm_d = norm(c.block in ("post", "sandwich"))
        self.input = LayerInput(layout, rngs) if c.layer_inputs else None
        self.scale = parameter((1,), (None,), rngs, scale=0) if c.layer_scale else None


# Layers are jitted by themselves: all layers of one precision and kind then share one trace, and a program shows them
# as one repeated block, named after the function.

DECODE_LAYER, PREFILL_LAYER = "decode_layer", "prefill_layer"


@functools.partial(jax.jit, static_argnames=("layout", "precision", "kind"))
def decode_layer(
    layer: DecoderLayer,
    x: Array,
    rotary: Rotary | None,
    positions: Array,
    keys: Array,
    values: Array,
    *,
    layout: Layout,
    precision: LayerPrecision,
    kind: LayerKind,
    given: Array | None = None,
) -> tuple[Array, Array, Array]:
    stage = decode_stage(layout, precision)

    def attend(h: Array) -> Array:
        nonlocal keys, values
        out: Array
        out, keys, values = layer.attention.decode(h, rotary, positions, keys, values, stage, kind)
        return out

    return _layer(layer, x, attend, stage, given), keys, values


@functools.partial(jax.jit, static_argnames=("start", "stage", "kind"))
def prefill_layer(
    layer: DecoderLayer,
    x: Array,
    rotary: Rotary | None,
    user: Array,
    last: Array | None,
    keys: Array,
    values: Array,
    *,
    start: int,
    stage: Stage,
    kind: LayerKind,
    mask: Array | None = None,
    given: Array | None = None,
) -> tuple[Array, Array, Array]:
    seen = {} if mask is None else {"mask": mask}  # only attention has one

    def attend(h: Array) -> Array:
        nonlocal keys, values
        out: Array
        out, keys, values = layer.attention.prefill(h, rotary, user, last, keys, values, stage, kind, start, **seen)
        return out

    return _layer(layer, x, attend, stage, given), keys, values


def _layer(
    layer: DecoderLayer, x: Array, attend: Callable[[Array], Array], stage: Stage, given: Array | None = None
) -> Array:
    """One layer of either phase: the norms around the mixer and the MLP, and the residual stream past them."""
    layout, fmt = stage.layout, stage.precision.residual
    in_l1 = stage.memory == "l1"
    attention_cores, mlp_cores = (layout.attention_cores, layout.mlp_cores) if in_l1 else (None, None)
    h = _normalised(x, layer.attention_norm_d, stage, cores=attention_cores)
    if layout.config.block == "parallel":
        out = tt.add(attend(h), layer.mlp(h, stage, x), out_format=fmt, memory=stage.memory)
        return _added(x, out, stage)
    x = _added(x, _post_norm(attend(h), layer.attention_out_norm_d, stage), stage)
    h = _normalised(x, layer.mlp_norm_d, stage, cores=mlp_cores, move=False)
    x = _added(x, _post_norm(layer.mlp(h, stage, x), layer.mlp_out_norm_d, stage), stage)
    if layer.input is not None:
        assert given is not None
        x = layer.input(x, given, stage)
    if layer.scale is None:
        return x
    return tt.multiply(x, layer.scale[...].reshape((1,) * x.ndim), out_format=fmt, memory=stage.memory)


def _normalised(x: Array, weight: Parameter | None, stage: Stage, *, cores: int | None, move: bool = True) -> Array:
    """What a column-parallel weight multiplies: x normalised, or as it is where the block has no norm before."""
    if weight is not None:
        return stage.norm(centered(x, stage), weight, cores=cores, move=move)
    layout, fmt = stage.layout, stage.precision.residual
    if not layout.two_d and layout.residual_ways > 1:
        return stage.all_gather(x, layout.residual_axis, fmt)
    return stage.reshard(x, fmt, cores)


def centered(x: Array, stage: Stage) -> Array:
    """x without its mean where the model's norms are layer norms."""
    layout = stage.layout
    if layout.config.norm == "rms":
        return x
    axis = layout.residual_axis if layout.residual_ways > 1 else None
    return tt.center(x, axis=axis, out_format=stage.precision.residual, memory=stage.memory)


def _post_norm(out: Array, weight: Parameter | None, stage: Stage) -> Array:
    """A branch's output normalised before it joins the residual stream, in whose sharding it stays.

    A line or ring gathers, normalises and cuts again; a Galaxy gathers statistics only.
    """
    if weight is None:
        return out
    layout, fmt = stage.layout, stage.precision.residual
    cores = layout.residual_cores if stage.memory == "l1" else None
    if layout.two_d:
        return stage.norm_apply(out, stage.norm_stats(out, None), weight, None)
    if layout.residual_ways == 1:
        return stage.norm(out, weight, cores=cores, move=False)
    whole = stage.norm(out, weight, cores=cores)
    return tt.mesh_partition(whole, axis=layout.residual_axis, format=fmt, memory=stage.memory)


def _added(x: Array, out: Array, stage: Stage) -> Array:
    """The residual stream with a branch's output."""
    fmt, factor = stage.precision.residual, stage.layout.config.residual_scale
    if factor != 1:
        out = tt.scale(out, factor=factor, out_format=fmt, memory=stage.memory)
    cores = stage.layout.residual_cores if stage.memory == "l1" else None
    return tt.add(x, out, out_format=fmt, memory=stage.memory, cores=cores)
