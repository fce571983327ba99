"""The dense MLP, gated or not."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.meshes.sharding import ShardingError
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import Galaxy, OneAxis
from ttsim.models.parameters import Parameter, parameter

Stage = OneAxis | Galaxy


class MLP(nnx.Module):
    """w2(act(x w1) * (x w3)), or w2(act(x w1)) without a gate."""

    def __init__(self, layout: Layout, kind: LayerKind, rngs: nnx.Rngs | None) -> None:
        c = layout.config
        hidden, inner = c.hidden_size, layout.mlp_width(kind)
        self.w1_df = parameter((hidden, inner), ("embed", "mlp"), rngs, group="ff1_3", storage="banks")
        self.w3_df = (
            parameter((hidden, inner), ("embed", "mlp"), rngs, group="ff1_3", storage="banks") if c.gated_mlp else None
        )
        self.w2_fd = parameter((inner, hidden), ("mlp", "w2_out"), rngs, group="ff2", storage="banks")
        if c.mlp_bias and layout.two_d and layout.composite_reduce:
            raise ShardingError(f"{c.name}: biases of the MLP are not supported on {layout.system.label}")
        self.bias1_f = parameter((inner,), ("mlp",), rngs, group="bias", scale=0.02) if c.mlp_bias else None
        self.bias3_f = (
            parameter((inner,), ("mlp",), rngs, group="bias", scale=0.02) if c.mlp_bias and c.gated_mlp else None
        )
        self.bias2_d = parameter((hidden,), ("residual",), rngs, group="bias", scale=0.02) if c.mlp_bias else None

    def __call__(self, h: Array, stage: Stage, residual: Array) -> Array:
        """MLP of the normalised h; `residual` is what the norm was given."""
        del residual
        p, c = stage.precision, stage.layout.config
        cores = stage.layout.mlp_cores if stage.numerics == "decode" else None
        if self.w3_df is None:
            up = _biased(stage.column(h, self.w1_df, p.ff1_3, p.li_ff1_3, cores=cores), self.bias1_f, stage)
            y = tt.activate(up, activation=c.activation, out_format=p.mlp_product, memory=stage.memory, cores=cores)
        else:
            gate, up = stage.gate_up(h, self.w1_df, self.w3_df, cores=cores)
            gate, up = _biased(gate, self.bias1_f, stage), _biased(up, self.bias3_f, stage)
            # Products of interleaved weights lie on the whole grid.
            product_cores = None if stage.layout.placement.weight_block is not None else cores
            where: dict[str, Any] = {"out_format": p.mlp_product, "memory": stage.memory, "cores": product_cores}
            if c.activation == "silu":
                y = tt.silu_mul(gate, up, **where)
            else:
                y = tt.gated_mul(gate, up, activation=c.activation, **where)
            y = stage.gathered_product(y)
        y = stage.row(y, self.w2_fd, p.ff2, p.li_ff2, in_format=p.mlp_product, cores=cores)
        return _biased(y, self.bias2_d, stage)


def _biased(x: Array, bias: Parameter | None, stage: Stage) -> Array:
    return x if bias is None else tt.add_bias(x, bias[...], out_format=stage.precision.linear_out, memory=stage.memory)
