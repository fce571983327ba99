"""Chunks, users, replicas and shards change how a model runs, never what it computes."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.chunk import Chunk
from ttsim.models.hf.reading import read_config
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.parameters import is_replicated, partition_specs
from ttsim.models.run import _nameless, _trace_decode, decode_program, decode_step, place, place_cache, prefill_step
from ttsim.numerics.conversion import round_to
from ttsim.precision.presets import preset
from ttsim.precision.slots import abstract_precision

GOLDEN = Path(__file__).parents[1] / "golden" / "hf"
EXACT = preset("fp32", "Llama3.2-1B")
QUANTISED = preset("performance", "Llama3.1-8B")
LENGTH = 24  # tokens of the golden prompts
CLOSE = {"atol": 2e-5, "rtol": 0}


@functools.cache
def golden(case):
    data = np.load(GOLDEN / f"{case}.npz")
    config = read_config(json.loads(str(data["config"])), name=case)
    return config, data["input_ids"], {key: data[key] for key in data.files if "." in key}


class Runner:
    """A golden model on a system, with a cache for `batch` users of each replica."""

    def __init__(self, case, device, *, batch=1, precision=EXACT, convert=None):
        config, self.tokens, tensors = golden(case)
        self.layout = Layout(config, get_system(device), max_seq_len=32)
        self.mesh, self.batch, self.precision = self.layout.system.mesh(), batch, precision
        self.model = place(from_hf_tensors(self.layout, tensors, convert), self.layout, self.mesh)
        self.cache = place_cache(KVCache.zeros(self.layout, batch, jnp.float32), self.layout, batch, self.mesh)
        self.replicas = self.layout.system.data_parallel
        self.decode_jit = jax.jit(decode_step(self.layout, precision, batch, mesh=self.mesh))

    @functools.cache  # noqa: B019 - one runner lives as long as its test
    def _prefill_jit(self, start):
        step = prefill_step(self.layout, self.precision, self.batch, Chunk(start, "all"), mesh=self.mesh)
        return jax.jit(step)

    def prefill(self, tokens_rt, *, user=0, start=0):
        """Logits [replicas, T, vocab] of one user's prompt in each replica."""
        replicas, length = tokens_rt.shape
        positions = jnp.arange(start, start + length)
        last = jnp.zeros(replicas, jnp.int32)
        step = self._prefill_jit(start)
        logits, self.cache = step(
            self.model, jnp.asarray(tokens_rt.reshape(-1)), positions, jnp.int32(user), last, self.cache
        )
        return np.asarray(logits).reshape(replicas, length, -1)[..., : self.layout.config.vocab_size]

    def decode(self, tokens_b, positions_b):
        """Logits [users of all replicas, vocab]."""
        tokens, positions = jnp.asarray(tokens_b, jnp.int32), jnp.asarray(positions_b, jnp.int32)
        logits, self.cache = self.decode_jit(self.model, tokens, positions, self.cache)
        return np.asarray(logits)


# Chunks


