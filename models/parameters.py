"""Parameters that know their logical axes: abstract for tracing, random for tests, filled by the checkpoint loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ttsim.meshes.sharding import ShardingRules

Parameter = nnx.Param[jax.Array]
M = TypeVar("M", bound=nnx.Module)


def parameter(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    rngs: nnx.Rngs | None,
    *,
    scale: float | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Parameter:
    """A parameter with one logical axis name (or None) a dimension.

    Args:
      shape: global shape.
      axes: logical axes (`ttsim.meshes.sharding.LOGICAL_AXES`).
      rngs: source of random values; None makes the parameter abstract (a `jax.ShapeDtypeStruct`).
      scale: standard deviation of the values, 1 / sqrt(fan-in) by default; 0 means ones (norm weights).
      dtype: of the values.
    """
    if len(shape) != len(axes):
        raise ValueError(f"a parameter of shape {shape} needs {len(shape)} axes, not {axes}")
    if rngs is None:
        abstract: nnx.Param[Any] = nnx.Param(jax.ShapeDtypeStruct(shape, dtype), axes=axes)
        return abstract
    if scale == 0:
        return nnx.Param(jnp.ones(shape, dtype), axes=axes)
    values = jax.random.normal(rngs.params(), shape, dtype) * (shape[0] ** -0.5 if scale is None else scale)
    return nnx.Param(values, axes=axes)


def is_variable(node: object) -> bool:
    """Whether a node of a module's tree is a parameter: `is_leaf` of the tree functions."""
    return isinstance(node, nnx.Variable)


def key_names(keys: Iterable[object]) -> list[str]:
    """A parameter's key path as names: ["layers", "0", "mlp", "w1_df"] (and "value" where its leaf was reached)."""
    return [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys]


def map_parameters(function: Callable[[Parameter], object], module: M) -> M:
    """The module with `function(param)` in place of each parameter's value."""
    mapped: M = jax.tree.map(lambda p: p.replace(function(p)), module, is_leaf=is_variable)
    return mapped


def partition_specs(module: M, rules: ShardingRules) -> M:
    """The module with a PartitionSpec in place of each value: `in_specs` of `jax.shard_map`."""
    return map_parameters(lambda param: rules.spec(*param.get_metadata()["axes"]), module)


def shardings(module: M, rules: ShardingRules, mesh: Mesh) -> M:
    """The module with a NamedSharding in place of each value."""
    return map_parameters(lambda param: NamedSharding(mesh, rules.spec(*param.get_metadata()["axes"])), module)


def is_replicated(spec: PartitionSpec) -> bool:
    """Whether a partition cuts nothing."""
    return all(axis is None for axis in spec)
