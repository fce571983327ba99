"""What the boards of a box may draw, without host and power supply."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Total board power in watts: n150 160, n300 300 (both chips), p100a and p150 300, p300 600 (both chips). A limit, not a
# load: Llama-3.1-8B at batch 1 was measured at 42 W on a p150 at 800 MHz. Source: docs.tenstorrent.com, board
# specifications, 2026. No figure of a Galaxy's boards was found.
POWER_LIMITS: Mapping[str, float] = MappingProxyType(
    {
        "N150": 160.0,
        "N300": 300.0,
        "N150x4": 4 * 160.0,
        "T3K": 4 * 300.0,
        "P100": 300.0,
        "P150": 300.0,
        "P150x2": 2 * 300.0,
        "P150x4": 4 * 300.0,
        "P150x8": 8 * 300.0,
        "P300": 600.0,
        "P300x2": 2 * 600.0,
    }
)


def energy_bound(system: str, throughput: float) -> float | None:
    """Joules per token at most: the boards' power limit over tokens per second; None where no limit is known."""
    limit = POWER_LIMITS.get(system)
    return None if limit is None or not throughput else limit / throughput
