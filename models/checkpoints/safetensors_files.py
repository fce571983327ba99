"""safetensors files: a directory's shards as one lazy mapping of names to tensors.

A file is 8 bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, and the data.
Source: the safetensors format, https://github.com/huggingface/safetensors. Tensors are read from the file, not mapped
into memory, so that only the one at hand is held.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ttsim.models.checkpoints.source import CheckpointError

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_MAX_HEADER = 100_000_000  # bytes, the limit of the reference implementation


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
                f"tensor {self.name} in {self.path} is {self.dtype_name}; supported: {', '.join(_DTYPES)}"
            )
        values = np.fromfile(
            self.path, np.dtype(_DTYPES[self.dtype_name]), count=math.prod(self.shape), offset=self.offset
        ).reshape(self.shape)
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
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} has no weight_map of tensor names to files: {error!r}") from None
        for name in names:
            if not (path / name).is_file():
                raise CheckpointError(f"{path / name} is missing; {index.name} lists it among {len(names)} files")
        return [path / name for name in names]
    single = path / "model.safetensors"
    shards = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"no .safetensors file in {path}")
    return shards


def _read_header(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise CheckpointError(f"{path} is no safetensors file, or cut short: {size} bytes, header of {length}")
        try:
            header = json.loads(file.read(length))
            entries = {
                name: (entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a broken safetensors header: {error!r}") from None
    for name, (dtype, shape, first, last) in entries.items():
        if 8 + length + last > size:
            raise CheckpointError(
                f"tensor {name} in {path} is truncated: expected shape {list(shape)} in {dtype} up to byte "
                f"{8 + length + last}, the file has {size}"
            )
        if dtype in _DTYPES and last - first != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
            raise CheckpointError(
                f"tensor {name} in {path} has {last - first} bytes; shape {list(shape)} in {dtype} needs "
                f"{math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize}"
            )
        yield name, LazyTensor(path, name, dtype, shape, 8 + length + first)
