"""Qwen3-VL's tower: learned positions between whose values is interpolated, 2-D rotary positions, full attention.

Deepstack: the states after several layers go through mergers of their own and are added to the image's rows after the
first text layers.

Source: transformers models/qwen3_vl/modeling_qwen3_vl.py and vision_utils.py (bilinear, corners aligned).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.parameters import parameter
from ttsim.models.vision.config import Qwen3Tower
from ttsim.models.vision.layers import BiasedLayer, LayerNorm, TowerLayout, TowerStage
from ttsim.models.vision.qwen import axial_angles, places_of

MERGER_EPS = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Qwen3Image:
    """What the tower reads of one image, token by token.

    Attributes:
      patches_sp: [S, 3 x frames x P^2]. cos_sh, sin_sh: [S, head size / 2].
      near_s4: the four learned positions around each patch, int32. weights_s4: of each.
    """

    patches_sp: Any
    cos_sh: Any
    sin_sh: Any
    near_s4: Any
    weights_s4: Any


def qwen3_image(tower: Qwen3Tower, patches: np.ndarray, grid: tuple[int, int], head_size: int) -> Qwen3Image:
    """Makes one image's rotary tables and positions (on the host).

    Args:
      patches: [rows x columns, values], token by token. grid: (rows, columns) of patches.
      head_size: of the tower's heads in whole tiles; what is beyond the true size isn't rotated.
    """
    places = places_of(tower, grid)
    angles = axial_angles(tower, places, head_size)
    side = tower.positions_per_side
    taps, weights = [], []
    for axis, count in enumerate(grid):
        # The grid's first and last patch lie on the table's first and last position.
        at = np.linspace(0, side - 1, count, dtype=np.float32)[places[:, axis]]
        low = np.minimum(np.floor(at).astype(np.int32), side - 1)
        taps.append(np.stack([low, np.minimum(low + 1, side - 1)], -1))
        weights.append(np.stack([1 - (at - low), at - low], -1).astype(np.float32))
    near = (taps[0][:, :, None] * side + taps[1][:, None, :]).reshape(-1, 4)
    weight = (weights[0][:, :, None] * weights[1][:, None, :]).reshape(-1, 4)
    return Qwen3Image(patches, np.cos(angles), np.sin(angles), near.astype(np.int32), weight)


class Merger(nnx.Module):
    """The patches of a token, side by side, made one: fc2(gelu(fc1 x)), normed by patch or (`after`) by token."""

    def __init__(self, tower: Qwen3Tower, text_size: int, rngs: nnx.Rngs | None, *, after: bool):
        merged = tower.merged_size
        self.after = after
        self.norm = LayerNorm(merged if after else tower.hidden_size, MERGER_EPS, rngs)
        self.merged_mm = parameter((merged, merged), (None, None), rngs)
        self.merged_bias_m = parameter((merged,), (None,), rngs, scale=0.02)
        self.projector_md = parameter((merged, text_size), (None, "residual"), rngs)
        self.projector_bias_d = parameter((text_size,), ("residual",), rngs, scale=0.02)

    def __call__(self, x_sd: Array, stage: TowerStage) -> Array:
        merged = self.merged_mm.shape[0]
        x = self.norm(x_sd.reshape(-1, merged) if self.after else x_sd, stage).reshape(-1, merged)
        x = stage.linear_bias(x, self.merged_mm, self.merged_bias_m, "gelu")
        tokens: Array = stage.linear_bias(x, self.projector_md, self.projector_bias_d)
        return tokens


class Qwen3VisionTower(nnx.Module):
    """Patches of one image -> its tokens in the prompt, and what is added to them after the first text layers.

    Args:
      layout: the tower on its system. text_size: hidden size of the text model.
      rngs: source of random parameters; None builds the tower abstractly.
    """

    def __init__(self, layout: TowerLayout, text_size: int, rngs: nnx.Rngs | None = None):
        tower = layout.tower
        assert isinstance(tower, Qwen3Tower)
        if tower.out_size != text_size:
            raise ValueError(f"the vision tower's out_hidden_size={tower.out_size} is not the text model's {text_size}")
        size = tower.hidden_size
        self.patch_pd = parameter((tower.patch_values, size), (None, None), rngs)
        self.patch_bias_d = parameter((size,), (None,), rngs, scale=0.02)
        self.position_sd = parameter((tower.positions, size), (None, None), rngs, scale=0.02)
        self.layers = nnx.List([BiasedLayer(layout, rngs) for _ in range(tower.num_layers)])
        self.merger = Merger(tower, text_size, rngs, after=False)
        self.deep_mergers = nnx.List([Merger(tower, text_size, rngs, after=True) for _ in tower.deepstack_layers])

    def encode(self, inputs: Qwen3Image, stage: TowerStage) -> tuple[Array, ...]:
        """An image -> this device's columns [S / merge^2, d / devices] of its tokens and of each kept layer's view."""
        tower, fmt = stage.layout.tower, stage.precision.activation
        assert isinstance(tower, Qwen3Tower)
        x = stage.linear_bias(tt.from_torch(inputs.patches_sp, format=fmt), self.patch_pd, self.patch_bias_d)
        positions = tt.interpolated_rows(self.position_sd[...], inputs.near_s4, inputs.weights_s4, format=fmt)
        x = stage.add(x, positions)
        cos, sin = (tt.from_torch(table[None], format=fmt) for table in (inputs.cos_sh, inputs.sin_sh))
        deep = []
        for index, layer in enumerate(self.layers):
            x = qwen3_layer(layer, x, cos, sin, stage=stage)
            if index in tower.deepstack_layers:
                merger = self.deep_mergers[tower.deepstack_layers.index(index)]
                deep.append(deepstack_merger(merger, x, stage=stage))
        return (self.merger(x, stage), *deep)


@functools.partial(jax.jit, static_argnames=("stage",))
def qwen3_layer(layer: BiasedLayer, x: Array, cos: Array, sin: Array, *, stage: TowerStage) -> Array:
    def rotate(heads: Array) -> Array:
        return tt.rotary(heads, cos, sin, out_format=stage.precision.activation)

    x = stage.add(x, layer.attention(layer.attention_norm(x, stage), None, stage, rotate))
    out: Array = stage.add(x, layer.mlp(layer.mlp_norm(x, stage), stage))
    return out


@functools.partial(jax.jit, static_argnames=("stage",))
def deepstack_merger(merger: Merger, x: Array, *, stage: TowerStage) -> Array:
    return merger(x, stage)
