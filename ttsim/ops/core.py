"""Device operations: plain JAX functions that a program trace can recognise and price.

`@op` turns a function into a device op. The function's positional arguments are arrays (or pytrees of arrays), its
keyword arguments are static attributes. A call runs the function's body inside `jax.jit` under the stable name
`tt.<name>[attribute=value,...]`, so the op survives jit, grad, vmap, scan and shard_map as exactly one equation, and
`ttsim.pricing.program` can read it back from any jaxpr. The op's cost rule is attached beside its numerics:

    @op
    def silu_mul(gate, up, *, out_format):
        return round_to(jax.nn.silu(gate) * up, out_format)

    @silu_mul.cost
    def _(call, machine):
        return [Kernel("binary", ...)]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from ttsim.precision.slots import neutral

if TYPE_CHECKING:
    from ttsim.kernels.kernel import Kernel
    from ttsim.kernels.machine import Machine

PREFIX = "tt."

Attributes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class OpCall:
    """One call of a device op as one device sees it.

    Attributes:
      op: the op.
      attributes: the static attributes of the call.
      inputs: per-device shapes and dtypes, in the tree structure that the op was called with.
      outputs: per-device shapes and dtypes of the results, flat.
      axis_sizes: size of each mesh axis in scope.
      groups: tensor and op groups that the attributes' values come from ({"weight_format": "ff2"}).
    """

    op: Op
    attributes: Mapping[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    axis_sizes: Mapping[str, int]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.op.name

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    @property
    def num_devices(self) -> int:
        """Devices along the mesh axis that a collective runs over."""
        return self.axis_sizes[self.attributes["axis"]]


CostRule = Callable[[OpCall, "Machine"], "Sequence[Kernel]"]


class Op:
    """A named device op: a JAX function, and the rule that lists the kernels that it launches."""

    def __init__(self, body: Callable[..., Any]):
        self.body = body
        self.name = body.__name__
        self.rule: CostRule | None = None
        functools.update_wrapper(self, body)

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        structure = jax.tree.structure(args)
        return _named_jit(self, tuple(sorted(attributes.items())), structure)(*args)

    def cost(self, rule: CostRule) -> CostRule:
        """Attaches the op's cost rule: (call, machine) -> the kernels that one device launches."""
        if self.rule is not None:
            raise ValueError(f"{self.name} has a cost rule already")
        self.rule = rule
        return rule

    def __repr__(self) -> str:
        return f"<op {PREFIX}{self.name}>"


OPS: dict[str, Op] = {}
_MARKED: dict[str, tuple[Op, dict[str, Any], Any]] = {}


def op(body: Callable[..., Any]) -> Op:
    """Registers a function as a device op (see the module's docstring)."""
    if body.__name__ in OPS:
        raise ValueError(f"there is an op named {body.__name__} already")
    OPS[body.__name__] = Op(body)
    return OPS[body.__name__]


@functools.cache
def _named_jit(op: Op, attributes: Attributes, structure: Any) -> Callable[..., Any]:
    keywords = dict(attributes)
    numeric = {key: neutral(value) for key, value in attributes}

    def body(*args: Any) -> Any:
        with jax.named_scope(op.name):
            return op.body(*args, **numeric)

    label = ",".join(f"{key}={value!r}" for key, value in attributes)
    # The structure's ordinal keeps two calls apart whose arguments are nested differently (array or BlockArray).
    ordinal = sum(1 for other in _MARKED.values() if other[0] is op and other[1] == keywords)
    name = f"{PREFIX}{op.name}[{label}]" + (f"#{ordinal}" if ordinal else "")
    body.__name__ = body.__qualname__ = name
    _MARKED[name] = (op, keywords, structure)
    return jax.jit(body)


def marked(name: str) -> tuple[Op, dict[str, Any], Any] | None:
    """The op, attributes and argument structure behind a jit name, or None if the name is no op's."""
    return _MARKED.get(name)
