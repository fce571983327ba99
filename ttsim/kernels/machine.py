"""What a cost rule may know beside the call itself: the chip, the system, the software and the position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ttsim.hardware.chips import Chip
from ttsim.hardware.software import Software
from ttsim.meshes.systems import System


@dataclass(frozen=True)
class Machine:
    """Where and when a program runs.

    Attributes:
      chip, system, software: the hardware and the state of the software.
      position: tokens before the one that decode computes (a number, or an array of numbers: a price for each).
    """

    chip: Chip
    system: System
    software: Software
    position: Any = 0
