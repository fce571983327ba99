"""Precision without values: names in place of formats and settings, so that one trace serves every precision.

A program's ops and shapes do not depend on formats and compute settings, which are only attributes of its ops. The
simulator therefore traces a model once with placeholders ("@0.ff2": group ff2 of the layers of class 0) and fills in
the values of each precision afterwards (`ttsim.pricing.program.Program.fill`). An op that meets a placeholder computes
without rounding; its shapes are all that such a trace is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ttsim.precision.values import OP_GROUPS, LayerPrecision, Precision

# What a model takes as its precision: values to run with, or placeholders to trace with.
AnyPrecision: TypeAlias = "Precision | PrecisionPlaceholder"
AnyLayerPrecision: TypeAlias = "LayerPrecision | LayerPlaceholder"

MARK = "@"
_MODEL = "model"
_SETTINGS = frozenset((*OP_GROUPS, "li_lm_head", "li_norm"))


@dataclass(frozen=True)
class LayerPlaceholder:
    """Stands for a `LayerPrecision`: each of its attributes is a placeholder."""

    index: int

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"{MARK}{self.index}.{name}"


@dataclass(frozen=True)
class PrecisionPlaceholder:
    """Stands for a `Precision`: which decoder layers share a class, and placeholders for the rest."""

    classes: tuple[int, ...]

    def layer(self, index: int) -> LayerPlaceholder:
        return LayerPlaceholder(self.classes[min(index, len(self.classes) - 1)])

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"{MARK}{_MODEL}.{name}"


def abstract_precision(precision: Precision, num_layers: int) -> tuple[PrecisionPlaceholder, Callable[[Any], Any]]:
    """A precision's placeholder, and the function that turns its placeholders into values (others unchanged).

    Raises:
      ValueError: a layer that the model doesn't have has a precision of its own.
    """
    precision.check_depth(num_layers)
    layers = [precision.layer(index) for index in range(num_layers)]
    distinct = list(dict.fromkeys(layers))
    placeholder = PrecisionPlaceholder(tuple(distinct.index(layer) for layer in layers))

    def value(attribute: Any) -> Any:
        if not is_placeholder(attribute):
            return attribute
        owner, _, name = attribute[len(MARK) :].partition(".")
        return getattr(precision if owner == _MODEL else distinct[int(owner)], name)

    return placeholder, value


def is_placeholder(attribute: Any) -> bool:
    return isinstance(attribute, str) and attribute.startswith(MARK)


def group_of(placeholder: str) -> str:
    """The tensor or op group that a placeholder stands for ("@0.ff2": "ff2")."""
    return placeholder.partition(".")[2]


def neutral(attribute: Any) -> Any:
    """What an op computes with in place of a placeholder: no rounding, an exact product."""
    if not is_placeholder(attribute):
        return attribute
    return "exact" if group_of(attribute) in _SETTINGS else "fp32"
