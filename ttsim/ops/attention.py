"""Flash attention, for decode and prefill.

Decode arrays are [B, heads, head_dim] (one token per user), prefill arrays [heads, S, head_dim] (one user).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from ttsim.kernels import flash, galaxy
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.numerics import attention as numeric
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.noise import destination_roundings, packing
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, OpCall, OpNoise, op

# Rows of queries that the simulator (not the device) computes at once: bounds the score matrix's memory.
_QUERY_ROWS = 1024


@op(weights=(4,), caches=(1, 2), in_l1=True, like=0)
def sdpa_decode(
    q: Array,
    keys: Array,
    values: Array,
    positions: Array,
    sinks: Array | None = None,
    *,
    setting: str,
    kv_format: str,
    out_format: str,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Flash decode: softmax(q K^T scale) V over positions 0..p of each user.

    Args:
      q: [B, heads, d]; keys, values: [B, kv_heads, S, d]; positions: [B] int32, the newest position.
      sinks: [heads] scores of a column of the softmax that is dropped, or None.
      setting: compute setting of both products. kv_format: the cache's format. out_format: the result's.
      window: newest positions that are attended to, the token itself included; None for all.
      chunk: only positions of the token's own block of so many are attended to; None for all.
      scale: factor on q K^T; None for 1 / sqrt(d). softcap: scores become softcap * tanh(scores / softcap).

    Returns:
      [B, heads, d].
    """
    compute = get_setting(setting)
    batch, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    grouped = numeric.activations(q.reshape(batch, kv_heads, heads // kv_heads, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))
    products = numeric.product(grouped, keys.swapaxes(-1, -2), compute, kv_format)
    visible = numeric.visible(positions, keys.shape[2], window, chunk)[:, None, None]
    sinks = None if sinks is None else sinks.reshape(1, kv_heads, -1, 1)
    scale = head_dim**-0.5 if scale is None else scale
    out = numeric.attend(products, values, visible, compute, kv_format, scale, softcap, sinks)
    return pack(out.reshape(q.shape), out_format)


@sdpa_decode.describe
def _(call: OpCall) -> str:
    users, heads, head_dim = call.inputs[0].shape
    return (f"{users} x " if users > 1 else "") + f"{heads}/{call.inputs[1].shape[-3]} heads of {head_dim}"


@sdpa_decode.noise
def _(call: OpCall) -> OpNoise:  # two products: Q K^T and the softmax times V
    return OpNoise(packing(call["out_format"]).power, 2 * destination_roundings(call["setting"]))


@sdpa_decode.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, heads, head_dim = call.inputs[0].shape
    kv_heads = call.inputs[1].shape[1]
    options = {"fmt": call["kv_format"], "setting": call["setting"], "machine": machine, "window": call["window"]}
    return [flash.flash_decode(users, heads, kv_heads, head_dim, **options)]


@sdpa_decode.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users, _, head_dim = call.inputs[0].shape
    return [galaxy.flash_decode(users, call.inputs[1].shape[1], head_dim, call["kv_format"], machine)]


@op(weights=(3,), like=0)
def sdpa_prefill(
    q: Array,
    keys: Array,
    values: Array,
    sinks: Array | None = None,
    *,
    start: int,
    setting: str,
    kv_format: str,
    out_format: str,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block_rows: int | None = None,
    numerics: Literal["prefill", "decode"] = "prefill",
) -> Array:
    """Flash attention: causal softmax(q K^T scale) V of rows start..start+S-1.

    Args:
      q: [heads, S, d]; keys, values: [kv_heads, start + S, d].
      start: position of the first query row (chunked prefill reads the earlier ones from the cache).
      sinks, setting, kv_format, out_format, window, chunk, scale, softcap: see `sdpa_decode`.
      block_rows: rows and columns of one block, computed on the chip's whole grid; None is tt_transformers' choice.
      numerics: whose kernel rounds: "decode" gives what decoding these rows one by one does.

    Returns:
      [heads, S, d].
    """
    del block_rows  # they decide the time, not the result
    compute = get_setting(setting)
    heads, rows, head_dim = q.shape
    kv_heads = keys.shape[0]
    grouped = numeric.activations(q.reshape(kv_heads, heads // kv_heads, rows, head_dim), compute)
    keys, values = (numeric.weights(x, compute, kv_format) for x in (keys, values))
    columns = None if sinks is None else sinks.reshape(kv_heads, -1, 1, 1)
    factor = head_dim**-0.5 if scale is None else scale

    def attend(q_block: Array, first: Array | int) -> Array:
        products = numeric.product(q_block, keys.swapaxes(-1, -2), compute, kv_format)
        positions = start + first + jnp.arange(q_block.shape[2])
        visible = numeric.visible(positions, keys.shape[1], window, chunk)[None, None]
        return numeric.attend(
            products, values, visible, compute, kv_format, factor, softcap, columns, prefill=numerics == "prefill"
        )

    if rows <= _QUERY_ROWS or rows % _QUERY_ROWS:
        out = attend(grouped, 0)
    else:
        blocks = grouped.reshape(kv_heads, heads // kv_heads, -1, _QUERY_ROWS, head_dim).transpose(2, 0, 1, 3, 4)
        firsts = jnp.arange(blocks.shape[0]) * _QUERY_ROWS
        out = jax.lax.map(lambda block: attend(*block), (blocks, firsts)).transpose(1, 2, 0, 3, 4)
    return pack(out.reshape(q.shape), out_format)


@sdpa_prefill.describe
def _(call: OpCall) -> str:
    return f"{call.inputs[0].shape[0]}/{call.inputs[1].shape[-3]} heads of {call.inputs[0].shape[-1]}"


@sdpa_prefill.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    options = {"fmt": call["kv_format"], "setting": call["setting"], "chip": machine.chip, "blocks": call["block_rows"]}
    return [flash.flash_attention(heads, call.inputs[1].shape[0], rows, call["start"], head_dim, **options)]


@sdpa_prefill.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    heads, rows, head_dim = call.inputs[0].shape
    return [galaxy.flash_attention(heads, rows, head_dim, machine)]
