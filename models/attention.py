"""Grouped-query attention as one device runs it, in decode and in prefill.

Axes in names: b users, t tokens of a prompt, d hidden size, k KV heads, g query heads of a KV head, h head size.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import Galaxy, OneAxis
from ttsim.models.parameters import Parameter, parameter
from ttsim.models.rope import inverse_frequencies
from ttsim.precision.values import LayerPrecision

Stage = OneAxis | Galaxy


class Rotary(NamedTuple):
    """Tables of one rotary embedding at the positions at hand, shaped so that they broadcast over heads.

    Attributes:
      cos, sin: [b, 1, r / 2] in decode, [1, T, r / 2] in prefill.
      growth: factor on queries, [b, 1, 1] or [1, T, 1], or None.
    """

    cos: Any
    sin: Any
    growth: Any = None


def rotary_tables(
    positions: Array, layout: Layout, precision: LayerPrecision, memory: Literal["l1", "host"]
) -> tuple[Rotary, ...]:
    """The tables of each embedding of `ModelConfig.ropes`: of one token a user ("l1"), or of a prompt ("host")."""
    axis = 1 if memory == "l1" else 0  # where the axis of heads goes
    tables = []
    for rope, head_dim in layout.config.ropes:
        radians, scaling = inverse_frequencies(rope, head_dim, layout.max_seq_len)
        frequencies = jnp.asarray(radians, jnp.float32)
        cos, sin = tt.rotary_tables(
            positions, frequencies, scaling=float(scaling), format=precision.rope_in, memory=memory
        )
        growth = None
        if rope.query_growth:
            original = rope.original_max_position_embeddings
            growth = tt.query_growth(
                positions, beta=rope.query_growth, original=original, format=precision.rope_in, memory=memory
            )
            growth = jnp.expand_dims(growth[:, None], axis)
        tables.append(Rotary(jnp.expand_dims(cos, axis), jnp.expand_dims(sin, axis), growth))
    return tuple(tables)


class Attention(nnx.Module):
    """Grouped-query attention with a fused projection: for each KV head its query heads, then K, then V."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        c, heads = layout.config, layout.kv_heads(kind)
        group = c.num_heads // heads
        fused = (heads, group + 2, kind.head_dim)
        cut = ("kv_heads", None, None)
        self.wqkv_dkgh = parameter((c.hidden_size, *fused), ("embed", *cut), rngs, group="wqkv", storage="banks")
        self.bias_kgh = parameter(fused, cut, rngs, group="bias", scale=0.02) if c.qkv_bias else None
        gate = (c.hidden_size, heads, group, kind.head_dim)
        self.gate_dkgh = (
            parameter(gate, ("embed", *cut), rngs, group="wqkv", storage="banks") if c.output_gate else None
        )
        norms = {
            "head": ((kind.head_dim,), (kind.head_dim,)),
            "width": ((heads, group, kind.head_dim), (heads, kind.head_dim)),
        }
        axes = {"head": ((None,), (None,)), "width": (cut, cut[:2])}
        self.q_norm = parameter(norms[c.qk_norm][0], axes[c.qk_norm][0], rngs, scale=0) if c.qk_norm else None
        self.k_norm = parameter(norms[c.qk_norm][1], axes[c.qk_norm][1], rngs, scale=0) if c.qk_norm else None
        self.sinks_kg = parameter((heads, group), ("kv_heads", None), rngs, scale=1) if c.sinks else None
        self.wo_qd = parameter(
            (c.num_heads * kind.head_dim, c.hidden_size), ("wo_in", "wo_out"), rngs, group="wo", storage="banks"
        )
        self.bias_d = parameter((c.hidden_size,), ("residual",), rngs, group="bias", scale=0.02) if c.out_bias else None

    def decode(
        self,
        x_bd: Array,
        rotary: Rotary | None,
        positions: Array,
        keys: Array,
        values: Array,
        stage: Stage,
        kind: LayerKind,
    ) -> tuple[Array, Array, Array]:
        """One token of each user: x [B, d] -> (its attention in the residual stream's sharding, keys, values)."""
        p, layout = stage.precision, stage.layout
        qkv = stage.my_users(self._projected(x_bd, stage, p.li_qkv_decode))
        q, k, v = tt.create_heads_decode(
            qkv, kv_heads=layout.local_kv_heads(kind), head_dim=kind.head_dim, format=p.linear_out
        )
        q, k, v = self._ready(q, k, v, rotary, stage)
        keys = tt.update_cache(keys, k, positions, format=p.kv_cache, pair="first")
        values = tt.update_cache(values, v, positions, format=p.kv_cache, pair="second")
        out = stage.all_users(self._scores_decode(q, keys, values, positions, stage, kind), x_bd.shape[0])
        return self._output(x_bd, out, stage, p.li_qkv_decode, p.li_o_decode), keys, values

    def prefill(
        self,
        x_td: Array,
        rotary: Rotary | None,
        user: Array,
        last: Array,
        keys: Array,
        values: Array,
        stage: Stage,
        kind: LayerKind,
        start: int,
        mask: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """One user's prompt, or the chunk of it from `start` on: x [T, d] -> (attention, keys, values).

        `mask`: [T, T], in place of the causal one, of a whole prompt.
        """
        del last  # decode overwrites what padding leaves in the cache
        p, layout = stage.precision, stage.layout
        setting_qkv, setting_o, _ = stage.settings
        qkv = self._projected(x_td, stage, setting_qkv)
        q, k, v = tt.create_heads_prefill(
            qkv, kv_heads=layout.local_kv_heads(kind), head_dim=kind.head_dim, format=p.linear_out
        )
        q, k, v = self._ready(q, k, v, rotary, stage)
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
        out = self._scores_prefill(q, k, v, mask, stage, kind, start)
        return self._output(x_td, out, stage, setting_qkv, setting_o), keys, values

    def _scores_decode(
        self, q: Array, keys: Array, values: Array, positions: Array, stage: Stage, kind: LayerKind
    ) -> Array:
        """Attention of one query a user to the cache: [b, heads * h]."""
        p = stage.precision
        out = tt.sdpa_decode(
            q,
            keys,
            values,
            positions,
            *self._sinks(),
            setting=p.sdpa_decode,
            kv_format=p.kv_cache,
            out_format=p.sdpa_decode_out,
            **_score_options(stage.layout, kind),
        )
        return tt.concat_heads_decode(out, format=p.sdpa_decode_out)

    def _scores_prefill(
        self, q: Array, k: Array, v: Array, mask: Array | None, stage: Stage, kind: LayerKind, start: int
    ) -> Array:
        """Attention of a prompt's queries: [T, heads * h]."""
        p, layout, setting_sdpa = stage.precision, stage.layout, stage.settings[2]
        q = tt.typecast(q, in_format=p.rope_in, out_format=stage.query_format)
        options = _score_options(layout, kind, prompt=True)
        if stage.numerics == "decode":
            options["numerics"] = "decode"
        if mask is None:
            out = tt.sdpa_prefill(
                q,
                k,
                v,
                *self._sinks(),
                start=start,
                setting=setting_sdpa,
                kv_format=p.kv_cache,
                out_format=stage.query_format,
                **options,
            )
        else:
            out = tt.sdpa(
                q,
                k,
                v,
                mask,
                scale=layout.config.query_scale or kind.head_dim**-0.5,
                setting=setting_sdpa,
                kv_format=p.kv_cache,
                out_format=stage.query_format,
            )
        return tt.concat_heads_prefill(out, format=stage.query_format)

    def _projected(self, x: Array, stage: Stage, setting: str) -> Array:
        """Queries, keys and values of every head of this device, with their bias."""
        p = stage.precision
        cores = stage.layout.attention_cores if stage.numerics == "decode" else None
        qkv = stage.column(x, self.wqkv_dkgh, p.wqkv, setting, cores=cores, pass_rows=2048)
        return (
            qkv
            if self.bias_kgh is None
            else tt.add_bias(qkv, self.bias_kgh[...], out_format=p.linear_out, memory=stage.memory)
        )

    def _ready(self, q: Array, k: Array, v: Array, rotary: Rotary | None, stage: Stage) -> tuple[Array, Array, Array]:
        """Queries and keys normalised and rotated, and values normalised, where the model does so."""
        p, c = stage.precision, stage.layout.config
        if self.q_norm is not None:
            norm = head_norm if c.qk_norm == "head" else _width_norm
            q, k = norm(q, self.q_norm, stage), norm(k, self.k_norm, stage)
        if c.value_norm:
            v = head_norm(v, None, stage)
        if rotary is not None:
            q = tt.rotary(q, rotary.cos, rotary.sin, out_format=p.rope_in, memory=stage.memory, pair="first")
            k = tt.rotary(k, rotary.cos, rotary.sin, out_format=p.rope_in, memory=stage.memory, pair="second")
            if rotary.growth is not None:
                q = tt.multiply(q, rotary.growth, out_format=p.rope_in, memory=stage.memory)
        return q, k, v

    def _sinks(self) -> tuple[Any, ...]:
        return () if self.sinks_kg is None else (self.sinks_kg[...].reshape(-1),)

    def _output(self, x: Array, out: Array, stage: Stage, setting_gate: str, setting_o: str) -> Array:
        """The output projection of the heads' results, gated and with a bias where the model has them."""
        p = stage.precision
        if self.gate_dkgh is not None:
            gate = stage.column(x, self.gate_dkgh, p.wqkv, setting_gate, pass_rows=2048)
            out = tt.gated_mul(gate, out, activation="sigmoid", out_format=stage.query_format, memory=stage.memory)
        y = stage.attention_output(out, self.wo_qd, p.wo, setting_o)
        return (
            y
            if self.bias_d is None
            else tt.add_bias(y, self.bias_d[...], out_format=stage.wo_format, memory=stage.memory)
        )


def _score_options(layout: Layout, kind: LayerKind, *, prompt: bool = False) -> dict[str, Any]:
    """Attributes of attention that only some models have; the others' ops stay as they are."""
    c = layout.config
    options = {
        "window": kind.window,
        "chunk": kind.chunk,
        "scale": c.query_scale,
        "softcap": c.attention_softcap,
        "block_rows": layout.placement.attention_chunk if prompt else None,
    }
    return {"window": options.pop("window"), **{name: value for name, value in options.items() if value is not None}}


def head_norm(x: Array, weight: Parameter | None, stage: Stage) -> Array:
    """RMSNorm of each head; decode moves the heads to an interleaved tensor and back."""
    fmt, eps = stage.precision.linear_out, stage.layout.config.rms_norm_eps
    x = stage.reshard(x, fmt, None)
    # The rows are heads of all users: more than one row of tiles, in L1 as in DRAM.
    x = tt.rms_norm(x, None if weight is None else weight[...], eps=eps, out_format=fmt)
    return stage.reshard(x, fmt, None)


def _width_norm(x: Array, weight: Parameter | None, stage: Stage) -> Array:
    """RMSNorm over all heads of all chips, [b, heads, h] in decode and [heads, T, h] in prefill."""
    layout, fmt, memory = stage.layout, stage.precision.linear_out, stage.memory
    eps = layout.config.rms_norm_eps
    rows = x if memory == "l1" else x.transpose(1, 0, 2)
    assert weight is not None
    flat, flat_weight = rows.reshape(rows.shape[0], -1), weight[...].reshape(-1)
    if layout.ways == 1:
        flat = tt.rms_norm(flat, flat_weight, eps=eps, out_format=fmt, memory=memory)
    else:
        stats = stage.all_gather(tt.rms_norm_stats(flat, out_format=fmt, memory=memory), layout.axis, fmt)
        flat = tt.rms_norm_apply(flat, stats, flat_weight, axis=layout.axis, eps=eps, out_format=fmt, memory=memory)
    rows = flat.reshape(rows.shape)
    return rows if memory == "l1" else rows.transpose(1, 0, 2)
