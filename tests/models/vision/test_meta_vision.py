"""Meta's files of Llama-3.2-Vision read as the hub's, shard by shard; newer names of transformers too."""

import json
import math
import re

import numpy as np
import pytest
from checkpoint_files import write_torch_file
from golden_models import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.meta_files import read_shards
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.layout import Layout
from ttsim.models.vision.checkpoint import vision_model
from ttsim.models.vision.meta import _BLOCK, _LAYER, _REST, MetaVisionTensors, cross_layer_index, open_meta_vision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.reading import read_vision_config

PARAMS = {"n_heads": 16, "n_kv_heads": 8, "n_layers": 2, "vision_num_cross_attention_layers": 2}
PARAMS["vision_max_num_chunks"] = 4


def hub_weights():
    """The golden's tensors with layers in Meta's order: cross-attention layers are 0 and 2, the golden's 1 and 3."""
    weights = golden("mllama")[1]

    def swapped(name):
        match = re.fullmatch(r"(language_model\.model\.layers\.)(\d+)(\..+)", name)
        return f"{match[1]}{int(match[2]) ^ 1}{match[3]}" if match else name

    return {swapped(name): weights[name] for name in weights}


def as_meta(weights, shards):
    """What Meta's files would hold of a hub checkpoint: the inverse of what is tested, written independently."""
    rest = {hub: (name, axis) for name, (hub, axis) in _REST.items()}
    files = [{} for _ in range(shards)]

    def put(name, value, axis):
        pieces = [value] * shards if axis is None else np.split(value, shards, axis)
        for file, piece in zip(files, pieces, strict=True):
            file[name] = piece

    for hub in weights:
        value = weights[hub]
        if hub.endswith("embed_tokens.weight"):
            put("text_model.tok_embeddings.weight", value[:-8], 0)
            put("text_model.learnable_embedding.weight", value[-8:], 0)
            continue
        if hub.endswith("patch_embedding.weight"):
            value = value.reshape(value.shape[0], -1)
        if "tile" in hub and hub.endswith("embedding.weight"):
            ratios = read_vision_config(golden("mllama")[0]).tower.aspect_ratios
            rows = value.reshape(len(ratios) + 1, 4, -1, 80)
            value = np.zeros((4, 4, *rows.shape[2:]), np.float32)
            for index, (height, width) in enumerate(ratios):
                # Canvases share one table of [row, column]: the largest of each place comes last.
                value[:height, :width] = rows[index + 1, : height * width].reshape(height, width, *rows.shape[2:])
            value = value[:, :, 0] if "tile_positional" in hub else value
        if hub in rest:
            put(rest[hub][0], value, rest[hub][1])
            continue
        if match := re.fullmatch(r"vision_model\.(transformer|global_transformer)\.layers\.(\d+)\.(.+)", hub):
            names = {theirs: (name, axis) for name, (theirs, axis) in _BLOCK.items()}
            name, axis = names[match[3]]
            put(f"vision_model.vision_encoder.{match[1]}.resblocks.{match[2]}.{name}", value, axis)
            continue
        index, inner = re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)", hub).groups()
        cross = int(index) in (0, 2)
        kind = "cross_attn" if cross else "self_attn"
        names = {theirs.format(attn=kind): (name, axis) for name, (theirs, axis) in _LAYER.items()}
        name, axis = names[inner]
        if not cross and inner.endswith(("q_proj.weight", "k_proj.weight")):
            value = value.reshape(-1, 2, 4, 128).swapaxes(1, 2).reshape(value.shape)  # heads of 8: halves to pairs
        stack = "cross_attention_layers" if cross else "layers"
        put(f"text_model.{stack}.{int(index) // 2}.{name}", value, axis)
    return files


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_meta_files_hold_what_the_hub_s_do(shards):
    weights = hub_weights()
    found = MetaVisionTensors(as_meta(weights, shards), PARAMS)
    assert set(found) == set(weights)
    for name in weights:
        assert found[name].shape == weights[name].shape, name
        if "tile" not in name:  # random tables by aspect id have no common table of [row, column]
            np.testing.assert_array_equal(np.asarray(found[name]), weights[name], err_msg=name)
    table = np.asarray(found["vision_model.pre_tile_positional_embedding.embedding.weight"]).reshape(9, 4, 80)
    assert (table[0] == 0).all()
    assert (table[1, 1:] == 0).all()  # one tile of the 1 x 1 canvas
    np.testing.assert_array_equal(table[6, :2], table[2, :2])  # the first row of 2 x 2 is 1 x 2


