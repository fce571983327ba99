"""What the host makes of the tokens for every layer of a model, where the tables are the host's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ttsim.hardware.constants.images import HOST_CONVERT, HOST_JOIN, HOST_MULTIPLY, HOST_TILIZE, HOST_WRITE
from ttsim.kernels.kernel import Kernel, host_work
from ttsim.kernels.machine import Machine
from ttsim.numerics.packer import pack
from ttsim.ops.core import Array, OpCall, op

_SOURCE = "tt-metal models/demos/gemma4/tt/model.py, _compute_per_layer_inputs"


@op(weights=(1, 2, 3, 4), on_host=True)
def token_inputs(
    tokens: Array,
    embedding: Array,
    table: Array,
    projection: Array,
    norm: Array,
    *,
    layers: int,
    embedding_scale: float,
    eps: float,
    together: bool,
    format: str,
) -> tuple[Array, ...]:
    """Per-layer inputs: (norm(x P / sqrt(d)) + E[t] sqrt(p)) / sqrt(2) of each token t with the scaled embedding x.

    Args:
      tokens: [T] int32. embedding: [V, d]. table: [V, layers * p]. projection: [d, layers * p]. norm: [p].
      layers: how many share the columns. embedding_scale: of x. eps: of the norm.
      together: whether they go to the device as one tensor. format: on the device.

    Returns:
      (one [T, layers * p],) if together, else `layers` times [T, p].
    """
    rows, width = tokens.shape[0], projection.shape[-1] // layers
    x = jnp.take(embedding, tokens, axis=0).astype(jnp.float32) * embedding_scale
    projected = jnp.matmul(x, projection.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    projected = (projected * embedding.shape[-1] ** -0.5).reshape(rows, layers, width)
    normed = projected * jax.lax.rsqrt(jnp.mean(projected**2, axis=-1, keepdims=True) + eps) * norm[None, None]
    own = jnp.take(table, tokens, axis=0).astype(jnp.float32).reshape(rows, layers, width) * width**0.5
    given = pack((normed + own) * 2**-0.5, format)
    return (given.reshape(rows, -1),) if together else tuple(given[:, layer] for layer in range(layers))


@token_inputs.cost
def _(call: OpCall, machine: Machine) -> list[Kernel]:
    """The projection is made float32 and multiplied anew in each call; the result is converted, tilized and written."""
    rows, (hidden, columns) = call.inputs[0].shape[0], call.inputs[3].shape
    product = hidden * columns * (HOST_CONVERT + HOST_JOIN) + rows * hidden * columns * HOST_MULTIPLY
    size = rows * columns
    sent = size * (HOST_CONVERT + HOST_TILIZE) + 2 * machine.system.chips_per_replica * size / HOST_WRITE
    return [host_work("per-layer inputs", product + sent, _SOURCE)]
