"""Routed experts as Tenstorrent's model codes lay them out, in one module.

How the experts of a layer are cut is the layout's choice, written as sharding rules of two logical axes:

    experts      whole experts a chip: Mixtral (one a chip of a T3K), Qwen3-Coder, DeepSeek and gpt-oss on Galaxies
    expert_mlp   the width of every expert: gpt-oss and Gemma-4 on one row of chips

Where the experts of one layer lie on the chips of several replicas, tokens travel to them and back (`tt.dispatch`,
`tt.combine`).

Axes in names: t tokens (rows), e experts, d hidden size, f width of an expert.

Source: tt-metal models/tt_transformers/tt/mixtral_{moe,mlp}.py; models/demos/{gpt_oss,deepseek_v3,gemma4}/tt.
"""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import OneAxis
from ttsim.models.parameters import Parameter, parameter
from ttsim.models.placement import sparse_blocks


class Router(nnx.Module):
    """The weight of each expert for each token; every chip computes all of them."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        c, e = layout.config, layout.experts
        self.router_de = parameter((c.hidden_size, e.count), (None, None), rngs, group="router")
        self.bias_e = parameter((e.count,), (None,), rngs, group="bias", scale=0.02) if e.bias else None
        self.selection_bias_e = parameter((e.count,), (None,), rngs, scale=0.02) if e.selection_bias else None
        # Gemma-4 normalises the residual stream itself, and scales its columns and the experts' weights.
        self.scale_d = parameter((c.hidden_size,), (None,), rngs, scale=0) if e.beside_dense else None
        self.expert_scale_e = parameter((e.count,), (None,), rngs, scale=0) if e.beside_dense else None

    def __call__(self, x_td: Array, stage: OneAxis) -> Array:
        p, c, e = stage.precision, stage.layout.config, stage.layout.experts
        if self.scale_d is not None:
            factor = c.hidden_size**-0.5
            x_td = tt.router_input(
                x_td, self.scale_d[...], eps=c.rms_norm_eps, factor=factor, out_format=p.residual, memory=stage.memory
            )
        fused = stage.phase == "decode" and stage.layout.fused_router(x_td.shape[0])
        logits = _scores(x_td, self.router_de, stage)
        if self.bias_e is not None:
            logits = tt.add_bias(logits, self.bias_e[...], out_format=p.residual, memory=stage.memory)
        weights = tt.route(
            logits,
            None if self.selection_bias_e is None else self.selection_bias_e[...],
            active=e.active,
            scoring=e.scoring,
            renormalise=e.renormalise,
            scale=e.scale,
            groups=e.groups,
            active_groups=e.active_groups,
            format=p.residual,
            fused=fused,
        )
        if self.expert_scale_e is not None:
            weights = tt.scale_experts(weights, self.expert_scale_e[...], out_format=p.residual)
        return weights


def _scores(x_td: Array, w_dn: Parameter, stage: OneAxis) -> Array:
    """x w in the router's format and setting: logits of experts, or of a gate."""
    p = stage.precision
    return tt.router_linear(
        x_td,
        w_dn[...],
        weight_format=p.router,
        setting=p.li_router,
        in_format=p.residual,
        out_format=p.residual,
        memory=stage.memory,
    )


class SharedMLP(nnx.Module):
    """The MLP that every token runs through beside the routed experts; leaves partial sums of its width's slices."""

    def __init__(self, layout: Layout, inner: int, rngs: nnx.Rngs | None, *, gated: bool = False) -> None:
        hidden = layout.config.hidden_size
        self.shared_w1_df = parameter((hidden, inner), ("embed", "mlp"), rngs, group="shared")
        self.shared_w3_df = parameter((hidden, inner), ("embed", "mlp"), rngs, group="shared")
        self.shared_w2_fd = parameter((inner, hidden), ("mlp", "w2_out"), rngs, group="shared")
        self.shared_gate_d1 = parameter((hidden, 1), (None, None), rngs, group="router") if gated else None

    def __call__(self, x_td: Array, stage: OneAxis) -> Array:
        p, activation = stage.precision, stage.layout.config.activation
        gate = stage.plain_linear(x_td, self.shared_w1_df, p.shared, p.li_shared)
        up = stage.plain_linear(x_td, self.shared_w3_df, p.shared, p.li_shared)
        y = tt.gated_mul(gate, up, activation=activation, out_format=p.mlp_product, memory=stage.memory)
        y = stage.plain_linear(y, self.shared_w2_fd, p.shared, p.li_shared, in_format=p.mlp_product)
        if self.shared_gate_d1 is None:
            return y
        logit = _scores(x_td, self.shared_gate_d1, stage)
        return tt.sigmoid_scale(y, logit, out_format=p.linear_out)


