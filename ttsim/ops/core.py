"""Device operations: plain JAX functions that a program trace can recognise and price.

`@op` turns a function into a device op. The function's positional arguments are arrays (or pytrees of arrays), its
keyword arguments are static attributes. A call runs the function's body inside `jax.jit` under the stable name
`tt.<name>[attribute=value,...]`, so the op survives jit, grad, vmap, scan and shard_map as exactly one equation, and
`ttsim.pricing.program` can read it back from any jaxpr. Everything that is known about an op stands with it:

    @op(weights=(1,))                                    # which inputs are parameters, not activations
    def scale(x, weight, *, out_format, memory="dram"):  # its numerics
        return pack(x * weight, out_format)

    @scale.cost                                          # the kernels that it launches
    def _(call, machine):
        return [stream("scale", bytes_of(call), machine.chip)]

    @scale.cost_on("galaxy")                             # the same on a stack whose own code runs it otherwise
    def _(call, machine):
        return []

    @scale.noise                                         # the noise that it brings into a model
    def _(call):
        return OpNoise(packing(call["out_format"]).power)

    @scale.shapes                                        # its results' shapes and types, for traces without numerics
    def _(x, weight, **attributes):
        return x                                         # (@op(like=0) says the same)

An op whose tensors may lie in different places has an attribute `memory`: "l1", "dram" or "host". Whoever writes the
program sets it; no rule asks in which phase of a model it stands.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from ttsim.errors import unknown
from ttsim.hardware.facts import STACKS
from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.noise import packing
from ttsim.precision.slots import Placeholder, neutral

if TYPE_CHECKING:
    from ttsim.kernels.kernel import Kernel
    from ttsim.kernels.machine import Machine

PREFIX = "tt."
MEMORIES = ("l1", "dram", "host")
Memory = Literal["l1", "dram", "host"]
Array = jax.Array
Weight = jax.Array | BlockArray  # a parameter as it is stored

Attributes = tuple[tuple[str, Any], ...]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class OpCall:
    """One call of a device op as one device sees it.

    Attributes:
      op: the op.
      attributes: the static attributes of the call, defaults included.
      inputs: per-device shapes and dtypes, in the tree structure that the op was called with.
      outputs: per-device shapes and dtypes of the results, flat.
      axis_sizes: size of each mesh axis in scope.
      groups: tensor and op groups that the attributes' values come from ({"weight_format": "ff2"}).
    """

    op: Op[..., Any]
    attributes: Mapping[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    axis_sizes: Mapping[str, int]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def label(self) -> str:
        """The op with what tells it from others of its kind: "linear ff2", "sdpa_decode"."""
        group = self.groups.get("weight_format")
        return f"{self.name} {group}" if group else self.name

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    @property
    def num_devices(self) -> int:
        """Devices along the mesh axis that a collective runs over."""
        return self.axis_sizes[self.attributes["axis"]]

    @property
    def activations(self) -> tuple[Any, ...]:
        """The inputs that are neither parameters nor caches, and are given."""
        known = (*self.op.weights, *self.op.caches)
        return tuple(x for i, x in enumerate(self.inputs) if i not in known and x is not None)

    @functools.cached_property
    def numbers(self) -> frozenset[int]:
        """All numbers among its static attributes, and all sizes of its arrays."""
        sizes = (size for x in jax.tree.leaves((self.inputs, self.outputs)) for size in x.shape)
        return frozenset((*sizes, *(value for value in self.attributes.values() if isinstance(value, int))))

    @functools.cached_property
    def working_set(self) -> int:
        """Values of its activations in and out; the result of an op that updates or reads a cache lies in the cache."""
        results = () if self.op.caches else self.outputs
        return sum(math.prod(x.shape) for x in (*jax.tree.leaves(self.activations), *results))

    @property
    def format(self) -> str:
        """Format of the result: the op's `out_format` or `format`, bf16 where it has neither."""
        return self.attributes.get("out_format") or self.attributes.get("format") or "bf16"

    def shape(self) -> str:
        """The op's shapes on one device in words: "32 x 4096"."""
        return self.op.describe_rule(self)


@dataclass(frozen=True)
class OpNoise:
    """Noise that one op brings into a model's decode step.

    Attributes:
      power: variance over the variance of the op's result, by its roundings and operand bits.
      registers: matmuls that accumulate in 16-bit destination registers; one of two fidelity phases counts 1.
    """

    power: float = 0.0
    registers: float = 0.0


