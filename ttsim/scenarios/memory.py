"""The DRAM of one chip: weights, KV cache, activations, and what is left."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ttsim.errors import DoesNotFitError as DoesNotFitError
from ttsim.hardware.chips import Chip
from ttsim.models.cache import local_states, users_axis
from ttsim.models.layout import Layout
from ttsim.models.storage import parameters
from ttsim.numerics.formats import get_format, tile_padded_bytes
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program

TRACE_REGION = 23_887_872  # of each DRAM bank: trace_region_size of tt_transformers' demo (simple_text_demo.py)
# Of each DRAM bank, what firmware keeps at its end and the runtime at its start: an N150 of ttnn 0.81.1 offers
# 1,073,124,512 of 2^30 bytes from byte 1,048,640 on.
KEPT_OF_BANK = 2**30 - (1_073_124_512 - 1_048_640)
CACHE_BLOCK = 32  # positions of one block of the paged KV cache


@dataclass(frozen=True)
class Memory:
    """Bytes of DRAM of one chip.

    Attributes:
      weights: parameters in their formats, tile and bank padding included.
      kv_cache: keys and values of all users up to the longest sequence.
      activations: the largest working set of prefill (inputs and outputs of one op, and the residual stream).
      reserved: the trace region of all banks.
      capacity: of the chip.
      system: what firmware and runtime keep of it.
    """

    weights: int
    kv_cache: int
    activations: int
    reserved: int
    capacity: int
    system: int = 0

    @property
    def allocatable(self) -> int:
        """What buffers may take beside the trace region, firmware and runtime aside."""
        return self.capacity - self.reserved

    @property
    def used(self) -> int:
        return self.weights + self.kv_cache + self.activations + self.reserved + self.system

    @property
    def free(self) -> int:
        return self.capacity - self.used


def trace_bytes(chip: Chip, region: int = TRACE_REGION) -> int:
    """Bytes of DRAM that a trace region of so many bytes takes: it is set aside in every bank.

    Source: tt-metal `DeviceImpl::initialize_allocator`; on an N150 `trace_region_size` comes off each of 12 banks.
    """
    return chip.dram_banks * region


def kept_bytes(chip: Chip) -> int:
    """Bytes of DRAM that no buffer can have: the trace region, and what firmware and runtime keep."""
    return trace_bytes(chip) + chip.dram_banks * KEPT_OF_BANK


@functools.lru_cache(maxsize=512)
def weight_bytes(layout: Layout, precision: Precision) -> int:
    """Bytes of one chip's parameters."""
    return sum(info.bytes for info in parameters(layout, precision))


def kv_cache_bytes(layout: Layout, precision: Precision, batch: int, sequence: int) -> int:
    """Bytes that one chip remembers of `batch` users of `sequence` positions: keys and values, latents, states."""
    axis = users_axis(layout, batch)
    users = (
        batch
        if axis is None
        else batch // dict(zip(layout.system.axis_names, layout.system.mesh_shape, strict=True))[axis]
    )
    layout = dataclasses.replace(layout, max_seq_len=-(-sequence // CACHE_BLOCK) * CACHE_BLOCK)
    kinds = Counter((kind, precision.layer(i).kv_cache) for i, kind in enumerate(layout.config.text_kinds))
    total = 0
    for (kind, kv_format), count in kinds.items():
        for shape, own in local_states(layout, kind):
            rows, width = users * math.prod(shape[:-1]), shape[-1]
            total += count * tile_padded_bytes((rows, width), kv_format if own == "kv_cache" else own)
    return total


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
    caches. The residual stream is what the first op on the device makes.
    """
    largest, residual = 0, None
    for call, _ in program.ops():
        if call.attributes.get("memory") == "host" or not call.outputs or call.op.on_host:
            continue
        size = get_format(call.format).bytes_per_value
        if residual is None:
            residual = int(call.outputs[0].size * size)
            continue
        largest = max(largest, int(call.working_set * size))
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
        reserved=trace_bytes(chip),
        capacity=chip.dram_bytes,
        system=chip.dram_banks * KEPT_OF_BANK,
    )


def check_fits(memory: Memory, what: str) -> None:
    """Raises DoesNotFitError, with the bytes that are missing, if a chip's DRAM is too small."""
    if memory.free < 0:
        gb = 1e9
        raise DoesNotFitError(
            f"{what} does not fit: a chip needs {memory.used / gb:.2f} GB of DRAM (weights {memory.weights / gb:.2f}, "
            f"KV cache {memory.kv_cache / gb:.2f}, activations {memory.activations / gb:.2f}, trace "
            f"{memory.reserved / gb:.2f}, system {memory.system / gb:.2f}) and has {memory.capacity / gb:.2f}: "
            f"{-memory.free / gb:.2f} GB too much"
        )
