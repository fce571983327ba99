"""The decoder-only transformer as the program that one Tenstorrent device runs.

Modules hold parameters in their *global* shapes with logical axes; `Transformer.decode` and `Transformer.prefill` run
inside `jax.shard_map`, where every array is this device's slice. One code covers one chip, a line or ring of chips
(1-D tensor parallel) and a Galaxy (2-D); `ttsim.models.parallel` holds the differences.

Axes in names: b users, t tokens of a prompt, d hidden size, f intermediate size, k KV heads, g query heads of a KV
head, h head size, v vocabulary.

Source: tt-metal models/tt_transformers tt/{model,decoder,attention,mlp,distributed_norm,ccl,lm_head}.py, May 2025.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.attention import Rotary, rotary_tables
from ttsim.models.cache import KVCache
from ttsim.models.chunk import WHOLE, Chunk
from ttsim.models.config import ModelConfig
from ttsim.models.decoder import DecoderLayer, centered, decode_layer, prefill_layer
from ttsim.models.features import LayerKind
from ttsim.models.layer_inputs import TokenInputs
from ttsim.models.layout import Layout
from ttsim.models.mlp import MLP
from ttsim.models.parallel import Galaxy, OneAxis, decode_stage, prefill_stage
from ttsim.models.parameters import parameter
from ttsim.precision.values import LayerPrecision, Precision

Stage = OneAxis | Galaxy
Sample = Literal["device", "topk", "host", "none"]


class CrossAttentionLayer(nnx.Module):
    """Parameters of a layer that attends to an image; a prompt without an image skips the layer, as the device does."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        c = layout.config
        self.attention_norm_d = parameter((c.hidden_size,), ("norm",), rngs, scale=0)
        self.wq_dq = parameter((c.hidden_size, c.q_size), ("embed", "kv_heads"), rngs, group="wqkv")
        self.wkv_dkh = parameter(
            (c.hidden_size, c.num_kv_heads, 2, c.head_dim), ("embed", "kv_heads", None, None), rngs, group="wqkv"
        )
        self.wo_qd = parameter((c.q_size, c.hidden_size), ("heads", "w2_out"), rngs, group="wo", storage="banks")
        self.q_norm_h = parameter((c.head_dim,), (None,), rngs, scale=0)
        self.k_norm_h = parameter((c.head_dim,), (None,), rngs, scale=0)
        self.attention_gate = parameter((1,), (None,), rngs, scale=0)
        self.mlp_norm_d = parameter((c.hidden_size,), ("norm",), rngs, scale=0)
        self.mlp = MLP(layout, layout.config.layer_kinds[0], rngs)
        self.mlp_gate = parameter((1,), (None,), rngs, scale=0)


