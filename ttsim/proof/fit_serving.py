"""What a generation of the server adds to a prompt, fitted on servers with one user.

    measured TTFT - 8 ms outside the step - priced prompt = fixed + lane x replicas + chip x chips + token x tokens

each generation by itself: least squares of relative errors, none of the four below zero, since what a server does takes
time. A row that is far off says more of its prompt's price than of the server, so that errors beyond 10 % count by
their amount, not by its square. Each source is also predicted from the others of its generation.

Steps of decode are not fitted: their rows say how far off the prices are.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttsim.hardware.constants import load_constants
from ttsim.proof import fitting
from ttsim.proof.load_rows import LoadRow, server_of
from ttsim.serving.host_costs import OUTSIDE, server_step

GENERATIONS = (
    (datetime.date(2025, 8, 1), "V0, client of mid 2025"),
    (datetime.date(2026, 1, 1), "V0, autumn 2025"),
    (datetime.date.max, "V1"),
)
_WIDTH = 0.1  # relative error from which a row counts less
_NOTHING = 1e-8  # seconds


@dataclass(frozen=True)
class Prompt:
    """A row of one user: its measured TTFT and its priced prompt, in seconds, and what the server's time depends on."""

    row: LoadRow
    measured: float
    priced: float
    causes: tuple[float, float, float, float]  # 1, replicas and chips of the process, tokens


@dataclass(frozen=True)
class Step:
    """A row of one user: its measured TPOT and its priced step, in seconds."""

    row: LoadRow
    measured: float
    priced: float

    @property
    def error(self) -> float:
        """priced / measured - 1."""
        return self.priced / self.measured - 1


@dataclass(frozen=True)
class FittedGeneration:
    """A generation's constants in seconds (fixed, lane, chip, token), and the errors of its rows.

    Attributes:
      errors: predicted / measured - 1 of each row. held_out: the same, by constants of the other sources; NaN if there
        is no other.
    """

    until: datetime.date
    name: str
    prompts: tuple[Prompt, ...]
    constants: np.ndarray
    errors: np.ndarray
    held_out: np.ndarray
    steps: tuple[Step, ...]


def rows_of_one_user(rows: Sequence[LoadRow]) -> tuple[list[Prompt], list[Step]]:
    """The rows that may be fitted, and can be priced."""
    prompts, steps = [], []
    for row in rows:
        if row.split != "fitted":
            continue
        try:
            server = server_of(row)
        except (ValueError, OSError):
            continue
        system, pool = server.scenario.system, server.pool
        if row.ttft is not None and row.counts("own_steps", "ttft"):
            priced = pool.prices.prefill(1, row.isl, 0) + 2 * OUTSIDE
            causes = (1.0, float(system.data_parallel), float(system.num_chips), float(row.isl))
            prompts.append(Prompt(row, row.ttft, priced, causes))
        if row.tpot is not None and row.counts("own_steps", "tpot") and not pool.policy.async_scheduling:
            contexts = np.arange(row.isl, row.isl + max(row.osl - 1, 1))
            step = float(pool.prices.decode(pool.policy.max_num_seqs, 1, contexts).mean()) + pool.host.sample
            step += server_step(server.software, load_constants())
            steps.append(Step(row, row.tpot, step))
    return prompts, steps


def fit(rows: Sequence[LoadRow]) -> list[FittedGeneration]:
    """Each generation's constants."""
    found, since = [], datetime.date.min
    prompts, steps = rows_of_one_user(rows)
    for until, name in GENERATIONS:
        own = [p for p in prompts if since <= p.row.date < until]
        own_steps = [s for s in steps if since <= s.row.date < until]
        since = until
        constants, held_out = _constants(own), np.full(len(own), np.nan)
        for source in {p.row.source for p in own}:
            if others := [p for p in own if p.row.source != source]:
                out = [i for i, p in enumerate(own) if p.row.source == source]
                held_out[out] = _errors([own[i] for i in out], _constants(others))
        found.append(
            FittedGeneration(
                until=until,
                name=name,
                prompts=tuple(own),
                constants=constants,
                errors=_errors(own, constants),
                held_out=held_out,
                steps=tuple(own_steps),
            )
        )
    return found


def _constants(prompts: Sequence[Prompt]) -> np.ndarray:
    if not prompts:
        return np.zeros(4)
    measured = np.array([p.measured for p in prompts])
    causes = np.array([p.causes for p in prompts])
    told = np.append(True, np.ptp(causes[:, 1:], axis=0) > 0)  # what is the same in all rows is part of the fixed time
    causes *= told
    causes = causes / measured[:, None] / _WIDTH
    missing = (measured - [p.priced for p in prompts]) / measured / _WIDTH
    found = fitting.fit(
        lambda x: causes @ x - missing, np.full(4, 1e-6), slopes=lambda x: causes, prior=False, least=0.0
    )
    return np.where(told & (found.z >= _NOTHING), found.z, 0.0)


def _errors(prompts: Sequence[Prompt], constants: np.ndarray) -> np.ndarray:
    return np.array([(p.priced + np.dot(p.causes, constants)) / p.measured - 1 for p in prompts])
