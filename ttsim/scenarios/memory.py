"""The DRAM of one chip: weights, KV cache, activations, and what is left."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ttsim.hardware.chips import Chip
from ttsim.models.cache import users_partition
from ttsim.models.layout import Layout
from ttsim.models.storage import parameters
from ttsim.numerics.formats import get_format, tile_padded_bytes
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program

TRACE_REGION = 23_887_872  # trace_region_size of tt_transformers' demo (simple_text_demo.py)
CACHE_BLOCK = 32  # positions of one block of the paged KV cache


class DoesNotFitError(ValueError):
    """The model, its cache and its activations need more DRAM than a chip has."""


@dataclass(frozen=True)
class Memory:
    """Bytes of DRAM of one chip.

    Attributes:
      weights: parameters in their formats, tile and bank padding included.
      kv_cache: keys and values of all users up to the longest sequence.
      activations: the largest working set of prefill (inputs and outputs of one op, and the residual stream).
      reserved: the trace of the decode step.
      capacity: of the chip.
    """

    weights: int
    kv_cache: int
    activations: int
    reserved: int
    capacity: int

    @property
    def used(self) -> int:
        return self.weights + self.kv_cache + self.activations + self.reserved

    @property
    def free(self) -> int:
        return self.capacity - self.used


@functools.lru_cache(maxsize=512)
def weight_bytes(layout: Layout, precision: Precision) -> int:
    """Bytes of one chip's parameters."""
    return sum(info.bytes for info in parameters(layout, precision))


def kv_cache_bytes(layout: Layout, precision: Precision, batch: int, sequence: int) -> int:
    """Bytes of one chip's keys and values for `batch` users of `sequence` positions, in whole blocks."""
    users = batch
    if isinstance(users_partition(layout, batch), tuple):
        users //= layout.residual_ways
    positions = -(-sequence // CACHE_BLOCK) * CACHE_BLOCK
    kinds = Counter((kind, precision.layer(i).kv_cache) for i, kind in enumerate(layout.config.text_kinds))
    return sum(
        2 * count * tile_padded_bytes((users * layout.local_kv_heads(kind) * positions, kind.head_dim), fmt)
        for (kind, fmt), count in kinds.items()
    )


def pool_bytes(layout: Layout, precision: Precision, users: int, tokens: int) -> int:
    """Bytes of one chip's part of a server's cache: a pool of `tokens` positions that `users` share.

    Layers with a window may have groups of their own (`ModelConfig.cache_groups`): as many layers as attend in full
    share the blocks of a group, each block as large as the largest layer's, and the pool grows by eight windows a user.
    Source: tt-inference-server's cache groups of Gemma 4 (2026).
    """
    lanes = layout.residual_ways if layout.two_d else 1  # a Galaxy's columns have a pool each
    kinds = layout.config.text_kinds
    windows = [kind.window for kind in kinds if kind.window is not None]
    full = len(kinds) - len(windows)
    if not (layout.config.cache_groups and windows and full):
        return kv_cache_bytes(layout, precision, lanes, tokens)
    positions = tokens + 8 * max(windows) * users
    fmt = precision.layer(0).kv_cache
    shapes = {(layout.local_kv_heads(kind) * positions, kind.head_dim) for kind in kinds}
    return 2 * full * max(tile_padded_bytes(shape, fmt) for shape in shapes)


def activation_bytes(program: Program) -> int:
    """Bytes of the largest working set of one op: its activations in and out, and the residual stream beside it.

    An upper bound for the device, which keeps small activations in L1. Ops say which of their inputs are weights and
    caches; the result of an op that updates or reads a cache lies in the cache. The residual stream is what the first
    op on the device makes.
    """
    largest, residual = 0, None
    for call, _ in program.ops():
        if call.attributes.get("memory") == "host" or not call.outputs or call.op.on_host:
            continue
        size = get_format(call.format).bytes_per_value
        if residual is None:
            residual = int(call.outputs[0].size * size)
            continue
        results = () if call.op.caches else call.outputs
        values = sum(x.size for x in (*call.activations, *results))
        largest = max(largest, int(values * size))
    return largest + (residual or 0)


def memory_of(
    layout: Layout, precision: Precision, chip: Chip, batch: int, sequence: int, prefill: Sequence[Program]
) -> Memory:
    """The DRAM that one chip needs.

    Args:
      batch: users of one replica. sequence: longest sequence of each, in tokens.
      prefill: the programs of the prompt.
    """
    return Memory(
        weights=weight_bytes(layout, precision),
        kv_cache=kv_cache_bytes(layout, precision, batch, sequence),
        activations=max((activation_bytes(program) for program in prefill), default=0),
        reserved=TRACE_REGION,
        capacity=chip.dram_bytes,
    )


def check_fits(memory: Memory, what: str) -> None:
    """Raises DoesNotFitError, with the bytes that are missing, if a chip's DRAM is too small."""
    if memory.free < 0:
        gb = 1e9
        raise DoesNotFitError(
            f"{what} does not fit: a chip needs {memory.used / gb:.2f} GB of DRAM (weights {memory.weights / gb:.2f}, "
            f"KV cache {memory.kv_cache / gb:.2f}, activations {memory.activations / gb:.2f}, trace "
            f"{memory.reserved / gb:.2f}) and has {memory.capacity / gb:.2f}: {-memory.free / gb:.2f} GB too much"
        )
