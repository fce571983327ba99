"""Matrix products, and the embedding lookups that replace one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim import fidelity
from ttsim.formats import dequantize, round_to
from ttsim.ops._op import op


@op
def linear(
    x, w, *, kernel, weight_format, setting, out_format, in_format="bf16", cores=None, pass_rows=None, columns=None
):
    """y[..., n] = sum_k x[..., k] w[k, n], as the matrix engine computes it.

    Args:
      x: [..., K] activations on `in_format`'s grid.
      w: [K, ...] weight on `weight_format`'s grid (array or BlockArray); trailing axes are flattened to N.
      kernel: "dram_sharded" (decode: 12 workers, one per DRAM bank), "mcast_1d" (one row of tiles, interleaved
        weights) or "mcast_2d" (prefill: blocks of rows x columns on the whole grid).
      weight_format, in_format, out_format: formats of w, x and y.
      setting: compute setting (`ttsim.fidelity.SETTINGS`).
      cores: cores that hold x (dram_sharded) or that compute (mcast_1d).
      pass_rows: rows of one pass over the weights (mcast_2d); longer inputs are folded.
      columns: widest piece that one kernel computes; wider weights are cut into pieces (the LM head).

    Returns:
      [..., N] float32 on `out_format`'s grid.
    """
    del kernel, cores, pass_rows, columns  # they decide the time, not the result
    w = dequantize(w)
    return fidelity.matmul(
        x,
        w.reshape(w.shape[0], -1),
        setting,
        weight_format=weight_format,
        activation_format=in_format,
        out_format=out_format,
    )


@op
def all_gather_matmul(x, w, *, axis, weight_format, setting, out_format, in_format="bf16", cores=8):
    """all_gather(x, axis) @ w in one kernel: y[..., n] = sum over the whole K of x[..., k] w[k, n].

    Args:
      x: [..., K / devices] this device's slice; w: [K, N / devices].
      axis: mesh axis that is gathered.
      weight_format, in_format, out_format, setting, cores: see `linear`.

    Returns:
      [..., N / devices] float32 on `out_format`'s grid: no reduction is needed after it.
    """
    del cores
    x = jax.lax.all_gather(x, axis, axis=x.ndim - 1, tiled=True)
    return fidelity.matmul(
        x, dequantize(w), setting, weight_format=weight_format, activation_format=in_format, out_format=out_format
    )


@op
def embedding(tokens, table, *, out_format):
    """Row lookup: y[i] = table[tokens[i]].

    Args:
      tokens: [...] int32. table: [vocabulary, H] in DRAM, row-major.
      out_format: format of the result.

    Returns:
      [..., H] float32.
    """
    return round_to(jnp.take(table, tokens, axis=0).astype(jnp.float32), out_format)
