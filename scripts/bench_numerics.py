"""Times quantize, dequantize and round_to beside a memory copy of the same array, in one run.

    python scripts/bench_numerics.py
    python scripts/bench_numerics.py --rows=1024 --format=bfp8 --repeats=10

CPU time counts all threads, so the rates do not depend on the number of cores. "copy ratio" is CPU time over that of a
jitted copy of the float array; "vs peer" is the rate over that of ttnn's host conversion (float32 to bfp8).
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from ttsim.numerics import conversion, formats
from ttsim.ui import console

_ROWS = flags.DEFINE_integer("rows", 4096, "Rows of the array.", lower_bound=1)
_COLS = flags.DEFINE_integer("cols", 14336, "Columns of the array; blocks of 16 run along them.", lower_bound=1)
_FORMATS = flags.DEFINE_multi_enum("format", ["bfp8", "bfp4"], list(formats.FORMATS), "Format to convert to.")
_ROUNDING = flags.DEFINE_enum("rounding", "host", formats.ROUNDINGS, "Rounding rule.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each conversion; the best one counts.", lower_bound=1)
_PEER = flags.DEFINE_float(
    "peer",
    80.0,
    "Peer's rate in million values per CPU-second: ttnn 0.81.1 from_torch, float32 to bfp8_b, 82 on one day.",
)


class Timing(NamedTuple):
    """Best wall and CPU seconds of a function, and the bytes of its argument and result."""

    wall: float
    cpu: float
    n_bytes: int


def tree_bytes(tree: object) -> int:
    """Returns the bytes of all arrays of a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def measure(function: Callable, argument: object, repeats: int) -> tuple[Timing, object]:
    """Returns the best wall and CPU time of a jitted function, compilation excluded, and its result."""
    function = jax.jit(function)
    result = jax.block_until_ready(function(argument))
    wall, cpu = [], []
    for _ in range(repeats):
        start_wall, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(argument))
        cpu.append(time.process_time() - start_cpu)
        wall.append(time.perf_counter() - start_wall)
    return Timing(min(wall), min(cpu), tree_bytes((argument, result))), result


def rows_of(dtype: jnp.dtype) -> list[tuple[str, Timing, Timing]]:
    """Measures all conversions of one input dtype: (label, timing, timing of the copy)."""
    x = jax.random.normal(jax.random.key(0), (_ROWS.value, _COLS.value), dtype)
    run = functools.partial(measure, repeats=_REPEATS.value)
    copy, _ = run(jnp.copy, x)
    rows = [(f"copy {x.dtype}", copy, copy)]
    for name in _FORMATS.value:
        quantised, stored = run(functools.partial(conversion.quantize, fmt=name, rounding=_ROUNDING.value), x)
        rows.append((f"quantize {x.dtype} -> {name}", quantised, copy))
        values, _ = run(lambda a: conversion.dequantize(a, dtype), stored)
        rows.append((f"dequantize {name} -> {x.dtype}", values, copy))
        rounded, _ = run(functools.partial(conversion.round_to, fmt=name, rounding=_ROUNDING.value), x)
        rows.append((f"round_to {x.dtype} {name}", rounded, copy))
    return rows


def main() -> None:
    size = _ROWS.value * _COLS.value
    print(f"{_ROWS.value} x {_COLS.value} = {size / 1e6:.1f} million values on {jax.devices()[0].device_kind}")
    header = ("conversion", "wall ms", "CPU ms", "Mval/CPU-s", "GB/s", "copy ratio", "vs peer")
    print(f"{header[0]:<30}" + "".join(f"{column:>12}" for column in header[1:]))
    for dtype in (jnp.float32, jnp.bfloat16):
        for label, timing, copy in rows_of(jnp.dtype(dtype)):
            rate = size / timing.cpu / 1e6
            cells = (
                f"{timing.wall * 1e3:.1f}",
                f"{timing.cpu * 1e3:.1f}",
                f"{rate:.0f}",
                f"{timing.n_bytes / timing.wall / 1e9:.2f}",
                f"{timing.cpu / copy.cpu:.2f}",
                f"{rate / _PEER.value:.1f}",
            )
            print(f"{label:<30}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    console.run(main)
