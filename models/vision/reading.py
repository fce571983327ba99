"""The vision part of a config.json: one table of keys a tower, and what the model around it says.

To add a tower, add its class to `config.py`, its keys here and its modules beside `siglip.py`.

Source: transformers models/{mllama,siglip,gemma3,qwen2_5_vl,qwen3_vl}/configuration_*.py.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ttsim.files.reading import printable, read_json, shown
from ttsim.models.config import ModelConfig
from ttsim.models.hf.keys import Keys
from ttsim.models.hf.reading import read_config
from ttsim.models.vision.config import ASPECT_RATIOS, LlamaTower, Qwen3Tower, QwenTower, SiglipTower, VisionConfig

# A tower's field -> (the key that holds it, what it is where the key is absent). Whole numbers are sizes, lists are
# lists of whole numbers; a text must be as it stands here.
Table = Mapping[str, tuple[str, Any]]

_LLAMA: Table = {
    "hidden_size": ("hidden_size", 1280),
    "intermediate_size": ("intermediate_size", 5120),
    "num_layers": ("num_hidden_layers", 32),
    "num_global_layers": ("num_global_layers", 8),
    "num_heads": ("attention_heads", 16),
    "patch_size": ("patch_size", 14),
    "image_size": ("image_size", 448),
    "max_tiles": ("max_num_tiles", 4),
    "channels": ("num_channels", 3),
    "norm_eps": ("norm_eps", 1e-5),
    "activation": ("hidden_act", "gelu"),
    "kept_layers": ("intermediate_layers_indices", (3, 7, 15, 23, 30)),
}
_SIGLIP: Table = {
    "hidden_size": ("hidden_size", 1152),
    "intermediate_size": ("intermediate_size", 4304),
    "num_layers": ("num_hidden_layers", 27),
    "num_heads": ("num_attention_heads", 16),
    "patch_size": ("patch_size", 14),
    "image_size": ("image_size", 896),
    "channels": ("num_channels", 3),
    "norm_eps": ("layer_norm_eps", 1e-6),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
}
_QWEN: Table = {
    "hidden_size": ("hidden_size", 1280),
    "intermediate_size": ("intermediate_size", 3420),
    "num_layers": ("depth", 32),
    "num_heads": ("num_heads", 16),
    "patch_size": ("patch_size", 14),
    "channels": ("in_channels", 3),
    "activation": ("hidden_act", "silu"),
    "window": ("window_size", 112),
    "full_layers": ("fullatt_block_indexes", (7, 15, 23, 31)),
    "merge": ("spatial_merge_size", 2),
    "frames": ("temporal_patch_size", 2),
    "out_size": ("out_hidden_size", 3584),
}
_QWEN3: Table = {
    "hidden_size": ("hidden_size", 1152),
    "intermediate_size": ("intermediate_size", 4304),
    "num_layers": ("depth", 27),
    "num_heads": ("num_heads", 16),
    "patch_size": ("patch_size", 16),
    "channels": ("in_channels", 3),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
    "positions": ("num_position_embeddings", 2304),
    "deepstack_layers": ("deepstack_visual_indexes", (8, 16, 24)),
    "merge": ("spatial_merge_size", 2),
    "frames": ("temporal_patch_size", 2),
    "out_size": ("out_hidden_size", 3584),
}
_NAMES = {"gelu_pytorch_tanh": "gelu_tanh"}  # activations by other names than the ops'


def _fields(keys: Keys, table: Table) -> dict[str, Any]:
    """The fields of a tower, each read as its table says."""
    found: dict[str, Any] = {}
    for field, (key, absent) in table.items():
        match absent:
            case str():
                keys.only(key, absent)
                found[field] = _NAMES.get(absent, absent)
            case float():
                found[field] = keys.number(key, absent, least=0)
            case tuple():
                found[field] = keys.wholes(key, absent)
            case _:
                found[field] = keys.size(key, absent)
    return found


def llama_tower(keys: Keys) -> LlamaTower:
    """The tower of a Llama-3.2-Vision `vision_config`."""
    ratios = keys.get("supported_aspect_ratios", ASPECT_RATIOS)
    if not isinstance(ratios, list | tuple) or not all(_is_canvas(each) for each in ratios):
        raise ValueError(f"{keys.named('supported_aspect_ratios')}={shown(ratios)} is no list of [height, width]")
    tower = LlamaTower(**_fields(keys, _LLAMA), aspect_ratios=tuple((h, w) for h, w in ratios))
    output = keys.size("vision_output_dim", tower.feature_size)
    if output != tower.feature_size:
        raise ValueError(
            f"vision_output_dim={output} is not hidden_size x (1 + {len(tower.kept_layers)} kept layers) = "
            f"{tower.feature_size}"
        )
    return tower


def _is_canvas(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def siglip_tower(keys: Keys, image_tokens: int = 256) -> SiglipTower:
    """The tower of a Gemma-3 `vision_config`, and how many tokens it leaves (`mm_tokens_per_image`)."""
    fields = _fields(keys, _SIGLIP)
    return SiglipTower(**fields, image_tokens=image_tokens, projector_eps=fields["norm_eps"])


def qwen_tower(keys: Keys) -> QwenTower:
    """The tower of a Qwen2.5-VL `vision_config`."""
    fields = _fields(keys, _QWEN)
    if "in_chans" in keys:  # older files
        fields["channels"] = keys.size("in_chans")
    return QwenTower(**fields)


def qwen3_tower(keys: Keys) -> Qwen3Tower:
    """The tower of a Qwen3-VL `vision_config`."""
    return Qwen3Tower(**_fields(keys, _QWEN3))


def _llama(keys: Keys, text: ModelConfig) -> VisionConfig:
    return VisionConfig(
        tower=llama_tower(keys.part("vision_config")),
        fusion="cross_attention",
        text=text,
        image_token=keys.whole("image_token_index", text.vocab_size),
        extra_tokens=8,
    )


def _gemma3(keys: Keys, text: ModelConfig) -> VisionConfig:
    return VisionConfig(
        tower=siglip_tower(keys.part("vision_config"), keys.size("mm_tokens_per_image", 256)),
        fusion="embeddings",
        text=text,
        image_token=keys.whole("image_token_index", keys.whole("image_token_id", 262144)),
        whole_images=True,
    )


def _qwen(keys: Keys, text: ModelConfig) -> VisionConfig:
    return VisionConfig(
        tower=qwen_tower(keys.part("vision_config")),
        fusion="embeddings",
        text=text,
        image_token=keys.whole("image_token_id", 151655),
        mrope_section=_mrope_section(keys),
    )


def _qwen3(keys: Keys, text: ModelConfig) -> VisionConfig:
    return VisionConfig(
        tower=qwen3_tower(keys.part("vision_config")),
        fusion="deepstack",
        text=text,
        image_token=keys.whole("image_token_id", 151655),
        mrope_section=_mrope_section(keys) or (24, 20, 20),
        mrope_interleaved=True,
    )


def _mrope_section(keys: Keys) -> tuple[int, ...]:
    """Rotary pairs of time, height and width; older files have them beside the vision part."""
    text = keys.part("text_config") if "text_config" in keys else keys
    ropes = [text.part(key) for key in ("rope_parameters", "rope_scaling")]
    return next((rope.wholes("mrope_section") for rope in ropes if "mrope_section" in rope), ())


_READERS: Mapping[str, Callable[[Keys, ModelConfig], VisionConfig]] = {
    "mllama": _llama,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen3,
}
VISION_TYPES = tuple(_READERS)


def read_vision_config(
    source: Mapping[str, Any] | str | os.PathLike[str], *, name: str | None = None
) -> VisionConfig | None:
    """The vision part of a Hugging Face `config.json`; None if the model has none that is known here.

    Args:
        source: the parsed JSON, the path of a config.json or the directory of a checkpoint.
        name: what reports call the text model.

    Raises:
        ValueError: a key can't be taken; the line names the file, the key, its value and what is supported.
    """
    if isinstance(source, Mapping):
        return _configuration(source, name)
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        return None
    data = read_json(path)
    try:
        return _configuration(data, name or path.resolve().parent.name)
    except ValueError as error:
        raise ValueError(f"{printable(os.fspath(path))}: {error}") from None


def _configuration(data: Mapping[str, Any], name: str | None) -> VisionConfig | None:
    reader = _READERS.get(str(data.get("model_type")))
    if reader is None or data.get("vision_config") is None:
        return None
    return reader(Keys(data), read_config(data, name=name))


def published_vision_config(text: ModelConfig) -> VisionConfig | None:
    """The vision part of a published model, by its text model; None if it has none."""
    entry = _published().get(text.known_name)
    return None if entry is None else _READERS[entry["config"]["model_type"]](Keys(entry["config"]), text)


@functools.cache
def _published() -> dict[str, Any]:
    """{published name: {source, config}}; each config has the vision keys of the repository's config.json."""
    found: dict[str, Any] = json.loads(
        (resources.files("ttsim.data") / "vision_models.json").read_text(encoding="utf-8")
    )
    return found


def published_names() -> tuple[str, ...]:
    """The models whose vision part ships."""
    return tuple(_published())
