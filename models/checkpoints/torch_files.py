"""Tensors that `torch.save` wrote, read without torch and without running anything from the file.

A file is a zip archive of <name>/data.pkl, a pickle whose tensors refer to storages, and <name>/data/<key>, each
storage's raw bytes. A pickle is a program; the few instructions that dictionaries of tensors are made of are followed
here one by one (the standard library only splits them), on plain values. No instruction can name, call or change an
object of this process, and every size is checked before anything of that size is read or built.

Source of the instructions: Python's `pickletools`; of the layout: torch/serialization.py.
"""

from __future__ import annotations

import math
import os
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from ttsim.files.reading import MiB, printable, shown
from ttsim.models.checkpoints.source import CheckpointError

_STORAGES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "DoubleStorage": np.dtype(np.float64),
        "FloatStorage": np.dtype(np.float32),
        "HalfStorage": np.dtype(np.float16),
        "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
        "LongStorage": np.dtype(np.int64),
        "IntStorage": np.dtype(np.int32),
        "ShortStorage": np.dtype(np.int16),
        "ByteStorage": np.dtype(np.uint8),
        "BoolStorage": np.dtype(np.bool_),
    }
)
_PICKLE_BYTES = 64 * MiB  # data.pkl has about 200 bytes a tensor
_MAX_VALUES = 2**20  # that a pickle may put on its stack
_MAX_DIMENSIONS = 8
_MAX_BYTES = 2**40  # of one storage


@dataclass(frozen=True)
class SavedTensor:
    """One tensor in an archive; `np.asarray` reads it.

    Its extremes lie within the `count` values that the pickle promises for its storage; that the storage has so many
    bytes is checked before they are read.
    """

    path: Path
    member: str
    dtype: np.dtype
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        size = self.count * self.dtype.itemsize
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = _member(archive, archive.getinfo(self.member), exactly=size)
        except _BROKEN as error:
            raise _broken(self.path, f"storage {self.member}", error) from None
        storage = np.frombuffer(data, self.dtype)
        strides = tuple(s * self.dtype.itemsize for s in self.strides)
        values = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides, writeable=False)
        return values if dtype is None else values.astype(dtype)


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote, with a lazy `SavedTensor` for each tensor.

    Raises:
      CheckpointError: it is no such archive, or holds other things than tensors, numbers, texts and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = next((i for i in archive.infolist() if i.filename.rpartition("/")[2] == "data.pkl"), None)
            if found is None:
                raise CheckpointError(f"{path} is a zip file without data.pkl: torch.save did not write it")
            data = _member(archive, found, most=_PICKLE_BYTES)
            folder = found.filename.removesuffix("data.pkl")
        return _Machine(path, folder).run(data)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path} is no torch.save file, or cut short: it is not a zip archive") from None
    except _BROKEN as error:
        raise _broken(path, "data.pkl", error) from None


# What zipfile raises for archives that are damaged, encrypted or of an unknown compression, and `_Machine` for pickles.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    IndexError,
    ValueError,
)


