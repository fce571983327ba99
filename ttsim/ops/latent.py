"""Latent attention (DeepSeek): keys and values of all heads are made from one latent vector a token.

The absorbed form, which the device runs: queries are brought into the latent's space (`wkv_b1`), attend to the cached
latents as if those were one KV head, and the latent that comes out is brought to each head's values (`wkv_b2`).

Axes in names: h heads, n columns without rotation, r rank of the latent, p rotated columns, v columns of a value.
Source: tt-metal models/demos/deepseek_v3/tt/mla; transformers modeling_deepseek_v3.py for the plain form.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.activations import ADD_TIME, UPDATE_CACHE_TILE_TIME, UPDATE_CACHE_TIME
from ttsim.kernels import flash, links, matmul
from ttsim.kernels.activations import fixed, small, stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import rows_and_columns, tensor_bytes, tiles
from ttsim.numerics import attention as numeric
from ttsim.numerics import fidelity
from ttsim.numerics.conversion import dequantize
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.formats import TILE
from ttsim.numerics.noise import destination_roundings, packing
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, Memory, OpCall, OpNoise, Weight, op, packed_once
from ttsim.ops.matrix import product_noise


@op(weights=(1,))
def head_linear(
    x: Array,
    w_hkn: Weight,
    *,
    weight_format: str,
    setting: str,
    out_format: str,
    memory: Memory,
    in_format: str = "bf16",
) -> Array:
    """y[..., h, n] = sum_k x[..., h, k] w[h, k, n]: each head's own weight, one batched matmul.

    Args:
      x: [rows, H, K]. w_hkn: [H, K, N] (array or BlockArray).
      weight_format, setting, out_format, in_format: see `linear`. memory: where x lies, "l1" or "dram".

    Returns:
      [rows, H, N] float32 on `out_format`'s grid.
    """
    del memory

    def one(rows: Array, w: Weight) -> Array:
        return fidelity.matmul(
            rows, w, setting, weight_format=weight_format, activation_format=in_format, out_format=out_format
        )

    return jax.vmap(one, in_axes=(1, 0), out_axes=1)(x, dequantize(w_hkn))


@head_linear.noise
def _(call: OpCall) -> OpNoise:
    return product_noise(call, results=1)


@head_linear.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    x, w = call.inputs
    rows, (heads, k, n) = x.shape[0], w.shape
    fmt, setting = call["weight_format"], call["setting"]
    if call["memory"] == "l1":  # one DRAM-sharded matmul over all heads
        one = matmul.dram_sharded(heads * k, n, fmt=fmt, setting=setting, cores=8, chip=machine.chip)
        return [one] * -(-rows // TILE)
    options = {"fmt": fmt, "in_format": call["in_format"], "out_format": call["out_format"], "setting": setting}
    return [matmul.mcast_2d(rows, heads * k, n, pass_rows=rows, chip=machine.chip, **options)]


@op
def split_columns(x: Array, *, sizes: tuple[int, ...], format: str, memory: Memory) -> tuple[Array, ...]:
    """x cut into pieces of these widths along its last axis."""
    del format, memory
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return tuple(x[..., a:b] for a, b in itertools.pairwise(edges))


@split_columns.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, _ = rows_and_columns(call.inputs[0])
    return [_move("slice", rows, size, call, machine) for size in call["sizes"]]


@op
def concat_columns(*parts: Array, format: str, memory: Memory = "dram") -> Array:
    """The parts side by side along the last axis, in L1 or DRAM."""
    del format, memory
    return jnp.concatenate(parts, axis=-1)


@concat_columns.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.outputs[0])
    return [_move("concat", rows, columns, call, machine)]


@op(weights=(0,))
def local_heads(w_hkn: Weight, *, axis: str) -> Weight:
    """This device's heads of a weight that all hold whole: a view, no bytes move. [H, ...] -> [H / n, ...]."""
    local = w_hkn.shape[0] // jax.lax.axis_size(axis)
    first = jax.lax.axis_index(axis) * local
    mine: Weight = jax.tree.map(lambda part: jax.lax.dynamic_slice_in_dim(part, first, local), w_hkn)
    return mine


@local_heads.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # each chip reads its part of the weight in place


@op
def heads_to_users(x: Array, *, axis: str, format: str) -> Array:
    """All heads of this device's users, from this device's heads of all users. [B, H / n, d] -> [B / n, H, d]."""
    del format
    mine: Array = jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=1, tiled=True)
    return mine


@heads_to_users.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, columns = rows_and_columns(call.inputs[0])
    tensor = tensor_bytes(rows, columns, call["format"])
    return [dataclasses.replace(links.reduce_scatter(tensor, call.num_devices, "l1", machine), name="all_to_all")]


@op(caches=(0,))
def update_latent_cache(cache: Array, x: Array, positions: Array, *, format: str) -> Array:
    """Writes one token per user into the cache of latents. cache [B, S, r + p]; x [B, r + p]; positions [B]."""
    x = pack(x, format).astype(cache.dtype)[:, None]
    return jax.vmap(lambda c, row, p: jax.lax.dynamic_update_slice_in_dim(c, row, p, axis=0))(cache, x, positions)


update_latent_cache.noise(packed_once)


