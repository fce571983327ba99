"""Trace a JAX function into the list of device ops that one device runs.

`trace` makes the jaxpr of a function on an `AbstractMesh` (no devices, no weights) and reads it equation by equation:
each device op (`ttsim.ops`) becomes an `OpCall` with per-device shapes; loops multiply by their length; calls of the
same jitted function (a decoder layer) become one repeated block. What is neither an op nor a view of memory is
collected in `Program.unpriced`, never dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core

from ttsim.ops._op import OpCall, marked

# Primitives that move no data on the device: views, casts that the next op's unpacker does, and bookkeeping of JAX.
VIEWS = frozenset(
    {
        "axis_index",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "expand_dims",
        "pvary",
        "reshape",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)


@dataclass(frozen=True)
class Block:
    """Ops and blocks in program order, run `count` times."""

    name: str
    count: int
    body: tuple[Block | OpCall, ...]


@dataclass(frozen=True)
class Unpriced:
    """A primitive outside every device op: the simulator has no price for it."""

    primitive: str
    count: int
    where: str


@dataclass(frozen=True)
class Program:
    """What one device runs: a block of ops, and the primitives that no op covers."""

    block: Block
    unpriced: tuple[Unpriced, ...]

    def ops(self) -> Iterator[tuple[OpCall, int]]:
        """Each op call with the number of times it runs, in program order."""
        yield from _flatten(self.block, 1)

    def fill(self, value: Callable[[Any], Any]) -> Program:
        """The program with `value(attribute)` in place of each attribute (see `ttsim.placeholders`)."""
        return Program(_fill(self.block, value, {}), self.unpriced)

    def repeat(self, name: str, counts: Sequence[int]) -> Program:
        """The program with its blocks of this name run so many times, in order: one count for each block."""
        remaining = iter(counts)
        body = tuple(
            Block(item.name, next(remaining), item.body) if isinstance(item, Block) and item.name == name else item
            for item in self.block.body
        )
        if next(remaining, None) is not None:
            raise ValueError(f"{len(counts)} counts for fewer blocks named {name}")
        return Program(Block(self.block.name, self.block.count, body), self.unpriced)

    def count(self, name: str) -> int:
        """How many times the op of this name runs."""
        return sum(count for call, count in self.ops() if call.name == name)


def _flatten(block: Block, times: int) -> Iterator[tuple[OpCall, int]]:
    for item in block.body:
        if isinstance(item, Block):
            yield from _flatten(item, times * block.count)
        else:
            yield item, times * block.count


def _fill(block: Block, value: Callable[[Any], Any], done: dict[int, tuple[Block | OpCall, ...]]) -> Block:
    if id(block.body) not in done:
        done[id(block.body)] = tuple(
            _fill(item, value, done)
            if isinstance(item, Block)
            else dataclasses.replace(item, attributes={key: value(v) for key, v in item.attributes.items()})
            for item in block.body
        )
    return Block(block.name, block.count, done[id(block.body)])


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Program:
    """The program that one device runs for `function(*args, **kwargs)`.

    Args:
      function: any JAX function; its device ops may sit under jit, scan, shard_map and so on.
      *args, **kwargs: arrays or `jax.ShapeDtypeStruct`s (global shapes where the function contains a shard_map).

    Returns:
      The program. Shapes inside a `shard_map` are per device.

    Raises:
      ValueError: the function contains a `while` loop, whose trip count a trace can't know.
    """
    closed = jax.make_jaxpr(function)(*args, **kwargs)
    reader = _Reader()
    block = Block(getattr(function, "__name__", "program"), 1, reader.read(closed.jaxpr, {}))
    return Program(block, tuple(reader.unpriced(block)))


def _inner(jaxpr: Any) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


class _Reader:
    """Reads jaxprs; remembers what it has read, since repeated layers share one jaxpr object."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[int, tuple[tuple[str, int], ...]], tuple[Block | OpCall, ...]] = {}
        self._alien: dict[int, list[tuple[str, int, str]]] = {}
        self._keep: list[Any] = []

    def read(self, jaxpr: core.Jaxpr, axes: Mapping[str, int]) -> tuple[Block | OpCall, ...]:
        key = (id(jaxpr), tuple(sorted(axes.items())))
        if key not in self._bodies:
            self._keep.append(jaxpr)  # the key is an id: the object must outlive the reader
            items: list[Block | OpCall] = []
            for equation in jaxpr.eqns:
                for item in self._equation(equation, axes):
                    self._append(items, item)
            self._bodies[key] = tuple(items)
        return self._bodies[key]

    @staticmethod
    def _append(items: list[Block | OpCall], item: Block | OpCall) -> None:
        last = items[-1] if items else None
        if isinstance(item, Block) and isinstance(last, Block) and last.name == item.name and last.body is item.body:
            items[-1] = Block(last.name, last.count + item.count, last.body)
        else:
            items.append(item)

    def _equation(self, equation: Any, axes: Mapping[str, int]) -> Iterator[Block | OpCall]:
        name, params = equation.primitive.name, equation.params
        if name in ("jit", "pjit"):
            found = marked(params["name"])
            if found is not None:
                yield _op_call(found, equation, axes)
                return
            body = self.read(_inner(params["jaxpr"]), axes)
            if body:
                yield Block(params["name"], 1, body)
        elif name == "scan":
            body = self.read(_inner(params["jaxpr"]), axes)
            if body:
                yield Block("scan", params["length"], body)
        elif name == "shard_map":
            yield from self.read(_inner(params["jaxpr"]), {**axes, **dict(params["mesh"].shape)})
        elif name == "while":
            raise ValueError("a while loop has no trip count that a trace can read; use lax.scan or a Python loop")
        elif name == "cond":
            # The branches of a device program cost alike or one is the rule: price the longest.
            bodies = [self.read(_inner(branch), axes) for branch in params["branches"]]
            yield from max(bodies, key=len)
        elif inner := next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None):
            yield from self.read(_inner(inner), axes)
        elif name not in VIEWS:
            yield Block(f"!{name}", 1, ())

    def unpriced(self, block: Block, times: int = 1) -> Iterator[Unpriced]:
        for item in block.body:
            if not isinstance(item, Block):
                continue
            if item.name.startswith("!"):
                yield Unpriced(item.name[1:], times * item.count, block.name)
            else:
                yield from self.unpriced(item, times * item.count)


def _op_call(found: Any, equation: Any, axes: Mapping[str, int]) -> OpCall:
    op, attributes, structure = found
    inputs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    outputs = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.outvars)
    return OpCall(op, attributes, jax.tree.unflatten(structure, inputs), outputs, axes)
