"""What the host does for a launch that is in no trace, and how far it may run ahead of the device.

Source: tt-metal models/tt_transformers demo/simple_text_demo.py and tt/generator.py, May 2025.
"""

from __future__ import annotations

from ttsim.hardware.constants.host import BLACKHOLE_OP_CHIP, HOST_OP, HOST_OP_CHIP
from ttsim.hardware.quantities import Terms
from ttsim.meshes.systems import System

PREFETCH_QUEUE = 128  # entries of the Ethernet dispatcher's prefetch queue (tt-metal dispatch_settings.cpp)


def dispatch(system: System) -> Terms:
    """Host time of one launch that is in no trace, on every chip of a replica."""
    more = HOST_OP_CHIP if system.chip.family == "wormhole" else BLACKHOLE_OP_CHIP
    return HOST_OP + (system.chips_per_replica - 1) * more
