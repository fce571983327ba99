"""Images in the prompt: each image's tokens stand in place of its image tokens (Gemma-3, Qwen-VL).

Positions may have three parts (time, height, width): the rotary tables are then made of all three, pair by pair, and
decoding goes on from the largest of them while the cache counts rows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models import attention
from ttsim.models.attention import Rotary
from ttsim.models.cache import KVCache
from ttsim.models.decoder import decode_layer, prefill_layer
from ttsim.models.parallel import decode_stage, prefill_stage
from ttsim.models.rope import inverse_frequencies
from ttsim.models.transformer import Transformer, table_of
from ttsim.models.vision.config import PatchTower, Qwen3Tower, QwenTower, SiglipTower, VisionConfig
from ttsim.models.vision.layers import TowerStage, VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.qwen import QwenVisionTower
from ttsim.models.vision.qwen3 import Qwen3VisionTower
from ttsim.models.vision.siglip import SiglipVisionTower
from ttsim.precision.values import Precision

_TOWERS: dict[type, Any] = {SiglipTower: SiglipVisionTower, QwenTower: QwenVisionTower, Qwen3Tower: Qwen3VisionTower}


def positions_3d(config: VisionConfig, tokens: np.ndarray, grids: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
    """(positions [3, T] of time, height and width; the position of the next token) of a prompt.

    Text counts on in all three. An image's tokens share one time, and their row and column in the merged grid are
    counted from there; what follows starts after the largest position.

    Args:
      tokens: [T], each image as many image tokens as it has. grids: (rows, columns) of patches of each image.
    """
    tower = config.tower
    assert isinstance(tower, PatchTower)
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

    def encode(self, image: Any, *, layout: VisionLayout, precision: VisionPrecision) -> tuple[Array, ...]:
        """An image -> this device's columns of its tokens, and of what is added to them after text layers 0, 1, ...

        Each is [tokens, d / devices].
        """
        seen: tuple[Array, ...] = self.tower.encode(image, TowerStage(layout.tower, precision))
        return seen

    def prefill(
        self,
        tokens_t: Any,
        positions: Any,
        vision: tuple[Array, ...],
        places_n: Any,
        user: Any,
        last: Any,
        cache: KVCache,
        *,
        layout: VisionLayout,
        precision: Precision,
        logits: Literal["last", "all"] = "last",
        blocks_t: Array | None = None,
    ) -> Any:
        """One user's prompt.

        Args:
          tokens_t, user, last, cache: as in `Transformer.prefill`.
          positions: [T], or [3, T] of time, height and width.
          vision: of all images what `encode` makes, [n, d / devices] each. places_n: [n] int32, the rows of the tokens.
          blocks_t: [T] int32, the number of the image that a row belongs to, 0 for text; where rows of an image see
            each other.

        Returns:
          (this device's slice of the logits, the cache).
        """
        text, first = layout.text, precision.layer(0)
        x = self.text.embed(tokens_t, layout=text, precision=precision)
        tokens_nd, *deep = vision
        x = tt.put_rows(x, tokens_nd, places_n, format=first.residual)
        tables = rotary_tables(positions, layout, first, "host")
        masks: dict[int | None, Array] = {}
        if blocks_t is not None:
            for window in dict.fromkeys(kind.window for kind in text.config.text_kinds):
                mask = tt.image_mask(blocks_t, window=window)
                masks[window] = layout.to_devices(mask, first.residual)
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
                mask=masks.get(kind.window),
            )
            if slot < len(deep):
                x = deepstack(x, deep[slot], places_n, out_format=layer_precision.residual)
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


DEEPSTACK = "deepstack"


@functools.partial(jax.jit, static_argnames=("out_format",))
def deepstack(x: Array, deep_nd: Array, places_n: Array, *, out_format: str) -> Array:
    """What a text layer leaves, with an earlier vision layer's view added to the image's rows."""
    return tt.add_rows(x, deep_nd, places_n, out_format=out_format)


def parts_of_pairs(config: VisionConfig, pairs: int) -> np.ndarray:
    """Which part of a position each rotary pair turns with: 0 time, 1 height, 2 width. int [pairs].

    Side by side the pairs of each part follow each other; in turns every third one turns with the height, and the one
    after it with the width, until their shares are used up.

    Source: transformers models/{qwen2_5_vl,qwen3_vl}/modeling_*.py.
    """
    section = config.mrope_section
    if sum(section) != pairs:
        raise ValueError(f"mrope_section {list(section)} does not sum to half of head_dim={2 * pairs}")
    if not config.mrope_interleaved:
        return np.repeat(np.arange(len(section)), section)
    turns_with = np.zeros(pairs, int)
    for part in range(1, len(section)):
        turns_with[part : 3 * section[part] : 3] = part
    return turns_with


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
    turns_with = parts_of_pairs(layout.config, head_dim // 2)
    pairs = [np.flatnonzero(turns_with == part) for part in range(len(positions))]
    parts = [
        tt.rotary_tables(positions[i], jnp.asarray(radians[mine], jnp.float32), **options)
        for i, mine in enumerate(pairs)
    ]
    cos, sin = (tt.concat_columns(*(part[k] for part in parts), format=precision.rope_in) for k in (0, 1))
    order = np.argsort(np.concatenate(pairs), kind="stable")
    if np.any(np.diff(order) != 1):
        cos, sin = (tt.take_columns(x, order=tuple(map(int, order)), format=precision.rope_in) for x in (cos, sin))
    axis = 1 if memory == "l1" else 0
    return (Rotary(jnp.expand_dims(cos, axis), jnp.expand_dims(sin, axis)),)
