"""Which model is this? One answer from a name, a repository, a directory, the hub's cache, Meta's files or sizes."""

import dataclasses
import json
from importlib import resources
from pathlib import Path

import pytest

from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.identity import describe_identity, find_known, get_config, repository_of
from ttsim.models.layout import Layout
from ttsim.models.presets import HF_REPOS, PRESETS, SHORT_NAMES, known_models
from ttsim.precision.presets import preset

PUBLISHED = json.loads((resources.files("ttsim.data") / "models.json").read_text(encoding="utf-8"))
HASH = "0e9e39f249a16976918f6564b8830bc894c89659"
META = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "ffn_dim_multiplier": 1.3,
    "multiple_of": 1024,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}


def write(directory: Path, config: dict, name: str = "config.json") -> Path:
    directory.mkdir(parents=True)
    (directory / name).write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_is_the_same_by_every_way_to_it(tmp_path, name):
    repo, config = HF_REPOS[name], PUBLISHED[name]["config"]
    named = write(tmp_path / repo.rsplit("/", 1)[-1], config)
    cached = write(tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / HASH, config)
    ways = [
        get_config(name),
        get_config(repo),
        get_config(named),
        get_config(cached),
        get_config(named / "config.json"),
    ]
    assert {way.known_name for way in ways} == {name}
    plain = [dataclasses.replace(way, name="", known_as="", known_by="") for way in ways]
    assert all(way == plain[0] for way in plain)
    for device in ("T3K", "N300"):
        try:
            sizes = {Layout(way, get_system(device)).intermediate_size for way in ways}
        except ValueError:
            continue
        assert len(sizes) == 1
        assert len({preset("accuracy", way.known_name) for way in ways}) == 1


def test_sizes_tell_a_model_in_a_directory_of_any_name(tmp_path):
    config = get_config(write(tmp_path / HASH, PUBLISHED["Llama3.1-70B"]["config"]))
    assert (config.name, config.known_name) == (HASH, "Llama3.1-70B")
    assert describe_identity(config) == "rules of Llama3.1-70B, by its sizes"


def test_a_name_counts_only_with_its_sizes(tmp_path):
    small = {**PUBLISHED["Qwen2.5-72B"]["config"], "num_hidden_layers": 8}
    config = get_config(write(tmp_path / "Qwen2.5-72B-Instruct", small))
    assert (config.known_as, config.known_by) == ("", "")
    other = {**PUBLISHED["Llama3.1-8B"]["config"], "num_hidden_layers": 7}
    config = get_config(write(tmp_path / "mine", other))
    assert describe_identity(config) == "mine is not in tt_transformers' list: its default rules"
    assert describe_identity(get_config("8b")) == "rules of Llama3.1-8B"


def test_metas_params_are_a_model(tmp_path):
    directory = write(tmp_path / "Meta-Llama", META, "params.json")
    for path in (directory, directory / "params.json", str(directory)):
        config = get_config(path)
        assert (config.intermediate_size, config.known_name) == (14336, "Llama3.1-8B")
        assert config.rope == PRESETS["Llama3.1-8B"].rope
    (directory / "params.json").write_text(json.dumps({key: META[key] for key in META if key != "n_heads"}))
    with pytest.raises(CheckpointError, match=r"params\.json has no 'n_heads'"):
        get_config(directory)


def test_the_local_hub_cache_is_found_by_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    small = {**PUBLISHED["Llama3.1-8B"]["config"], "num_hidden_layers": 7}
    snapshot = write(tmp_path / "models--org--my-model" / "snapshots" / HASH, small)
    config = get_config("org/my-model")
    assert (config.name, config.num_layers) == ("my-model", 7)
    assert repository_of(snapshot / "config.json") == "org/my-model"
    with pytest.raises(ValueError, match="unknown model 'org/other'"):
        get_config("org/other")


