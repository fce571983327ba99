"""What differs between one chip, a row of chips and a Galaxy, and between decode and prefill.

In 1-D tensor parallelism the residual stream is cut along the hidden size: it is gathered before each norm, and the
partial sums of wo and w2 are reduce-scattered back. On a Galaxy every matmul leaves partial sums along one direction.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ttsim import ops as tt
from ttsim.meshes.systems import COLUMN_AXIS, ROW_AXIS
from ttsim.models.cache import KVCache
from ttsim.models.layout import LM_HEAD_COLUMNS, Layout
from ttsim.precision.slots import AnyLayerPrecision, AnyPrecision


@dataclass(frozen=True)
class Stage:
    """One phase of one layer on one layout.

    Attributes:
      layout: the model on its system.
      precision: of this layer.
      phase: which program runs.
      rows: rows of the residual stream in decode: users.
      users_axis: mesh axis over which the cache's users are spread, or None.
      numerics: "decode" in a prefill program that computes decode's numbers in one pass.
    """

    layout: Layout
    precision: AnyLayerPrecision
    phase: Literal["decode", "prefill"]
    rows: int = 0
    users_axis: str | None = None
    numerics: Literal["prefill", "decode"] = "prefill"

    @classmethod
    def decode(cls, layout: Layout, precision: AnyLayerPrecision, rows: int) -> Stage:
        return cls(layout, precision, "decode", rows)

    @classmethod
    def prefill(cls, layout: Layout, precision: AnyLayerPrecision, cache: KVCache, numerics) -> Stage:
        return cls(layout, precision, "prefill", users_axis=cache.users_axis, numerics=numerics)

    @property
    def memory(self) -> str:
        """Where activations lie: a row of tiles in decode fits L1, a prompt's rows are in DRAM."""
        return "l1" if self.phase == "decode" else "dram"

    # Settings and formats of prefill.

    @property
    def prefill_settings(self) -> tuple[str, str, str]:
        """Compute settings of QKV, wo and attention."""
        p = self.precision
        if self.numerics == "decode":
            return p.li_qkv_decode, p.li_o_decode, p.sdpa_decode
        return p.li_qkv_prefill, p.li_o_prefill, p.sdpa_prefill

    @property
    def query_format(self) -> str:
        """Format of Q in attention and of attention's output."""
        p = self.precision
        return p.prefill_q if self.phase == "prefill" and self.numerics == "prefill" else p.sdpa_decode_out

    @property
    def wo_format(self) -> str:
        p = self.precision
        return p.prefill_wo_out if self.phase == "prefill" and self.numerics == "prefill" else p.linear_out

    # Norms: from the residual stream to what a column-parallel weight multiplies.

    def norm(self, x, weight, *, cores=None, move=True):
        """Normalises x [rows, d / devices]; returns [rows, d] (1-D) or [rows, d / columns] (Galaxy).

        `move`: whether one chip's decode moves x to the norm's cores first (it does before attention).
        """
        layout, fmt = self.layout, self.precision.residual
        if layout.placement.one_core_norm:  # interleaved, a core per row of tiles
            return tt.rms_norm(x, weight[...], eps=layout.config.rms_norm_eps, out_format=fmt)
        cores = layout.norm_cores(cores)
        eps = layout.config.rms_norm_eps
        axis = layout.residual_axis
        last = x.ndim - 1
        prefill = self.phase == "prefill" and self.numerics == "prefill"
        if layout.two_d or (prefill and layout.distributed_prefill_norm):
            stats = tt.rms_norm_stats(x, out_format=fmt, cores=cores)
            stats = tt.all_gather(stats, axis=axis, dim=last, format=fmt)
            y = tt.rms_norm_apply(x, stats, weight[...], axis=axis, eps=eps, out_format=fmt, cores=cores)
            return y if layout.two_d else tt.all_gather(y, axis=axis, dim=last, format=fmt)
        if layout.residual_ways > 1:
            x = tt.all_gather(x, axis=axis, dim=last, format=fmt)
        elif self.phase == "decode" and move:
            x = tt.reshard(x, format=fmt, cores=cores)
        return tt.rms_norm(x, weight[...], eps=eps, out_format=fmt, cores=cores)

    # Matmuls.

    def _linear(self, x, w, weight_format, setting, *, out_format, in_format, cores=None, pass_rows=None):
        if self.phase == "prefill":
            kernel, cores = "mcast_2d", None
        else:
            kernel, pass_rows = "mcast_1d" if self.layout.two_d else "dram_sharded", None
        return tt.linear(
            x,
            w[...],
            kernel=kernel,
            weight_format=weight_format,
            setting=setting,
            out_format=out_format,
            in_format=in_format,
            cores=cores,
            pass_rows=pass_rows,
        )

    def column(self, x, w, weight_format, setting, *, cores=None, pass_rows=1024):
        """A column-parallel matmul: whole sums in 1-D, summed over the columns of a Galaxy."""
        p = self.precision
        out = p.galaxy_sum if self.layout.two_d else p.linear_out
        y = self._linear(
            x, w, weight_format, setting, out_format=out, in_format=p.residual, cores=cores, pass_rows=pass_rows
        )
        return tt.all_reduce(y, axis=COLUMN_AXIS, format=out) if self.layout.two_d else y

    def gate_up(self, x, w1, w3, *, cores=None):
        """x w1 and x w3. A Galaxy with hidden size 8192 leaves each column its slice of the sums."""
        p, layout = self.precision, self.layout
        if not (layout.two_d and layout.composite_reduce):
            return tuple(self.column(x, w, p.ff1_3, p.li_ff1_3, cores=cores) for w in (w1, w3))
        out = p.galaxy_sum

        def partial(w):
            return self._linear(
                x, w, p.ff1_3, p.li_ff1_3, out_format=out, in_format=p.residual, cores=cores, pass_rows=1024
            )

        y = [partial(w1), partial(w3)]
        return tuple(tt.reduce_scatter(h, axis=COLUMN_AXIS, dim=h.ndim - 1, format=out) for h in y)

    def gathered_product(self, y):
        """silu(x w1) * (x w3) as w2 wants it: whole on a row of chips."""
        if not (self.layout.two_d and self.layout.composite_reduce):
            return y
        return tt.all_gather(y, axis=COLUMN_AXIS, dim=y.ndim - 1, format=self.precision.mlp_product)

    def row(self, x, w, weight_format, setting, *, in_format, cores=None, out_format=None):
        """A row-parallel matmul whose partial sums are reduced into the residual stream."""
        p, layout = self.precision, self.layout
        out = p.galaxy_sum if layout.two_d else out_format or p.linear_out
        y = self._linear(x, w, weight_format, setting, out_format=out, in_format=in_format, cores=cores, pass_rows=1024)
        if layout.two_d:
            y = tt.all_reduce(y, axis=ROW_AXIS, format=out, composite=layout.composite_reduce)
        else:
            y = self.reduce(y, format=out)
        return tt.reshard(y, format=out, cores=layout.residual_cores) if self.phase == "decode" else y

    def reduce(self, partial, *, format=None):
        """Sums of the chips' partial results [rows, d], in the residual stream's sharding."""
        layout, fmt = self.layout, format or self.precision.linear_out
        if layout.ways == 1:
            return partial
        if layout.placement.replicated:
            return tt.all_reduce_residual(partial, axis=layout.axis, format=fmt, memory=self.memory)
        return tt.reduce_scatter(partial, axis=layout.axis, dim=partial.ndim - 1, format=fmt)

    def plain_linear(self, x, w, weight_format, setting, *, in_format=None):
        """A matmul without communication, in the formats of the residual stream."""
        p = self.precision
        return self._linear(
            x, w, weight_format, setting, out_format=p.linear_out, in_format=in_format or p.residual, pass_rows=1024
        )

    def attention_output(self, x, w, weight_format, setting):
        """wo: fused with the gathering of its input on a ring, row-parallel elsewhere."""
        p, layout = self.precision, self.layout
        in_format = self.query_format
        if not layout.fused_wo:
            return self.row(
                x, w, weight_format, setting, in_format=in_format, cores=layout.wo_cores, out_format=self.wo_format
            )
        if self.phase == "decode":
            x = tt.reshard(x, format=in_format, cores=layout.ways)
            return tt.all_gather_matmul(
                x,
                w[...],
                axis=layout.axis,
                weight_format=weight_format,
                setting=setting,
                in_format=in_format,
                out_format=p.linear_out,
            )
        x = tt.all_gather(x, axis=layout.axis, dim=x.ndim - 1, format=in_format)
        return self._linear(
            x, w, weight_format, setting, out_format=self.wo_format, in_format=in_format, pass_rows=1024
        )

    # Users of a Galaxy: each column attends for its own.

    def my_users(self, x):
        """The rows of the users whose cache this device holds."""
        return tt.select_users(x, axis=COLUMN_AXIS, format=self.precision.linear_out) if self.layout.two_d else x

    def all_users(self, x, rows: int):
        """The rows of all users again."""
        if not self.layout.two_d:
            return x
        fmt = self.precision.sdpa_decode_out
        x = tt.all_gather(x, axis=COLUMN_AXIS, dim=0, format=fmt)
        return tt.select_rows(x, rows=rows, format=fmt)

    # The tail.

    def logits(self, x, norm, lm_head, precision: AnyPrecision, *, gather: bool):
        """The last norm and the LM head. [rows, d / devices] -> [rows, V], or [rows, V / devices] without `gather`."""
        layout = self.layout
        # Only 32 rows reach the LM head, in prefill too: both phases run decode's kernels here.
        tail = dataclasses.replace(self, phase="decode")
        h = tail.norm(x, norm, cores=layout.lm_head_cores)
        y = tt.linear(
            h,
            lm_head[...],
            kernel="dram_sharded",
            weight_format=precision.lm_head,
            setting=precision.li_lm_head,
            in_format=self.precision.residual,
            out_format=precision.logits,
            cores=layout.lm_head_cores,
            columns=LM_HEAD_COLUMNS,
        )
        share, stored = layout.vocab_share
        y = y[..., :share] if stored > share else y
        if layout.two_d:
            y = tt.all_reduce(y, axis=COLUMN_AXIS, format=precision.logits, composite=True)
        if gather and layout.ways > 1:
            y = tt.all_gather(y, axis=layout.axis, dim=y.ndim - 1, format=precision.logits)
        return y