def packed_once(call: OpCall) -> OpNoise:
    """The noise rule of an op that rounds once, when the packer writes its result."""
    return OpNoise(packing(call.format).power)


CostRule = Callable[[OpCall, "Machine"], "Sequence[Kernel]"]
NoiseRule = Callable[[OpCall], OpNoise]
ShapeRule = Callable[..., Any]  # of arrays and attributes as the op's body has them


class Op(Generic[P, R]):
    """A named device op: a JAX function, and all that is known about it.

    Attributes:
      body: the function.
      name: its name.
      weights, caches: which positional inputs are parameters, and which are caches that live in DRAM.
      on_host: whether it is always work of the host. in_l1: whether its activations always lie in L1.
      shape_rule: (*inputs, **attributes) -> the shapes and types of the results, so that a trace that stands for any
        precision needn't look into the body, whose numerics it could not know; None: it asks the body.
      rule: (call, machine) -> the kernels that one device launches; None until `cost` attaches it.
      stack_rules: {stack: its own cost rule}, of stacks whose code runs the op as other kernels.
      noise_rule: call -> the noise that it brings into a model; by default none.
      describe_rule: call -> its shapes in words; by default those of its first input.
    """

    def __init__(
        self,
        body: Callable[P, R],
        weights: tuple[int, ...] = (),
        caches: tuple[int, ...] = (),
        on_host: bool = False,
        in_l1: bool = False,
        like: int | None = None,
    ):
        self.body = body
        self.name = body.__name__
        self.weights = weights
        self.caches = caches
        self.on_host = on_host
        self.in_l1 = in_l1
        self.shape_rule: ShapeRule | None = None if like is None else lambda *inputs, **_: inputs[like]
        self.rule: CostRule | None = None
        self.stack_rules: dict[str, CostRule] = {}
        self.noise_rule: NoiseRule = lambda call: OpNoise()
        self.describe_rule: Callable[[OpCall], str] = _describe
        keywords = [p for p in inspect.signature(body).parameters.values() if p.kind is p.KEYWORD_ONLY]
        self._defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        self._calls: dict[str, tuple[Mapping[str, Any], Any]] = {}
        functools.update_wrapper(self, body)

    def __call__(self, *args: P.args, **attributes: P.kwargs) -> R:
        memory = attributes.get("memory", "dram")
        if memory not in MEMORIES:
            raise ValueError(f"{self.name}: memory must be {', '.join(map(repr, MEMORIES))}, not {memory!r}")
        given = tuple(sorted({**self._defaults, **attributes}.items()))
        call = _abstract if any(isinstance(value, Placeholder) for _, value in given) else _concrete
        result: R = call(self, args, given)
        return result

    def cost(self, rule: CostRule) -> CostRule:
        """Attaches the op's cost rule: (call, machine) -> the kernels that one device launches."""
        if self.rule is not None:
            raise ValueError(f"{self.name} has a cost rule already")
        self.rule = rule
        return rule

    def cost_on(self, stack: str) -> Callable[[CostRule], CostRule]:
        """Attaches the cost rule of a stack (one of `ttsim.hardware.facts.STACKS`) that runs the op as other kernels.

        Its times are those of the boxes that the stack runs on; they are not scaled to the chip.
        """
        if stack not in STACKS:
            raise unknown("stack", stack, STACKS)

        def attach(rule: CostRule) -> CostRule:
            self.stack_rules[stack] = rule
            return rule

        return attach

    def noise(self, rule: NoiseRule) -> NoiseRule:
        """Attaches the op's noise rule: call -> the noise that it brings into a model."""
        self.noise_rule = rule
        return rule

    def shapes(self, rule: ShapeRule) -> ShapeRule:
        """Attaches the op's shape rule: (*inputs, **attributes) -> a tree of what has the results' shapes and types."""
        self.shape_rule = rule
        return rule

    def describe(self, rule: Callable[[OpCall], str]) -> Callable[[OpCall], str]:
        """Attaches how the op's shapes are shown: call -> "32 x 4096 x 14336"."""
        self.describe_rule = rule
        return rule

    def name_of(self, attributes: Attributes, structure: Any) -> str:
        """A stable name for calls with these attributes and this structure of arguments; `marked` reads it back.

        An ordinal keeps two calls apart whose arguments are nested differently (array or BlockArray).
        """
        label = ",".join(f"{key}={value!r}" for key, value in attributes)
        base = name = f"{PREFIX}{self.name}[{label}]"
        ordinal = 0
        while name in self._calls and self._calls[name][1] != structure:
            ordinal += 1
            name = f"{base}#{ordinal}"
        self._calls[name] = (dict(attributes), structure)
        return name

    def call_named(self, name: str) -> tuple[Mapping[str, Any], Any] | None:
        """Attributes and argument structure of the call of this name, or None."""
        return self._calls.get(name)

    def __repr__(self) -> str:
        return f"<op {PREFIX}{self.name}>"