@pytest.mark.parametrize(("short", "name"), SHORT_NAMES.items())
def test_short_names(short, name):
    known = find_known(short)
    assert known is not None
    assert known.name == name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "Llama3.3-70B"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-Distill-Llama-70B"),
        ("DeepSeek-R1-Llama-70B", "DeepSeek-R1-Distill-Llama-70B"),
        ("meta-llama/Llama-3.1-8B", "Llama3.1-8B"),
        ("Qwen/Qwen3-32B", "Qwen3-32B"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B"),
        ("google/gemma-4-31B-it", "gemma-4-31B"),
        ("Qwen/Qwen3-VL-32B-Instruct", "Qwen3-VL-32B"),
    ],
)
def test_repositories_of_the_catalogue(spelling, name):
    assert get_config(spelling).name == name


# Parameters of the text decoder; sources as in catalogue_models.json (those that transformers counts alike).
@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen3-8B", 8.19), ("Qwen3-32B", 32.76), ("gemma-4-31B", 30.70), ("gemma-4-12B", 11.91), ("Falcon3-7B", 7.46)],
)
def test_sizes_of_the_catalogue_count_right(name, billions):
    assert known_models()[name].config.parameter_count / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize(
    ("spelling", "name", "rule"),
    [
        ("llama3.1 8b", "Llama3.1-8B", "rules of Llama3.1-8B"),
        ("Meta-Llama-3.1-8B-Instruct", "Llama3.1-8B", "rules of Llama3.1-8B"),
        ("gemma3:27b", "gemma-3-27b", "rules of gemma-3-27b"),
        ("Qwen3-4B-Instruct-2507", "Qwen3-4B-2507", "rules of Qwen3-4B-2507"),
        ("Qwen2.5-7B-Instruct-1M", "Qwen2.5-7B-1M", "rules of Qwen2.5-7B-1M"),
        ("Qwen3-8B-FP8", "Qwen3-8B", "by name Qwen3-8B, a copy by its ending -FP8: the original's sizes"),
        ("unsloth/Llama-3.1-8B-Instruct-bnb-4bit", "Llama3.1-8B", "by its ending -bnb-4bit"),
        ("bartowski/Qwen_QwQ-32B-GGUF", "QwQ-32B", "by name QwQ-32B, a copy by its ending -GGUF"),
        ("RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8", "Llama3.3-70B", "by its ending -quantized.w8a8"),
        ("google/gemma-3-27b-it-qat-q4_0-gguf", "gemma-3-27b", "by its ending -qat-q4_0-gguf"),
        ("someone/Falcon3-1B-Instruct", "Falcon3-1B", "by name Falcon3-1B-Instruct"),
    ],
)
def test_names_as_people_write_them(spelling, name, rule):
    config = get_config(spelling)
    assert config.known_name == name
    assert describe_identity(config).endswith(rule) or rule in describe_identity(config)
    plain = dataclasses.replace(config, name=name, known_as="", known_by="")
    assert plain == known_models()[name].config


@pytest.mark.parametrize("name", ["-FP8", "Qwen3-8B-FP8-large", "FP8", "org/", "Qwen3-9B-FP8", "_", "x_8"])
def test_a_name_that_only_looks_like_a_copy_is_unknown(name):
    with pytest.raises(ValueError, match="unknown model"):
        get_config(name)


def test_every_known_model_has_the_parameters_that_were_published():
    """To the digits of the published figure; every alias belongs to one model, and every key is in force."""
    owners = {}
    for known in known_models().values():
        config = known.config
        assert known.source
        if known.billions:
            digits = len(known.billions.partition(".")[2])
            assert round(config.parameter_count / 1e9, digits) == pytest.approx(
                float(known.billions), abs=1.01 * 10**-digits
            ), known.name
        if known.like:
            assert (theta := known.data.get("rope_theta")) is None or theta in {r.theta for r, _ in config.ropes}
        for name in (known.name, known.repository, *known.also):
            found = find_known(name)
            assert found is not None
            assert owners.setdefault(name, found.name) == found.name == known.name
