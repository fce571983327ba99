"""Every exception that a user can meet, and the one way to say which name was meant.

All of them are `ValueError`s: bad input. Command lines print their message in one line and end with exit code 2.

    unknown("format", "bpf8", ["bfp4", "bfp8"])   ->   unknown format 'bpf8'; valid: bfp8, bfp4
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ttsim.files.reading import InputError, shown

if TYPE_CHECKING:
    from ttsim.generation.paging import OutOfBlocksError
    from ttsim.hardware.constants import UnknownConstantError
    from ttsim.meshes.sharding import ShardingError
    from ttsim.meshes.systems import UnknownSystemError
    from ttsim.meshes.toml_systems import SystemFileError
    from ttsim.models.checkpoints.source import CheckpointError
    from ttsim.pricing.price import UnpricedError
    from ttsim.scenarios.memory import DoesNotFitError

_MANY = 24  # valid names beyond which only the nearest are listed


def unknown(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """An error that names the valid names, the nearest first, and only those where there are many.

    Args:
      kind: what the name should be one of ("format", "tensor group").
      name: what was given.
      valid: the names that exist.
    """
    mine = str(name)[:80].lower()

    def likeness(candidate: str) -> tuple[bool, float]:
        other = candidate.lower()
        return other.startswith(mine), difflib.SequenceMatcher(None, mine, other).ratio()

    names = sorted(dict.fromkeys(valid), key=likeness, reverse=True)
    listed = ", ".join(names[:_MANY]) + (f", ... ({len(names)} in all)" if len(names) > _MANY else "")
    return ValueError(f"unknown {kind} {shown(name)}; valid: {listed}")


class Problems(ValueError):
    """A list of mistakes in one input; scripts print a line for each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


# Raised where they are declared; here so that they can be caught by one name.
_HOMES = {
    "CheckpointError": "ttsim.models.checkpoints.source",
    "DoesNotFitError": "ttsim.scenarios.memory",
    "OutOfBlocksError": "ttsim.generation.paging",
    "ShardingError": "ttsim.meshes.sharding",
    "SystemFileError": "ttsim.meshes.toml_systems",
    "UnknownConstantError": "ttsim.hardware.constants",
    "UnknownSystemError": "ttsim.meshes.systems",
    "UnpricedError": "ttsim.pricing.price",
}
__all__ = [
    "CheckpointError",
    "DoesNotFitError",
    "InputError",
    "OutOfBlocksError",
    "Problems",
    "ShardingError",
    "SystemFileError",
    "UnknownConstantError",
    "UnknownSystemError",
    "UnpricedError",
    "unknown",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ttsim.errors' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
