"""The KV cache: an explicit value, in and out of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS
from ttsim.models.layout import Layout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every self-attention layer, each [users, kv_heads, max_seq_len, head_dim].

    `users_axis` is the mesh axis over which the users of one replica are spread (a Galaxy's columns), or None.
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    users_axis: str | None = field(default=None, metadata={"static": True})

    @staticmethod
    def shape(layout: Layout, batch: int) -> tuple[int, ...]:
        """Global shape of one layer's keys: `batch` users in each replica."""
        config = layout.config
        return (batch * layout.system.data_parallel, config.num_kv_heads, layout.max_seq_len, config.head_dim)

    @classmethod
    def abstract(cls, layout: Layout, batch: int, dtype=jnp.bfloat16) -> KVCache:
        layer = jax.ShapeDtypeStruct(cls.shape(layout, batch), dtype)
        return cls._filled(layer, layout, batch)

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
        return cls._filled(PartitionSpec(users_partition(layout, batch), layout.axis), layout, batch)

    @classmethod
    def _filled(cls, layer: Any, layout: Layout, batch: int) -> KVCache:
        layers = (layer,) * len(layout.config.self_attention_layers)
        return cls(layers, layers, COLUMN_AXIS if _spread(layout, batch) else None)


def _spread(layout: Layout, batch: int) -> bool:
    return layout.two_d and batch % layout.residual_ways == 0


def users_partition(layout: Layout, batch: int) -> str | tuple[str, str]:
    """How the users of the cache are spread: over replicas and, on a Galaxy, over its columns when they divide."""
    return (DATA_AXIS, COLUMN_AXIS) if _spread(layout, batch) else DATA_AXIS
