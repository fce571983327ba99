"""Towers whose tokens stand in the prompt equal transformers: Gemma-3's SigLIP and Qwen-VL's, whole and cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import EXACT, golden, in_numpy, put, quick_jit
from jax.sharding import PartitionSpec as P

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.hf.keys import Keys
from ttsim.models.layout import Layout
from ttsim.models.parameters import map_parameters, traits
from ttsim.models.vision.checkpoint import prompt_vision_model
from ttsim.models.vision.images import patched_image, square_image
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.prompt import PromptVisionModel, positions_3d
from ttsim.models.vision.qwen import qwen_image
from ttsim.models.vision.qwen3 import qwen3_image
from ttsim.models.vision.reading import qwen3_tower, qwen_tower, read_vision_config, siglip_tower

CLOSE = {"atol": 1e-4, "rtol": 0}
VISION = VisionPrecision.of(64, EXACT.layer(0))


QWEN = {"qwen2_5_vl": (qwen_tower, qwen_image), "qwen3_vl": (qwen3_tower, qwen3_image)}


def prompt_layout(case, device):
    config = read_vision_config(golden(case)[0], name="golden")
    return VisionLayout(config, Layout(config.text, get_system(device), max_seq_len=64))


def qwen_images(case, layout):
    arrays, start = golden(case)[2], 0
    for rows, columns in arrays["grids"]:
        pixels = arrays["pixel_values"][start : start + rows * columns]
        start += rows * columns
        yield QWEN[case][1](layout.config.tower, pixels, (int(rows), int(columns)), layout.tower.head_size)


@pytest.mark.parametrize("case", QWEN)
def test_qwen_pixels_and_positions_are_the_processors(case):
    config, _, arrays = golden(case)
    tower = QWEN[case][0](Keys(config["vision_config"]))
    images = [patched_image(tower, arrays[f"image_{i}"], min_pixels=64, max_pixels=4096) for i in (0, 1)]
    np.testing.assert_array_equal([grid for _, grid in images], arrays["grids"])
    np.testing.assert_allclose(np.concatenate([pixels for pixels, _ in images]), arrays["pixel_values"], atol=1e-6)
    config = prompt_layout(case, "N150").config
    positions, following = positions_3d(config, arrays["input_ids"], [grid for _, grid in images])
    np.testing.assert_array_equal(positions, arrays["position_ids"])
    assert following == arrays["position_ids"].max() + 1


class Runner:
    """A golden model in whose prompt images stand, on a system."""

    def __init__(self, case, device):
        _, weights, self.arrays = golden(case)
        self.layout = prompt_layout(case, device)
        self.mesh = self.layout.text.system.mesh()
        model = prompt_vision_model(self.layout, weights, in_numpy)
        self.specs = map_parameters(lambda p: self.layout.text.rules.spec(*traits(p).axes), model)
        self.caches = KVCache.specs(self.layout.text, 1)
        self.model = put(model, self.specs, self.mesh)
        self.cache = put(KVCache.zeros(self.layout.text, 1), self.caches, self.mesh)

    def mapped(self, step, in_specs, out_specs, **static):
        step = functools.partial(step, layout=self.layout, **static)
        return quick_jit(
            jax.shard_map(step, mesh=self.mesh, in_specs=(self.specs, *in_specs), out_specs=out_specs, check_vma=False)
        )

    def encode(self, images):
        """Of all images what the tower makes of them."""
        encode = self.mapped(PromptVisionModel.encode, (P(),), COLUMNS, precision=VISION)
        seen = [encode(self.model, image) for image in images]
        return tuple(jnp.concatenate(parts) for parts in zip(*seen, strict=True))

    def prefill(self, positions, vision):
        """Logits [T, vocabulary]."""
        ids, config = self.arrays["input_ids"], self.layout.config
        places = np.flatnonzero(ids == config.image_token).astype(np.int32)
        blocks = jnp.asarray(ids == config.image_token, jnp.int32) if config.whole_images else None

        def step(model, ids, positions, vision, places, user, last, cache, *, layout):
            return model.prefill(
                ids, positions, vision, places, user, last, cache,
                layout=layout, precision=EXACT, logits="all", blocks_t=blocks,
            )  # fmt: skip

        run = self.mapped(step, (P(), P(), COLUMNS, P(), P(), P(), self.caches), (COLUMNS, self.caches))
        zero = jnp.int32(0)
        logits, self.cache = run(
            self.model, jnp.asarray(ids), jnp.asarray(positions), vision, places, zero, zero, self.cache
        )
        return np.asarray(logits)[:, : config.text.vocab_size]

    def decode(self, token, position):
        """Logits [vocabulary] of one token more."""
        run = self.mapped(PromptVisionModel.decode, (P(), P(), P(), self.caches), (P(), self.caches), precision=EXACT)
        row = jnp.array([len(self.arrays["input_ids"])])
        return np.asarray(run(self.model, jnp.array([token], jnp.int32), row, position, self.cache)[0])[0]


COLUMNS = P(None, "tp")


@pytest.mark.parametrize("case", QWEN)
def test_qwen_tokens_logits_and_next_token(case):
    runner = Runner(case, "N300")
    arrays, config = runner.arrays, runner.layout.config
    vision = runner.encode(qwen_images(case, runner.layout))
    for name, found in zip(("tokens", "deep_0", "deep_1"), vision, strict=False):
        np.testing.assert_allclose(found, arrays[name], **CLOSE)
    assert len(vision) == (3 if config.fusion == "deepstack" else 1)
    grids = [tuple(map(int, grid)) for grid in arrays["grids"]]
    positions, following = positions_3d(config, arrays["input_ids"], grids)
    np.testing.assert_allclose(runner.prefill(positions, vision), arrays["logits"], **CLOSE)
    found = runner.decode(arrays["next_token"], jnp.full((3, 1), following))
    np.testing.assert_allclose(found, arrays["next_logits"], **CLOSE)


@pytest.mark.parametrize("device", ["N150", "N300"])
def test_gemma_logits_with_rows_of_an_image_that_see_each_other(device):
    runner = Runner("gemma3", device)
    ids = runner.arrays["input_ids"]
    vision = runner.encode([jnp.asarray(runner.arrays["pixel_values"][0])])
    np.testing.assert_allclose(vision[0], runner.arrays["tokens"][0], **CLOSE)
    np.testing.assert_allclose(runner.prefill(np.arange(len(ids)), vision), runner.arrays["logits"], **CLOSE)


def test_siglip_pixels():
    config, _, arrays = golden("gemma3")
    tower = siglip_tower(Keys(config["vision_config"]), 4)
    np.testing.assert_allclose(square_image(tower, arrays["image_0"]), arrays["pixel_values"][0], atol=1e-6)
