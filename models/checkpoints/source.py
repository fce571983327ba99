"""A checkpoint's tensors -> the modules' parameters.

The modules keep wqkv fused by KV head and rotate pairs (2i, 2i + 1), Meta's order, as the device does. Most Hugging
Face checkpoints keep q, k and v apart and rotate halves (i, i + head_dim / 2): q's and k's rows, their biases and
their norms' weights are permuted here. Every tensor of a file is used, or its presence is an error that names it.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttsim.errors import CheckpointError as CheckpointError
from ttsim.models.checkpoints.expert_tensors import delta_readers, expert_readers, latent_readers
from ttsim.models.config import ModelConfig
from ttsim.models.features import LayerKind
from ttsim.models.hf import FAMILIES
from ttsim.models.layout import Layout
from ttsim.models.parameters import Traits, traits
from ttsim.models.transformer import CrossAttentionLayer, Transformer

# (value in the parameter's global shape, its path in the model: "layers.0.mlp.w1_df") -> its array
Convert = Callable[[np.ndarray, str, Traits], Any]  # (value, path, what is known about it) -> the stored value


class TensorSource(Protocol):
    """Tensors by the names of Hugging Face's decoders, without prefix: "layers.0.mlp.up_proj.weight".

    Attributes:
      interleaved: whether q's and k's rows rotate pairs (2i, 2i + 1) already.
      plus_one: whether norm weights are stored less 1.
      norms: names of a layer's norms: before attention, after it, before the MLP, after it.
    """

    interleaved: bool
    plus_one: bool
    norms: tuple[str, str, str, str]

    def __contains__(self, name: str) -> bool: ...

    def label(self, name: str) -> str:
        """What the file calls the tensor."""

    def labels(self) -> Iterable[str]:
        """What the file calls each of its tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def read(self, name: str) -> np.ndarray:
        """Its values, in any float dtype."""


class MappedTensors:
    """A mapping of Hugging Face's full names, whatever prefix a wrapper has added, as a `TensorSource`.

    Args:
      tensors: by full name; values have `shape` and are read by `np.asarray`, so they may be lazy.
      family: the `model_type` of the decoder, which says how its checkpoints spell what they hold.

    Raises:
      CheckpointError: there is no embedding table, so this is no decoder's checkpoint.
    """

    _PREFIXES = ("model.", "model.language_model.", "language_model.model.", "")
    _HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")

    def __init__(self, tensors: Mapping[str, Any], family: str = "llama"):
        self._tensors = tensors
        traits = FAMILIES[family]
        self.interleaved, self.plus_one, self.norms = traits.interleaved, traits.plus_one, traits.norms
        prefix = next((p for p in self._PREFIXES if f"{p}embed_tokens.weight" in tensors), None)
        if prefix is None:
            names = ", ".join(list(tensors)[:3])
            raise CheckpointError(
                f"tensor model.embed_tokens.weight is missing (tensors: {names} ...): no decoder's checkpoint"
            )
        self._prefix = prefix

    def label(self, name: str) -> str:
        if name != "lm_head.weight":
            return self._prefix + name
        return next((full for full in self._HEADS if full in self._tensors), self._HEADS[0])

    def labels(self) -> Iterable[str]:
        return self._tensors

    def __contains__(self, name: str) -> bool:
        return self.label(name) in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[self.label(name)].shape)

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self._tensors[self.label(name)])


class _Recorded:
    """A source that remembers which of its tensors were read."""

    def __init__(self, source: TensorSource):
        self._source = source
        self.used: set[str] = set()
        self.interleaved, self.plus_one, self.norms = source.interleaved, source.plus_one, source.norms

    def __contains__(self, name: str) -> bool:
        return name in self._source

    def label(self, name: str) -> str:
        return self._source.label(name)

    def labels(self) -> Iterable[str]:
        return self._source.labels()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str) -> np.ndarray:
        self.used.add(self._source.label(name))
        return self._source.read(name)


# Tensors that text doesn't need: towers of other senses, heads for speculative decoding, tables of frequencies.
_BESIDE_TEXT = re.compile(
    r"(^|\.)(visual|vision_tower|vision_model|vision_embedder|multi_modal_projector|embed_vision|embed_audio|audio_tower"
    r"|audio_projector|mtp)\.|\.rotary_emb\.inv_freq$|^rope_freqs\.weight$|^rope_factors_(short|long)\.weight$"
)


