"""Tenstorrent systems as data: chips, links and topology, and the jax meshes shaped like them.

Every system's mesh has the same axes, so that one program runs on all of them: `dp` counts independent replicas of the
model, `tp` the chips of one replica in one-dimensional tensor parallelism, `row` and `col` the two directions of a
Galaxy in two-dimensional tensor parallelism.

Sources: tt-metal models/tt_transformers (mesh shapes, `ccl_topology`, `create_submeshes`),
tech_reports/EthernetMultichip (links), tech_reports/TT-Distributed (hosts), for the state of May 2025.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from ttsim.files.reading import shown

DATA_AXIS = "dp"
TENSOR_AXIS = "tp"
ROW_AXIS = "row"
COLUMN_AXIS = "col"


class Topology(Enum):
    """How the chips of one replica are connected."""

    SINGLE = "single"  # one chip
    LINEAR = "linear"  # a line
    RING = "ring"  # a closed ring
    GRID = "grid"  # rows x columns, lines in both directions


class UnknownSystemError(ValueError):
    """No system of this name, or it can't be cut into that many replicas."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One box, cut into `data_parallel` replicas of `chips_per_replica` chips.

    Attributes:
      name: the tables' name ("N150", "N300", "T3K", "TG").
      chip: name of the chip (a key of `ttsim.hardware.chips.CHIPS`).
      grid: chips of one replica, (n,) for a line or ring, (rows, columns) for a Galaxy.
      topology: how the chips of one replica are connected.
      data_parallel: independent replicas, all driven by one host.
      links: Ethernet links that one collective uses between two neighbours.
      gateways: whether the host reaches the chips through gateway chips (the Galaxy of 2024/25, "TG").
      software: state of the software that it runs, None for that of the published tables.
    """

    name: str
    chip: str
    grid: tuple[int, ...]
    topology: Topology
    data_parallel: int = 1
    links: int = 1
    gateways: bool = False
    software: datetime.date | None = None

    @property
    def chips_per_replica(self) -> int:
        return int(np.prod(self.grid))

    @property
    def num_chips(self) -> int:
        return self.chips_per_replica * self.data_parallel

    @property
    def label(self) -> str:
        """The name with its data-parallel degree: "T3K", "T3K DP=4"."""
        return self.name if self.data_parallel == 1 else f"{self.name} DP={self.data_parallel}"

    @property
    def axis_names(self) -> tuple[str, ...]:
        return (DATA_AXIS, TENSOR_AXIS) if len(self.grid) == 1 else (DATA_AXIS, ROW_AXIS, COLUMN_AXIS)

    @property
    def mesh_shape(self) -> tuple[int, ...]:
        return (self.data_parallel, *self.grid)

    def abstract_mesh(self) -> AbstractMesh:
        """The mesh without devices, for tracing."""
        return AbstractMesh(self.mesh_shape, self.axis_names, axis_types=(AxisType.Auto,) * len(self.mesh_shape))

    def mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over real (or virtual CPU) devices, the first `num_chips` of `devices`.

        Raises:
          ValueError: there are fewer devices than chips.
        """
        devices = jax.devices() if devices is None else devices
        if len(devices) < self.num_chips:
            raise ValueError(
                f"{self.label} needs {self.num_chips} devices and JAX has {len(devices)}: "
                f'jax.config.update("jax_num_cpu_devices", {self.num_chips}) makes virtual ones'
            )
        grid = np.asarray(devices[: self.num_chips]).reshape(self.mesh_shape)
        return Mesh(grid, self.axis_names, axis_types=(AxisType.Auto,) * len(self.mesh_shape))


_BLACKHOLE = datetime.date(2026, 4, 13)  # date of the dispatch figures of Blackhole

