"""How precision is spelled: the names of groups, formats and settings, the option text and the decoder JSON.

Reads and writes plain dicts of group -> value; `ttsim.precision.values` makes values of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ttsim.errors import unknown
from ttsim.files.reading import InputError, expect, parse_json, printable, read_json, shown

TENSOR_GROUPS = ("ff1_3", "ff2", "wqkv", "wo", "kv_cache", "activation")
OP_GROUPS = (
    "li_ff1_3",
    "li_ff2",
    "li_qkv_decode",
    "li_o_decode",
    "sdpa_decode",
    "li_qkv_prefill",
    "li_o_prefill",
    "sdpa_prefill",
)
# Parts of a decoder layer that tt_transformers' words do not cover; the names are ours. Routed experts are ff1_3 and
# ff2, latent attention and delta nets wqkv and wo; `shared` is the MLP that runs beside routed experts.
EXPERT_GROUPS = ("router", "shared", "li_router", "li_shared")
LAYER_GROUPS = TENSOR_GROUPS + OP_GROUPS + EXPERT_GROUPS
# Outside the decoder layers. tt_transformers has one fixed value for each and no name; the names are ours.
MODEL_GROUPS = ("lm_head", "logits", "embedding", "norm", "bias", "li_lm_head", "argmax_ties")

FORMATS = ("bfp4", "bfp8", "bf16", "bfp2", "fp32")  # bfp2 and fp32 (no rounding) are ours; tt_transformers has the rest
SETTINGS = ("lofi", "hifi2", "hifi2na", "hifi2fp16", "hifi2nol1acc", "hifi4", "hifi4fp32", "exact")  # "exact" is ours

ARGMAX_TIES = ("first", "last")  # which of equal logits is chosen

_TEXT_PARTS: dict[str, tuple[str, ...]] = {
    "precision_cfg": TENSOR_GROUPS,
    "fidelity_cfg": OP_GROUPS,
    "experts_cfg": EXPERT_GROUPS,
    "model_cfg": MODEL_GROUPS,
}

# The decoder JSON holds enum names. Source: tt-metal models/tt_transformers/tt/model_config.py, `TensorGroup`,
# `PrecisionSetting`, `OpGroup`, `MathFidelitySetting`.
_JSON_FORMATS = {"bfp4": "BFP4", "bfp8": "BFP8", "bf16": "BF16"}
_JSON_SETTINGS = {
    "lofi": "LOFI",
    "hifi2": "HIFI2",
    "hifi2na": "HIFI2_NA",
    "hifi2fp16": "HIFI2_FP16",
    "hifi2nol1acc": "HIFI2_NOL1ACC",
    "hifi4": "HIFI4",
    "hifi4fp32": "HIFI4_FP32",
}
_JSON_PARTS = {
    "precision_cfg": ({g: g.upper().replace("FF1_3", "FF1_FF3") for g in TENSOR_GROUPS}, _JSON_FORMATS),
    "fidelity_cfg": ({g: g.upper().replace("FF1_3", "FF1_FF3") for g in OP_GROUPS}, _JSON_SETTINGS),
}
# An op group that later files have beside the eight; no op of the programs here takes its setting.
_JSON_IGNORED = frozenset({("fidelity_cfg", "ACCURACY")})


def check_value(group: str, value: str) -> None:
    """Raises ValueError unless `value` is a format or a setting that `group` can have."""
    if group == "argmax_ties":
        if value not in ARGMAX_TIES:
            raise unknown("rule for argmax_ties:", value, ARGMAX_TIES)
        return
    is_setting = group.startswith(("li_", "sdpa_"))
    valid: tuple[str, ...] = SETTINGS if is_setting else FORMATS
    if group == "activation":
        valid = (*FORMATS, "mixed")
    if value not in valid:
        raise unknown(f"{'setting' if is_setting else 'format'} for {group}:", value, valid)


def format_parts(parts: Mapping[str, Mapping[str, str]]) -> str:
    """Returns `name = {group: value, ...}, name = {...}`."""
    texts = (f"{name} = {{{', '.join(f'{g}: {v}' for g, v in part.items())}}}" for name, part in parts.items())
    return ", ".join(texts)


def parse_parts(text: str) -> list[tuple[str, dict[str, str]]]:
    """Reads what `format_parts` writes, in any case and order.

    Returns:
      (part, {group: value}) with the `decoder_<index>` parts last: they hold differences from the others.
    """
    part = r"\s*(\w+)\s*=\s*\{([^{}]*)\}\s*"
    if not re.fullmatch(rf"{part}(?:,{part})*", text):
        raise ValueError(
            f"not 'precision_cfg = {{group: format, ...}}, fidelity_cfg = {{group: setting, ...}}': {shown(text)}"
        )
    parts: dict[str, dict[str, str]] = {}
    for name, body in re.findall(part, text.lower()):
        is_decoder = re.fullmatch(r"decoder_\d+", name)
        if not is_decoder and name not in _TEXT_PARTS:
            raise unknown("part", name, (*_TEXT_PARTS, "decoder_0"))
        if name in parts:
            raise ValueError(f"{name} is given twice")
        parts[name] = _parse_pairs(name, body, LAYER_GROUPS if is_decoder else _TEXT_PARTS[name])
    return sorted(parts.items(), key=lambda named: named[0].startswith("decoder_"))


def decoders_from_json(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[int, dict[str, str]]:
    """Reads tt_transformers' decoder JSON, given as text, path or decoded dict, into {layer: {group: value}}."""
    origin = "decoder JSON"
    if isinstance(source, Mapping):
        return _decoders(source)
    if (text := os.fspath(source)).lstrip().startswith("{"):
        table = parse_json(text, origin)
    else:
        origin, table = printable(text), read_json(text)
    try:
        return _decoders(table)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None