def _get(source: TensorSource, name: str, *shape: int, first_rows: bool = False) -> np.ndarray:
    """The tensor, checked against its shape before it is read; `first_rows` takes those of a taller one."""
    label = source.label(name)
    if name not in source:
        raise CheckpointError(f"tensor {label} is missing (expected shape {list(shape)})")
    found = source.shape(name)
    taller = first_rows and len(found) == len(shape) and found[0] > shape[0] and found[1:] == shape[1:]
    if found != shape and not taller:
        raise CheckpointError(f"tensor {label} has shape {list(found)}, expected {list(shape)}")
    value = source.read(name)
    return value[: shape[0]] if taller else value


def from_hf_tensors(
    layout: Layout, tensors: Mapping[str, Any] | TensorSource, convert: Convert | None = None
) -> Transformer:
    """The model with a checkpoint's values, read tensor by tensor.

    Args:
      layout: the model on its system (padded sizes are filled with zeros).
      tensors: arrays by Hugging Face's full name, or a source of them.
      convert: what to do with each parameter before the next one is read, e.g. quantise and shard it. By default
        float32 on the default device.

    Raises:
      CheckpointError: a tensor is missing or has the wrong shape (the message names it and both shapes), or one is
        used by nothing.
    """
    convert = convert or (lambda value, path, kind: jnp.asarray(value, jnp.float32))
    config = layout.config
    source = _Recorded(MappedTensors(tensors, config.family) if isinstance(tensors, Mapping) else tensors)
    model = Transformer(layout)

    def fill(param: nnx.Param[Any], value: np.ndarray, path: str) -> None:
        shape = param.get_value().shape
        padding = [(0, want - have) for want, have in zip(shape, value.shape, strict=True)]
        value = np.pad(value, padding) if any(p for _, p in padding) else value
        param.set_value(convert(value, path, traits(param)))

    vocab, hidden = config.vocab_size, config.hidden_size
    table = "embed_tokens.weight"
    # Vision models have rows for image tokens, and some repositories pad the table: text uses the first ones.
    fill(model.embedding_vd, _get(source, table, vocab, hidden, first_rows=True), "embedding_vd")
    for index, (layer, kind) in enumerate(zip(model.layers, config.layer_kinds, strict=True)):
        prefix = f"layers.{index}."
        if isinstance(layer, CrossAttentionLayer):
            parameters = _cross_attention_layer(source, config, prefix)
        else:
            parameters = _decoder_layer(source, layout, kind, prefix)
        for name, value in parameters.items():
            module, _, leaf = name.rpartition(".")
            owner = operator.attrgetter(module)(layer) if module else layer
            fill(getattr(owner, leaf), value(), f"layers.{index}.{name}")
    fill(model.norm_d, _norm(source, "norm", hidden), "norm_d")
    head = table if config.tie_word_embeddings else "lm_head.weight"
    head_vd = _get(source, head, vocab, hidden, first_rows=True)
    _check_tied(source, config, head_vd)
    fill(model.lm_head_dv, _shares(head_vd.T, layout), "lm_head_dv")
    _refuse_unused(source, config)
    return model


def _check_tied(source: _Recorded, config: ModelConfig, head_vd: np.ndarray) -> None:
    """A head beside the flag that it is the embedding table must be it."""
    if not config.tie_word_embeddings or "lm_head.weight" not in source:
        return
    label = source.label("lm_head.weight")
    if source.shape("lm_head.weight")[:1] < head_vd.shape[:1] or not np.array_equal(
        source.read("lm_head.weight")[: len(head_vd)], head_vd
    ):
        raise CheckpointError(f"tie_word_embeddings=True, but tensor {label} differs from the embedding table")


def _refuse_unused(source: _Recorded, config: ModelConfig) -> None:
    unused = [name for name in source.labels() if name not in source.used and not _BESIDE_TEXT.search(name)]
    if not unused:
        return
    layers = [int(match[1]) for name in unused if (match := re.search(r"(?:layers|blk)\.(\d+)\.", name))]
    if layers and max(layers) >= config.num_layers:
        raise CheckpointError(
            f"tensor {unused[layers.index(max(layers))]} is of layer {max(layers)}; the configuration has "
            f"{config.num_layers} layers"
        )
    others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    raise CheckpointError(
        f"tensor {unused[0]}{others}: a {config.family} model with this configuration has no such part"
    )


def _shares(head_dv: np.ndarray, layout: Layout) -> np.ndarray:
    """The LM head with each chip's columns padded to what it stores."""
    share, stored = layout.vocab_share
    if stored == share:
        return head_dv
    rows, columns = head_dv.shape
    head_dv = np.pad(head_dv, ((0, 0), (0, layout.ways * share - columns))).reshape(rows, layout.ways, share)
    return np.pad(head_dv, ((0, 0), (0, 0), (0, stored - share))).reshape(rows, -1)


