"""Every fact is read by some rule: another value of it changes a price, a program or what is said."""

import dataclasses

import pytest

from ttsim.explore.launch import ServerOptions, server
from ttsim.hardware import facts
from ttsim.hardware.constants import load_constants
from ttsim.scenarios.batched import computed_together
from ttsim.scenarios.scenario import Scenario
from ttsim.serving.server import build

CONSTANTS = load_constants()
SMALL = {"model": "1b", "device": "N300", "date": "2026-02-10", "max_generated_tokens": 4}
GALAXY = {
    "model": "Llama3.3-70B",
    "device": "Galaxy",
    "stack": "galaxy",
    "date": "2025-09-01",
    "max_generated_tokens": 3,
}
SERVED = {**SMALL, "stack": "vllm"}
# fact -> (a question that meets it, another value)
OTHERS = {
    "dispatch_gap": (SMALL, "9e-6"),
    "sampler": (SMALL, "argmax 0"),
    "host_argmax": ({**SMALL, "date": "2025-05-12", "batch_size": 2}, "fast"),
    "topk_power_of_two": ({**SMALL, "device": "T3K", "date": "2025-12-01"}, "yes"),
    "topk_padded": (SMALL, "yes"),
    "vocabulary_join": ({**SMALL, "model": "Phi3.5-mini", "device": "T3K", "date": "2025-09-01"}, "no"),
    "async_read": ({**SERVED, "model": "8b", "device": "P300", "date": "2026-05-10"}, "no"),
    "host_per_chip": (SMALL, "no"),
    "dynamic_chunks": ({**SMALL, "prompt_length": 200}, "no"),
    "sdpa_merge": ({**SMALL, "prompt_length": 2048}, "series"),
    "fused_rope_cache": (SMALL, "yes"),
    "readers_per_bank": ({**SMALL, "device": "P150"}, "2"),
    "tf32_reload": (SMALL, "no"),
    "matmul_spills": (SMALL, "bf16"),
    "prefetcher": ({**SMALL, "device": "P150x4", "date": "2026-03-01", "prefetcher": True}, "no"),
    "server_lag": ({**SERVED, "date": "2026-02-20"}, "300"),
    "slots": (SERVED, "16"),
    "collectives": (SMALL, "legacy"),
    "links": ({**SMALL, "prompt_length": 4096}, "2"),
    "topology": ({**SMALL, "device": "P150x4"}, "linear"),
    "traced_lengths": (SMALL, "none"),
    "traced_chunks": ({**SMALL, "prompt_length": 4096}, "yes"),
    "prefix_cache": ({**SMALL, "prompt_length": 200, "prefix_hit": 64}, "no"),
    "traced_prefix": ({**SMALL, "prompt_length": 160, "prefix_hit": 64}, "yes"),
    "prefill_padding": ({**SMALL, "prompt_length": 5000}, "2048"),
    "batched_prefill": ({**SMALL, "batch_size": 2}, "yes"),
    "device_untilize": (SMALL, "no"),
    "odd_prompt_compiles": (SMALL, "yes"),
    "prefill_chunk": ({**GALAXY, "stack": "tt_transformers", "device": "T3K", "prompt_length": 32_000}, "8"),
    "throttled_matmul": (SMALL, "0.33"),
    "minimal_matmul": ({**SMALL, "prompt_length": 1024}, "yes"),
    "attention_ways": ({**GALAXY, "prompt_length": 4096}, "4"),
    "reduce_workers": ({**GALAXY, "prompt_length": 4096}, "4"),
    "wo_gather": ({**GALAXY, "prompt_length": 4096}, "4096"),
    "fused_gather_matmul": ({**GALAXY, "prompt_length": 4096}, "4096"),
    "sdpa_cores": ({**GALAXY, "prompt_length": 4096}, "48"),
    "sdpa_tables_in_l1": ({**GALAXY, "prompt_length": 4096}, "no"),
    "mlp_weights": (GALAXY, "bf16"),
    "scheduler": (SERVED, "v0"),
    "server_plugin": (SERVED, "yes"),
    "server": ({**SERVED, "date": "2025-12-01"}, "early"),
    "galaxy_server": ({**GALAXY, "stack": "vllm galaxy"}, "slow"),
    "topk_time": (GALAXY, "622e-6"),
    "compute_grid": ({**SMALL, "device": "P150"}, "5x5"),
}


def answer(fields):
    """What somebody is told: speed, TTFT, memory, the ops, and with a server its rules and how it is started."""
    try:
        scenario = Scenario.of(**fields)
    except ValueError as error:
        return str(error)
    software = scenario.software
    said = [
        scenario.speed(CONSTANTS),
        scenario.ttft(CONSTANTS),
        scenario.prefill_chunks,
        computed_together(scenario),
        software.odd_prompt_compiles,
        software.numerics_left_out,
        [(item.kernel.name, item.kernel.cores) for item in scenario.decode_cost.kernels],
    ]
    if software.served and not software.galaxy:
        said.append(build(fields["model"], fields["device"], date=fields["date"], stack=fields["stack"]).pool.policy)
        said.append(server(scenario, ServerOptions(max_num_seqs=1, max_model_len=64, max_num_batched_tokens=64)))
    return said


def test_every_fact_is_in_the_list():
    assert set(OTHERS) == set(facts.MEANING) - {"release"}  # which date_of reads


@pytest.mark.parametrize("name", OTHERS)
def test_another_value_changes_the_answer(name, monkeypatch):
    fields, other = OTHERS[name]
    before = answer(fields)
    lines = facts._by_name()
    changed = {**lines, name: tuple(dataclasses.replace(fact, value=other) for fact in lines[name])}
    if not lines[name]:
        pytest.fail(f"no line of facts.csv is about {name}")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(facts, "_by_name", lambda: changed)
            facts.find.cache_clear()
            assert answer(fields) != before
    finally:
        facts.find.cache_clear()
