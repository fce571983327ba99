"""Towers whose tokens stand in the prompt equal transformers: Gemma-3's SigLIP and Qwen2.5-VL's, whole and cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import EXACT, golden, in_numpy, put, quick_jit
from jax.sharding import PartitionSpec as P

from ttsim.meshes.systems import get_system
from ttsim.models.cache import KVCache
from ttsim.models.hf.keys import Keys
from ttsim.models.layout import Layout
from ttsim.models.parameters import map_parameters, traits
from ttsim.models.vision.checkpoint import ParameterFiller, TensorReader, prompt_vision_model, siglip_weights
from ttsim.models.vision.config import VisionConfig
from ttsim.models.vision.images import patched_image, square_image
from ttsim.models.vision.layers import TowerLayout, TowerStage, VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.prompt import PromptVisionModel, positions_3d
from ttsim.models.vision.qwen import qwen_image
from ttsim.models.vision.reading import qwen_tower, siglip_tower
from ttsim.models.vision.siglip import SiglipVisionTower

CLOSE = {"atol": 1e-4, "rtol": 0}
VISION = VisionPrecision.of(64, EXACT.layer(0))


def qwen_layout(device):
    config = VisionConfig.from_hf(golden("qwen2_5_vl")[0], name="golden")
    return VisionLayout(config, Layout(config.text, get_system(device), max_seq_len=64))


def qwen_images(layout):
    arrays, start = golden("qwen2_5_vl")[2], 0
    for rows, columns in arrays["grids"]:
        pixels = arrays["pixel_values"][start : start + rows * columns]
        start += rows * columns
        yield qwen_image(layout.config.tower, pixels, (int(rows), int(columns)), layout.tower.head_size)


def test_qwen_pixels_and_positions_are_the_processors():
    config, _, arrays = golden("qwen2_5_vl")
    tower = qwen_tower(Keys(config["vision_config"]))
    images = [patched_image(tower, arrays[f"image_{i}"], min_pixels=64, max_pixels=4096) for i in (0, 1)]
    np.testing.assert_array_equal([grid for _, grid in images], arrays["grids"])
    np.testing.assert_allclose(np.concatenate([pixels for pixels, _ in images]), arrays["pixel_values"], atol=1e-6)
    positions, following = positions_3d(qwen_layout("N150").config, arrays["input_ids"], [grid for _, grid in images])
    np.testing.assert_array_equal(positions, arrays["position_ids"])
    assert following == arrays["position_ids"].max() + 1


@pytest.mark.parametrize("device", ["N300"])
def test_qwen_tokens_logits_and_next_token(device):
    _, weights, arrays = golden("qwen2_5_vl")
    layout = qwen_layout(device)
    system = layout.text.system
    mesh = system.mesh()
    model = prompt_vision_model(layout, weights, in_numpy)
    specs = map_parameters(lambda p: layout.text.rules.spec(*traits(p).axes), model)
    caches = KVCache.specs(layout.text, 1)
    model, cache = put(model, specs, mesh), put(KVCache.zeros(layout.text, 1), caches, mesh)
    columns = P(None, "tp")

    def mapped(step, in_specs, out_specs, **static):
        step = functools.partial(step, layout=layout, **static)
        return quick_jit(
            jax.shard_map(step, mesh=mesh, in_specs=(specs, *in_specs), out_specs=out_specs, check_vma=False)
        )

    encode = mapped(PromptVisionModel.encode, (P(),), columns, precision=VISION)
    tokens = jnp.concatenate([encode(model, image) for image in qwen_images(layout)])
    np.testing.assert_allclose(tokens, arrays["tokens"], **CLOSE)

    ids = arrays["input_ids"]
    places = np.flatnonzero(ids == layout.config.image_token).astype(np.int32)
    grids = [tuple(map(int, grid)) for grid in arrays["grids"]]
    positions, following = positions_3d(layout.config, ids, grids)
    prefill = mapped(
        PromptVisionModel.prefill,
        (P(), P(), columns, P(), P(), P(), caches),
        (columns, caches),
        precision=EXACT,
        logits="all",
    )
    logits, cache = prefill(
        model, jnp.asarray(ids), jnp.asarray(positions), tokens, places, jnp.int32(0), jnp.int32(0), cache
    )
    np.testing.assert_allclose(logits, arrays["logits"], **CLOSE)
    decode = mapped(PromptVisionModel.decode, (P(), P(), P(), caches), (P(), caches), precision=EXACT)
    row, position = jnp.array([len(ids)]), jnp.full((3, 1), following)
    logits, _ = decode(model, jnp.array([arrays["next_token"]], jnp.int32), row, position, cache)
    np.testing.assert_allclose(logits[0], arrays["next_logits"], **CLOSE)


@pytest.mark.parametrize("device", ["N150", "N300"])
def test_siglip_pixels_and_tokens(device):
    config, weights, arrays = golden("gemma3")
    layout = TowerLayout(siglip_tower(Keys(config["vision_config"]), 4), get_system(device))
    pixels = square_image(layout.tower, arrays["image_0"])
    np.testing.assert_allclose(pixels, arrays["pixel_values"][0], atol=1e-6)
    tower = SiglipVisionTower(layout, 64)
    siglip_weights(tower, layout, TensorReader(weights), ParameterFiller(in_numpy), 64)
    mesh, specs = layout.system.mesh(), map_parameters(lambda p: layout.rules.spec(*traits(p).axes), tower)
    tower = put(tower, specs, mesh)
    encode = functools.partial(SiglipVisionTower.encode, stage=TowerStage(layout, VISION))
    step = jax.shard_map(encode, mesh=mesh, in_specs=(specs, P()), out_specs=P(None, "tp"), check_vma=False)
    np.testing.assert_allclose(quick_jit(step)(tower, jnp.asarray(pixels)), arrays["tokens"][0], **CLOSE)
