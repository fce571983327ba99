"""Precision as a value: which format each tensor group has and which compute setting each op group uses.

The words are tt_transformers' own: six tensor groups, eight op groups, named compute settings, the text
`precision_cfg = {...}, fidelity_cfg = {...}`, the decoder JSON and the `performance` / `accuracy` presets.
What a format or a setting *does* to numbers is not defined here: this module only names things, and stays pure Python.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.dates import TABLE_DATE, parse_date
from ttsim.errors import unknown
from ttsim.files.reading import shown
from ttsim.precision.text import (
    EXPERT_GROUPS,
    FORMATS,
    LAYER_GROUPS,
    MODEL_GROUPS,
    OP_GROUPS,
    SETTINGS,
    TENSOR_GROUPS,
    check_value,
    decoders_from_json,
    decoders_to_json,
    format_parts,
    parse_parts,
)

__all__ = [
    "EXPERT_GROUPS",
    "FORMATS",
    "LAYER_GROUPS",
    "MODEL_GROUPS",
    "OP_GROUPS",
    "PRESETS",
    "SETTINGS",
    "TENSOR_GROUPS",
    "LayerPrecision",
    "Precision",
    "base_model_name",
    "default_precision",
    "preset",
    "resolve",
]

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


@dataclass(frozen=True)
class LayerPrecision:
    """Formats and compute settings of one decoder layer; the defaults are tt_transformers' of 2025-05-12.

    Weights: `ff1_3`, `ff2`, `wqkv`, `wo`. `kv_cache` is the cache's format. `activation` is one format for all
    activations, or `mixed`, where each kind has its own (the properties below). `li_*` and `sdpa_*` are the compute
    settings of the linear layers and of attention.

    Models with routed experts: `router` and `li_router` are the router's; `shared` and `li_shared` those of an MLP that
    all tokens run through beside the experts (shared expert, Gemma-4's dense MLP); the experts' own are ff1_3 and ff2.

    Source: tt-metal models/tt_transformers/tt/model_config.py, `ModelOptimizations._default_settings`.
    """

    ff1_3: str = "bfp8"
    ff2: str = "bfp8"
    wqkv: str = "bfp8"
    wo: str = "bfp8"
    kv_cache: str = "bfp8"
    activation: str = "mixed"
    li_ff1_3: str = "hifi2fp16"
    li_ff2: str = "hifi2fp16"
    li_qkv_decode: str = "hifi2"
    li_o_decode: str = "hifi2"
    sdpa_decode: str = "hifi2"
    li_qkv_prefill: str = "hifi2"
    li_o_prefill: str = "hifi2"
    sdpa_prefill: str = "hifi4"
    router: str = "bf16"
    shared: str = "bfp8"
    li_router: str = "hifi2"
    li_shared: str = "hifi2"

    def __post_init__(self) -> None:
        for group in LAYER_GROUPS:
            check_value(group, getattr(self, group))

    # What the device rounds activations to, op by op. Source: the `dtype=` arguments of tt_transformers' decoder.py,
    # attention.py and mlp.py (2025-05): `activation_dtype or <the mixed value here>`.

    @property
    def residual(self) -> str:
        """Format of the residual stream."""
        return self._activation("bf16")

    @property
    def linear_out(self) -> str:
        """Format of the outputs of QKV, W1, W3, W2 and, in decode, WO."""
        return self._activation("bf16")

    @property
    def mlp_product(self) -> str:
        """Format of silu(x W1) * (x W3), the input of W2."""
        return self._activation("bfp8")

    @property
    def prefill_q(self) -> str:
        """Format Q is cast to before prefill attention, and of that attention's output."""
        return self._activation("bfp8")

    @property
    def prefill_wo_out(self) -> str:
        """Format of the output of WO in prefill."""
        return self._activation("bfp8")

    @property
    def rope_in(self) -> str:
        """Format of Q and K into the rotary embedding: the kernel takes bf16 only, whatever `activation` says."""
        return "fp32" if self.activation == "fp32" else "bf16"

    @property
    def sdpa_decode_out(self) -> str:
        """Format of the output of decode attention: that of its Q, which comes from the rotary embedding."""
        return self.rope_in

    @property
    def galaxy_sum(self) -> str:
        """Format of the partial sums that a Galaxy's collectives carry: `ccl_dtype`, whatever `activation` says."""
        return "fp32" if self.activation == "fp32" else "bfp8"

    def _activation(self, mixed: str) -> str:
        return mixed if self.activation == "mixed" else self.activation

    def replace(self, **changes: str) -> LayerPrecision:
        """Returns a copy with some groups changed; an unknown group raises ValueError."""
        for group in changes:
            if group not in LAYER_GROUPS:
                raise unknown("group", group, LAYER_GROUPS)
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Precision:
    """Formats and compute settings of a whole model. Immutable and hashable, so it can be a static argument of jit.

    `default` holds for every decoder layer that `layers`, pairs of (index, LayerPrecision), does not override. `layers`
    is kept sorted and without entries equal to `default`, so that equal values compare and hash equal.

    Model level: formats of the LM head's weights (`lm_head`) and output (`logits`), of the embedding table, the norm
    weights and the biases. `li_lm_head` is HiFi2, approx False, fp32_dest_acc False, packer_l1_acc True, which is
    hifi2fp16. Source: tt-metal models/tt_transformers/tt/model_config.py, `compute_kernel_config_hifi2_fp16`.
    `argmax_ties` says which of equal logits is chosen, "first" or "last": logits in bfp8 tie often, since 16 neighbours
    share an exponent.
    """

    default: LayerPrecision = LayerPrecision()
    layers: tuple[tuple[int, LayerPrecision], ...] = ()
    lm_head: str = "bfp8"
    logits: str = "bfp8"
    embedding: str = "bf16"
    norm: str = "bf16"
    bias: str = "bfp8"
    li_lm_head: str = "hifi2fp16"
    argmax_ties: str = "first"

    def __post_init__(self) -> None:
        for field in MODEL_GROUPS:
            check_value(field, getattr(self, field))
        if not isinstance(self.default, LayerPrecision):
            raise ValueError(f"default is the LayerPrecision of all layers, not {shown(self.default)}")
        overrides = dict(self.layers)
        if len(overrides) != len(self.layers):
            raise ValueError(f"a decoder layer is overridden twice: {sorted(i for i, _ in self.layers)}")
        for index in overrides:
            if isinstance(index, bool) or not isinstance(index, int) or index < 0:
                raise ValueError(f"decoder layer {index!r} is not an index: use 0, 1, 2, ...")
        sparse = tuple((i, p) for i, p in sorted(overrides.items()) if p != self.default)
        object.__setattr__(self, "layers", sparse)

    def layer(self, index: int) -> LayerPrecision:
        """Returns the precision of decoder layer `index`."""
        return dict(self.layers).get(index, self.default)

    def runs(self, num_layers: int) -> tuple[tuple[int, int, LayerPrecision], ...]:
        """Returns maximal runs (start, stop, precision) of equal consecutive layers: what one scan can cover.

        Raises:
          ValueError: a layer at or past `num_layers` is overridden.
        """
        self.check_depth(num_layers)
        runs: list[tuple[int, int, LayerPrecision]] = []
        for i in range(num_layers):
            precision = self.layer(i)
            if runs and runs[-1][2] == precision:
                runs[-1] = (runs[-1][0], i + 1, precision)
            else:
                runs.append((i, i + 1, precision))
        return tuple(runs)

    def replace(self, **changes: Any) -> Precision:
        """Returns a copy with changes: a tensor or op group changes in *every* layer, any other name is a field.

        `p.replace(ff2="bfp4", lm_head="bf16")`. Groups are applied after `default` and `layers`.
        """
        fields = {f.name for f in dataclasses.fields(self)}
        groups = {k: v for k, v in changes.items() if k in LAYER_GROUPS}
        own = {k: v for k, v in changes.items() if k not in groups}
        for name in own:
            if name not in fields:
                raise unknown("group", name, (*LAYER_GROUPS, *MODEL_GROUPS))
        p = dataclasses.replace(self, **own)
        if not groups:
            return p
        layers = tuple((i, layer.replace(**groups)) for i, layer in p.layers)
        return dataclasses.replace(p, default=p.default.replace(**groups), layers=layers)

    def replace_layer(self, index: int, **changes: str) -> Precision:
        """Returns a copy with some groups of one decoder layer changed."""
        layers = {**dict(self.layers), index: self.layer(index).replace(**changes)}
        return dataclasses.replace(self, layers=tuple(layers.items()))

    # Text

    def to_text(self) -> str:
        """Returns `precision_cfg = {...}, fidelity_cfg = {...}`, letter for letter a published section title.

        Whatever those two parts cannot say follows in parts of our own, `experts_cfg`, `model_cfg = {lm_head: bf16}`
        and `decoder_31 = {ff1_3: bfp8}`, with only what differs; `parse` reads them back.
        """
        parts = {
            "precision_cfg": {g: getattr(self.default, g) for g in TENSOR_GROUPS},
            "fidelity_cfg": {g: getattr(self.default, g) for g in OP_GROUPS},
        }
        plain = Precision()
        ours, usual = self.default, plain.default
        if experts := {g: getattr(ours, g) for g in EXPERT_GROUPS if getattr(ours, g) != getattr(usual, g)}:
            parts["experts_cfg"] = experts
        if model := {f: getattr(self, f) for f in MODEL_GROUPS if getattr(self, f) != getattr(plain, f)}:
            parts["model_cfg"] = model
        for i, layer in self.layers:
            differs = (g for g in LAYER_GROUPS if getattr(layer, g) != getattr(self.default, g))
            parts[f"decoder_{i}"] = {g: getattr(layer, g) for g in differs}
        return format_parts(parts)

    __str__ = to_text

    @classmethod
    def parse(cls, text: str, base: Precision | None = None) -> Precision:
        """Reads `precision_cfg = {...}, fidelity_cfg = {...}`, in any case and order; missing keys keep `base`'s value.

        Args:
          text: what `to_text` writes, or any part of it; tt_transformers' `--optimizations` option.
          base: where missing keys come from; None is tt_transformers' default.

        Raises:
          ValueError: the text has another shape, or names an unknown part, group, format or setting.
        """
        p = base or cls()
        for name, values in parse_parts(text):
            index = name.removeprefix("decoder_")
            p = p.replace(**values) if index == name else p.replace_layer(int(index), **values)
        return p

    # tt_transformers' decoder JSON

    @classmethod
    def from_decoder_json(
        cls, source: str | os.PathLike[str] | Mapping[str, Any], base: Precision | None = None
    ) -> Precision:
        """Reads tt_transformers' decoder JSON: `{"decoders": {"0": {"precision_cfg": {"FF1_FF3": "BFP8"}}}}`.

        Args:
          source: the JSON's text, the path of a file, or the decoded dict.
          base: where decoders and keys that the JSON leaves out come from; None is tt_transformers' default.
        """
        p = base or cls()
        layers = dict(p.layers)
        for i, groups in decoders_from_json(source).items():
            layers[i] = p.layer(i).replace(**groups)
        return dataclasses.replace(p, layers=tuple(layers.items()))

    def to_decoder_json(self, num_layers: int) -> str:
        """Writes every key of every layer as tt_transformers' decoder JSON (`--decoder_config_file`).

        The model-level fields have no place in it. `activation: mixed` is written by leaving ACTIVATION out.

        Raises:
          ValueError: a format or setting is ours alone, or a layer at or past `num_layers` is overridden.
        """
        self.check_depth(num_layers)
        return decoders_to_json({i: dataclasses.asdict(self.layer(i)) for i in range(num_layers)})

    def check_depth(self, num_layers: int) -> None:
        """Raises ValueError if a layer at or past `num_layers` has a precision of its own."""
        if self.layers and self.layers[-1][0] >= num_layers:
            raise ValueError(
                f"decoder layer {self.layers[-1][0]} has its own precision, but there are {num_layers} layers"
            )


# Presets

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
