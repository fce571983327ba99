"""Gemma-3's tower: SigLIP on one square image, then an average pool, a norm and a projection into the prompt.

Source: transformers models/siglip/modeling_siglip.py and models/gemma3/modeling_gemma3.py (Gemma3MultiModalProjector).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.parameters import parameter
from ttsim.models.vision.config import SiglipTower
from ttsim.models.vision.layers import BiasedLayer, LayerNorm, RMSNorm, TowerLayout, TowerStage


class SiglipVisionTower(nnx.Module):
    """Pixels of one image -> its tokens in the prompt.

    Args:
      layout: the tower on its system. text_size: hidden size of the text model.
      rngs: source of random parameters; None builds the tower abstractly.
    """

    def __init__(self, layout: TowerLayout, text_size: int, rngs: nnx.Rngs | None = None):
        tower = layout.tower
        assert isinstance(tower, SiglipTower)
        size = tower.hidden_size
        self.patch_pd = parameter((tower.patch_values, size), (None, None), rngs)
        self.patch_bias_d = parameter((size,), (None,), rngs, scale=0.02)
        self.position_sd = parameter((tower.patches_per_side**2, size), (None, None), rngs, scale=0.02)
        self.layers = nnx.List([BiasedLayer(layout, rngs) for _ in range(tower.num_layers)])
        self.norm_post = LayerNorm(size, tower.norm_eps, rngs)
        self.projector_norm = RMSNorm(size, tower.projector_eps, rngs)
        self.projector_pd = parameter((size, text_size), (None, "residual"), rngs)

    def states(self, patches_sp: Any, stage: TowerStage) -> Any:
        """The states after the last norm (inside `shard_map`): patches [S, 3 P^2] -> [S, D]."""
        x = stage.linear_bias(patches_sp, self.patch_pd, self.patch_bias_d)
        x = stage.add(x, self.position_sd[...])
        for layer in self.layers:
            x = siglip_layer(layer, x, stage=stage)
        return self.norm_post(x, stage)

    def project(self, states_sd: Any, stage: TowerStage) -> Any:
        """States -> this device's columns of the image's tokens [tokens, d / devices]."""
        tower = stage.layout.tower
        assert isinstance(tower, SiglipTower)
        fmt = stage.precision.activation
        pooled = tt.average_pool(states_sd, side=tower.patches_per_side, kernel=tower.pool, format=fmt)
        return stage.linear(self.projector_norm(pooled, stage), self.projector_pd)

    def encode(self, inputs: Any, stage: TowerStage) -> tuple[Array]:
        """Pixels [3, S, S] -> this device's columns of the image's tokens."""
        patches = tt.host_image(inputs[None], patch=stage.layout.tower.patch_size)[0]
        return (self.project(self.states(patches, stage), stage),)


@functools.partial(jax.jit, static_argnames=("stage",))
def siglip_layer(layer: BiasedLayer, x: Any, *, stage: TowerStage) -> Any:
    x = stage.add(x, layer.attention(layer.attention_norm(x, stage), None, stage))
    return stage.add(x, layer.mlp(layer.mlp_norm(x, stage), stage))
