"""Write tests/golden/vision/*.npz: tiny random models that see, run by Hugging Face transformers.

    pip install torch "transformers==4.52.4" pillow numpy && python tests/golden/vision/make_vision_golden.py

transformers 4.52 on purpose: later versions collect Llama-3.2-Vision's intermediate states *after* each layer, so that
index i means the output of layer i; Meta's reference, older transformers and the device mean its *input*.

Only this script needs torch and transformers. The weights are not stored: `seeded_weight` makes each from its name,
here and in the tests. Each file holds

    config              JSON text of config.json
    versions            JSON text
    weights             JSON text: {name on the hub: shape}
    image_<i>           uint8 [h, w, 3], random pixels
    and what the model makes of them (see each function)
"""

import json
import zlib
from pathlib import Path

import numpy as np

SEED = 20261125
OUT = Path(__file__).parent


def seeded_weight(name, shape):
    """A random parameter that depends on its name alone; gates are large, so that nothing hides behind them."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    if "gate" in name and "proj" not in name:
        value = rng.normal(0.6, 0.3, shape)
    elif ("norm" in name and name.endswith("weight")) or "ln_q" in name:
        value = rng.normal(1.0, 0.2, shape)
    elif name.endswith("bias") or "embedding" in name or "embed" in name:
        value = rng.normal(0.0, 0.3, shape)
    else:
        value = rng.normal(0.0, 1.0 / np.sqrt(max(shape[-1], 1)), shape)
    return value.astype(np.float32)


def images(sizes):
    rng = np.random.default_rng(SEED)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]


def fill(model, published):
    """Sets every parameter, and returns {published name: shape}."""
    import torch

    shapes = {}
    for name, parameter in model.named_parameters():
        shapes[published(name)] = list(parameter.shape)
        parameter.data = torch.from_numpy(seeded_weight(published(name), tuple(parameter.shape)))
    return shapes


def save(case, config, shapes, arrays):
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    texts = {"config": config.to_diff_dict(), "weights": shapes, "versions": versions}
    texts["config"]["vision_config"] = config.vision_config.to_diff_dict()
    if hasattr(config, "text_config"):
        texts["config"]["text_config"] = config.text_config.to_diff_dict()
    dump = {key: np.array(json.dumps(value, default=str)) for key, value in texts.items()}
    path = OUT / f"{case}.npz"
    np.savez_compressed(path, **dump, **arrays)
    print(case, path.stat().st_size, {key: value.shape for key, value in arrays.items()})


def mllama():
    """Two users: one prompt with two images, one with one image and an absent second; 8 KV heads.

    pixel_values, num_tiles, aspect_ratio_ids, aspect_ratio_mask, input_ids, cross_attention_mask, features, projected;
    logits (transformers' treatment of rows that see no image), logits_meta (Meta's and the device's: their attention
    is zeroed too); next_logits_meta [users, vocabulary]: of one token more, `next_token`, after the prompt.
    """
    import torch
    from PIL import Image
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor

    vision = dict(
        hidden_size=80,
        num_hidden_layers=3,
        num_global_layers=1,
        attention_heads=8,
        intermediate_size=96,
        vision_output_dim=240,
        image_size=28,
        patch_size=14,
        intermediate_layers_indices=[0, 2],
        norm_eps=1e-5,
        max_num_tiles=4,
    )
    text = dict(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=16,
        num_key_value_heads=8,
        intermediate_size=96,
        vocab_size=88,
        cross_attention_layers=[1, 3],
        rms_norm_eps=1e-5,
        max_position_embeddings=64,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=88)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    model = MllamaForConditionalGeneration(config).float().eval()
    prefixes = (
        ("model.vision_model.", "vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    )

    def published(name):
        new, old = next(pair for pair in prefixes if name.startswith(pair[0]))
        return old + name[len(new) :]

    shapes = fill(model, published)
    pictures = images([(50, 20), (61, 50), (20, 27)])
    users = [[pictures[0], pictures[1]], [pictures[2]]]
    places, length = [[2, 6], [1]], 11
    processor = MllamaImageProcessor(
        size={"height": 28, "width": 28},
        max_image_tiles=4,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    )
    batch = processor(images=[[Image.fromarray(p) for p in row] for row in users], return_tensors="np")
    tiles = batch["num_tiles"]
    rng = np.random.default_rng(SEED + 1)
    input_ids = rng.integers(2, 88, (2, length))
    seen = np.zeros((2, length, 2, 4), np.int64)
    for user, row in enumerate(places):
        for index, place in enumerate(row):
            input_ids[user, place] = 88
            end = row[index + 1] if index + 1 < len(row) else length
            seen[user, place:end, index, : tiles[user][index]] = 1
    next_token = rng.integers(2, 88, (2, 1))
    pixels = torch.from_numpy(np.asarray(batch["pixel_values"], np.float32))
    ids, used = (torch.from_numpy(np.asarray(batch[k])) for k in ("aspect_ratio_ids", "aspect_ratio_mask"))
    inputs = dict(pixel_values=pixels, aspect_ratio_ids=ids, aspect_ratio_mask=used)

    def logits(tokens, visible):
        mask = torch.from_numpy(visible)
        return model(**inputs, input_ids=torch.from_numpy(tokens), cross_attention_mask=mask, use_cache=False).logits

    with torch.no_grad():
        features = model.model.vision_model(pixels, ids, used).last_hidden_state
        projected = model.model.multi_modal_projector(features)
        hugging_face = logits(input_ids, seen)
        keep = torch.zeros(2, length + 1, 1)
        keep[:, :length] = torch.from_numpy(seen.sum((2, 3)) > 0)[..., None]
        keep[:, length] = 1
        for layer in model.model.language_model.layers:
            if hasattr(layer, "cross_attn"):
                layer.cross_attn.register_forward_hook(
                    lambda module, args, out: (out[0] * keep[:, : out[0].shape[1]], *out[1:])
                )
        meta = logits(input_ids, seen)
        longer = logits(np.concatenate([input_ids, next_token], 1), np.concatenate([seen, seen[:, -1:]], 1))
    arrays = {f"image_{i}": p for i, p in enumerate(pictures)} | {
        "pixel_values": pixels.numpy(),
        "num_tiles": np.array([[*row, 0][:2] for row in tiles], np.int32),
        "aspect_ratio_ids": ids.numpy().astype(np.int32),
        "aspect_ratio_mask": used.numpy().astype(np.int32),
        "input_ids": input_ids.astype(np.int32),
        "cross_attention_mask": seen.astype(np.int32),
        "features": features.numpy(),
        "projected": projected.numpy(),
        "logits": hugging_face.numpy(),
        "logits_meta": meta.numpy(),
        "next_token": next_token.astype(np.int32)[:, 0],
        "next_logits_meta": longer[:, -1].numpy(),
    }
    save("mllama", config, shapes, arrays)


def qwen2_5_vl():
    """One prompt with two images of different sizes, neither a whole number of windows.

    pixel_values and grids [rows, columns] of each image, tokens (the merger's, both images), input_ids, position_ids
    [3, T], logits [T, vocabulary], next_token and next_logits.
    """
    import torch
    from PIL import Image
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

    vision = dict(
        depth=3,
        hidden_size=80,
        intermediate_size=100,
        num_heads=4,
        in_channels=3,
        out_hidden_size=64,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=16,
        fullatt_block_indexes=[1],
        hidden_act="silu",
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_position_embeddings=128,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        tie_word_embeddings=False,
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
        bos_token_id=1,
        eos_token_id=2,
    )
    config._attn_implementation = config.vision_config._attn_implementation = "eager"
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()

    def published(name):
        name = name.replace("model.visual.", "visual.")
        return name.replace("model.language_model.", "model.")

    shapes = fill(model, published)
    pictures = images([(41, 25), (15, 33)])
    processor = Qwen2VLImageProcessor(patch_size=4, merge_size=2, min_pixels=64, max_pixels=4096)
    batch = processor(images=[Image.fromarray(p) for p in pictures], return_tensors="np")
    grids = np.asarray(batch["image_grid_thw"])
    rng = np.random.default_rng(SEED + 2)
    ids = list(rng.integers(3, 88, 3))
    for _, rows, columns in grids:
        ids += [92, *[90] * (int(rows) * int(columns) // 4), 93, *rng.integers(3, 88, 2)]
    input_ids = torch.from_numpy(np.array(ids, np.int64)[None])
    pixels, thw = torch.from_numpy(np.asarray(batch["pixel_values"], np.float32)), torch.from_numpy(grids)
    next_token = 17
    with torch.no_grad():
        tokens = model.model.visual(pixels, grid_thw=thw)
        positions, _ = model.model.get_rope_index(input_ids, thw)
        inputs = dict(pixel_values=pixels, image_grid_thw=thw, use_cache=False)
        logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **inputs).logits
        longer = torch.cat([input_ids, torch.tensor([[next_token]])], 1)
        following = model(input_ids=longer, attention_mask=torch.ones_like(longer), **inputs).logits[0, -1]
    arrays = {f"image_{i}": p for i, p in enumerate(pictures)} | {
        "pixel_values": pixels.numpy(),
        "grids": grids[:, 1:].astype(np.int32),
        "tokens": tokens.numpy(),
        "input_ids": input_ids[0].numpy().astype(np.int32),
        "position_ids": positions[:, 0].numpy().astype(np.int32),
        "logits": logits[0].numpy(),
        "next_token": np.int32(next_token),
        "next_logits": following.numpy(),
    }
    save("qwen2_5_vl", config, shapes, arrays)


def qwen3_vl():
    """The same of Qwen3-VL, whose two earlier states are added after the first text layers (with transformers 5.24).

    Also deep_0 and deep_1, what is added for both images.
    """
    import torch
    from PIL import Image
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = dict(
        depth=3,
        hidden_size=80,
        intermediate_size=100,
        num_heads=4,
        in_channels=3,
        out_hidden_size=64,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=25,
        deepstack_visual_indexes=[0, 2],
        hidden_act="gelu_pytorch_tanh",
    )
    text = dict(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        max_position_embeddings=128,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config=text,
        tie_word_embeddings=False,
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    model = Qwen3VLForConditionalGeneration(config).float().eval()
    shapes = fill(model, lambda name: name)
    pictures = images([(41, 25), (15, 33)])
    processor = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, min_pixels=64, max_pixels=4096, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    batch = processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    pixels, thw = batch["pixel_values"].float(), batch["image_grid_thw"]
    rng = np.random.default_rng(SEED + 4)
    ids = list(rng.integers(3, 88, 3))
    for _, rows, columns in thw.tolist():
        ids += [92, *[90] * (rows * columns // 4), 93, *rng.integers(3, 88, 2)]
    input_ids = torch.from_numpy(np.array(ids, np.int64)[None])
    next_token = 17

    def run(tokens):
        types = (tokens == 90).int()
        inputs = dict(pixel_values=pixels, image_grid_thw=thw, mm_token_type_ids=types, use_cache=False)
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **inputs).logits[0]

    with torch.no_grad():
        seen = model.model.visual(pixels, grid_thw=thw)
        positions, _ = model.model.get_rope_index(
            input_ids, mm_token_type_ids=(input_ids == 90).int(), image_grid_thw=thw
        )
        logits = run(input_ids)
        following = run(torch.cat([input_ids, torch.tensor([[next_token]])], 1))[-1]
    arrays = (
        {f"image_{i}": p for i, p in enumerate(pictures)}
        | {
            "pixel_values": pixels.numpy(),
            "grids": thw[:, 1:].numpy().astype(np.int32),
            "tokens": seen.pooler_output.numpy(),
            "input_ids": input_ids[0].numpy().astype(np.int32),
            "position_ids": positions[:, 0].numpy().astype(np.int32),
            "logits": logits.numpy(),
            "next_token": np.int32(next_token),
            "next_logits": following.numpy(),
        }
        | {f"deep_{i}": deep.numpy() for i, deep in enumerate(seen.deepstack_features)}
    )
    save("qwen3_vl", config, shapes, arrays)


def gemma3():
    """One prompt with one image.

    pixel_values, states (the tower's), tokens (the projector's), input_ids, token_type_ids, logits [T, vocabulary].
    """
    import torch
    from PIL import Image
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor

    vision = dict(
        hidden_size=72,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        patch_size=7,
        image_size=28,
        num_channels=3,
        vision_use_head=False,
    )
    text = dict(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=96,
        sliding_window=8,
        sliding_window_pattern=2,
        query_pre_attn_scalar=16,
        max_position_embeddings=128,
        rope_theta=10000.0,
        rope_local_base_freq=1000.0,
        rms_norm_eps=1e-6,
    )
    config = Gemma3Config(
        vision_config=vision, text_config=text, mm_tokens_per_image=4, image_token_index=90, boi_token_index=91
    )
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    model = Gemma3ForConditionalGeneration(config).float().eval()

    def published(name):
        for new, old in (
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("model.language_model.", "language_model.model."),
        ):
            if name.startswith(new):
                return old + name[len(new) :]
        return name

    shapes = fill(model, published)
    pictures = images([(41, 25)])
    processor = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    pixels = torch.from_numpy(np.asarray(processor(images=[Image.fromarray(pictures[0])])["pixel_values"], np.float32))
    rng = np.random.default_rng(SEED + 3)
    ids = np.concatenate([rng.integers(3, 88, 4), [91], [90] * 4, rng.integers(3, 88, 5)])
    types = (ids == 90).astype(np.int64)
    with torch.no_grad():
        states = model.model.vision_tower(pixels).last_hidden_state
        tokens = model.model.multi_modal_projector(states)
        logits = model(
            input_ids=torch.from_numpy(ids[None]),
            pixel_values=pixels,
            token_type_ids=torch.from_numpy(types[None]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            use_cache=False,
        ).logits
    arrays = {
        "image_0": pictures[0],
        "pixel_values": pixels.numpy(),
        "states": states.numpy(),
        "tokens": tokens.numpy(),
        "input_ids": ids.astype(np.int32),
        "token_type_ids": types.astype(np.int32),
        "logits": logits[0].numpy(),
    }
    save("gemma3", config, shapes, arrays)


if __name__ == "__main__":
    mllama()
    qwen2_5_vl()
    qwen3_vl()
    gemma3()
