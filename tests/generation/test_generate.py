"""Batched generation: Hugging Face's greedy tokens, a user's independence of its batch, pages, sampling, the clock."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttsim import ops as tt
from ttsim.generation.clock import simulate_clock
from ttsim.generation.generate import Generator, cache_length
from ttsim.generation.paging import BlockTable, OutOfBlocksError, PageParams
from ttsim.generation.sampling import SamplingParams, prompt_seeds, sample
from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.models.run import place
from ttsim.models.transformer import Transformer
from ttsim.numerics import switches
from ttsim.precision.presets import preset
from ttsim.scenarios.scenario import Scenario

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "hf" / "llama-gqa-8kv.npz")
CONFIG = read_config(json.loads(str(GOLDEN["config"])), name="llama-gqa-8kv")


def generator(device="N150", precision="fp32", data_parallel=1, random=False, max_seq_len=256, **kwargs):
    layout = Layout(CONFIG, get_system(device, data_parallel), max_seq_len=max_seq_len)
    mesh = layout.system.mesh()
    tensors = {key: GOLDEN[key] for key in GOLDEN.files if "." in key}
    model = Transformer(layout, nnx.Rngs(0)) if random else from_hf_tensors(layout, tensors)
    return Generator(place(model, layout, mesh), layout, preset(precision, "Llama3.2-1B"), mesh=mesh, **kwargs)


def prompts_of(lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize(("device", "data_parallel"), [("N150", 1), ("T3K", 1), ("N300", 2)])
def test_greedy_equals_hugging_face(device, data_parallel):
    run = generator(device, data_parallel=data_parallel, batch_size=2 // data_parallel)
    result = run(GOLDEN["input_ids"].tolist(), max_generated_tokens=7)
    np.testing.assert_array_equal(result.tokens, GOLDEN["greedy"])
    assert result.iterations == 7


def test_each_user_gets_what_it_gets_alone():
    prompts = prompts_of([*range(3, 130, 9), *range(128, 60, -4)][:32])
    assert len(prompts) == 32
    with switches.using("masked"):  # half the compile time; rows of 16-bit registers are tested by themselves
        batch = generator(precision="performance", random=True, batch_size=32)
        together = batch(prompts, max_generated_tokens=12)
        alone = generator(precision="performance", random=True)
        for user in (0, 13, 31):
            assert alone([prompts[user]], max_generated_tokens=12).tokens[0] == together.tokens[user]
    assert batch.compilations == {"decode": 1, "prefill 128": 1, "prefill 256": 1}


def test_compiles_once_for_all_prompts_and_tokens():
    run = generator(batch_size=2)
    for lengths in ([3, 5], [90, 128], [7]):
        run(prompts_of(lengths), max_generated_tokens=4)
    assert run.compilations == {"decode": 1, "prefill 128": 1}


def test_stops_at_end_of_sequence():
    run = generator(batch_size=2)
    tokens = GOLDEN["greedy"]
    stop = int(tokens[0, 3])
    seen = []
    result = run(
        GOLDEN["input_ids"].tolist(),
        max_generated_tokens=7,
        stop_tokens={stop},
        on_tokens=lambda iteration, new, alive: seen.append((iteration, alive.tolist())),
    )
    first = tokens[0].tolist().index(stop)
    assert result.tokens[0] == tuple(tokens[0, :first])
    assert result.stopped[0]
    assert seen[0][0] == -1
    assert seen[first][1][0] is False


def test_the_nucleus_ends_where_the_tokens_before_sum_to_top_p():
    """Two equal tokens and top_p = 1/2: the first alone is the nucleus. Were it closed, half of the draws differed."""
    params = SamplingParams(temperature=1.0, top_p=0.5, seed=0)
    logits = jnp.where(jnp.arange(8) < 2, 0.0, -1e9)
    drawn = sample(jnp.tile(logits, (64, 1)), jnp.arange(64, dtype=jnp.uint32), jnp.zeros(64, jnp.int32), params)
    assert np.unique(drawn).tolist() == [0]


def test_top_p_samples_the_nucleus_and_is_the_same_in_any_batch():
    params = SamplingParams(temperature=1.0, top_p=0.6, seed=3)
    prompts = prompts_of([4, 9, 30, 60])
    together = generator(batch_size=4, sampling=params, random=True)(prompts, 6)
    alone = generator(sampling=params, random=True)([prompts[2]], 6)
    assert alone.tokens[0] == together.tokens[2]
    logits = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])), (200, 1))
    seeds, positions = jnp.arange(200, dtype=jnp.uint32), jnp.zeros(200, jnp.int32)
    drawn = sample(logits, seeds, positions, params)
    assert set(drawn.tolist()) == {0, 1}
    np.testing.assert_allclose((drawn == 0).mean(), 0.5 / 0.8, atol=0.1)
    assert not sample(logits, seeds, positions, SamplingParams(1.0, 0.01)).any()


def test_repeated_prompts_have_seeds_of_their_own():
    seeds = prompt_seeds([[1, 2], [3], [1, 2]], SamplingParams(seed=5))
    assert len(set(seeds.tolist())) == 3
    assert seeds[1] == prompt_seeds([[3]], SamplingParams(seed=5))[0]


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [
        ([], 1, "no prompt"),
        ([[1], [2], [3]], 1, "3 prompts are more than the batch of 2"),
        ([[1], []], 1, "prompt of user 1 is empty"),
        ([[1, 999_999]], 1, "token ids outside"),
        ([[1] * 100], 200, "longer than max_seq_len = 256"),
    ],
)
def test_bad_prompts_are_refused(prompts, count, message):
    with pytest.raises(ValueError, match=message):
        generator(batch_size=2)(prompts, count)


# Pages


def test_blocks_are_handed_out_as_sequences_grow():
    table = BlockTable(PageParams(32, 8), users=2)
    table.reserve(0, 33)
    table.reserve(1, 32)
    table.reserve(0, 60)  # still two blocks
    assert [len(table.blocks(u)) for u in (0, 1)] == [2, 1]
    assert table.free_blocks == 5
    assert len({*table.blocks(0), *table.blocks(1)}) == 3
    assert table.table().tolist() == [list(table.blocks(0)), [*table.blocks(1), -1]]
    table.release(0)
    assert table.free_blocks == 7
    with pytest.raises(OutOfBlocksError, match="user 1 needs 8 more of 32 positions to reach position 287, and 1 of 8"):
        table.reserve(1, 288)


def test_generation_runs_out_of_blocks():
    run = generator(batch_size=2, pages=PageParams(32, 3))
    result = run(prompts_of([30, 30]), max_generated_tokens=2)
    assert [len(result.tables[0].blocks(u)) for u in (0, 1)] == [1, 1]
    with pytest.raises(OutOfBlocksError, match="out of KV-cache blocks: user 1"):
        run(prompts_of([40, 30]), max_generated_tokens=10)


def test_finished_users_give_their_blocks_back():
    stop = int(GOLDEN["greedy"][0, 2])
    result = generator(batch_size=2, pages=PageParams(32, 2))(
        GOLDEN["input_ids"].tolist(), max_generated_tokens=4, stop_tokens={stop}
    )
    assert result.tables[0].free_blocks >= 1


# The clock


def test_clock_is_the_simulators():
    scenario = Scenario.of("Llama3.2-1B", "N150", prompt_length=118)
    clock = simulate_clock(scenario, [118], 200)
    from ttsim.hardware.constants import load_constants

    constants = load_constants()
    np.testing.assert_allclose(clock.speed, 1 / scenario.step_times(constants).mean())
    np.testing.assert_allclose(clock.ttft, scenario.ttft(constants))
    assert clock.steps.shape == (200,)
    assert clock.steps[-1] > clock.steps[0]


def test_ttft_is_the_mean_over_padded_lengths():
    scenario = Scenario.of("Llama3.2-1B", "N150", batch_size=2)
    short, long = (simulate_clock(scenario, [n, n], 2).ttft for n in (100, 500))
    np.testing.assert_allclose(simulate_clock(scenario, [90, 400], 2).ttft, (short + long) / 2)


def test_cache_fits_padded_prompts():
    assert cache_length(1024) == 1024
    assert cache_length(2000) == 2048


@pytest.mark.parametrize("columns", [64, 576, 2048])
def test_norm_of_a_row_is_the_same_in_any_batch(columns):
    x = jax.random.normal(jax.random.key(0), (32, columns))
    weight = jnp.ones(columns)
    whole = tt.rms_norm(x, weight, eps=1e-5, out_format="fp32")
    for rows in (2, 4, 16):
        np.testing.assert_array_equal(tt.rms_norm(x[:rows], weight, eps=1e-5, out_format="fp32"), whole[:rows])