SYSTEMS = {
    system.name: system
    for system in (
        System(name="N150", chip="wormhole", grid=(1,), topology=Topology.SINGLE),
        # One of the board's two links is kept for the dispatch tunnel to the second chip.
        System(name="N300", chip="wormhole", grid=(2,), topology=Topology.LINEAR),
        # Four N300 in a 2 x 4 mesh; the ring over all eight crosses on-board edges, which have one free link.
        System(name="T3K", chip="wormhole", grid=(8,), topology=Topology.RING),
        System(name="TG", chip="wormhole", grid=(8, 4), topology=Topology.GRID, links=2, gateways=True),
        # Predicted: no published row is of Blackhole. Collectives use two links between neighbours (tt-metal
        # tech_reports/CCLs, best practices of 2026); lines and rings as `ccl_topology` chooses them.
        System(name="P100", chip="blackhole_p100", grid=(1,), topology=Topology.SINGLE, software=_BLACKHOLE),
        System(name="P150", chip="blackhole_p150", grid=(1,), topology=Topology.SINGLE, software=_BLACKHOLE),
        System(name="P300", chip="blackhole_p150", grid=(2,), topology=Topology.LINEAR, links=2, software=_BLACKHOLE),
        System(name="P150x4", chip="blackhole_p150", grid=(4,), topology=Topology.LINEAR, links=2, software=_BLACKHOLE),
        System(name="P150x8", chip="blackhole_p150", grid=(8,), topology=Topology.RING, links=2, software=_BLACKHOLE),
    )
}


# Names that boxes are sold under. The LoudBox is the T3000 in a rack; source: docs.tenstorrent.com, systems.
SHOP_NAMES = {
    "T3000": "T3K",
    "LOUDBOX": "T3K",
    "TT-LOUDBOX": "T3K",
    "N300X4": "T3K",
    "GALAXY": "TG",
    "N150D": "N150",
    "N150S": "N150",
    "N300D": "N300",
    "N300S": "N300",
    "P100A": "P100",
    "P150A": "P150",
    "P150B": "P150",
    "P150C": "P150",
}
_SEVERAL = {"QUIETBOX": "T3K (four N300, Wormhole) or P150x4 (four P150, Blackhole)"}


def get_system(name: str | System, data_parallel: int = 1) -> System:
    """The system of this name (any case, "T3K DP=4" too), cut into `data_parallel` replicas.

    Args:
      name: a built-in name, the path of a TOML file (see `ttsim.meshes.toml_systems`), or a system.

    Raises:
      UnknownSystemError: no such system, or its chips don't divide into that many replicas.
    """
    if isinstance(name, System):
        return split(name, data_parallel)
    if not isinstance(name, str):
        raise UnknownSystemError(f"a device is a name, a TOML file or a System, not {shown(name)}")
    if name.endswith(".toml"):
        from ttsim.meshes.toml_systems import load_system

        return split(load_system(name), data_parallel)
    base, marker, degree = (part.strip() for part in name.upper().strip(" )").replace("(", " ").partition("DP="))
    known = {each.upper(): system for each, system in SYSTEMS.items()}
    system = known.get(SHOP_NAMES.get(base, base).upper())
    if base in _SEVERAL:
        raise UnknownSystemError(f"{name!r} is the name of several boxes: {_SEVERAL[base]}")
    if system is None:
        near = [known[each].name for each in difflib.get_close_matches(base, known, n=2, cutoff=0.3)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownSystemError(f"no device named {shown(name)}: {hint}known: {', '.join(SYSTEMS)}")
    if not marker:
        return split(system, data_parallel)
    if not re.fullmatch("[0-9]{1,6}", degree):
        raise UnknownSystemError(f"the number of replicas in {shown(name)} is no number: write {base} DP=4")
    if data_parallel not in (1, int(degree)):
        raise UnknownSystemError(f"{name!r} says DP={int(degree)} and data_parallel says {data_parallel}")
    return split(system, int(degree))


def split(system: System, data_parallel: int) -> System:
    """Cuts a system into replicas, the way tt_transformers cuts a mesh into 1 x (n / data_parallel) submeshes.

    Eight chips of a T3K close into a ring; eight chips cut out of a Galaxy are driven as a line, since the code asks
    for the ring only when the box is no Galaxy (`ccl_topology`).

    Raises:
      UnknownSystemError: the chips don't divide into that many replicas, or the system is cut in another way already.
    """
    if data_parallel in (1, system.data_parallel):
        return system
    if system.data_parallel > 1:
        raise UnknownSystemError(f"{system.label} has {system.data_parallel} replicas already, not {data_parallel}")
    if data_parallel < 1 or system.num_chips % data_parallel:
        divisors = [d for d in range(1, system.num_chips + 1) if system.num_chips % d == 0]
        raise UnknownSystemError(
            f"{system.name} has {system.num_chips} chips: data_parallel must be one of {divisors}, not {data_parallel}"
        )
    chips = system.num_chips // data_parallel
    topology = Topology.SINGLE if chips == 1 else Topology.LINEAR
    links = 1 if system.topology is Topology.GRID else system.links
    return dataclasses.replace(system, grid=(chips,), topology=topology, data_parallel=data_parallel, links=links)