def _norm(source: TensorSource, name: str, *shape: int) -> np.ndarray:
    """A norm's weight, as the device multiplies by it."""
    weight = _get(source, f"{name}.weight", *shape)
    return weight.astype(np.float32) + 1 if source.plus_one else weight


Parameters = dict[str, Callable[[], np.ndarray]]


def _decoder_layer(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of a decoder layer, by its place in `DecoderLayer`."""
    hidden = layout.config.hidden_size
    parameters: Parameters = {}
    places = ("attention_norm_d", "attention_out_norm_d", "mlp_norm_d", "mlp_out_norm_d")
    for place, name in zip(places, source.norms, strict=True):
        if name:
            parameters[place] = functools.partial(_norm, source, prefix + name, hidden)
    parameters |= {f"attention.{name}": read for name, read in MIXERS[kind.mixer](source, layout, kind, prefix).items()}
    parameters |= {f"mlp.{name}": read for name, read in MLPS[kind.mlp](source, layout, kind, prefix).items()}
    if layout.config.layer_scale:
        parameters["scale"] = lambda: _get(source, f"{prefix}layer_scalar", 1)
    return parameters


def _attention(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of `Attention`."""
    config, head, kv = layout.config, kind.head_dim, kind.num_kv_heads
    hidden, heads, stored = config.hidden_size, config.num_heads, layout.kv_heads(kind)
    rotary = functools.partial(rotary_order, kind=kind, interleaved=source.interleaved)

    def get(name: str, *shape: int) -> np.ndarray:
        return _get(source, f"{prefix}self_attn.{name}", *shape)

    def query(name: str, *inputs: int) -> tuple[np.ndarray, np.ndarray | None]:
        """q's rows and, where they stand beside them, those of the output gate."""
        if not config.output_gate:
            return get(name, heads * head, *inputs), None
        both = get(name, 2 * heads * head, *inputs).reshape(heads, 2, head, *inputs)
        return both[:, 0].reshape(heads * head, *inputs), both[:, 1].reshape(heads * head, *inputs)

    def qkv(what: str, *inputs: int) -> np.ndarray:
        """wqkv or its bias, [KV heads, query heads of each + 2, head_dim, ...inputs]."""
        if f"{prefix}self_attn.qkv_proj.{what}" in source:
            fused = get(f"qkv_proj.{what}", (heads + 2 * kv) * head, *inputs)
            q, k, v = np.split(fused, [heads * head, (heads + kv) * head])
        else:
            q, _ = query(f"q_proj.{what}", *inputs)
            k = get(f"k_proj.{what}", kv * head, *inputs)
            v = k if kind.value_is_key else get(f"v_proj.{what}", kv * head, *inputs)
        k, v = (np.repeat(part.reshape(kv, head, *inputs), stored // kv, axis=0) for part in (rotary(k), v))
        parts = (rotary(q), k, v)
        return np.concatenate([part.reshape(stored, -1, head, *inputs) for part in parts], axis=1)

    def gate() -> np.ndarray:
        rows = query("q_proj.weight", hidden)[1]
        assert rows is not None
        return np.moveaxis(rows.reshape(stored, -1, head, hidden), -1, 0)

    parameters: Parameters = {
        "wqkv_dkgh": lambda: np.moveaxis(qkv("weight", hidden), -1, 0),
        "wo_qd": lambda: get("o_proj.weight", hidden, heads * head).T,
    }
    if config.qkv_bias:
        parameters["bias_kgh"] = lambda: qkv("bias")
    if config.out_bias:
        parameters["bias_d"] = lambda: get("o_proj.bias", hidden)
    if config.output_gate:
        parameters["gate_dkgh"] = gate
    if config.sinks:
        parameters["sinks_kg"] = lambda: get("sinks", heads).reshape(stored, -1)
    norms = prefix + "self_attn."
    if config.qk_norm == "head":
        parameters["q_norm"] = lambda: rotary(_norm(source, f"{norms}q_norm", head))
        parameters["k_norm"] = lambda: rotary(_norm(source, f"{norms}k_norm", head))
    elif config.qk_norm == "width":
        parameters["q_norm"] = lambda: rotary(_norm(source, f"{norms}q_norm", heads * head)).reshape(stored, -1, head)
        parameters["k_norm"] = lambda: rotary(_norm(source, f"{norms}k_norm", kv * head)).reshape(stored, head)
    return parameters


def _dense(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of `MLP`."""
    del kind
    config = layout.config
    hidden, inner = config.hidden_size, config.intermediate_size

    def get(name: str, *shape: int) -> np.ndarray:
        return _get(source, f"{prefix}mlp.{name}", *shape)

    def gate_or_up(index: int, what: str, *inputs: int) -> np.ndarray:
        if f"{prefix}mlp.gate_up_proj.{what}" in source:
            return np.split(get(f"gate_up_proj.{what}", 2 * inner, *inputs), 2)[index]
        return get(f"{('gate', 'up')[index]}_proj.{what}", inner, *inputs)

    first = 0 if config.gated_mlp else 1  # an MLP without a gate has up and down only
    parameters: Parameters = {
        "w1_df": lambda: gate_or_up(first, "weight", hidden).T,
        "w2_fd": lambda: get("down_proj.weight", hidden, inner).T,
    }
    if config.mlp_bias:
        parameters["bias1_f"] = lambda: gate_or_up(first, "bias")
        parameters["bias2_d"] = lambda: get("down_proj.bias", hidden)
    if config.gated_mlp:
        parameters["w3_df"] = lambda: gate_or_up(1, "weight", hidden).T
        if config.mlp_bias:
            parameters["bias3_f"] = lambda: gate_or_up(1, "bias")
    return parameters


def _experts(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return expert_readers(layout.config, _below(source, prefix), lambda name: prefix + name in source)


def _latent(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return latent_readers(layout.config, _below(source, prefix))


def _delta(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return delta_readers(layout.config, _below(source, prefix))


def _below(source: TensorSource, prefix: str) -> Callable[..., np.ndarray]:
    """Reads a tensor of a layer: (name, *shape)."""
    return lambda name, *shape: _get(source, prefix + name, *shape)


# How the parameters of a layer's parts are read, by `LayerKind.mixer` and `LayerKind.mlp`.
Reader = Callable[[TensorSource, Layout, LayerKind, str], Parameters]
MIXERS: dict[str, Reader] = {"attention": _attention, "latent": _latent, "delta": _delta}
MLPS: dict[str, Reader] = {"dense": _dense, "experts": _experts}


def _cross_attention_layer(
    source: TensorSource, config: ModelConfig, prefix: str
) -> dict[str, Callable[[], np.ndarray]]:
    """How to read each parameter of a cross-attention layer, by its place in `CrossAttentionLayer`."""
    hidden, inner, head, kv = config.hidden_size, config.intermediate_size, config.head_dim, config.num_kv_heads

    def get(name: str, *shape: int) -> np.ndarray:
        return _get(source, prefix + name, *shape)

    def wkv() -> np.ndarray:
        k, v = (get(f"cross_attn.{n}_proj.weight", kv * head, hidden).reshape(kv, 1, head, hidden) for n in "kv")
        return np.moveaxis(np.concatenate([k, v], axis=1), -1, 0)

    return {
        "attention_norm_d": lambda: get("input_layernorm.weight", hidden),
        "wq_dq": lambda: get("cross_attn.q_proj.weight", config.q_size, hidden).T,
        "wkv_dkh": wkv,
        "wo_qd": lambda: get("cross_attn.o_proj.weight", hidden, config.q_size).T,
        "q_norm_h": lambda: get("cross_attn.q_norm.weight", head),
        "k_norm_h": lambda: get("cross_attn.k_norm.weight", head),
        "attention_gate": lambda: get("cross_attn_attn_gate", 1),
        "mlp_norm_d": lambda: get("post_attention_layernorm.weight", hidden),
        "mlp.w1_df": lambda: get("mlp.gate_proj.weight", inner, hidden).T,
        "mlp.w3_df": lambda: get("mlp.up_proj.weight", inner, hidden).T,
        "mlp.w2_fd": lambda: get("mlp.down_proj.weight", hidden, inner).T,
        "mlp_gate": lambda: get("cross_attn_mlp_gate", 1),
    }


def rotary_order(rows: np.ndarray, *, kind: LayerKind, interleaved: bool) -> np.ndarray:
    """Rows of heads, or of one head, in the order in which the device rotates them: pairs (2i, 2i + 1) first."""
    if interleaved or kind.rope is None:
        return rows
    columns = kind.head_dim if kind.rope.kind == "proportional" else kind.rope.columns(kind.head_dim)
    if columns == kind.head_dim:
        return interleave(rows, columns)
    heads = rows.reshape(-1, kind.head_dim, *rows.shape[1:])
    turning = interleave(heads[:, :columns].reshape(-1, *rows.shape[1:]), columns)
    turning = turning.reshape(-1, columns, *rows.shape[1:])
    return np.concatenate([turning, heads[:, columns:]], axis=1).reshape(rows.shape)


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads from the half-split order (i, i + head_dim / 2) to pairs (2i, 2i + 1). [heads * head_dim, ...]."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
