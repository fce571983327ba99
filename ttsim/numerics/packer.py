"""How the device writes a result: its packer rounds differently from the host's conversion."""

from __future__ import annotations

import jax

from ttsim.numerics.conversion import round_to


def pack(x: jax.Array, fmt: str) -> jax.Array:
    """x as the packer writes it to L1 in this format. Source: tt-isa-documentation Packers/FormatConversion."""
    return round_to(x, fmt, rounding="device")
