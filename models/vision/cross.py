"""Cross attention: text rows attend to an image's tokens, whose keys and values have a cache of their own.

A row that sees no image keeps its residual stream: both the attention's output and the MLP's are zeroed (Meta's code
and the device do so; transformers lets such rows attend to everything).

Source: tt-metal models/tt_transformers/tt/multimodal/llama_cross_{attention,block}.py, April 2025.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ttsim import ops as tt
from ttsim.meshes.systems import DATA_AXIS
from ttsim.models.grids import TILE, round_up
from ttsim.models.layout import Layout
from ttsim.models.parallel import Stage, decode_stage
from ttsim.models.vision.layers import PASS_ROWS, VisionPrecision

CROSS_PREFILL_LAYER, CROSS_DECODE_LAYER = "cross_prefill_layer", "cross_decode_layer"


def vision_rows(tokens: int, tiles: int) -> int:
    """Rows of the vision tokens of `tiles` tiles as cross attention holds them: a whole number of chunks.

    Joined without the padding of each tile, then padded to the rows that the padded tiles had.
    """
    return tiles * round_up(tokens, TILE)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VisionCache:
    """Keys and values of every cross-attention layer, each [users, kv_heads, vision rows, head_dim]."""

    keys: tuple[Any, ...]
    values: tuple[Any, ...]

    @classmethod
    def abstract(cls, layout: Layout, batch: int, rows: int, dtype: Any = jnp.bfloat16) -> VisionCache:
        c = layout.config
        shape = (batch * layout.system.data_parallel, c.num_kv_heads, rows, c.head_dim)
        return cls._filled(jax.ShapeDtypeStruct(shape, dtype), layout)

    @classmethod
    def zeros(cls, layout: Layout, batch: int, rows: int, dtype: Any = jnp.float32) -> VisionCache:
        empty: VisionCache = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), cls.abstract(layout, batch, rows, dtype)
        )
        return empty

    @classmethod
    def specs(cls, layout: Layout) -> VisionCache:
        """A PartitionSpec in place of each array."""
        return cls._filled(PartitionSpec(DATA_AXIS, layout.axis), layout)

    @classmethod
    def _filled(cls, layer: Any, layout: Layout) -> VisionCache:
        layers = (layer,) * len(layout.config.cross_attention_layers)
        return cls(layers, layers)


def _product(x: Any, w: Any, stage: Stage, vision: VisionPrecision, weight_format: str, pass_rows: int) -> Any:
    """The 2-D multicast of interleaved weights, in decode too."""
    return tt.linear(
        x,
        w,
        kernel="mcast_2d",
        weight_format=weight_format,
        setting=vision.cross_setting,
        in_format=stage.precision.residual,
        out_format=stage.precision.linear_out,
        pass_rows=pass_rows,
    )


def _output(x: Any, layer: Any, stage: Stage, vision: VisionPrecision) -> Any:
    """wo by rows, its partial sums scattered into the residual stream."""
    p, layout = stage.precision, stage.layout
    y = _product(x, layer.wo_qd[...], stage, vision, p.wo, 1024)
    if layout.ways > 1:
        y = tt.reduce_scatter(y, axis=layout.axis, dim=y.ndim - 1, format=p.linear_out, memory=stage.memory)
    return y


def _feed_forward(x: Any, layer: Any, keep: Any, stage: Stage, h: Any) -> Any:
    fmt, memory = stage.precision.residual, stage.memory
    out = tt.mask_rows(layer.mlp(h, stage, x), keep, out_format=fmt, memory=memory)
    return tt.add(x, tt.gate(out, layer.mlp_gate[...], out_format=fmt, memory=memory), out_format=fmt, memory=memory)


@functools.partial(jax.jit, static_argnames=("stage", "vision"))
def cross_prefill_layer(
    layer: Any,
    x: Any,
    vision_sd: Any,
    mask: Any,
    keep: Any,
    user: Any,
    keys: Any,
    values: Any,
    *,
    stage: Stage,
    vision: VisionPrecision,
) -> Any:
    """One user's prompt through a cross-attention layer, which fills that user's part of the layer's cache.

    Args:
      x: [T, d / devices]; vision_sd: [S, d], the image's tokens; mask: [T, S]; keep: [T], zero for rows that see none.
      user: int32 scalar. keys, values: [users, kv_heads, S, head_dim].
    """
    p, layout = stage.precision, stage.layout
    eps, head, kv_heads = layout.config.rms_norm_eps, layout.config.head_dim, layout.config.num_kv_heads // layout.ways
    fmt = vision.cross_cache
    h = stage.norm(x, layer.attention_norm_d)
    k, v = (_product(vision_sd, layer.wkv_dkh[...][:, :, i], stage, vision, p.wqkv, PASS_ROWS) for i in (0, 1))
    k, v = (tt.split_heads(y, heads=kv_heads, format=p.linear_out) for y in (k, v))
    k = tt.rms_norm(k, layer.k_norm_h[...], eps=eps, out_format=fmt)
    keys = tt.fill_cache(keys, k, user, start=0, format=fmt)
    values = tt.fill_cache(values, v, user, start=0, format=fmt)
    q = _product(h, layer.wq_dq[...], stage, vision, p.wqkv, 1024)
    q = tt.split_heads(q, heads=layout.local_heads, format=p.linear_out)
    q = tt.rms_norm(q, layer.q_norm_h[...], eps=eps, out_format=p.linear_out)
    out = tt.sdpa(
        q,
        k,
        v,
        mask,
        scale=head**-0.5,
        setting=vision.cross_setting,
        kv_format=fmt,
        out_format=p.linear_out,
        mask_format=vision.cross_mask,
    )
    out = tt.mask_rows(tt.concat_heads_prefill(out, format=p.linear_out), keep, out_format=p.linear_out)
    out = _output(out, layer, stage, vision)
    x = tt.add(x, tt.gate(out, layer.attention_gate[...], out_format=p.residual), out_format=p.residual)
    return _feed_forward(x, layer, keep, stage, stage.norm(x, layer.mlp_norm_d)), keys, values


@functools.partial(jax.jit, static_argnames=("layout", "precision", "vision"))
def cross_decode_layer(
    layer: Any, x: Any, mask: Any, keep: Any, keys: Any, values: Any, *, layout: Layout, precision: Any, vision: Any
) -> Any:
    """One token of every user through a cross-attention layer, against the whole of its cache.

    Args:
      x: [B, d / devices]; mask: [B, S]; keep: [B]. keys, values: [B, kv_heads, S, head_dim].
    """
    stage = decode_stage(layout, precision)
    p, c = stage.precision, layout.config
    h = stage.norm(x, layer.attention_norm_d, cores=layout.attention_cores)
    q = _product(tt.reshard(h, format=p.residual), layer.wq_dq[...], stage, vision, p.wqkv, 32)
    q = tt.split_heads_decode(q, heads=layout.local_heads, format=p.linear_out)
    q = tt.rms_norm(q, layer.q_norm_h[...], eps=c.rms_norm_eps, out_format=p.rope_in)
    out = tt.sdpa_decode_masked(
        q,
        keys,
        values,
        mask,
        setting=vision.cross_setting,
        kv_format=vision.cross_cache,
        out_format=p.sdpa_decode_out,
        mask_format=vision.activation,
    )
    out = tt.join_heads_decode(out, format=p.sdpa_decode_out)
    out = tt.mask_rows(out, keep, out_format=p.sdpa_decode_out, memory="l1")
    out = tt.reshard(_output(out, layer, stage, vision), format=p.linear_out, cores=layout.residual_cores)
    out = tt.gate(out, layer.attention_gate[...], out_format=p.residual, memory="l1")
    x = tt.add(x, out, out_format=p.residual, memory="l1")
    h = stage.norm(x, layer.mlp_norm_d, cores=layout.mlp_cores, move=False)
    return _feed_forward(x, layer, keep, stage, h)
