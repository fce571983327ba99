"""What each layer is given of the tokens beside the residual stream (Gemma-4 E2B and E4B).

Of a token t with the embedding x, layer l gets (norm(x P_l / sqrt(d)) + E_l[t] sqrt(p)) / sqrt(2), p columns, and adds
norm((act(h W_gate) * input) W_out) to the residual stream h. The host makes the inputs of all layers, from tables that
stay with it: the devices hold none of them.

Axes in names: t tokens (rows), d hidden size, v vocabulary, l layers x p, p columns of one layer's input.

Source: tt-metal models/demos/gemma4/tt/{model,layer,pli_env}.py, 2026.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from ttsim import ops as tt
from ttsim.models.layout import Layout
from ttsim.models.parallel import Stage
from ttsim.models.parameters import parameter
from ttsim.precision.values import LayerPrecision


class TokenInputs(nnx.Module):
    """The host's tables of all layers."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        c, inputs = layout.config, layout.layer_inputs
        columns = inputs.layers * inputs.width
        self.table_vl = parameter(
            (c.vocab_size, columns), (None, None), rngs, group="embedding", storage="host", scale=0.02
        )
        self.projection_dl = parameter((c.hidden_size, columns), (None, None), rngs, group="embedding", storage="host")
        self.norm_p = parameter((inputs.width,), (None,), rngs, storage="host", scale=0)

    def __call__(
        self, tokens: Array, embedding: Array, layout: Layout, precision: LayerPrecision, *, together: bool
    ) -> tuple[Array, ...]:
        """The inputs of all layers, each [T, p], or `together` side by side in one tensor."""
        c = layout.config
        return tt.token_inputs(
            tokens,
            embedding,
            self.table_vl[...],
            self.projection_dl[...],
            self.norm_p[...],
            layers=layout.layer_inputs.layers,
            embedding_scale=c.embedding_scale,
            eps=c.rms_norm_eps,
            together=together,
            format=precision.residual,
        )


class LayerInput(nnx.Module):
    """How one layer takes its input into the residual stream."""

    def __init__(self, layout: Layout, rngs: nnx.Rngs | None) -> None:
        hidden, width = layout.config.hidden_size, layout.layer_inputs.width
        self.gate_dp = parameter((hidden, width), (None, None), rngs, group="router")
        self.out_pd = parameter((width, hidden), (None, None), rngs, group="router")
        self.norm_d = parameter((hidden,), ("norm",), rngs, scale=0)

    def __call__(self, x: Array, given: Array, stage: Stage) -> Array:
        """x [T, d] with what the layer makes of `given` [T, p]."""
        p, c = stage.precision, stage.layout.config
        gate = stage.plain_linear(x, self.gate_dp, p.router, p.li_router)
        y = tt.gated_mul(gate, given, activation=c.activation, out_format=p.linear_out, memory=stage.memory)
        y = stage.plain_linear(y, self.out_pd, p.router, p.li_router, in_format=p.linear_out)
        return tt.add(x, stage.norm(y, self.norm_d), out_format=p.residual, memory=stage.memory)
