"""Constants measured on Wormhole, on another chip: each scaled by the chips' figure that it depends on.

    cycles       a time that cores spend in so many cycles, or a rate of one core: by the clock
    dram         a share of the DRAM's peak bandwidth
    noc          bytes that move between cores and within their L1: width of a flit x clock
    link, hop    bytes over Ethernet; the latency of forwarding a packet
    none         what the chip doesn't change: the host, and ratios

This is a prediction: no constant was measured on the other chip. On Wormhole every factor is 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from ttsim.hardware.chips import WORMHOLE, Chip
from ttsim.kernels.kernel import SECONDS, Kernel, Terms

DEPENDS_ON: Mapping[str, str] = {
    "dram_sharded_start": "cycles",
    "dram_sharded_bandwidth": "dram",
    "block_latency": "noc",
    "tile_pack": "noc",
    "interleaved_bandwidth": "dram",
    "mcast_1d_floor": "cycles",
    "small_kernel_scale": "cycles",
    "core_bandwidth": "cycles",
    "norm_bandwidth": "cycles",
    "embedding_bandwidth": "cycles",
    "row_bandwidth": "cycles",
    "hop_latency": "hop",
    "link_bandwidth": "link",
    "grid_collective": "hop",
    "sdpa_decode_start": "cycles",
    "sdpa_decode_chunk": "cycles",
    "sdpa_merge": "cycles",
    "static_chunks": "cycles",
    "softmax_block": "cycles",
    "sdpa_efficiency": "none",
    "mcast_2d_weight_bandwidth": "noc",
    "phase_overhead": "none",
    "tile_overhead": "cycles",
    "host_replica": "none",
    "host_chip": "none",
    "host_argmax": "none",
    "host_op": "none",
    "host_op_chip": "none",
    "host_prompt": "none",
    "program_one_off": "none",
    "vocabulary_join": "cycles",
    "topk_column": "cycles",
    "topk_many_cores": "cycles",
    "topk_sampling": "cycles",
    "topk_user": "none",
    "sdpa_fused_merge": "cycles",
    "line_gather_start": "hop",
    "line_gather_hop": "hop",
    "ring_gather_hop": "hop",
    "line_reduce_start": "hop",
    "line_reduce_hop": "hop",
    "ring_reduce_hop": "hop",
    "blackhole_collective": "none",
    "blackhole_prefill_collective": "none",
    "blackhole_tile_overhead": "cycles",
    "blackhole_op_chip": "none",
    "host_argmax_2025_06": "none",
    "tunnel_read_bandwidth": "none",
    "server_step": "none",
    "server_prompt_early": "none",
    "server_prompt_chip": "none",
    "server_prompt": "none",
    "galaxy_collective_start": "none",
    "galaxy_ring_link": "none",
    "galaxy_line_link": "none",
    "galaxy_ring_start": "none",
    "galaxy_prefetch": "none",
    "galaxy_ring_dram": "none",
    "galaxy_line_dram": "none",
    "galaxy_matmul_row": "none",
    "galaxy_minimal_matmul_row": "none",
    "galaxy_small_ops": "none",
    "galaxy_small_ops_row": "none",
    "galaxy_prefill_start": "none",
    "galaxy_prefill_barrier": "none",
    "galaxy_gather_bandwidth": "none",
    "galaxy_reduce_bandwidth": "none",
    "galaxy_attention": "none",
    "galaxy_eager_prompt": "none",
    "galaxy_server_step": "none",
    "galaxy_server_step_2025_07": "none",
    "host_chip_6u": "none",
}


@functools.cache
def speedups(chip: Chip) -> Mapping[str, float]:
    """How much faster than a Wormhole a chip is, by what a constant depends on."""
    return {
        "cycles": chip.clock / WORMHOLE.clock,
        "dram": chip.dram_bandwidth / WORMHOLE.dram_bandwidth,
        "noc": chip.noc_bytes_per_cycle * chip.clock / (WORMHOLE.noc_bytes_per_cycle * WORMHOLE.clock),
        "link": chip.link_bandwidth / WORMHOLE.link_bandwidth,
        "hop": WORMHOLE.hop_latency / chip.hop_latency,
        "none": 1.0,
    }


def scaled(kernels: Sequence[Kernel], chip: Chip) -> Sequence[Kernel]:
    """The kernels of a cost rule, whose constants are Wormhole's, on a chip.

    Plain seconds at the start of a kernel are launch times of Wormhole; those in a limit come from the chip's clock.
    """
    faster = speedups(chip)
    if all(factor == 1 for factor in faster.values()):
        return kernels
    return [
        dataclasses.replace(
            kernel,
            start=_scaled(kernel.start, faster, faster["cycles"]),
            limits={name: _scaled(terms, faster, 1.0) for name, terms in kernel.limits.items()},
        )
        for kernel in kernels
    ]


def _scaled(terms: Terms, faster: Mapping[str, float], seconds: float) -> Terms:
    return Terms(
        {
            key: amount / (seconds if key == SECONDS else faster[DEPENDS_ON[key.lstrip("/")]])
            for key, amount in terms.items()
        }
    )
