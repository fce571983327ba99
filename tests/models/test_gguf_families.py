"""GGUF files of every architecture, as llama.cpp's converter writes them, are the checkpoints they came from."""

import dataclasses
import json
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from random_weights import tensor

import ttsim
from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.gguf_architectures import ARCHITECTURES
from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.loading import open_checkpoint
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout

GOLDEN = Path(__file__).parents[1] / "golden"
PERMUTED = ("smollm3", "granite", "arcee")  # the converter turns q's and k's halves into pairs
PLUS_ONE = ("gemma", "gemma2", "gemma3")  # it adds the 1 to the norms

# Golden case -> architecture, and keys of config.json that the files can't say: what llama.cpp's reader takes instead.
CASES = {
    "qwen3": ("qwen3", {}),
    "phi-4-mini": ("phi3", {}),
    "gemma": ("gemma", {}),
    "gemma-2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gemma-3": ("gemma3", {"query_pre_attn_scalar": 16}),
    "olmo-2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 1]}),
    "granite": ("granite", {}),
    "afm": ("arcee", {}),
    "glm-4": ("glm4", {}),
    "cohere": ("command-r", {}),
    "cohere-2": ("cohere2", {}),
    "exaone-4": ("exaone4", {}),
    "exaone-4-full": ("exaone4", {}),
    "seed-oss": ("seed_oss", {"attention_out_bias": False}),
    "qwen3-moe": ("qwen3moe", {"mlp_only_layers": [], "norm_topk_prob": True}),
    "gpt-oss": ("gpt-oss", {"swiglu_limit": 7.0}),
}
LABELS = {  # of Llama's layers
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "o_proj": "attn_output",
    **{f"{x}_proj": f"attn_{x}" for x in ("q", "k", "v", "qkv")},
    **{f"{x}_norm": f"attn_{x}_norm" for x in "qk"},
    **{f"{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    "gate_up_proj": "ffn_up",
    "sinks": "attn_sinks",
    "router": "ffn_gate_inp",
    "gate": "ffn_gate_inp",
}
AFTER = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
NORMS = {
    **{arch: {**AFTER, "pre_feedforward_layernorm": "ffn_norm"} for arch in ("gemma2", "gemma3")},
    **{arch: AFTER for arch in ("olmo2", "exaone4")},
    **{arch: {"post_attention_layernorm": "post_attention_norm"} for arch in ("seed_oss", "gpt-oss")},
    "glm4": {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"},
}


def golden(case):
    """config.json, tensors by Hugging Face's names, tokens and logits."""
    if (file := GOLDEN / "experts" / f"{case}.npz").exists():
        data = np.load(file)
        shapes, config, ids, logits = (data[key] for key in ("shapes", "config", "input_ids", "logits"))
    else:
        data = np.load(GOLDEN / "dense.npz")
        shapes, config, logits = (data[f"{case}.{key}"] for key in ("tensors", "config", "logits"))
        ids = data["input_ids"]
    config = json.loads(str(config))
    config = config.get("text_config", config)
    shapes = json.loads(str(shapes))
    if case == "qwen3-moe":  # its files have experts in every layer
        shapes = {name: shape for name, shape in shapes.items() if "layers.0.mlp" not in name}
        shapes |= {name.replace("layers.1", "layers.0"): shape for name, shape in shapes.items() if ".1.mlp" in name}
    if case == "seed-oss":  # they have no bias there
        shapes = {name: shape for name, shape in shapes.items() if "o_proj.bias" not in name}
    plus_one = CASES[case][0] in PLUS_ONE
    tensors = {name: tensor(name, shape, plus_one=plus_one) for name, shape in shapes.items()}
    return config | CASES[case][1], tensors, ids, logits


def write(case, path, **changes):
    """The file of a golden model; `changes` are keys of it."""
    arch = CASES[case][0]
    data, tensors, *_ = golden(case)
    config = read_config(data, name=case)
    writer = gguf.GGUFWriter(path, arch)
    rope = next(kind.rope for kind in sorted(config.layer_kinds, key=lambda kind: kind.window is not None) if kind.rope)
    rotated = rope.columns(config.head_dim)
    keys = {
        "block_count": config.num_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": rotated,
        "rope.freq_base": float(rope.theta),
        f"attention.layer_norm_{'' if config.norm == 'layer' else 'rms_'}epsilon": config.rms_norm_eps,
    }
    windows = [kind.window for kind in config.layer_kinds]
    if any(windows):
        keys["attention.sliding_window"] = max(filter(None, windows))
        keys["attention.sliding_window_pattern"] = [bool(window) for window in windows]
    if rope.kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope.kind, "rope.scaling.factor": float(rope.factor)}
    if rope.kind in ("yarn", "longrope"):
        keys["rope.scaling.original_context_length"] = rope.original_max_position_embeddings
    if rope.kind == "yarn":
        keys |= {"rope.scaling.yarn_beta_fast": rope.beta_fast, "rope.scaling.yarn_beta_slow": rope.beta_slow}
    if arch == "gemma3":
        keys["rope.freq_base_swa"] = float(config.layer_kinds[0].rope.theta)
    if arch == "granite":
        keys |= {"attention.scale": config.query_scale, "embedding_scale": config.embedding_scale}
        keys |= {"residual_scale": config.residual_scale, "logit_scale": 1 / config.logit_scale}
    if arch in ("command-r", "cohere2"):
        keys["logit_scale"] = config.logit_scale
    caps = {"attn_logit_softcapping": config.attention_softcap, "final_logit_softcapping": config.logit_softcap}
    keys |= {key: value for key, value in caps.items() if value}
    if e := config.experts:
        keys |= {"expert_count": e.count, "expert_used_count": e.active}
        keys["expert_feed_forward_length"] = e.intermediate_size
    parts = {}
    if rope.kind == "longrope":
        keys["rope.scaling.attn_factor"] = float(
            np.sqrt(1 + np.log(rope.factor) / np.log(rope.original_max_position_embeddings))
        )
        parts = {f"rope_factors_{x}.weight": np.array(getattr(rope, f"{x}_factor")) for x in ("short", "long")}
    for key, value in (keys | changes).items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add = writer.add_float32 if isinstance(value, float) else writer.add_string if isinstance(value, str) else add
        add(f"{arch}.{key}", value)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_ids[0])
    for name, value in tensors.items():
        parts |= converted(arch, config, name, value, tensors)
    for name, value in parts.items():
        writer.add_tensor(name, np.array(value, np.float32, order="C"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(arch, config, name, value, tensors):
    """What the converter makes of one tensor."""
    place = name.removeprefix("model.").split(".")
    if place[0] != "layers":
        kind = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[place[0]]
        return {f"{kind}.weight": value + 1 if kind == "output_norm" and arch in PLUS_ONE else value}
    block = f"blk.{place[1]}"
    if "experts" in place:
        return experts(block, place, value, tensors)
    module, kind = (place[-1], "weight") if place[-1] == "sinks" else place[-2:]
    label = {**LABELS, **NORMS.get(arch, {})}[module]
    if arch in PLUS_ONE and "norm" in label:
        value = value + 1
    if arch in PERMUTED and module in ("q_proj", "k_proj"):
        rows = value.reshape(-1, 2, config.head_dim // 2, *value.shape[1:])
        value = rows.swapaxes(1, 2).reshape(value.shape)
    return {f"{block}.{label}.{kind}": value}


def experts(block, place, value, tensors):
    """Experts one by one are stacked; gpt-oss's gate and up columns, which alternate, are taken apart and turned."""
    if place[-1] == "weight":  # layers.i.mlp.experts.e.gate_proj.weight
        prefix, what = "model." + ".".join(place[:4]), place[5]
        count = sum(name.startswith(prefix) and name.endswith(f"{what}.weight") for name in tensors)
        stacked = np.stack([tensors[f"{prefix}.{i}.{what}.weight"] for i in range(count)])
        return {f"{block}.{LABELS[what]}_exps.weight": stacked}
    if place[-1] == "gate_up_proj":
        gate, up = value[..., 0::2].swapaxes(1, 2), value[..., 1::2].swapaxes(1, 2)
        return {f"{block}.ffn_gate_exps.weight": gate, f"{block}.ffn_up_exps.weight": up}
    if place[-1] == "gate_up_proj_bias":
        return {f"{block}.ffn_gate_exps.bias": value[:, 0::2], f"{block}.ffn_up_exps.bias": value[:, 1::2]}
    if place[-1] == "down_proj":
        return {f"{block}.ffn_down_exps.weight": value.swapaxes(1, 2)}
    return {f"{block}.ffn_down_exps.bias": value}


def plain(value):
    """A configuration's values as 32-bit floats, without what a file doesn't carry and nothing reads."""
    if dataclasses.is_dataclass(value):
        skipped = ("name", "family", "mscale", "attention_factor", "factor")
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in skipped}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return pytest.approx(value, rel=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_checkpoint_it_came_from(case, tmp_path):
    data, tensors, *_ = golden(case)
    config, file = read_config(data, name=case), GGUFFile(write(case, tmp_path / "tiny.gguf"))
    assert plain(file.config) == plain(config)
    models = (
        from_hf_tensors(Layout(each, get_system("N150")), source, lambda value, *_: value)
        for each, source in ((file.config, file), (config, tensors))
    )
    for ours, theirs in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", ["glm-4", "granite"])
def test_a_file_gives_transformers_logits(case, tmp_path):
    _, _, ids, logits = golden(case)
    checkpoint = open_checkpoint(write(case, tmp_path / "tiny.gguf"))
    np.testing.assert_allclose(ttsim.logits(checkpoint, ids), logits, atol=1e-4, rtol=0)


def test_every_architecture_has_a_case():
    assert set(ARCHITECTURES) <= {arch for arch, _ in CASES.values()}


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("granite", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("granite", {"expert_count": 4}, "expert_count is 4, not supported"),
        ("olmo-2", {"attention.sliding_window": 8}, "sliding_window"),
        ("qwen3-moe", {"expert_weights_scale": 2.5}, "expert_weights_scale is 2.5"),
        ("cohere", {"attention.value_length": 4}, "value_length is 4"),
        ("gemma-2", {"attention.sliding_window_pattern": [True]}, "expected 2 truth values"),
        ("phi-4-mini", {"rope.scaling.factor": 4.0}, "rope_factors_long.weight and phi3.rope.scaling.factor=4"),
    ],
)
def test_what_would_change_the_model_is_refused(case, changes, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as error:
        GGUFFile(write(case, tmp_path / "tiny.gguf", **changes))
    assert "\n" not in str(error.value)
