"""A checkpoint's tensors -> the modules' parameters.

Every tensor of a file is used, or its presence is an error that names it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttsim.models.checkpoints.layer_tensors import cross_attention_layer, decoder_layer
from ttsim.models.checkpoints.source import CheckpointError, MappedTensors, TensorSource, get_norm, get_tensor
from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.parameters import Traits, traits
from ttsim.models.transformer import CrossAttentionLayer, Transformer

# (value in the parameter's global shape, its path in the model: "layers.0.mlp.w1_df") -> its array
Convert = Callable[[np.ndarray, str, Traits], Any]  # (value, path, what is known about it) -> the stored value


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
    fill(model.embedding_vd, get_tensor(source, table, vocab, hidden, first_rows=True), "embedding_vd")
    if model.token_inputs is not None:
        width, columns = layout.layer_inputs.width, layout.layer_inputs.width * layout.layer_inputs.layers
        inputs = {
            "table_vl": get_tensor(source, "embed_tokens_per_layer.weight", vocab, columns),
            "projection_dl": get_tensor(source, "per_layer_model_projection.weight", columns, hidden).T,
            "norm_p": get_norm(source, "per_layer_projection_norm", width),
        }
        for name, array in inputs.items():
            fill(getattr(model.token_inputs, name), array, f"token_inputs.{name}")
    for index, (layer, kind) in enumerate(zip(model.layers, config.layer_kinds, strict=True)):
        prefix = f"layers.{index}."
        if isinstance(layer, CrossAttentionLayer):
            parameters = cross_attention_layer(source, config, prefix)
        else:
            parameters = decoder_layer(source, layout, kind, prefix)
        for name, value in parameters.items():
            module, _, leaf = name.rpartition(".")
            owner = operator.attrgetter(module)(layer) if module else layer
            fill(getattr(owner, leaf), value(), f"layers.{index}.{name}")
    fill(model.norm_d, get_norm(source, "norm", hidden), "norm_d")
    head = table if config.tie_word_embeddings else "lm_head.weight"
    head_vd = get_tensor(source, head, vocab, hidden, first_rows=True)
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
    # Files may hold what a layer that reuses keys and values would have made them with.
    reused = [f"layers.{index}.self_attn" for index, kind in enumerate(config.layer_kinds) if kind.mixer == "reused"]
    makers = [f"{layer}.{name}." for layer in reused for name in ("k_proj", "v_proj", "k_norm", "v_norm")]
    unused = [name for name in unused if not any(maker in name for maker in makers)]
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
