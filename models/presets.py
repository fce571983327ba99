"""The models that are known by name: those of the published tables, of the vendor's catalogue, and a table of others.

Source of each model's sizes: its `KnownModel.source`.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ttsim.models.config import ModelConfig
from ttsim.models.hf.reading import read_config, text_config

# Keys of config.json as the table spells them.
SHORT_KEYS: Mapping[str, str] = {
    "type": "model_type",
    "hidden": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv": "num_key_value_heads",
    "head": "head_dim",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "eps": "rms_norm_eps",
    "theta": "rope_theta",
    "tied": "tie_word_embeddings",
}
_PUBLISHED = "models.json"  # the ten models of the published tables
_JSON_FILES = (_PUBLISHED, "catalogue_models.json", "expert_models.json")
_TABLE = "model_sizes.csv"


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
    "Mistral-Small-3.1": "Mistral-Small-3.1-24B",
    "microsoft/Phi-3-mini-128k-instruct": "Phi3.5-mini",
}


@dataclass(frozen=True)
class KnownModel:
    """A model whose sizes ship.

    Attributes:
      name, repository: what it is called here and on the hub. also: other repositories and names of the same sizes.
      source: where its sizes are from.
      data: the keys and values of its config.json.
      like: the known model whose sizes it shares but for the keys that its line of the table gives.
      billions: its parameters as published, in 1e9, and the digits of that figure; "" where it was not noted.
    """

    name: str
    repository: str
    source: str
    data: Mapping[str, Any]
    like: str = ""
    billions: str = ""
    also: tuple[str, ...] = ()

    @functools.cached_property
    def config(self) -> ModelConfig:
        """Its configuration.

        Raises:
          ValueError: it has a part that `ModelConfig` can't express.
        """
        return read_config(self.data, name=self.name)


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """Every model whose sizes ship, by name."""
    known: dict[str, KnownModel] = {}
    for file in _JSON_FILES:
        for name, entry in json.loads(_text(file)).items():
            known[name] = KnownModel(name, entry["hf_repo"], entry["source"], entry["config"])
    lines = [line for line in _text(_TABLE).splitlines() if not line.startswith("#")]
    rows = {row["name"]: row for row in csv.DictReader(lines, delimiter="|", quoting=csv.QUOTE_NONE)}

    def data(name: str) -> Mapping[str, Any]:
        if name in known:
            return text_config(known[name].data)
        row = rows[name]
        base = data(row["like"]) if row["like"] else {}
        return {**base, **_keys(row["keys"])}

    for name, row in rows.items():
        known[name] = KnownModel(
            name, row["repository"], row["source"], data(name), row["like"], row["billions"], tuple(row["also"].split())
        )
    return known


def _text(file: str) -> str:
    return (resources.files("ttsim.data") / file).read_text(encoding="utf-8")


def _keys(cell: str) -> dict[str, Any]:
    """ "hidden=4096 sliding_window=null" -> {"hidden_size": 4096, "sliding_window": None}; a bare word is a text."""
    keys = {}
    for word in cell.split():
        key, _, value = word.partition("=")
        keys[SHORT_KEYS.get(key, key)] = value if key == "type" else json.loads(value)
    return keys


PRESETS: dict[str, ModelConfig] = {name: known_models()[name].config for name in json.loads(_text(_PUBLISHED))}
HF_REPOS: dict[str, str] = {name: known_models()[name].repository for name in PRESETS}
