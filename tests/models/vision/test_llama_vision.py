"""Llama-3.2-Vision equals its references: pixels, vision tokens, logits and cached decoding, on every mesh."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import GOLDEN, Runner, golden

from ttsim.models.checkpoints.safetensors_files import SafetensorsFiles
from ttsim.models.vision.checkpoint import plain_feature_order
from ttsim.models.vision.images import tiled_image
from ttsim.models.vision.reading import read_vision_config

CLOSE = {"atol": 1e-4, "rtol": 0}


def test_pixel_values_are_the_processors():
    config, _, arrays = golden("mllama")
    tower = read_vision_config(config).tower
    for index, place in enumerate([(0, 0), (0, 1), (1, 0)]):
        image = tiled_image(tower, arrays[f"image_{index}"])
        np.testing.assert_array_equal(image.pixels, arrays["pixel_values"][place])
        assert image.aspect_id == arrays["aspect_ratio_ids"][place]
        assert image.tiles == arrays["num_tiles"][place]


@functools.cache
def prefilled(device):
    """The golden model on a system, both prompts read: runner, tokens by (user, image), logits [users, T, V]."""
    config, weights, arrays = golden("mllama")
    runner = Runner(config, weights, device, images=2, batch=2)
    vision, logits = {}, []
    for user in range(2):
        tokens = []
        for image in range(2):
            if tiles := arrays["num_tiles"][user, image]:
                pixels, aspect = arrays["pixel_values"][user, image], arrays["aspect_ratio_ids"][user, image]
                vision[user, image] = runner.encode(pixels, aspect, tiles)
            tokens.append(vision.get((user, image), jnp.zeros_like(vision[user, 0])))  # no row sees an absent image
        seen = arrays["cross_attention_mask"][user].reshape(-1, 8)
        logits.append(runner.prefill(arrays["input_ids"][user], jnp.stack(tokens), seen, user))
    return runner, vision, np.stack(logits)


@pytest.mark.parametrize("device", ["N150", "T3K"])
def test_vision_tokens_and_logits_are_the_reference_s(device):
    """One image of 1 x 2 tiles, one of 2 x 2, one of a single tile, an absent one; rows before the first image."""
    arrays = golden("mllama")[2]
    _, vision, logits = prefilled(device)
    for place, tokens in vision.items():
        np.testing.assert_allclose(tokens, arrays["projected"][place], **CLOSE)
    np.testing.assert_allclose(logits, arrays["logits_meta"], **CLOSE)


@pytest.mark.parametrize("device", ["N150", "T3K"])
def test_decoding_sees_the_images_through_the_cache(device):
    arrays = golden("mllama")[2]
    runner = prefilled(device)[0]
    length = arrays["input_ids"].shape[1]
    seen = arrays["cross_attention_mask"][:, -1].reshape(2, -1)
    logits = runner.decode(arrays["next_token"], [length] * 2, seen)
    np.testing.assert_allclose(logits, arrays["next_logits_meta"], **CLOSE)


def test_rows_that_see_no_image_differ_from_transformers():
    """transformers lets those rows attend to everything; Meta's code and the device do not."""
    arrays = golden("mllama")[2]
    logits = prefilled("N150")[2]
    blind = arrays["cross_attention_mask"].sum((2, 3)) == 0
    assert blind[0, :2].all()
    assert blind[1, :1].all()
    assert (np.abs(logits - arrays["logits"]).max(-1)[blind] > 0.1).all()


# The reference checkpoint: a file of the hub, with transformers' own cached greedy continuation


@functools.cache
def reference():
    data = np.load(GOLDEN / "llama_dev" / "golden.npz")
    return {key: data[key] for key in data.files}


@pytest.mark.parametrize("device", ["N300"])
def test_greedy_continuation_of_a_hub_checkpoint(device):
    arrays = reference()
    folder = GOLDEN / "llama_dev"
    runner = Runner(folder, SafetensorsFiles(folder / "model.safetensors"), device, images=1, batch=2)
    tower = runner.layout.config.tower
    seen, newest = arrays["cross_attention_mask"].reshape(2, -1, 4), []
    for user in range(2):
        image = tiled_image(tower, arrays[f"image_{user}_0"])
        np.testing.assert_array_equal(image.pixels, arrays["pixel_values"][user, 0])
        tokens = runner.encode(image.pixels, image.aspect_id, image.tiles)
        np.testing.assert_allclose(tokens, arrays["vision.projected"][user, 0], **CLOSE)
        logits = runner.prefill(arrays["input_ids"][user], tokens[None], seen[user], user)
        np.testing.assert_allclose(logits, arrays["logits_meta"][user], **CLOSE)
        newest.append(logits[-1].argmax())
    written = [newest]
    for step in range(5):
        logits = runner.decode(written[-1], [arrays["input_ids"].shape[1] + step] * 2, seen[:, -1])
        written.append(logits.argmax(-1))
    np.testing.assert_array_equal(np.stack(written, 1), arrays["greedy"])


def test_features_are_the_reference_s_in_another_order():
    """Checkpoints interleave the kept states element by element; the device concatenates them."""
    arrays = reference()
    config = read_vision_config(GOLDEN / "llama_dev")
    features = arrays["vision.features"][0, 0]
    plain = plain_feature_order(features.reshape(-1, features.shape[-1]).T, config.tower).T
    size = config.tower.hidden_size
    np.testing.assert_array_equal(plain[:, :size], features.reshape(-1, features.shape[-1])[:, :size])
    np.testing.assert_array_equal(plain[:, size : 2 * size], features.reshape(-1, features.shape[-1])[:, size::3])
