"""Every exception that a user can meet, and the one way to say which name was meant.

All of them are `ValueError`s (an unknown constant: a `KeyError` too): bad input. Command lines print their message in
one line and end with exit code 2.

    unknown("format", "bpf8", ["bfp4", "bfp8"])   ->   unknown format 'bpf8'; valid: bfp8, bfp4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ttsim.files.reading import InputError, shown

_MANY = 24  # valid names beyond which only the nearest are listed
_NEAR = 0.5  # likeness from which a name may have been meant


def unknown(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """An error that names the valid names in their order, after those that may have been meant; not all if many.

    Args:
      kind: what the name should be one of ("format", "tensor group").
      name: what was given.
      valid: the names that exist.
    """
    mine = str(name)[:80].lower()

    def likeness(candidate: str) -> tuple[bool, float]:
        other = candidate.lower()
        ratio = difflib.SequenceMatcher(None, mine, other).ratio()
        return other.startswith(mine), ratio if ratio >= _NEAR else 0.0

    ordered = sorted(valid) if isinstance(valid, set | frozenset) else dict.fromkeys(valid)
    names = sorted(ordered, key=likeness, reverse=True)  # the order given, but for those that may have been meant
    listed = ", ".join(names[:_MANY]) + (f", ... ({len(names)} in all)" if len(names) > _MANY else "")
    return ValueError(f"unknown {kind} {shown(name)}; valid: {listed}")


class Problems(ValueError):
    """A list of mistakes in one input; scripts print a line for each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class UnknownSystemError(ValueError):
    """No system of this name, or it can't be cut into that many replicas."""


class SystemFileError(Problems):
    """What is wrong with a system file: one line for each field."""


class ShardingError(ValueError):
    """An axis is unknown, used twice, or can't be cut that way."""


class CheckpointError(ValueError):
    """A checkpoint can't be read: one line that names the file or tensor, what was expected and what was found."""


class UnknownConstantError(KeyError, ValueError):
    """No constant of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnpricedError(ValueError):
    """A program holds work that the simulator has no price for, or a kernel can't do what it is asked to."""


class DoesNotFitError(ValueError):
    """The model, its cache and its activations need more DRAM than a chip has."""


class OutOfBlocksError(ValueError):
    """The pool has no free block for a user's next position."""


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
