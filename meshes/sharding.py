"""Sharding rules: one declaration per scheme that maps logical axes onto mesh axes.

    ONE_D    tensor parallel over `tp`: column-parallel wqkv, w1, w3, LM head; row-parallel wo, w2 (partial sums).
    RING     ONE_D, but wo is column-parallel: its input is gathered by the fused all-gather-matmul.
    TWO_D    a Galaxy: every weight is cut along both `row` and `col`.

Source: tt-metal models/tt_transformers tt/attention.py, mlp.py, lm_head.py (ShardTensorToMesh, ShardTensor2dMesh).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jax.sharding import PartitionSpec

from ttsim.errors import ShardingError as ShardingError
from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS, ROW_AXIS, TENSOR_AXIS

# Logical axes, by what they are cut for.
LOGICAL_AXES = {
    "batch": "users of all replicas",
    "users": "rows of the KV cache: users of one replica",
    "residual": "hidden size of the residual stream, of the embedding table and of whatever is added to it",
    "embed": "hidden size where a column-parallel weight contracts it",
    "norm": "hidden size of a norm's weight",
    "kv_heads": "KV heads, each with its group of query heads",
    "wo_in": "attention output where wo contracts it",
    "heads": "attention output where wo contracts it and leaves partial sums, whatever the system's wo does",
    "wo_out": "hidden size where wo produces it",
    "mlp": "intermediate size",
    "experts": "routed experts of a layer, where chips hold whole ones",
    "expert_mlp": "width of every routed expert, where chips share each",
    "latent_out": "hidden size where latent attention's wo produces it from all heads",
    "w2_out": "hidden size where w2 produces it",
    "vocab": "vocabulary where the LM head produces it",
}


# What a logical axis is cut along.
MeshAxis = str | tuple[str, ...] | None


@dataclass(frozen=True)
class ShardingRules:
    """Logical axis -> mesh axis, or several, the first the major one (None: every device has all of it)."""

    name: str
    mesh_axes: Mapping[str, MeshAxis]

    def __post_init__(self) -> None:
        unknown = [axis for axis in self.mesh_axes if axis not in LOGICAL_AXES]
        if unknown:
            raise ShardingError(f"{self.name}: unknown logical axes {unknown}; known: {', '.join(LOGICAL_AXES)}")

    def mesh_axis(self, logical_axis: str | None) -> MeshAxis:
        if logical_axis is None:
            return None
        if logical_axis not in LOGICAL_AXES:
            raise ShardingError(f"unknown logical axis {logical_axis!r}; known: {', '.join(LOGICAL_AXES)}")
        return self.mesh_axes.get(logical_axis)

    def spec(self, *logical_axes: str | None) -> PartitionSpec:
        """The partition of an array with these logical axes.

        Raises:
          ShardingError: an axis is unknown, or two of them are cut along the same mesh axis.
        """
        mesh_axes = [self.mesh_axis(axis) for axis in logical_axes]
        used = [axis for axes in mesh_axes if axes is not None for axis in axis_names(axes)]
        if len(set(used)) != len(used):
            raise ShardingError(f"{self.name}: logical axes {logical_axes} collide on mesh axes {mesh_axes}")
        return PartitionSpec(*mesh_axes)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted((k, axis_names(v)) for k, v in self.mesh_axes.items()))))


def axis_names(axes: MeshAxis) -> tuple[str, ...]:
    """The mesh axes that a logical axis is cut along, the major one first."""
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else axes


def _rules(name: str, **mesh_axes: MeshAxis) -> ShardingRules:
    return ShardingRules(name, MappingProxyType(mesh_axes))


_ONE_D: dict[str, MeshAxis] = {
    "batch": DATA_AXIS,
    "residual": TENSOR_AXIS,
    "kv_heads": TENSOR_AXIS,
    "wo_in": TENSOR_AXIS,
    "heads": TENSOR_AXIS,
    "mlp": TENSOR_AXIS,
    "vocab": TENSOR_AXIS,
}

ONE_D = _rules("1-D tensor parallel", **_ONE_D)
RING = _rules("1-D tensor parallel with gathered wo", **{**_ONE_D, "wo_in": None, "wo_out": TENSOR_AXIS})
TWO_D = _rules(
    "2-D tensor parallel",
    batch=DATA_AXIS,
    users=COLUMN_AXIS,
    residual=COLUMN_AXIS,
    embed=COLUMN_AXIS,
    norm=COLUMN_AXIS,
    kv_heads=ROW_AXIS,
    wo_in=ROW_AXIS,
    heads=ROW_AXIS,
    wo_out=COLUMN_AXIS,
    mlp=ROW_AXIS,
    w2_out=COLUMN_AXIS,
    vocab=ROW_AXIS,
)


@functools.cache
def replicated_residual(tensor_axis: str) -> ShardingRules:
    """Tensor parallel along one mesh axis with the residual stream whole on every chip: all-reduces end each branch.

    Source: tt-metal models/demos/{gpt_oss,gemma4}/tt.
    """
    axes = dict.fromkeys(("kv_heads", "wo_in", "mlp", "vocab"), tensor_axis)
    return _rules(f"replicated residual over {tensor_axis}", batch=DATA_AXIS, **axes)


@functools.cache
def with_experts(
    rules: ShardingRules, experts: tuple[str, ...], width: str | None, latent_out: str | None
) -> ShardingRules:
    """The rules, and how routed experts and latent attention are cut."""
    added = {"experts": experts or None, "expert_mlp": width, "latent_out": latent_out}
    return _rules(rules.name, **{**rules.mesh_axes, **added})
