"""Precision as a value: which format each tensor group has and which compute setting each op group uses.

The words are tt_transformers' own: six tensor groups, eight op groups, named compute settings, the text
`precision_cfg = {...}, fidelity_cfg = {...}` and the decoder JSON; its presets are in `ttsim.precision.presets`.
What a format or a setting *does* to numbers is not defined here: this module only names things, and stays pure Python.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.errors import unknown
from ttsim.files.reading import shown
from ttsim.precision.text import (
    EXPERT_GROUPS,
    LAYER_GROUPS,
    MODEL_GROUPS,
    OP_GROUPS,
    TENSOR_GROUPS,
    check_value,
    decoders_from_json,
    decoders_to_json,
    format_parts,
    parse_parts,
)


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
