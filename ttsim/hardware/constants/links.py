"""Constants of collectives: hops, links, and what a collective takes beyond them."""

from __future__ import annotations

from collections.abc import Mapping

from ttsim.hardware.quantities import Constant, fitted, sourced

_CCL = "tt-metal tech_reports/CCLs, results of wormhole_b0 T3K, bfloat16 (2026-09)"
HOP_LATENCY = fitted(
    "hop_latency",
    3.0e-6,
    "s",
    "hop",
    f"one hop of a collective, synchronisation included: 4.5 us + 1.9 us per hop (line), + 2.5 us per hop (ring), "
    f"all-gather, {_CCL}; the collectives of 2025 were not faster",
    log_width=0.4,
)
LINK_BANDWIDTH = sourced(
    "link_bandwidth",
    11.7e9,
    "B/s",
    "link",
    f"one Ethernet link, one direction: all-gather of 32 MiB on a line of 4 or 8, {_CCL} (12.5 GB/s raw)",
)
GRID_COLLECTIVE = fitted(
    "grid_collective",
    20e-6,
    "s",
    "hop",
    "what a collective on a Galaxy takes beyond its hops: 16 to 22 us for norm + gather and for all-reduce at 4U, "
    "tt-metal models/demos/llama3_70b_galaxy/tests/decoder_perf_targets_4u.json, slower before their tuning",
    log_width=0.5,
)
LINE_GATHER_START = sourced("line_gather_start", 4.47e-6, "s", "hop", f"all-gather at no hop: {_CCL}")
LINE_GATHER_HOP = sourced("line_gather_hop", 1.91e-6, "s", "hop", f"all-gather on a line, a hop: {_CCL}")
RING_GATHER_HOP = sourced("ring_gather_hop", 2.50e-6, "s", "hop", f"all-gather on a ring, a hop: {_CCL}")
LINE_REDUCE_START = sourced("line_reduce_start", 3.23e-6, "s", "hop", f"reduce-scatter at no hop: {_CCL}")
LINE_REDUCE_HOP = sourced("line_reduce_hop", 3.97e-6, "s", "hop", f"reduce-scatter on a line, a hop: {_CCL}")
RING_REDUCE_HOP = sourced("ring_reduce_hop", 3.06e-6, "s", "hop", f"reduce-scatter on a ring, a hop: {_CCL}")
BLACKHOLE_COLLECTIVE = fitted(
    "blackhole_collective",
    23e-6,
    "s",
    "nothing",
    "a decode collective on several Blackhole chips since 2026-01-22, beyond its hops: tt-metal #33147, 55 us each",
    log_width=0.5,
    rows="measured",
)
BLACKHOLE_PREFILL_COLLECTIVE = sourced(
    "blackhole_prefill_collective",
    50e-6,
    "s",
    "nothing",
    "a prefill collective on several Blackhole chips, beyond its hops: tt-metal #33147, 55 to 64 us each with them",
)
VOCABULARY_JOIN = sourced(
    "vocabulary_join",
    4.5e-3,
    "s",
    "clock",
    "joining gathered logits whose shards are not whole tiles: Phi-3.5-mini on T3K against N300, tt-metal #19730",
)

# Time of a byte on a link against link_bandwidth, by collective and memory, then by devices of a line or on both links
# of a ring: LINK_BYTE_TIME["gather", "dram"][RING]
RING = 0
LINK_BYTE_TIME: Mapping[tuple[str, str], Mapping[int, Constant]] = {
    (collective, memory): {
        devices: sourced(
            f"{collective}_{memory}_{f'line_{devices}' if devices else 'ring'}",
            ratio,
            "1",
            "nothing",
            f"{_CCL}: {source}",
        )
        for devices, ratio in ratios.items()
    }
    for collective, memory, ratios, source in (
        (
            "gather",
            "dram",
            {2: 1.85, 4: 1.0, 8: 1.0, RING: 1.14},
            "all-gather of 32 MiB, 6.34, 11.7 and 11.7 GB/s on lines of 2, 4 and 8, 20.5 on a ring",
        ),
        (
            "reduce",
            "dram",
            {2: 1.33, 4: 1.14, 8: 1.08, RING: 1.42},
            "reduce-scatter of 32 MiB, 8.8, 10.3 and 10.8 GB/s on lines of 2, 4 and 8, 16.5 on a ring",
        ),
        ("gather", "l1", {2: 1.0, 4: 1.0, 8: 1.0, RING: 1.0}, "an all-gather out of L1 fills the link"),
        (
            "reduce",
            "l1",
            {2: 0.9, 4: 1.2, 8: 1.6, RING: 2.25},
            "reduce-scatter out of L1 against an all-gather of the same size as both grow from 64 to 256 KiB, 13.1 / "
            "15.1 us, 15.8 / 13.0 and 23.3 / 14.7 on lines of 2, 4 and 8, 25.1 / 11.2 on a ring",
        ),
    )
}
