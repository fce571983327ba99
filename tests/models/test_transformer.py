"""The modules compute what Hugging Face's implementations compute, on one device and on every mesh."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.chunk import Chunk
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.models.run import decode_step, place, place_cache, prefill_step
from ttsim.precision.presets import preset

GOLDEN = Path(__file__).parents[1] / "golden" / "hf"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz") if path.stem != "rope")
EXACT = preset("fp32", "Llama3.2-1B")


class Golden:
    def __init__(self, case):
        data = np.load(GOLDEN / f"{case}.npz")
        self.tokens, self.logits, self.greedy = data["input_ids"], data["logits"], data["greedy"]
        self.config = read_config(json.loads(str(data["config"])), name=case)
        self.tensors = {key: data[key] for key in data.files if "." in key}


def prepare(golden, device, precision=EXACT, data_parallel=1, max_seq_len=32, batch=2):
    layout = Layout(golden.config, get_system(device, data_parallel), max_seq_len=max_seq_len)
    mesh = layout.system.mesh()
    model = place(from_hf_tensors(layout, golden.tensors), layout, mesh)
    cache = place_cache(KVCache.zeros(layout, batch, jnp.float32), layout, batch, mesh)
    return layout, mesh, model, cache


def prefill_all(golden, device, batch=2, **kwargs):
    """Logits of every position, and the cache with the prompts of all users (of one replica)."""
    layout, mesh, model, cache = prepare(golden, device, batch=batch, **kwargs)
    step = jax.jit(prefill_step(layout, EXACT, batch, Chunk(logits="all"), mesh=mesh))
    length = golden.tokens.shape[1]
    out = []
    for user in range(batch):
        tokens = jnp.asarray(golden.tokens[user % 2])
        logits, cache = step(model, tokens, jnp.arange(length), jnp.int32(user), jnp.zeros(1, jnp.int32), cache)
        out.append(np.asarray(logits)[:, : golden.config.vocab_size])
    return np.stack(out), layout, mesh, model, cache


@pytest.mark.parametrize("case", CASES)
def test_prefill_equals_hugging_face(case):
    golden = Golden(case)
    logits, *_ = prefill_all(golden, "N150")
    np.testing.assert_allclose(logits, golden.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_greedy_decode_equals_hugging_face(case):
    golden = Golden(case)
    logits, layout, mesh, model, cache = prefill_all(golden, "N150", max_seq_len=32)
    step = jax.jit(decode_step(layout, EXACT, 2, sample="device", mesh=mesh))
    tokens = jnp.asarray(logits[:, -1].argmax(-1), jnp.int32)
    generated = [tokens]
    for i in range(7):
        positions = jnp.full((2,), golden.tokens.shape[1] + i, jnp.int32)
        tokens, cache = step(model, tokens, positions, cache)
        generated.append(tokens)
    np.testing.assert_array_equal(np.stack(generated, axis=1), golden.greedy)


@pytest.mark.parametrize("device", ["N300", "T3K", "TG"])
@pytest.mark.parametrize("batch", [1, 4])
def test_sharded_equals_hugging_face(device, batch):
    golden = Golden("llama-gqa-8kv")
    logits, layout, mesh, model, cache = prefill_all(golden, device, batch=batch)
    np.testing.assert_allclose(logits, golden.logits[np.arange(batch) % 2], atol=1e-4, rtol=0)
    step = jax.jit(decode_step(layout, EXACT, batch, mesh=mesh))
    last = jnp.asarray(golden.tokens[np.arange(batch) % 2, -1])
    again, _ = step(model, last, jnp.full((batch,), golden.tokens.shape[1] - 1, jnp.int32), cache)
    np.testing.assert_allclose(again, golden.logits[np.arange(batch) % 2, -1], atol=1e-4, rtol=0)
