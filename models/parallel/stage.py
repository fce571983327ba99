"""What every layout has in common: one phase of one layer, its formats and settings, and where its tensors lie."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jax import Array

from ttsim import ops as tt
from ttsim.models.layout import Layout
from ttsim.models.parameters import Parameter
from ttsim.precision.values import LayerPrecision, Precision


@dataclass(frozen=True)
class Stage(abc.ABC):
    """One phase of one layer on one layout; its subclasses say what its devices exchange.

    Attributes:
      layout: the model on its system.
      precision: of this layer.
      memory: where activations lie: "l1" (decode: one row of tiles), "dram" (prefill).
      numerics: whose formats and settings hold. "decode" with memory "dram" is a prompt that computes decode's numbers
        in one pass.
      users_axis: mesh axis over which the cache's users are spread, or None.
    """

    layout: Layout
    precision: LayerPrecision
    memory: Literal["l1", "dram"]
    numerics: Literal["prefill", "decode"]
    users_axis: str | None = None

    @property
    def phase(self) -> Literal["decode", "prefill"]:
        """Whether rows are users or the tokens of a prompt."""
        return "decode" if self.memory == "l1" else "prefill"

    # The kernel of a matmul on one row of tiles.
    kernel: ClassVar[Literal["dram_sharded", "mcast_1d"]] = "dram_sharded"

    # Formats and settings.

    @property
    def settings(self) -> tuple[str, str, str]:
        """Compute settings of QKV, wo and attention."""
        p = self.precision
        if self.numerics == "decode":
            return p.li_qkv_decode, p.li_o_decode, p.sdpa_decode
        return p.li_qkv_prefill, p.li_o_prefill, p.sdpa_prefill

    @property
    def query_format(self) -> str:
        """Format of Q in a prompt's attention, and of attention's output."""
        p = self.precision
        return p.prefill_q if self.numerics == "prefill" else p.sdpa_decode_out

    @property
    def wo_format(self) -> str:
        p = self.precision
        return p.prefill_wo_out if self.numerics == "prefill" else p.linear_out

    @property
    def sum_format(self) -> str:
        """Format of a matmul's result."""
        return self.precision.linear_out

    # Pieces of the nine methods that a layout has.

    def rms_norm(self, x: Array, weight: Parameter, cores: int | None) -> Array:
        """A norm of whole rows."""
        fmt, eps = self.precision.residual, self.layout.config.rms_norm_eps
        return tt.rms_norm(x, weight[...], eps=eps, out_format=fmt, memory=self.memory, cores=cores)

    def norm_stats(self, x: Array, cores: int | None) -> Array:
        """Statistics of every device's slice of a row, gathered."""
        fmt, axis = self.precision.residual, self.layout.residual_axis
        stats = tt.rms_norm_stats(x, out_format=fmt, memory=self.memory, cores=cores)
        return self.all_gather(stats, axis, fmt)

    def norm_apply(self, x: Array, stats: Array, weight: Parameter, cores: int | None) -> Array:
        """A norm of this device's slice of each row, with the gathered statistics."""
        layout = self.layout
        return tt.rms_norm_apply(
            x,
            stats,
            weight[...],
            axis=layout.residual_axis,
            eps=layout.config.rms_norm_eps,
            out_format=self.precision.residual,
            memory=self.memory,
            cores=cores,
        )

    def all_gather(self, x: Array, axis: str, fmt: str) -> Array:
        """Gathers the columns of x."""
        return tt.all_gather(x, axis=axis, dim=x.ndim - 1, format=fmt, memory=self.memory)

    def linear(
        self,
        x: Array,
        w: Parameter,
        weight_format: str,
        setting: str,
        *,
        in_format: str,
        out_format: str | None = None,
        cores: int | None = None,
        pass_rows: int = 1024,
    ) -> Array:
        """x w over this device's slices: with decode's kernel on one row of tiles in L1, on the whole grid in DRAM."""
        rows: dict[str, Any] = {"kernel": self.kernel, "cores": cores}
        placement = self.layout.placement
        if self.memory == "dram":
            # A prompt that computes decode's numbers sums K in the blocks of decode's kernel.
            decode_cores = cores if self.numerics == "decode" else None
            rows = {"kernel": "mcast_2d", "pass_rows": pass_rows, "cores": decode_cores}
            if placement.tuned_prompts:
                rows["tuned"] = True
        elif self.layout.ring:
            rows = {"kernel": "ring", "cores": self.layout.ring}
        elif placement.weight_block is not None:
            rows |= {"kernel": "mcast_1d", "block": placement.weight_block}
        return tt.linear(
            x,
            w[...],
            setting=setting,
            weight_format=weight_format,
            in_format=in_format,
            out_format=out_format or self.sum_format,
            **rows,
        )

    def plain_linear(
        self, x: Array, w: Parameter, weight_format: str, setting: str, *, in_format: str | None = None
    ) -> Array:
        """A matmul without communication, in the formats of the residual stream."""
        out, given = self.precision.linear_out, in_format or self.precision.residual
        return self.linear(x, w, weight_format, setting, out_format=out, in_format=given)

    def gate_up(self, x: Array, w1: Parameter, w3: Parameter, *, cores: int | None = None) -> tuple[Array, Array]:
        """x w1 and x w3."""
        p = self.precision
        gate, up = (self.column(x, w, p.ff1_3, p.li_ff1_3, cores=cores) for w in (w1, w3))
        return gate, up

    def gathered_logits(self, y: Array, precision: Precision) -> Array:
        """The columns of all devices: [rows, V / devices] -> [rows, V]."""
        layout = self.layout
        if layout.ways == 1:
            return y
        return tt.all_gather(y, axis=layout.axis, dim=y.ndim - 1, format=precision.logits, memory="l1")

    def reshard(self, x: Array, fmt: str, cores: int | None) -> Array:
        """The same values on other cores' L1; rows in DRAM stay where they are."""
        return tt.reshard(x, format=fmt, cores=cores) if self.memory == "l1" else x

    def tail_logits(self, x: Array, norm: Parameter, lm_head: Parameter, precision: Precision) -> Array:
        """The last norm and the LM head, which see at most 32 rows: decode's kernels in both phases.

        [rows, d / devices] -> [rows, V / devices].
        """
        layout = self.layout
        tail = dataclasses.replace(self, memory="l1")
        h = tail.norm(x, norm, cores=layout.lm_head_cores)
        share, stored = layout.vocab_share
        kernel: dict[str, Any] = {"kernel": "dram_sharded", "columns": layout.lm_head_columns}
        if layout.placement.interleaved_head:
            kernel = {"kernel": "mcast_1d", "block": layout.placement.weight_block}
        y = tt.linear(
            h,
            lm_head[...],
            weight_format=precision.lm_head,
            setting=precision.li_lm_head,
            in_format=self.precision.residual,
            out_format=precision.logits,
            cores=layout.lm_head_cores,
            **kernel,
        )
        return y[..., :share] if stored > share else y

    # What a layout exchanges.

    @abc.abstractmethod
    def norm(self, x: Array, weight: Parameter, *, cores: int | None = None, move: bool = True) -> Array:
        """From the residual stream to what a column-parallel weight multiplies."""

    @abc.abstractmethod
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
        """A column-parallel matmul, in whole sums."""
