"""A layer's program on one device, by layout.

`OneAxis`: a chip, a line, a ring. `Replicated`: the same with a whole residual stream. `Galaxy`: rows x columns.
"""

from __future__ import annotations

from typing import Literal

from ttsim.models.layout import Layout
from ttsim.models.parallel.galaxy import Galaxy
from ttsim.models.parallel.one_axis import OneAxis
from ttsim.models.parallel.replicated import Replicated
from ttsim.models.parallel.stage import Stage
from ttsim.precision.values import LayerPrecision

__all__ = ["Galaxy", "OneAxis", "Replicated", "Stage", "decode_stage", "prefill_stage"]


def decode_stage(layout: Layout, precision: LayerPrecision) -> OneAxis | Galaxy:
    """A layer's decode step: one row of tiles in L1."""
    return _program(layout)(layout, precision, "l1", "decode")


def prefill_stage(
    layout: Layout,
    precision: LayerPrecision,
    users_axis: str | None,
    numerics: Literal["prefill", "decode"] = "prefill",
) -> OneAxis | Galaxy:
    """A layer's part of a prompt: rows in DRAM. See `Stage` for `users_axis` and `numerics`."""
    return _program(layout)(layout, precision, "dram", numerics, users_axis)


def _program(layout: Layout) -> type[OneAxis] | type[Galaxy]:
    if layout.placement.replicated:
        return Replicated
    return Galaxy if layout.two_d else OneAxis
