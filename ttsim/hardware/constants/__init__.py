"""Every constant of the cost model: value, unit, kind, source, and how it scales to another chip.

A *sourced* constant is a measurement or a specification; a *fitted* one is physical, shared by all rows, starts from a
prior that has a source itself, and is set by `scripts/calibrate.py` (on the published tables) or `fit_measured.py` (on
rows measured by others since), which write `data/constants.json`. A *calibrated* one was set once, on measurements that
its source names. Cost rules import the values from the module of their kernels and compute with them
(`ttsim.hardware.quantities`); no number with a unit stands in a rule.

To add one: give it a line in the module of its kernels in this folder. Its name is its variable in lower case.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from ttsim.errors import UnknownConstantError
from ttsim.files.reading import number, printable, read_json, shown
from ttsim.hardware.constants import activations, attention, experts, galaxy, host, images, links, matmul, sampling
from ttsim.hardware.quantities import Constant

MODULES = (matmul, activations, links, attention, host, sampling, images, experts, galaxy)


def _constants(values: Mapping[Any, Any]) -> Iterator[Constant]:
    """Every constant of a module, those in its tables too."""
    for key, value in values.items():
        if isinstance(value, Constant):
            yield value
        elif isinstance(value, Mapping) and not str(key).startswith("__"):
            yield from _constants(value)


CONSTANTS: Mapping[str, Constant] = MappingProxyType(
    {constant.name: constant for module in MODULES for constant in _constants(vars(module))}
)
FITTED: tuple[str, ...] = tuple(c.name for c in CONSTANTS.values() if c.kind == "fitted" and c.rows == "tables")
FITTED_LATER: tuple[str, ...] = tuple(c.name for c in CONSTANTS.values() if c.kind == "fitted" and c.rows == "measured")


def prior_constants() -> dict[str, float]:
    """Sourced values, and the centre of the prior of each fitted constant."""
    return {name: constant.value for name, constant in CONSTANTS.items()}


def load_constants(path: str | os.PathLike[str] | None = None) -> Mapping[str, float]:
    """Sourced values and the fitted ones of a file.

    Args:
      path: what `constants_json` says; None is the calibration that ships with the package.

    Raises:
      UnknownConstantError: the file names a constant that isn't a fitted one.
    """
    if path is None:
        return _shipped()
    return _checked(read_json(path), os.fspath(path))


def constants_json(values: Mapping[str, float]) -> str:
    """The fitted constants as {name: value}, to five digits."""
    values = {**_shipped(), **values}
    rounded = {name: float(f"{values[name]:.5g}") for name in (*FITTED, *FITTED_LATER)}
    return json.dumps(rounded, indent=2) + "\n"


@functools.cache
def _shipped() -> Mapping[str, float]:
    text = resources.files("ttsim.data").joinpath("constants.json").read_text(encoding="utf-8")
    return _checked(json.loads(text), "constants.json")


def _checked(fitted: Mapping[str, Any], origin: str) -> Mapping[str, float]:
    for name in fitted:
        if name not in (*FITTED, *FITTED_LATER):
            near = difflib.get_close_matches(name[:80], (*FITTED, *FITTED_LATER), n=3, cutoff=0.3)
            nearest = ", ".join(near or FITTED)
            raise UnknownConstantError(f"{printable(origin)}: no fitted constant {shown(name)}: nearest are {nearest}")
        # A thousandth to a thousandfold of what is likely: beyond that it is a mistake, and prices lose their digits.
        likely = CONSTANTS[name].value
        number(fitted, name, origin, least=likely / 1e3, most=likely * 1e3)
    return MappingProxyType({**prior_constants(), **fitted})