@pytest.mark.parametrize(
    ("case", "device"),
    [("mistral-window", "N150"), ("phi3-long", "N300"), ("llama-gqa-8kv", "T3K")],
)
def test_chunked_prefill_equals_one_pass(case, device):
    whole, chunked = Runner(case, device), Runner(case, device)
    prompt = whole.tokens[:1]
    expected = whole.prefill(prompt)
    pieces = [chunked.prefill(prompt[:, s : s + 12], start=s) for s in range(0, LENGTH, 12)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, **CLOSE)
    for a, b in zip(jax.tree.leaves(chunked.cache), jax.tree.leaves(whole.cache), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_prefill_equals_decoding_token_by_token():
    """The two programs of a model, with quantised numerics off, compute one function."""
    prefilled, decoded = Runner("qwen2", "N150"), Runner("qwen2", "N150")
    prompt = prefilled.tokens[0, :6]
    steps = [decoded.decode(prompt[i : i + 1], [i])[0] for i in range(6)]
    np.testing.assert_allclose(np.stack(steps), prefilled.prefill(prompt[None])[0], **CLOSE)


# Users and replicas


@pytest.mark.parametrize(("case", "device"), [("llama-gqa", "N150"), ("llama-gqa-8kv", "TG")])
def test_users_at_different_positions_do_not_see_each_other(case, device):
    """Four users with prompts of 24, 17, 9 and 1 tokens (on a Galaxy: one a column) equal each alone."""
    lengths, together = (24, 17, 9, 1), Runner(case, device, batch=4)
    prompts = [together.tokens[user % 2, : lengths[user]] for user in range(4)]
    for user, prompt in enumerate(prompts):
        padded = np.zeros((1, LENGTH), np.int32)
        padded[0, : len(prompt)] = prompt  # decode overwrites what the padding left in the cache
        together.prefill(padded, user=user)
    alone, next_tokens = Runner(case, "N150"), np.array([5, 6, 7, 8])
    expected = []
    for prompt, token in zip(prompts, next_tokens, strict=True):
        sequence = np.zeros((1, LENGTH + 2), np.int32)
        sequence[0, : len(prompt) + 2] = [*prompt, token, token]
        expected.append(alone.prefill(sequence)[0, len(prompt) : len(prompt) + 2])
    for step in range(2):
        logits = together.decode(next_tokens, np.array(lengths) + step)
        np.testing.assert_allclose(logits, np.stack(expected)[:, step], **CLOSE)


@pytest.mark.parametrize(("device", "case"), [("T3K DP=4", "qwen2"), ("TG DP=4", "llama-gqa-8kv")])
def test_replicas_give_what_each_gives_alone(device, case):
    runner, alone = Runner(case, device), Runner(case, "N150")
    prompts = np.stack([np.roll(runner.tokens[0], r) for r in range(runner.replicas)])
    expected = np.concatenate([alone.prefill(prompt[None]) for prompt in prompts])
    np.testing.assert_allclose(runner.prefill(prompts[:, :-1]), expected[:, :-1], **CLOSE)
    logits = runner.decode(prompts[:, -1], np.full(runner.replicas, LENGTH - 1))
    np.testing.assert_allclose(logits, expected[:, -1], **CLOSE)


# Numerics


def _quantise(value, path, kind):
    """What a device holds: matrices in bfp8, vectors in bf16."""
    value = jnp.asarray(value, jnp.float32)
    return round_to(value, "bf16" if value.ndim == 1 or path == "embedding_vd" else "bfp8")


def test_quantised_decode_agrees_between_systems():
    """Partial sums are rounded at other places, so logits differ, but less than quantisation moves them."""
    runs = {}
    for device in ("N150", "T3K"):
        runner = Runner("llama-gqa-8kv", device, precision=QUANTISED, convert=_quantise)
        runs[device] = np.concatenate([runner.decode(runner.tokens[0, i : i + 1], [i]) for i in range(6)])
        written = jnp.asarray(runner.cache.keys[0][0, :, :6])
        assert float(jnp.abs(written).min(axis=(0, 2)).max()) > 0
        for values in (runs[device], written):  # logits and cache lie on bfp8's grid
            np.testing.assert_array_equal(values, round_to(jnp.asarray(values), "bfp8"))
    exact = Runner("llama-gqa-8kv", "N150").prefill(golden("llama-gqa-8kv")[1][:1])[0, :6]

    def distance(a, b):
        return np.sqrt(np.mean((a - b) ** 2)) / exact.std()

    quantisation = distance(runs["N150"], exact)
    assert 1e-3 < quantisation < 0.1
    assert distance(runs["T3K"], runs["N150"]) < quantisation


# State and placement


@pytest.mark.parametrize("device", ["N150", "T3K"])
def test_the_cache_goes_in_and_out_and_can_be_donated(device):
    kept, donated = Runner("llama-gqa-8kv", device), Runner("llama-gqa-8kv", device)
    step = jax.jit(decode_step(donated.layout, EXACT, 1, mesh=donated.mesh), donate_argnums=3)
    for i in range(4):
        token, position = jnp.asarray(kept.tokens[0, i : i + 1]), jnp.full((1,), i)
        before, untouched = donated.cache, kept.cache
        logits, donated.cache = step(donated.model, token, position, before)
        np.testing.assert_allclose(logits, kept.decode(token, position), **CLOSE)
        assert all(x.is_deleted() for x in jax.tree.leaves(before)), "the old cache's memory was reused"
        assert not any(x.is_deleted() for x in jax.tree.leaves(untouched))
        for x, y in zip(jax.tree.leaves(donated.cache), jax.tree.leaves(untouched), strict=True):
            assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


@pytest.mark.parametrize("device", ["N150", "N300", "T3K", "TG", "T3K DP=4"])
def test_place_shards_every_matrix_by_the_rules(device):
    runner = Runner("llama-gqa-8kv", device)
    chips = runner.layout.system.chips_per_replica
    specs = jax.tree.leaves(partition_specs(runner.model, runner.layout.rules), is_leaf=lambda x: isinstance(x, P))
    arrays = jax.tree.leaves(runner.model)
    assert len(specs) == len(arrays)
    for x, spec in zip(arrays, specs, strict=True):
        assert x.sharding.is_equivalent_to(NamedSharding(runner.mesh, spec), x.ndim)
        assert {shard.data.shape for shard in x.addressable_shards} == {x.sharding.shard_shape(x.shape)}
        if x.ndim > 1 and chips > 1:
            assert not is_replicated(spec)
            assert math.prod(x.sharding.shard_shape(x.shape)) < x.size
    shard = runner.cache.keys[0].sharding.shard_shape(runner.cache.keys[0].shape)
    assert shard[1] == runner.layout.local_kv_heads(runner.layout.config.layer_kinds[0])


def test_boxes_share_traces_only_within_a_family_of_chips():
    """tt_transformers cuts a Blackhole's LM head into narrower pieces: a trace for both was refused for its L1."""
    columns = {}
    for device in ("N150", "P150", "N300", "P300"):
        program = decode_program(
            Layout(get_config("Llama3.1-8B"), get_system(device)), preset("bf16", "Llama3.1-8B"), 1
        )
        (head,) = [call for call, _ in program.ops() if call.name == "linear" and call["columns"]]
        columns[device] = head["columns"]
    assert columns == {"N150": 32_064, "P150": 16_032, "N300": 32_064, "P300": 16_032}


@pytest.mark.parametrize("name", ["Llama3.1-8B", "gemma-3-4b", "Qwen3-8B", "Phi-4"])
@pytest.mark.parametrize("batch", [1, 31, 32])
def test_a_batch_renumbered_is_the_batch_traced(name, batch):
    """One trace with a mark for the users serves all batches: it must hold nothing that another batch would not."""
    layout, precision = Layout(get_config(name), get_system("N300")), preset("performance", name)
    slots, value = abstract_precision(precision, len(layout.config.self_attention_layers))
    traced = _trace_decode(_nameless(layout), slots, batch, "host").fill(value)
    assert decode_program(layout, precision, batch, sample="host") == traced
