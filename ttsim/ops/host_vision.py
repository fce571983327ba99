"""The host's work on images and masks, and the copies between it and the devices.

Bodies run wherever the program runs; the rules give the host's time. The device waits meanwhile.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from ttsim.kernels.kernel import Kernel, over, times
from ttsim.kernels.shapes import tiles
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import op
from ttsim.ops.vision import MASKED


@op
def host_image(pixels, *, patch):
    """One image on the host: resized and cut, unfolded to rows of patches, and copied to the devices.

    Args:
      pixels: [tiles, C, S, S]. patch: side of a patch.

    Returns:
      [tiles, patches, C * P * P].
    """
    tiles, channels, side, _ = pixels.shape
    n = side // patch
    cut = pixels.reshape(tiles, channels, n, patch, n, patch)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(tiles, n * n, channels * patch * patch)


@host_image.cost
def _(call, machine):
    return [host("transform and unfold", times(1, "host_image"))]


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


@tower_mask.cost
def _(call, machine):
    size = call.outputs[0].size
    return [host("tower mask", times(size, "host_mask"))]


@op
def host_inputs(tokens, table, extra, seen, *, tile_tokens, keys, step, heads, conversions=1, out_format):
    """What the host prepares for the text model, small as it is: embeddings, and the mask of cross attention.

    Args:
      tokens: [T] int32; table: [vocabulary, H] and extra: [n, H], the rows after it.
      seen: [T, tiles], one where a row sees a tile. tile_tokens: keys of a tile. keys: of all tiles; those after the
        last tile are never seen.
      step: whether this is a step of decode; a prompt's inputs are a part of `host_image`'s time.
      heads: query heads of a device, for each of which a step sends the mask. conversions: see `from_torch`.

    Returns:
      (x [T, H], mask [T, keys], keep [T]: zero for rows that see nothing).
    """
    del step, heads, conversions
    x = jnp.take(jnp.concatenate([table, extra]), tokens, axis=0).astype(jnp.float32)
    visible = jnp.repeat(seen > 0, tile_tokens, axis=1)
    visible = jnp.pad(visible, ((0, 0), (0, keys - visible.shape[1])))
    mask = jnp.where(visible, 0.0, MASKED).astype(jnp.float32)
    return pack(x, out_format), mask, (seen.sum(axis=1) > 0).astype(jnp.float32)


@host_inputs.cost
def _(call, machine):
    if not call["step"]:
        return []
    # The mask is sent for every query head of a device: heads x keys for each user.
    users, keys, heads = call.inputs[0].shape[0], call["keys"], call["heads"]
    conversions = call.attributes.get("conversions", 1)
    masks = times(conversions * users * heads * keys, "host_convert") + times(users * heads * keys, "host_tilize")
    return [host("embeddings and masks", times(1, "host_step_inputs") + masks)]


@op
def host_logits(logits):
    """The logits of one device, read and converted on the host, where the argmax is taken."""
    return logits


@host_logits.cost
def _(call, machine):
    return [host("logits and argmax", times(call.inputs[0].shape[-1], "host_logits"))]


@op
def from_torch(x, *, format, conversions=1, tilings=1, fast_tilize=True):
    """A tensor of the host, converted and tilized there, on every device of a replica.

    Args:
      x: the same on all devices. format: on the device.
      conversions: how often it is converted, once or for each device.
      tilings: how often it is tilized, side by side on as many threads.
      fast_tilize: whether the host tilizes with the loops of 2025-04-18.
    """
    del conversions, tilings, fast_tilize
    return pack(x, format)


@from_torch.cost
def _(call, machine):
    size, devices = call.inputs[0].size, machine.system.chips_per_replica
    tilings = call.attributes.get("tilings", 1)
    slow = 1 if call.attributes.get("fast_tilize", True) else _SLOW_TILIZE
    total = times(call.attributes.get("conversions", 1) * size, "host_convert")
    total = total + times(size * slow, tilize_constant(tilings))
    written = over(2 * devices * size, "host_write_8" if devices > 2 else "host_write")
    return [host("from_torch", total + written)]


@op
def to_torch(x, *, rows, format, copies=1, fast_tilize=True):
    """A replicated tensor of the devices on the host: [..., n, H] -> [rows, H], joined and padded with zeros.

    Args:
      rows: of the result. copies: devices that are read, though one would do. format, fast_tilize: see `from_torch`.
    """
    del format, copies, fast_tilize
    flat = x.reshape(-1, x.shape[-1])
    return jnp.pad(flat, ((0, rows - flat.shape[0]), (0, 0)))


@to_torch.cost
def _(call, machine):
    *leading, rows, columns = call.inputs[0].shape
    size, copies = math.prod(leading) * tiles(rows) * TILE * columns, call.attributes.get("copies", 1)
    slow = 1 if call.attributes.get("fast_tilize", True) else _SLOW_UNTILIZE
    total = over(2 * copies * size, "host_read") + times(copies * size * slow, "host_untilize")
    total = total + times(copies * size, "host_unpad") + times(size, "host_post")
    if copies > 1:
        total = total + times(copies * size, "host_join")
    return [host("to_torch", total)]


# How much slower the host's loops were before 2025-04-18. Source: tt-metal #20335, 10.5 M float32: tilize 78.7 -> 26.2
# ms, untilize 65.7 -> 25.3 ms.
_SLOW_TILIZE, _SLOW_UNTILIZE = 3.0, 2.6


def tilize_constant(threads):
    """The constant of n threads that tilize side by side, each a tensor of its own: seconds per element of one."""
    return "host_tilize_8" if threads > 4 else "host_tilize_2" if threads > 1 else "host_tilize"


def host(name, time):
    """A kernel of the host: the devices wait for it."""
    return Kernel(name, start=time, source="tt-metal models/tt_transformers tt/multimodal, 2025-04", host=True)
