"""What the boards of a box cost and may draw, without host and power supply."""

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

# List prices in dollars: n150d 1,099, n300d 1,449, p100a 999 (hardwareluxx.de, 2025-04), p150a 1,399 (vendor, 2026); a
# T3K is four N300. No public price of a Galaxy or of a P300 board alone was found.
LIST_PRICES: Mapping[str, float] = MappingProxyType(
    {
        "N150": 1099.0,
        "N300": 1449.0,
        "N150x4": 4 * 1099.0,
        "T3K": 4 * 1449.0,
        "P100": 999.0,
        "P150": 1399.0,
        "P150x2": 2 * 1399.0,
        "P150x4": 4 * 1399.0,
        "P150x8": 8 * 1399.0,
    }
)
YEARS = 3.0  # of full load that a price is spread over, unless the reader says otherwise
_SECONDS_OF_A_YEAR = 365.25 * 24 * 3600.0


def energy_bound(system: str, throughput: float) -> float | None:
    """Joules per token at most: the boards' power limit over tokens per second; None where no limit is known."""
    limit = POWER_LIMITS.get(system)
    return None if limit is None or not throughput else limit / throughput


def token_price(system: str, throughput: float, years: float = YEARS) -> float | None:
    """Dollars of boards per token: list price / (tokens per second x seconds of full load); None if no price is known.

    Args:
      system: a built-in name. throughput: tokens per second of all users. years: of full load, an assumption.
    """
    price = LIST_PRICES.get(system)
    return None if price is None or not throughput else price / (throughput * years * _SECONDS_OF_A_YEAR)
