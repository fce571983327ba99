"""The KV cache: an explicit value, in and out of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS
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
    def abstract(cls, layout: Layout, batch: int, dtype=jnp.bfloat16) -> KVCache:
        """Shapes and dtypes: `batch` users in each replica."""
        users = batch * layout.system.data_parallel

        def arrays(kind: LayerKind) -> tuple[jax.ShapeDtypeStruct, ...]:
            return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in STATES[kind.mixer](layout, kind, users))

        return cls._filled(arrays, layout, batch)

    @classmethod
    def zeros(cls, layout: Layout, batch: int, dtype=jnp.float32) -> KVCache:
        """An empty cache.

        bfloat16 holds every value of every format but fp32 in half the memory; XLA's CPU backend, though, converts
        the whole cache to update one row of it, which float32 avoids.
        """
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), cls.abstract(layout, batch, dtype))

    @classmethod
    def specs(cls, layout: Layout, batch: int) -> KVCache:
        """A PartitionSpec in place of each array."""
        spec = PartitionSpec(users_partition(layout, batch), layout.axis)
        return cls._filled(lambda kind: (spec, spec), layout, batch)

    @classmethod
    def _filled(cls, arrays: Callable[[LayerKind], tuple[Any, ...]], layout: Layout, batch: int) -> KVCache:
        keys, values = zip(*(arrays(kind) for kind in layout.config.text_kinds), strict=True)
        return cls(keys, values, COLUMN_AXIS if _spread(layout, batch) else None)


def _attention_state(layout: Layout, kind: LayerKind, users: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = (users, layout.kv_heads(kind), layout.max_seq_len, kind.head_dim)
    return shape, shape


# What a layer remembers, by `LayerKind.mixer`: (layout, kind, users of all replicas) -> global shapes of two arrays,
# whose first axes are users and what the chips share.
STATES: dict[str, Callable[[Layout, LayerKind, int], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "attention": _attention_state,
}


def _spread(layout: Layout, batch: int) -> bool:
    return layout.two_d and batch % layout.residual_ways == 0


def users_partition(layout: Layout, batch: int) -> str | tuple[str, str]:
    """How the users of the cache are spread: over replicas and, on a Galaxy, over its columns when they divide."""
    return (DATA_AXIS, COLUMN_AXIS) if _spread(layout, batch) else DATA_AXIS
