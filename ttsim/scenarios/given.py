"""What a scenario is given, checked: whole numbers, a prefix, and the software of a date with the box it drives."""

from __future__ import annotations

import dataclasses
import datetime
import operator
from typing import Any

from ttsim.files.reading import shown
from ttsim.hardware import facts
from ttsim.hardware.software import Software, software_of
from ttsim.meshes.systems import SYSTEMS, System, Topology, split
from ttsim.scenarios.memory import CACHE_BLOCK

_LONGEST = 2**26  # tokens of a sequence, so that whatever is counted in them is counted exactly


def software_for(
    system: System, date: datetime.date | str | None = None, *, stack: str = "tt_transformers", model: str = ""
) -> Software:
    """The software of a date (None: the system's own) and stack, dispatching as fast as the system's chip does.

    Raises:
      ValueError: the date is no day and no release, or the stack is unknown.
    """
    software = software_of(date or system.software, stack, model, system.box_names)
    return dataclasses.replace(software, dispatch_gap=software.dispatch_gap * system.chip.dispatch_ratio)


def system_of(system: System, software: Software) -> System:
    """A built-in system with the links, the topology and the grid of cores that the software of a date drives."""
    built_in = SYSTEMS.get(system.name)
    if built_in is None or len(system.grid) > 1 or split(built_in, system.data_parallel) != system:
        return system
    links = facts.value_or("links", system.links, software.date, software.place)
    topology = facts.value_or("topology", system.topology.value, software.date, software.place)
    grid = facts.value_or("compute_grid", system.chip.compute_grid, software.date, software.place)
    chip = system.chip if grid == system.chip.compute_grid else dataclasses.replace(system.chip, compute_grid=grid)
    return dataclasses.replace(system, links=links, topology=Topology(topology), chip=chip)


def check_prefix(hit: int, prompt: int, software: Software) -> None:
    """Refuses a prefix-cache hit that the software can't have, or that is not whole blocks of a longer prompt.

    Raises:
      ValueError: which of them it is.
    """
    if not software.fact("prefix_cache"):
        raise ValueError(f"{software.stack} of {software.date} keeps no prefixes for this model: leave prefix_hit out")
    if hit % CACHE_BLOCK or hit >= prompt:
        least = min(hit, prompt - 1) // CACHE_BLOCK * CACHE_BLOCK
        raise ValueError(
            f"prefix_hit is whole cache blocks of {CACHE_BLOCK} tokens, fewer than the {prompt} of the prompt, not "
            f"{hit}: write {least}"
        )


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`, whatever integer type it has."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {shown(value)}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {shown(number)}")
    if number > _LONGEST:
        raise ValueError(f"{name} must be at most {_LONGEST:,}, not {shown(number)}")
    return number
