"""Gated delta nets (Qwen3.5, 3.6, 3.8): a state of fixed size in place of keys and values.

Heads are cut over the chips like attention's: a chip has some key heads, each with its block of value heads, their
part of the convolution and of the state. One matmul makes q, k, v, the output gate z and the logits a and b.

Axes in names: b users, t tokens, d hidden size, j key heads, c columns of a key head's q, k and values, w taps of the
convolution, n value heads, v size of a value, q columns that wo contracts.

Source: tt-metal models/demos/blackhole/qwen36/tt (gdn); transformers modeling_qwen3_5.py.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import OneAxis
from ttsim.models.parameters import parameter


class DeltaNet(nnx.Module):
    """wo (norm(o) silu(z)), where o is read from the state by q after k and v have been written to it."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        del kind
        hidden, g = layout.config.hidden_size, layout.delta
        channels = 2 * g.key_dim + g.value_heads // g.key_heads * g.value_dim
        heads = (g.value_heads,)
        self.wqkv_djc = parameter((hidden, g.key_heads, channels), ("embed", "kv_heads", None), rngs, group="wqkv")
        self.wz_dnv = parameter((hidden, g.value_heads, g.value_dim), ("embed", "kv_heads", None), rngs, group="wqkv")
        self.wa_dn = parameter((hidden, g.value_heads), ("embed", "kv_heads"), rngs, group="wqkv")
        self.wb_dn = parameter((hidden, g.value_heads), ("embed", "kv_heads"), rngs, group="wqkv")
        self.conv_jcw = parameter((g.key_heads, channels, g.conv_width), ("kv_heads", None, None), rngs, scale=0.5)
        self.decay_log_n = parameter(heads, ("kv_heads",), rngs, group="float32", scale=0)
        self.dt_bias_n = parameter(heads, ("kv_heads",), rngs, group="float32", scale=0)
        self.norm_v = parameter((g.value_dim,), (None,), rngs, scale=0)
        self.wo_qd = parameter(
            (g.value_heads * g.value_dim, hidden), ("mlp", "w2_out"), rngs, group="wo", storage="banks"
        )

    def decode(
        self, x_bd: Array, rotary: None, positions: Array, state: Array, conv: Array, stage: OneAxis, kind: LayerKind
    ) -> tuple[Array, Array, Array]:
        """x [B, d] whole; state [B, n, k, v] float32; conv [B, channels, taps - 1]."""
        del rotary, positions, kind
        p = stage.precision
        setting = p.li_qkv_decode
        qkv, z, a, b = self._project(x_bd, setting, stage)
        qkv, conv = tt.conv_decode(qkv, conv, self._taps(), out_format=p.linear_out)
        q, k, v = self._split(qkv, stage)
        out, state = tt.delta_decode(
            q, k, v, a, b, self.decay_log_n[...], self.dt_bias_n[...], state, out_format=p.rope_in
        )
        return self._output(out, z, p.li_o_decode, stage), state, conv

    def prefill(
        self,
        x_td: Array,
        rotary: None,
        user: Array,
        last: Array,
        state: Array,
        conv: Array,
        stage: OneAxis,
        kind: LayerKind,
        start: int,
    ) -> tuple[Array, Array, Array]:
        """x [T, d] whole; `last`: the last row that is no padding, None if all count."""
        del rotary, kind
        p = stage.precision
        setting_qkv, setting_o, _ = stage.settings
        last = jnp.int32(x_td.shape[0] - 1) if last is None else last
        mine, mine_conv = (tt.read_state(each, user, keep=start > 0) for each in (state, conv))
        qkv, z, a, b = self._project(x_td, setting_qkv, stage)
        qkv, mine_conv = tt.conv_prefill(qkv, mine_conv, self._taps(), last, out_format=p.linear_out)
        q, k, v = self._split(qkv, stage)
        out, mine = tt.delta_prefill(
            q, k, v, a, b, self.decay_log_n[...], self.dt_bias_n[...], mine, last, out_format=p.rope_in
        )
        state, conv = tt.write_state(state, mine, user), tt.write_state(conv, mine_conv, user)
        return self._output(out, z, setting_o, stage), state, conv

    def _taps(self) -> Array:
        return self.conv_jcw[...].reshape(-1, self.conv_jcw.shape[-1])

    def _project(self, x: Array, setting: str, stage: OneAxis) -> tuple[Array, ...]:
        p = stage.precision
        weights = tuple(w[...] for w in (self.wqkv_djc, self.wz_dnv, self.wa_dn, self.wb_dn))
        return tt.delta_projections(
            x,
            weights,
            kernel="mcast_2d" if stage.phase == "prefill" else "mcast_1d",
            weight_format=p.wqkv,
            setting=setting,
            in_format=p.residual,
            out_format=p.linear_out,
        )

    def _split(self, qkv: Array, stage: OneAxis) -> tuple[Array, Array, Array]:
        """q, k [rows, key heads, k] and v [rows, value heads, v] of this chip."""
        g = stage.layout.delta
        values = qkv.reshape(qkv.shape[0], -1, self.wqkv_djc.shape[-1])
        sizes = (g.key_dim, g.key_dim, values.shape[-1] - 2 * g.key_dim)
        q, k, v = tt.split_columns(values, sizes=sizes, format=stage.precision.linear_out, memory=stage.memory)
        return q, k, v.reshape(v.shape[0], -1, g.value_dim)

    def _output(self, out: Array, z: Array, setting: str, stage: OneAxis) -> Array:
        p, c = stage.precision, stage.layout.config
        z = z.reshape(out.shape)
        y = tt.gated_norm(out, z, self.norm_v[...], eps=c.rms_norm_eps, out_format=p.linear_out, memory=stage.memory)
        return stage.row(y.reshape(y.shape[0], -1), self.wo_qd, p.wo, setting, in_format=p.linear_out)
