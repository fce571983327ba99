"""What a decoder-only language model is made of: its sizes, its features and its parameter counts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ttsim.files.reading import shown
from ttsim.models.features import (
    ROPE_KINDS,
    Activation,
    Block,
    DeltaConfig,
    ExpertsConfig,
    LatentConfig,
    LayerInputs,
    LayerKind,
    RopeConfig,
    positive,
)

__all__ = ["ROPE_KINDS", "LayerKind", "ModelConfig", "RopeConfig"]

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


# Far beyond any model. Larger ones would be traced for minutes, and their sizes don't fit the counters of XLA.
_MOST: Mapping[str, int] = MappingProxyType(
    {
        "num_layers": 1024,
        "num_heads": 2**12,
        "num_kv_heads": 2**12,
        "head_dim": 2**12,
        "hidden_size": 2**18,
        "intermediate_size": 2**20,
        "vocab_size": 2**22,
        "max_position_embeddings": 2**30,
    }
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer as a set of features; nothing that runs asks for its family's name.

    `ttsim.models.hf.reading.read_config` makes one of a config.json.

    Attributes:
        name: what reports call the model.
        family: Hugging Face `model_type` that it was read from; a label.
        num_layers: decoder layers, the cross-attention layers included.
        head_dim, num_kv_heads, rope, sliding_window: of every layer, where `layers` is empty.
        layers: one kind a layer, where they differ.
        block: where norms stand. "pre": x + f(norm(x)); "post": x + norm(f(x)); "sandwich": x + norm(f(norm(x)));
            "parallel": x + attention(n) + mlp(n) with one n = norm(x).
        norm: "rms", or "layer" (mean subtracted, no bias).
        qk_norm: RMSNorm of queries and keys before the rotation: of each "head", or of the whole "width".
        value_norm: V is normalised a head, without a weight.
        qkv_bias, out_bias, mlp_bias: biases of the query, key and value, the output and the MLP's projections.
        activation: of the MLP. gated_mlp: w2(act(x w1) * (x w3)), otherwise w2(act(x w1)).
        output_gate: attention's output is multiplied by the sigmoid of another projection.
        sinks: a learned logit a head takes part in attention's softmax and is dropped.
        embedding_scale, residual_scale, logit_scale: factors on embeddings, on what is added to the residual stream,
            and on logits. layer_scale: each layer's output is multiplied by a learned scalar.
        query_scale: factor on attention's scores; None for head_dim ** -0.5.
        attention_softcap, logit_softcap: scores, or logits, become cap * tanh(x / cap).
        replicate_kv: with fewer KV heads than chips each chip holds the head of its queries.
        cache_groups: a server keeps the cache of layers with a window apart, and no more of it than the window.
        experts, latent, delta: of the layers that have them. layer_inputs: of all layers.
        cross_attention_layers: indices of the layers that attend to an image; a prompt without one skips them.
        eos_token_ids: any of these ends a generation.
        known_as, known_by: the known model that this is, where `name` doesn't say, and the rule that found it
            (`ttsim.models.identity`).
    """

    name: str
    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig | None
    layers: tuple[LayerKind, ...] = ()
    block: Block = "pre"
    norm: Literal["rms", "layer"] = "rms"
    qk_norm: Literal["head", "width"] | None = None
    value_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = "silu"
    gated_mlp: bool = True
    output_gate: bool = False
    sinks: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    layer_scale: bool = False
    query_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    replicate_kv: bool = False
    cache_groups: bool = False
    experts: ExpertsConfig | None = None
    latent: LatentConfig | None = None
    delta: DeltaConfig | None = None
    layer_inputs: LayerInputs | None = None
    tie_word_embeddings: bool = False
    cross_attention_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    known_as: str = ""
    known_by: str = ""

    def __post_init__(self) -> None:
        for field in _SIZES:
            positive(field, getattr(self, field))
        for field, most in _MOST.items():
            if (size := getattr(self, field)) > most:
                raise ValueError(f"{self.name}: {field} is {shown(size)}; at most {most:,} is simulated")
        if self.layers and len(self.layers) != self.num_layers:
            raise ValueError(f"{len(self.layers)} kinds of layers are given for {self.num_layers} layers")
        for kind in dict.fromkeys(self.layer_kinds):
            if self.num_heads % kind.num_kv_heads:
                raise ValueError(f"num_heads={self.num_heads} is not a multiple of num_kv_heads={kind.num_kv_heads}")
        _ = self.cache_slots
        outside = [i for i in self.cross_attention_layers if not 0 <= i < self.num_layers]
        if outside:
            raise ValueError(f"cross_attention_layers {outside} are not among the {self.num_layers} layers")

    @property
    def known_name(self) -> str:
        """The name by which presets, paddings and chunk sizes are looked up."""
        return self.known_as or self.name

    @functools.cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer."""
        if self.layers:
            return self.layers
        kind = LayerKind(
            head_dim=self.head_dim, num_kv_heads=self.num_kv_heads, rope=self.rope, window=self.sliding_window
        )
        return (kind,) * self.num_layers

    @property
    def self_attention_layers(self) -> tuple[int, ...]:
        """Indices of the layers that a text-only prompt runs through."""
        return tuple(i for i in range(self.num_layers) if i not in self.cross_attention_layers)

    @property
    def text_kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of the layers that a text-only prompt runs through."""
        return tuple(self.layer_kinds[i] for i in self.self_attention_layers)

    @functools.cached_property
    def cache_slots(self) -> tuple[int, ...]:
        """Of each layer that text runs through, the one among them whose keys and values it reads: mostly itself."""
        makers: dict[LayerKind, int] = {}
        slots = []
        for slot, kind in enumerate(self.text_kinds):
            reused = kind.mixer == "reused"
            alike = dataclasses.replace(kind, mixer="attention" if reused else kind.mixer, intermediate_size=None)
            if not reused:
                makers[alike] = slot
            elif alike not in makers:
                raise ValueError(f"{self.name}: layer {slot} reuses keys and values, and no layer before it is alike")
            slots.append(makers[alike])
        return tuple(slots)

    @functools.cached_property
    def ropes(self) -> tuple[tuple[RopeConfig, int], ...]:
        """The rotary embeddings of the text's layers, each with the size of the heads that it rotates."""
        return tuple(dict.fromkeys((kind.rope, kind.head_dim) for kind in self.text_kinds if kind.rope is not None))

    @property
    def q_size(self) -> int:
        """Width of the query projection: num_heads * head_dim."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection: num_kv_heads * head_dim."""
        return self.num_kv_heads * self.head_dim

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def layer_parameter_count(self) -> int:
        """Parameters of one self-attention layer of the model-wide sizes: projections, biases, MLP and norms."""
        return self._layer_count(self.text_kinds[0])

    def _layer_count(self, kind: LayerKind) -> int:
        return self._mixer_count(kind) + self._mlp_count(kind) + self._norm_count

    def _mixer_count(self, kind: LayerKind) -> int:
        if kind.mixer == "latent":
            assert self.latent is not None
            return self.latent.parameter_count(self.hidden_size, self.num_heads)
        if kind.mixer == "delta":
            assert self.delta is not None
            return self.delta.parameter_count(self.hidden_size)
        return self._attention_count(kind)

    def _attention_count(self, kind: LayerKind) -> int:
        head_dim, reused = kind.head_dim, kind.mixer == "reused"
        q, kv = self.num_heads * head_dim, 0 if reused else kind.num_kv_heads * head_dim
        values = 0 if kind.value_is_key else kv
        count = self.hidden_size * (2 * q + kv + values) + (self.hidden_size * q if self.output_gate else 0)
        count += (q + kv + values if self.qkv_bias else 0) + (self.hidden_size if self.out_bias else 0)
        count += {None: 0, "head": head_dim * (1 if reused else 2), "width": q + kv}[self.qk_norm]
        return count + (self.num_heads if self.sinks else 0)

    def _mlp_count(self, kind: LayerKind) -> int:
        matrices = 3 if self.gated_mlp else 2
        inner = kind.intermediate_size or self.intermediate_size
        bias = (matrices - 1) * inner + self.hidden_size if self.mlp_bias else 0
        dense = matrices * self.hidden_size * inner + bias
        if kind.mlp == "dense":
            return dense
        assert self.experts is not None
        beside = dense + 3 * self.hidden_size if self.experts.beside_dense else 0
        return beside + self.experts.parameter_count(self.hidden_size)

    @property
    def _norm_count(self) -> int:
        norms = {"pre": 2, "post": 2, "sandwich": 4, "parallel": 1}[self.block]
        inputs = self.hidden_size * (2 * self.layer_inputs.width + 1) if self.layer_inputs else 0
        return norms * self.hidden_size + (1 if self.layer_scale else 0) + inputs

    @property
    def parameter_count(self) -> int:
        """Parameters that text runs through: embedding, self-attention layers, last norm and LM head.

        A tied LM head counts once. Vision models keep 8 more embedding rows, for special image tokens, in their
        checkpoints; text doesn't use them and they aren't counted, nor are `cross_attention_parameter_count`.
        """
        tables = 1 if self.tie_word_embeddings else 2
        layers = sum(self._layer_count(kind) for kind in self.text_kinds)
        inputs = self.layer_inputs.parameter_count(self.hidden_size, self.vocab_size) if self.layer_inputs else 0
        return tables * self.vocab_size * self.hidden_size + layers + self.hidden_size + inputs

    @property
    def cross_attention_parameter_count(self) -> int:
        """Parameters of all cross-attention layers: each has a query norm, a key norm and two gates more."""
        return len(self.cross_attention_layers) * (self.layer_parameter_count + 2 * self.head_dim + 2)
