"""Tensor parallelism with the residual stream whole on every chip: all-reduces end each branch, norms gather nothing.

On a grid of chips heads and widths are cut over the rows; the columns hold the same, but for routed experts.

Source: tt-metal models/demos/{gpt_oss,gemma4}/tt, models/demos/blackhole/qwen3_coder_30b_a3b.
"""

from __future__ import annotations

from jax import Array

from ttsim import ops as tt
from ttsim.models.parallel.one_axis import OneAxis
from ttsim.models.parameters import Parameter


class Replicated(OneAxis):
    """The program of one device beside a replicated residual stream."""

    def norm(self, x: Array, weight: Parameter, *, cores: int | None = None, move: bool = True) -> Array:
        """Normalises x [rows, d], which every chip has whole."""
        if self.memory == "l1" and self.layout.placement.one_core_norm:  # interleaved, a core per row of tiles
            fmt, eps = self.precision.residual, self.layout.config.rms_norm_eps
            return tt.rms_norm(x, weight[...], eps=eps, out_format=fmt, memory="dram")
        if move:
            x = self.reshard(x, self.precision.residual, cores)
        return self.rms_norm(x, weight, cores)

    def reduce(self, partial: Array, fmt: str) -> Array:
        """Sums of the chips' partial results [rows, d], on every chip."""
        layout = self.layout
        if layout.ways == 1:
            return partial
        return tt.all_reduce_residual(partial, axis=layout.axis, format=fmt, memory=self.memory)
