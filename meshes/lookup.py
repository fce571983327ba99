"""Systems by name: `get_system` and the other ways in which people, the catalogue and the boards say one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType

from ttsim.errors import UnknownSystemError
from ttsim.files.reading import shown
from ttsim.meshes.systems import SYSTEMS, System, replicas, split
from ttsim.meshes.toml_systems import load_system, to_toml


def _fold(name: str) -> str:
    """One spelling of the ways people write a name: only letters, digits and the commas of a shape, in lower case."""
    return re.sub(r"[^a-z0-9,]", "", name.casefold())


# How people, the catalogue and the boards themselves name the systems. QuietBox and LoudBox alone are the Wormhole
# ones, as in tt-metal's README; a mesh shape is one of Wormhole chips, as MESH_DEVICE reads it.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        _fold(spelling): name
        for name, spellings in {
            "N150": "n150d|n150s|(1,1)|1x1",
            "N300": "n300d|n300s|(1,2)|1x2",
            "N150x4": "4xN150|(1,4)|1x4",
            "T3K": "T3000|LoudBox|WH LoudBox|LoudBox WH|TT-LoudBox|QuietBox|WH QuietBox|QuietBox WH|TT-QuietBox|N300x4|"
            "4xN300|(1,8)|(8,1)|(2,4)|1x8|2x4",
            "TG": "Galaxy 4U|4U|WH Galaxy 4U",
            "Galaxy": "WH Galaxy|Wormhole Galaxy|Galaxy 6U|6U|WH Galaxy 6U|TT-Galaxy|WHGLX|(8,4)|(4,8)|8x4|4x8",
            "Galaxy T3K": "GALAXY_T3K|T3K slice|WH Galaxy (T3K slice)|Galaxy (T3K slice)",
            "Dual Galaxy": "2xGalaxy|Galaxy x2",
            "Quad Galaxy": "4xGalaxy|Galaxy x4",
            "P100": "p100a",
            "P150": "p150a|p150b|p150c",
            "P300": "p300a|p300b|p300c",
            "P150x2": "2xP150",
            "P150x4": "4xP150|BH QuietBox|QuietBox BH|Blackhole QuietBox|TT-QuietBox Blackhole|QuietBox BH GE|BH QB",
            "P300x2": "2xP300|QuietBox 2|TT-QuietBox 2|QB2",
            "P150x8": "8xP150|BH LoudBox|LoudBox BH|Blackhole LoudBox|BH LB",
            "BH Galaxy": "Blackhole Galaxy|BHGLX|BLACKHOLE_GALAXY",
        }.items()
        for spelling in (name, *spellings.split("|"))
    }
)


def get_system(name: str | System, data_parallel: int = 1) -> System:
    """The system of this name (any case, "T3K DP=4" too), cut into `data_parallel` replicas.

    Args:
      name: a built-in name or another way to say it (`ALIASES`), the path of a TOML file (see
        `ttsim.meshes.toml_systems`), or a system.

    Example:
      >>> get_system("QuietBox", data_parallel=4).label, get_system("t3k dp=2").chips_per_replica
      ('T3K DP=4', 4)

    Raises:
      UnknownSystemError: no such system, or its chips don't divide into that many replicas.
    """
    if isinstance(name, System):
        return split(name, data_parallel)
    if not isinstance(name, str):
        raise UnknownSystemError(f"a device is a name, a TOML file or a System, not {shown(name)}")
    if name.endswith(".toml"):
        return split(load_system(name), data_parallel)
    match = re.fullmatch(r"(.*?)\W*(?:\(?\s*(DP)\s*=\s*(\S*?)\s*\)?)?\s*", name, re.I | re.S)
    base, marker, degree = match.groups() if match else (name, None, "")
    system = SYSTEMS.get(system_name(base) or "")
    if system is None:
        near = dict.fromkeys(
            ALIASES[each] for each in difflib.get_close_matches(_fold(base[:80]), ALIASES, n=4, cutoff=0.55)
        )
        hint = f"did you mean {' or '.join(list(near)[:2])}? " if near else ""
        raise UnknownSystemError(f"no device named {shown(name)}: {hint}known: {', '.join(SYSTEMS)}")
    if not marker:
        return split(system, data_parallel)
    if not re.fullmatch("[0-9]{1,6}", degree):
        raise UnknownSystemError(f"the number of replicas in {shown(name)} is no number: write {base} DP=4")
    if replicas(data_parallel) not in (1, int(degree)):
        raise UnknownSystemError(f"{name!r} says DP={int(degree)} and data_parallel says {data_parallel}")
    return split(system, int(degree))


def system_name(spelling: str) -> str | None:
    """The built-in system that goes by this name (any of `ALIASES`, without replicas), or None."""
    return ALIASES.get(_fold(spelling))


def print_systems(name: str) -> str:
    """A built-in system as TOML, or all of them ("all"), each under a line with its name."""
    if name.lower() == "all":
        return "\n".join(f"# {system.name}\n{to_toml(system)}" for system in SYSTEMS.values())
    if name.endswith(".toml"):
        raise UnknownSystemError(f"no built-in system {name!r}: {', '.join(SYSTEMS)}, all")
    return to_toml(get_system(name))
