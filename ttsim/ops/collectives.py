"""Collectives over a mesh axis. Each has one cost rule by topology, in `ttsim.cost.links`."""

from __future__ import annotations

import jax

from ttsim.ops._op import op
from ttsim.ops._pack import pack


@op
def all_gather(x, *, axis, dim, format):
    """Concatenates every device's slice along dimension `dim`. [..., N / devices, ...] -> [..., N, ...]."""
    del format
    return jax.lax.all_gather(x, axis, axis=dim, tiled=True)


@op
def reduce_scatter(x, *, axis, dim, format):
    """Sums over the devices and leaves each with its slice of `dim`. [..., N, ...] -> [..., N / devices, ...].

    The sum is rounded once to `format`; the device rounds after each hop, which for two devices is the same.
    """
    return pack(jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True), format)


@op
def all_reduce(x, *, axis, format, composite=False):
    """Sums over the devices; each gets the whole sum. Shape unchanged.

    Args:
      x: [...] partial sums.
      axis: mesh axis.
      format: format of what travels and of the result.
      composite: reduce-scatter + all-gather; otherwise all-gather + a local reduction over the gathered copies.
    """
    del composite
    return pack(jax.lax.psum(x, axis), format)
