"""The features that a model is made of: rotary embeddings, kinds of layers, and parts that only some models have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ttsim.files.reading import shown

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")

Block = Literal["pre", "post", "sandwich", "parallel"]
Activation = Literal["silu", "gelu_tanh", "gelu", "relu", "relu_squared"]
Mixer = Literal["attention", "reused", "latent", "delta"]
MlpKind = Literal["dense", "experts"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: the base of the frequencies and how they are stretched for a longer context.

    Attributes:
        theta: base of the frequencies `theta ** (-2i / rotary_dim)`.
        kind: one of `ROPE_KINDS`; the other attributes are used by the kinds named with them.
        factor: context extension (linear, dynamic, llama3, yarn, longrope).
        low_freq_factor, high_freq_factor: the band that llama3 interpolates, in turns over the original context.
        original_max_position_embeddings: tokens of context before the extension (dynamic, llama3, yarn, longrope).
        short_factor, long_factor: divisors of the rotary_dim/2 frequencies, up to and beyond the original context
            (longrope).
        attention_factor: multiplies cos and sin (yarn, longrope); None derives it from `factor`.
        beta_fast, beta_slow: turns over the original context between which yarn interpolates.
        mscale, mscale_all_dim: weights of yarn's derived attention factor; both or neither count.
        truncate: whether yarn rounds its interpolated band outwards to whole frequencies.
        rotary_dim: columns of a head that rotate; None for all. The rest pass unchanged.
        query_growth: queries at position p are multiplied by 1 + query_growth * ln(1 + floor(p / original)), after
            the rotation (Ministral 3).

    A "proportional" embedding rotates `rotary_dim` columns with the frequencies of the whole head,
    `theta ** (-2i / head_dim)`; every other kind with those of the rotated columns.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    rotary_dim: int | None = None
    query_growth: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise unsupported("rope_type", self.kind, ROPE_KINDS)
        stretched = self.kind in ("dynamic", "llama3", "yarn", "longrope") or self.query_growth
        if stretched and not self.original_max_position_embeddings:
            raise ValueError(f"rope_type={shown(self.kind)} needs original_max_position_embeddings")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_type='llama3' needs high_freq_factor > low_freq_factor, "
                f"got {self.high_freq_factor} and {self.low_freq_factor}"
            )
        if self.rotary_dim is not None and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise ValueError(f"rotary_dim={self.rotary_dim} is no positive even number: RoPE rotates pairs")

    def columns(self, head_dim: int) -> int:
        """Columns of a head of this size that rotate."""
        return head_dim if self.rotary_dim is None else self.rotary_dim


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What one decoder layer is made of. A model has few kinds, so that its layers share few traces.

    Attributes:
        mixer: how tokens see each other; a key of `ttsim.models.decoder.MIXERS`. "reused" is attention to the keys and
            values of the nearest layer before it that is alike but makes its own.
        mlp: what follows it; a key of `ttsim.models.decoder.MLPS`.
        head_dim, num_kv_heads: of this layer's attention.
        rope: its rotary embedding, or None for a layer without one.
        window: newest tokens that are attended to, the token itself included; None for all.
        chunk: tokens attend within blocks of so many positions; None for no blocks.
        value_is_key: V is made by K's projection (before its norm and rotation).
        intermediate_size: width of this layer's MLP, where it is not the model's.
    """

    mixer: Mixer = "attention"
    mlp: MlpKind = "dense"
    head_dim: int
    num_kv_heads: int
    rope: RopeConfig | None
    window: int | None = None
    chunk: int | None = None
    value_is_key: bool = False
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        for field in ("head_dim", "num_kv_heads"):
            positive(field, getattr(self, field))
        for field in ("window", "chunk", "intermediate_size"):
            if getattr(self, field) is not None:
                positive("sliding_window" if field == "window" else field, getattr(self, field))
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: RoPE rotates pairs")
        if self.rope is None:
            return
        columns = self.rope.columns(self.head_dim)
        if columns > self.head_dim:
            raise ValueError(f"rotary_dim={columns} is more than head_dim={self.head_dim}")
        if self.rope.kind == "longrope":
            for field in ("short_factor", "long_factor"):
                count = len(getattr(self.rope, field))
                if count != columns // 2:
                    of = "head_dim" if columns == self.head_dim else "rotary_dim"
                    raise ValueError(f"rope {field} has {count} values; {of}={columns} needs half as many")


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Routed experts of the layers whose `mlp` is "experts".

    Attributes:
        count, active: experts of a layer, and how many of them each token runs through.
        intermediate_size: width of one expert.
        shared_intermediate_size: width of the expert that every token runs through beside them; 0 for none.
        scoring: what makes weights of the router's logits: "softmax" of all, "softmax_chosen" of the chosen ones,
            "sigmoid" of each.
        renormalise: whether the chosen weights are divided by their sum.
        scale: on the weights.
        groups, active_groups: the experts are cut into groups, of which the best are eligible; 1 and 1 for no groups.
        selection_bias: whether a learned bias is added to the scores for the choice only.
        bias: whether the router and the experts have biases.
        clamp: limit of gate and up in gpt-oss's gate (up + 1) * gate * sigmoid(1.702 gate); None for `activation`.
        shared_gate: whether the shared expert's output is multiplied by a learned sigmoid gate (Qwen3.5).
        beside_dense: whether a dense MLP runs beside the experts, each between norms of its own, and the router reads
            the residual stream (Gemma-4).
    """

    count: int
    active: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    scoring: Literal["softmax", "softmax_chosen", "sigmoid"] = "softmax"
    renormalise: bool = True
    scale: float = 1.0
    groups: int = 1
    active_groups: int = 1
    selection_bias: bool = False
    bias: bool = False
    clamp: float | None = None
    shared_gate: bool = False
    beside_dense: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.count:
            raise ValueError(f"{self.active} experts a token: a layer has {self.count}")
        if self.count % self.groups or not 1 <= self.active_groups <= self.groups:
            raise ValueError(f"{self.active_groups} of {self.groups} groups of {self.count} experts: not possible")

    def parameter_count(self, hidden_size: int) -> int:
        """Parameters of one layer's router, routed experts and shared expert."""
        biases = self.count + self.count * (2 * self.intermediate_size + hidden_size) if self.bias else 0
        router = self.count * hidden_size + (self.count if self.selection_bias else 0)
        router += hidden_size + self.count if self.beside_dense else 0
        width = self.count * self.intermediate_size + self.shared_intermediate_size
        return router + biases + 3 * hidden_size * width + (hidden_size if self.shared_gate else 0)


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Latent attention (DeepSeek) of the layers whose `mixer` is "latent".

    Attributes:
        query_rank: width of the query's bottleneck; None for none.
        kv_rank: width of the latent from which keys and values are made; it is what the cache holds.
        nope_dim, rope_dim, value_dim: columns of a head without rotation, with it, and of its values.
    """

    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    def parameter_count(self, hidden_size: int, heads: int) -> int:
        """Parameters of one layer's attention, its two inner norms included."""
        head = heads * (self.nope_dim + self.rope_dim)
        rank = self.query_rank
        queries = hidden_size * head if rank is None else hidden_size * rank + rank + rank * head
        latents = hidden_size * (self.kv_rank + self.rope_dim) + self.kv_rank
        values = heads * self.value_dim
        return queries + latents + self.kv_rank * (heads * self.nope_dim + values) + values * hidden_size


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """Gated delta net (Qwen3.5) of the layers whose `mixer` is "delta".

    Attributes:
        key_heads, value_heads: heads of the recurrent state; value_heads is a multiple of key_heads.
        key_dim, value_dim: sizes of a head's key and value.
        conv_width: taps of the causal convolution over q, k and v.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4

    def parameter_count(self, hidden_size: int) -> int:
        """Parameters of one layer's delta net: projections, convolution, decays, norm."""
        values = self.value_heads * self.value_dim
        channels = 2 * self.key_heads * self.key_dim + values
        inputs = hidden_size * (channels + values + 2 * self.value_heads)
        return inputs + channels * self.conv_width + 2 * self.value_heads + self.value_dim + values * hidden_size


@dataclass(frozen=True, kw_only=True)
class LayerInputs:
    """What each layer is given of the tokens beside the residual stream (Gemma-4 E2B and E4B).

    Attributes:
        width: columns of one layer's input. layers: layers that the tables have columns for.
    """

    width: int
    layers: int

    def parameter_count(self, hidden_size: int, vocab_size: int) -> int:
        """Parameters of the tables of all layers: embeddings, projection and norm."""
        return self.width * (self.layers * (vocab_size + hidden_size) + 1)


def positive(field: str, value: object) -> int:
    """The value, if it is a positive integer; an error that names the field otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{field}={shown(value)} is not a positive integer")
    return value


def unsupported(field: str, value: object, supported: Iterable[object]) -> ValueError:
    """The error for a value that no feature expresses."""
    return ValueError(f"{field}={shown(value)} is not supported; supported: {', '.join(map(str, supported))}")
