"""Where routed experts lie, what of them a chip computes, and that prices follow."""

import dataclasses
import itertools

import pytest

import ttsim
from ttsim.meshes.lookup import get_system
from ttsim.meshes.sharding import ShardingError
from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS, ROW_AXIS, TENSOR_AXIS, Topology
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.placement import Placement, _busiest, active_blocks, meshed, model_gaps, place_parts
from ttsim.scenarios.scenario import Scenario


@pytest.mark.parametrize(
    ("model", "device", "experts", "width", "replicated"),
    [
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "T3K", (TENSOR_AXIS,), None, False),
        ("openai/gpt-oss-20b", "T3K", (), TENSOR_AXIS, True),
        ("openai/gpt-oss-120b", "TG", (COLUMN_AXIS,), ROW_AXIS, True),
        ("openai/gpt-oss-120b", "TG DP=4", (DATA_AXIS, TENSOR_AXIS), None, True),
        ("deepseek-ai/DeepSeek-R1-0528", "TG DP=4", (DATA_AXIS, TENSOR_AXIS), None, False),
        ("Qwen/Qwen3-30B-A3B", "P150x4", (TENSOR_AXIS,), None, True),
        ("google/gemma-4-26B-A4B-it", "P150x4", (), TENSOR_AXIS, True),
        ("Qwen/Qwen3.6-27B", "P150x4", (), None, False),
        ("Llama3.1-8B", "TG", (), None, False),
    ],
)
def test_the_vendors_layouts(model, device, experts, width, replicated):
    placement = place_parts(get_config(model), get_system(device))
    assert (placement.expert_axes, placement.width_axis, placement.replicated) == (experts, width, replicated)


def test_latent_attention_on_a_grid_is_refused_with_what_would_be_right():
    with pytest.raises(ShardingError, match="write TG DP=4"):
        Layout(get_config("deepseek-ai/DeepSeek-R1-0528"), get_system("TG"))


def test_the_busiest_of_chips():
    for balls, bins in ((4, 4), (8, 4), (3, 2)):
        counts = [max(map(throw.count, range(bins))) for throw in itertools.product(range(bins), repeat=balls)]
        assert _busiest(balls, bins) == pytest.approx(sum(counts) / len(counts))


def test_active_experts_in_decode_grow_with_users_and_prefill_runs_all():
    experts = get_config("openai/gpt-oss-120b").experts
    assert active_blocks(experts, 1, 1, "decode") == 4
    assert active_blocks(experts, 32, 128, "decode") == pytest.approx(4 * 4 * (1 - (1 - 4 / 128) ** 32))
    one, many = (active_blocks(experts, 1, rows, "decode") for rows in (2, 32))
    assert 4 < one < many < 128
    assert active_blocks(experts, 1, 128, "prefill") == 128 * 4


def test_mixtral_reads_every_expert_whatever_is_routed():
    """One expert a chip: the bytes of a decode step are those of all users, and all but fill the step."""
    one, all_users = (ttsim.simulate("Mixtral-8x7B", "T3K", batch_size=batch) for batch in (1, 32))
    experts = 3 * 4096 * 14336 * 1.0625 * 32
    for report in (one, all_users):
        assert report.memory.weights > experts
    assert all_users.speed == pytest.approx(one.speed, rel=0.25)


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("Mixtral-8x7B", 46.7),
        ("Qwen3-30B-A3B", 30.5),
        ("DeepSeek-V3", 671.0),
        ("gemma-4-26B-A4B", 25.2),
        ("Qwen3.6-35B-A3B", 34.7),
    ],
)
def test_parameters_are_as_many_as_published(model, billions):
    """Sizes on the models' pages; DeepSeek's without the layer that predicts more tokens."""
    assert get_config(model).parameter_count / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_model_without_special_parts_is_placed_as_before():
    config = get_config("Llama3.1-8B")
    assert place_parts(config, get_system("T3K")) == place_parts(
        dataclasses.replace(config, family="deepseek_v3"), get_system("T3K")
    )


def test_what_is_not_modelled_is_said_by_part():
    assert model_gaps(get_config("Llama3.1-8B")) == ()
    for model, word in (("gpt-oss-20b", "FillPad"), ("DeepSeek-V3", "dispatch"), ("Qwen3.6-27B", "speculative")):
        assert word in "; ".join(model_gaps(get_config(model)))


def test_whose_code_runs_a_model_decides_its_kernels():
    gemma, dense = get_config("gemma-4-31B"), get_config("Qwen3-32B")
    assert place_parts(dense, get_system("P300x2")) == Placement()
    placed = place_parts(gemma, get_system("P300x2"))
    assert (placed.replicated, placed.weight_block, placed.interleaved_head) == (True, 2, True)
    hybrid = place_parts(get_config("Qwen3.6-27B"), get_system("P300x2"))
    assert (hybrid.replicated, hybrid.weight_block, hybrid.tuned_prompts) == (False, 8, True)


def test_a_hybrid_s_prompt_runs_in_traced_chunks():
    """tt-metal models/demos/blackhole/qwen36: chunks of 2048, replayed; greedy tokens chosen on the device."""
    asked = Scenario.of("Qwen3.6-27B", "P300x2", prompt_length=10_000, date="2026-09-10", stack="vllm")
    assert asked.padded_prompt == 10_240
    assert asked.prefill_chunks == tuple((start, 2048, start == 8192) for start in range(0, 10_240, 2048))
    assert (asked.software.traced_chunks, asked.sampler, asked.software.slots) == (True, "device", 1)
    assert not Scenario.of("Qwen3-32B", "P300x2", prompt_length=10_000, date="2026-09-10").software.traced_chunks


def test_gpt_oss_lays_out_a_galaxy_for_one_user_or_for_32_in_each_row():
    """Rows are rings of four links, and no other number of users is laid out (demos/gpt_oss/tt/model_config.py)."""
    config, galaxy = get_config("gpt-oss-20b"), get_system("Galaxy")
    assert meshed(config, galaxy, 1) == (galaxy, 1)
    rows, users = meshed(config, galaxy, 128)
    assert (rows.data_parallel, rows.grid, rows.links, rows.topology, users) == (4, (8,), 4, Topology.RING, 32)
    assert meshed(config, get_system("Galaxy", 4), 32) == (rows, 32)
    with pytest.raises(ValueError, match=r"32 users in each of its 4 rows: batch_size must be 128, .* not 127"):
        meshed(config, galaxy, 127)
    for other in ("T3K", "P150"):
        assert meshed(config, get_system(other), 33) == (get_system(other), 33)
    assert meshed(get_config("8b"), galaxy, 128) == (galaxy, 128)


def test_128_users_of_gpt_oss_are_priced_and_their_prompts_travel_in_pieces():
    one, many = (Scenario.of("gpt-oss-20b", "Galaxy", batch_size=users, date="2026-07-01") for users in (1, 128))
    assert (many.batch_size, many.system.data_parallel) == (32, 4)
    assert [many.padded_prompt, one.padded_prompt] == [1024, 128]
    long = Scenario.of("gpt-oss-20b", "Galaxy", batch_size=128, prompt_length=2000, date="2026-07-01")
    assert long.prefill_chunks == ((0, 1024, False), (1024, 1024, True))
    names = {call.op.name for call, _ in many.decode_program.ops()}
    assert {"dispatch", "combine"} <= names
    with pytest.raises(ValueError, match="at most 32 users a replica"):
        Scenario.of("8b", "Galaxy", batch_size=128)
