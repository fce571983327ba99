"""Blocks that all vision towers share: attention under a mask, the MLPs, and how they are cut over the chips.

A tower is cut over the chips of a line or ring as the text model is: heads and the MLP's width by columns, the products
that follow by rows. The states themselves are whole on every chip; the partial sums of `wo` and `fc2` are summed over
the chips. Heads of a size that is no multiple of a tile (80, 72, 88 ...) are padded with zeros, which changes neither
scores nor sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

from ttsim import ops as tt
from ttsim.meshes.sharding import ONE_D, ShardingError, ShardingRules
from ttsim.meshes.systems import TENSOR_AXIS, System, Topology
from ttsim.models.grids import TILE, round_up
from ttsim.models.parameters import parameter
from ttsim.models.vision.config import TowerConfig
from ttsim.precision.values import LayerPrecision


@dataclass(frozen=True)
class VisionPrecision:
    """Formats and settings of a tower: neither preset reaches them.

    Attributes:
      weights: of all products and of the embeddings. activation: of the states, the mask and the bias.
      setting: of all products but the first. patch_setting: of the patch embedding.
      cross_cache: keys and values of cross attention. cross_setting: of its products. cross_mask: of its mask.

    Source: tt-metal models/tt_transformers/tt/multimodal (2025-04): HiFi4 everywhere, HiFi2 for the patches; weights
    bf16, bfp8 on the 90B model so that they fit; cross attention's mask in bfp4.
    """

    weights: str = "bf16"
    activation: str = "bf16"
    setting: str = "hifi4"
    patch_setting: str = "hifi2"
    cross_cache: str = "bf16"
    cross_setting: str = "hifi4"
    cross_mask: str = "bfp4"

    @classmethod
    def of(cls, text_hidden_size: int, layer: LayerPrecision) -> VisionPrecision:
        """What the tower of a text model of this width runs with; "fp32" where the text model does."""
        if layer.activation == "fp32":
            return cls("fp32", "fp32", "exact", "exact", "fp32", "exact", "fp32")
        return cls(weights="bfp8" if text_hidden_size >= 8192 else "bf16")


@dataclass(frozen=True)
class TowerLayout:
    """One tower on one system.

    Attributes:
      tower: its configuration. system: the system; a Galaxy's two directions are refused.
      chunk: rows of queries and of keys that a core attends to at once.
      scattered_sums: whether partial sums are reduce-scattered and gathered, which no software does, or all gathered.
    """

    tower: TowerConfig
    system: System
    chunk: int = 128
    scattered_sums: bool = False

    def __post_init__(self) -> None:
        if self.system.topology is Topology.GRID:
            raise ShardingError(
                f"images run on one chip or on a line or ring of chips; {self.system.label} shares a model over a "
                f"grid: write {self.system.name} DP={self.system.grid[1]}"
            )
        if self.tower.num_heads % self.ways:
            raise ShardingError(
                f"a vision tower of {self.tower.num_heads} heads can't be shared evenly by the {self.ways} chips of "
                f"{self.system.label}"
            )

    @property
    def ways(self) -> int:
        return self.system.grid[0]

    @property
    def rules(self) -> ShardingRules:
        return ONE_D

    @property
    def local_heads(self) -> int:
        return self.tower.num_heads // self.ways

    @property
    def head_size(self) -> int:
        """The head's size in whole tiles."""
        return round_up(self.tower.head_dim, TILE)

    @property
    def mlp_size(self) -> int:
        """The MLP's width, padded so that every chip's share is whole tiles."""
        return round_up(self.tower.intermediate_size, TILE * self.ways)


PASS_ROWS = 1632  # rows of one pass of the vision matmuls: one tile of an image with its class token


