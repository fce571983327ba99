"""A model that sees: tower, fusion and text model as the programs that one device runs.

`encode` turns one image into vision tokens; `prefill` reads a prompt in which images stand, `decode` goes on from there.
All run inside `jax.shard_map`, like those of `Transformer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from ttsim import ops as tt
from ttsim.models.cache import KVCache
from ttsim.models.layout import Layout
from ttsim.models.parameters import parameter
from ttsim.models.stage import Stage
from ttsim.models.transformer import Transformer, _rotary_tables, decode_layer, prefill_layer
from ttsim.models.vision.config import LlamaTower, VisionConfig
from ttsim.models.vision.cross import VisionCache, cross_decode_layer, cross_prefill_layer, vision_rows
from ttsim.models.vision.layers import TowerLayout, TowerStage, VisionPrecision
from ttsim.models.vision.llama import LlamaVisionTower
from ttsim.precision.slots import AnyPrecision


@dataclass(frozen=True)
class VisionLayout:
    """A model that sees on one system.

    Attributes:
      config: the model. text: the layout of its text model.
      images: most images of a prompt. tiles: tiles of each that the tower computes and the text model can see.
    """

    config: VisionConfig
    text: Layout
    images: int = 1
    tiles: int = 4

    @property
    def tower(self) -> TowerLayout:
        return TowerLayout(self.config.tower, self.text.system)

    @property
    def rows(self) -> int:
        """Rows of the vision tokens of one prompt."""
        tower = self.config.tower
        assert isinstance(tower, LlamaTower)
        return vision_rows(tower.tokens, self.images * self.tiles)


class VisionLanguageModel(nnx.Module):
    """A text model whose own layers attend to images (Llama-3.2-Vision).

    Args:
      layout: the model on its system.
      rngs: source of random parameters; None builds the model abstractly.
    """

    def __init__(self, layout: VisionLayout, rngs: nnx.Rngs | None = None):
        hidden = layout.config.text.hidden_size
        self.text = Transformer(layout.text, rngs)
        self.tower = LlamaVisionTower(layout.tower, hidden, rngs)
        self.extra_embedding_vd = parameter(
            (layout.config.extra_tokens, hidden), (None, "residual"), rngs, scale=0.02
        )

    def encode(self, pixels: Any, aspect: Any, used: Any, *, layout: VisionLayout, precision: VisionPrecision) -> Any:
        """Vision tokens of one image, on every device: [tiles, 3, S, S] -> [tiles, tokens, d].

        Args:
          pixels: of the tiles. aspect: int32 scalar, number of the canvas. used: [tiles], one for a used tile.
        """
        stage = TowerStage(layout.tower, precision)
        patches = tt.unfold_patches(pixels, patch=layout.config.tower.patch_size)
        patches = tt.from_torch(patches, format=precision.activation)
        tokens = self.tower.project(self.tower.features(patches, aspect, used, stage), stage)
        if layout.text.ways > 1:
            axis = layout.text.residual_axis
            tokens = tt.all_gather(tokens, axis=axis, dim=tokens.ndim - 1, format=precision.activation)
        return tokens

    def prefill(
        self,
        tokens_t: Any,
        positions_t: Any,
        vision: Any,
        seen: Any,
        user: Any,
        last: Any,
        cache: KVCache,
        vision_cache: VisionCache,
        *,
        layout: VisionLayout,
        precision: AnyPrecision,
        vision_precision: VisionPrecision,
        logits: Literal["last", "all"] = "last",
    ) -> Any:
        """One user's prompt.

        Args:
          tokens_t, positions_t, user, last, cache: as in `Transformer.prefill`.
          vision: [images, tiles, tokens, d], what `encode` gave for each image.
          seen: [T, images * tiles], one where a row sees a tile.
          layout, precision, vision_precision: static.

        Returns:
          (this device's slice of the logits, the cache, the vision cache).
        """
        fmt = vision_precision.activation
        # The tokens take the way over the host, which drops each tile's padding.
        rows = tt.to_torch(vision, format=fmt).reshape(-1, vision.shape[-1])
        rows = tt.from_torch(jnp.pad(rows, ((0, layout.rows - rows.shape[0]), (0, 0))), format=fmt)
        mask = tt.image_mask(seen, tokens=vision.shape[2], keys=layout.rows)
        mask = tt.from_torch(mask, format=vision_precision.cross_mask)
        keep = (seen.sum(axis=1) > 0).astype(jnp.float32)
        first = precision.layer(0)
        x = tt.host_embedding(
            tokens_t, self.text.embedding_vd[...], self.extra_embedding_vd[...], out_format=first.residual
        )
        cos, sin = (table[None] for table in _rotary_tables(positions_t, layout.text, first))
        text, cross = _lists(cache), _lists(vision_cache)
        for layer, slot, is_cross, layer_precision in self._layers(layout, precision):
            stage = Stage.prefill(layout.text, layer_precision, cache, "prefill")
            keys, values = cross if is_cross else text
            if is_cross:
                x, keys[slot], values[slot] = cross_prefill_layer(
                    layer,
                    x,
                    rows,
                    mask,
                    keep,
                    user,
                    keys[slot],
                    values[slot],
                    stage=stage,
                    vision=vision_precision,
                )
            else:
                x, keys[slot], values[slot] = prefill_layer(
                    layer, x, cos, sin, user, keys[slot], values[slot], start=0, stage=stage
                )
        y = self.text.prompt_logits(x, last if logits == "last" else None, layout=layout.text, precision=precision)
        return y, _filled(cache, text), _filled(vision_cache, cross)

    def decode(
        self,
        tokens_b: Any,
        positions: Any,
        seen: Any,
        cache: KVCache,
        vision_cache: VisionCache,
        *,
        layout: VisionLayout,
        precision: AnyPrecision,
        vision_precision: VisionPrecision,
    ) -> Any:
        """One token for every user.

        Args:
          tokens_b, positions, cache: as in `Transformer.decode`. seen: [B, images * tiles], what a user's newest row sees.

        Returns:
          ([B, V] logits, the cache).
        """
        tower = layout.config.tower
        assert isinstance(tower, LlamaTower)
        text = layout.text
        mask = tt.image_mask(seen, tokens=tower.tokens, keys=layout.rows)
        mask = tt.from_torch(mask, format=vision_precision.activation)
        keep = (seen.sum(axis=1) > 0).astype(jnp.float32)
        first = precision.layer(0)
        x = tt.host_embedding(
            tokens_b, self.text.embedding_vd[...], self.extra_embedding_vd[...], out_format=first.residual
        )
        x = tt.from_torch(x, format=first.residual)
        cos, sin = (table[:, None] for table in _rotary_tables(positions, text, first))
        keys, values = _lists(cache)
        for layer, slot, is_cross, layer_precision in self._layers(layout, precision):
            if is_cross:
                x = cross_decode_layer(
                    layer,
                    x,
                    mask,
                    keep,
                    vision_cache.keys[slot],
                    vision_cache.values[slot],
                    layout=text,
                    precision=layer_precision,
                    vision=vision_precision,
                )
            else:
                x, keys[slot], values[slot] = decode_layer(
                    layer, x, cos, sin, positions, keys[slot], values[slot], layout=text, precision=layer_precision
                )
        stage = Stage.decode(text, precision.layer(len(cache.keys) - 1), tokens_b.shape[0])
        y = stage.logits(x, self.text.norm_d, self.text.lm_head_dv, precision, gather=True)
        return tt.untilize(y, format=precision.logits)[:, : text.config.vocab_size], _filled(cache, (keys, values))

    def _layers(self, layout: VisionLayout, precision: AnyPrecision) -> Iterator[tuple[Any, int, bool, Any]]:
        """(layer, its place among those of its kind, whether it attends to images, its precision) in order.

        A cross layer has the precision of the text layer after it.
        """
        config, text, cross = layout.config.text, 0, 0
        for index, layer in enumerate(self.text.layers):
            is_cross = index in config.cross_attention_layers
            layer_precision = precision.layer(min(text, len(config.self_attention_layers) - 1))
            yield layer, cross if is_cross else text, is_cross, layer_precision
            text, cross = text + (not is_cross), cross + is_cross


def _lists(cache: KVCache | VisionCache) -> tuple[list[Any], list[Any]]:
    return list(cache.keys), list(cache.values)


def _filled(cache: Any, parts: tuple[list[Any], list[Any]]) -> Any:
    return dataclasses.replace(cache, keys=tuple(parts[0]), values=tuple(parts[1]))
