"""Choosing the next token on the device: the largest logits of each chip's share, then the best of all shares.

Source: tt-metal models/common/sampling (tt_sampling.py) since #31046; times: see `topk_*` of `hardware.constants`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ttsim.hardware.constants.activations import SMALL_KERNEL_SCALE, TYPECAST_TIME
from ttsim.hardware.constants.galaxy import GALAXY_TARGETS
from ttsim.hardware.constants.sampling import (
    BLACKHOLE_TOPK_COLUMN,
    TOPK_COLUMN,
    TOPK_MANY_CORES,
    TOPK_SAMPLING,
    TOPK_USER,
)
from ttsim.hardware.quantities import seconds
from ttsim.kernels import galaxy
from ttsim.kernels.activations import stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.shapes import tensor_bytes
from ttsim.ops.core import Array, OpCall, op

TOPK = 32  # what the sampling kernel takes of each share: a row of one tile


@op
def topk(logits: Array, *, k: int, vocab_size: int, axis: str | None = None) -> tuple[Array, Array]:
    """The k largest logits of this device's columns, with their index in the whole vocabulary.

    Args:
      logits: [B, V / devices].
      k: how many. vocab_size: columns beyond it are padding and never chosen.
      axis: mesh axis that the vocabulary is cut over, None for one device.

    Returns:
      values [B, k] float32 and indices [B, k] int32; of equal values the first.
    """
    columns = logits.shape[-1]
    first = 0 if axis is None else jax.lax.axis_index(axis) * columns
    valid = first + jnp.arange(columns) < vocab_size
    values, indices = jax.lax.top_k(jnp.where(valid, logits, -jnp.inf), min(k, columns))
    return values, (first + indices).astype(jnp.int32)


@topk.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    columns = call.inputs[0].shape[-1]
    axis = call.attributes.get("axis")
    chips = 1 if axis is None else call.axis_sizes[axis]
    width, many = machine.software.topk_width(columns, chips)
    one_core = TOPK_COLUMN if machine.chip.family == "wormhole" else BLACKHOLE_TOPK_COLUMN
    each = max(1.0, width / 16_384) * TOPK_MANY_CORES if many else width * one_core
    source = "tt-metal #38487, #40397: one core a column, or many cores at powers of two"
    kernel = Kernel("topk", start=each, cores=machine.chip.cores if many else 1, source=source)
    cast = stream("typecast", tensor_bytes(32, width, "bf16"), machine.chip)
    return [cast, *[kernel] * (2 if chips == 1 else 1)]  # one chip sorts two halves


@topk.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    share = call.inputs[0].shape[-1] / 16_384
    return [
        galaxy.target("sharded_to_interleaved", "to_interleaved"),
        Kernel("typecast", start=share * GALAXY_TARGETS["typecast"], source=galaxy.SOURCE),
        Kernel("topk", start=seconds(machine.software.fact("topk_time") * share), source=galaxy.SOURCE),
    ]


@op
def choose(values: Array, indices: Array, *, ties: str = "first") -> Array:
    """The index of the largest value of each row, the lowest or the highest index on a tie. [B, n] -> [B] int32."""
    best = values == jnp.max(values, axis=-1, keepdims=True)
    if ties == "first":
        return jnp.min(jnp.where(best, indices, np.iinfo(np.int32).max), axis=-1)
    return jnp.max(jnp.where(best, indices, -1), axis=-1)


@choose.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    users = call.inputs[0].shape[0]
    names = (
        "typecast",
        "add",
        "untilize",
        "untilize",
        "reshape",
        "manual_seed",
        "to_memory_config",
        "to_memory_config",
    )
    small = TYPECAST_TIME * SMALL_KERNEL_SCALE
    sample = Kernel("sampling", start=TOPK_SAMPLING + users * TOPK_USER, cores=32, source=_SOURCE)
    return [*(Kernel(name, start=small, cores=1, source=_SOURCE) for name in names), sample]


@choose.cost_on("galaxy")
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    return [galaxy.target("sampling", "sampling"), galaxy.target("plus_one and small ops", "tail")]


_SOURCE = "llama3_70b_galaxy decoder_perf_targets_6u.json: sampling 68 us and its gap"
