"""Fits the fitted constants to the published tables, and measures how well rows that were left out are predicted.

    minimise  sum over rows of w * rho(log(model / published) / sigma)  +  sum over constants of (log(c / prior) / width)^2 / 2

with rho the pseudo-Huber loss, by gradient descent (Adam) on log c through the cost model. All folds are fitted at once: a
fold is a vector of row weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ttsim import tables
from ttsim.chips import CHIPS
from ttsim.cost import host
from ttsim.cost.constants import CONSTANTS, FITTED
from ttsim.cost.kernel import Kernel, Terms, seconds
from ttsim.cost.linear import Stack, basis, stack
from ttsim.cost.machine import Machine
from ttsim.cost.price import Cost, PricedKernel, PromptParts, price, prompt_time
from ttsim.meshes.systems import get_system
from ttsim.models.layout import Layout
from ttsim.models.presets import get_config
from ttsim.models.run import decode_program, prefill_program
from ttsim.precision import resolve
from ttsim.software import Software, software_of
from ttsim.tables import Row

SPEED_SIGMA = 0.02
TTFT_SIGMA = 0.07
_NEW_TOKENS = 200  # decode iterations of the demo
_STEPS = 500


# What each row ran


def measured_rows() -> tuple[Row, ...]:
    """The published rows with a speed or a TTFT, without those of the vision demo."""
    return tuple(row for row in tables.published() if not row.vision and (row.speed or row.ttft))


def _layout(row: Row) -> Layout:
    system = get_system(row.device, row.data_parallel)
    return Layout(get_config(row.model), system, max_seq_len=131_072 if row.prompt == "long-64k" else 1024)


def _machine(layout: Layout, software: Software, phase: Any, position: Any = 0) -> Machine:
    system = layout.system
    return Machine(CHIPS[system.chip], system, software, phase, position)


def decode_cost(row: Row) -> Cost:
    """The decode step that a row's speed is the mean of."""
    layout, software = _layout(row), software_of(row.speed_date)
    precision = resolve(row.speed_precision, row.model, row.speed_date)
    sample = "device" if row.batch_size <= software.device_argmax else "host"
    tokens, _ = tables.prompt_tokens(row.model, row.prompt)
    positions = np.arange(tokens + 1, tokens + _NEW_TOKENS)  # the first iteration compiles and isn't timed
    program = decode_program(layout, precision, row.batch_size, sample=sample)
    return price(program, _machine(layout, software, "decode", positions))


def prefill_costs(row: Row) -> list[Cost]:
    """The chunks of the prompt that a row's TTFT is of."""
    software = dataclasses.replace(software_of(row.ttft_date), device_untilize=not row.host_untilize)
    layout, precision = _layout(row), resolve(row.speed_precision, row.model, row.ttft_date)
    _, padded = tables.prompt_tokens(row.model, row.prompt)
    chunk = layout.prefill_chunk(padded)
    machine = _machine(layout, software, "prefill")
    return [
        price(_prefill_program(layout, precision, row.batch_size, chunk, start, start + chunk >= padded), machine)
        for start in range(0, padded, chunk)
    ]


@functools.cache
def _prefill_program(layout: Layout, precision: Any, batch: int, length: int, start: int, last: bool) -> Any:
    return prefill_program(layout, precision, batch, length, start=start, last_chunk=last)


# The rows as matrices


