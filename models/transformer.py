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
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ttsim import ops as tt
from ttsim.models.cache import KVCache
from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.parallel import Galaxy, OneAxis, decode_stage, prefill_stage
from ttsim.models.parameters import parameter
from ttsim.models.rope import inverse_frequencies
from ttsim.precision.slots import AnyLayerPrecision, AnyPrecision

Stage = OneAxis | Galaxy
Sample = Literal["device", "topk", "host", "none"]


class Attention(nnx.Module):
    """Grouped-query attention with a fused projection: for each KV head its query heads, then K, then V."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None):
        c = layout.config
        fused = (c.num_kv_heads, c.queries_per_kv + 2, c.head_dim)
        self.wqkv_dkgh = parameter((c.hidden_size, *fused), ("embed", "kv_heads", None, None), rngs)
        self.bias_kgh = parameter(fused, ("kv_heads", None, None), rngs, scale=0.02) if c.qkv_bias else None
        self.wo_qd = parameter((c.q_size, c.hidden_size), ("wo_in", "wo_out"), rngs)

    def decode(self, x_bd, cos, sin, positions, keys, values, stage: Stage):
        p, c = stage.precision, stage.layout.config
        qkv = stage.column(x_bd, self.wqkv_dkgh, p.wqkv, p.li_qkv_decode, cores=stage.layout.attention_cores)
        if self.bias_kgh is not None:
            qkv = tt.add_bias(qkv, self.bias_kgh[...], out_format=p.linear_out, memory=stage.memory)
        qkv = stage.my_users(qkv)
        q, k, v = tt.create_heads_decode(
            qkv, kv_heads=stage.layout.local_kv_heads, head_dim=c.head_dim, format=p.linear_out
        )
        q = tt.rotary(q, cos, sin, out_format=p.rope_in, memory=stage.memory)
        k = tt.rotary(k, cos, sin, out_format=p.rope_in, memory=stage.memory)
        keys = tt.update_cache(keys, k, positions, format=p.kv_cache)
        values = tt.update_cache(values, v, positions, format=p.kv_cache)
        out = tt.sdpa_decode(
            q,
            keys,
            values,
            positions,
            setting=p.sdpa_decode,
            kv_format=p.kv_cache,
            out_format=p.sdpa_decode_out,
            window=c.sliding_window,
        )
        out = stage.all_users(tt.concat_heads_decode(out, format=p.sdpa_decode_out), x_bd.shape[0])
        return stage.attention_output(out, self.wo_qd, p.wo, p.li_o_decode), keys, values

    def prefill(self, x_td, cos, sin, user, keys, values, stage: Stage, start: int):
        p, c = stage.precision, stage.layout.config
        setting_qkv, setting_o, setting_sdpa = stage.settings
        qkv = stage.column(x_td, self.wqkv_dkgh, p.wqkv, setting_qkv, pass_rows=2048)
        if self.bias_kgh is not None:
            qkv = tt.add_bias(qkv, self.bias_kgh[...], out_format=p.linear_out, memory=stage.memory)
        q, k, v = tt.create_heads_prefill(
            qkv, kv_heads=stage.layout.local_kv_heads, head_dim=c.head_dim, format=p.linear_out
        )
        q = tt.rotary(q, cos, sin, out_format=p.rope_in, memory=stage.memory)
        k = tt.rotary(k, cos, sin, out_format=p.rope_in, memory=stage.memory)
        precise = stage.numerics == "prefill"  # decode's update_cache packs without the typecast's precise mode
        k = tt.typecast(k, in_format=p.rope_in, out_format=p.kv_cache, precise=precise)
        v = tt.typecast(v, in_format=p.linear_out, out_format=p.kv_cache, precise=precise)
        spread = stage.users_axis
        keys = tt.fill_cache(keys, k, user, start=start, format=p.kv_cache, users_axis=spread)
        values = tt.fill_cache(values, v, user, start=start, format=p.kv_cache, users_axis=spread)
        if start:
            if spread is not None:
                raise ValueError("chunked prefill of users that are spread over columns is not possible")
            k = tt.read_cache(keys, user, length=start + x_td.shape[0])
            v = tt.read_cache(values, user, length=start + x_td.shape[0])
        q = tt.typecast(q, in_format=p.rope_in, out_format=stage.query_format)
        out = tt.sdpa_prefill(
            q,
            k,
            v,
            start=start,
            setting=setting_sdpa,
            kv_format=p.kv_cache,
            out_format=stage.query_format,
            window=c.sliding_window,
        )
        out = tt.concat_heads_prefill(out, format=stage.query_format)
        return stage.attention_output(out, self.wo_qd, p.wo, setting_o), keys, values


class MLP(nnx.Module):
    """w2(silu(x w1) * (x w3))."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None):
        hidden, inner = layout.config.hidden_size, layout.intermediate_size
        self.w1_df = parameter((hidden, inner), ("embed", "mlp"), rngs)
        self.w3_df = parameter((hidden, inner), ("embed", "mlp"), rngs)
        self.w2_fd = parameter((inner, hidden), ("mlp", "w2_out"), rngs)

    def __call__(self, x, stage: Stage):
        p = stage.precision
        cores = stage.layout.mlp_cores if stage.memory == "l1" else None
        gate, up = stage.gate_up(x, self.w1_df, self.w3_df, cores=cores)
        y = stage.gathered_product(tt.silu_mul(gate, up, out_format=p.mlp_product, memory=stage.memory, cores=cores))
        return stage.row(y, self.w2_fd, p.ff2, p.li_ff2, in_format=p.mlp_product, cores=cores)


class DecoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None):
        hidden = layout.config.hidden_size
        self.attention_norm_d = parameter((hidden,), ("norm",), rngs, scale=0)
        self.attention = Attention(layout, rngs)
        self.mlp_norm_d = parameter((hidden,), ("norm",), rngs, scale=0)
        self.mlp = MLP(layout, rngs)


class CrossAttentionLayer(nnx.Module):
    """Parameters of a layer that attends to an image; a prompt without an image skips the layer, as the device does."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None):
        c = layout.config
        self.attention_norm_d = parameter((c.hidden_size,), ("norm",), rngs, scale=0)
        self.wq_dq = parameter((c.hidden_size, c.q_size), ("embed", "kv_heads"), rngs)
        self.wkv_dkh = parameter(
            (c.hidden_size, c.num_kv_heads, 2, c.head_dim), ("embed", "kv_heads", None, None), rngs
        )
        self.wo_qd = parameter((c.q_size, c.hidden_size), ("heads", "w2_out"), rngs)
        self.q_norm_h = parameter((c.head_dim,), (None,), rngs, scale=0)
        self.k_norm_h = parameter((c.head_dim,), (None,), rngs, scale=0)
        self.attention_gate = parameter((1,), (None,), rngs, scale=0)
        self.mlp_norm_d = parameter((c.hidden_size,), ("norm",), rngs, scale=0)
        self.mlp = MLP(layout, rngs)
        self.mlp_gate = parameter((1,), (None,), rngs, scale=0)


class Transformer(nnx.Module):
    """Embedding, decoder layers, last norm and LM head.

    Args:
      layout: the model on its system.
      rngs: source of random parameters; None builds the model abstractly, in milliseconds at any size.

    The LM head always has parameters of its own: with tied embeddings the device, too, keeps a second copy, in another
    format and another sharding.
    """

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None = None):
        config = layout.config
        self.embedding_vd = parameter((config.vocab_size, config.hidden_size), (None, "residual"), rngs, scale=0.02)
        self.layers = nnx.List(
            [
                CrossAttentionLayer(layout, rngs) if i in config.cross_attention_layers else DecoderLayer(layout, rngs)
                for i in range(config.num_layers)
            ]
        )
        self.norm_d = parameter((config.hidden_size,), ("norm",), rngs, scale=0)
        self.lm_head_dv = parameter((config.hidden_size, layout.vocab_size), ("embed", "vocab"), rngs)

    def decode(
        self,
        tokens_b,
        positions,
        cache: KVCache,
        *,
        layout: Layout,
        precision: AnyPrecision,
        sample: Sample = "none",
    ):
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
        tokens_b, positions = tt.copy_to_device(tokens_b, positions, work="step")
        step = functools.partial(Transformer.device_step, layout=layout, precision=precision, sample=sample)
        result, cache = tt.traced(step)(self, tokens_b, positions, cache)
        result = tt.read_back(result, work="step")
        if sample == "host":
            result = tt.argmax(result, ties=precision.argmax_ties, memory="host")
        return result, cache

    def device_step(
        self, tokens_b, positions, cache: KVCache, *, layout: Layout, precision: AnyPrecision, sample: Sample
    ):
        """What the device runs of `decode`, from tokens to logits or, where it chooses them, tokens."""
        first = decode_stage(layout, precision.layer(0))
        x = tt.embedding(tokens_b, self.embedding_vd[...], out_format=first.precision.residual)
        cos, sin = rotary_of_step(positions, layout, precision)
        x = tt.reshard(x, format=first.precision.residual, cores=layout.residual_cores)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            x, keys[slot], values[slot] = decode_layer(
                layer, x, cos, sin, positions, keys[slot], values[slot], layout=layout, precision=layer_precision
            )
        stage = decode_stage(layout, precision.layer(len(keys) - 1))
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        logits = stage.logits(x, self.norm_d, self.lm_head_dv, precision, gather=sample != "topk")
        if sample == "topk":
            return choose_by_topk(logits, layout, precision), cache
        logits = tt.untilize(logits, format=precision.logits)[:, : layout.config.vocab_size]
        return tt.argmax(logits, ties=precision.argmax_ties) if sample == "device" else logits, cache

    def prefill(
        self,
        tokens_t,
        positions_t,
        user,
        last,
        cache: KVCache,
        *,
        layout: Layout,
        precision: AnyPrecision,
        start: int = 0,
        logits: Literal["none", "last", "all"] = "last",
        numerics: Literal["prefill", "decode"] = "prefill",
        first: bool | None = None,
        traced: bool = False,
        untilize: Literal["dram", "host"] = "dram",
    ):
        """One user's prompt, or a chunk of it (inside `shard_map`).

        Args:
          tokens_t: [T] int32, padded at the end. positions_t: [T] int32, start .. start + T - 1.
          user: int32 scalar, index of the user in the cache. last: int32 scalar, the row whose logits are wanted.
          cache: keys and values.
          layout, precision: static.
          start: position of the chunk's first row.
          logits: "last" computes those of the 32 rows around `last`, "all" of every row, "none" only fills the cache.
          numerics: "decode" uses decode's formats and settings: with teacher forcing this one pass computes what T
            decode steps would.
          first: whether the host copies the prompt's inputs before this chunk; by default if it starts at 0.
          traced: whether the device's ops are recorded in one trace. untilize: where logits become rows.

        Returns:
          (this device's slice of the logits [rows, V / devices] or None, the cache with these rows).
        """
        if start == 0 if first is None else first:
            tokens_t, positions_t = tt.copy_to_device(tokens_t, positions_t, work="prompt")
        cos, sin = rotary_of_prompt(positions_t, layout, precision)
        run = functools.partial(
            Transformer.device_prompt,
            layout=layout,
            precision=precision,
            start=start,
            logits=logits,
            numerics=numerics,
            untilize=untilize,
        )
        result, cache = (tt.traced(run) if traced else run)(self, tokens_t, cos, sin, user, last, cache)
        if result is not None:
            result = tt.read_back(result, work="prompt")
            if untilize == "host":
                result = tt.untilize(result, format=precision.logits, memory="host")
        return result, cache

    def device_prompt(
        self,
        tokens_t,
        cos,
        sin,
        user,
        last,
        cache: KVCache,
        *,
        layout: Layout,
        precision: AnyPrecision,
        start: int,
        logits: Literal["none", "last", "all"],
        numerics: Literal["prefill", "decode"],
        untilize: Literal["dram", "host"],
    ):
        """What the device runs of `prefill`, from tokens to logits or, without them, to the filled cache."""
        x = self.embed_prompt(tokens_t, precision=precision)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            x, keys[slot], values[slot] = prefill_layer(
                layer,
                x,
                cos,
                sin,
                user,
                keys[slot],
                values[slot],
                start=start,
                stage=prefill_stage(layout, layer_precision, cache.users_axis, numerics),
            )
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        if logits == "none":
            return None, cache
        row = last if logits == "last" else None
        return self.prompt_logits(x, row, layout=layout, precision=precision, untilize=untilize), cache

    def embed_prompt(self, tokens_t, *, precision: AnyPrecision):
        """The residual stream [T, d / devices] that enters the first layer."""
        return tt.embedding(tokens_t, self.embedding_vd[...], out_format=precision.layer(0).residual)

    def prompt_logits(
        self, x, last, *, layout: Layout, precision: AnyPrecision, untilize: Literal["dram", "host"] = "dram"
    ):
        """Logits of the 32 rows around `last`, or of all rows. [T, d / devices] -> [rows, V / devices]."""
        last_layer = precision.layer(len(layout.config.self_attention_layers) - 1)
        stage = decode_stage(layout, last_layer)  # both phases end in decode's kernels
        if last is not None:
            x = tt.take_rows(x, last, rows=min(32, x.shape[0]), format=stage.precision.residual)
        y = stage.logits(x, self.norm_d, self.lm_head_dv, precision, gather=False)
        return tt.untilize(y, format=precision.logits) if untilize == "dram" else y

    def text_layers(self, config: ModelConfig, precision: AnyPrecision):
        """The layers that text runs through, with their precision."""
        for slot, index in enumerate(config.self_attention_layers):
            yield self.layers[index], precision.layer(slot)


def rotary_of_prompt(positions_t, layout: Layout, precision: AnyPrecision):
    """Rotary tables [1, T, h / 2] of a prompt, which the host slices."""
    return tuple(table[None] for table in _rotary_tables(positions_t, layout, precision.layer(0), "host"))


def choose_by_topk(logits, layout: Layout, precision: AnyPrecision):
    """The greedy token of each row by the largest logits of each chip's columns. [B, V / devices] -> [B] int32."""
    axis = layout.axis if layout.ways > 1 else None
    best, indices = tt.topk(logits, k=tt.TOPK, vocab_size=layout.config.vocab_size, axis=axis)
    if axis:
        last = logits.ndim - 1
        best, indices = (
            tt.all_gather(each, axis=axis, dim=last, format="bf16", memory="l1") for each in (best, indices)
        )
    return tt.choose(best, indices, ties=precision.argmax_ties)


def rotary_of_step(positions, layout: Layout, precision: AnyPrecision):
    """Rotary tables [b, 1, h / 2] of a decode step, looked up on the device."""
    return tuple(table[:, None] for table in _rotary_tables(positions, layout, precision.layer(0), "l1"))


def _rotary_tables(positions, layout: Layout, precision: AnyLayerPrecision, memory: Literal["l1", "host"]):
    config = layout.config
    frequencies, scaling = inverse_frequencies(config.rope, config.head_dim, layout.max_seq_len)
    options = {"scaling": float(scaling), "format": precision.rope_in, "memory": memory}
    return tt.rotary_tables(positions, jnp.asarray(frequencies, jnp.float32), **options)


# Layers are jitted by themselves: all layers of one precision then share one trace, and a program shows them as one
# repeated block, named after the function.

DECODE_LAYER, PREFILL_LAYER = "decode_layer", "prefill_layer"


@functools.partial(jax.jit, static_argnames=("layout", "precision"))
def decode_layer(layer, x, cos, sin, positions, keys, values, *, layout, precision):
    stage = decode_stage(layout, precision)
    h = stage.norm(x, layer.attention_norm_d, cores=layout.attention_cores)
    out, keys, values = layer.attention.decode(h, cos, sin, positions, keys, values, stage)
    x = tt.add(x, out, out_format=precision.residual, memory="l1", cores=layout.residual_cores)
    h = stage.norm(x, layer.mlp_norm_d, cores=layout.mlp_cores, move=False)
    x = tt.add(x, layer.mlp(h, stage), out_format=precision.residual, memory="l1", cores=layout.residual_cores)
    return x, keys, values


@functools.partial(jax.jit, static_argnames=("start", "stage"))
def prefill_layer(layer, x, cos, sin, user, keys, values, *, start, stage):
    residual = stage.precision.residual
    h = stage.norm(x, layer.attention_norm_d)
    out, keys, values = layer.attention.prefill(h, cos, sin, user, keys, values, stage, start)
    x = tt.add(x, out, out_format=residual)
    h = stage.norm(x, layer.mlp_norm_d)
    x = tt.add(x, layer.mlp(h, stage), out_format=residual)
    return x, keys, values
