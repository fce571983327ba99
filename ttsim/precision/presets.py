"""Presets: what tt_transformers' `performance` and `accuracy` are for a model, by the date of the software.

Models that run on code of their own have one precision, whatever the preset.
"""

from __future__ import annotations

import datetime
import re

from ttsim.dates import TABLE_DATE, parse_date
from ttsim.errors import unknown
from ttsim.files.reading import shown
from ttsim.precision.text import LAYER_GROUPS, MODEL_GROUPS, OP_GROUPS
from ttsim.precision.values import LayerPrecision, Precision

PRESETS = ("performance", "accuracy", "bf16", "fp32")


def base_model_name(model: str) -> str:
    """Returns the name the published tables use: "meta-llama/Llama-3.2-1B-Instruct" -> "Llama3.2-1B".

    Drops the organisation, everything after the size, and the hyphen that Hugging Face has before Llama's and Phi's
    version (source: `get_base_model_name` in tt-metal models/tt_transformers/tt/model_config.py cuts after the size).
    """
    name = re.sub(r"^(Llama|Phi)-(?=\d)", r"\1", model.strip().rsplit("/", 1)[-1], flags=re.IGNORECASE)
    if sized := re.match(r".*?-\d+(?:\.\d+)?B(?![a-z0-9])", name, re.IGNORECASE):
        return sized.group()
    return re.sub(r"-instruct$", "", name, flags=re.IGNORECASE)


_70B_CLASS = ("llama3.1-70b", "llama3.2-90b", "deepseek-r1-distill-llama-70b", "deepseek-r1-llama-70b", "qwen2.5-72b")
_BFP4_FF1_3 = {"ff1_3": "bfp4", "li_ff1_3": "lofi"}
_BF16_ATTENTION = {
    **dict.fromkeys(("wqkv", "wo", "kv_cache"), "bf16"),
    **{g: "hifi4" for g in OP_GROUPS if "ff" not in g},
}

# Models that run on code of their own have one precision, whatever the preset. Keys: how a model's name begins.
_BFP4_EXPERTS = {"ff1_3": "bfp4", "ff2": "bfp4", "li_ff1_3": "lofi", "li_ff2": "lofi"}
_LOFI_ATTENTION = dict.fromkeys(("li_qkv_decode", "li_o_decode", "li_qkv_prefill", "li_o_prefill"), "lofi")
_OWN_CODE: dict[str, dict[str, str]] = {
    # tt_transformers tt/mixtral_{mlp,moe}.py: experts and gate LoFi, weights in the model's bfp8 in both presets.
    "mixtral-8x7b": {"li_ff1_3": "lofi", "li_ff2": "lofi", "li_router": "lofi"},
    # demos/gpt_oss/tt: bfp4 experts; most matmuls take the op's default, which is LoFi for block floats.
    "gpt-oss": {**_BFP4_EXPERTS, **_LOFI_ATTENTION, "sdpa_decode": "hifi4", "li_router": "hifi2", "bias": "bf16"},
    # demos/deepseek_v3/utils/config_helpers.py: bfp4 LoFi gate and up, bfp8 HiFi2 down and shared expert.
    "deepseek-v3": {"ff1_3": "bfp4", "li_ff1_3": "lofi", "li_ff2": "hifi2", **_LOFI_ATTENTION, "sdpa_decode": "hifi4"},
    # demos/blackhole/qwen3_coder_30b_a3b
    "qwen3-30b-a3b": {**_BFP4_EXPERTS, "kv_cache": "bf16"},
    # demos/gemma4: all bf16, the op's default fidelity.
    **dict.fromkeys(
        ("gemma-4-26b", "gemma-4-e"),
        dict.fromkeys(("ff1_3", "ff2", "wqkv", "wo", "kv_cache", "shared", "lm_head"), "bf16"),
    ),
    # demos/gemma4 precision_overrides.json (0663c4d7): MLP and attention bfp8; LM head and cache stay bf16.
    "gemma-4-31b": {"kv_cache": "bf16", "lm_head": "bf16"},
    "gemma-4-12b": {"kv_cache": "bf16", "lm_head": "bf16"},
    # demos/blackhole/qwen36 tt/{mlp,qwen36_vllm,attention/tp}.py: gate and up bfp4, the MLP LoFi, the rest bfp8 HiFi2,
    # a bf16 cache.
    "qwen3.5": {**_BFP4_FF1_3, "li_ff2": "lofi", "kv_cache": "bf16", "sdpa_prefill": "hifi2"},
    "qwen3.6": {**_BFP4_FF1_3, "li_ff2": "lofi", "kv_cache": "bf16", "sdpa_prefill": "hifi2"},
    # qwen38_27b_qb2 config/precision.json: bfp4 LoFi everywhere, the LM head too.
    "qwen3.8": {**_BFP4_EXPERTS, **_LOFI_ATTENTION, "wqkv": "bfp4", "wo": "bfp4", "lm_head": "bfp4"},
}
_OWN_CODE |= {"deepseek-r1": _OWN_CODE["deepseek-v3"], "kimi-k2": _OWN_CODE["deepseek-v3"]}
_OWN_CODE |= {"qwen3-coder-30b-a3b": _OWN_CODE["qwen3-30b-a3b"]}


