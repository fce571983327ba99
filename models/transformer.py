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
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.attention import Attention, Rotary, rotary_tables
from ttsim.models.cache import KVCache
from ttsim.models.config import ModelConfig
from ttsim.models.deltanet import DeltaNet
from ttsim.models.experts import expert_mlp
from ttsim.models.features import LayerKind
from ttsim.models.latent import LatentAttention
from ttsim.models.layout import Layout
from ttsim.models.mlp import MLP
from ttsim.models.parallel import Galaxy, OneAxis, decode_stage, prefill_stage
from ttsim.models.parameters import Parameter, parameter
from ttsim.precision.values import LayerPrecision, Precision

Stage = OneAxis | Galaxy
Sample = Literal["device", "topk", "host", "none"]

# How a layer's tokens see each other, and what follows: classes by `LayerKind.mixer` and `LayerKind.mlp`.
#
# A mixer is made with (layout, kind, rngs) and has
#   decode(h_bd, rotary, positions, keys, values, stage, kind) -> (out, keys, values)
#   prefill(h_td, rotary, user, last, keys, values, stage, kind, start) -> (out, keys, values)
# where `last` is the last row that is no padding (None: all count), and keys and values are the two arrays that
# `ttsim.models.cache` keeps for a layer of its kind. An MLP is made alike
# and has __call__(h, stage, residual) -> out. Both leave `out` in the residual stream's sharding.
MIXERS: dict[str, Any] = {"attention": Attention, "latent": LatentAttention, "delta": DeltaNet}
MLPS: dict[str, Any] = {"dense": MLP, "experts": expert_mlp}