@dataclass(frozen=True)
class TowerStage:
    """How a tower's products run: layout and precision, and the reduction of partial sums."""

    layout: TowerLayout
    precision: VisionPrecision

    def linear(self, x: Any, w: Any, *, setting: str | None = None) -> Any:
        p = self.precision
        return tt.linear(
            x,
            w[...],
            kernel="mcast_2d",
            weight_format=p.weights,
            setting=setting or p.setting,
            in_format=p.activation,
            out_format=p.activation,
            pass_rows=PASS_ROWS,
        )

    def linear_bias(self, x: Any, w: Any, bias: Any, activation: str = "none") -> Any:
        p = self.precision
        return tt.linear_bias(
            x,
            w[...],
            bias[...],
            weight_format=p.weights,
            setting=p.setting,
            in_format=p.activation,
            out_format=p.activation,
            activation=activation,
            pass_rows=PASS_ROWS,
        )

    def summed(self, x: Any) -> Any:
        """Partial sums of all chips, added up on each."""
        if self.layout.ways == 1:
            return x
        return tt.gather_sum(
            x, axis=TENSOR_AXIS, format=self.precision.activation, scattered=self.layout.scattered_sums
        )

    def add(self, x: Any, y: Any) -> Any:
        return tt.add(x, y, out_format=self.precision.activation)

    def add_bias(self, x: Any, bias: Any) -> Any:
        return x if bias is None else tt.add_bias(x, bias[...], out_format=self.precision.activation)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * weight + bias."""

    def __init__(self, size: int, eps: float, rngs: nnx.Rngs | None):
        self.weight_d = parameter((size,), (None,), rngs, scale=0)
        self.bias_d = parameter((size,), (None,), rngs, scale=0.02)
        self.eps = eps

    def __call__(self, x: Any, stage: TowerStage) -> Any:
        fmt = stage.precision.activation
        return tt.layer_norm(x, self.weight_d[...], self.bias_d[...], eps=self.eps, out_format=fmt)


class RMSNorm(nnx.Module):
    """x / root mean square * weight."""

    def __init__(self, size: int, eps: float, rngs: nnx.Rngs | None):
        self.weight_d = parameter((size,), (None,), rngs, scale=0)
        self.eps = eps

    def __call__(self, x: Any, stage: TowerStage) -> Any:
        return tt.rms_norm(x, self.weight_d[...], eps=self.eps, out_format=stage.precision.activation)


class VisionAttention(nnx.Module):
    """Full attention under a mask; each head's q, k and v side by side."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None, *, bias: bool = False):
        hidden, heads, head = layout.tower.hidden_size, layout.tower.num_heads, layout.head_size
        self.wqkv_dkgh = parameter((hidden, heads, 3, head), (None, "kv_heads", None, None), rngs)
        self.bias_kgh = parameter((heads, 3, head), ("kv_heads", None, None), rngs, scale=0.02) if bias else None
        self.wo_qd = parameter((heads * head, hidden), ("heads", None), rngs)
        self.wo_bias_d = parameter((hidden,), (None,), rngs, scale=0.02) if bias else None

    def __call__(self, x_td: Any, mask: Any, stage: TowerStage, rotate: Callable[[Any], Any] = lambda x: x) -> Any:
        p, layout = stage.precision, stage.layout
        if self.bias_kgh is None:
            qkv = stage.linear(x_td, self.wqkv_dkgh)
        else:
            qkv = stage.linear_bias(x_td, self.wqkv_dkgh, self.bias_kgh)
        q, k, v = tt.create_heads_prefill(
            qkv, kv_heads=layout.local_heads, head_dim=layout.head_size, format=p.activation
        )
        out = tt.sdpa(
            rotate(q),
            rotate(k),
            v,
            mask,
            scale=layout.tower.head_dim**-0.5,
            setting=p.setting,
            kv_format=p.activation,
            out_format=p.activation,
            mask_format=p.activation,
            chunk=layout.chunk,
        )
        out = tt.concat_heads_prefill(out, format=p.activation)
        return stage.add_bias(stage.summed(stage.linear(out, self.wo_qd)), self.wo_bias_d)


class VisionMLP(nnx.Module):
    """fc2(activation(fc1 x + b1)) + b2."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None):
        hidden, inner = layout.tower.hidden_size, layout.mlp_size
        self.w1_df = parameter((hidden, inner), (None, "mlp"), rngs)
        self.b1_f = parameter((inner,), ("mlp",), rngs, scale=0.02)
        self.w2_fd = parameter((inner, hidden), ("mlp", None), rngs)
        self.b2_d = parameter((hidden,), (None,), rngs, scale=0.02)

    def __call__(self, x: Any, stage: TowerStage) -> Any:
        h = stage.linear_bias(x, self.w1_df, self.b1_f, stage.layout.tower.activation)
        return stage.add_bias(stage.summed(stage.linear(h, self.w2_fd)), self.b2_d)


class BiasedLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with biases everywhere, as in SigLIP and Qwen3-VL."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None):
        size, eps = layout.tower.hidden_size, layout.tower.norm_eps
        self.attention_norm = LayerNorm(size, eps, rngs)
        self.attention = VisionAttention(layout, rngs, bias=True)
        self.mlp_norm = LayerNorm(size, eps, rngs)
        self.mlp = VisionMLP(layout, rngs)


class GatedVisionMLP(nnx.Module):
    """w2(silu(w1 x + b1) * (w3 x + b3)) + b2."""

    def __init__(self, layout: TowerLayout, rngs: nnx.Rngs | None):
        hidden, inner = layout.tower.hidden_size, layout.mlp_size
        self.w1_df = parameter((hidden, inner), (None, "mlp"), rngs)
        self.b1_f = parameter((inner,), ("mlp",), rngs, scale=0.02)
        self.w3_df = parameter((hidden, inner), (None, "mlp"), rngs)
        self.b3_f = parameter((inner,), ("mlp",), rngs, scale=0.02)
        self.w2_fd = parameter((inner, hidden), ("mlp", None), rngs)
        self.b2_d = parameter((hidden,), (None,), rngs, scale=0.02)

    def __call__(self, x: Any, stage: TowerStage) -> Any:
        gate, up = stage.linear_bias(x, self.w1_df, self.b1_f), stage.linear_bias(x, self.w3_df, self.b3_f)
        h = tt.silu_mul(gate, up, out_format=stage.precision.activation)
        return stage.add_bias(stage.summed(stage.linear(h, self.w2_fd)), self.b2_d)
