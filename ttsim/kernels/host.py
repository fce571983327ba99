"""What the host does: a decode step's inputs and outputs, dispatch of untraced ops, and a prompt's fixed work.

Source of the sequence: tt-metal models/tt_transformers demo/simple_text_demo.py and tt/generator.py, May 2025.
"""

from __future__ import annotations

from ttsim.hardware.chips import WORMHOLE_6U
from ttsim.kernels.kernel import Terms, over, seconds, times
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
    software = machine.software
    if software.galaxy:  # positions and tokens stay on the device, and a token is read while the next one is computed
        if not software.served:
            return seconds(0.0)
        old = software.fact("galaxy_server") == "slow"
        return times(1, "galaxy_server_step_2025_07" if old else "galaxy_server_step")
    chip = "host_chip_6u" if system.chip == WORMHOLE_6U else "host_chip"
    total = times(system.data_parallel, "host_replica") + times(system.num_chips, chip)
    if software.sampler(vocab_size, system.chips_per_replica, batch) == "host":
        total = total + sampling(machine, batch, vocab_size)
    if software.served:
        total = total + times(1, "server_step")
    return total


def sampling(machine: Machine, batch: int, vocab_size: int) -> Terms:
    """Host time of reading a step's logits and taking their argmax, for every replica.

    32 rows of bf16 are read whatever the batch, those of chips behind an Ethernet tunnel at the tunnel's rate. Until
    2025-06 reading, conversion and argmax were slower, and one constant.
    """
    system, replicas = machine.system, machine.system.data_parallel
    if machine.software.host_argmax == "slow":
        return times(replicas * vocab_size * batch / 32, "host_argmax")
    moved = 2 * 32 * vocab_size * replicas
    read = seconds(moved * (1 - system.tunnelled) / system.chip.host_read_bandwidth)
    tunnel = over(moved * system.tunnelled, "tunnel_read_bandwidth")
    return read + tunnel + times(replicas * vocab_size, "host_argmax_2025_06")


def _server(machine: Machine) -> Terms:
    """What a server adds to the time of a prompt, by its generation."""
    chips = machine.system.chips_per_replica
    return {
        "early": times(1, "server_prompt_early"),
        "first": times(chips, "server_prompt_chip"),
        "second": times(1, "server_prompt"),
    }[machine.software.fact("server")]


def dispatch(machine: Machine, ops: int) -> Terms:
    """Host time of `ops` device ops that aren't in a trace, on every chip of a replica."""
    if machine.software.traced_prefill or machine.software.galaxy:
        return seconds(0.0)
    more = "host_op_chip" if machine.chip.family == "wormhole" else "blackhole_op_chip"
    return times(ops, "host_op") + times(ops * (machine.system.chips_per_replica - 1), more)


def prompt(machine: Machine, batch: int, vocab_size: int) -> Terms:
    """Host time of one prompt whatever its length.

    The warm-up compiles the programs of the first user only. In a batch, the one prompt that needs variants of its own
    (another last tile, another page table) compiles them while the clock runs.
    """
    total = times(1, "host_prompt")
    if machine.software.galaxy:
        total = seconds(0.0) if machine.software.traced_prefill else times(1, "galaxy_eager_prompt")
    if batch > ODD_PROMPT and machine.software.odd_prompt_compiles:
        total = total + times(1 / batch, "program_one_off")
    if machine.software.served:
        total = total + _server(machine)
    if not machine.software.device_untilize:
        chips = machine.system.chips_per_replica
        nearest = min(_HOST_UNTILIZE, key=lambda known: abs(known - chips))
        total = total + seconds(1e-3 * _HOST_UNTILIZE[nearest] * vocab_size / 128_256)
    return total
