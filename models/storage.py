"""The format that a precision gives each parameter, and the DRAM that the parameters of one chip take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import jax

from ttsim.meshes.sharding import axis_names
from ttsim.models.layout import Layout, round_up
from ttsim.models.parameters import is_variable, key_names
from ttsim.models.transformer import Transformer
from ttsim.numerics.formats import get_format, tile_padded_bytes
from ttsim.precision.values import LayerPrecision, Precision

# Parameter name -> tensor group of its decoder layer.
_GROUPS = {
    "wqkv_dkgh": "wqkv",
    "gate_dkgh": "wqkv",
    "wo_qd": "wo",
    "w1_df": "ff1_3",
    "w3_df": "ff1_3",
    "w2_fd": "ff2",
    "wq_dq": "wqkv",
    "wkv_dkh": "wqkv",
    # Routed experts, and the MLP beside them.
    "w1_edf": "ff1_3",
    "w3_edf": "ff1_3",
    "w2_efd": "ff2",
    "router_de": "router",
    "shared_gate_d1": "router",
    "shared_w1_df": "shared",
    "shared_w3_df": "shared",
    "shared_w2_fd": "shared",
    # Latent attention.
    "wq_da": "wqkv",
    "wq_ahn": "wqkv",
    "wkv_dr": "wqkv",
    "wkv_b1_hnr": "wqkv",
    "wkv_b2_hrv": "wo",
    # Delta nets.
    "wqkv_djc": "wqkv",
    "wz_dnv": "wqkv",
    "wa_dn": "wqkv",
    "wb_dn": "wqkv",
}
_FLOAT32 = frozenset({"decay_log_n", "dt_bias_n"})  # of a delta net, whose recurrence is float32
_BANK_SHARDED = frozenset({"wqkv_dkgh", "gate_dkgh", "wo_qd", "w1_df", "w3_df", "w2_fd", "lm_head_dv"})


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter on one chip.

    Attributes:
      path: its place in the model ("layers.0.mlp.w1_df").
      shape: global shape. local_shape: of this chip's slice.
      format: the format it is stored in.
      bytes: DRAM of this chip's slice, padding of tiles and DRAM banks included.
    """

    path: str
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    format: str
    bytes: int


@functools.lru_cache(maxsize=64)
def parameters(layout: Layout, precision: Precision) -> tuple[ParameterInfo, ...]:
    """Every parameter that text runs through, with its format and its bytes on one chip.

    A text-only run doesn't load the cross-attention layers of a vision model.
    """
    return tuple(_parameters(layout, precision))


def _parameters(layout: Layout, precision: Precision) -> Iterator[ParameterInfo]:
    for path, slot, shape, local in _slices(layout):
        name = path.rpartition(".")[2]
        fmt = parameter_format(name, None if slot is None else precision.layer(slot), precision)
        yield ParameterInfo(path, shape, local, fmt, _bytes(name, local, fmt, layout))


@functools.lru_cache(maxsize=128)
def _slices(layout: Layout) -> tuple[tuple[str, int | None, tuple[int, ...], tuple[int, ...]], ...]:
    """(path, self-attention layer or None, global shape, one chip's shape) of each parameter."""
    config = layout.config
    kinds = list(dict.fromkeys(config.text_kinds))
    # A layer of each kind stands for all of its kind.
    few = dataclasses.replace(
        config, num_layers=len(kinds), layers=tuple(kinds) if config.layers else (), cross_attention_layers=()
    )
    sizes = dict(zip(layout.system.axis_names, layout.system.mesh_shape, strict=True))
    of_kind: dict[int, list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = {}
    before: list[tuple[str, int | None, tuple[int, ...], tuple[int, ...]]] = []
    after = before[:]
    model = Transformer(dataclasses.replace(layout, config=few))
    for keys, param in jax.tree.leaves_with_path(model, is_leaf=is_variable):
        names = key_names(keys)
        shape = param.get_value().shape
        spec = layout.rules.spec(*param.get_metadata()["axes"])
        local = tuple(
            size // prod(sizes[name] for name in axis_names(axis)) for size, axis in zip(shape, spec, strict=True)
        )
        if names[0] == "layers":
            of_kind.setdefault(int(names[1]), []).append((".".join(names[2:]), shape, local))
        else:
            (after if of_kind else before).append((".".join(names), None, shape, local))
    layers = [
        (f"layers.{index}.{name}", slot, shape, local)
        for slot, index in enumerate(config.self_attention_layers)
        for name, shape, local in of_kind[kinds.index(config.layer_kinds[index])]
    ]
    return (*before, *layers, *after)


def parameter_format(name: str, layer: LayerPrecision | None, precision: Precision) -> str:
    """The format of the parameter of this name, in this layer (None: outside the layers)."""
    if layer is not None and name in _GROUPS:
        return getattr(layer, _GROUPS[name])
    if name == "embedding_vd":
        return precision.embedding
    if name in _FLOAT32:
        return "fp32"
    if name == "lm_head_dv":
        return precision.lm_head
    return precision.bias if name.startswith("bias") else precision.norm


def tensor_bytes_of(
    name: str, local: tuple[int, ...], layer: LayerPrecision | None, precision: Precision, layout: Layout
) -> int:
    """Bytes of one chip's slice of the parameter of this name, in the format that its group has."""
    return _bytes(name, local, parameter_format(name, layer, precision), layout)


def _bytes(name: str, local: tuple[int, ...], fmt: str, layout: Layout) -> int:
    if name == "embedding_vd":  # row-major: no tiles
        return int(prod(local) * get_format(fmt).bytes_per_value)
    if name not in _BANK_SHARDED:
        return tile_padded_bytes((1, *local) if len(local) == 1 else local, fmt)
    rows, columns = local[0], prod(local[1:])
    pieces = [columns]
    if name == "lm_head_dv":
        widest = layout.lm_head_columns
        pieces = [min(widest, columns - first) for first in range(0, columns, widest)]
    if _is_bank_sharded(name, layout):
        pieces = [round_up(piece, 32 * layout.system.chip.dram_banks) for piece in pieces]
    return sum(tile_padded_bytes((rows, piece), fmt) for piece in pieces)


def _is_bank_sharded(name: str, layout: Layout) -> bool:
    """Whether the columns are spread over the DRAM banks, each bank a whole number of tiles, or interleaved."""
    if layout.two_d:
        return name == "lm_head_dv" and layout.config.hidden_size != 2048
    return not (name == "wo_qd" and layout.fused_wo)
