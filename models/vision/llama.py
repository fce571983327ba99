"""Llama-3.2-Vision's tower: tiles of an image through local layers, gated global layers and a projector.

All tiles of one image are one sequence: each tile is its patches and a class token, padded to a multiple of 8 rows (as
Meta's code does: those rows are seen) and to whole tiles of the device (which are not).

Source: tt-metal models/tt_transformers/tt/multimodal/llama_{vision_encoder,image_transformer,image_block,
image_attention,image_mlp,tile_position_embedding,positional_embedding,class_embedding}.py, April 2025.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from ttsim import ops as tt
from ttsim.models.grids import TILE, round_up
from ttsim.models.parameters import parameter
from ttsim.models.vision.config import LlamaTower
from ttsim.models.vision.layers import LayerNorm, TowerLayout, TowerStage, VisionAttention, VisionMLP

REFERENCE_ROWS = 8  # the reference pads a tile's rows to a multiple of this


class VisionLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); a global layer gates both by the tanh of a parameter."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None, *, gated: bool):
        size, eps = layout.tower.hidden_size, layout.tower.norm_eps
        self.attention_norm = LayerNorm(size, eps, rngs)
        self.attention = VisionAttention(layout, rngs)
        self.mlp_norm = LayerNorm(size, eps, rngs)
        self.mlp = VisionMLP(layout, rngs)
        self.attention_gate = parameter((1,), (None,), rngs, scale=0) if gated else None
        self.mlp_gate = parameter((1,), (None,), rngs, scale=0) if gated else None


class TileEmbedding(nnx.Module):
    """One row for each tile of each canvas, gated: x + tanh(gate) table[aspect]."""

    def __init__(self, tower: LlamaTower, rngs: nnx.Rngs | None):
        shape = (len(tower.aspect_ratios) + 1, tower.max_tiles, 1, tower.hidden_size)
        self.table_atrd = parameter(shape, (None,) * 4, rngs, scale=0.02)
        self.gate = parameter((1,), (None,), rngs, scale=0)

    def __call__(self, x_tsd: Any, aspect: Any, stage: TowerStage) -> Any:
        fmt = stage.precision.activation
        rows = tt.take_aspect(self.table_atrd[...], aspect, tiles=x_tsd.shape[0], format=fmt)
        return tt.add_spread(x_tsd, tt.gate(rows, self.gate[...], out_format=fmt), out_format=fmt)


class LlamaVisionTower(nnx.Module):
    """Pixels of an image's tiles -> vision tokens as wide as the text model.

    Args:
      layout: the tower on its system. text_size: hidden size of the text model.
      rngs: source of random parameters; None builds the tower abstractly.
    """

    def __init__(self, layout: TowerLayout, text_size: int, rngs: nnx.Rngs | None = None):
        tower = layout.tower
        assert isinstance(tower, LlamaTower)
        size, tokens = tower.hidden_size, tower.tokens
        aspects = len(tower.aspect_ratios) + 1
        self.patch_pd = parameter((tower.patch_values, size), (None, None), rngs)
        self.class_d = parameter((size,), (None,), rngs, scale=0.02)
        self.position_sd = parameter((tokens, size), (None, None), rngs, scale=0.02)
        self.position_gate = parameter((1,), (None,), rngs, scale=0)
        self.tile_position_atsd = parameter((aspects, tower.max_tiles, tokens, size), (None,) * 4, rngs, scale=0.02)
        self.pre_tile = TileEmbedding(tower, rngs)
        self.post_tile = TileEmbedding(tower, rngs)
        self.norm_pre = LayerNorm(size, 1e-5, rngs)
        self.norm_post = LayerNorm(size, 1e-5, rngs)
        self.layers = nnx.List([VisionLayer(layout, rngs, gated=False) for _ in range(tower.num_layers)])
        self.global_layers = nnx.List([VisionLayer(layout, rngs, gated=True) for _ in range(tower.num_global_layers)])
        # Rows in the order [last state, kept states]: checkpoints interleave the kept ones element by element.
        self.projector_pd = parameter((tower.feature_size, text_size), (None, "residual"), rngs)
        self.projector_bias_d = parameter((text_size,), ("residual",), rngs, scale=0.02)

    def features(self, patches_tpv: Any, aspect: Any, mask: Any, stage: TowerStage) -> Any:
        """The last state and the kept ones of every token (inside `shard_map`).

        Args:
          patches_tpv: [tiles, patches, 3 P^2], the host's rows.
          aspect: int32 scalar, number of the canvas. mask: of all tiles' rows, padding included (`tt.tower_mask`).
          stage: layout and precision.

        Returns:
          [tiles, tokens, feature_size].
        """
        tower, fmt = stage.layout.tower, stage.precision.activation
        assert isinstance(tower, LlamaTower)
        tiles = patches_tpv.shape[0]
        padded = round_up(tower.tokens, TILE)
        x = stage.linear(patches_tpv, self.patch_pd, setting=stage.precision.patch_setting)
        x = self.pre_tile(x, aspect, stage)
        x = tt.prepend_class(x, self.class_d[...], format=fmt)
        x = tt.add_positions(
            x, self.position_sd[...], self.tile_position_atsd[...], self.position_gate[...], aspect, out_format=fmt
        )
        x = tt.pad_rows(self.norm_pre(x, stage), rows=padded, format=fmt)
        x = x.reshape(tiles * padded, -1)
        kept = {}
        for index, layer in enumerate(self.layers):
            if index in tower.kept_layers:
                kept[index] = x
            x = local_layer(layer, x, mask, stage=stage)
        x = self.norm_post(x, stage).reshape(tiles, padded, -1)
        x = self.post_tile(x, aspect, stage).reshape(tiles * padded, -1)
        for layer in self.global_layers:
            x = global_layer(layer, x, mask, stage=stage)
        states = [x, *(kept[index] for index in tower.kept_layers)]
        rows = [tt.slice_rows(s.reshape(tiles, padded, -1), rows=tower.tokens, format=fmt) for s in states]
        return tt.concat_columns(*rows, format=fmt)

    def project(self, features: Any, stage: TowerStage) -> Any:
        """Features [..., feature_size] -> this device's columns of the vision tokens [..., d / devices]."""
        return stage.linear_bias(features, self.projector_pd, self.projector_bias_d)


# Layers are jitted by themselves, so that a program shows them as two repeated blocks.


@functools.partial(jax.jit, static_argnames=("stage",))
def local_layer(layer: VisionLayer, x: Any, mask: Any, *, stage: TowerStage) -> Any:
    x = stage.add(x, layer.attention(layer.attention_norm(x, stage), mask, stage))
    return stage.add(x, layer.mlp(layer.mlp_norm(x, stage), stage))


@functools.partial(jax.jit, static_argnames=("stage",))
def global_layer(layer: VisionLayer, x: Any, mask: Any, *, stage: TowerStage) -> Any:
    assert layer.attention_gate is not None
    assert layer.mlp_gate is not None
    fmt = stage.precision.activation
    out = layer.attention(layer.attention_norm(x, stage), mask, stage)
    x = stage.add(x, tt.gate(out, layer.attention_gate[...], out_format=fmt))
    out = layer.mlp(layer.mlp_norm(x, stage), stage)
    return stage.add(x, tt.gate(out, layer.mlp_gate[...], out_format=fmt))