def expert_mlp(layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> nnx.Module:
    """What follows the mixer in a layer of routed experts."""
    del kind
    return (BesideDense if layout.experts.beside_dense else Experts)(layout, rngs)


class Experts(nnx.Module):
    """sum over a token's experts of weight * w2(act(x w1) * (x w3)), and the expert that all tokens share."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        c, e = layout.config, layout.experts
        inner, hidden = e.intermediate_size, c.hidden_size
        self.router = Router(layout, rngs)
        wide = ("experts", None, "expert_mlp")
        self.w1_edf = parameter((e.count, hidden, inner), wide, rngs, group="ff1_3", scale=hidden**-0.5)
        self.w3_edf = parameter((e.count, hidden, inner), wide, rngs, group="ff1_3", scale=hidden**-0.5)
        self.w2_efd = parameter(
            (e.count, inner, hidden), ("experts", "expert_mlp", None), rngs, group="ff2", scale=inner**-0.5
        )

        def bias(width: int, axis: str | None) -> Parameter | None:
            return parameter((e.count, width), ("experts", axis), rngs, group="bias", scale=0.02) if e.bias else None

        self.bias1_ef, self.bias3_ef = bias(inner, "expert_mlp"), bias(inner, "expert_mlp")
        self.bias2_ed = bias(hidden, None)
        shared = e.shared_intermediate_size
        self.shared = SharedMLP(layout, shared, rngs, gated=e.shared_gate) if shared else None

    def __call__(self, x_td: Array, stage: OneAxis, residual: Array) -> Array:
        """x [T, d] whole on every chip -> the experts' output in the residual stream's sharding."""
        # Gemma-4's router reads what the norm was given.
        partial = self.routed(x_td, stage, residual if stage.layout.experts.beside_dense else x_td)
        if self.shared is not None:
            shared = self.shared(x_td, stage)
            partial = tt.add(partial, shared, out_format=stage.precision.linear_out, memory=stage.memory)
        return stage.reduce(partial, stage.precision.linear_out)

    def routed(self, x_td: Array, stage: OneAxis, router_x_td: Array) -> Array:
        """This chip's share of the routed experts' output: partial sums [T, d]."""
        p, layout, e = stage.precision, stage.layout, stage.layout.experts
        weights = self.router(router_x_td, stage)
        exchange = DATA_AXIS if layout.experts_over_replicas else None
        fused = layout.expert_kernel(stage.phase) == "streamed"
        if exchange:
            x_td = tt.dispatch(x_td, axis=exchange, active=e.active, fused=fused, format=p.residual)
            weights = tt.dispatch(weights, axis=exchange, active=e.active, fused=fused, format=p.residual)
        weights = tt.local_experts(weights, axes=layout.placement.expert_axes, format=p.residual)
        rows = x_td.shape[0]
        options: dict[str, Any] = {
            "kernel": layout.expert_kernel(stage.phase),
            "active": layout.active_blocks(rows, stage.phase),
            "memory": stage.memory,
            "inferred": layout.inferred_experts,
        }
        wide, narrow = sparse_blocks(layout.config)
        wide_options = {
            "weight_format": p.ff1_3,
            "setting": p.li_ff1_3,
            "out_format": p.linear_out,
            "block": wide,
            **options,
        }
        gate = tt.expert_linear(x_td, self.w1_edf[...], in_format=p.residual, **wide_options)
        up = tt.expert_linear(x_td, self.w3_edf[...], in_format=p.residual, **wide_options)
        if self.bias1_ef is not None and self.bias3_ef is not None:
            gate = tt.expert_bias(gate, self.bias1_ef[...], out_format=p.linear_out)
            up = tt.expert_bias(up, self.bias3_ef[...], out_format=p.linear_out)
        y = tt.expert_gate(gate, up, activation=layout.config.activation, clamp=e.clamp, out_format=p.mlp_product)
        y = tt.expert_linear(
            y,
            self.w2_efd[...],
            weight_format=p.ff2,
            setting=p.li_ff2,
            in_format=p.mlp_product,
            out_format=p.linear_out,
            block=narrow,
            **options,
        )
        if self.bias2_ed is not None:
            y = tt.expert_bias(y, self.bias2_ed[...], axis=layout.placement.width_axis, out_format=p.linear_out)
        out = tt.expert_sum(y, weights, out_format=p.linear_out)
        if exchange:
            return tt.combine(out, axis=exchange, active=e.active, fused=fused, format=p.linear_out)
        if COLUMN_AXIS in layout.placement.expert_axes:
            return tt.all_reduce_residual(out, axis=COLUMN_AXIS, format=p.linear_out, memory=stage.memory)
        return out


class BesideDense(nnx.Module):
    """Gemma-4: norm(mlp(norm(r))) + norm(experts(norm(r))), with a router that reads r itself."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        hidden = layout.config.hidden_size
        self.dense = SharedMLP(layout, layout.intermediate_size, rngs)
        self.experts = Experts(layout, rngs)
        self.dense_norm_d = parameter((hidden,), ("norm",), rngs, scale=0)
        self.experts_norm_d = parameter((hidden,), ("norm",), rngs, scale=0)
        self.experts_out_norm_d = parameter((hidden,), ("norm",), rngs, scale=0)

    def __call__(self, x_td: Array, stage: OneAxis, residual: Array) -> Array:
        """x: the residual stream after the layer's own norm; residual: before it. Both whole on every chip."""
        fmt = stage.precision.residual
        dense = stage.norm(stage.reduce(self.dense(x_td, stage), stage.precision.linear_out), self.dense_norm_d)
        routed = self.experts(stage.norm(residual, self.experts_norm_d), stage, residual)
        routed = stage.norm(routed, self.experts_out_norm_d)
        return tt.add(dense, routed, out_format=fmt, memory=stage.memory)
