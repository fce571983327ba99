"""Attention to the keys and values of an earlier layer (Gemma-4 E2B and E4B), in decode and in prefill.

Axes in names: b users, t tokens of a prompt, d hidden size, k KV heads, g query heads of a KV head, h head size.

Source: tt-metal models/demos/gemma4/tt/layer.py (`is_kv_shared`: no K and V projection, no cache update).
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.attention import Attention, Rotary, Stage, head_norm
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parameters import parameter


class ReusedAttention(Attention):
    """Grouped-query attention that makes queries only; its cache is that of the layer which made keys and values."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        c, heads = layout.config, layout.kv_heads(kind)
        shape = (c.hidden_size, heads, c.num_heads // heads, kind.head_dim)
        self.wqkv_dkgh = parameter(shape, ("embed", "kv_heads", None, None), rngs, group="wqkv", storage="banks")
        self.q_norm = parameter((kind.head_dim,), (None,), rngs, scale=0) if c.qk_norm else None
        self.wo_qd = parameter(
            (c.num_heads * kind.head_dim, c.hidden_size), ("wo_in", "wo_out"), rngs, group="wo", storage="banks"
        )
        self.bias_kgh = self.gate_dkgh = self.k_norm = self.sinks_kg = self.bias_d = None

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
        p = stage.precision
        q = self._queries(stage.my_users(self._projected(x_bd, stage, p.li_qkv_decode)), rotary, stage, kind)
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
        del last
        setting_qkv, setting_o, _ = stage.settings
        q = self._queries(self._projected(x_td, stage, setting_qkv), rotary, stage, kind)
        k, v = (
            tt.read_cache(cached, user, length=start + x_td.shape[0], users_axis=stage.users_axis)
            for cached in (keys, values)
        )
        out = self._scores_prefill(q, k, v, mask, stage, kind, start)
        return self._output(x_td, out, stage, setting_qkv, setting_o), keys, values

    def _queries(self, q: Array, rotary: Rotary | None, stage: Stage, kind: LayerKind) -> Array:
        """The projection as heads, normalised and rotated."""
        p = stage.precision
        q = tt.query_heads(q, head_dim=kind.head_dim, format=p.linear_out, memory=stage.memory)
        if self.q_norm is not None:
            q = head_norm(q, self.q_norm, stage)
        if rotary is None:
            return q
        return tt.rotary(q, rotary.cos, rotary.sin, out_format=p.rope_in, memory=stage.memory, pair="first")
