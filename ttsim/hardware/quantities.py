"""Constants as values: cost rules compute with them, and what comes out knows its unit and where it came from.

    bytes / DRAM_SHARDED_BANDWIDTH             a time: bytes over a rate
    blocks * BLOCK_LATENCY                     a time: so many of a constant time
    RESHARD_TIME * SMALL_KERNEL_SCALE          a time: a constant time and a ratio
    seconds(cycles / chip.clock)               a time that a rule computed from the chip

The result is a `Terms`, a linear form in products of constants, so that a price can be evaluated with other values of
the constants, differentiated by them, and asked what it rests on. A rule that adds a time to a ratio, or multiplies
bytes by a rate, raises `UnitError` when it runs; a constant that does not exist is an error at import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

Unit = Literal["s", "B/s", "FLOP/s", "1"]
# What a rate in a unit divides, which gives a time.
_RATES: Mapping[Unit, str] = MappingProxyType({"B/s": "bytes", "FLOP/s": "operations"})
Kind = Literal["sourced", "fitted", "calibrated"]
# What of a chip a constant measured on Wormhole follows on another one (see `ttsim.pricing.scaling`).
ScalesWith = Literal["clock", "dram", "noc", "link", "hop", "nothing"]

# A product of constants: ((name, power), ...) sorted by name; () is the number 1.
Factor: TypeAlias = "tuple[tuple[str, int], ...]"
NUMBER: Factor = ()


class UnitError(TypeError):
    """A rule adds what has different units, or multiplies what must be divided."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One named number of the cost model.

    Attributes:
      name: what files and reports call it.
      value: a sourced constant's value; the centre of a fitted one's prior.
      unit: "s" (a time), "B/s" or "FLOP/s" (a rate) or "1" (a ratio).
      kind: "sourced" (a measurement or a specification), "fitted" to the published tables, or "calibrated" on
        measurements of its own, which its source names.
      source: where the value (a fitted constant's prior) comes from.
      scales_with: what of the chip it follows; a time shrinks and a rate grows with it.
      log_width: standard deviation of the prior in log space (fitted constants).
      rows: what a fitted one is fitted on: the published "tables", or the rows "measured" by others since.
      guess: what a calibrated constant was thought to be before.
    """

    name: str
    value: float
    unit: Unit
    kind: Kind
    source: str
    scales_with: ScalesWith = "nothing"
    log_width: float = 0.0
    rows: Literal["tables", "measured"] = "tables"
    guess: float = 0.0

    # numpy would broadcast a constant over an array before it is asked
    __array_ufunc__ = None

    def __mul__(self, other: Any) -> Terms:
        """amount x constant, or constant x constant where one of the two is a ratio."""
        if self.unit in _RATES:
            raise UnitError(f"{self.name} is a rate in {self.unit}: divide {_RATES[self.unit]} by it")
        if isinstance(other, Constant | Terms):
            return _product(_terms(self), _terms(other))
        return Terms({((self.name, 1),): other}, self.unit)

    __rmul__ = __mul__

    def __rtruediv__(self, amount: Any) -> Terms:
        """Bytes / rate, in seconds; anything / ratio."""
        if self.unit == "s":
            raise UnitError(f"{self.name} is a time: multiply a count by it")
        if isinstance(amount, Constant | Terms):
            amount = _terms(amount)
            if self.unit != "1":
                amounts = _RATES[self.unit]
                raise UnitError(
                    f"{self.name} is a rate in {self.unit}: only {amounts}, a plain number, can be divided by it"
                )
            return _product(amount, Terms({((self.name, -1),): 1.0}, "1"))
        return Terms({((self.name, -1),): amount}, "s" if self.unit in _RATES else "1")

    def __add__(self, other: Any) -> Terms:
        total: Terms = _terms(self) + other
        return total

    __radd__ = __add__


def sourced(name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str) -> Constant:
    """A constant that is a measurement or a specification."""
    return Constant(name=name, value=value, unit=unit, kind="sourced", scales_with=scales_with, source=source)


def fitted(
    name: str,
    value: float,
    unit: Unit,
    scales_with: ScalesWith,
    source: str,
    *,
    log_width: float,
    rows: Literal["tables", "measured"] = "tables",
) -> Constant:
    """A constant that `data/constants.json` sets; this is its prior, whose deviation in log space is `log_width`."""
    return Constant(
        name=name,
        value=value,
        unit=unit,
        kind="fitted",
        scales_with=scales_with,
        source=source,
        log_width=log_width,
        rows=rows,
    )


def calibrated(
    name: str, value: float, unit: Unit, scales_with: ScalesWith, source: str, *, guess: float | None = None
) -> Constant:
    """A constant that was set once on rows of `ttsim.proof.measured`, where no guess is given: so that fitting it again
    changes no error."""
    return Constant(
        name=name,
        value=value,
        unit=unit,
        kind="calibrated",
        scales_with=scales_with,
        source=source if guess is not None else f"{source}; set once on rows of measured.csv",
        guess=value if guess is None else guess,
        rows="measured",
    )


class Terms(Mapping[Factor, Any]):
    """A linear form: the sum of amount x product of constants, in one unit.

    Amounts are numbers, or arrays of numbers (a price for each position of decode).
    """

    __slots__ = ("_amounts", "unit")
    __array_ufunc__ = None

    def __init__(self, amounts: Mapping[Factor, Any] | None = None, unit: Unit = "s"):
        self._amounts = dict(amounts or {})
        self.unit = unit

    def __getitem__(self, factor: Factor) -> Any:
        return self._amounts[factor]

    def __iter__(self) -> Iterator[Factor]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __repr__(self) -> str:
        return f"Terms({self._amounts!r}, {self.unit!r})"

    def __add__(self, other: Constant | Terms) -> Terms:
        other = _terms(other)
        if not other:
            return self
        if not self:
            return other
        if other.unit != self.unit:
            raise UnitError(f"{_names(self)} in {self.unit} and {_names(other)} in {other.unit} can't be added")
        total = dict(self._amounts)
        for factor, amount in other.items():
            total[factor] = total.get(factor, 0.0) + amount
        return Terms(total, self.unit)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Terms:
        if isinstance(other, Constant | Terms):
            return _product(self, _terms(other))
        return Terms({factor: amount * other for factor, amount in self._amounts.items()}, self.unit)

    __rmul__ = __mul__

    def value(self, constants: Mapping[str, Any]) -> Any:
        """The form's value, in its unit.

        Args:
          constants: value of each named constant, in SI units.
        """
        total: Any = 0.0
        for factor, amount in self._amounts.items():
            total = total + amount * factor_value(factor, constants)
        return total


def seconds(amount: Any) -> Terms:
    """A time that a rule computed, in seconds."""
    return Terms({NUMBER: amount})


def factor_value(factor: Factor, constants: Mapping[str, Any]) -> Any:
    """The product of constants that a factor stands for."""
    product: Any = 1.0
    for name, power in factor:
        product = product * constants[name] if power == 1 else product * constants[name] ** power
    return product


def _terms(value: Constant | Terms) -> Terms:
    if isinstance(value, Terms):
        return value
    if isinstance(value, Constant):
        return Terms({((value.name, 1),): 1.0}, value.unit)
    raise UnitError(f"{value!r} has no unit: use seconds({value!r}), or a constant")


def _product(first: Terms, second: Terms) -> Terms:
    if "1" not in (first.unit, second.unit):
        raise UnitError(f"{_names(first)} in {first.unit} times {_names(second)} in {second.unit} is no time")
    total: dict[Factor, Any] = {}
    for left, a in first.items():
        for right, b in second.items():
            powers = dict(left)
            for name, power in right:
                powers[name] = powers.get(name, 0) + power
            factor = tuple(sorted((name, power) for name, power in powers.items() if power))
            total[factor] = total.get(factor, 0.0) + a * b
    return Terms(total, first.unit if second.unit == "1" else second.unit)


def _names(terms: Terms) -> str:
    return " + ".join(" x ".join(name for name, _ in factor) or "a number" for factor in terms)


def average(value: Any) -> float:
    """A value, or its mean over the positions of a decode step: most values are the same at all of them."""
    return float(value) if isinstance(value, float | int) else float(value.mean())
