"""Many programs as a few matrices: what makes calibration a gradient descent and a sweep one function call.

A kernel's time is linear in products phi of constants but for a maximum, so the times of all kernels are

    starts @ phi + max over limits of (limits @ phi)

with equal kernels of different programs stored once (`Kernels`). Programs are padded lists of launches on them, moved
through the two clocks of `ttsim.pricing.clocks` all at once (`Programs`); a run of several programs (the chunks of a
prompt) shares those that it has in common with other runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.hardware.quantities import Factor, Terms, factor_value
from ttsim.kernels.host import dispatch
from ttsim.kernels.kernel import Kernel
from ttsim.pricing.clocks import Clocks, Launches, Totals
from ttsim.pricing.price import Cost

_NEVER = -1e9  # seconds: a clock that has not started


@dataclass(frozen=True)
class Kernels:
    """Distinct kernels as matrices.

    Attributes:
      factors: products of constants, the columns.
      starts: [points, factors]. limits: [points, most limits of a kernel, factors].
      points: [kernels, most points of a kernel] indices of the points whose mean is a kernel's time.
    """

    factors: tuple[Factor, ...]
    starts: np.ndarray
    limits: np.ndarray
    points: np.ndarray

    def at_points(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds at each point: [kernels, points of a kernel]."""
        phi = xp.stack([xp.asarray(factor_value(factor, constants), float) for factor in self.factors])
        return (self.starts @ phi + xp.max(self.limits @ phi, axis=1))[self.points]

    def seconds(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds of each kernel, the mean over its points: [kernels].

        Args:
          constants: value of each. xp: numpy or jax.numpy.
        """
        return xp.mean(self.at_points(constants, xp), axis=1)


class KernelTable:
    """Collects kernels, equal ones once."""

    def __init__(self) -> None:
        self._factors: dict[Factor, int] = {}
        self._points: dict[Any, int] = {}
        self._kernels: dict[Any, int] = {}
        self._by_identity: dict[int, tuple[Kernel, int]] = {}

    def add(self, kernel: Kernel) -> int:
        """The kernel's row."""
        known = self._by_identity.get(id(kernel))
        if known is None:
            points = tuple(self._points.setdefault(point, len(self._points)) for point in self._split(kernel))
            known = kernel, self._kernels.setdefault(points, len(self._kernels))
            self._by_identity[id(kernel)] = known
        return known[1]

    def build(self) -> Kernels:
        """The matrices."""
        most = max((len(limits) for _, limits in self._points), default=1) or 1
        starts = np.zeros((len(self._points), max(len(self._factors), 1)))
        limits = np.zeros((len(self._points), most, max(len(self._factors), 1)))
        for row, (start, others) in enumerate(self._points):
            _fill(starts[row], start)
            for i, terms in enumerate(others):
                _fill(limits[row, i], terms)
        longest = max(map(len, self._kernels), default=1)
        # A kernel with fewer points repeats its only one; the number of points is the same for all that have several.
        points = np.array([k if len(k) == longest else k * longest for k in self._kernels], int)
        return Kernels(tuple(self._factors) or ((),), starts, limits, points.reshape(len(self._kernels), longest))

    def _split(self, kernel: Kernel) -> list[Any]:
        """(start, limits) of each point of a kernel, as tuples of (column, amount)."""
        parts = (kernel.start, *kernel.limits.values())
        number = max((np.size(amount) for terms in parts for amount in terms.values()), default=1)
        if number == 1:
            return [(self._row(kernel.start, None), tuple(self._row(terms, None) for terms in kernel.limits.values()))]
        return [
            (self._row(kernel.start, i), tuple(self._row(terms, i) for terms in kernel.limits.values()))
            for i in range(number)
        ]

    def _row(self, terms: Terms, point: int | None) -> tuple[tuple[int, float], ...]:
        return tuple(
            (
                self._factors.setdefault(factor, len(self._factors)),
                float(amount if point is None or np.size(amount) == 1 else amount[point]),
            )
            for factor, amount in terms.items()
        )


def _fill(row: np.ndarray, terms: tuple[tuple[int, float], ...]) -> None:
    for column, amount in terms:
        row[column] += amount


@dataclass(frozen=True)
class Programs:
    """Runs of programs as matrices.

    Attributes:
      kernels: of all programs.
      ids: [steps, launches, programs] kernels of each step, in order. each: how often each runs in a row; 0 pads.
      counts: [steps, programs] how often a step's launches repeat. on_host, waits, eager: [steps, programs] what it is.
      gaps: [programs] seconds between two kernels. calls: [programs] row of the host's time for an untraced launch.
      runs: [runs, programs of a run] the programs of each run, in order; -1 pads.
      replicas: [runs] served by one host.
    """

    kernels: Kernels
    ids: np.ndarray
    each: np.ndarray
    counts: np.ndarray
    on_host: np.ndarray
    waits: np.ndarray
    eager: np.ndarray
    gaps: np.ndarray
    calls: np.ndarray
    runs: np.ndarray
    replicas: np.ndarray

    @classmethod
    def build(cls, runs: Sequence[Sequence[Cost]]) -> Programs:
        """The runs as matrices.

        Args:
          runs: each a list of priced programs that follow one another; programs that are the same object are shared.
        """
        table, ordinals = KernelTable(), {}
        costs: list[Cost] = []
        for cost in (cost for run in runs for cost in run):
            if id(cost) not in ordinals:
                ordinals[id(cost)] = len(costs)
                costs.append(cost)
        programs = [[(s.kind, segment) for s in cost.stretches for segment in s.segments] for cost in costs]
        steps = max((len(program) for program in programs), default=0)
        most = max((len(segment.kernels) for program in programs for _, segment in program), default=0)
        ids, each = np.zeros((steps, most, len(costs)), int), np.zeros((steps, most, len(costs)))
        counts = np.ones((steps, len(costs)))
        on_host, waits, eager = (np.zeros((steps, len(costs)), bool) for _ in range(3))
        for p, program in enumerate(programs):
            for s, (kind, segment) in enumerate(program):
                for i, item in enumerate(segment.kernels):
                    ids[s, i, p], each[s, i, p] = table.add(item.kernel), item.count // segment.count
                counts[s, p] = segment.count
                on_host[s, p], eager[s, p], waits[s, p] = kind == "host", kind == "eager", segment.waits
        hosts = {id(cost.machine.system): Kernel("dispatch", start=dispatch(cost.machine.system)) for cost in costs}
        calls = np.array([table.add(hosts[id(cost.machine.system)]) for cost in costs], int)
        chained = np.full((len(runs), max(map(len, runs), default=0)), -1)
        for r, run in enumerate(runs):
            chained[r, : len(run)] = [ordinals[id(cost)] for cost in run]
        return cls(
            kernels=table.build(),
            ids=ids,
            each=each,
            counts=counts,
            on_host=on_host,
            waits=waits,
            eager=eager,
            gaps=np.array([cost.machine.software.dispatch_gap for cost in costs]),
            calls=calls,
            runs=chained,
            replicas=np.array([run[0].machine.system.data_parallel for run in runs]),
        )

    def round(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds of one round of all replicas, the mean over the points of each kernel: [runs].

        Args:
          constants: value of each. xp: numpy or jax.numpy.
        """
        return self._round(self.kernels.seconds(constants, xp)[:, None], xp)[:, 0]

    def rounds(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds of one round of all replicas at each point: [runs, points]."""
        return self._round(self.kernels.at_points(constants, xp), xp)

    def _round(self, times: Any, xp: Any) -> Any:
        """`times` are the kernels' seconds, [kernels, points]."""
        # A program is a map of the clocks, known by what it makes of a host's and of a device's time alone.
        zero = xp.zeros((len(self.gaps), times.shape[1]))
        from_host, from_device = Clocks(zero, zero + _NEVER), Clocks(zero + _NEVER, zero)
        call, gap = times[self.calls], self.gaps[:, None]
        work, dispatched, eager_time, traced_time, launched = zero, zero, zero, zero, zero
        for ids, each, counts, on_host, waits, eager in zip(
            self.ids, self.each, self.counts, self.on_host, self.waits, self.eager, strict=True
        ):
            seconds, each = times[ids], each[..., None]  # [launches, programs, points]
            host, eager, counts = on_host[:, None], eager[:, None], counts[:, None]
            time = xp.where(host, xp.sum(each * seconds, axis=0), 0.0)
            on_device = np.where(host, 0.0, each)
            launches = Launches.of(seconds + gap[None], on_device, xp.where(eager, call, 0.0), xp).repeat(counts, xp)
            idle = on_device.sum(axis=0) == 0
            from_host, from_device = (
                _step(clocks, time, waits[:, None], launches, idle, xp) for clocks in (from_host, from_device)
            )
            work, dispatched = work + time, dispatched + launches.host
            eager_time = eager_time + xp.where(eager, launches.device, 0.0)
            traced_time = traced_time + xp.where(eager, 0.0, launches.device)
            launched = launched + np.where(eager, counts * on_device.sum(axis=0), 0.0)
        sums = (work, dispatched, eager_time, traced_time, launched)
        return self._chain(from_host, from_device, sums, xp).round(self.replicas[:, None], xp)

    def _chain(self, from_host: Clocks, from_device: Clocks, sums: tuple[Any, ...], xp: Any) -> Totals:
        """The programs of each run one after the other.

        Neighbours are joined to one map until one is left for each run: as many rounds as the logarithm of its length.
        """
        p, there = np.maximum(self.runs, 0), (self.runs >= 0)[..., None]
        maps = [
            xp.where(there, each[p], alone)  # [runs, programs of a run, points]
            for each, alone in (
                (from_host.host, 0.0),
                (from_host.device, _NEVER),
                (from_device.host, _NEVER),
                (from_device.device, 0.0),
            )
        ]
        while maps[0].shape[1] > 1:
            if maps[0].shape[1] % 2:
                alone = (0.0, _NEVER, _NEVER, 0.0)
                maps = [xp.concatenate([m, xp.full_like(m[:, :1], a)], 1) for m, a in zip(maps, alone, strict=True)]
            maps = _joined([m[:, 0::2] for m in maps], [m[:, 1::2] for m in maps], xp)
        host = xp.maximum(maps[0], maps[2])[:, 0]  # both clocks start at 0
        device = xp.maximum(maps[1], maps[3])[:, 0]
        totals = [xp.sum(xp.where(there, each[p], 0.0), axis=1) for each in sums]
        return Totals(xp.maximum(host, device), *totals)


def _joined(first: list[Any], second: list[Any], xp: Any) -> list[Any]:
    """Two maps of the clocks as one; a map is what becomes of (host, device) from (host, never) and (never, device)."""
    hh, hd, dh, dd = first
    hosts, host_to_device, device_to_host, devices = second
    return [
        xp.maximum(hh + hosts, hd + device_to_host),
        xp.maximum(hh + host_to_device, hd + devices),
        xp.maximum(dh + hosts, dd + device_to_host),
        xp.maximum(dh + host_to_device, dd + devices),
    ]


def _step(clocks: Clocks, time: Any, waits: Any, launches: Launches, idle: Any, xp: Any) -> Clocks:
    worked = clocks.work(time, waits, xp)
    launched = worked.launch(launches, xp)
    return Clocks(xp.where(idle, worked.host, launched.host), xp.where(idle, worked.device, launched.device))
