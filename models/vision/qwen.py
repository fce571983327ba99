"""Qwen2.5-VL's tower: an image of any size, 2-D rotary positions, attention in windows, patches merged into tokens.

The host orders the patches window by window, so that a window is a run of rows; the merger's tokens are put back.

Source: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.parameters import parameter
from ttsim.models.vision.config import PatchTower, QwenTower
from ttsim.models.vision.layers import GatedVisionMLP, RMSNorm, TowerLayout, TowerStage, VisionAttention
from ttsim.ops.vision import MASKED


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QwenImage:
    """What the tower reads of one image, in window order.

    Attributes:
      patches_sp: [S, 3 x frames x P^2]. cos_sh, sin_sh: [S, head size / 2].
      mask_ss: [S, S], zero within a window. places_n: [S / merge^2], where each token stood in the image.
    """

    patches_sp: Any
    cos_sh: Any
    sin_sh: Any
    mask_ss: Any
    places_n: Any


def window_order(tower: QwenTower, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens in window order, the window of each) of an image of rows x columns patches."""
    height, width, side = rows // tower.merge, columns // tower.merge, tower.window_tokens
    token = np.arange(height * width)
    row, column = token // width, token % width
    window = row // side * -(-width // side) + column // side
    order = np.lexsort((token, window))
    return order, window[order]


def qwen_image(tower: QwenTower, patches: np.ndarray, grid: tuple[int, int], head_size: int) -> QwenImage:
    """Orders one image's patches and makes its rotary tables and window mask (on the host).

    Args:
      patches: [rows x columns, values], token by token. grid: (rows, columns) of patches.
      head_size: of the tower's heads in whole tiles; what is beyond the true size isn't rotated.
    """
    rows, columns = grid
    unit = tower.merge**2
    order, window = window_order(tower, rows, columns)
    taken = (order[:, None] * unit + np.arange(unit)).reshape(-1)
    angles = axial_angles(tower, places_of(tower, grid)[taken], head_size)
    same = np.repeat(window, unit)
    mask = np.where(same[:, None] == same[None], 0.0, MASKED).astype(np.float32)
    return QwenImage(patches[taken], np.cos(angles), np.sin(angles), mask, np.argsort(order).astype(np.int32))


def places_of(tower: PatchTower, grid: tuple[int, int]) -> np.ndarray:
    """Row and column of each patch [S, 2], token by token as the processor orders the patches."""
    token, within = np.divmod(np.arange(grid[0] * grid[1]), tower.merge**2)
    width = grid[1] // tower.merge
    y = token // width * tower.merge + within // tower.merge
    x = token % width * tower.merge + within % tower.merge
    return np.stack([y, x], -1)


def axial_angles(tower: PatchTower, places_s2: np.ndarray, head_size: int) -> np.ndarray:
    """Radians of each rotated pair [S, head size / 2]: half of them turn with the row, half with the column."""
    half = tower.head_dim // 2
    frequencies = (1 / tower.theta ** (np.arange(0, half, 2, dtype=np.float32) / half)).astype(np.float32)
    angles = (places_s2.astype(np.float32)[:, :, None] * frequencies).reshape(len(places_s2), -1)
    return np.pad(angles, ((0, 0), (0, head_size // 2 - angles.shape[1])))


class QwenLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None):
        size, eps = layout.tower.hidden_size, layout.tower.norm_eps
        self.attention_norm = RMSNorm(size, eps, rngs)
        self.attention = VisionAttention(layout, rngs, bias=True)
        self.mlp_norm = RMSNorm(size, eps, rngs)
        self.mlp = GatedVisionMLP(layout, rngs)


class QwenVisionTower(nnx.Module):
    """Patches of one image -> its tokens in the prompt.

    Args:
      layout: the tower on its system. text_size: hidden size of the text model.
      rngs: source of random parameters; None builds the tower abstractly.
    """

    def __init__(self, layout: TowerLayout, text_size: int, rngs: nnx.Rngs | None = None):
        tower = layout.tower
        assert isinstance(tower, QwenTower)
        if tower.out_size != text_size:
            raise ValueError(f"the vision tower's out_hidden_size={tower.out_size} is not the text model's {text_size}")
        merged = tower.merged_size
        self.patch_pd = parameter((tower.patch_values, tower.hidden_size), (None, None), rngs)
        self.layers = nnx.List([QwenLayer(layout, rngs) for _ in range(tower.num_layers)])
        self.merger_norm = RMSNorm(tower.hidden_size, tower.norm_eps, rngs)
        self.merger_mm = parameter((merged, merged), (None, None), rngs)
        self.merger_bias_m = parameter((merged,), (None,), rngs, scale=0.02)
        self.projector_md = parameter((merged, text_size), (None, "residual"), rngs)
        self.projector_bias_d = parameter((text_size,), ("residual",), rngs, scale=0.02)

    def encode(self, inputs: QwenImage, stage: TowerStage) -> tuple[Array]:
        """An image -> this device's columns of its tokens [S / merge^2, d / devices], in the image's order."""
        tower, fmt = stage.layout.tower, stage.precision.activation
        assert isinstance(tower, QwenTower)
        x = stage.linear(tt.from_torch(inputs.patches_sp, format=fmt), self.patch_pd)
        window = tt.from_torch(inputs.mask_ss, format=fmt)
        cos, sin = (tt.from_torch(table[None], format=fmt) for table in (inputs.cos_sh, inputs.sin_sh))
        for index, layer in enumerate(self.layers):
            mask = None if index in tower.full_layers else window
            x = qwen_layer(layer, x, mask, cos, sin, stage=stage)
        x = self.merger_norm(x, stage).reshape(-1, tower.merged_size)
        x = stage.linear_bias(x, self.merger_mm, self.merger_bias_m, "gelu")
        tokens = stage.linear_bias(x, self.projector_md, self.projector_bias_d)
        return (tt.reorder_rows(tokens, jnp.asarray(inputs.places_n), format=fmt),)


@functools.partial(jax.jit, static_argnames=("stage",))
def qwen_layer(layer: QwenLayer, x: Any, mask: Any, cos: Any, sin: Any, *, stage: TowerStage) -> Any:
    def rotate(heads: Any) -> Any:
        return tt.rotary(heads, cos, sin, out_format=stage.precision.activation)

    x = stage.add(x, layer.attention(layer.attention_norm(x, stage), mask, stage, rotate))
    return stage.add(x, layer.mlp(layer.mlp_norm(x, stage), stage))
