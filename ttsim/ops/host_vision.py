"""The host's work on images and masks, and the copies between it and the devices.

Bodies run wherever the program runs; the rules give the host's time. The device waits meanwhile.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from ttsim.hardware.constants.images import (
    HOST_CONVERT,
    HOST_IMAGE,
    HOST_JOIN,
    HOST_LOGITS,
    HOST_MASK,
    HOST_POST,
    HOST_READ,
    HOST_STEP_INPUTS,
    HOST_TILIZE,
    HOST_TILIZE_SLOW,
    HOST_TILIZE_THREADS,
    HOST_UNPAD,
    HOST_UNTILIZE_ELEMENT,
    HOST_UNTILIZE_SLOW,
    HOST_WRITE,
    HOST_WRITE_ALL,
)
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tiles
from ttsim.numerics.formats import TILE
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, OpCall, op
from ttsim.ops.vision import MASKED

_SOURCE = "tt-metal models/tt_transformers tt/multimodal and tt/generator.py, 2025-04"


@op(on_host=True)
def host_image(pixels: Array, *, patch: int) -> Array:
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
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [host_work("transform and unfold", 1 * HOST_IMAGE, _SOURCE)]


@op(on_host=True)
def tower_mask(used: Array, *, tokens: int, visible: int, padded: int) -> Array:
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
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    size = call.outputs[0].size
    return [host_work("mask of the tower", size * HOST_MASK, _SOURCE)]


@op(on_host=True)
def image_mask(blocks_t: Array, *, window: int | None) -> Array:
    """The mask of a prompt whose images' rows see each other, built on the host: [T, T].

    Args:
      blocks_t: the number of the image that each row belongs to, 0 for text.
      window: newest rows that a row sees beside its image, itself included; None for all.
    """
    row = jnp.arange(blocks_t.shape[0])
    back = row[:, None] - row[None]
    seen = (back >= 0) & (back < (window or blocks_t.shape[0]))
    same = (blocks_t[:, None] == blocks_t[None]) & (blocks_t > 0)[:, None]
    return jnp.where(seen | same, 0.0, MASKED).astype(jnp.float32)


@image_mask.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [host_work("mask of the prompt", call.outputs[0].size * HOST_MASK, _SOURCE)]


@op(weights=(1, 2), on_host=True)
def host_inputs(
    tokens: Array,
    table: Array,
    extra: Array,
    seen: Array,
    *,
    tile_tokens: int,
    keys: int,
    step: int,
    heads: int,
    conversions: int = 1,
    out_format: str,
) -> tuple[Array, Array, Array]:
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
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    if not call["step"]:
        return []
    # The mask is sent for every query head of a device: heads x keys for each user.
    users, keys, heads = call.inputs[0].shape[0], call["keys"], call["heads"]
    size = users * heads * keys
    masks = call["conversions"] * size * HOST_CONVERT + size * HOST_TILIZE
    return [host_work("embeddings and masks", masks + HOST_STEP_INPUTS, _SOURCE)]


@op(on_host=True)
def host_logits(logits: Array) -> Array:
    """The logits of one device, read and converted on the host, where the argmax is taken."""
    return logits


@host_logits.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    time = call.inputs[0].shape[-1] * HOST_LOGITS
    return [host_work("logits and argmax", time, _SOURCE, waits=True)]


@op(on_host=True, like=0)
def from_torch(x: Array, *, format: str, conversions: int = 1, tilings: int = 1, fast_tilize: bool = True) -> Array:
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
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    size, devices = call.inputs[0].size, machine.system.chips_per_replica
    tilize = size * HOST_TILIZE
    if call["tilings"] > 1:
        threads = min(HOST_TILIZE_THREADS, key=lambda known: abs(known - call["tilings"]))
        tilize = tilize * HOST_TILIZE_THREADS[threads]
    if not call["fast_tilize"]:
        tilize = tilize * HOST_TILIZE_SLOW
    written = 2 * devices * size / (HOST_WRITE_ALL if devices > 2 else HOST_WRITE)
    return [host_work("from_torch", call["conversions"] * size * HOST_CONVERT + tilize + written, _SOURCE)]


@op(on_host=True)
def to_torch(x: Array, *, rows: int, format: str, copies: int = 1, fast_tilize: bool = True) -> Array:
    """A replicated tensor of the devices on the host: [..., n, H] -> [rows, H], joined and padded with zeros.

    Args:
      rows: of the result. copies: devices that are read, though one would do. format, fast_tilize: see `from_torch`.
    """
    del format, copies, fast_tilize
    flat = x.reshape(-1, x.shape[-1])
    return jnp.pad(flat, ((0, rows - flat.shape[0]), (0, 0)))


@to_torch.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    *leading, rows, columns = call.inputs[0].shape
    size, copies = math.prod(leading) * tiles(rows) * TILE * columns, call["copies"]
    untilize = copies * size * HOST_UNTILIZE_ELEMENT
    if not call["fast_tilize"]:
        untilize = untilize * HOST_UNTILIZE_SLOW
    time = 2 * copies * size / HOST_READ + untilize + copies * size * HOST_UNPAD + size * HOST_POST
    if copies > 1:
        time = time + copies * size * HOST_JOIN
    return [host_work("to_torch", time, _SOURCE, waits=True)]
