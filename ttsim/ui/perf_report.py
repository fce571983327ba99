"""A run in the column layout of tt-metal's device profiler, which `tt-perf-report` reads.

Signposts "prefill" and "decode" part the two phases, so that `tt-perf-report run.csv` shows the decode step and
`--start-signpost prefill --end-signpost decode` the prompt. The rows are those of one chip: all chips run the same.

Source of the layout: tt-perf-report 1.4 (perf_report.py), format v2.1.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttsim.kernels.matmul import MAX_BLOCK
from ttsim.kernels.shapes import largest_divisor, tiles
from ttsim.meshes.systems import System
from ttsim.numerics.formats import TILE
from ttsim.ops.core import array_shape
from ttsim.pricing.describe import in_l1, matrix_shape
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.schedule import Phase, Run, schedule

_TYPES = {"bf16": "BFLOAT16", "bfp8": "BFLOAT8_B", "bfp4": "BFLOAT4_B", "bfp2": "BFLOAT2_B", "fp32": "FLOAT32"}
_FIDELITIES = {"LOFI": "LoFi", "HIFI2": "HiFi2", "HIFI3": "HiFi3", "HIFI4": "HiFi4"}
_TENSORS = ("INPUT_0", "INPUT_1", "OUTPUT_0")
_SIDES = ("W", "Z", "Y", "X")
COLUMNS = (
    "OP CODE",
    "OP TYPE",
    "GLOBAL CALL COUNT",
    "DEVICE ID",
    "DEVICE ARCH",
    "ATTRIBUTES",
    "MATH FIDELITY",
    "CORE COUNT",
    "AVAILABLE WORKER CORE COUNT",
    "HOST START TS",
    "HOST END TS",
    "HOST DURATION [ns]",
    "DEVICE FW DURATION [ns]",
    "DEVICE KERNEL DURATION [ns]",
    "OP TO OP LATENCY [ns]",
    *(
        f"{t}_{field}"
        for t in _TENSORS
        for field in (*(f"{s}_PAD[LOGICAL]" for s in _SIDES), "LAYOUT", "DATATYPE", "MEMORY")
    ),
    "METAL TRACE ID",
    "SIMULATED KERNEL",
)


def to_csv(scenario: Scenario, constants: Mapping[str, Any]) -> str:
    """The prompt and one decode step as the profiler would have written them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    count = 0
    for phase in schedule(scenario, constants):
        writer.writerow({"OP CODE": phase.name, "OP TYPE": "signpost", "HOST START TS": _ns(phase.start)})
        for row in profile_rows(phase, scenario.system):
            count += 1
            writer.writerow({"GLOBAL CALL COUNT": 1024 * count, **row})
    return out.getvalue()


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)


def profile_rows(phase: Phase, system: System) -> Iterator[dict[str, Any]]:
    machine = phase.machine
    before = phase.start
    for run in phase.runs:
        kernel = run.kernel
        yield {
            "OP CODE": kernel.op_code,
            "OP TYPE": "tt_dnn_device",
            "DEVICE ID": 0,
            "DEVICE ARCH": arch_of(system),
            "ATTRIBUTES": _attributes(run),
            "MATH FIDELITY": _FIDELITIES.get(kernel.fidelity, "HiFi4"),
            "CORE COUNT": kernel.cores or machine.chip.cores,
            "AVAILABLE WORKER CORE COUNT": machine.chip.cores,
            "HOST START TS": _ns(run.start) + 1,  # after the signpost of its phase
            "HOST END TS": _ns(run.end) + 1,
            "HOST DURATION [ns]": _ns(run.time),
            "DEVICE FW DURATION [ns]": _ns(run.time),
            "DEVICE KERNEL DURATION [ns]": _ns(run.time),
            "OP TO OP LATENCY [ns]": _ns(max(run.start - before, 0.0)),
            "METAL TRACE ID": 0 if run.traced else "",
            "SIMULATED KERNEL": kernel.name,
            **_tensors(run),
        }
        before = run.end


