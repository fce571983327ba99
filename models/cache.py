"""The KV cache: an explicit value, in and out of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS, TENSOR_AXIS
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """What every self-attention layer remembers: keys and values, each [users, kv_heads, max_seq_len, head_dim].

    `users_axis` is the mesh axis over which the users of one replica are spread (a Galaxy's columns), or None.
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    users_axis: str | None = field(default=None, metadata={"static": True})

    @classmethod
    def abstract(cls, layout: Layout, batch: int, dtype: DTypeLike = jnp.bfloat16) -> KVCache:
        """Shapes and dtypes: `batch` users in each replica."""
        users = batch * layout.system.data_parallel

        def arrays(kind: LayerKind) -> tuple[jax.ShapeDtypeStruct, ...]:
            states = STATES[kind.mixer](layout, kind)
            return tuple(
                jax.ShapeDtypeStruct((users, *state.shape), jnp.float32 if state.format == "fp32" else dtype)
                for state in states
            )

        return cls._filled(arrays, layout, batch)

    @classmethod
    def zeros(cls, layout: Layout, batch: int, dtype: DTypeLike = jnp.float32) -> KVCache:
        """An empty cache.

        bfloat16 holds every value of every format but fp32 in half the memory; XLA's CPU backend, though, converts
        the whole cache to update one row of it, which float32 avoids.
        """
        empty: KVCache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), cls.abstract(layout, batch, dtype))
        return empty

    @classmethod
    def specs(cls, layout: Layout, batch: int) -> KVCache:
        """A PartitionSpec in place of each array."""
        spread = users_axis(layout, batch)
        users = DATA_AXIS if spread is None else (DATA_AXIS, spread)

        def partitions(kind: LayerKind) -> tuple[PartitionSpec, ...]:
            return tuple(PartitionSpec(users, *state.cut) for state in STATES[kind.mixer](layout, kind))

        return cls._filled(partitions, layout, batch)

    @classmethod
    def _filled(cls, arrays: Callable[[LayerKind], tuple[Any, ...]], layout: Layout, batch: int) -> KVCache:
        keys, values = zip(*(arrays(kind) for kind in layout.config.text_kinds), strict=True)
        return cls(keys, values, users_axis(layout, batch))


class State(NamedTuple):
    """One array that a layer remembers of each user.

    Attributes:
      shape: of one user, global. cut: mesh axis of each of its first axes.
      format: number format, or "kv_cache" for the one of that tensor group.
    """

    shape: tuple[int, ...]
    cut: tuple[str | None, ...] = ()
    format: str = "kv_cache"


def _attention_states(layout: Layout, kind: LayerKind) -> tuple[State, State]:
    """Keys and values."""
    state = State((layout.kv_heads(kind), layout.max_seq_len, kind.head_dim), (layout.axis,))
    return state, state


def _no_states(layout: Layout, kind: LayerKind) -> tuple[State, State]:
    """Nothing: another layer's keys and values are read."""
    del layout, kind
    return State((0,)), State((0,))


def _latent_states(layout: Layout, kind: LayerKind) -> tuple[State, State]:
    """The latents, with the rotated part of the keys, and nothing."""
    del kind
    m = layout.latent
    return State((layout.max_seq_len, m.kv_rank + m.rope_dim)), State((0,))


def _delta_states(layout: Layout, kind: LayerKind) -> tuple[State, State]:
    """The recurrent state, and the last inputs of the convolution."""
    del kind
    g = layout.delta
    channels = 2 * g.key_heads * g.key_dim + g.value_heads * g.value_dim
    return (
        State((g.value_heads, g.key_dim, g.value_dim), (layout.axis,), format="fp32"),
        State((channels, g.conv_width - 1), (layout.axis,), format="bf16"),
    )


def local_states(layout: Layout, kind: LayerKind) -> list[tuple[tuple[int, ...], str]]:
    """Shape on one chip, and format, of what a layer of this kind remembers of one user."""
    sizes = dict(zip(layout.system.axis_names, layout.system.mesh_shape, strict=True))
    states = []
    for state in STATES[kind.mixer](layout, kind):
        cut = [1 if axis is None else sizes[axis] for axis in state.cut]
        cut += [1] * (len(state.shape) - len(cut))
        shape = tuple(size // ways for size, ways in zip(state.shape, cut, strict=True))
        states.append((shape, state.format))
    return states


# What a layer remembers of each user, by `LayerKind.mixer`.
STATES: dict[str, Callable[[Layout, LayerKind], tuple[State, State]]] = {
    "attention": _attention_states,
    "reused": _no_states,
    "latent": _latent_states,
    "delta": _delta_states,
}


def users_axis(layout: Layout, batch: int) -> str | None:
    """The mesh axis over which a replica's users are spread: a Galaxy's columns; latent attention's chips of a row."""
    if layout.config.latent is not None:
        return TENSOR_AXIS if layout.ways > 1 and batch % layout.ways == 0 else None
    return COLUMN_AXIS if layout.two_d and batch % layout.residual_ways == 0 else None


def users_partition(layout: Layout, batch: int) -> str | tuple[str, str]:
    """How a decode step's positions are spread: over replicas and, on a Galaxy, over its columns when they divide."""
    return (DATA_AXIS, COLUMN_AXIS) if users_axis(layout, batch) == COLUMN_AXIS else DATA_AXIS