@update_latent_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [fixed("paged_update_cache", UPDATE_CACHE_TIME + tiles(call.inputs[1].shape[-1]) * UPDATE_CACHE_TILE_TIME)]


@op
def my_rows(x: Array, *, axis: str, format: str) -> Array:
    """This device's slice of the rows. [B, ...] -> [B / devices, ...]."""
    del format
    local = x.shape[0] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * local, local)


@my_rows.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [small("mesh_partition", ADD_TIME)]


@op(caches=(0,))
def fill_latent_cache(
    cache: Array, x: Array, user: Array, *, start: int, format: str, users_axis: str | None = None
) -> Array:
    """Writes one user's prompt, or a chunk of it. cache [B, S, r + p]; x [T, r + p]; see `fill_cache`."""
    del format
    block = x.astype(cache.dtype)[None]
    zero = jnp.zeros((), user.dtype)
    if users_axis is None:
        return jax.lax.dynamic_update_slice(cache, block, (user, zero + start, zero))
    local = user - jax.lax.axis_index(users_axis) * cache.shape[0]
    held = (local >= 0) & (local < cache.shape[0])
    index = (jnp.clip(local, 0, cache.shape[0] - 1), zero + start, zero)
    old = jax.lax.dynamic_slice(cache, index, block.shape)
    return jax.lax.dynamic_update_slice(cache, jnp.where(held, block, old), index)


@fill_latent_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, width = call.inputs[1].shape
    return [stream("paged_fill_cache", 2 * tensor_bytes(rows, width, call["format"]), machine.chip)]


@op(caches=(0,))
def read_latent_cache(cache: Array, user: Array, *, length: int, users_axis: str | None = None) -> Array:
    """One user's first `length` latents [length, r + p], from the chip that holds them."""
    if users_axis is None:
        mine: Array = jax.lax.dynamic_index_in_dim(cache, user, axis=0, keepdims=False)
        return mine[:length]
    local = user - jax.lax.axis_index(users_axis) * cache.shape[0]
    held = (local >= 0) & (local < cache.shape[0])
    rows = jax.lax.dynamic_index_in_dim(cache, jnp.clip(local, 0, cache.shape[0] - 1), axis=0, keepdims=False)
    found: Array = jax.lax.psum(jnp.where(held, rows[:length], 0), users_axis)
    return found


@read_latent_cache.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return []  # chunked attention reads the pages in place; mla_prefill pays for them


@op(caches=(1,))
def mla_decode(
    q: Array,
    latents: Array,
    positions: Array,
    *,
    rank: int,
    scale: float,
    setting: str,
    kv_format: str,
    out_format: str,
) -> Array:
    """Flash decode over latents: softmax(scale q K^T) V with K the latents and V their first `rank` columns.

    Args:
      q: [B, H, r + p]. latents: [B, S, r + p]. positions: [B] int32, the newest position.
      rank: r. scale: on the scores. setting, kv_format, out_format: see `sdpa_decode`.

    Returns:
      [B, H, r].
    """
    compute = get_setting(setting)
    keys = numeric.weights(latents, compute, kv_format)
    scores = jnp.einsum("bhd,bsd->bhs", numeric.activations(q, compute), keys) * scale
    scores = jnp.where(numeric.visible(positions, keys.shape[1], None, None)[:, None], scores, -jnp.inf)
    weights = numeric.activations(numeric.softmax(scores, compute), compute)
    return pack(jnp.einsum("bhs,bsr->bhr", weights, keys[..., :rank]), out_format)


@mla_decode.noise
def _(call: OpCall) -> OpNoise:  # as `sdpa_decode`
    return OpNoise(packing(call["out_format"]).power, 2 * destination_roundings(call["setting"]))


@mla_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, heads, width = call.inputs[0].shape
    options = {"fmt": call["kv_format"], "setting": call["setting"], "machine": machine}
    return [flash.flash_decode(users, heads, 1, width, **options)]


@op
def mla_prefill(
    q: Array, latents: Array, *, start: int, rank: int, scale: float, setting: str, kv_format: str, out_format: str
) -> Array:
    """The same for rows start .. start + T - 1 of one user.

    Args:
      q: [T, H, r + p]. latents: [start + T, r + p].

    Returns:
      [T, H, r].
    """
    compute = get_setting(setting)
    keys = numeric.weights(latents, compute, kv_format)
    scores = jnp.einsum("thd,sd->hts", numeric.activations(q, compute), keys) * scale
    visible = numeric.visible(start + jnp.arange(q.shape[0]), keys.shape[0], None, None)
    weights = numeric.activations(numeric.softmax(jnp.where(visible[None], scores, -jnp.inf), compute), compute)
    return pack(jnp.einsum("hts,sr->thr", weights, keys[:, :rank]), out_format)


@mla_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    rows, heads, width = call.inputs[0].shape
    options = {"fmt": call["kv_format"], "setting": call["setting"], "chip": machine.chip}
    return [flash.flash_attention(heads, 1, rows, call["start"], width, **options)]


def _move(name: str, rows: int, columns: int, call: OpCall, machine: Machine) -> Kernel:
    """A copy of [rows, columns] in L1 or DRAM."""
    if call["memory"] == "l1":
        return small(name, ADD_TIME)
    return stream(name, 2 * tensor_bytes(rows, columns, call["format"]), machine.chip)
