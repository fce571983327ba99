"""Finished windows of an accuracy run in a file, so that a run that was ended goes on where it was.

The file says which run it belongs to: checkpoint, device, precision, protocol and the text's tokens. Another run's
file is refused, not mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttsim.accuracy.results import Outputs
from ttsim.files.reading import InputError, expect, number, read_json
from ttsim.files.writing import write_file


def identity(**what: Any) -> dict[str, str]:
    """What tells one run from another: texts, and arrays by their SHA-256."""
    return {
        key: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        if isinstance(value, np.ndarray)
        else str(value)
        for key, value in what.items()
    }


class SavedWindows:
    """Outputs of a run's parts ("reference", "bf16", "run"), window by window.

    Args:
      path: where they are kept; None keeps nothing.
      run: whose they are (`identity`).
      writes: whether this process writes the file.

    Raises:
      InputError: the file is of another run, or none.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: Mapping[str, str], writes: bool = True):
        self._path, self._run, self._writes = path, dict(run), writes
        self._parts: dict[str, Any] = {}
        if path is not None and os.path.exists(path):
            self._parts = self._read(os.fspath(path))

    def _read(self, path: str) -> dict[str, Any]:
        stored = read_json(path)
        found = expect(stored.get("run"), dict, "run", path, "what tells runs apart")
        for key, value in self._run.items():
            if found.get(key) != value:
                raise InputError(f"{path} has the windows of another run (its {key} differs): give another file")
        parts: dict[str, Any] = expect(stored.get("parts"), dict, "parts", path, "an object")
        for name, part in parts.items():
            expect(part, dict, name, path, "an object")
            number(part, "seconds", f"{path}: {name}", least=0)
        return parts

    def of(self, part: str, decode: int) -> Outputs | None:
        """What is there of a part, or None.

        Raises:
          InputError: it has another shape than windows of `decode` positions.
        """
        stored = self._parts.get(part)
        if stored is None:
            return None
        arrays = {}
        for name, dtype, sides in (("choice", np.int32, 2), ("nll", np.float32, 2), ("top5", np.int32, 3)):
            values = stored.get(name)
            if values is None and name == "top5":
                continue
            try:
                arrays[name] = np.asarray(values, dtype)
            except (TypeError, ValueError, OverflowError):
                raise InputError(f"{self._path}: {name} of {part} is no array of numbers") from None
            shape = arrays[name].shape
            if len(shape) != sides or shape[1] != decode or shape[0] != len(arrays["choice"]):
                raise InputError(f"{self._path}: {name} of {part} has the shape {list(shape)}")
        return Outputs(arrays["choice"], arrays["nll"], arrays.get("top5"), stored["seconds"])

    def keep(self, part: str, outputs: Outputs) -> None:
        """Keeps what there is of a part so far."""
        if self._path is None or not self._writes:
            return
        self._parts[part] = {
            "choice": outputs.choice.tolist(),
            "nll": [[float(f"{value:.9g}") for value in row] for row in outputs.nll],
            "top5": None if outputs.top5 is None else outputs.top5.tolist(),
            "seconds": outputs.seconds,
        }
        write_file(json.dumps({"run": self._run, "parts": self._parts}), self._path)


def joined(first: Outputs | None, second: Outputs) -> Outputs:
    """The windows of one, then those of the other."""
    if first is None:
        return second
    top5 = None
    if first.top5 is not None and second.top5 is not None:
        top5 = np.concatenate([first.top5, second.top5])
    return Outputs(
        np.concatenate([first.choice, second.choice]),
        np.concatenate([first.nll, second.nll]),
        top5,
        first.seconds + second.seconds,
    )
