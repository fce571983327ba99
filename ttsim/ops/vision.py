"""Ops of models that see: the image tower, attention under a mask, gates, and the host's work on images.

Attention here takes its mask as an argument: [rows, keys], zero where a row sees a key and very negative where it does
not. A row that sees nothing is the caller's to mask (`mask_rows`); its softmax is then uniform, never NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.numerics import fidelity
from ttsim.numerics.fidelity import get_setting
from ttsim.numerics.formats import dequantize
from ttsim.numerics.packer import pack
from ttsim.ops.attention import _activations, _softmax, _weights
from ttsim.ops.core import op

MASKED = -1e9  # what a mask holds where a row does not see a key
_QUERY_ROWS = 1024  # rows of queries that the simulator (not the device) computes at once

_ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@op
def layer_norm(x, weight, bias, *, eps, out_format):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Args:
      x: [..., H]; weight, bias: [H]. eps: added to the variance. out_format: format of y.
    """
    row = (1,) * (x.ndim - 1) + (-1,)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    y = (x - mean) * jax.lax.rsqrt(variance + eps)
    return pack(y * weight.astype(jnp.float32).reshape(row) + bias.astype(jnp.float32).reshape(row), out_format)


@op
def linear_bias(
    x, w, bias, *, weight_format, setting, out_format, activation="none", in_format="bf16", pass_rows=None
):
    """activation(x w + bias) in one kernel: the bias and the activation are fused into the product's last step.

    Args:
      x: [..., K]; w: [K, ...]; bias: axes that flatten to N.
      activation: "none", "gelu" (exact, by erf) or "gelu_tanh".
      weight_format, setting, in_format, out_format, pass_rows: see `linear`; the kernel is the 2-D multicast.

    Returns:
      [..., N] float32 on `out_format`'s grid.
    """
    del pass_rows
    w = dequantize(w)
    y = fidelity.matmul(
        x, w.reshape(w.shape[0], -1), setting, weight_format=weight_format, activation_format=in_format
    )
    return pack(_ACTIVATIONS[activation](y + bias.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))), out_format)


@op
def sdpa(q, keys, values, mask, *, scale, setting, kv_format, out_format, mask_format="bf16"):
    """Flash attention under a mask: softmax(q K^T scale + mask) V.

    Args:
      q: [heads, S, d]; keys, values: [kv_heads, L, d], each shared by heads / kv_heads query heads.
      mask: [S, L], the same for all heads, or None: every row sees every key.
      scale: of the scores; heads that are padded to whole tiles keep that of their true size.
      setting: compute setting of both products. kv_format, out_format, mask_format: formats.

    Returns:
      [heads, S, d].
    """
    del mask_format
    setting = get_setting(setting)
    heads, rows, head_dim = q.shape
    kv_heads = keys.shape[0]
    grouped = _activations(q.reshape(kv_heads, heads // kv_heads, rows, head_dim), setting)
    keys, values = (_weights(x, setting, kv_format) for x in (keys, values))

    def attend(block):
        q_block, mask_block = block
        scores = jnp.einsum("kgqd,ksd->kgqs", q_block, keys) * scale
        scores = scores if mask_block is None else scores + mask_block[None, None]
        return jnp.einsum("kgqs,ksd->kgqd", _activations(_softmax(scores, setting), setting), values)

    if rows <= _QUERY_ROWS:
        out = attend((grouped, mask))
    else:
        size = next(n for n in range(_QUERY_ROWS, 0, -1) if rows % n == 0)
        blocks = grouped.reshape(*grouped.shape[:2], -1, size, head_dim).transpose(2, 0, 1, 3, 4)
        masks = None if mask is None else mask.reshape(-1, size, mask.shape[-1])
        out = jax.lax.map(attend, (blocks, masks)).transpose(1, 2, 0, 3, 4)
    return pack(out.reshape(q.shape), out_format)


@op
def sdpa_decode_masked(q, keys, values, mask, *, setting, kv_format, out_format, mask_format="bf16"):
    """Flash decode under a mask, over the whole cache: what a new token sees of each user's images.

    Args:
      q: [B, heads, d]; keys, values: [B, kv_heads, L, d]; mask: [B, L]. The rest: see `sdpa`.

    Returns:
      [B, heads, d].
    """
    del mask_format
    setting = get_setting(setting)
    batch, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    grouped = _activations(q.reshape(batch, kv_heads, heads // kv_heads, head_dim), setting)
    keys, values = (_weights(x, setting, kv_format) for x in (keys, values))
    scores = jnp.einsum("bkgd,bksd->bkgs", grouped, keys) * head_dim**-0.5 + mask[:, None, None]
    weights = _activations(_softmax(scores, setting), setting)
    return pack(jnp.einsum("bkgs,bksd->bkgd", weights, values).reshape(q.shape), out_format)


@op
def split_heads(x, *, heads, format):
    """One projection of one user into heads: [S, heads * d] -> [heads, S, d]."""
    del format
    return x.reshape(x.shape[0], heads, -1).transpose(1, 0, 2)


@op
def gather_sum(x, *, axis, format):
    """Sums partial sums over the devices: all are gathered, then each device adds them up. Shape unchanged.

    What the vision code does where a reduce-scatter and an all-gather would move 2 / devices of the bytes.
    """
    return pack(jax.lax.psum(x, axis), format)


@op
def gate(x, strength, *, out_format):
    """x tanh(strength): strength [1] is a parameter of the model."""
    return pack(x * jnp.tanh(strength.astype(jnp.float32)).reshape((1,) * x.ndim), out_format)


@op
def mask_rows(x, keep, *, out_format):
    """Zeroes rows: x [rows, ...] times keep [rows], which is one or zero."""
    return pack(x * keep.reshape(-1, *(1,) * (x.ndim - 1)), out_format)


@op
def take_aspect(table, aspect, *, tiles, format):
    """The rows of one canvas: table [aspects, max_tiles, n, H] -> [tiles, n, H]."""
    del format
    return jax.lax.dynamic_index_in_dim(table, aspect, keepdims=False)[:tiles].astype(jnp.float32)


@op
def add_spread(x, row, *, out_format):
    """x [tiles, n, H] plus one row [tiles, 1, H] for each tile."""
    return pack(x + row, out_format)


@op
def prepend_class(x, token, *, format):
    """The class token before the rows of each tile: [tiles, n, H] -> [tiles, n + 1, H]."""
    token = pack(token.astype(jnp.float32), format)
    return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])), x], axis=1)