def _broken(path: Path, part: str, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(f"{path}: {printable(part)} can't be read: {printable(str(error))[:200]}")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, exactly: int | None = None, most: int = 0) -> bytes:
    """A member's bytes, of which the size is known or bounded; torch stores without compression."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed, which torch.save never does")
    held = os.path.getsize(archive.filename or "")
    if max(info.file_size, info.compress_size) > held:
        raise ValueError(f"it is cut short: the archive has {held:,} bytes, it alone {info.file_size:,}")
    # A damaged directory shifts where members begin, also to before the file.
    if not 0 <= info.header_offset < held:
        raise ValueError(f"it begins at byte {info.header_offset:,} of an archive of {held:,}")
    if exactly is not None and info.file_size != exactly:
        raise ValueError(f"it has {info.file_size:,} bytes, its tensors need {exactly:,}")
    if exactly is None and info.file_size > most:
        raise ValueError(f"it has {info.file_size:,} bytes, more than the {most:,} that are read")
    with archive.open(info) as file:
        data = file.read(info.file_size)
    if len(data) != info.file_size:
        raise ValueError(f"it is cut short: {len(data):,} of {info.file_size:,} bytes")
    return data


# The pickle


@dataclass(frozen=True)
class _Name:
    """A name that the pickle refers to: never looked up, only compared."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    """What a persistent id stands for."""

    member: str
    dtype: np.dtype
    count: int


_MARK = _Name("", "mark")
_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_ORDERED = _Name("collections", "OrderedDict")
_CONSTANTS: Mapping[str, Any] = MappingProxyType({"NONE": None, "NEWTRUE": True, "NEWFALSE": False})
_EMPTY: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
)
_LITERALS = frozenset(
    ["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"]
)
_TUPLES: Mapping[str, int] = MappingProxyType({"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3})


class _Machine:
    """Follows a pickle's instructions on plain values.

    Args:
      path: of the archive. folder: where its members are.
    """

    def __init__(self, path: Path, folder: str):
        self._path, self._folder = path, folder
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The value that the pickle builds.

        Raises:
          ValueError: an instruction that no dictionary of tensors needs, or one without its operands.
        """
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self._plain(self._pop())
            self._step(opcode.name, argument)
            if len(self._stack) > _MAX_VALUES:
                raise ValueError(f"it builds more than {_MAX_VALUES:,} values")
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._remember(argument)
        elif name == "MEMOIZE":
            self._remember(len(self._memo))
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ValueError(f"it recalls value {argument}, which it has not kept")
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = self._to_mark() if name == "APPENDS" else [self._pop()]
            self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._to_mark() if name == "SETITEMS" else [self._pop(), self._pop()][::-1]
            self._set(values)
        elif name == "GLOBAL":
            stack.append(self._admit(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            stack.append(self._admit(module, attribute))
        elif name == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            self._attributes(self._pop())
        else:
            raise ValueError(f"it uses the instruction {name}, which tensors don't need")

    def _remember(self, index: int) -> None:
        if len(self._memo) >= _MAX_VALUES:
            raise ValueError(f"it keeps more than {_MAX_VALUES:,} values")
        if not self._stack:
            raise ValueError("it keeps a value before there is one")
        self._memo[index] = self._stack[-1]

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it takes a value that isn't there")
        return self._stack.pop()

    def _to_mark(self) -> list[Any]:
        values: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise ValueError("it takes values up to a mark that isn't there")

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"it fills a {kind.__name__} that isn't there")
        return self._stack[-1]

    def _set(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            raise ValueError("it sets a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ValueError(f"it has a key that is no text: {shown(key)}")
            target[key] = value

    def _admit(self, module: Any, name: Any) -> _Name:
        found = _Name(str(module), str(name))
        if found in (_TENSOR, _ORDERED) or (found.module == "torch" and found.name in _STORAGES):
            return found
        raise ValueError(f"it refers to {found.module}.{found.name}, which is no tensor")

    def _storage(self, pid: Any) -> _Storage:
        """("storage", type, key, place, number of values)."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ValueError(f"it refers to {shown(pid)}, which is no storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Name) or kind.name not in _STORAGES or not isinstance(key, str):
            raise ValueError(f"it refers to a storage of {shown(kind)}")
        dtype = _STORAGES[kind.name]
        if not _is_count(count) or count * dtype.itemsize > _MAX_BYTES:
            raise ValueError(f"storage {shown(key)} has {shown(count)} values")
        return _Storage(f"{self._folder}data/{key}", dtype, count)

    def _call(self, function: Any, arguments: Any) -> Any:
        if function == _ORDERED and arguments == ():
            return {}
        if function != _TENSOR or not isinstance(arguments, tuple) or len(arguments) < 4:
            raise ValueError(f"it calls {shown(function)}, which is no tensor")
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage):
            raise ValueError(f"it has a tensor of {shown(storage)} in place of a storage")
        for name, sizes in (("shape", shape), ("strides", strides)):
            if not isinstance(sizes, tuple) or len(sizes) > _MAX_DIMENSIONS or not all(map(_is_count, sizes)):
                raise ValueError(f"it has a tensor of {name} {shown(sizes)}")
        if len(shape) != len(strides) or not _is_count(offset):
            raise ValueError(
                f"it has a tensor of shape {shown(shape)}, strides {shown(strides)}, offset {shown(offset)}"
            )
        # In Python's integers, which don't wrap. Strides aren't negative: the first value is at the offset.
        last = (
            offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if math.prod(shape) else offset - 1
        )
        if last >= storage.count or offset > storage.count or math.prod(shape) > storage.count:
            raise ValueError(
                f"storage {storage.member} has {storage.count:,} values, a tensor of shape {shown(list(shape))} and "
                f"strides {shown(list(strides))} needs {last + 1:,}"
            )
        return SavedTensor(self._path, storage.member, storage.dtype, storage.count, offset, shape, strides)

    def _attributes(self, state: Any) -> None:
        """torch gives the dictionary of a module's state an attribute `_metadata`, which nothing here needs."""
        if type(self._stack[-1] if self._stack else None) is not dict or not isinstance(state, dict):
            raise ValueError("it changes the attributes of an object")

    def _plain(self, value: Any) -> Any:
        if isinstance(value, _Name | _Storage):
            raise ValueError(f"it holds {shown(value)}, which is no tensor")
        return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
