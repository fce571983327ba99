"""The format that a precision gives each parameter, and the DRAM that the parameters of one chip take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import jax

from ttsim.meshes.sharding import axis_names
from ttsim.models.grids import round_up
from ttsim.models.layout import Layout
from ttsim.models.parameters import Traits, is_variable, key_names, traits
from ttsim.models.transformer import Transformer
from ttsim.numerics.formats import get_format, tile_padded_bytes
from ttsim.precision.text import MODEL_GROUPS
from ttsim.precision.values import LayerPrecision, Precision


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter on one chip.

    Attributes:
      path: its place in the model ("layers.0.mlp.w1_df").
      shape: global shape.
      format: the format it is stored in.
      bytes: DRAM of this chip's slice, padding of tiles and DRAM banks included.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    bytes: int


@functools.lru_cache(maxsize=64)
def parameters(layout: Layout, precision: Precision) -> tuple[ParameterInfo, ...]:
    """Every parameter that text runs through, with its format and its bytes on one chip.

    A text-only run doesn't load the cross-attention layers of a vision model.
    """
    return tuple(_parameters(layout, precision))


def _parameters(layout: Layout, precision: Precision) -> Iterator[ParameterInfo]:
    for path, slot, shape, local, kind in _slices(layout):
        fmt = parameter_format(kind, None if slot is None else precision.layer(slot), precision)
        yield ParameterInfo(path, shape, fmt, _bytes(kind, local, fmt, layout))


class _Slice(NamedTuple):
    """A parameter of one chip; `slot` counts the layers with self-attention, None outside them."""

    path: str
    slot: int | None
    shape: tuple[int, ...]
    local: tuple[int, ...]
    kind: Traits


@functools.lru_cache(maxsize=128)
def _slices(layout: Layout) -> tuple[_Slice, ...]:
    """Every parameter that text runs through, as one chip holds it."""
    config = layout.config
    kinds = list(dict.fromkeys(config.text_kinds))
    # A layer of each kind stands for all of its kind.
    few = dataclasses.replace(
        config, num_layers=len(kinds), layers=tuple(kinds) if config.layers else (), cross_attention_layers=()
    )
    sizes = dict(zip(layout.system.axis_names, layout.system.mesh_shape, strict=True))
    of_kind: dict[int, list[_Slice]] = {}
    before: list[_Slice] = []
    after: list[_Slice] = []
    model = Transformer(dataclasses.replace(layout, config=few))
    for keys, param in jax.tree.leaves_with_path(model, is_leaf=is_variable):
        names, kind = key_names(keys), traits(param)
        shape = param.get_value().shape
        local = tuple(
            size // prod(sizes[name] for name in axis_names(axis))
            for size, axis in zip(shape, layout.rules.spec(*kind.axes), strict=True)
        )
        if names[0] == "layers":
            of_kind.setdefault(int(names[1]), []).append(_Slice(".".join(names[2:]), None, shape, local, kind))
        else:
            (after if of_kind else before).append(_Slice(".".join(names), None, shape, local, kind))
    layers = [
        part._replace(path=f"layers.{index}.{part.path}", slot=slot)
        for slot, index in enumerate(config.self_attention_layers)
        for part in of_kind[kinds.index(config.layer_kinds[index])]
    ]
    return (*before, *layers, *after)


def parameter_format(kind: Traits, layer: LayerPrecision | None, precision: Precision) -> str:
    """The format of a parameter, in this layer (None: outside the layers)."""
    if kind.group == "float32":
        return "fp32"
    owner = precision if kind.group in MODEL_GROUPS else precision.default if layer is None else layer
    fmt: str = getattr(owner, kind.group)
    return fmt


def tensor_bytes_of(
    kind: Traits, local: tuple[int, ...], layer: LayerPrecision | None, precision: Precision, layout: Layout
) -> int:
    """Bytes of one chip's slice of a parameter, in the format that its group has."""
    return _bytes(kind, local, parameter_format(kind, layer, precision), layout)


def _bytes(kind: Traits, local: tuple[int, ...], fmt: str, layout: Layout) -> int:
    if kind.storage == "host":
        return 0
    if kind.storage == "rows":
        return int(prod(local) * get_format(fmt).bytes_per_value)
    if kind.storage == "tiles":
        return tile_padded_bytes((1, *local) if len(local) == 1 else local, fmt)
    rows, columns = local[0], prod(local[1:])
    pieces = [columns]
    if kind.group == "lm_head":
        widest = layout.lm_head_columns
        pieces = [min(widest, columns - first) for first in range(0, columns, widest)]
    if _is_bank_sharded(kind, layout):
        pieces = [round_up(piece, 32 * layout.system.chip.dram_banks) for piece in pieces]
    return sum(tile_padded_bytes((rows, piece), fmt) for piece in pieces)


def _is_bank_sharded(kind: Traits, layout: Layout) -> bool:
    """Whether this layout spreads the columns over the DRAM banks, each bank a whole number of tiles."""
    if layout.two_d:
        return kind.group == "lm_head" and layout.config.hidden_size != 2048
    return not (kind.group == "wo" and layout.fused_wo)
