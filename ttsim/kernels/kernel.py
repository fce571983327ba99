"""What a cost rule returns: kernels, whose times are linear forms in constants.

A kernel takes

    time = start + max over its limits (DRAM, compute, link, ...)

and every term is a `Terms` of `ttsim.hardware.quantities`, in seconds. Because the form is linear in products of
constants, a whole table of programs becomes a few matrices, which is what makes calibration a gradient descent and
sweeps fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ttsim.errors import UnpricedError as UnpricedError
from ttsim.hardware.quantities import Terms, UnitError, average

# tt-metal's C++ names, where they are not the kernel's name in CamelCase with "DeviceOperation" behind it.
_BINARY = "BinaryNgDeviceOperation"
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("add", "mul", "multiply", "silu_mul", "gelu_tanh_mul"), _BINARY),
        **dict.fromkeys(("tanh", "sigmoid", "clamp"), "UnaryDeviceOperation"),
        "all_gather": "AllGather",
        "all_gather_matmul": "AllGatherMatmul",
        "argmax": "ArgMaxDeviceOperation",
        "concat_heads": "NLPConcatHeadsDeviceOperation",
        "concat_heads_decode": "NLPConcatHeadsDecodeDeviceOperation",
        "create_heads": "NlpCreateHeadsDeviceOperation",
        "create_heads_decode": "NLPCreateQKVHeadsDecodeDeviceOperation",
        "embedding": "EmbeddingsDeviceOperation",
        "fast_reduce_nc": "FastReduceNCDeviceOperation",
        "paged_fill_cache": "PagedUpdateCacheDeviceOperation",
        "reduce_scatter": "ReduceScatter",
        "rms_norm": "LayerNormDeviceOperation",
        "rms_norm_post_all_gather": "LayerNormPostAllGatherDeviceOperation",
        "rms_norm_pre_all_gather": "LayerNormPreAllGatherDeviceOperation",
        "sdpa": "ScaledDotProductAttention",
        "sdpa_decode": "ScaledDotProductAttentionDecode",
        "tilize_with_padding": "TilizeWithValPaddingDeviceOperation",
        "topk": "TopKDeviceOperation",
    }
)


@dataclass(frozen=True)
class Kernel:
    """One launch on the device, or one piece of work of the host.

    Attributes:
      name: what tt-metal calls it ("matmul (DRAM-sharded)", "all_gather").
      start: time that is always paid: launch, first tile, synchronisation.
      limits: what bounds the work, by name ("dram", "weights", "compute", "pack", "core", "rows", "link"); the largest
        is paid.
      bytes: moved from and to DRAM (collectives: over the links of one device).
      flops: floating-point operations of one device.
      cores: Tensix cores that work.
      fidelity: math fidelity of a matrix kernel.
      source: where the rule comes from.
      place: "device", or "host" for what the host does between launches.
      waits: whether the host waits for the device before this work (a read-back).

    Raises:
      UnitError: a term is no time.
    """

    name: str
    start: Terms = field(default_factory=Terms)
    limits: Mapping[str, Terms] = field(default_factory=dict)
    bytes: Any = 0.0
    flops: Any = 0.0
    cores: int = 0
    fidelity: str = ""
    source: str = ""
    place: Literal["device", "host"] = "device"
    waits: bool = False

    def __post_init__(self) -> None:
        for what, terms in (("start", self.start), *self.limits.items()):
            if not isinstance(terms, Terms) or terms.unit != "s":
                raise UnitError(f"{what} of {self.name} is no time in seconds: {terms!r}")

    @property
    def op_code(self) -> str:
        """What the device's profiler calls it: "MatmulDeviceOperation" for every "matmul (...)"."""
        name = self.name.partition(" (")[0]
        words = name.replace("-", "_").replace(", ", "_and_").split("_")
        return _NAMES.get(name) or "".join(word[:1].upper() + word[1:] for word in words) + "DeviceOperation"

    def time(self, constants: Mapping[str, Any], xp: Any = np) -> Any:
        """Seconds, without the gap before the next kernel.

        Args:
          constants: value of each named constant. xp: numpy, or jax.numpy to differentiate by the constants.
        """
        times = [terms.value(constants) for terms in self.limits.values()]
        largest = times[0] if times else 0.0
        for other in times[1:]:
            largest = xp.maximum(largest, other)
        return self.start.value(constants) + largest

    def binding(self, constants: Mapping[str, Any]) -> str:
        """The limit that binds ("latency" when the start is longer than every limit)."""
        values = {name: average(terms.value(constants)) for name, terms in self.limits.items()}
        values["latency"] = average(self.start.value(constants))
        return max(values, key=lambda name: values[name])


def host_work(name: str, time: Terms, source: str, *, waits: bool = False) -> Kernel:
    """A piece of work of the host: it launches nothing and leaves no gap between kernels."""
    return Kernel(name, start=time, source=source, place="host", waits=waits)
