"""safetensors files: a directory's shards as one lazy mapping of names to tensors.

A file is 8 bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, and the data.
Source: the safetensors format, https://github.com/huggingface/safetensors. Only the tensor at hand is mapped
into memory, and only what is used of it is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ttsim.files.reading import InputError, inside, parse_json, printable, read_json, shown
from ttsim.models.checkpoints.source import CheckpointError

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_MAX_HEADER = 100_000_000  # bytes, the limit of the reference implementation
_MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class LazyTensor:
    """One tensor in a file; `np.asarray` reads it."""

    path: Path
    name: str
    dtype_name: str
    shape: tuple[int, ...]
    offset: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.dtype_name not in _DTYPES:
            raise CheckpointError(
                f"tensor {self.name} in {self.path} is {shown(self.dtype_name)}; supported: {', '.join(_DTYPES)}"
            )
        size = math.prod(self.shape) * np.dtype(_DTYPES[self.dtype_name]).itemsize
        if self.offset + size > (held := os.path.getsize(self.path)):
            raise CheckpointError(
                f"{self.path} has shrunk to {held} bytes since it was opened: tensor {printable(self.name)[:200]} ends "
                f"at byte {self.offset + size}"
            )
        # Mapped, so that a process reads what its own devices hold; the pages go with the array.
        data = np.memmap(self.path, np.uint8, "r", self.offset, (size,)) if size else np.zeros(0, np.uint8)
        values: np.ndarray = np.asarray(data).view(_DTYPES[self.dtype_name]).reshape(self.shape)
        return values if dtype is None else values.astype(dtype)


class SafetensorsFiles(Mapping[str, LazyTensor]):
    """The tensors of one file, or of a directory's shards.

    Args:
      path: a .safetensors file, or a directory with model.safetensors.index.json, model.safetensors or any others.

    Raises:
      CheckpointError: there is no such file, a shard is missing, or a header is broken or promises more than there is.
    """

    def __init__(self, path: Path):
        self._tensors: dict[str, LazyTensor] = {}
        for shard in _shards(path):
            self._tensors.update(_read_header(shard))

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = read_json(index).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise InputError(f"{index} has no weight_map of tensor names to files")
            files = sorted({inside(path, name, str(index)) for name in names.values()})
        except InputError as error:
            raise CheckpointError(str(error)) from None
        for file in files:
            if not Path(file).is_file():
                raise CheckpointError(f"{file} is missing; {index.name} lists it among {len(files)} files")
        return [Path(file) for file in files]
    single = path / "model.safetensors"
    shards = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"no .safetensors file in {path}")
    return shards


def _read_header(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if first == b"version ":
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its repository")
        length = int.from_bytes(first, "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise CheckpointError(f"{path} is no safetensors file, or cut short: {size} bytes, header of {length}")
        text = file.read(length).decode("utf-8", "replace")
    try:
        header = parse_json(text, f"the header of {path}")
    except InputError as error:
        raise CheckpointError(f"{path} has a broken safetensors header: {error}") from None
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, _tensor(path, name, entry, 8 + length, size)


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> LazyTensor:
    """A header's entry, checked against the file: `start` is where its data begin, `size` where the file ends."""
    label = f"tensor {printable(name)[:200]} in {path}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(
            f"{label} has a broken header: expected dtype, shape and data_offsets, found {shown(entry)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise CheckpointError(f"{label} has the dtype {shown(dtype)}, expected a text")
    for key, values in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(values, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in values)
        if not whole or any(not 0 <= n < 2**63 for n in values) or len(values) > _MAX_DIMENSIONS:
            raise CheckpointError(f"{label} has the {key} {shown(values)}, expected whole numbers from 0 on")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{label} has the data_offsets {shown(offsets)}, expected [first, last]")
    first, last = offsets
    if start + last > size:
        raise CheckpointError(
            f"{label} is truncated: expected shape {shape} in {printable(dtype)} up to byte {start + last}, "
            f"the file has {size}"
        )
    if dtype in _DTYPES and last - first != (needed := math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize):
        raise CheckpointError(f"{label} has {last - first} bytes; shape {shape} in {dtype} needs {shown(needed)}")
    return LazyTensor(path, name, dtype, tuple(shape), start + first)
