"""The head of a GGUF file: its keys and where its tensors lie, with every length checked before it is followed.

    "GGUF", version u32, tensors u64, keys u64; keys: name, type, value; tensors: name, sides, type, offset; the data.

Files of big-endian machines are the same with all numbers turned; the version tells them apart. Source: ggml
docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ttsim.files.reading import shown
from ttsim.models.checkpoints.source import CheckpointError

Order = Literal["<", ">"]

# Type number -> numpy's letter; 8 is a text, 9 a list.
_NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
_TEXT, _LIST = 8, 9
_MAX_KEYS, _MAX_TENSORS = 2**16, 2**20
_MAX_ITEMS = 2**24  # of one list; vocabularies have 2**18
_MAX_TEXT = 2**24  # bytes of one text; chat templates have 2**14
_MAX_SIDES = 4
_ALIGNMENT = 32


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies.

    Attributes:
      sides: the fastest axis first, as the file has them. kind: number of its block format.
      offset: from the start of the file.
    """

    name: str
    sides: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """Attributes:
    order: "<" or ">", of all numbers. metadata: value by key. tensors: in the file's order.
    """

    order: Order
    metadata: dict[str, Any]
    tensors: tuple[GGUFTensor, ...]


def read_gguf_header(path: Path) -> GGUFHeader:
    """The head of a GGUF file.

    Raises:
      CheckpointError: it is none, cut short, or has a length that the file can't hold.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] != b"GGUF":
            raise CheckpointError(f"{path} is no GGUF file: it does not begin with 'GGUF'")
        reader = _Head(file)
        try:
            return reader.read(head[4:])
        except _ShortError as error:
            raise CheckpointError(f"{path} is cut short or broken ({reader.size} bytes): {error}") from None


class _ShortError(ValueError):
    """A length that the file can't hold, or a number that means nothing."""


class _Head:
    def __init__(self, file: BinaryIO):
        self._file = file
        self._order: Order = "<"
        self.size = os.fstat(file.fileno()).st_size

    def read(self, version: bytes) -> GGUFHeader:
        if len(version) < 4:
            raise _ShortError("there is nothing behind 'GGUF'")
        little, big = int.from_bytes(version, "little"), int.from_bytes(version, "big")
        if little not in (2, 3) and big not in (2, 3):
            raise _ShortError(f"it has version {min(little, big)}, and 2 and 3 are read")
        self._order = "<" if little in (2, 3) else ">"
        tensors = self._count("tensors", _MAX_TENSORS)
        keys = self._count("keys", _MAX_KEYS)
        metadata = {}
        for _ in range(keys):
            key = self._text()
            metadata[key] = self._value(self._number("u4"), key)
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise _ShortError(f"general.alignment is {shown(alignment)}")
        found = [self._tensor() for _ in range(tensors)]
        start = -(-self._file.tell() // alignment) * alignment
        placed = (GGUFTensor(name, sides, kind, start + offset) for name, sides, kind, offset in found)
        return GGUFHeader(self._order, metadata, tuple(placed))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        count = self._number("u4")
        if count > _MAX_SIDES:
            raise _ShortError(f"tensor {shown(name)} has {count} sides")
        sides = tuple(self._number("u8") for _ in range(count))
        if any(side < 1 for side in sides) or math.prod(sides) >= 2**48:
            raise _ShortError(f"tensor {shown(name)} has the sides {list(sides)}")
        return name, sides, self._number("u4"), self._number("u8")

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _LIST or depth > 1:
            raise _ShortError(f"key {shown(key)} has the type {kind}")
        kind, count = self._number("u4"), self._count(f"values of {shown(key)}", _MAX_ITEMS)
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind]).newbyteorder(self._order)
            return np.frombuffer(self._bytes(count * dtype.itemsize), dtype).tolist()
        return [self._value(kind, key, depth + 1) for _ in range(count)]

    def _number(self, letter: str) -> Any:
        dtype = np.dtype(letter).newbyteorder(self._order)
        value = np.frombuffer(self._bytes(dtype.itemsize), dtype)[0].item()
        if isinstance(value, float) and not math.isfinite(value):
            raise _ShortError(f"a number is {value}")
        return value

    def _count(self, what: str, most: int) -> int:
        count = int(self._number("u8"))
        if count > min(most, self.size - self._file.tell()):  # each takes a byte at least
            raise _ShortError(f"it promises {count:,} {what}")
        return count

    def _text(self) -> str:
        (length,) = struct.unpack(f"{self._order}Q", self._bytes(8))
        if length > _MAX_TEXT:
            raise _ShortError(f"it promises a text of {length:,} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _bytes(self, count: int) -> bytes:
        if count > self.size - self._file.tell():
            raise _ShortError(f"it ends within a value of {count:,} bytes")
        data = self._file.read(count)
        if len(data) < count:
            raise _ShortError("it shrinks while it is read")
        return data
