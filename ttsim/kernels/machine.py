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
      readers: users at that position whose cache is as large as that of all active users of the program together; None:
        all its users are at it. Idle slots of a server, whose position is -1, read nothing.
    """

    chip: Chip
    system: System
    software: Software
    position: Any = 0
    readers: int | None = None
