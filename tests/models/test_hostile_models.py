"""Checkpoints whose file and configuration disagree: computed as transformers does, or refused by the part's name.

Nothing is compiled: a model that can be filled has every tensor of its file in it, and every parameter from the file.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from random_weights import tensor

from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.checkpoints.source import MappedTensors
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout

GOLDEN = np.load(Path(__file__).parents[1] / "golden/dense.npz")
EXPERTS = Path(__file__).parents[1] / "golden/experts"
LAYER = "model.layers.0."


@functools.cache
def golden(case):
    """(config.json, {name: shape}) of a golden model."""
    if f"{case}.config" in GOLDEN.files:
        return json.loads(str(GOLDEN[f"{case}.config"])), json.loads(str(GOLDEN[f"{case}.tensors"]))
    data = np.load(EXPERTS / f"{case}.npz")
    return json.loads(str(data["config"])), json.loads(str(data["shapes"]))


def fill(case, *, add=(), drop=(), shapes=(), **changes):
    """Reads a golden model whose file has more, fewer or other tensors, under a configuration with changes."""
    config, found = golden(case)
    found = {name: shape for name, shape in found.items() if name not in drop} | dict(add) | dict(shapes)
    for key, value in changes.items():
        config = {**config, key: value}
    read = read_config(config, name=case)
    layout = Layout(read, get_system("N150"), max_seq_len=32)
    tensors = {name: tensor(name, shape) for name, shape in found.items()}
    return from_hf_tensors(layout, MappedTensors(tensors, read.family), lambda value, *_: np.asarray(value))


STRAY = {
    "norms of q": ("falcon3", f"{LAYER}self_attn.q_norm.weight", [32]),
    "norms of k": ("falcon3", f"{LAYER}self_attn.k_norm.weight", [32]),
    "a bias of q": ("falcon3", f"{LAYER}self_attn.q_proj.bias", [512]),
    "a bias of o": ("qwen2-window", f"{LAYER}self_attn.o_proj.bias", [128]),
    "a bias of the MLP": ("qwen3", f"{LAYER}mlp.down_proj.bias", [128]),
    "a bias of a norm": ("olmo-2", f"{LAYER}post_attention_layernorm.bias", [128]),
    "a bias of the head": ("falcon3", "lm_head.bias", [96]),
    "a bias of the last norm": ("cohere-2", "model.norm.bias", [128]),
    "sinks": ("qwen3", f"{LAYER}self_attn.sinks", [16]),
    "a router": ("falcon3", f"{LAYER}mlp.gate.weight", [8, 128]),
    "a shared expert": ("qwen3-moe", "model.layers.1.mlp.shared_expert.up_proj.weight", [16, 128]),
    "an expert too many": ("qwen3-moe", "model.layers.1.mlp.experts.16.up_proj.weight", [16, 128]),
    "a choice's bias": ("qwen3-moe", "model.layers.1.mlp.gate.e_score_correction_bias", [16]),
    "norms after branches": ("falcon3", f"{LAYER}post_feedforward_layernorm.weight", [128]),
    "a layer's scale": ("gemma-2", f"{LAYER}layer_scalar", [1]),
    "a layer too many": ("falcon3", "model.layers.2.input_layernorm.weight", [128]),
    "LoRA": ("falcon3", f"{LAYER}self_attn.q_proj.lora_A.weight", [4, 128]),
    "LoRA by its wrapper": ("falcon3", f"base_model.{LAYER}self_attn.v_proj.lora_B.default.weight", [4, 128]),
    "a scale of a weight": ("qwen3", f"{LAYER}self_attn.q_proj.weight_scale", [1]),
    "block scales": ("qwen3", f"{LAYER}mlp.up_proj.weight_scale_inv", [2, 1]),
    "a scale of activations": ("qwen3", f"{LAYER}mlp.up_proj.input_scale", [1]),
    "zero points": ("falcon3", f"{LAYER}mlp.up_proj.qzeros", [4, 4]),
    "a head for classes": ("falcon3", "score.weight", [2, 128]),
    "a value head": ("falcon3", "v_head.summary.weight", [1, 128]),
    "a cross-attention layer": ("falcon3", f"{LAYER}cross_attn.q_proj.weight", [128, 128]),
    "a gate": ("afm", f"{LAYER}mlp.gate_proj.weight", [256, 128]),
}


@pytest.mark.parametrize("kind", STRAY)
def test_a_tensor_that_nothing_uses_is_named(kind):
    case, name, shape = STRAY[kind]
    fill(case)  # without it all is well
    with pytest.raises(ValueError, match=f"tensor .*{name.removeprefix('base_model.')[:-7]}") as error:
        fill(case, add=[(name, shape)])
    assert "\n" not in str(error.value)


def test_projections_in_two_forms_are_refused():
    with pytest.raises(ValueError, match=r"tensor .*layers\.0\.self_attn\.k_proj\.weight and 2 more"):
        fill("falcon3", add=[(f"{LAYER}self_attn.qkv_proj.weight", [1024, 128])])


MISSING = {
    "a projection": ("falcon3", f"{LAYER}self_attn.k_proj.weight"),
    "a norm": ("falcon3", f"{LAYER}input_layernorm.weight"),
    "the last norm": ("falcon3", "model.norm.weight"),
    "a norm of q": ("qwen3", f"{LAYER}self_attn.q_norm.weight"),
    "a bias": ("qwen2-window", f"{LAYER}self_attn.v_proj.bias"),
    "the head": ("falcon3", "lm_head.weight"),
    "the table": ("falcon3", "model.embed_tokens.weight"),
    "an expert": ("qwen3-moe", "model.layers.1.mlp.experts.3.up_proj.weight"),
    "a router": ("qwen3-moe", "model.layers.1.mlp.gate.weight"),
    "a layer's scale": ("gemma-4", f"{LAYER}layer_scalar"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_tensor_that_is_missing_is_named(kind):
    case, name = MISSING[kind]
    assert name in golden(case)[1]
    with pytest.raises(ValueError, match=f"tensor {name} is missing"):
        fill(case, drop=[name])


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("falcon3", f"{LAYER}mlp.down_proj.weight", [256, 128]),  # as [in, out]
        ("falcon3", f"{LAYER}self_attn.k_proj.weight", [512, 128]),  # of all heads
        ("falcon3", "lm_head.weight", [95, 128]),
        ("falcon3", "model.embed_tokens.weight", [96, 64]),
        ("qwen3", f"{LAYER}self_attn.q_norm.weight", [256]),  # of the whole width
        ("olmo-2", f"{LAYER}self_attn.q_norm.weight", [8]),  # of a head
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both(case, name, shape):
    with pytest.raises(ValueError, match=rf"tensor {name} has shape \[.*expected \[") as error:
        fill(case, shapes=[(name, shape)])
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("case", "model_type"),
    [
        *(
            (case, "llama")
            for case in ("qwen3", "granite", "gemma-2", "olmo-2", "cohere-2", "glm-4", "exaone-4", "afm")
        ),
        *((case, "llama") for case in ("qwen2-window", "seed-oss", "mixtral", "qwen3-moe", "gpt-oss", "deepseek-v3")),
        ("qwen3-moe", "qwen3"),
        ("gemma-3", "gemma2"),
        ("gemma-2", "gemma"),
        ("mixtral", "mistral"),
        ("qwen3", "qwen2"),
        ("qwen2-window", "qwen3"),
        ("smollm3", "llama"),
        ("ministral-3", "mistral"),
        ("glm", "llama"),
        ("phi-4-mini", "llama"),
    ],
)
def test_a_model_under_another_family_s_name_is_refused(case, model_type):
    with pytest.raises(ValueError, match=r"^\S.*$"):
        fill(case, model_type=model_type)


def test_flags_that_the_tensors_deny_are_refused():
    for case, changes, words in (
        ("llama-biases", {"attention_bias": False}, "_proj.bias.*no such part"),
        ("llama-biases", {"mlp_bias": False}, "mlp.*bias"),
        ("falcon3", {"attention_bias": True}, "q_proj.bias is missing"),
        ("falcon3", {"mlp_bias": True}, "bias is missing"),
        ("falcon3", {"tie_word_embeddings": True}, "tie_word_embeddings=True, but tensor lm_head.weight differs"),
        ("gemma-2", {"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ("falcon3", {"num_hidden_layers": 1}, "is of layer 1; the configuration has 1 layers"),
        ("falcon3", {"num_hidden_layers": 3}, "model.layers.2.* is missing"),
        ("falcon3", {"num_key_value_heads": 4}, "k_proj.weight has shape"),
        ("falcon3", {"head_dim": 16}, "q_proj.weight has shape"),
        ("gemma-4", {"attention_k_eq_v": False}, "has shape|is missing"),
        ("gpt-oss", {"num_local_experts": 4}, "has shape"),
        ("qwen3-moe", {"mlp_only_layers": []}, "mlp.*is missing"),
        ("deepseek-v3", {"n_shared_experts": 0}, "shared_experts"),
        ("deepseek-v3", {"q_lora_rank": None}, "q_proj.weight is missing|q_a_proj"),
    ):
        with pytest.raises(ValueError, match=words):
            fill(case, **changes)


def test_another_slope_of_gpt_oss_s_gate_is_refused():
    data = json.loads(str(np.load(Path(__file__).parents[1] / "golden/experts/gpt-oss.npz")["config"]))
    assert read_config(data | {"swiglu_alpha": 1.702}) == read_config(data)
    with pytest.raises(ValueError, match=r"swiglu_alpha=1\.5 is not supported; supported: 1\.702"):
        read_config(data | {"swiglu_alpha": 1.5})