@dataclass(frozen=True)
class Observations:
    """Published figures, and the model of each as matrices.

    Attributes:
      rows: the rows; those with a speed come first in `speed_rows`, those with a TTFT in `ttft_rows` (indices).
      step: decode steps. body, tail, host, fixed: parts of the prompts. ops, replicas: of each prompt.
    """

    rows: tuple[Row, ...]
    speed_rows: np.ndarray
    ttft_rows: np.ndarray
    step: Stack
    body: Stack
    tail: Stack
    host: Stack
    fixed: Stack
    ops: np.ndarray
    replicas: np.ndarray

    @property
    def published(self) -> np.ndarray:
        """Speeds (t/s/u), then TTFTs (s): what `predict` models."""
        speeds = [self.rows[i].speed for i in self.speed_rows]
        return np.array(speeds + [self.rows[i].ttft for i in self.ttft_rows])

    @property
    def row_of(self) -> np.ndarray:
        """The row of each figure."""
        return np.concatenate([self.speed_rows, self.ttft_rows])

    def predict(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Modelled speeds (t/s/u), then TTFTs (s)."""
        phi = basis(constants, xp)
        parts = PromptParts(
            body=self.body.seconds(phi, xp),
            tail=self.tail.seconds(phi, xp),
            host=self.host.seconds(phi, xp),
            fixed=self.fixed.seconds(phi, xp),
            ops=self.ops,
            replicas=self.replicas,
        )
        return xp.concatenate([1 / self.step.seconds(phi, xp), prompt_time(parts, xp)])


def observe(rows: Sequence[Row] | None = None) -> Observations:
    """Prices the programs behind the rows (default: `measured_rows()`)."""
    rows = measured_rows() if rows is None else tuple(rows)
    speed_rows = [i for i, row in enumerate(rows) if row.speed]
    ttft_rows = [i for i, row in enumerate(rows) if row.ttft]
    steps = []
    for i in speed_rows:
        cost, vocab_size = decode_cost(rows[i]), get_config(rows[i].model).vocab_size
        steps.append(
            [*_kernels(cost.kernels, cost.machine), _as_kernel(host.step(cost.machine, rows[i].batch_size, vocab_size))]
        )
    bodies, tails, dispatches, fixed, ops, replicas = [], [], [], [], [], []
    for i in ttft_rows:
        costs, vocab_size = prefill_costs(rows[i]), get_config(rows[i].model).vocab_size
        machine = costs[0].machine
        body = [item for cost in costs for item in cost.split()[0]]
        ops.append(sum(item.count for item in body))
        bodies.append(_kernels(body, machine))
        tails.append(_kernels(costs[-1].split()[1], machine))
        dispatches.append([_as_kernel(host.dispatch(machine, ops[-1]))])
        fixed.append([_as_kernel(host.prompt(machine, rows[i].batch_size, vocab_size))])
        replicas.append(machine.system.data_parallel)
    return Observations(
        rows=rows,
        speed_rows=np.array(speed_rows, int),
        ttft_rows=np.array(ttft_rows, int),
        step=stack(steps),
        body=stack(bodies),
        tail=stack(tails),
        host=stack(dispatches),
        fixed=stack(fixed),
        ops=np.array(ops, float),
        replicas=np.array(replicas, float),
    )


def _kernels(items: Sequence[PricedKernel], machine: Machine) -> list[tuple[Kernel, float]]:
    gaps = machine.software.dispatch_gap * sum(item.count for item in items)
    return [(item.kernel, item.count) for item in items] + [_as_kernel(seconds(gaps))]


def _as_kernel(terms: Terms) -> tuple[Kernel, float]:
    return Kernel("", start=terms), 1.0


# The fit


def fit(
    observations: Observations, weights: Any, *, steps: int = _STEPS, free: Sequence[str] = FITTED
) -> dict[str, np.ndarray]:
    """The fitted constants of one fold or many.

    Args:
      observations: the figures.
      weights: [folds, figures], zero for a figure that is left out.
      steps: of gradient descent. free: constants that are fitted; others stay at their priors.

    Returns:
      Every constant's value: [folds].
    """
    weights = jnp.asarray(weights, jnp.float32)
    centre = jnp.array([np.log(CONSTANTS[name].value) for name in free])
    width = jnp.array([CONSTANTS[name].log_width for name in free])
    number = len(observations.speed_rows)
    sigma = jnp.where(jnp.arange(weights.shape[1]) < number, SPEED_SIGMA, TTFT_SIGMA)
    published = jnp.log(jnp.asarray(observations.published))

    def constants_of(z: Any) -> dict[str, Any]:
        values = jnp.exp(centre + width * z)
        fixed = {name: constant.value for name, constant in CONSTANTS.items()}
        return fixed | {name: values[i] for i, name in enumerate(free)}

    def loss(z: Any, weight: Any) -> Any:
        error = (jnp.log(observations.predict(constants_of(z), jnp)) - published) / sigma
        return jnp.sum(weight * (jnp.sqrt(1 + error**2) - 1)) + 0.5 * jnp.sum(z**2)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.15, steps))

    def descend(weight: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            z, state = carry
            updates, state = optimizer.update(jax.grad(loss)(z, weight), state)
            return (optax.apply_updates(z, updates), state), None

        z = jnp.zeros(len(free))
        (z, _), _ = jax.lax.scan(step, (z, optimizer.init(z)), None, length=steps)
        return jnp.exp(centre + width * z)

    values = np.asarray(jax.jit(jax.vmap(descend))(weights), float)
    fixed = {name: np.full(len(values), constant.value) for name, constant in CONSTANTS.items()}
    return fixed | {name: values[:, i] for i, name in enumerate(free)}
