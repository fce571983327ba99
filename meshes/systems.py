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
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from ttsim.errors import UnknownSystemError
from ttsim.files.reading import shown
from ttsim.hardware.chips import (
    BLACKHOLE_GALAXY,
    BLACKHOLE_P100,
    BLACKHOLE_P150,
    BLACKHOLE_P300,
    WORMHOLE,
    WORMHOLE_6U,
    Chip,
)

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


@dataclass(frozen=True, kw_only=True)
class System:
    """One box, cut into `data_parallel` replicas of `chips_per_replica` chips.

    Attributes:
      name: the tables' name ("N150", "N300", "T3K", "TG").
      chip: the chip that it has many of.
      grid: chips of one replica, (n,) for a line or ring, (rows, columns) for a Galaxy.
      topology: how the chips of one replica are connected.
      data_parallel: independent replicas, all driven by one host.
      links: Ethernet links that one collective uses between two neighbours.
      local_chips: chips of the box that the host reaches over PCIe; the others through a neighbour or a gateway.
        None is all of them.
      software: state of the software that it runs, None for that of the published tables.
      replica_name: what tt_transformers calls the chips of one replica, None to tell from their number.
    """

    name: str
    chip: Chip
    grid: tuple[int, ...]
    topology: Topology
    data_parallel: int = 1
    links: int = 1
    local_chips: int | None = None
    software: datetime.date | None = None
    replica_name: str | None = None

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
    def tunnelled(self) -> float:
        """Share of the chips that the host does not reach over PCIe."""
        return 0.0 if self.local_chips is None else 1 - self.local_chips / self.num_chips

    @property
    def box_names(self) -> tuple[str, ...]:
        """What dated facts may call one replica: tt_transformers' name for its chips, the box, the cut box
        ("P150x4-DP4"), the chips' family."""
        known = _REPLICAS.get(self.chip.family, {}).get(self.chips_per_replica)
        name = self.replica_name or known or f"{self.chips_per_replica} chips"
        box = {WORMHOLE_6U.name: "Galaxy"}.get(self.chip.name, name)  # also where eight chips of it are one replica
        cut = (f"{self.name}-DP{self.data_parallel}",) if self.data_parallel > 1 else ()
        return (name, box, *cut, self.chip.family)

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


# What tt_transformers calls a mesh of so many chips (`determine_device_name` of model_config.py), also where it is cut
# out of a larger box.
_REPLICAS = {
    "wormhole": {1: "N150", 2: "N300", 4: "N150x4", 8: "T3K", 32: "TG"},
    "blackhole": {1: "P150", 2: "P300", 4: "P150x4", 8: "P150x8", 32: "BHGLX"},
}
_2026 = datetime.date(2026, 9, 1)  # boxes that the published tables do not have: software as far as it is known


def _galaxies(name: str, boxes: int, replica_name: str | None = None) -> System:
    """Wormhole Galaxies of 2025 (6U), 8 x 4 chips each, all on PCIe, joined along their rows."""
    return System(
        name=name,
        chip=WORMHOLE_6U,
        grid=(8 * boxes, 4),
        topology=Topology.GRID,
        links=4,
        software=_2026,
        replica_name=replica_name,
    )