def _decoders(source: Mapping[str, Any]) -> dict[int, dict[str, str]]:
    layers: dict[int, dict[str, str]] = {}
    for index, decoder in _items(source, "decoders").items():
        if not re.fullmatch(r"[0-9]{1,6}", str(index)):
            raise ValueError(f"decoder {shown(index)} is not an index")
        layers[int(index)] = {}
        for part in expect(decoder, Mapping, f"decoder {index}", "decoders", "an object"):
            if part not in _JSON_PARTS:
                raise unknown(f"key in decoder {index}:", part, _JSON_PARTS)
            groups, values = _JSON_PARTS[part]
            for name, value in _items(decoder, part).items():
                if (part, name) in _JSON_IGNORED:
                    _from_enum(f"value of {name} in decoder {index}:", value, values)
                    continue
                group = _from_enum(f"{part} key in decoder {index}:", name, groups)
                layers[int(index)][group] = _from_enum(f"value of {name} in decoder {index}:", value, values)
    return layers


def decoders_to_json(layers: Mapping[int, Mapping[str, str]]) -> str:
    """Writes {layer: {group: value}} as tt_transformers' decoder JSON.

    `activation: mixed` is tt_transformers' unset value, written by leaving the key out.
    """
    decoders: dict[str, Any] = {
        str(i): {
            part: {enum: _to_enum(g, layer[g], values) for g, enum in groups.items() if layer[g] != "mixed"}
            for part, (groups, values) in _JSON_PARTS.items()
        }
        for i, layer in layers.items()
    }
    return json.dumps({"decoders": decoders}, indent=2) + "\n"


def _parse_pairs(part: str, body: str, valid: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in filter(None, map(str.strip, body.split(","))):
        key, colon, value = map(str.strip, item.partition(":"))
        if not (key and colon and value):
            raise ValueError(f"{shown(item)} in {part} is not 'group: value'")
        if key not in valid:
            raise unknown(f"key in {part}:", key, valid)
        if key in pairs:
            raise ValueError(f"{key} is given twice in {part}")
        pairs[key] = value
    return pairs


def _items(json_object: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(json_object, Mapping) or not isinstance(json_object.get(key), Mapping):
        raise ValueError('a decoder JSON has the form {"decoders": {"0": {"precision_cfg": {}, "fidelity_cfg": {}}}}')
    items: Mapping[str, Any] = json_object[key]
    return items


def _from_enum(kind: str, name: str, enums: Mapping[str, str]) -> str:
    for ours, theirs in enums.items():
        if theirs == name:
            return ours
    raise unknown(kind, name, enums.values())


def _to_enum(group: str, value: str, enums: Mapping[str, str]) -> str:
    if value not in enums:
        raise ValueError(f"tt_transformers has no {value!r}, the value of {group}; valid: {', '.join(enums)}")
    return enums[value]
