"""Trace a JAX function into the list of device ops that one device runs.

`trace` makes the jaxpr of a function on an `AbstractMesh` (no devices, no weights) and reads it equation by equation:
each device op (`ttsim.ops`) becomes an `OpCall` with per-device shapes; loops multiply by their length; calls of the
same jitted function (a decoder layer) become one repeated block. What is neither an op nor a view of memory is
collected in `Program.unpriced` with its place in the source, never dropped.

Transformed functions: a vmapped op, and the forward half of a differentiated one, are still the op where its body
accepts the new shapes; otherwise, and in the backward half, the trace looks inside and lists the primitives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core, source_info_util
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from ttsim.ops.core import ABSTRACT_CALL, Op, OpCall, marked
from ttsim.precision.slots import Slot

# Primitives that move no data on the device: views, casts that the next op's unpacker does, and bookkeeping of JAX.
VIEWS = frozenset(
    {
        "axis_index",
        "broadcast_in_dim",
        "convert_element_type",
        "expand_dims",
        "pvary",
        "reshape",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
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
    """A primitive outside every device op: the simulator has no price for it.

    Attributes:
      primitive: JAX's name of it.
      count: how many times it runs.
      where: the user's line of source, "file:line:column (function)".
    """

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

    def blocks(self) -> Iterator[Block]:
        """Every block, outer ones before those inside them."""

        def inner(block: Block) -> Iterator[Block]:
            for item in block.body:
                if isinstance(item, Block):
                    yield item
                    yield from inner(item)

        yield from inner(self.block)

    def fill(self, value: Callable[[Any], Any]) -> Program:
        """The program with `value(attribute)` in place of each attribute (see `ttsim.precision.slots`)."""
        return Program(_fill(self.block, value, {}), self.unpriced)

    def renumber(self, numbers: Mapping[int, int]) -> Program:
        """The program with other numbers in its static attributes and shapes; calls without them stay as they are."""
        return Program(_renumber(self.block, numbers, {}), self.unpriced)

    def repeat(self, name: str, counts: Sequence[int]) -> Program:
        """The program with its blocks of this name run so many times, in order: one count for each block.

        Raises:
          ValueError: there are more or fewer such blocks.
        """
        remaining = list(counts)

        def repeated(block: Block) -> Block:
            body: list[Block | OpCall] = []
            for item in block.body:
                if isinstance(item, Block) and item.name == name:
                    if not remaining:
                        raise ValueError(f"{len(counts)} counts for more blocks named {name}")
                    body.append(Block(item.name, remaining.pop(0), item.body))
                else:
                    body.append(repeated(item) if isinstance(item, Block) else item)
            return Block(block.name, block.count, tuple(body))

        block = repeated(self.block)
        if remaining:
            raise ValueError(f"{len(counts)} counts for fewer blocks named {name}")
        return Program(block, self.unpriced)

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
            else OpCall(
                item.op,
                {key: value(v) for key, v in item.attributes.items()},
                item.inputs,
                item.outputs,
                item.axis_sizes,
                {key: v.group for key, v in item.attributes.items() if isinstance(v, Slot)},
            )
            for item in block.body
        )
    return Block(block.name, block.count, done[id(block.body)])


def _renumber(block: Block, numbers: Mapping[int, int], done: dict[int, tuple[Block | OpCall, ...]]) -> Block:
    def number(value: Any) -> Any:
        return numbers.get(value, value) if isinstance(value, int) else value

    def array(value: Any) -> Any:
        if not numbers.keys() & set(value.shape):
            return value
        return jax.ShapeDtypeStruct(tuple(map(number, value.shape)), value.dtype)

    def call(old: OpCall) -> OpCall:
        if numbers.keys().isdisjoint(old.numbers):
            return old
        attributes = {key: number(value) for key, value in old.attributes.items()}
        inputs, outputs = jax.tree.map(array, (old.inputs, old.outputs))
        return OpCall(old.op, attributes, inputs, outputs, old.axis_sizes, old.groups)

    if id(block.body) not in done:
        done[id(block.body)] = tuple(
            _renumber(item, numbers, done) if isinstance(item, Block) else call(item) for item in block.body
        )
    return Block(block.name, block.count, done[id(block.body)])


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Program:
    """The program that one device runs for `function(*args, **kwargs)`.

    Args:
      function: any JAX function; its device ops may sit under jit, scan, shard_map and so on.
      *args, **kwargs: arrays or `jax.ShapeDtypeStruct`s (global shapes where the function contains a shard_map).

    Returns:
      The program. Shapes inside a `shard_map` are per device. Of a `cond` it holds the branch with the most ops.

    Raises:
      ValueError: the function contains a `while` loop, whose trip count a trace can't know.
    """
    with jax.disable_jit(False):  # JAX_DISABLE_JIT would leave no blocks to tell layers by
        closed = jax.make_jaxpr(function)(*args, **kwargs)
    body = _Reader().read(closed.jaxpr, {})
    return Program(Block(getattr(function, "__name__", "program"), 1, body.items), body.unpriced)


# How an equation's name stack shows that a transformation has rewritten it.
_TRANSFORMATIONS = ("vmap(", "jvp(", "transpose(")

# Primitives whose inner jaxpr runs once, as if it were written in place, by the parameter that holds it.
_INLINED = {
    "closed_call": "call_jaxpr",
    "composite": "jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "shard_map": "jaxpr",
}


@dataclass(frozen=True)
class _Body:
    """What one jaxpr holds: ops and blocks in order, and the primitives that have no price."""

    items: tuple[Block | OpCall, ...] = ()
    unpriced: tuple[Unpriced, ...] = ()

    @property
    def num_ops(self) -> int:
        return sum(count for item in self.items for _, count in _calls(item))


def _calls(item: Block | OpCall) -> Iterator[tuple[OpCall, int]]:
    return _flatten(item, 1) if isinstance(item, Block) else iter([(item, 1)])


class _Reader:
    """Reads jaxprs; remembers what it has read, since repeated layers share one jaxpr object."""

    def __init__(self) -> None:
        self._bodies: dict[Any, _Body] = {}
        self._keep: list[Any] = []

    def read(
        self, jaxpr: core.Jaxpr | core.ClosedJaxpr, axes: Mapping[str, int], under: frozenset[str] = frozenset()
    ) -> _Body:
        """Reads a jaxpr.

        Args:
          jaxpr: open or closed.
          axes: size of each mesh axis in scope.
          under: the transformations outside it, which its equations' own name stacks don't show.
        """
        jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
        key = (id(jaxpr), tuple(sorted(axes.items())), under)
        if key not in self._bodies:
            self._keep.append(jaxpr)  # the key is an id: the object must outlive the reader
            items: list[Block | OpCall] = []
            unpriced: dict[tuple[str, str], int] = {}
            for equation in jaxpr.eqns:
                name_stack = str(equation.source_info.name_stack)
                body = self._equation(equation, axes, under.union(t for t in _TRANSFORMATIONS if t in name_stack))
                for item in body.items:
                    _append(items, item)
                for gap in body.unpriced:
                    place = (gap.primitive, gap.where)
                    unpriced[place] = unpriced.get(place, 0) + gap.count
            gaps = tuple(Unpriced(primitive, count, where) for (primitive, where), count in unpriced.items())
            self._bodies[key] = _Body(tuple(items), gaps)
        return self._bodies[key]

    def _equation(self, equation: Any, axes: Mapping[str, int], under: frozenset[str]) -> _Body:
        name, params = equation.primitive.name, equation.params
        if equation.primitive is ABSTRACT_CALL:
            leaves, results = map(_shapes, (equation.invars, equation.outvars))
            inputs = jax.tree.unflatten(params["structure"], leaves)
            return _Body((OpCall(params["op"], dict(params["attributes"]), inputs, tuple(results), axes),))
        if name in ("jit", "pjit"):
            found = marked(params["name"])
            call = found and _op_call(found, equation, axes, under)
            if call:
                return _Body((call,))
            body = self.read(params["jaxpr"], axes, under)
            return body if found else _repeat(params["name"], 1, body)
        if name == "scan":
            return _repeat("scan", params["length"], self.read(params["jaxpr"], axes, under))
        if name == "while":
            raise ValueError(
                "a while loop has no trip count that a trace can read; use lax.scan, or lax.fori_loop with constant "
                f"bounds: {_where(equation)}"
            )
        if name == "cond":
            return max((self.read(branch, axes, under) for branch in params["branches"]), key=lambda body: body.num_ops)
        if name in _INLINED:
            if name == "shard_map":
                axes = {**axes, **dict(params["mesh"].shape)}
            return self.read(params[_INLINED[name]], axes, under)
        if name in VIEWS:
            return _Body()
        return _Body(unpriced=(Unpriced(name, 1, _where(equation)),))


def _repeat(name: str, count: int, body: _Body) -> _Body:
    block = (Block(name, count, body.items),) if body.items else ()
    return _Body(block, tuple(Unpriced(u.primitive, count * u.count, u.where) for u in body.unpriced))


def _append(items: list[Block | OpCall], item: Block | OpCall) -> None:
    """Appends an item; a block that repeats the last one raises its count instead."""
    last = items[-1] if items else None
    if isinstance(item, Block) and isinstance(last, Block) and last.name == item.name and last.body is item.body:
        items[-1] = Block(last.name, last.count + item.count, last.body)
    else:
        items.append(item)


def _where(equation: Any) -> str:
    return source_info_util.summarize(equation.source_info) or "an unknown line"


def _shapes(variables: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]


def _op_call(found: Any, equation: Any, axes: Mapping[str, int], under: frozenset[str]) -> OpCall | None:
    """The op call behind a marked equation, or None where a transformation has made something else of it."""
    op, attributes, structure = found
    leaves, outputs = map(_shapes, (equation.invars, equation.outvars))
    if "transpose(" in under or len(leaves) != structure.num_leaves:
        return None
    inputs = jax.tree.unflatten(structure, leaves)
    if under:
        expected = _outputs(op, attributes, inputs, axes)
        outputs = outputs[: len(expected)]  # a forward half returns residuals after the op's own results
        if not expected or [x.shape for x in outputs] != [x.shape for x in expected]:
            return None
    return OpCall(op, attributes, inputs, tuple(outputs), axes)


def _outputs(
    op: Op[..., Any], attributes: Mapping[str, Any], inputs: tuple[Any, ...], axes: Mapping[str, int]
) -> list[Any]:
    """Shapes of the op's results for inputs of these shapes; empty where its body refuses them."""

    def body(*args: Any) -> Any:
        return op(*args, **attributes)

    if axes:
        mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
        body = jax.shard_map(body, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    try:
        return jax.tree.leaves(jax.eval_shape(body, *inputs))
    except (TypeError, ValueError, IndexError):
        return []
