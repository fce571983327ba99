"""A Galaxy as tt_transformers runs it: two-dimensional tensor parallelism over rows and columns of chips.

The residual stream is cut along the hidden size over the columns, heads and the intermediate size over the rows. Every
matmul leaves partial sums along one of the two directions; norms are distributed over the columns; each column attends
for its own share of the users.

Source: the TG branches of tt-metal models/tt_transformers tt/{attention,mlp,distributed_norm,ccl,lm_head}.py, May 2025.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jax import Array

from ttsim import ops as tt
from ttsim.meshes.systems import COLUMN_AXIS, ROW_AXIS
from ttsim.models.parallel.stage import Stage
from ttsim.models.parameters import Parameter
from ttsim.precision.values import Precision


class Galaxy(Stage):
    """The program of one device of a Galaxy."""

    kernel: ClassVar[Literal["dram_sharded", "mcast_1d"]] = "mcast_1d"

    @property
    def sum_format(self) -> str:
        """Format of partial sums and of what travels between the chips."""
        return self.precision.galaxy_sum

    def norm(self, x: Array, weight: Parameter, *, cores: int | None = None, move: bool = True) -> Array:
        """Normalises this column's slice: [rows, d / columns] -> [rows, d / columns]."""
        cores = self.layout.norm_cores(cores)
        return self.norm_apply(x, self.norm_stats(x, cores), weight, cores)

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
        """A column-parallel matmul, summed over the columns of chips."""
        given = self.precision.residual
        y = self.linear(x, w, weight_format, setting, in_format=given, cores=cores, pass_rows=pass_rows)
        return tt.all_reduce(y, axis=COLUMN_AXIS, format=self.sum_format, memory=self.memory)

    def gate_up(self, x: Array, w1: Parameter, w3: Parameter, *, cores: int | None = None) -> tuple[Array, Array]:
        """x w1 and x w3; with hidden size 8192 each column keeps its slice of the sums."""
        p = self.precision
        if not self.layout.composite_reduce:
            return super().gate_up(x, w1, w3, cores=cores)
        sums = [self.linear(x, w, p.ff1_3, p.li_ff1_3, in_format=p.residual, cores=cores) for w in (w1, w3)]
        gate, up = (
            tt.reduce_scatter(y, axis=COLUMN_AXIS, dim=y.ndim - 1, format=self.sum_format, memory=self.memory)
            for y in sums
        )
        return gate, up

    def gathered_product(self, y: Array) -> Array:
        """The product of gate and up as w2 wants it: gathered where each column has its slice."""
        return self.all_gather(y, COLUMN_AXIS, self.precision.mlp_product) if self.layout.composite_reduce else y

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
        """A row-parallel matmul whose partial sums are summed over the rows of chips."""
        layout = self.layout
        y = self.linear(x, w, weight_format, setting, in_format=in_format, cores=cores)
        y = tt.all_reduce(
            y, axis=ROW_AXIS, format=self.sum_format, memory=self.memory, composite=layout.composite_reduce
        )
        return self.reshard(y, self.sum_format, layout.residual_cores)

    def attention_output(self, x: Array, w: Parameter, weight_format: str, setting: str) -> Array:
        """wo, row-parallel."""
        return self.row(x, w, weight_format, setting, in_format=self.query_format, cores=self.layout.wo_cores)

    def my_users(self, x: Array) -> Array:
        """The rows of the users whose cache this column holds."""
        return tt.select_users(x, axis=COLUMN_AXIS, format=self.precision.linear_out)

    def all_users(self, x: Array, rows: int) -> Array:
        """The rows of all users again, gathered from the columns."""
        fmt = self.precision.sdpa_decode_out
        x = tt.all_gather(x, axis=COLUMN_AXIS, dim=0, format=fmt, memory=self.memory)
        return tt.select_rows(x, rows=rows, format=fmt)

    def logits(self, x: Array, norm: Parameter, lm_head: Parameter, precision: Precision, *, gather: bool) -> Array:
        """The last norm and the LM head. [rows, d / columns] -> [rows, V], or [rows, V / rows of chips]."""
        y = self.tail_logits(x, norm, lm_head, precision)
        y = tt.all_reduce(y, axis=COLUMN_AXIS, format=precision.logits, memory="l1", composite=True)
        return self.gathered_logits(y, precision) if gather else y
