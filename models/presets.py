"""The models whose sizes ship: the ten of the published tables, and those of the vendor's catalogue."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.models.config import ModelConfig
from ttsim.models.hf.reading import read_config


def _data(name: str) -> dict[str, dict[str, Any]]:
    """{name: {hf_repo, source, config}}; `config` has the keys and values of the repository's config.json."""
    value: dict[str, dict[str, Any]] = json.loads((resources.files("ttsim.data") / name).read_text(encoding="utf-8"))
    return value


_PUBLISHED = _data("models.json")

PRESETS: dict[str, ModelConfig] = {name: read_config(entry["config"], name=name) for name, entry in _PUBLISHED.items()}
HF_REPOS: dict[str, str] = {name: entry["hf_repo"] for name, entry in _PUBLISHED.items()}

# Short names: those that tt_transformers' `lt` takes, and the same way of writing others.
SHORT_NAMES: dict[str, str] = {
    "1b": "Llama3.2-1B",
    "3b": "Llama3.2-3B",
    "8b": "Llama3.1-8B",
    "11b": "Llama3.2-11B",
    "70b": "Llama3.1-70B",
    "90b": "Llama3.2-90B",
    "q7b": "Qwen2.5-7B",
    "q72b": "Qwen2.5-72B",
    "mistral": "Mistral-7B",
    "phi": "Phi3.5-mini",
    "70b-r1": "DeepSeek-R1-Distill-Llama-70B",
    "q2-7b": "Qwen2.5-7B",
    "q2-72b": "Qwen2.5-72B",
    "q2-coder-32b": "Qwen2.5-Coder-32B",
    "q3-32b": "Qwen3-32B",
    "q3-8b": "Qwen3-8B",
    "qwq": "QwQ-32B",
    "gemma-3-27b": "gemma-3-27b",
}

# Repositories that hold another model's sizes: base models beside their Instruct files, and fine-tunes.
SAME_SIZES: dict[str, str] = {
    "meta-llama/Llama-3.1-8B": "Llama3.1-8B",
    "meta-llama/Llama-3.1-70B": "Llama3.1-70B",
    "meta-llama/Llama-3.2-1B": "Llama3.2-1B",
    "meta-llama/Llama-3.2-3B": "Llama3.2-3B",
    "Qwen/Qwen2.5-72B": "Qwen2.5-72B",
    "Qwen/Qwen2.5-7B": "Qwen2.5-7B",
    "Qwen/Qwen2.5-32B": "Qwen2.5-32B",
    "DeepSeek-R1-Llama-70B": "DeepSeek-R1-Distill-Llama-70B",  # as the published tables write it
    "microsoft/Phi-4": "phi-4",
    "microsoft/Phi-3-mini-128k-instruct": "Phi3.5-mini",
}


@dataclass(frozen=True)
class KnownModel:
    """A model whose sizes ship: its name, repository, the source of its sizes and its config.json."""

    name: str
    repository: str
    source: str
    data: Mapping[str, Any]

    @functools.cached_property
    def config(self) -> ModelConfig:
        """Its configuration.

        Raises:
          ValueError: it has a part that `ModelConfig` can't express.
        """
        return PRESETS.get(self.name) or read_config(self.data, name=self.name)


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """Every model whose sizes ship, by name."""
    entries = {**_PUBLISHED, **_data("catalogue_models.json"), **_data("expert_models.json")}
    return {
        name: KnownModel(name, entry["hf_repo"], entry["source"], entry["config"]) for name, entry in entries.items()
    }