def _own_code(model: str) -> dict[str, str] | None:
    """What departs from the default in a model that runs on code of its own; None for tt_transformers' models."""
    if "distill" in model:
        return None
    return next((changes for start, changes in _OWN_CODE.items() if model.startswith(start)), None)


def default_precision(date: datetime.date | str | None = None) -> Precision:
    """Returns tt_transformers' default, before any preset, as the software of `date` had it (None: 2025-05-12).

    Source: history of tt-metal models/tt_transformers/tt/model_config.py: 2025-03-18 (d03ed318d5) moved the MLP from
    hifi2 to hifi2fp16, 2025-05-12 (0354717896) decode attention from hifi2na and WO's prefill from hifi2fp16 to hifi2.
    """
    day = parse_date(date)
    layer = LayerPrecision()
    if day < TABLE_DATE:
        layer = layer.replace(sdpa_decode="hifi2na", li_o_prefill="hifi2fp16")
    if day < datetime.date(2025, 3, 18):
        layer = layer.replace(li_ff1_3="hifi2", li_ff2="hifi2")
    return Precision(layer)


def preset(name: str, model: str, date: datetime.date | str | None = None) -> Precision:
    """Returns a preset for a model, as the software of a date had it.

    `performance` and `accuracy` are tt_transformers'. `bf16` (all tensors bf16, all ops hifi4) and `fp32` (no rounding
    anywhere, for reference runs) are ours, the same for every model and date.

    Args:
      name: one of `PRESETS`.
      model: a model's name, in the tables' or in Hugging Face's spelling ("Llama3.1-8B", "Qwen/Qwen2.5-7B-Instruct").
      date: a date or ISO string; None is the code of the published tables, 2025-05-12.

    Source: `ModelOptimizations` in tt-metal models/tt_transformers/tt/model_config.py and its history; from 2025-05-15
    also model_params/<model>/{performance,accuracy}_decoder_config.json.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    day, model = parse_date(date), base_model_name(model).lower()
    if name == "bf16":
        return _uniform("bf16", "hifi4")
    if name == "fp32":
        return _uniform("fp32", "exact")
    if (own := _own_code(model)) is not None:
        return default_precision(day).replace(**own)

    if model == "qwen2.5-7b" and day >= datetime.date(2025, 6, 3):
        return default_precision(day).replace(**_BF16_ATTENTION, activation="bf16", li_ff1_3="hifi4", li_ff2="hifi4")
    if model == "llama3.2-90b" and day >= datetime.date(2026, 3, 1):
        return default_precision(day).replace(**_BFP4_FF1_3, li_qkv_decode="hifi2nol1acc")

    if name == "accuracy" and model not in _70B_CLASS:
        # Before 2025-05-12 nothing but the 70B class departed from the default.
        insensitive = model.startswith(("llama3", "mistral-7b")) or day < TABLE_DATE
        insensitive |= model.startswith("phi") and day >= datetime.date(2025, 9, 1)  # b4f196c1aa
        return default_precision(day) if insensitive else default_precision(day).replace(**_BF16_ATTENTION)
    if model == "qwen2.5-7b" and day >= TABLE_DATE:
        return default_precision(day).replace(**_BF16_ATTENTION)
    p = default_precision(day).replace(**_BFP4_FF1_3)
    if model == "llama3.1-8b" and day >= datetime.date(2025, 5, 15):
        p = p.replace_layer(31, ff1_3="bfp8", li_ff1_3="hifi2fp16")
    return p


def resolve(precision: Precision | str, model: str, date: datetime.date | str | None = None) -> Precision:
    """Returns a Precision from a Precision, a preset's name, or a `precision_cfg = {...}, fidelity_cfg = {...}` text.

    Keys the text leaves out have the default of `date`'s software.
    """
    if isinstance(precision, Precision):
        return precision
    if not isinstance(precision, str):
        raise ValueError(f"a precision is a preset's name, an option text or a Precision, not {shown(precision)}")
    if "=" in precision:
        return Precision.parse(precision, default_precision(date))
    return preset(precision.strip().lower(), model, date)


def _uniform(fmt: str, setting: str) -> Precision:
    layer = LayerPrecision(**{g: setting if g.startswith(("li_", "sdpa_")) else fmt for g in LAYER_GROUPS})
    model = (f for f in MODEL_GROUPS if f != "argmax_ties")
    return Precision(layer).replace(**{f: setting if f.startswith("li_") else fmt for f in model})
