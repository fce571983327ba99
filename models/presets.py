"""The ten published models by name, and the configuration behind any name or path."""

import difflib
import json
import os
from collections.abc import Iterator
from importlib import resources

from ttsim.files.reading import shown
from ttsim.models.config import ModelConfig

# Each entry is {hf_repo, source, config}; `config` has the keys and values of the repository's config.json.
_PUBLISHED = json.loads((resources.files("ttsim.data") / "models.json").read_text(encoding="utf-8"))

PRESETS: dict[str, ModelConfig] = {
    name: ModelConfig.from_hf(entry["config"], name=name) for name, entry in _PUBLISHED.items()
}
HF_REPOS: dict[str, str] = {name: entry["hf_repo"] for name, entry in _PUBLISHED.items()}

# The names that tt_transformers' `lt` takes.
SHORT_NAMES: dict[str, str] = {
    "1b": "Llama3.2-1B",
    "3b": "Llama3.2-3B",
    "8b": "Llama3.1-8B",
    "11b": "Llama3.2-11B",
    "70b": "Llama3.1-70B",
    "90b": "Llama3.2-90B",
    "q7b": "Qwen2.5-7B",
    "q72b": "Qwen2.5-72B",
}


def get_config(model: str | os.PathLike[str] | ModelConfig) -> ModelConfig:
    """The configuration of a model.

    Args:
        model: a published name ("Llama3.1-8B", in any case, with or without -Instruct), its Hugging Face
            repository ("meta-llama/Llama-3.1-8B-Instruct"), a short name ("8b"), the path of a config.json, the
            directory of a checkpoint, or a configuration, which is returned as it is. A published name wins over a
            directory of that name; "./name" is the directory.

    Raises:
        ValueError: nothing is called that, or the config.json is one that `ModelConfig.from_hf` refuses.
    """
    if isinstance(model, ModelConfig):
        return model
    if not isinstance(model, str | os.PathLike):
        raise ValueError(f"a model is a name, a path or a ModelConfig, not {shown(model)}")
    if not isinstance(model, str):
        return ModelConfig.from_hf(model)
    if name := _ALIASES.get(_normalise(model)):
        return PRESETS[name]
    if len(model) < 4096 and os.path.exists(model):  # unlike Path.exists, False for what no file can be called
        return ModelConfig.from_hf(model)
    close = dict.fromkeys(_ALIASES[key] for key in difflib.get_close_matches(_normalise(model[:80]), _ALIASES, n=6))
    raise ValueError(
        f"unknown model {shown(model)}: it is not a path, and the "
        + (f"nearest names are {', '.join(close)}" if close else f"known names are {', '.join(PRESETS)}")
    )


def _normalise(name: str) -> str:
    """One spelling of the ways people write a name: "Llama-3.1-8B-Instruct" is "Llama3.1-8B" with the suffix."""
    return name.strip().casefold().replace("-instruct", "").replace("-", "").replace("_", "")


def _aliases() -> Iterator[tuple[str, str]]:
    yield from SHORT_NAMES.items()
    for name, repo in HF_REPOS.items():
        for alias in (name, repo, repo.rsplit("/", 1)[-1]):
            yield _normalise(alias), name
            yield _normalise(alias).removesuffix("vision"), name


_ALIASES: dict[str, str] = dict(_aliases())
