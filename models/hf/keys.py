"""The keys of a config.json: each is read with its type and bounds, and what nothing has read is known.

A value that can't be taken is one line that names the key, what stands there and what would be right; `read_config`
puts the file before it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ttsim.files.reading import shown
from ttsim.models.features import positive, unsupported

_LARGEST = 1e30  # of a number: what is reckoned with it stays within a double
MOST = 2**31 - 1  # of a whole number: the sizes themselves have closer bounds in `ModelConfig`


class Keys:
    """The keys of one JSON object.

    Args:
        data: the object. absent: what absent keys mean. within: the key that holds it, for error lines.
    """

    def __init__(self, data: Mapping[str, Any], absent: Mapping[str, Any] | None = None, within: str = ""):
        self._data, self._absent, self._within = data, absent or {}, within
        self.read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def named(self, key: str) -> str:
        """The key with those that hold it: "rope_scaling.factor"."""
        return f"{self._within}.{key}" if self._within else key

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands: that of an absent key, or `default` where that says nothing or it is null."""
        self.read.add(key)
        value = self._data[key] if key in self._data else self._absent.get(key)
        return default if value is None else value

    def ignore(self, *keys: str) -> None:
        """Marks keys that this family has and that change nothing."""
        self.read.update(keys)

    def required(self, key: str, default: Any = None) -> Any:
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"the Hugging Face config has no {self.named(key)!r}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least one."""
        return self.whole(key, default, least=1)

    def whole(self, key: str, default: int | None = None, *, least: int = 0, most: int = MOST) -> int:
        """A whole number within bounds."""
        value = self.required(key, default)
        if least == 1:
            positive(self.named(key), value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{self.named(key)}={shown(value)} is not a whole number of {least:,} to {most:,}")
        return value

    def optional_size(self, key: str) -> int | None:
        """A size, or None where the key is absent or null."""
        return None if self.get(key) is None else self.size(key)

    def number(self, key: str, default: float | None = None, *, least: float = -math.inf) -> float:
        """A number of a size that can be reckoned with, greater than `least`."""
        value = self.required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.named(key)}={shown(value)} is not a number")
        if not abs(value) < _LARGEST or not value > least:  # what is made of it must stay a number, too
            more = "" if least == -math.inf else f", and greater than {least:g}"
            raise ValueError(f"{self.named(key)}={shown(value)} is not a finite number below {_LARGEST:g}{more}")
        return float(value)

    def optional_number(self, key: str, *, least: float = -math.inf) -> float | None:
        """A number, or None where the key is absent or null."""
        return None if self.get(key) is None else self.number(key, least=least)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.named(key)}={shown(value)} is neither true nor false")
        return value

    def choice(self, key: str, among: Container[str], default: str | None = None) -> str:
        """A text that is one of a few."""
        value = self.required(key, default)
        if not isinstance(value, str) or value not in among:
            raise unsupported(self.named(key), value, list(among) if isinstance(among, Sequence | Mapping) else ())
        return value

    def only(self, key: str, value: Any, absent: Any = None) -> None:
        """Refuses any value of the key but this one; an absent key means `absent`, or this one too."""
        found = self.get(key, value if absent is None else absent)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise unsupported(self.named(key), found, (value,))

    def wholes(self, key: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A list of whole numbers."""
        values = self._list(key, default)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
                raise ValueError(f"{self.named(key)} holds {shown(value)}, which is not a whole number of 0 or more")
        return tuple(values)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers greater than zero."""
        values = self._list(key, self.required(key))
        return tuple(
            Keys({str(i): value}, within=self.named(key)).number(str(i), least=0) for i, value in enumerate(values)
        )

    def texts(self, key: str, among: Sequence[str], count: int) -> tuple[str, ...] | None:
        """A list of `count` texts, each one of a few; None where the key is absent."""
        if self.get(key) is None:
            return None
        values = self._list(key, ())
        if other := [value for value in values if value not in among]:
            raise unsupported(self.named(key), other[0], among)
        if len(values) != count:
            raise ValueError(f"{self.named(key)} has {len(values)} values for {count} layers")
        return tuple(values)

    def part(self, key: str, absent: Mapping[str, Any] | None = None) -> Keys:
        """The object behind a key; one without keys where it is absent or null."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise ValueError(f"{self.named(key)}={shown(value)} is not a JSON object")
        return Keys(value, absent, self.named(key))

    def names(self) -> tuple[str, ...]:
        """The keys that there are."""
        return tuple(self._data)

    def token(self, key: str) -> int | None:
        """The id of a token, or None."""
        value = self.get(key)
        return None if value is None else self.whole(key)

    def tokens(self, key: str) -> tuple[int, ...]:
        """The ids of a token or of a list of them."""
        value = self.get(key)
        return () if value is None else self.wholes(key) if isinstance(value, list | tuple) else (self.whole(key),)

    def _list(self, key: str, default: Any) -> Sequence[Any]:
        value = self.get(key, default)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{self.named(key)}={shown(value)} is not a list")
        return value
