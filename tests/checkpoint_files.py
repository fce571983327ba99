"""Writes the golden models as checkpoint files of every kind."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from ttsim.models.hf.reading import read_config

GOLDEN = Path(__file__).parent / "golden" / "hf"
CASES = sorted(path.stem for path in GOLDEN.glob("*.npz") if path.stem != "rope")


class Golden:
    """A tiny model: its config.json, tensors by Hugging Face's names, tokens [2, 24] and logits [2, 24, V]."""

    def __init__(self, case):
        data = np.load(GOLDEN / f"{case}.npz")
        self.tokens, self.logits = data["input_ids"], data["logits"]
        self.json = str(data["config"])
        self.config = read_config(json.loads(self.json), name=case)
        self.tensors = {key: data[key] for key in data.files if "." in key}


def save_hf(golden, directory, shards=1, dtype=np.float32):
    """A Hugging Face directory, written by the safetensors package."""
    from safetensors.numpy import save_file

    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(golden.json)
    tensors = {name: np.ascontiguousarray(value, dtype) for name, value in golden.tensors.items()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for index in range(shards):
        name = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[index::shards])
        save_file(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def uninterleave(rows, head_dim):
    """From pairs (2i, 2i + 1) of GGUF's llama order to halves, inverted: what llama.cpp's converter does to q and k."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(golden, path, quantisation=None, tokens=None, extra_tensors=(), extra_keys=(), **options):
    """A GGUF file as llama.cpp's converter writes it, by the gguf package."""
    import gguf

    config = golden.config
    arch = {"mistral": "llama"}.get(config.family, config.family)
    writer = gguf.GGUFWriter(path, arch, **options)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(config.head_dim)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_merges([])
    tensors = {}
    if config.rope.kind == "llama3":
        from ttsim.models.rope import inverse_frequencies

        plain = config.rope.theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        tensors["rope_freqs.weight"] = plain / inverse_frequencies(config.rope, config.head_dim, 32)[0]
    if config.rope.kind == "longrope":
        writer.add_rope_scaling_orig_ctx_len(config.rope.original_max_position_embeddings)
        writer.add_rope_scaling_attn_factors(
            np.sqrt(1 + np.log(config.rope.factor) / np.log(config.rope.original_max_position_embeddings))
        )
        tensors["rope_factors_short.weight"] = np.array(config.rope.short_factor)
        tensors["rope_factors_long.weight"] = np.array(config.rope.long_factor)
    if config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    for name, value in golden.tensors.items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            value = uninterleave(value, config.head_dim)
        tensors[_gguf_name(name)] = value
    for key, value in extra_keys:
        (writer.add_array if isinstance(value, list) else writer.add_float32)(f"{arch}.{key}", value)
    tensors |= {name: np.zeros(shape) for name, shape in extra_tensors}
    for name, value in tensors.items():
        value = np.array(value, np.float32, order="C")  # a copy: gguf 0.17 turns bytes in place
        kind = gguf.GGMLQuantizationType.F32
        if quantisation and value.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantisation]
            value = gguf.quants.quantize(value, kind)
        writer.add_tensor(name, value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name):
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, index, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{index}.{_GGUF_NAMES[module]}.{kind}"


def save_meta(golden, directory, shards=1):
    """Meta's params.json and consolidated files, in the format of `torch.save`."""
    config = golden.config
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "head_dim": config.head_dim,
    }
    directory.mkdir(exist_ok=True)
    (directory / "params.json").write_text(json.dumps(params))
    names = {
        "embed_tokens": ("tok_embeddings", 0),
        "lm_head": ("output", 0),
        "norm": ("norm", None),
        "input_layernorm": ("attention_norm", None),
        "post_attention_layernorm": ("ffn_norm", None),
        "self_attn.q_proj": ("attention.wq", 0),
        "self_attn.k_proj": ("attention.wk", 0),
        "self_attn.v_proj": ("attention.wv", 0),
        "self_attn.o_proj": ("attention.wo", 1),
        "mlp.gate_proj": ("feed_forward.w1", 0),
        "mlp.up_proj": ("feed_forward.w3", 0),
        "mlp.down_proj": ("feed_forward.w2", 1),
    }
    for shard in range(shards):
        tensors = {}
        for name, value in golden.tensors.items():
            parts = name.removeprefix("model.").removesuffix(".weight").split(".")
            layer = ".".join(parts[:2]) + "." if parts[0] == "layers" else ""
            theirs, axis = names[".".join(parts[2:] if layer else parts)]
            if "q_proj" in name or "k_proj" in name:
                value = uninterleave(value, config.head_dim)
            if axis is not None:
                value = np.split(value, shards, axis)[shard]
            tensors[f"{layer}{theirs}.weight"] = value
        write_torch_file(directory / f"consolidated.{shard:02d}.pth", tensors)
    return directory


_STORAGES = {
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
}


def write_torch_file(path, tensors):
    """A zip archive as `torch.save` writes it: the pickle is spelled out in opcodes, since torch isn't at hand."""
    import struct
    import zipfile

    def text(value):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    opcodes = b"\x80\x02}("
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, value) in enumerate(tensors.items()):
            value = np.ascontiguousarray(value)
            strides = [s // value.itemsize for s in value.strides]
            opcodes += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
            opcodes += b"(" + text("storage") + f"ctorch\n{_STORAGES[value.dtype]}\n".encode() + text(str(key))
            opcodes += text("cpu") + b"J" + struct.pack("<i", value.size) + b"tQ"
            opcodes += b"K\x00" + integers(value.shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
            archive.writestr(f"model/data/{key}", value.tobytes())
        archive.writestr("model/data.pkl", opcodes + b"u.")