OPS: dict[str, Op[..., Any]] = {}


@overload
def op(body: Callable[P, R], /) -> Op[P, R]: ...
@overload
def op(
    *,
    weights: tuple[int, ...] = (),
    caches: tuple[int, ...] = (),
    on_host: bool = False,
    in_l1: bool = False,
    like: int | None = None,
) -> Callable[[Callable[P, R]], Op[P, R]]: ...
def op(body: Any = None, /, **known: Any) -> Any:
    """Registers a function as a device op (see the module's docstring).

    Args:
      weights: positions of the inputs that are parameters.
      caches: positions of the inputs that are caches, read or updated in DRAM.
      on_host: whether it is always work of the host.
      in_l1: whether its activations always lie in L1.
      like: position of the input whose shape and type the result always has.

    Raises:
      ValueError: there is an op of this name.
    """
    if body is None:
        return functools.partial(_register, **known)
    return _register(body, **known)


def _register(body: Callable[P, R], **known: Any) -> Op[P, R]:
    if body.__name__ in OPS:
        raise ValueError(f"there is an op named {body.__name__} already")
    made = Op(body, **known)
    OPS[body.__name__] = made
    return made


@functools.cache
def _named_jit(op: Op[..., Any], attributes: Attributes, structure: Any) -> Callable[..., Any]:
    def body(*args: Any) -> Any:
        with jax.named_scope(op.name):
            return op.body(*args, **dict(attributes))

    body.__name__ = body.__qualname__ = op.name_of(attributes, structure)
    return jax.jit(body)


def _concrete(op: Op[..., Any], args: tuple[Any, ...], attributes: Attributes) -> Any:
    return _named_jit(op, attributes, jax.tree.structure(args))(*args)


# A call in a trace that stands for any precision: one equation, without the numerics that nobody chose yet.
ABSTRACT_CALL = Primitive("tt")
ABSTRACT_CALL.multiple_results = True
ABSTRACT_CALL.def_abstract_eval(lambda *inputs, results, **call: results)


def _abstract(op: Op[..., Any], args: tuple[Any, ...], attributes: Attributes) -> Any:
    """The call as one equation that computes nothing; its results' shapes by the op's rule, or else by its body."""
    leaves, structure = jax.tree.flatten(args)
    numeric = tuple((key, neutral(value)) for key, value in attributes)
    if op.shape_rule:
        shapes = op.shape_rule(*args, **dict(numeric))
    else:
        shapes = jax.eval_shape(_named_jit(op, numeric, structure), *args)
    shapes, result_structure = jax.tree.flatten(shapes)
    results = tuple(jax.core.ShapedArray(x.shape, x.dtype) for x in shapes)
    found = ABSTRACT_CALL.bind(*leaves, op=op, attributes=attributes, structure=structure, results=results)
    return jax.tree.unflatten(result_structure, found)


def marked(name: str) -> tuple[Op[..., Any], Mapping[str, Any], Any] | None:
    """The op, attributes and argument structure behind a jit name, or None if the name is no op's."""
    if not name.startswith(PREFIX):
        return None
    found = OPS.get(name[len(PREFIX) :].partition("[")[0])
    call = found.call_named(name) if found else None
    return (found, *call) if found and call else None


def array_shape(value: Any) -> tuple[int, ...]:
    """Shape of an argument: an array, or a block-float array that stands for one."""
    return tuple(value.shape) if hasattr(value, "shape") else tuple(jax.tree.leaves(value)[0].shape)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """A float32 array of this shape: what a shape rule answers."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def words(shape: Sequence[int]) -> str:
    """A shape as a matrix in words: leading axes multiplied, "32 x 4096"."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return " x ".join(map(str, (rows, shape[-1]) if len(shape) > 1 else shape))


def _describe(call: OpCall) -> str:
    return words(array_shape(call.inputs[0])) if call.inputs else ""
