"""What the software of a date does with images: dated facts, each a switch of the program or of the host's work."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

_Date = datetime.date

# fact -> (since, models or () for all, source). Before the date the fact does not hold.
FACTS: dict[str, tuple[_Date, tuple[str, ...], str]] = {
    "fast_tilize": (
        _Date(2025, 4, 18),
        (),
        "tt-metal #20335: the host tilizes float32 3.0 and untilizes 2.6 times as fast",
    ),
    "reads_one_replica": (
        _Date(2025, 4, 23),
        (),
        "tt-metal #18067 with #20170: a replicated tensor is read from one device, not from all",
    ),
    "converts_once": (_Date(2025, 6, 24), (), "tt-metal #23684: a tensor is converted before it is copied per device"),
    "tokens_stay": (_Date(2025, 6, 30), (), "tt-metal #24024: vision tokens do not go over the host any more"),
    "dynamic_tiles": (
        _Date(2025, 7, 22),
        (),
        "tt-metal #25117: the tower computes 1, 2 or 4 tiles, in chunks of 32 x tiles; until then always 4",
    ),
    "tilizes_once": (_Date(2025, 8, 22), (), "tt-metal #26646: a replicated tensor is tilized once"),
    "traced_decode": (
        _Date(2025, 7, 30),
        ("Llama3.2-90B",),
        "tt-inference-server #349; the demo of 2025-04 ran 90B without a trace, which exceeded its trace region",
    ),
}


@dataclass(frozen=True, kw_only=True)
class VisionSoftware:
    """A state of the vision code; each attribute is a fact of `FACTS`."""

    fast_tilize: bool
    reads_one_replica: bool
    converts_once: bool
    tokens_stay: bool
    dynamic_tiles: bool
    tilizes_once: bool
    traced_decode: bool


def vision_software(date: datetime.date, model: str) -> VisionSoftware:
    """What holds at a date for a model (by its published name)."""
    return VisionSoftware(
        **{name: date >= since or bool(models and model not in models) for name, (since, models, _) in FACTS.items()}
    )
