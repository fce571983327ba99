"""The DRAM prefetcher as a request asks for it: for which models and boxes, and on how many cores.

Cores beside the DRAM banks stream the weights of all layers into the L1 of a ring of cores, over which decode's matmuls
then run; prefill is as without it. tt_transformers' (tt-metal #36176, tt/prefetcher.py) keeps one whole matrix of a
chip in the ring's L1, takes the fewest of its legal numbers of cores that hold it, and leaves no room for sampling on
the device nor for the fused rotary and cache update. A Blackhole Galaxy's (#51534) is that of the Galaxy's own code.

That weights never wait for DRAM is assumed, and true wherever it is offered: collectives take longer than the stream
(tests/scenarios/test_prefetching.py).
"""

from __future__ import annotations

import dataclasses

from ttsim.hardware.software import Software
from ttsim.kernels.galaxy import RING
from ttsim.meshes.systems import System, Topology
from ttsim.models.config import ModelConfig
from ttsim.numerics.formats import TILE, get_format

BANKS = 8  # that feed the ring
RECEIVERS = (1, 2, 3, 5, 8, 10)  # legal numbers of ring cores a bank: prefetcher/prefetcher_config.yaml
L1_OF_A_CORE = 1_000_000  # bytes that a matrix may take of a core: `is_prefetcher_supported`, 4 and 8 chips


def prefetching(software: Software) -> Software:
    """The software of a request that asks for the prefetcher.

    Raises:
      ValueError: it has none for this model, box, stack or date.
    """
    offered = software.fact("prefetcher")
    if offered == "no":
        place = software.place
        raise ValueError(
            f"no prefetcher for {place.model or 'this model'} on {place.boxes[1]} in {software.stack} of "
            f"{software.date}: leave it out; `ttsim facts` has the models and boxes of each date"
        )
    return dataclasses.replace(software, prefetcher=True)


def without_module(software: Software) -> Software:
    """What tt_transformers leaves out beside the prefetcher: sampling on the device, fused rotary and cache update."""
    return dataclasses.replace(software, topk=False, device_argmax=0, fused_rope_cache=False)


def ring_cores(config: ModelConfig, system: System) -> int:
    """Cores of the ring: the fewest that hold the widest of a layer's matrices.

        bytes of a core = tiles of K x tiles of N / cores x 1,088,  K and N padded to whole tiles a core

    Raises:
      ValueError: no legal number of cores holds it, or the chips can't share the KV heads.
    """
    if system.topology is Topology.GRID:
        return RING
    chips = system.chips_per_replica
    hidden, inner = -(-config.hidden_size // TILE), -(-config.intermediate_size // (TILE * chips))
    for receivers in RECEIVERS:
        cores = BANKS * receivers
        k, n = (-(-size // cores) * cores for size in (hidden, inner))
        if k * n // cores * get_format("bfp8").tile_bytes <= L1_OF_A_CORE:
            return cores
    raise ValueError(
        f"the prefetcher's ring of at most {BANKS * RECEIVERS[-1]} cores holds no matrix of {config.name} on "
        f"{system.label}: {hidden} x {inner} tiles need more than {L1_OF_A_CORE:,} bytes of each; more chips hold it"
    )