class DecoderLayer(nnx.Module):
    """A mixer and an MLP, each with the norms that `ModelConfig.block` places around it."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        c = layout.config

        def norm(wanted: bool) -> Parameter | None:
            return parameter((c.hidden_size,), ("norm",), rngs, scale=0) if wanted else None

        self.attention_norm_d = norm(c.block != "post")
        self.attention = MIXERS[kind.mixer](layout, kind, rngs)
        self.attention_out_norm_d = norm(c.block in ("post", "sandwich"))
        self.mlp_norm_d = norm(c.block in ("pre", "sandwich"))
        self.mlp = MLPS[kind.mlp](layout, kind, rngs)
        self.mlp_out_norm_d = norm(c.block in ("post", "sandwich"))
        self.scale = parameter((1,), (None,), rngs, scale=0) if c.layer_scale else None


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
        tokens_b, positions = tt.copy_to_device(tokens_b, positions, work="step")
        step = functools.partial(Transformer.device_step, layout=layout, precision=precision, sample=sample)
        result, cache = tt.traced(step)(self, tokens_b, positions, cache)
        result = tt.read_back(result, work="step")
        if sample == "host":
            result = tt.argmax(result, ties=precision.argmax_ties, memory="host")
        return result, cache

    def device_step(
        self,
        tokens_b: Array,
        positions: Array,
        cache: KVCache,
        *,
        layout: Layout,
        precision: Precision,
        sample: Sample,
    ) -> tuple[Array, KVCache]:
        """What the device runs of `decode`, from tokens to logits or, where it chooses them, tokens."""
        first = decode_stage(layout, precision.layer(0))
        x = self.embed(tokens_b, layout=layout, precision=precision)
        tables = rotary_tables(positions, layout, first.precision, "l1")
        x = tt.reshard(x, format=first.precision.residual, cores=layout.residual_cores)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            rotary = table_of(kind, tables, layout)
            cached = keys[slot], values[slot]
            x, keys[slot], values[slot] = decode_layer(
                layer, x, rotary, positions, *cached, layout=layout, precision=layer_precision, kind=kind
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
        start: int = 0,
        logits: Literal["none", "last", "all"] = "last",
        numerics: Literal["prefill", "decode"] = "prefill",
        first: bool | None = None,
        traced: bool = False,
        untilize: Literal["dram", "host"] = "dram",
    ) -> tuple[Array | None, KVCache]:
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
        tables = rotary_tables(positions_t, layout, precision.layer(0), "host")
        run = functools.partial(
            Transformer.device_prompt,
            layout=layout,
            precision=precision,
            start=start,
            logits=logits,
            numerics=numerics,
            untilize=untilize,
        )
        result, cache = (tt.traced(run) if traced else run)(self, tokens_t, tables, user, last, cache)
        if result is not None:
            result = tt.read_back(result, work="prompt")
            if untilize == "host":
                result = tt.untilize(result, format=precision.logits, memory="host")
        return result, cache

    def device_prompt(
        self,
        tokens_t: Array,
        tables: tuple[Rotary, ...],
        user: Array,
        last: Array | None,
        cache: KVCache,
        *,
        layout: Layout,
        precision: Precision,
        start: int,
        logits: Literal["none", "last", "all"],
        numerics: Literal["prefill", "decode"],
        untilize: Literal["dram", "host"],
    ) -> tuple[Array | None, KVCache]:
        """What the device runs of `prefill`, from tokens to logits or, without them, to the filled cache."""
        x = self.embed(tokens_t, layout=layout, precision=precision)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(self.text_layers(layout.config, precision)):
            x, keys[slot], values[slot] = prefill_layer(
                layer,
                x,
                table_of(kind, tables, layout),
                user,
                last if logits == "last" else None,
                keys[slot],
                values[slot],
                start=start,
                stage=prefill_stage(layout, layer_precision, cache.users_axis, numerics),
                kind=kind,
            )
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        if logits == "none":
            return None, cache
        row = last if logits == "last" else None
        return self.prompt_logits(x, row, layout=layout, precision=precision, untilize=untilize), cache

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
        y = stage.logits(_centered(x, stage), self.norm_d, self.lm_head_dv, precision, gather=gather)
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


# Layers are jitted by themselves: all layers of one precision and kind then share one trace, and a program shows them
# as one repeated block, named after the function.

DECODE_LAYER, PREFILL_LAYER = "decode_layer", "prefill_layer"


@functools.partial(jax.jit, static_argnames=("layout", "precision", "kind"))
def decode_layer(
    layer: DecoderLayer,
    x: Array,
    rotary: Rotary | None,
    positions: Array,
    keys: Array,
    values: Array,
    *,
    layout: Layout,
    precision: LayerPrecision,
    kind: LayerKind,
) -> tuple[Array, Array, Array]:
    stage = decode_stage(layout, precision)

    def attend(h: Array) -> Array:
        nonlocal keys, values
        out: Array
        out, keys, values = layer.attention.decode(h, rotary, positions, keys, values, stage, kind)
        return out

    return _layer(layer, x, attend, stage), keys, values


@functools.partial(jax.jit, static_argnames=("start", "stage", "kind"))
def prefill_layer(
    layer: DecoderLayer,
    x: Array,
    rotary: Rotary | None,
    user: Array,
    last: Array | None,
    keys: Array,
    values: Array,
    *,
    start: int,
    stage: Stage,
    kind: LayerKind,
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    seen = {} if mask is None else {"mask": mask}  # only attention has one

    def attend(h: Array) -> Array:
        nonlocal keys, values
        out: Array
        out, keys, values = layer.attention.prefill(h, rotary, user, last, keys, values, stage, kind, start, **seen)
        return out

    return _layer(layer, x, attend, stage), keys, values


def _layer(layer: DecoderLayer, x: Array, attend: Callable[[Array], Array], stage: Stage) -> Array:
    """One layer of either phase: the norms around the mixer and the MLP, and the residual stream past them."""
    layout, fmt = stage.layout, stage.precision.residual
    in_l1 = stage.memory == "l1"
    attention_cores, mlp_cores = (layout.attention_cores, layout.mlp_cores) if in_l1 else (None, None)
    h = _normalised(x, layer.attention_norm_d, stage, cores=attention_cores)
    if layout.config.block == "parallel":
        out = tt.add(attend(h), layer.mlp(h, stage, x), out_format=fmt, memory=stage.memory)
        return _added(x, out, stage)
    x = _added(x, _post_norm(attend(h), layer.attention_out_norm_d, stage), stage)
    h = _normalised(x, layer.mlp_norm_d, stage, cores=mlp_cores, move=False)
    x = _added(x, _post_norm(layer.mlp(h, stage, x), layer.mlp_out_norm_d, stage), stage)
    if layer.scale is None:
        return x
    return tt.multiply(x, layer.scale[...].reshape((1,) * x.ndim), out_format=fmt, memory=stage.memory)


def _normalised(x: Array, weight: Parameter | None, stage: Stage, *, cores: int | None, move: bool = True) -> Array:
    """What a column-parallel weight multiplies: x normalised, or as it is where the block has no norm before."""
    if weight is not None:
        return stage.norm(_centered(x, stage), weight, cores=cores, move=move)
    layout, fmt = stage.layout, stage.precision.residual
    if not layout.two_d and layout.residual_ways > 1:
        return stage.all_gather(x, layout.residual_axis, fmt)
    return stage.reshard(x, fmt, cores)


def _centered(x: Array, stage: Stage) -> Array:
    """x without its mean where the model's norms are layer norms."""
    layout = stage.layout
    if layout.config.norm == "rms":
        return x
    axis = layout.residual_axis if layout.residual_ways > 1 else None
    return tt.center(x, axis=axis, out_format=stage.precision.residual, memory=stage.memory)


def _post_norm(out: Array, weight: Parameter | None, stage: Stage) -> Array:
    """A branch's output normalised before it joins the residual stream, in whose sharding it stays.

    A line or ring gathers, normalises and cuts again; a Galaxy gathers statistics only.
    """
    if weight is None:
        return out
    layout, fmt = stage.layout, stage.precision.residual
    cores = layout.residual_cores if stage.memory == "l1" else None
    if layout.two_d:
        return stage.norm_apply(out, stage.norm_stats(out, None), weight, None)
    if layout.residual_ways == 1:
        return stage.norm(out, weight, cores=cores, move=False)
    whole = stage.norm(out, weight, cores=cores)
    return tt.mesh_partition(whole, axis=layout.residual_axis, format=fmt, memory=stage.memory)


def _added(x: Array, out: Array, stage: Stage) -> Array:
    """The residual stream with a branch's output."""
    fmt, factor = stage.precision.residual, stage.layout.config.residual_scale
    if factor != 1:
        out = tt.scale(out, factor=factor, out_format=fmt, memory=stage.memory)
    cores = stage.layout.residual_cores if stage.memory == "l1" else None
    return tt.add(x, out, out_format=fmt, memory=stage.memory, cores=cores)
