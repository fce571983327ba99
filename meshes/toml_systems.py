"""Systems as TOML files: a box of one's own, and the built-in ones in that form.

name = "N300"
grid = [2]                  # chips of one replica: [n], or [rows, columns]
topology = "linear"         # single, linear, ring, grid
links = 1                   # Ethernet links of one collective between two neighbours
local_chips = 1             # chips that the host reaches over PCIe, optional: all of them
software = 2025-05-12       # state of the software, optional

[chip]                      # or  chip = "wormhole"  above: a built-in one
name = "wormhole"
family = "wormhole"         # or "blackhole"
compute_grid = [8, 8]       # rows, columns of cores
clock_ghz = 1.0
dram_gib = 12.0
dram_banks = 12
dram_bandwidth_gb_s = 288.0
link_bandwidth_gb_s = 12.5
hop_latency_ns = 711.0
noc_bytes_per_cycle = 30.0
dispatch_ratio = 1.0        # gap between traced kernels against Wormhole's, optional
request_cycles = 6.8        # between two DRAM reads of one endpoint, optional
host_read_gb_s = 12.6       # of the host reading DRAM over PCIe, optional
power = 160.0               # watts, optional
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttsim.errors import SystemFileError
from ttsim.files.reading import InputError, parse_toml, printable, read_text, shown
from ttsim.hardware.chips import CHIPS, Chip
from ttsim.meshes.systems import SYSTEMS, System, Topology

_NAME_LENGTH = 64
_LARGEST_COUNT = 4096  # chips along an axis, cores, links, banks: far beyond any box
_SMALLEST, _LARGEST = 1e-3, 1e9  # of figures in the file's units

_SHAPE = {Topology.SINGLE: 1, Topology.LINEAR: 1, Topology.RING: 1, Topology.GRID: 2}


def load_system(path: str | Path) -> System:
    """The system that a TOML file describes.

    Raises:
      SystemFileError: fields are missing, unknown or wrong; `problems` lists all of them.
    """
    try:
        text = read_text(path, 2**20)
    except InputError as error:
        raise SystemFileError([str(error)]) from None
    return parse_system(text, str(path))


def parse_system(text: str, origin: str = "system") -> System:
    """The system that a TOML text describes (see `load_system`).

    Args:
      origin: what the problems call it.
    """
    try:
        table = parse_toml(text, origin)
    except InputError as error:
        raise SystemFileError([str(error)]) from None
    reader = _Reader(origin)
    values = reader.read(table, "", _SYSTEM_FIELDS)
    chip = reader.chip(table.get("chip"))
    grid, topology = values.get("grid"), values.get("topology")
    if grid and topology:
        if len(grid) != _SHAPE[topology]:
            shape = "[rows, columns]" if topology is Topology.GRID else "[chips]"
            reader.problem(f"grid: topology {topology.value!r} needs {shape}, not {list(grid)}")
        elif (topology is Topology.SINGLE) != (len(grid) == 1 and grid[0] == 1):
            reader.problem(f"topology: {topology.value!r} does not fit grid {list(grid)}: one chip is 'single'")
    name = values.get("name")
    if name and chip and name.upper() in {known.upper() for known in SYSTEMS}:
        known = next(system for each, system in SYSTEMS.items() if each.upper() == name.upper())
        if not reader.problems and System(chip=chip, **values) != known:
            reader.problem(f"name: {name!r} is a built-in system with other figures: choose another name")
    if not reader.problems and chip and CHIPS.get(chip.name, chip) != chip:
        reader.problem(f"chip.name: {chip.name!r} is a built-in chip with other figures: choose another name")
    if reader.problems or chip is None:
        raise SystemFileError(reader.problems)
    return System(chip=chip, **values)


# Fields: a name, how it is read, and whether it may be left out


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    if printable(value) != value or len(value) > _NAME_LENGTH:
        raise ValueError(f"must be a printable text of at most {_NAME_LENGTH} characters")
    return value.strip()


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_COUNT:
        raise ValueError(f"must be a whole number above 0 and at most {_LARGEST_COUNT:,}")
    return value


def _counts(lengths: Sequence[int]) -> Callable[[Any], tuple[int, ...]]:
    def read(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) not in lengths:
            raise ValueError(f"must be a list of {' or '.join(map(str, lengths))} whole numbers")
        return tuple(_count(each) for each in value)

    return read


def _in_si(value: float, unit: float) -> float:
    """A figure in its SI unit; 711 ns is the number nearest to 711e-9, which a product by 1e-9 would miss."""
    return value * unit if unit >= 1 else value / round(1 / unit)


def _positive(factor: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST <= value <= _LARGEST:
            raise ValueError(f"must be a number above 0 ({_SMALLEST:g} to {_LARGEST:g})")
        return _in_si(value, factor)

    return read


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError(f"must be a whole number, 0 or more and at most {_LARGEST_COUNT:,}")
    return value


def _family(value: Any) -> str:
    families = sorted({chip.family for chip in CHIPS.values()})
    if value not in families:
        raise ValueError(f"must be one of {', '.join(families)}")
    return str(value)


def _topology(value: Any) -> Topology:
    names = [topology.value for topology in Topology]
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return Topology(value)


def _date(value: Any) -> datetime.date:
    if isinstance(value, datetime.datetime) or not isinstance(value, datetime.date):
        raise ValueError("must be a date without quotes, like 2025-05-12")
    return value


# File's name -> (attribute, reader, required).
Fields = Mapping[str, tuple[str, Callable[[Any], Any], bool]]
_SYSTEM_FIELDS: Fields = {
    "name": ("name", _name, True),
    "grid": ("grid", _counts((1, 2)), True),
    "topology": ("topology", _topology, True),
    "links": ("links", _count, False),
    "local_chips": ("local_chips", _whole, False),
    "replica_name": ("replica_name", _name, False),
    "software": ("software", _date, False),
}
_CHIP_FIELDS: Fields = {
    "name": ("name", _name, True),
    "family": ("family", _family, True),
    "compute_grid": ("compute_grid", _counts((2,)), True),
    "clock_ghz": ("clock", _positive(1e9), True),
    "dram_gib": ("dram_bytes", lambda value: round(_positive(2**30)(value)), True),
    "dram_banks": ("dram_banks", _count, True),
    "dram_bandwidth_gb_s": ("dram_bandwidth", _positive(1e9), True),
    "link_bandwidth_gb_s": ("link_bandwidth", _positive(1e9), True),
    "hop_latency_ns": ("hop_latency", _positive(1e-9), True),
    "noc_bytes_per_cycle": ("noc_bytes_per_cycle", _positive(1.0), True),
    "dispatch_ratio": ("dispatch_ratio", _positive(1.0), False),
    "request_cycles": ("request_cycles", _positive(1.0), False),
    "host_read_gb_s": ("host_read_bandwidth", _positive(1e9), False),
    "power": ("power", _positive(1.0), False),
}


class _Reader:
    """Reads tables and collects what is wrong."""

    def __init__(self, origin: str):
        self.origin = printable(origin)
        self.problems: list[str] = []

    def problem(self, line: str) -> None:
        self.problems.append(f"{self.origin}: {line}")

    def read(self, table: Mapping[str, Any], prefix: str, fields: Fields) -> dict[str, Any]:
        """{attribute: value} of the fields that are right."""
        values = {}
        for key, (attribute, reader, required) in fields.items():
            if key not in table:
                if required:
                    self.problem(f"{prefix}{key} is missing")
                continue
            try:
                values[attribute] = reader(table[key])
            except ValueError as error:
                self.problem(f"{prefix}{key} {error}, not {shown(table[key])}")
        for key in table:
            if key not in fields and not (key == "chip" and not prefix):
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"fields: {', '.join(fields)}"
                self.problem(f"{prefix}{printable(key)[:80]} is unknown; {hint}")
        return values

    def chip(self, value: Any) -> Chip | None:
        """The chip of a table or of a built-in name."""
        if value is None:
            self.problem(f"chip is missing: a table [chip], or one of {', '.join(CHIPS)}")
        elif isinstance(value, str):
            if value in CHIPS:
                return CHIPS[value]
            self.problem(f"chip {shown(value)} is unknown: one of {', '.join(CHIPS)}, or a table [chip]")
        elif isinstance(value, dict):
            before = len(self.problems)
            values = self.read(value, "chip.", _CHIP_FIELDS)
            return Chip(**values) if len(self.problems) == before else None
        else:
            self.problem("chip must be a table [chip] or the name of a built-in one")
        return None


def to_toml(system: System) -> str:
    """A system as the TOML that `parse_system` reads."""
    chip = system.chip
    lines = [
        f'name = "{system.name}"',
        f"grid = {list(system.grid)}",
        f'topology = "{system.topology.value}"',
        f"links = {system.links}",
        *([] if system.local_chips is None else [f"local_chips = {system.local_chips}"]),
        *([f'replica_name = "{system.replica_name}"'] if system.replica_name else []),
        *([f"software = {system.software.isoformat()}"] if system.software else []),
        "",
        "[chip]",
        f'name = "{chip.name}"',
        f'family = "{chip.family}"',
        f"compute_grid = {list(chip.compute_grid)}",
        f"clock_ghz = {_decimal(chip.clock, 1e9)}",
        f"dram_gib = {_decimal(chip.dram_bytes, 2**30)}",
        f"dram_banks = {chip.dram_banks}",
        f"dram_bandwidth_gb_s = {_decimal(chip.dram_bandwidth, 1e9)}",
        f"link_bandwidth_gb_s = {_decimal(chip.link_bandwidth, 1e9)}",
        f"hop_latency_ns = {_decimal(chip.hop_latency, 1e-9)}",
        f"noc_bytes_per_cycle = {_decimal(chip.noc_bytes_per_cycle, 1.0)}",
        f"dispatch_ratio = {_decimal(chip.dispatch_ratio, 1.0)}",
        f"request_cycles = {_decimal(chip.request_cycles, 1.0)}",
        f"host_read_gb_s = {_decimal(chip.host_read_bandwidth, 1e9)}",
        f"power = {_decimal(chip.power, 1.0)}",
    ]
    return "\n".join(lines) + "\n"


def _decimal(value: float, unit: float) -> str:
    """The shortest decimal that times its unit gives the value again."""
    quotient = value / unit
    for digits in range(1, 17):
        text = repr(float(f"{quotient:.{digits}g}"))
        if _in_si(float(text), unit) == value:
            return text
    return repr(quotient)
