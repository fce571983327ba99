"""One chip, a line or a ring of chips: one-dimensional tensor parallelism.

The residual stream is cut along the hidden size. It is gathered before each norm; wqkv, w1 and w3 are cut by columns,
wo and w2 by rows, and the partial sums of those are reduce-scattered back into the residual stream.

Source: tt-metal models/tt_transformers tt/{attention,mlp,distributed_norm,ccl,lm_head}.py, May 2025.
"""

from __future__ import annotations

from jax import Array

from ttsim import ops as tt
from ttsim.models.parallel.stage import Stage
from ttsim.models.parameters import Parameter
from ttsim.precision.values import Precision


class OneAxis(Stage):
    """The program of one device of a line or ring; a single chip exchanges nothing."""

    def norm(self, x: Array, weight: Parameter, *, cores: int | None = None, move: bool = True) -> Array:
        """Normalises x [rows, d / devices] into [rows, d].

        `move`: whether a single chip moves x to the norm's cores first (it does before attention).
        """
        layout, fmt = self.layout, self.precision.residual
        prompt = self.memory == "dram" and self.numerics == "prefill"
        if prompt and layout.distributed_prefill_norm:
            return self.all_gather(
                self.norm_apply(x, self.norm_stats(x, cores), weight, cores), layout.residual_axis, fmt
            )
        if layout.ways > 1:
            x = self.all_gather(x, layout.axis, fmt)
        elif move:
            x = self.reshard(x, fmt, cores)
        return self.rms_norm(x, weight, cores)

    def column(
        self,
        x: Array,
        w: Parameter,
        weight_format: str,
        setting: str,
        *,
        cores: int | None = None,
        pass_rows: int = 1024,
    ) -> Array:
        """A column-parallel matmul: each device has whole sums of its columns."""
        given = self.precision.residual
        return self.linear(x, w, weight_format, setting, in_format=given, cores=cores, pass_rows=pass_rows)

    def gathered_product(self, y: Array) -> Array:
        """The product of gate and up as w2 wants it: as it is."""
        return y

    def row(
        self,
        x: Array,
        w: Parameter,
        weight_format: str,
        setting: str,
        *,
        in_format: str,
        cores: int | None = None,
        out_format: str | None = None,
    ) -> Array:
        """A row-parallel matmul whose partial sums are reduce-scattered into the residual stream."""
        layout, out = self.layout, out_format or self.sum_format
        y = self.linear(x, w, weight_format, setting, cores=cores, out_format=out, in_format=in_format)
        return self.reshard(self.reduce(y, out), out, layout.residual_cores)

    def reduce(self, partial: Array, fmt: str) -> Array:
        """Sums of the chips' partial results [rows, d], in the residual stream's sharding."""
        layout = self.layout
        if layout.ways == 1:
            return partial
        return tt.reduce_scatter(partial, axis=layout.axis, dim=partial.ndim - 1, format=fmt, memory=self.memory)

    def attention_output(self, x: Array, w: Parameter, weight_format: str, setting: str) -> Array:
        """wo: fused with the gathering of its input on a ring, row-parallel elsewhere."""
        p, layout, in_format = self.precision, self.layout, self.query_format
        if not layout.fused_wo:
            out, cores = self.wo_format, layout.wo_cores
            return self.row(x, w, weight_format, setting, in_format=in_format, cores=cores, out_format=out)
        if self.memory == "l1":
            x = self.reshard(x, in_format, layout.ways)
            return tt.all_gather_matmul(
                x,
                w[...],
                axis=layout.axis,
                setting=setting,
                weight_format=weight_format,
                in_format=in_format,
                out_format=p.linear_out,
            )
        x = self.all_gather(x, layout.axis, in_format)
        return self.linear(x, w, weight_format, setting, out_format=self.wo_format, in_format=in_format)

    def my_users(self, x: Array) -> Array:
        """The rows of the users whose cache this device holds: all."""
        return x

    def all_users(self, x: Array, rows: int) -> Array:
        """The rows of all users again: as they are."""
        return x

    def logits(self, x: Array, norm: Parameter, lm_head: Parameter, precision: Precision, *, gather: bool) -> Array:
        """The last norm and the LM head. [rows, d / devices] -> [rows, V], or [rows, V / devices] without `gather`."""
        y = self.tail_logits(x, norm, lm_head, precision)
        return self.gathered_logits(y, precision) if gather else y
