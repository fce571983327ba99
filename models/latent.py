"""Latent attention (DeepSeek-V3/R1, Kimi-K2) in the absorbed form that the device runs.

Heads are cut over the chips of a row. In decode the chips exchange heads for users: each attends with all heads for
its share of the users, whose latents it caches, and the outputs of all users are gathered before wo.

Axes in names: b users, t tokens, d hidden size, a rank of the queries, r rank of the latent, p rotated columns,
h heads, n columns without rotation, v columns of a value, q columns that wo contracts.

Source: tt-metal models/demos/deepseek_v3/tt/mla.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.meshes.systems import TENSOR_AXIS
from ttsim.models.attention import Rotary
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import OneAxis
from ttsim.models.parameters import parameter
from ttsim.ops.core import Weight

NORM_EPS = 1e-6  # of the two inner norms, whatever rms_norm_eps says (transformers modeling_deepseek_v3.py)


def _scale(layout: Layout) -> float:
    """The factor on scores, which every reader of these families gives."""
    scale = layout.config.query_scale
    assert scale is not None
    return scale


class LatentAttention(nnx.Module):
    """q = wq_b norm(wq_a x); c = norm(wkv_a x); attention of (wkv_b1 q, rope(q)) to (c, rope(k)); wo (wkv_b2 out)."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        del kind
        c, m = layout.config, layout.latent
        hidden, heads, rank = c.hidden_size, c.num_heads, m.kv_rank
        rank_q = m.query_rank or 0
        self.wq_da = parameter((hidden, rank_q), (None, None), rngs, group="wqkv") if rank_q else None
        self.q_norm_a = parameter((rank_q,), (None,), rngs, scale=0) if rank_q else None
        head = m.nope_dim + m.rope_dim
        self.wq_ahn = parameter((rank_q or hidden, heads, head), (None, "kv_heads", None), rngs, group="wqkv")
        self.wkv_dr = parameter((hidden, rank + m.rope_dim), (None, None), rngs, group="wqkv")
        self.kv_norm_r = parameter((rank,), (None,), rngs, scale=0)
        self.wkv_b1_hnr = parameter(
            (heads, m.nope_dim, rank), ("kv_heads", None, None), rngs, group="wqkv", scale=m.nope_dim**-0.5
        )
        # Every chip holds the values' weights of all heads: it makes the values of its users.
        self.wkv_b2_hrv = parameter((heads, rank, m.value_dim), (None, None, None), rngs, group="wo", scale=rank**-0.5)
        self.wo_qd = parameter((heads * m.value_dim, hidden), (None, "latent_out"), rngs, group="wo", storage="banks")

    def decode(
        self,
        x_bd: Array,
        rotary: Rotary,
        positions: Array,
        latents: Array,
        unused: Array,
        stage: OneAxis,
        kind: LayerKind,
    ) -> tuple[Array, Array, Array]:
        """x [B, d] whole; latents [b, 1, S, r + p]: b = B, or this chip's share of B users; `unused` is empty."""
        cos, sin = rotary.cos, rotary.sin
        p, layout, m = stage.precision, stage.layout, stage.layout.latent
        setting = p.li_qkv_decode
        q = self._queries(x_bd, cos, sin, setting, stage)
        row = self._latents(x_bd, cos, sin, setting, stage)
        spread = latents.shape[0] != x_bd.shape[0]
        if spread:
            q = tt.heads_to_users(q, axis=TENSOR_AXIS, format=p.rope_in)
            row, positions = (tt.my_rows(y, axis=TENSOR_AXIS, format=p.rope_in) for y in (row, positions))
        elif layout.ways > 1:
            q = tt.all_gather(q, axis=TENSOR_AXIS, dim=1, format=p.rope_in, memory=stage.memory)
        latents = tt.update_latent_cache(latents, row, positions, format=p.kv_cache)
        out = tt.mla_decode(
            q,
            latents,
            positions,
            rank=m.kv_rank,
            scale=_scale(layout),
            setting=p.sdpa_decode,
            kv_format=p.kv_cache,
            out_format=p.sdpa_decode_out,
        )
        out = self._values(out, self.wkv_b2_hrv[...], p.li_o_decode, stage)
        if spread:
            out = tt.all_gather(out, axis=TENSOR_AXIS, dim=0, format=p.linear_out, memory=stage.memory)
        return self._output(out, p.li_o_decode, stage), latents, unused

    def prefill(
        self,
        x_td: Array,
        rotary: Rotary,
        user: Array,
        last: Array,
        latents: Array,
        unused: Array,
        stage: OneAxis,
        kind: LayerKind,
        start: int,
    ) -> tuple[Array, Array, Array]:
        """x [T, d] whole; each chip attends with its own heads."""
        del last  # what padding leaves behind is overwritten by decode
        p, layout, m = stage.precision, stage.layout, stage.layout.latent
        setting_q, setting_o, setting_sdpa = stage.settings
        cos, sin, users_axis = rotary.cos[0][:, None], rotary.sin[0][:, None], stage.users_axis
        q = self._queries(x_td, cos, sin, setting_q, stage)
        rows = self._latents(x_td, cos, sin, setting_q, stage)
        precise = stage.numerics == "prefill"
        rows = tt.typecast(rows, in_format=p.rope_in, out_format=p.kv_cache, precise=precise)
        latents = tt.fill_latent_cache(latents, rows, user, start=start, format=p.kv_cache, users_axis=users_axis)
        if start:
            length = start + x_td.shape[0]
            rows = tt.read_latent_cache(latents, user, length=length, users_axis=users_axis)
        out = tt.mla_prefill(
            q,
            rows,
            start=start,
            rank=m.kv_rank,
            scale=_scale(layout),
            setting=setting_sdpa,
            kv_format=p.kv_cache,
            out_format=stage.query_format,
        )
        weight: Weight = self.wkv_b2_hrv[...]
        if layout.ways > 1:
            weight = tt.local_heads(weight, axis=TENSOR_AXIS)
        out = self._values(out, weight, setting_o, stage)
        if layout.ways > 1:
            out = tt.all_gather(out, axis=TENSOR_AXIS, dim=1, format=p.linear_out, memory=stage.memory)
        return self._output(out, setting_o, stage), latents, unused

    def _queries(self, x: Array, cos: Array, sin: Array, setting: str, stage: OneAxis) -> Array:
        """This chip's heads, brought into the latent's space, and rotated: [rows, h, r + p]."""
        p, m = stage.precision, stage.layout.latent
        if self.wq_da is not None and self.q_norm_a is not None:
            x = stage.plain_linear(x, self.wq_da, p.wqkv, setting)
            x = tt.rms_norm(x, self.q_norm_a[...], eps=NORM_EPS, out_format=p.residual, memory=stage.memory)
        q = stage.plain_linear(x, self.wq_ahn, p.wqkv, setting)
        q = q.reshape(q.shape[0], -1, m.nope_dim + m.rope_dim)
        plain, rotated = tt.split_columns(q, sizes=(m.nope_dim, m.rope_dim), format=p.linear_out, memory=stage.memory)
        plain = tt.head_linear(
            plain,
            self.wkv_b1_hnr[...],
            weight_format=p.wqkv,
            setting=setting,
            in_format=p.linear_out,
            out_format=p.rope_in,
            memory=stage.memory,
        )
        return tt.concat_columns(
            plain,
            tt.rotary(rotated, cos, sin, out_format=p.rope_in, memory=stage.memory),
            format=p.rope_in,
            memory=stage.memory,
        )

    def _latents(self, x: Array, cos: Array, sin: Array, setting: str, stage: OneAxis) -> Array:
        """What is cached of each row, the same on every chip: norm(c) and rope(k), [rows, r + p]."""
        p, m = stage.precision, stage.layout.latent
        both = stage.plain_linear(x, self.wkv_dr, p.wqkv, setting)
        latent, key = tt.split_columns(both, sizes=(m.kv_rank, m.rope_dim), format=p.linear_out, memory=stage.memory)
        latent = tt.rms_norm(latent, self.kv_norm_r[...], eps=NORM_EPS, out_format=p.rope_in, memory=stage.memory)
        key = tt.rotary(key[:, None], cos, sin, out_format=p.rope_in, memory=stage.memory)
        return tt.concat_columns(latent, key[:, 0], format=p.rope_in, memory=stage.memory)

    def _values(self, out: Array, weight_hrv: Weight, setting: str, stage: OneAxis) -> Array:
        """Each head's values of what attention gave: [rows, h, r] -> [rows, h v]."""
        p = stage.precision
        out = tt.head_linear(
            out,
            weight_hrv,
            weight_format=p.wo,
            setting=setting,
            in_format=stage.query_format,
            out_format=p.linear_out,
            memory=stage.memory,
        )
        return out.reshape(out.shape[0], -1)

    def _output(self, out: Array, setting: str, stage: OneAxis) -> Array:
        """wo, whose columns are cut like the residual stream: no sum over chips follows."""
        return stage.plain_linear(out, self.wo_qd, stage.precision.wo, setting)
