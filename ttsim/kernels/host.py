"""What the host does: a decode step's inputs and outputs, dispatch of untraced ops, and a prompt's fixed work.

Source of the sequence: tt-metal models/tt_transformers demo/simple_text_demo.py and tt/generator.py, May 2025.
"""

from __future__ import annotations

from ttsim.kernels.kernel import Terms, seconds, times
from ttsim.kernels.machine import Machine

# Index of the one prompt of the demo's 32 (input_data_questions_prefill_128.json) that is shorter than 96 tokens and so
# needs another last tile: smaller batches don't reach it.
ODD_PROMPT = 4
PREFETCH_QUEUE = 128  # entries of the Ethernet dispatcher's prefetch queue (tt-metal dispatch_settings.cpp)

# Milliseconds that untilizing 128,256 logits on the host took, by chips of the replica: TTFT of 1B on N150 and N300 and
# of 8B on T3K before and after tt-metal bcfc2c1a3f (2025-03-17).
_HOST_UNTILIZE = {1: 32.0, 2: 30.0, 8: 17.0}


def step(machine: Machine, batch: int, vocab_size: int) -> Terms:
    """Host time of one decode step: copies and read-back for every replica, one chip after the other.

    A batch that the software of the date samples on the host adds the read-back and the argmax of its logits.
    """
    system = machine.system
    total = times(system.data_parallel, "host_replica") + times(system.num_chips, "host_chip")
    if batch > machine.software.device_argmax:
        total = total + times(system.data_parallel * vocab_size * batch / 32, "host_argmax")
    return total


def dispatch(machine: Machine, ops: int, traced: bool | None = None) -> Terms:
    """Host time of `ops` device ops on every chip of a replica, none if they are in a trace.

    `traced`: by default whether the software of the date traces prefill.
    """
    if machine.software.traced_prefill if traced is None else traced:
        return seconds(0.0)
    return times(ops, "host_op") + times(ops * (machine.system.chips_per_replica - 1), "host_op_chip")


def prompt(machine: Machine, batch: int, vocab_size: int) -> Terms:
    """Host time of one prompt whatever its length.

    The warm-up compiles the programs of the first user only. In a batch, the one prompt that needs variants of its own
    (another last tile, another page table) compiles them while the clock runs.
    """
    total = times(1, "host_prompt")
    if batch > ODD_PROMPT:
        total = total + times(1 / batch, "program_one_off")
    if not machine.software.device_untilize:
        chips = machine.system.chips_per_replica
        nearest = min(_HOST_UNTILIZE, key=lambda known: abs(known - chips))
        total = total + seconds(1e-3 * _HOST_UNTILIZE[nearest] * vocab_size / 128_256)
    return total