def arch_of(system: System) -> str:
    """What tt-perf-report calls the chip: "wormhole_b0", "blackhole", or "p100" for its seven banks."""
    if system.chip.family == "wormhole":
        return "wormhole_b0"
    return "p100" if "p100" in system.chip.name else "blackhole"


def _attributes(run: Run) -> str:
    if run.kernel.name != "matmul (DRAM-sharded)":
        kind = {"matmul (2-D mcast)": "MultiCast", "matmul (1-D mcast)": "MultiCast1D"}.get(run.kernel.name)
        return f"{{'program_config': 'MatmulMultiCoreReuse{kind}ProgramConfig()'}}" if kind else ""
    k, cores = array_shape(run.call.inputs[0])[-1], run.call.attributes.get("cores") or 1
    block = largest_divisor(max(tiles(k) // cores, 1), MAX_BLOCK)
    config = f"MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(in0_block_w={block};per_core_M=1)"
    return f"{{'program_config': '{config}'}}"


def _tensors(run: Run) -> dict[str, Any]:
    """Shapes, types and places of the first inputs and the output."""
    call, attributes = run.call, run.call.attributes
    place = "L1_WIDTH_SHARDED" if in_l1(call) else "DRAM_INTERLEAVED"
    own = str(attributes.get("format") or attributes.get("out_format") or "bf16")
    in_format = str(attributes.get("in_format") or ("bf16" if "weight_format" in attributes else own))
    matrix = matrix_shape(call, run.kernel)
    if matrix:
        m, k, n = matrix
        rows = math.prod(array_shape(call.inputs[0])[:-1])
        weight_place = "DRAM_WIDTH_SHARDED" if run.kernel.name == "matmul (DRAM-sharded)" else "DRAM_INTERLEAVED"
        weight = str(attributes["weight_format"])
        return {
            **_tensor("INPUT_0", (rows, k), in_format, place),
            **_tensor("INPUT_1", (k, n), weight, weight_place),
            **_tensor("OUTPUT_0", (rows if m >= rows else m, n), str(attributes["out_format"]), place),
        }
    shapes = [array_shape(value) for value in call.inputs[:2]]
    cached = "kv_format" in attributes or call.name in ("update_cache", "fill_cache", "read_cache")
    result: dict[str, Any] = {}
    for i, shape in enumerate(shapes):
        is_cache = cached and i == (0 if "kv_format" not in attributes else 1)
        table = call.name == "embedding" and i == 1
        fmt = str(attributes.get("kv_format", own)) if is_cache else in_format
        result |= _tensor(_TENSORS[i], shape, fmt, "DRAM_INTERLEAVED" if is_cache or table else place)
    if "Matmul" in run.kernel.op_code and len(shapes) < 2:  # the rows are picked by a product from the left
        picked = (call.outputs[0].shape[0], math.prod(shapes[0][:-1]))
        result |= _tensor("INPUT_0", picked, own, "DRAM_INTERLEAVED") | _tensor("INPUT_1", shapes[0], own, place)
    return result | _tensor("OUTPUT_0", tuple(call.outputs[0].shape), own, place)


def _tensor(name: str, shape: Sequence[int], fmt: str, place: str) -> dict[str, Any]:
    sides = [*([1] * (4 - len(shape))), *shape][-4:]
    padded = [*sides[:2], *(tiles(side) * TILE for side in sides[2:])]
    columns = {f"{name}_{s}_PAD[LOGICAL]": f"{p}[{n}]" for s, p, n in zip(_SIDES, padded, sides, strict=True)}
    return columns | {
        f"{name}_LAYOUT": "TILE",
        f"{name}_DATATYPE": _TYPES.get(fmt, "BFLOAT16"),
        f"{name}_MEMORY": f"DEV_0_{place}",
    }
