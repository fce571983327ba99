"""Images in the prompt: each image's tokens stand in place of its image tokens (Gemma-3, Qwen2.5-VL; deepstack).

Positions may have three parts (time, height, width): the rotary tables are then made of all three, pair by pair, and
decoding goes on from the largest of them while the cache counts rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttsim import ops as tt
from ttsim.models import attention
from ttsim.models.attention import Rotary
from ttsim.models.cache import KVCache
from ttsim.models.parallel import decode_stage, prefill_stage
from ttsim.models.rope import inverse_frequencies
from ttsim.models.transformer import Transformer, decode_layer, prefill_layer, table_of
from ttsim.models.vision.config import QwenTower, SiglipTower, VisionConfig
from ttsim.models.vision.layers import TowerStage, VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.qwen import QwenVisionTower
from ttsim.models.vision.siglip import SiglipVisionTower
from ttsim.precision.values import Precision

_TOWERS: dict[type, Any] = {SiglipTower: SiglipVisionTower, QwenTower: QwenVisionTower}


def positions_3d(config: VisionConfig, tokens: np.ndarray, grids: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
    """(positions [3, T] of time, height and width; the position of the next token) of a prompt.

    Text counts on in all three. An image's tokens share one time, and their row and column in the merged grid are
    counted from there; what follows starts after the largest position.

    Args:
      tokens: [T], each image as many image tokens as it has. grids: (rows, columns) of patches of each image.
    """
    tower = config.tower
    assert isinstance(tower, QwenTower)
    parts, place, start = [], 0, 0
    for rows, columns in grids:
        first = int(np.flatnonzero(tokens[place:] == config.image_token)[0]) + place
        parts.append(np.tile(np.arange(start, start + first - place), (3, 1)))
        start += first - place
        height, width = rows // tower.merge, columns // tower.merge
        y, x = np.divmod(np.arange(height * width), width)
        parts.append(start + np.stack([np.zeros_like(y), y, x]))
        start += max(height, width)
        place = first + height * width
    parts.append(np.tile(np.arange(start, start + len(tokens) - place), (3, 1)))
    return np.concatenate(parts, axis=1), start + len(tokens) - place


class PromptVisionModel(nnx.Module):
    """A tower and a text model in whose prompt the image's tokens stand.

    Args:
      layout: the model on its system.
      rngs: source of random parameters; None builds the model abstractly.
    """

    def __init__(self, layout: VisionLayout, rngs: nnx.Rngs | None = None):
        self.text = Transformer(layout.text, rngs)
        tower = _TOWERS[type(layout.config.tower)]
        self.tower = tower(layout.tower, layout.config.text.hidden_size, rngs)

    def encode(self, image: Any, *, layout: VisionLayout, precision: VisionPrecision) -> Any:
        """An image -> this device's columns of its tokens [tokens, d / devices]."""
        return self.tower.encode(image, TowerStage(layout.tower, precision))

    def prefill(
        self,
        tokens_t: Any,
        positions: Any,
        vision_nd: Any,
        places_n: Any,
        user: Any,
        last: Any,
        cache: KVCache,
        *,
        layout: VisionLayout,
        precision: Precision,
        logits: Literal["last", "all"] = "last",
        deep: tuple[Any, ...] = (),
    ) -> Any:
        """One user's prompt.

        Args:
          tokens_t, user, last, cache: as in `Transformer.prefill`.
          positions: [T], or [3, T] of time, height and width.
          vision_nd: [n, d / devices], the tokens of all images. places_n: [n] int32, the rows that they take.
          deep: deepstack: for each of the first text layers what is added to those rows after it, [n, d / devices].

        Returns:
          (this device's slice of the logits, the cache).
        """
        text, first = layout.text, precision.layer(0)
        x = self.text.embed(tokens_t, layout=text, precision=precision)
        x = tt.put_rows(x, vision_nd, places_n, format=first.residual)
        tables = rotary_tables(positions, layout, first, "host")
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(self.text.text_layers(text.config, precision)):
            stage = prefill_stage(text, layer_precision, cache.users_axis)
            x, keys[slot], values[slot] = prefill_layer(
                layer,
                x,
                table_of(kind, tables, text),
                user,
                last,
                keys[slot],
                values[slot],
                start=0,
                stage=stage,
                kind=kind,
            )
            if slot < len(deep):
                x = tt.add_rows(x, deep[slot], places_n, out_format=layer_precision.residual)
        y = self.text.prompt_logits(x, last if logits == "last" else None, layout=text, precision=precision)
        return y, dataclasses.replace(cache, keys=tuple(keys), values=tuple(values))

    def decode(
        self,
        tokens_b: Any,
        rows_b: Any,
        positions: Any,
        cache: KVCache,
        *,
        layout: VisionLayout,
        precision: Precision,
    ) -> Any:
        """One token for every user.

        Args:
          tokens_b, cache: as in `Transformer.decode`. rows_b: [B], the token's row in the cache.
          positions: [B] or [3, B], its rotary position.

        Returns:
          ([B, V] logits, the cache).
        """
        text, first = layout.text, precision.layer(0)
        x = self.text.embed(tokens_b, layout=text, precision=precision)
        tables = rotary_tables(positions, layout, first, "l1")
        x = tt.reshard(x, format=first.residual, cores=text.residual_cores)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(self.text.text_layers(text.config, precision)):
            rotary = table_of(kind, tables, text)
            cached = keys[slot], values[slot]
            x, keys[slot], values[slot] = decode_layer(
                layer, x, rotary, rows_b, *cached, layout=text, precision=layer_precision, kind=kind
            )
        stage = decode_stage(text, precision.layer(len(keys) - 1))
        y = self.text.head(x, stage, precision, gather=True)
        y = tt.untilize(y, format=precision.logits)[:, : text.config.vocab_size]
        return y, dataclasses.replace(cache, keys=tuple(keys), values=tuple(values))


def rotary_tables(
    positions: Any, layout: VisionLayout, precision: Any, memory: Literal["l1", "host"]
) -> tuple[Rotary, ...]:
    """The text's rotary tables of one-part positions [T], or of three parts [3, T] mixed pair by pair."""
    config = layout.config.text
    if positions.ndim == 1:
        return attention.rotary_tables(positions, layout.text, precision, memory)
    ((rope, head_dim),) = config.ropes
    radians, scaling = inverse_frequencies(rope, head_dim, layout.text.max_seq_len)
    options = {"scaling": float(scaling), "format": precision.rope_in, "memory": memory}
    frequencies = jnp.asarray(radians, jnp.float32)
    section = layout.config.mrope_section
    if sum(section) != head_dim // 2:
        raise ValueError(f"mrope_section {list(section)} does not sum to half of head_dim={head_dim}")
    bounds = np.cumsum((0, *section))
    parts = [
        tt.rotary_tables(positions[i], frequencies[bounds[i] : bounds[i + 1]], **options) for i in range(len(section))
    ]
    cos, sin = (tt.concat_columns(*(part[k] for part in parts), format=precision.rope_in) for k in (0, 1))
    axis = 1 if memory == "l1" else 0
    return (Rotary(jnp.expand_dims(cos, axis), jnp.expand_dims(sin, axis)),)