class Transformer(nnx.Module):
    """Embedding, decoder layers, last norm and LM head.

    Args:
      layout: the model on its system.
      rngs: source of random parameters; None builds the model abstractly, in milliseconds at any size.

    The LM head always has parameters of its own: with tied embeddings the device, too, keeps a second copy, in another
    format and another sharding.
    """

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None = None) -> None:
        config = layout.config
        self.embedding_vd = parameter(
            (config.vocab_size, config.hidden_size),
            (None, "residual"),
            rngs,
            group="embedding",
            storage="rows",
            scale=0.02,
        )
        self.token_inputs = TokenInputs(layout, rngs) if config.layer_inputs else None
        self.layers = nnx.List(
            [
                CrossAttentionLayer(layout, rngs)
                if index in config.cross_attention_layers
                else DecoderLayer(layout, kind, rngs)
                for index, kind in enumerate(config.layer_kinds)
            ]
        )
        self.norm_d = parameter((config.hidden_size,), ("norm",), rngs, scale=0)
        columns = layout.vocab_share[1] * layout.ways
        self.lm_head_dv = parameter(
            (config.hidden_size, columns), ("embed", "vocab"), rngs, group="lm_head", storage="banks"
        )

    def decode(
        self,
        tokens_b: Array,
        positions: Array,
        cache: KVCache,
        *,
        layout: Layout,
        precision: Precision,
        sample: Sample = "none",
    ) -> tuple[Array, KVCache]:
        """One token for every user (inside `shard_map`).

        Args:
          tokens_b: [B] int32, the newest token of each user of this replica.
          positions: [b] int32, its position; b are the users whose cache this device holds (B, or B / columns).
          cache: keys and values so far.
          layout, precision: static.
          sample: who chooses the token: an argmax on the "device", "topk" there, the "host", or "none": the caller
            wants the logits.

        Returns:
          ([B] int32 tokens or [B, V] logits, the cache with this token).
        """
        given = self.layer_inputs(tokens_b, layout, precision, together=True)
        tokens_b, positions = tt.copy_to_device(tokens_b, positions, work="step")
        step = functools.partial(Transformer.device_step, layout=layout, precision=precision, sample=sample)
        result, cache = tt.traced(step)(self, tokens_b, positions, cache, *given)
        result = tt.read_back(result, work="step")
        if sample == "host":
            result = tt.argmax(result, ties=precision.argmax_ties, memory="host")
        return result, cache

    def device_step(
        self,
        tokens_b: Array,
        positions: Array,
        cache: KVCache,
        given: Array | None = None,
        *,
        layout: Layout,
        precision: Precision,
        sample: Sample,
    ) -> tuple[Array, KVCache]:
        """What the device runs of `decode`, from tokens to logits or, where it chooses them, tokens.

        `given`: the inputs of all layers, side by side.
        """
        first = decode_stage(layout, precision.layer(0))
        x = self.embed(tokens_b, layout=layout, precision=precision)
        tables = rotary_tables(positions, layout, first.precision, "l1")
        x = tt.reshard(x, format=first.precision.residual, cores=layout.residual_cores)
        keys, values = list(cache.keys), list(cache.values)
        own = {}
        if given is not None:
            sizes = (layout.layer_inputs.width,) * layout.layer_inputs.layers
            own = dict(enumerate(tt.split_columns(given, sizes=sizes, format=first.precision.residual, memory="l1")))
        for slot, (layer, kind, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            rotary, at = table_of(kind, tables, layout), layout.config.cache_slots[slot]
            x, keys[at], values[at] = decode_layer(
                layer,
                x,
                rotary,
                positions,
                keys[at],
                values[at],
                layout=layout,
                precision=layer_precision,
                kind=kind,
                given=own.get(slot),
            )
        stage = decode_stage(layout, precision.layer(len(keys) - 1))
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        logits = self.head(x, stage, precision, gather=sample != "topk")
        if sample == "topk":
            return choose_by_topk(logits, layout, precision), cache
        logits = tt.untilize(logits, format=precision.logits)[:, : layout.config.vocab_size]
        return tt.argmax(logits, ties=precision.argmax_ties) if sample == "device" else logits, cache

    def prefill(
        self,
        tokens_t: Array,
        positions_t: Array,
        user: Array,
        last: Array | None,
        cache: KVCache,
        *,
        layout: Layout,
        precision: Precision,
        chunk: Chunk = WHOLE,
    ) -> tuple[Array | None, KVCache]:
        """One user's prompt, or a chunk of it (inside `shard_map`).

        Args:
          tokens_t: [T] int32, padded at the end. positions_t: [T] int32, start .. start + T - 1.
          user: int32 scalar, index of the user in the cache. last: int32 scalar, the row whose logits are wanted.
          cache: keys and values.
          layout, precision, chunk: static.

        Returns:
          (this device's slice of the logits [rows, V / devices] or None, the cache with these rows).
        """
        given = self.layer_inputs(tokens_t, layout, precision, together=False)
        if chunk.copied:
            tokens_t, positions_t = tt.copy_to_device(tokens_t, positions_t, work="prompt")
        tables = rotary_tables(positions_t, layout, precision.layer(0), "host")
        run = functools.partial(Transformer.device_prompt, layout=layout, precision=precision, chunk=chunk)
        result, cache = (tt.traced(run) if chunk.traced else run)(self, tokens_t, tables, user, last, cache, given)
        if result is not None:
            result = tt.read_back(result, work="prompt")
            if chunk.untilize == "host":
                result = tt.untilize(result, format=precision.logits, memory="host")
        return result, cache

    def device_prompt(
        self,
        tokens_t: Array,
        tables: tuple[Rotary, ...],
        user: Array,
        last: Array | None,
        cache: KVCache,
        given: tuple[Array, ...] = (),
        *,
        layout: Layout,
        precision: Precision,
        chunk: Chunk,
    ) -> tuple[Array | None, KVCache]:
        """What the device runs of `prefill`, from tokens to logits or, without them, to the filled cache."""
        row = last if chunk.logits == "last" else None
        x = self.embed(tokens_t, layout=layout, precision=precision)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            at = layout.config.cache_slots[slot]
            x, keys[at], values[at] = prefill_layer(
                layer,
                x,
                table_of(kind, tables, layout),
                user,
                row,
                keys[at],
                values[at],
                start=chunk.start,
                stage=prefill_stage(layout, layer_precision, cache.users_axis, chunk.numerics),
                kind=kind,
                given=given[slot] if given else None,
            )
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        if chunk.logits == "none":
            return None, cache
        return self.prompt_logits(x, row, layout=layout, precision=precision, untilize=chunk.untilize), cache

    def layer_inputs(self, tokens: Array, layout: Layout, precision: Precision, *, together: bool) -> tuple[Array, ...]:
        """What the host makes of the tokens for every layer; nothing for most models."""
        if self.token_inputs is None:
            return ()
        return self.token_inputs(tokens, self.embedding_vd[...], layout, precision.layer(0), together=together)

    def embed(self, tokens: Array, *, layout: Layout, precision: Precision) -> Array:
        """The residual stream [T, d / devices] that enters the first layer."""
        residual, factor = precision.layer(0).residual, layout.config.embedding_scale
        x = tt.embedding(tokens, self.embedding_vd[...], out_format=residual)
        return x if factor == 1 else tt.scale(x, factor=factor, out_format=residual)

    def prompt_logits(
        self,
        x: Array,
        last: Array | None,
        *,
        layout: Layout,
        precision: Precision,
        untilize: Literal["dram", "host"] = "dram",
    ) -> Array:
        """Logits of the 32 rows around `last`, or of all rows. [T, d / devices] -> [rows, V / devices]."""
        last_layer = precision.layer(len(layout.config.self_attention_layers) - 1)
        stage = decode_stage(layout, last_layer)  # both phases end in decode's kernels
        if last is not None:
            x = tt.take_rows(x, last, rows=min(32, x.shape[0]), format=stage.precision.residual)
        y = self.head(x, stage, precision, gather=False)
        return tt.untilize(y, format=precision.logits) if untilize == "dram" else y

    def head(self, x: Array, stage: Stage, precision: Precision, *, gather: bool) -> Array:
        """The last norm, the LM head, and the model's scale and cap of logits."""
        c = stage.layout.config
        y = stage.logits(centered(x, stage), self.norm_d, self.lm_head_dv, precision, gather=gather)
        if c.logit_scale != 1:
            y = tt.scale(y, factor=c.logit_scale, out_format=precision.logits)
        if c.logit_softcap is not None:
            y = tt.softcap(y, cap=c.logit_softcap, out_format=precision.logits)
        return y

    def text_layers(
        self, config: ModelConfig, precision: Precision
    ) -> Iterator[tuple[DecoderLayer, LayerKind, LayerPrecision]]:
        """The layers that text runs through, with their kind and precision."""
        for slot, index in enumerate(config.self_attention_layers):
            layer = self.layers[index]
            assert isinstance(layer, DecoderLayer)
            yield layer, config.layer_kinds[index], precision.layer(slot)


def table_of(kind: LayerKind, tables: tuple[Rotary, ...], layout: Layout) -> Rotary | None:
    """The rotary tables of a layer of this kind."""
    return None if kind.rope is None else tables[layout.config.ropes.index((kind.rope, kind.head_dim))]


def choose_by_topk(logits: Array, layout: Layout, precision: Precision) -> Array:
    """The greedy token of each row by the largest logits of each chip's columns. [B, V / devices] -> [B] int32."""
    axis = layout.axis if layout.ways > 1 else None
    best, indices = tt.topk(logits, k=tt.TOPK, vocab_size=layout.config.vocab_size, axis=axis)
    if axis:
        last = logits.ndim - 1
        best, indices = (
            tt.all_gather(each, axis=axis, dim=last, format="bf16", memory="l1") for each in (best, indices)
        )
    return tt.choose(best, indices, ties=precision.argmax_ties)
