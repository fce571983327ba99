"""Precision without values: slots in place of formats and settings, so that one trace serves every precision.

A program's ops and shapes do not depend on formats and compute settings, which are only attributes of its ops. The
simulator therefore traces a model once with a precision whose every field is a `Slot`, and fills in the values of each
precision afterwards (`ttsim.pricing.program.Program.fill`). A call that meets a slot is an equation without a body, for
shapes are all that such a trace is for; an op that has no rule for them computes them without rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ttsim.numerics.fidelity import SETTINGS
from ttsim.precision.text import LAYER_GROUPS, MODEL_GROUPS
from ttsim.precision.values import LayerPrecision, Precision

Formats = TypeVar("Formats", bound=Any)
_SETTINGS = frozenset(group for group in (*LAYER_GROUPS, *MODEL_GROUPS) if group.startswith(("li_", "sdpa_")))


class Placeholder(str):
    """A string that stands where a format or a setting goes, in a trace that leaves the numerics out."""

    @property
    def neutral(self) -> str:
        """What an op computes with in its place where it must: an exact product, no rounding."""
        raise NotImplementedError


class Held(Placeholder):
    """A format or a setting that is known, put out of sight of the trace.

    Attributes:
      value: what it is.
    """

    value: str

    def __new__(cls, value: str) -> Held:
        held = super().__new__(
            cls, f"<{value}>"
        )  # not equal to the value: programs that compute share no trace with it
        held.value = value
        return held

    @property
    def neutral(self) -> str:
        return "exact" if self.value in SETTINGS else "fp32"


class Slot(Placeholder):
    """A format or a setting that is not chosen yet; a string, because it stands where a format's name goes.

    Attributes:
      layer: which class of decoder layers it belongs to; None for those of the whole model.
      group: the field or property of `LayerPrecision` or `Precision` that it stands for.
    """

    layer: int | None
    group: str

    def __new__(cls, layer: int | None, group: str) -> Slot:
        slot = super().__new__(cls, f"<{group} of {'the model' if layer is None else f'layers {layer}'}>")
        slot.layer, slot.group = layer, group
        return slot

    @property
    def neutral(self) -> str:
        return "exact" if self.group in _SETTINGS else "fp32"


class LayerSlots(LayerPrecision):
    """The precision of a class of decoder layers: each of its fields and properties is a slot."""

    def __init__(self, layer: int):
        for field in dataclasses.fields(LayerPrecision):
            object.__setattr__(self, field.name, Slot(layer, field.name))


def _derived(name: str) -> property:
    return property(lambda self: Slot(self.wqkv.layer, name))


for _name, _value in vars(LayerPrecision).items():
    if isinstance(_value, property):
        setattr(LayerSlots, _name, _derived(_name))


@dataclass(frozen=True, init=False)
class PrecisionSlots(Precision):
    """The precision of a model: each of its own fields is a slot.

    Attributes:
      classes: the class of each decoder layer; layers of one class have equal precisions.
    """

    classes: tuple[int, ...] = ()

    def __init__(self, classes: tuple[int, ...]):
        for group in MODEL_GROUPS:
            object.__setattr__(self, group, Slot(None, group))
        object.__setattr__(self, "classes", classes)

    def layer(self, index: int) -> LayerPrecision:
        return _layer_slots(self.classes[min(index, len(self.classes) - 1)])


_layer_slots = functools.cache(LayerSlots)


def abstract_precision(precision: Precision, num_layers: int) -> tuple[PrecisionSlots, Callable[[Any], Any]]:
    """A precision's slots, and the function that turns a slot into its value (other attributes unchanged).

    Raises:
      ValueError: a layer that the model doesn't have has a precision of its own.
    """
    precision.check_depth(num_layers)
    layers = [precision.layer(index) for index in range(num_layers)]
    distinct = list(dict.fromkeys(layers))

    def value(attribute: Any) -> Any:
        if not isinstance(attribute, Slot):
            return attribute.value if isinstance(attribute, Held) else attribute
        return getattr(precision if attribute.layer is None else distinct[attribute.layer], attribute.group)

    return PrecisionSlots(tuple(distinct.index(layer) for layer in layers)), value


def held(formats: Formats) -> Formats:
    """A dataclass of formats and settings with each of them held."""
    return dataclasses.replace(formats, **{name: Held(value) for name, value in vars(formats).items()})


def neutral(attribute: Any) -> Any:
    """What an op computes with: in place of a placeholder no rounding, other attributes as they are."""
    return attribute.neutral if isinstance(attribute, Placeholder) else attribute
