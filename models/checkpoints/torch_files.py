"""Tensors that `torch.save` wrote, read without torch and without running anything from the file.

A file is a zip archive of <name>/data.pkl, a pickle whose tensors refer to storages, and <name>/data/<key>, each
storage's raw bytes. Only tensors and plain containers are admitted from the pickle.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ttsim.models.checkpoints.source import CheckpointError

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclass(frozen=True)
class SavedTensor:
    """One tensor in an archive; `np.asarray` reads it."""

    path: Path
    member: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = archive.read(self.member)
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(f"{self.path}: storage {self.member} can't be read: {error}") from None
        storage = np.frombuffer(data, self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and last >= storage.size:
            raise CheckpointError(
                f"{self.path}: storage {self.member} has {storage.size} values, a tensor of shape {list(self.shape)} "
                f"needs {last + 1}"
            )
        strides = tuple(s * self.dtype.itemsize for s in self.strides)
        values = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides, writeable=False)
        return values if dtype is None else values.astype(dtype)


class _Unpickler(pickle.Unpickler):
    """Builds `SavedTensor`s and refuses everything that is neither a tensor nor a plain container."""

    def __init__(self, data: bytes, path: Path, folder: str):
        super().__init__(io.BytesIO(data))
        self._path, self._folder = path, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        return f"{self._folder}data/{key}", dtype

    def _tensor(self, storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> SavedTensor:
        member, dtype = storage
        return SavedTensor(self._path, member, dtype, offset, tuple(shape), tuple(strides))


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote, with a lazy `SavedTensor` for each tensor.

    Raises:
      CheckpointError: it is no such archive, or holds other things than tensors and containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
            if member is None:
                raise CheckpointError(f"{path} is a zip file without data.pkl: torch.save did not write it")
            data = archive.read(member)
        return _Unpickler(data, path, member.removesuffix("data.pkl")).load()
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path} is no torch.save file, or cut short: it is not a zip archive") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: data.pkl can't be read: {error}") from None
