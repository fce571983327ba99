"""A model that sees: tower, fusion and text model as the programs that one device runs.

`encode` turns one image into vision tokens; `prefill` reads a prompt in which images stand, `decode` goes on from
there. All run inside `jax.shard_map`, like those of `Transformer`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx

from ttsim import ops as tt
from ttsim.dates import TABLE_DATE
from ttsim.hardware.vision_software import VisionSoftware, vision_software
from ttsim.models.attention import rotary_tables
from ttsim.models.cache import KVCache
from ttsim.models.decoder import decode_layer, prefill_layer
from ttsim.models.grids import TILE, round_up
from ttsim.models.layout import Layout
from ttsim.models.parallel import Stage, decode_stage, prefill_stage
from ttsim.models.parameters import parameter
from ttsim.models.transformer import Transformer, table_of
from ttsim.models.vision.config import LlamaTower, VisionConfig
from ttsim.models.vision.cross import VisionCache, cross_decode_layer, cross_prefill_layer, vision_rows
from ttsim.models.vision.layers import TowerLayout, TowerStage, VisionPrecision
from ttsim.models.vision.llama import REFERENCE_ROWS, LlamaVisionTower
from ttsim.precision.values import Precision

TABLE_SOFTWARE = vision_software(TABLE_DATE, "")  # that of the published tables


@dataclass(frozen=True)
class VisionLayout:
    """A model that sees on one system.

    Attributes:
      config: the model. text: the layout of its text model.
      images: most images of a prompt. tiles: tiles of each that the tower computes and the text model can see.
      software: what the vision code of a date does; it changes the program, not what it computes.
      scattered_sums: see `TowerLayout`.
    """

    config: VisionConfig
    text: Layout
    images: int = 1
    tiles: int = 4
    software: VisionSoftware = TABLE_SOFTWARE
    scattered_sums: bool = False

    @property
    def tower(self) -> TowerLayout:
        return TowerLayout(self.config.tower, self.text.system, 32 * self.tiles, self.scattered_sums)

    @property
    def rows(self) -> int:
        """Rows of the vision tokens of one prompt."""
        tower = self.config.tower
        assert isinstance(tower, LlamaTower)
        return vision_rows(tower.tokens, self.images * self.tiles)

    def to_devices(self, x: Any, fmt: str) -> Any:
        """A tensor of the host on every device, copied as the software of the date does it."""
        chips, software = self.text.ways, self.software
        return tt.from_torch(
            x,
            format=fmt,
            conversions=1 if software.converts_once else chips,
            tilings=1 if software.tilizes_once else chips,
            fast_tilize=software.fast_tilize,
        )

    def vision_rows(self, tokens: Any, fmt: str) -> Any:
        """The tokens of all images as the rows that cross attention reads: over the host, or joined on the devices."""
        if self.software.tokens_stay:
            return tt.join_tiles(tokens, rows=self.rows, format=fmt)
        copies = 1 if self.software.reads_one_replica else self.text.ways
        rows = tt.to_torch(tokens, rows=self.rows, format=fmt, copies=copies, fast_tilize=self.software.fast_tilize)
        return self.to_devices(rows, fmt)


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
        self.extra_embedding_vd = parameter((layout.config.extra_tokens, hidden), (None, "residual"), rngs, scale=0.02)

    def encode(self, pixels: Any, aspect: Any, used: Any, *, layout: VisionLayout, precision: VisionPrecision) -> Any:
        """Vision tokens of one image, on every device: [tiles, 3, S, S] -> [tiles, tokens, d].

        Args:
          pixels: of the tiles. aspect: int32 scalar, number of the canvas. used: [tiles], one for a used tile.
        """
        tower, stage = layout.config.tower, TowerStage(layout.tower, precision)
        assert isinstance(tower, LlamaTower)
        patches = tt.host_image(pixels, patch=tower.patch_size)
        padded = round_up(tower.tokens, TILE)
        mask = tt.tower_mask(used, tokens=tower.tokens, visible=round_up(tower.tokens, REFERENCE_ROWS), padded=padded)
        mask = layout.to_devices(mask, precision.activation)
        tokens = self.tower.project(self.tower.features(patches, aspect, mask, stage), stage)
        if layout.text.ways > 1:
            axis = layout.text.residual_axis
            tokens = tt.line_gather(tokens, axis=axis, format=precision.activation)
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
        precision: Precision,
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
        rows = layout.vision_rows(vision, vision_precision.activation)
        tokens_t, positions_t = tt.copy_to_device(tokens_t, positions_t, work="prompt")
        x, mask, keep = self._inputs(tokens_t, seen, layout, precision.layer(0).residual, step=False)
        kind = layout.text.config.text_kinds[0]  # all layers of text are alike
        tables = rotary_tables(positions_t, layout.text, precision.layer(0), "host")
        rotary = table_of(kind, tables, layout.text)
        text, cross = _lists(cache), _lists(vision_cache)
        for layer, slot, is_cross, layer_precision in self._layers(layout, precision):
            stage = prefill_stage(layout.text, layer_precision, cache.users_axis)
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
                    layer, x, rotary, user, last, keys[slot], values[slot], start=0, stage=stage, kind=kind
                )
        y = self.text.prompt_logits(x, last if logits == "last" else None, layout=layout.text, precision=precision)
        y = tt.read_back(y, work="prompt")
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
        precision: Precision,
        vision_precision: VisionPrecision,
    ) -> Any:
        """One token for every user.

        Args:
          tokens_b, positions, cache: as in `Transformer.decode`.
          seen: [B, images * tiles], what each user's newest row sees.

        Returns:
          ([B, V] logits, the cache).
        """
        inputs = self._inputs(tokens_b, seen, layout, precision.layer(0).residual, step=True)
        step = functools.partial(
            VisionLanguageModel.device_step, layout=layout, precision=precision, vision_precision=vision_precision
        )
        run = tt.traced(step) if layout.software.traced_decode else step
        y, cache = run(self, *inputs, positions, cache, vision_cache)
        return tt.host_logits(y), cache

    def device_step(
        self,
        x: Any,
        mask: Any,
        keep: Any,
        positions: Any,
        cache: KVCache,
        vision_cache: VisionCache,
        *,
        layout: VisionLayout,
        precision: Precision,
        vision_precision: VisionPrecision,
    ) -> Any:
        """What the device runs of `decode`, from embeddings and masks to logits."""
        text = layout.text
        kind = text.config.text_kinds[0]
        rotary = table_of(kind, rotary_tables(positions, text, precision.layer(0), "l1"), text)
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
                    layer,
                    x,
                    rotary,
                    positions,
                    keys[slot],
                    values[slot],
                    layout=text,
                    precision=layer_precision,
                    kind=kind,
                )
        stage = decode_stage(text, precision.layer(len(keys) - 1))
        y = vision_logits(x, self.text.norm_d, self.text.lm_head_dv, stage, precision)
        y = tt.untilize(y, format=precision.logits)[:, : text.config.vocab_size]
        return y, _filled(cache, (keys, values))

    def _inputs(self, tokens: Any, seen: Any, layout: VisionLayout, fmt: str, *, step: bool) -> Any:
        tower = layout.config.tower
        assert isinstance(tower, LlamaTower)
        return tt.host_inputs(
            tokens,
            self.text.embedding_vd[...],
            self.extra_embedding_vd[...],
            seen,
            tile_tokens=tower.tokens,
            keys=layout.rows,
            step=step,
            heads=layout.text.local_heads,
            conversions=1 if layout.software.converts_once else layout.text.ways,
            out_format=fmt,
        )

    def _layers(self, layout: VisionLayout, precision: Precision) -> Iterator[tuple[Any, int, bool, Any]]:
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


LM_HEAD_PIECES = 8  # of the vocabulary, over all devices


def vision_logits(x: Any, norm_d: Any, lm_head_dv: Any, stage: Stage, precision: Precision) -> Any:
    """Logits [B, V] of a decode step: not the DRAM-sharded LM head but pieces of the vocabulary by 2-D multicast.

    Each device computes its share in 8 / devices pieces; each piece is gathered by itself.
    """
    layout = stage.layout
    h = stage.norm(x, norm_d, cores=layout.lm_head_cores)
    table = lm_head_dv[...]
    pieces = max(1, LM_HEAD_PIECES // layout.ways)
    share, _ = layout.vocab_share
    width = -(-share // pieces)
    parts = []
    for first in range(0, share, width):
        y = tt.linear(
            h,
            table[:, first : min(first + width, share)],
            kernel="mcast_2d",
            weight_format=precision.lm_head,
            setting=precision.li_lm_head,
            in_format=stage.precision.residual,
            out_format=precision.logits,
            pass_rows=32,
        )
        if layout.ways > 1:
            y = tt.all_gather(y, axis=layout.axis, dim=y.ndim - 1, format=precision.logits, memory="l1")
        parts.append(y.reshape(y.shape[0], layout.ways, -1))
    # Each device's pieces side by side, device by device: the order of the vocabulary.
    columns = [part[:, device] for device in range(layout.ways) for part in parts]
    return tt.concat_columns(*columns, format=precision.logits) if len(columns) > 1 else columns[0]