@op
def add_positions(x, shared, by_tile, strength, aspect, *, out_format):
    """x + (1 - tanh(strength)) shared + tanh(strength) by_tile[aspect].

    Args:
      x: [tiles, n, H]; shared: [n, H]; by_tile: [aspects, max_tiles, n, H]; strength: [1]; aspect: int32 scalar.
    """
    share = jnp.tanh(strength.astype(jnp.float32))
    tiles = jax.lax.dynamic_index_in_dim(by_tile, aspect, keepdims=False)[: x.shape[0]]
    return pack(x + ((1 - share)[:, None] * shared)[None] + share[:, None, None] * tiles, out_format)


@op
def pad_rows(x, *, rows, format):
    """Zero rows after x [..., n, H], up to `rows`."""
    del format
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows - x.shape[-2]), (0, 0)])


@op
def slice_rows(x, *, rows, format):
    """The first rows of x [..., n, H]: to row-major, cut, back to tiles."""
    del format
    return x[..., :rows, :]


@op
def join_columns(*parts, format):
    """Concatenates along the last axis."""
    del format
    return jnp.concatenate(parts, axis=-1)


@op
def reorder_rows(x, order, *, format):
    """Rows of x [n, H] in another order [n] (windows of a vision tower)."""
    del format
    return jnp.take(x, order, axis=0)


@op
def average_pool(x, *, side, kernel, format):
    """Means of kernel x kernel patches. [side * side, H] -> [(side / kernel)^2, H]."""
    small = side // kernel
    return pack(x.reshape(small, kernel, small, kernel, -1).mean(axis=(1, 3)).reshape(small * small, -1), format)


# The host's work on images. Bodies run wherever the program runs; the rules give the host's time.


@op
def unfold_patches(pixels, *, patch):
    """Pixels to rows of patches, on the host: [tiles, C, S, S] -> [tiles, patches, C * P * P]."""
    tiles, channels, side, _ = pixels.shape
    n = side // patch
    cut = pixels.reshape(tiles, channels, n, patch, n, patch)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(tiles, n * n, channels * patch * patch)


@op
def tower_mask(used, *, tokens, visible, padded):
    """The mask of a tower that computes all tiles at once, built on the host: [tiles * padded] squared.

    Padding (the rows after `tokens` of each tile, and unused tiles) does not see padding. Everything else sees all rows
    up to `visible`; rows from there on, which only fill the device's tiles, are seen by nobody.

    Args:
      used: [tiles], one for a used tile and zero for an unused one.
      tokens: rows of a tile that carry values. visible: rows that the reference computes. padded: the device's rows.
    """
    row = jnp.arange(padded)
    real = (used[:, None] > 0) & (row < tokens)[None]
    real, filler = real.reshape(-1), jnp.tile(row >= visible, used.shape[0])
    hidden = (~real[:, None] & ~real[None]) | filler[:, None] | filler[None]
    return jnp.where(hidden, MASKED, 0.0).astype(jnp.float32)


@op
def image_mask(visible, *, tokens, keys):
    """The mask of cross attention, built on the host: visible tiles [rows, tiles] -> [rows, keys].

    Each tile is `tokens` keys; keys after the last tile are never seen.
    """
    seen = jnp.repeat(visible > 0, tokens, axis=1)
    seen = jnp.pad(seen, ((0, 0), (0, keys - seen.shape[1])))
    return jnp.where(seen, 0.0, MASKED).astype(jnp.float32)


@op
def host_embedding(tokens, table, extra, *, out_format):
    """Row lookup on the host in a table and its extra rows: [...] int32 -> [..., H]."""
    return pack(jnp.take(jnp.concatenate([table, extra]), tokens, axis=0).astype(jnp.float32), out_format)


@op
def put_rows(x, rows, places, *, format):
    """x [T, H] with rows [n, H] at `places` [n] (int32): an image's tokens in a prompt. Places past T are dropped."""
    del format
    return x.at[places].set(rows.astype(x.dtype), mode="drop")


@op
def add_rows(x, rows, places, *, out_format):
    """x [T, H] with rows [n, H] added at `places` [n]: deepstack. Places past T are dropped."""
    return pack(x.at[places].add(rows, mode="drop"), out_format)


@op
def from_torch(x, *, format):
    """A tensor of the host in tiles on every device that shares the program."""
    return pack(x, format)


@op
def to_torch(x, *, format):
    """A replicated tensor of the devices as rows on the host."""
    del format
    return x
