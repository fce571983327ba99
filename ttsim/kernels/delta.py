"""The chunked delta rule of a prompt: matrix products inside chunks, and a scan over them.

Source: tt-metal models/demos/blackhole/qwen36 tt/gdn/fused_chunk.py (`ttnn.transformer.chunk_gated_delta_rule` at
chunks of 32 rows: a prep over the whole grid, then a scan whose cores share a head's values); the products are those of
the chunked form, arXiv:2412.06464 section 3. No kernel time is published: the rate is that of a matmul with default
configuration (`TILE_OVERHEAD`), at four fidelity phases for float32 operands.
"""

from __future__ import annotations

from ttsim.hardware.chips import Chip
from ttsim.hardware.matmul_constants import PHASE_OVERHEAD, TILE_OVERHEAD
from ttsim.kernels.kernel import Kernel
from ttsim.kernels.matmul import tile_math
from ttsim.kernels.shapes import tiles

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