def test_cross_layers_of_the_published_models():
    assert cross_layer_index(32, 8)[1] == [3, 8, 13, 18, 23, 28, 33, 38]
    assert cross_layer_index(80, 20)[1] == list(range(3, 100, 5))


def test_names_of_both_generations_load_the_same_and_strays_are_named():
    config, weights, _ = golden("mllama")
    config = read_vision_config(config, name="golden")
    layout = VisionLayout(config, Layout(config.text, get_system("N150"), max_seq_len=32))
    newer = {
        "model." + name.replace("language_model.model.", "language_model.")
        if not name.startswith("language_model.lm_head")
        else "lm_head.weight": weights[name]
        for name in weights
    }
    old, new = vision_model(layout, weights), vision_model(layout, newer)
    np.testing.assert_array_equal(old.tower.projector_pd[...], new.tower.projector_pd[...])
    np.testing.assert_array_equal(old.extra_embedding_vd[...], new.extra_embedding_vd[...])
    np.testing.assert_array_equal(old.text.layers[1].wq_dq[...], new.text.layers[1].wq_dq[...])
    with pytest.raises(CheckpointError, match="belongs to no part"):
        vision_model(layout, {**newer, "model.vision_model.extra.weight": np.zeros(3)})
    newer.pop("model.vision_model.class_embedding")
    with pytest.raises(CheckpointError, match="class_embedding is missing"):
        vision_model(layout, newer)


NUMBERS = {"dim": 64, "vocab_size": 56, "norm_eps": 1e-5, "rope_theta": 5e5, "vision_chunk_size": 28}
ODD = st.sampled_from([None, True, "4", 0, -1, 1.5, 10**9, 10**400, [], {}, math.inf])


@pytest.fixture(scope="module")
def meta_shard():
    return as_meta(hub_weights(), 1)[0]


@settings(max_examples=8)
@given(data=st.data())
def test_a_damaged_folder_is_one_line(tmp_path_factory, meta_shard, data):
    """Numbers and shapes of any kind: nothing but the error of a checkpoint, before anything large is made."""
    folder = tmp_path_factory.mktemp("meta")
    params = {**PARAMS, **NUMBERS, data.draw(st.sampled_from([*PARAMS, *NUMBERS, "x"])): data.draw(ODD)}
    (folder / "params.json").write_text(json.dumps(params))
    shard = dict(meta_shard)
    for name in data.draw(st.lists(st.sampled_from(sorted(shard)), max_size=2)):
        value = shard[name]
        odd = [
            value.reshape(-1),
            np.zeros((), np.float32),
            value[:0],
            value[None],
            value[..., :1] if value.ndim else value,
        ]
        shard[name] = odd[data.draw(st.integers(0, 4))]
    write_torch_file(folder / "consolidated.00.pth", shard)
    try:
        for tensor in MetaVisionTensors(read_shards([folder / "consolidated.00.pth"]), PARAMS).values():
            np.asarray(tensor)
        open_meta_vision(folder)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017


def test_shapes_that_no_shard_has_are_named():
    shards = [dict(shard) for shard in as_meta(hub_weights(), 2)]
    name = "text_model.layers.0.attention.wo.weight"
    shards[1][name] = shards[1][name][:3]
    found = MetaVisionTensors(shards, PARAMS)
    with pytest.raises(CheckpointError, match=r"attention\.wo\.weight has shape \[.*\] and \[3, "):
        np.asarray(found["language_model.model.layers.1.self_attn.o_proj.weight"])


@pytest.mark.parametrize("name", ["text_model.learnable_embedding.weight", "text_model.layers.0.attention.wo.weight"])
def test_a_tensor_that_a_shard_lacks_is_named(name):
    """The rows of the image token stand in a file of their own; every shard holds a part of every tensor."""
    whole, first_only = ([dict(shard) for shard in as_meta(hub_weights(), 2)] for _ in range(2))
    for shard in whole[: 2 if "learnable" in name else 0]:
        del shard[name]
    del first_only[1][name]
    asked = "embed_tokens.weight" if "learnable" in name else "layers.1.self_attn.o_proj.weight"
    for shards in (whole, first_only) if "learnable" in name else (first_only,):
        with pytest.raises(CheckpointError, match="is missing"):
            np.asarray(MetaVisionTensors(shards, PARAMS)[f"language_model.model.{asked}"])
