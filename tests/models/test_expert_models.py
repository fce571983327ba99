"""Mixture-of-experts, latent-attention and delta-net models against transformers, on the meshes their code knows."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import tensor

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.chunk import Chunk
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.models.run import decode_step, place, place_cache, prefill_step
from ttsim.precision.presets import preset

GOLDEN = Path(__file__).parents[1] / "golden" / "experts"
EXACT = preset("fp32", "Llama3.2-1B")
CLOSE = {"atol": 1e-4, "rtol": 0}  # of logits whose standard deviation is 1.4


@functools.cache
def golden(case):
    """Configuration, tensors by their names on disk, tokens and transformers' logits."""
    data = np.load(GOLDEN / f"{case}.npz")
    config = read_config(json.loads(str(data["config"])), name=case)
    plus_one = config.family.startswith("qwen3_5")
    shapes = json.loads(str(data["shapes"]))
    tensors = {name: tensor(name, shape, plus_one=plus_one) for name, shape in shapes.items()}
    return config, tensors, data["input_ids"], data["logits"]


class Runner:
    """A golden model on a system; `users` of each replica."""

    def __init__(self, case, device, users=1):
        config, tensors, self.tokens, self.expected = golden(case)
        self.layout = Layout(config, get_system(device), max_seq_len=32)
        self.mesh, self.users = self.layout.system.mesh(), users
        self.replicas = self.layout.system.data_parallel
        self.model = place(from_hf_tensors(self.layout, tensors), self.layout, self.mesh)
        self.cache = place_cache(KVCache.zeros(self.layout, users), self.layout, users, self.mesh)

    def prefill(self, tokens, *, start=0, last=None):
        """Logits [T, V] of one prompt that every replica gets; with `last`, those of the 32 rows around it."""
        what = "all" if last is None else "last"
        step = jax.jit(prefill_step(self.layout, EXACT, self.users, Chunk(start, what), mesh=self.mesh))
        rows = len(tokens)
        prompt = jnp.asarray(np.tile(tokens, self.replicas))
        ends = jnp.full(self.replicas, rows - 1 if last is None else last, jnp.int32)
        logits, self.cache = step(self.model, prompt, jnp.arange(start, start + rows), jnp.int32(0), ends, self.cache)
        return np.asarray(logits).reshape(self.replicas, rows, -1)[-1, :, : self.layout.config.vocab_size]

    @functools.cached_property
    def _decode(self):
        return jax.jit(decode_step(self.layout, EXACT, self.users, mesh=self.mesh))

    def decode(self, token, position):
        """Logits [users of all replicas, V] of one token that every user gets."""
        count = self.users * self.replicas
        tokens, positions = jnp.full(count, token, jnp.int32), jnp.full(count, position, jnp.int32)
        logits, self.cache = self._decode(self.model, tokens, positions, self.cache)
        return np.asarray(logits)


@pytest.mark.parametrize(
    ("case", "device"),
    [
        ("mixtral", "N300"),  # whole experts on each chip
        ("qwen3-moe", "N150"),
        ("gpt-oss", "TG"),  # the width of an expert over rows, experts over columns
        ("gemma-4-moe", "N150"),
        ("deepseek-v3", "N300 DP=2"),  # experts over both replicas: tokens travel
        ("kimi-k2", "N150"),
        ("glm-4-moe", "N300"),  # a dense layer, then experts whose width is cut
        ("qwen3.5", "N300"),  # KV heads, delta heads and states cut
    ],
)
def test_a_prompt_agrees_with_transformers(case, device):
    runner = Runner(case, device)
    np.testing.assert_allclose(runner.prefill(runner.tokens), runner.expected, **CLOSE)


@pytest.mark.parametrize(
    ("case", "device", "users"),
    [
        ("gpt-oss", "N150", 1),
        ("deepseek-v3", "N300", 2),  # each chip attends for one of the two users, with all heads
    ],
)
def test_decoding_agrees_with_transformers(case, device, users):
    runner = Runner(case, device, users)
    for position in range(10):  # beyond the window of 8
        logits = runner.decode(runner.tokens[position], position)
        np.testing.assert_allclose(logits, np.tile(runner.expected[position], (users, 1)), **CLOSE)


def test_padding_leaves_no_trace_in_a_delta_net():
    """A prompt of 11 tokens, padded to 16, and a decode step equal transformers' pass over 12."""
    runner = Runner("qwen3.5-moe", "N150")
    padded = np.zeros(16, np.int32)
    padded[:11] = runner.tokens[:11]
    logits = runner.prefill(padded, last=10)
    np.testing.assert_allclose(logits[10], runner.expected[10], **CLOSE)
    np.testing.assert_allclose(runner.decode(runner.tokens[11], 11)[0], runner.expected[11], **CLOSE)


def test_experts_one_by_one_and_stacked_are_the_same():
    config, tensors, _, _ = golden("qwen3-moe")
    layout = Layout(config, get_system("N150"), max_seq_len=32)
    stacked = {name: value for name, value in tensors.items() if ".experts." not in name}
    prefix, count = "model.layers.1.mlp.experts.", config.experts.count

    def stack(part):
        return np.stack([tensors[f"{prefix}{i}.{part}_proj.weight"] for i in range(count)])

    stacked[prefix + "gate_up_proj"] = np.concatenate([stack("gate"), stack("up")], axis=1)
    stacked[prefix + "down_proj"] = stack("down")
    for a, b in zip(
        jax.tree.leaves(from_hf_tensors(layout, tensors)),
        jax.tree.leaves(from_hf_tensors(layout, stacked)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_mxfp4_experts_are_unpacked():
    """gpt-oss as it is published: blocks and scales in place of matrices."""
    config, tensors, _, _ = golden("gpt-oss")
    config = dataclasses.replace(config, experts=dataclasses.replace(config.experts, intermediate_size=32))
    layout = Layout(config, get_system("N150"), max_seq_len=32)
    rng, plain, packed = np.random.RandomState(0), dict(tensors), dict(tensors)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        for name, rows, columns in (("gate_up_proj", 128, 64), ("down_proj", 32, 128)):
            codes = rng.randint(0, 16, (8, columns, rows // 32, 32)).astype(np.uint8)
            scales = rng.randint(120, 130, (8, columns, rows // 32)).astype(np.uint8)
            signs = np.where(codes & 8, -1, 1)
            matrix = signs * values[codes & 7] * 2.0 ** (scales[..., None].astype(int) - 127)
            plain[prefix + name] = matrix.reshape(8, columns, rows).swapaxes(1, 2).astype(np.float32)
            del packed[prefix + name]
            packed[prefix + name + "_blocks"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
            packed[prefix + name + "_scales"] = scales
        for source in (plain, packed):
            source[prefix + "gate_up_proj_bias"] = np.zeros((8, 64), np.float32)
    a, b = (jax.tree.leaves(from_hf_tensors(layout, source)) for source in (plain, packed))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)