SYSTEMS = MappingProxyType(
    {
        system.name: system
        for system in (
            System(name="N150", chip=WORMHOLE, grid=(1,), topology=Topology.SINGLE),
            # One of the board's two links is kept for the dispatch tunnel to the second chip.
            System(name="N300", chip=WORMHOLE, grid=(2,), topology=Topology.LINEAR, local_chips=1),
            System(name="N150x4", chip=WORMHOLE, grid=(4,), topology=Topology.LINEAR),
            # Four N300 in a 2 x 4 mesh; the ring over all eight crosses on-board edges, which have one free link.
            System(name="T3K", chip=WORMHOLE, grid=(8,), topology=Topology.RING, local_chips=4),
            # The Galaxy of 2024 (4U): the host reaches its chips through four gateways.
            System(name="TG", chip=WORMHOLE, grid=(8, 4), topology=Topology.GRID, links=2, local_chips=0),
            _galaxies("Galaxy", 1, "Galaxy"),
            # Eight chips of a Galaxy, which close into a ring and have PCIe each.
            System(name="Galaxy T3K", chip=WORMHOLE_6U, grid=(8,), topology=Topology.RING, links=1, software=_2026),
            _galaxies("Dual Galaxy", 2),
            _galaxies("Quad Galaxy", 4),
            # Blackhole: links and rings as tt_transformers uses them since 2026-01-21 (`tt_ccl.py`, `ccl_topology`).
            System(
                name="P100",
                chip=BLACKHOLE_P100,
                grid=(1,),
                topology=Topology.SINGLE,
                software=_2026,
                replica_name="P100",
            ),
            System(name="P150", chip=BLACKHOLE_P150, grid=(1,), topology=Topology.SINGLE, software=_2026),
            System(name="P300", chip=BLACKHOLE_P300, grid=(2,), topology=Topology.LINEAR, links=2, software=_2026),
            System(
                name="P150x2",
                chip=BLACKHOLE_P150,
                grid=(2,),
                topology=Topology.LINEAR,
                links=2,
                software=_2026,
                replica_name="P150x2",
            ),
            System(name="P150x4", chip=BLACKHOLE_P150, grid=(4,), topology=Topology.RING, links=2, software=_2026),
            System(
                name="P300x2",
                chip=BLACKHOLE_P300,
                grid=(4,),
                topology=Topology.RING,
                links=2,
                software=_2026,
                replica_name="P300x2",
            ),
            System(name="P150x8", chip=BLACKHOLE_P150, grid=(8,), topology=Topology.RING, links=2, software=_2026),
            System(
                name="BH Galaxy", chip=BLACKHOLE_GALAXY, grid=(8, 4), topology=Topology.GRID, links=2, software=_2026
            ),
        )
    }
)


def replicas(number: Any) -> int:
    """A number of replicas, whatever integer type it has."""
    try:
        return operator.index(number)
    except TypeError:
        raise UnknownSystemError(f"data_parallel must be a whole number, not {shown(number)}") from None


def split(system: System, data_parallel: int) -> System:
    """Cuts a system into replicas, the way tt_transformers cuts a mesh into 1 x (n / data_parallel) submeshes.

    Eight chips of a T3K, or of a Galaxy of 2025, close into a ring; eight cut out of a TG are driven as a line, since
    the code asks for the ring only when the box is no TG (`ccl_topology`).

    Raises:
      UnknownSystemError: the chips don't divide into that many replicas, or the system is cut in another way already.
    """
    data_parallel = replicas(data_parallel)
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
    closed = chips == 8 and system.chip == WORMHOLE_6U
    topology = Topology.SINGLE if chips == 1 else Topology.RING if closed else Topology.LINEAR
    return dataclasses.replace(
        system,
        grid=(chips,),
        topology=topology,
        data_parallel=data_parallel,
        links=1 if system.topology is Topology.GRID else system.links,
        replica_name="P100" if system.chip == BLACKHOLE_P100 else None,
    )


def part_of(box: System, replicas: int = 1, chips: int | None = None) -> System:
    """So many replicas of so many chips of a box (None: all that there are); fewer than all are a box of their own.

    Raises:
      UnknownSystemError: the box has fewer chips, or can't be cut like that.
    """
    if box.data_parallel > 1:  # says already how it is cut
        replicas = box.data_parallel if replicas == 1 else replicas
        if replicas != box.data_parallel or chips not in (None, box.chips_per_replica):
            asked = f"{replicas} x {box.chips_per_replica if chips is None else chips}"
            raise UnknownSystemError(f"{box.label} is {box.data_parallel} x {box.chips_per_replica} chips, not {asked}")
        return box
    if chips is None:
        return split(box, replicas)
    used = replicas * chips
    if used > box.num_chips:
        raise UnknownSystemError(f"{box.name} has {box.num_chips} chips, not {replicas} x {chips}")
    if used == box.num_chips:
        return split(box, replicas)
    for system in SYSTEMS.values():
        if system.chip == box.chip and system.num_chips == used and (used == 1 or system.tunnelled == box.tunnelled):
            return split(system, replicas)
    whole = split(box, box.num_chips // chips) if box.num_chips % chips == 0 else None
    if whole is None:
        raise UnknownSystemError(f"{box.name} has {box.num_chips} chips, which are not cut into replicas of {chips}")
    local = None if box.local_chips is None else -(-box.local_chips * used // box.num_chips)
    return dataclasses.replace(whole, data_parallel=replicas, local_chips=local)
