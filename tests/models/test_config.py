"""Model configurations: published figures, Hugging Face's config.json of each family, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttsim.models.config import ModelConfig, RopeConfig
from ttsim.models.hf.dense import DENSE
from ttsim.models.hf.reading import read_config
from ttsim.models.identity import get_config
from ttsim.models.presets import HF_REPOS, PRESETS, SHORT_NAMES, known_models

GOLDEN = sorted(path for path in (Path(__file__).parents[1] / "golden/hf").glob("*.npz") if path.stem != "rope")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def from_hf(**changes: Any) -> ModelConfig:
    return read_config({**LLAMA, **changes})


# Counts of the published checkpoints; the vision models' are those of the text decoder alone.
@pytest.mark.parametrize(
    ("name", "total", "per_layer"),
    [
        ("Llama3.2-1B", 1_235_814_400, 60_821_504),
        ("Llama3.2-3B", 3_212_749_824, 100_669_440),
        ("Llama3.1-8B", 8_030_261_248, 218_112_000),
        ("Llama3.1-70B", 70_553_706_496, 855_654_400),
        ("Llama3.2-11B", 8_030_261_248, 218_112_000),
        ("Llama3.2-90B", 70_553_706_496, 855_654_400),
        ("Qwen2.5-7B", 7_615_616_512, 233_057_792),
        ("Qwen2.5-72B", 72_706_203_648, 877_684_736),
        ("Phi3.5-mini", 3_821_079_552, 113_252_352),
        ("Mistral-7B", 7_248_023_552, 218_112_000),
    ],
)
def test_published_parameter_counts(name: str, total: int, per_layer: int) -> None:
    assert PRESETS[name].parameter_count == total
    assert PRESETS[name].layer_parameter_count == per_layer


def test_presets_are_hashable_and_distinct() -> None:
    assert len(set(PRESETS.values())) == len(PRESETS) == len(HF_REPOS) == 10


def test_vision_models_keep_cross_attention_apart() -> None:
    model = PRESETS["Llama3.2-90B"]
    assert (model.num_layers, len(model.self_attention_layers), len(model.cross_attention_layers)) == (100, 80, 20)
    assert not set(model.self_attention_layers) & set(model.cross_attention_layers)
    assert model.cross_attention_parameter_count == 20 * (model.layer_parameter_count + 2 * 128 + 2)
    assert PRESETS["Llama3.1-70B"].cross_attention_parameter_count == 0


def test_attention_sizes() -> None:
    model = PRESETS["Qwen2.5-7B"]
    assert (model.q_size, model.kv_size, model.queries_per_kv, model.qkv_bias) == (3584, 512, 7, True)


def test_only_phi_has_a_window() -> None:
    assert {name: model.sliding_window for name, model in PRESETS.items() if model.sliding_window} == {
        "Phi3.5-mini": 262144
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_counts_match_the_parameters_that_transformers_makes(path: Path) -> None:
    with np.load(path) as golden:
        config = read_config(json.loads(str(golden["config"])))
        made = sum(golden[name].size for name in golden.files if name.startswith(("model.", "lm_head.")))
    image_rows = 8 * config.hidden_size if config.cross_attention_layers else 0
    assert config.parameter_count + config.cross_attention_parameter_count + image_rows == made


def test_golden_models_cover_every_family() -> None:
    families = {"qwen2_vl_text"}  # the same decoder as qwen2_5_vl_text
    for path in GOLDEN:
        with np.load(path) as golden:
            families.add(read_config(json.loads(str(golden["config"]))).family)
    with np.load(Path(__file__).parents[1] / "golden/dense.npz") as golden:
        configs = [json.loads(str(golden[key])) for key in golden.files if key.endswith(".config")]
    families |= {read_config(config).family for config in configs}
    assert families == set(DENSE)


def test_llama() -> None:
    scaling: dict[str, Any] = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = from_hf(
        _name_or_path="org/tiny", rope_scaling={"rope_type": "llama3", **scaling}, eos_token_id=[7, 8], head_dim=32
    )
    assert model == ModelConfig(
        name="tiny",
        family="llama",
        hidden_size=64,
        intermediate_size=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        vocab_size=96,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=10000.0, kind="llama3", **scaling),
        bos_token_id=1,
        eos_token_ids=(7, 8),
    )


def test_both_spellings_of_rope_agree() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16}
    old = from_hf(rope_theta=5e5, rope_scaling=rope)
    new = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    assert old == read_config({**new, "rope_parameters": {**rope, "rope_theta": 5e5}})
    assert old.rope == RopeConfig(
        theta=5e5, kind="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0
    )


def test_absent_keys_mean_what_transformers_makes_of_them() -> None:
    absent = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "rms_norm_eps")}
    model = read_config(absent)
    assert (model.num_kv_heads, model.head_dim, model.rms_norm_eps, model.eos_token_ids) == (4, 16, 1e-6, (2,))
    assert from_hf(eos_token_id=None).eos_token_ids == ()
    assert from_hf(model_type="mistral").sliding_window == 4096
    assert from_hf(model_type="mistral", sliding_window=None).sliding_window is None


def test_the_activation_is_read_where_the_family_keeps_it() -> None:
    assert from_hf(model_type="gemma", hidden_act="gelu", head_dim=16).activation == "gelu_tanh"
    assert from_hf(model_type="gemma2", hidden_act="silu", hidden_activation="gelu").activation == "gelu"
    with pytest.raises(ValueError, match="hidden_activation='gelu' is not supported"):
        from_hf(hidden_activation="gelu")


def test_llama_ignores_a_window() -> None:
    assert from_hf(sliding_window=16).sliding_window is None


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, None),
        ({"use_sliding_window": False}, None),
        ({"use_sliding_window": True, "max_window_layers": 4}, None),
        ({"use_sliding_window": True, "max_window_layers": 0}, 32),
        ({"use_sliding_window": True, "layer_types": ["full_attention"] * 4}, None),
    ],
)
def test_qwen2_window_needs_its_flag(changes: dict[str, Any], window: int | None) -> None:
    model = from_hf(model_type="qwen2", sliding_window=32, **changes)
    assert model.sliding_window == window
    assert model.qkv_bias


def test_phi3_longrope() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2] * 8}
    model = from_hf(model_type="phi3", rope_scaling={"type": "su", **factors}, original_max_position_embeddings=64)
    assert model.rope.kind == "longrope"
    assert (model.rope.factor, model.rope.original_max_position_embeddings) == (4.0, 64)
    assert model.rope.long_factor == (2.0,) * 8


def test_mllama_is_its_text_decoder() -> None:
    text = {**LLAMA, "model_type": "mllama_text_model", "cross_attention_layers": [1, 3]}
    del text["rope_theta"]
    model = read_config({"model_type": "mllama", "text_config": text, "vision_config": {}})
    assert model == read_config(text)
    assert (model.self_attention_layers, model.rope.theta) == ((0, 2), 500000.0)


def test_from_a_checkpoint_directory(tmp_path: Path) -> None:
    directory = tmp_path / "tiny-llama"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA))
    expected = dataclasses.replace(from_hf(), name="tiny-llama")
    assert read_config(directory) == read_config(directory / "config.json") == expected
    assert get_config(directory) == get_config(str(directory)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma9"}, r"model_type='gemma9' is not supported; supported: arcee, cohere, cohere2"),
        ({"model_type": None}, "no 'model_type'"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not supported; supported: silu"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias=True is not supported"),
        ({"model_type": "mistral", "mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"partial_rotary_factor": 0.75}, "partial_rotary_factor=0.75 is not supported; supported: 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": {"type": "spiral", "factor": 2}}, "rope_type='spiral' is not supported; supported: default"),
        ({"rope_scaling": {"type": "linear"}}, "no 'rope_scaling.factor'"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e5}}},
            "one set for all layers",
        ),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, "short_factor has 1 values"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"hidden_size": "64"}, "hidden_size='64' is not a positive integer"),
        ({"num_attention_heads": 5}, "hidden_size=64 is not a multiple of num_attention_heads=5"),
        ({"num_key_value_heads": 3}, "num_heads=4 is not a multiple of num_kv_heads=3"),
        ({"head_dim": 15}, "head_dim=15 is odd"),
        ({"model_type": "mllama_text_model", "cross_attention_layers": [9]}, r"cross_attention_layers \[9\]"),
        ({"is_causal": False}, "is_causal=False is not supported"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}, "rope_type='mrope' is not supported"),
        ({"scale_emb": 12}, "scale_emb=12 is not supported"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes' is neither true nor false"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rope_theta": 1e200}, r"rope_theta=1e\+200 is not a finite number below 1e\+30"),
        ({"num_hidden_layers": "x" * 5000}, r"num_hidden_layers='x+.* is not a positive integer"),
        ({"model_type": "x" * 5000}, r"model_type='x+"),
        ({"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"] * 4}, "'ministral' has"),
        (
            {"model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"] * 2},
            "'ministral' has layers of several kinds",
        ),
    ],
)
def test_refuses_what_it_cannot_express(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_hf(**changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_refuses_files_that_are_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no Hugging Face config at .*config\.json"):
        read_config(tmp_path)
    file = tmp_path / "config.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_config(file)
    file.write_text("[]")
    with pytest.raises(ValueError, match="holds a list where"):
        read_config(file)


@pytest.mark.parametrize("name", PRESETS)
def test_get_config_knows_every_spelling_of_a_name(name: str) -> None:
    repo = HF_REPOS[name]
    for spelling in (name, name.lower(), f"{name}-Instruct", repo, repo.upper(), repo.rsplit("/", 1)[-1]):
        assert get_config(spelling) is PRESETS[name]
    assert get_config(PRESETS[name]) is PRESETS[name]


@pytest.mark.parametrize(("short", "name"), SHORT_NAMES.items())
def test_get_config_knows_short_names(short: str, name: str) -> None:
    assert get_config(short) is get_config(short.upper()) is known_models()[name].config


def test_get_config_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'Llama3\.1-7B'.*Llama3\.1-8B"):
        get_config("Llama3.1-7B")
    with pytest.raises(ValueError, match=r"not a path, and `ttsim models` lists the \d+ names that are known"):
        get_config("zzzz")
