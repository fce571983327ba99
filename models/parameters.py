"""Parameters that carry what is known about them: abstract for tracing, random for tests, filled by a checkpoint.

Axes, the group that decides the format, and how the values lie in DRAM are declared where a module makes a parameter,
and read from there by everything else: sharding, memory, loading, packing, the search for precisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ttsim.meshes.sharding import ShardingRules

Group = Literal["wqkv", "wo", "ff1_3", "ff2", "router", "shared", "lm_head", "embedding", "norm", "bias", "float32"]
Storage = Literal["tiles", "banks", "rows", "host"]
Tree = TypeVar("Tree")
Parameter = nnx.Param[Any]


class Traits(NamedTuple):
    """What is known about a parameter beside its shape.

    Attributes:
      axes: a logical axis (`ttsim.meshes.sharding.LOGICAL_AXES`) or None for each dimension.
      group: the group of a precision that decides its format; "float32" has one format always.
      storage: "tiles": interleaved over the DRAM banks tile by tile; "banks": columns cut over the banks, for kernels
        that read each bank from beside it; "rows": row-major, without tiles; "host": in the host's memory.
    """

    axes: tuple[str | None, ...]
    group: Group
    storage: Storage

    @property
    def is_weight(self) -> bool:
        """Whether it is the second operand of a matrix product, which ops take packed in blocks."""
        return self.group not in ("embedding", "norm", "bias", "float32")


def parameter(
    shape: Sequence[int],
    axes: Sequence[str | None],
    rngs: nnx.Rngs | None,
    *,
    group: Group = "norm",
    storage: Storage = "tiles",
    scale: float | None = None,
) -> nnx.Param[Any]:
    """A float32 parameter that carries its traits.

    Args:
      shape: global shape.
      axes, group, storage: see `Traits`.
      rngs: source of random values; None makes the parameter abstract (a `jax.ShapeDtypeStruct`).
      scale: standard deviation of the values, 1 / sqrt(fan-in) by default; 0 means ones (norm weights).
    """
    shape = tuple(shape)
    known: dict[str, Any] = {"axes": tuple(axes), "group": group, "storage": storage}
    if len(shape) != len(axes):
        raise ValueError(f"a parameter of shape {shape} needs {len(shape)} axes, not {axes}")
    if rngs is None:
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), **known)
    if scale == 0:
        return nnx.Param(jnp.ones(shape, jnp.float32), **known)
    values = jax.random.normal(rngs.params(), shape) * (shape[0] ** -0.5 if scale is None else scale)
    return nnx.Param(values, **known)


def traits(param: nnx.Variable[Any]) -> Traits:
    """What a parameter was declared with."""
    known = param.get_metadata()
    return Traits(known["axes"], known["group"], known["storage"])


def is_variable(node: Any) -> bool:
    """Whether a node of a module's tree is a parameter: `is_leaf` of the tree functions."""
    return isinstance(node, nnx.Variable)


def key_names(keys: Sequence[Any]) -> list[str]:
    """A parameter's key path as names: ["layers", "0", "mlp", "w1_df"] (and "value" where its leaf was reached)."""
    return [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys]


def map_parameters(function: Callable[[nnx.Variable[Any]], Any], module: Tree) -> Tree:
    """The module with `function(param)` in place of each parameter's value."""
    mapped: Tree = jax.tree.map(lambda p: p.replace(function(p)), module, is_leaf=is_variable)
    return mapped


def partition_specs(module: Tree, rules: ShardingRules) -> Tree:
    """The module with a PartitionSpec in place of each value: `in_specs` of `jax.shard_map`."""
    return map_parameters(lambda param: rules.spec(*traits(param).axes), module)


def shardings(module: Tree, rules: ShardingRules, mesh: Mesh) -> Tree:
    """The module with a NamedSharding in place of each value."""
    return map_parameters(lambda param: NamedSharding(mesh, rules.spec(*traits(param).axes)), module)


def is_replicated(spec: PartitionSpec) -> bool:
    """Whether a partition cuts nothing."""
    return all(axis is None for axis in spec)
