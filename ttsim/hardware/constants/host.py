"""Constants of the host's own work: steps, prompts, dispatch, what it reads, and what a server adds."""

from __future__ import annotations

from collections.abc import Mapping

from ttsim.hardware.quantities import Constant, calibrated, fitted, sourced

HOST_REPLICA = fitted(
    "host_replica",
    0.45e-3,
    "s",
    "nothing",
    "host work of one replica and decode step: DP rows against single ones",
    log_width=0.4,
)
HOST_CHIP = fitted(
    "host_chip",
    0.18e-3,
    "s",
    "nothing",
    "host work of one more chip: DP rows, 0.7 to 0.9 ms per replica of one and two chips; a Galaxy's 7 ms",
    log_width=0.3,
)
HOST_ARGMAX = fitted(
    "host_argmax",
    40e-9,
    "s",
    "nothing",
    "reading and taking the argmax of 32 rows, per vocabulary entry: batch 32 against batch 1, 5 to 6 ms",
    log_width=0.3,
)
HOST_SAMPLING = fitted(
    "host_sampling",
    11e-9,
    "s",
    "nothing",
    "converting 32 rows and taking their argmax on the host since 2025-06, per vocabulary entry, without the read-back",
    log_width=0.3,
    rows="measured",
)
TUNNEL_READ_BANDWIDTH = sourced(
    "tunnel_read_bandwidth",
    4.8e9,
    "B/s",
    "nothing",
    "host reading a chip behind an Ethernet tunnel, pages of 2 KiB: tt-metal benchmark_rw_buffer_golden.json",
)
HOST_OP = fitted(
    "host_op",
    32e-6,
    "s",
    "nothing",
    "host dispatch of one untraced op on one device: 24 to 48 us, tt-metal tech_reports/Metal2OpMigration",
    log_width=0.3,
)
HOST_OP_CHIP = fitted(
    "host_op_chip",
    4e-6,
    "s",
    "nothing",
    "the same per further device: T3K layers of 1B take 1.7 to 2 ms on the host, N300 layers 1.4 ms",
    log_width=0.5,
)
BLACKHOLE_OP_CHIP = fitted(
    "blackhole_op_chip",
    16e-6,
    "s",
    "nothing",
    "host dispatch of an untraced op on one more chip of a Blackhole box",
    log_width=0.3,
    rows="measured",
)
BLACKHOLE_REPLICAS = calibrated(
    "blackhole_replicas",
    2.0,
    "1",
    "nothing",
    "host work of a replica in a Blackhole box of several, against that of one alone: P150x2 DP=2, P150x8 DP=8 (2025)",
)
HOST_PROMPT = fitted(
    "host_prompt",
    6e-3,
    "s",
    "nothing",
    "host work of one prompt: copies of tokens and page table, read-back, argmax (traced 1B prefill of 2025-10)",
    log_width=0.5,
)
PROGRAM_ONE_OFF = fitted(
    "program_one_off",
    0.4,
    "s",
    "nothing",
    "compiling the program variants of a prompt unlike the warm-up's: about four kernels of 0.1 s",
    log_width=0.5,
)

# Untilizing 128,256 logits on the host, by chips of the replica (software before tt-metal bcfc2c1a3f, 2025-03-17)
HOST_UNTILIZE: Mapping[int, Constant] = {
    chips: sourced(f"host_untilize_{chips}", time, "s", "nothing", f"TTFT of {what}, before and after bcfc2c1a3f")
    for chips, time, what in ((1, 32e-3, "1B on N150"), (2, 30e-3, "1B on N300"), (8, 17e-3, "8B on T3K"))
}

# Servers
SERVER_STEP = calibrated(
    "server_step", 0.8e-3, "s", "nothing", "a server's decode step beyond the model's: synchronous vLLM"
)
SERVER_PROMPT_EARLY = sourced(
    "server_prompt_early", 0.15, "s", "nothing", "a server's prompt to 2025-07: its client adds 100 to 200 ms (#406)"
)
SERVER_PROMPT_CHIP = calibrated(
    "server_prompt_chip",
    5.7e-3,
    "s",
    "nothing",
    "a server's prompt to 2025-12, a chip of the replica: 8B to 72B on one to eight chips",
    guess=5e-3,
)
SERVER_PROMPT = sourced(
    "server_prompt", 8e-3, "s", "nothing", "a server's prompt since 2026: about 8 ms, tt-inference-server's own reports"
)
