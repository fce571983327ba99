"""Sharding rules: one declaration per scheme that maps logical axes onto mesh axes.

    ONE_D    tensor parallel over `tp`: column-parallel wqkv, w1, w3, LM head; row-parallel wo, w2 (partial sums).
    RING     ONE_D, but wo is column-parallel: its input is gathered by the fused all-gather-matmul.
    TWO_D    a Galaxy: every weight is cut along both `row` and `col`.

Source: tt-metal models/tt_transformers tt/attention.py, mlp.py, lm_head.py (ShardTensorToMesh, ShardTensor2dMesh).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jax.sharding import PartitionSpec

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
    "w2_out": "hidden size where w2 produces it",
    "vocab": "vocabulary where the LM head produces it",
}


class ShardingError(ValueError):
    """An axis is unknown, used twice, or can't be cut that way."""


@dataclass(frozen=True)
class ShardingRules:
    """Logical axis -> mesh axis (None: every device has all of it)."""

    name: str
    mesh_axes: Mapping[str, str | None]

    def __post_init__(self) -> None:
        unknown = [axis for axis in self.mesh_axes if axis not in LOGICAL_AXES]
        if unknown:
            raise ShardingError(f"{self.name}: unknown logical axes {unknown}; known: {', '.join(LOGICAL_AXES)}")

    def mesh_axis(self, logical_axis: str | None) -> str | None:
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
        used = [axis for axis in mesh_axes if axis is not None]
        if len(set(used)) != len(used):
            raise ShardingError(f"{self.name}: logical axes {logical_axes} collide on mesh axes {mesh_axes}")
        return PartitionSpec(*mesh_axes)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted((k, v or "") for k, v in self.mesh_axes.items()))))


def _rules(name: str, **mesh_axes: str | None) -> ShardingRules:
    return ShardingRules(name, MappingProxyType(mesh_axes))


_ONE_D: dict[str, str | None] = {
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
