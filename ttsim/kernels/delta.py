"""The delta rule: of a prompt in chunks, with matrix products inside them and a scan over them; of one token in ops.

Source: tt-metal models/demos/blackhole/qwen36 tt/gdn/fused_chunk.py (`ttnn.transformer.chunk_gated_delta_rule` at
chunks of 32 rows: a prep over the whole grid, then a scan whose cores share a head's values); the products are those of
the chunked form, arXiv:2412.06464 section 3. No kernel time is published: the rate is that of a matmul with default
configuration (`TILE_OVERHEAD`), at four fidelity phases for float32 operands.
"""

from __future__ import annotations

from ttsim.hardware.chips import Chip
from ttsim.hardware.constants.matmul import PHASE_OVERHEAD, TILE_OVERHEAD
from ttsim.kernels.activations import stream
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.machine import Machine
from ttsim.kernels.matmul import tile_math
from ttsim.kernels.shapes import tiles
from ttsim.numerics.formats import TILE, get_format

CHUNK = 32  # rows of one block: larger ones do not fit in L1


def scan(rows: int, heads: int, key: int, value: int, chip: Chip) -> list[Kernel]:
    """Two kernels: per chunk and head in parallel (prep), and chunk after chunk on the cores of a head (scan).

    Each column of tiles of a head's values has a core of its own in the scan: the state's columns are independent.
    Prep: K K^T, Q K^T, the inverse of a triangle of a chunk (as a product of chunk x chunk), and its products with K
    and V. Scan: three products of a chunk with the state, and one with the chunk's scores. What either keeps in a
    core's L1 is not known, so that no key or value is refused.
    """
    chunks, c, k, v = -(-rows // CHUNK), tiles(CHUNK), tiles(key), tiles(value)
    prep = 2 * c * c * k + c * c * c + c * c * (k + v)
    step = 3 * c * k + c * c
    columns = heads * v
    math = tile_math("hifi4", chip) * PHASE_OVERHEAD + TILE_OVERHEAD
    cores = chip.cores
    rounds = -(-chunks * heads // cores)
    return [
        Kernel("gated_delta_prep", limits={"compute": rounds * prep * math}, cores=min(cores, chunks * heads)),
        Kernel(
            "gated_delta_scan",
            limits={"compute": chunks * -(-columns // cores) * step * math},
            cores=min(cores, columns),
        ),
    ]


def fused_step(machine: Machine) -> bool:
    """Whether one token's convolution and recurrence are one kernel each: on several chips of Blackhole.

    Wormhole's state overflows in the fused kernel, and one chip alone runs the code from before it (tt-metal
    models/demos/blackhole/qwen36 tt/gdn/{recurrent_decode_wh,decode}.py).
    """
    return machine.chip.family == "blackhole" and machine.system.chips_per_replica > 1


def convolution_of_ops(row: float, taps: int, chip: Chip) -> list[Kernel]:
    """One token's convolution as ops on whole rows: a product and a sum a tap, SiLU, and the inputs moved on by one.

    Args:
      row: bytes of one token's inputs.

    Source: `_causal_conv1d_decode_t1_split_inplace` of tt-metal models/experimental/
    gated_attention_gated_deltanet tt/ttnn_gated_deltanet.py.
    """
    names = ("multiply",) * taps + ("add",) * (taps - 1) + ("silu",) + ("copy",) * (taps - 1)
    return [stream(name, (3 if name == "add" else 2) * row, chip) for name in names]


def convolution_of_rows(moved: float, taps: int, chip: Chip) -> list[Kernel]:
    """A prompt's convolution on Wormhole: rows laid out one after the other, and a shifted copy of all of them a tap.

    Args:
      moved: bytes of the rows.

    Source: tt-metal models/demos/blackhole/qwen36 tt/gdn/conv_fir_wh.py.
    """
    return [
        stream("untilize", 2 * moved, chip),
        stream("concat", 2 * moved, chip),
        *(stream(name, 2 * moved, chip) for name in ("slice", "tilize") * taps),
        stream("multiply", 2 * moved, chip),
        *(stream("addcmul", 3 * moved, chip) for _ in range(taps - 1)),
        stream("silu", 2 * moved, chip),
    ]


def step_of_ops(users: int, heads: int, key: int, value: int, chip: Chip) -> list[Kernel]:
    """One token's recurrence as ops of their own: the gates and q, k and v first, then six ops on the state.

    A head's row is padded to a row of tiles; the state is float32.

    Source: `recurrent_gated_delta_rule_decode_wh` and `_write_state_wh` of tt-metal models/demos/blackhole/qwen36
    tt/gdn/recurrent_decode_wh.py; the gates are those of ttnn_gated_deltanet.py.
    """
    row = users * heads * TILE * key * get_format("bf16").bytes_per_value
    state = users * heads * key * value * get_format("fp32").bytes_per_value
    gates = ("sigmoid", "add", "softplus", "multiply", "reshape", "reshape", "typecast")
    rows = ("rms_norm", "transpose", "repeat_interleave", "slice", "slice", "typecast", "transpose", "reshape")
    passes = (  # kernel, and how often it moves the state
        ("multiply", 2),  # the decay
        ("matmul", 1),  # k S
        ("multiply", 1),  # k e^T
        ("add", 3),
        ("matmul", 1),  # q S
        ("copy", 2),  # to where a trace expects it
    )
    return [
        *(stream(name, 0, chip) for name in gates),
        *(stream(name, 2 * row, chip) for name in rows),
        stream("subtract", 3 * row, chip),
        stream("multiply", 2 * row, chip),
        *(stream(name, often * state, chip) for name, often in passes),
    ]
