"""The KV cache: a token of every user, a prompt of one, and reading it back."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import UPDATE_CACHE_TILE_TIME, UPDATE_CACHE_TIME
from ttsim.kernels import galaxy
from ttsim.kernels.activations import Pair, fixed, one_of_pair, stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tensor_bytes, tiles
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, OpCall, array_shape, op, packed_once, words


@op(caches=(0,), in_l1=True, like=0)
def update_cache(cache: Array, x: Array, positions: Array, *, format: str, pair: Pair = "") -> Array:
    """Writes one token per user into the KV cache.

    Args:
      cache: [B, kv_heads, S, head_dim]; x: [B, kv_heads, head_dim]; positions: [B] int32.
      format: the cache's format.
      pair: "first" for K and "second" for V where one op may write both (the fact `fused_rope_cache`).

    Returns:
      The cache with x at each user's position.
    """
    del pair
    x = pack(x, format).astype(cache.dtype)[:, :, None]
    return jax.vmap(lambda c, row, p: jax.lax.dynamic_update_slice_in_dim(c, row, p, axis=1))(cache, x, positions)


@update_cache.describe
def _(call: OpCall) -> str:
    return words(array_shape(call.inputs[1]))


update_cache.noise(packed_once)


@update_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    _, kv_heads, head_dim = call.inputs[1].shape
    one = fixed("", UPDATE_CACHE_TIME + kv_heads * tiles(head_dim) * UPDATE_CACHE_TILE_TIME)
    return one_of_pair("paged_update_cache", one, call["pair"], machine.software)


@update_cache.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [galaxy.half(galaxy.target("paged_fused_update_cache", "update_cache"), machine)]


@op(caches=(0,), like=0)
def fill_cache(cache: Array, x: Array, user: Array, *, start: int, format: str, users_axis: str | None = None) -> Array:
    """Writes one user's prompt (or a chunk of it) into the KV cache.

    Args:
      cache: [B, kv_heads, S, head_dim]; x: [kv_heads, s, head_dim], in the cache's format; user: int32 scalar.
      start: position of x's first row.
      format: the cache's format.
      users_axis: mesh axis over which the users are spread (then `user` counts all of them, and the devices that
        don't hold this user leave their cache as it is).
    """
    del format
    block = x.astype(cache.dtype)[None]
    zero = jnp.zeros((), user.dtype)
    if users_axis is None:
        return jax.lax.dynamic_update_slice(cache, block, (user, zero, zero + start, zero))
    local = user - jax.lax.axis_index(users_axis) * cache.shape[0]
    held = (local >= 0) & (local < cache.shape[0])
    index = (jnp.clip(local, 0, cache.shape[0] - 1), zero, zero + start, zero)
    old = jax.lax.dynamic_slice(cache, index, block.shape)
    return jax.lax.dynamic_update_slice(cache, jnp.where(held, block, old), index)


@fill_cache.describe
def _(call: OpCall) -> str:
    return words(array_shape(call.inputs[1]))


@fill_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    kv_heads, rows, head_dim = call.inputs[1].shape
    return [stream("paged_fill_cache", 2 * tensor_bytes(kv_heads * rows, head_dim, call["format"]), machine.chip)]


@fill_cache.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return galaxy.small("paged_fill_cache", call.inputs[1].shape[1], machine)


@op(caches=(0,))
def read_cache(cache: Array, user: Array, *, length: int, users_axis: str | None = None) -> Array:
    """One user's first `length` positions of the cache, which chunked attention reads in place.

    Args:
      cache: [B, kv_heads, S, head_dim]; user: int32 scalar, counted as in `fill_cache`.

    Returns:
      [kv_heads, length, head_dim].
    """
    if users_axis is not None:
        user = jnp.clip(user - jax.lax.axis_index(users_axis) * cache.shape[0], 0, cache.shape[0] - 1)
    of_user: Array = jax.lax.dynamic_index_in_dim(cache, user, axis=0, keepdims=False)
    return of_user[:, :length]


@read_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # chunked attention reads the pages in place; sdpa_prefill pays for them
