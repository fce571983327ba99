"""Logits of transformers' mixture-of-experts, latent-attention and delta-net models on small random checkpoints.

Writes tests/golden/experts/<case>.npz: the config.json, the tensors' names and shapes as `save_pretrained` writes them,
a prompt and its logits, computed in double where the model lets us. The tensors' values are not stored:
`random_weights.tensor` makes them again.

    python -m venv oracle && oracle/bin/pip install torch transformers safetensors numpy
    oracle/bin/python tests/golden/make_expert_golden.py
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_weights import tensor

PROMPT = 20
VERSIONS = {module.__name__: module.__version__.split("+")[0] for module in (torch, transformers, np)}

# Sizes that divide over eight chips. Windows and original contexts are shorter than the prompt, so that they matter.
BASE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 16}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "norm_topk_prob": True,
    "rope_theta": 10000.0,
    "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "type": "yarn"},
}
HYBRID: dict[str, Any] = {
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "model_type": "mixtral",
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_theta": 1e6,
    },
    "qwen3-moe": {  # one layer of the two has a dense MLP, weights are not renormalised
        "model_type": "qwen3_moe",
        "intermediate_size": 64,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "mlp_only_layers": [0],
        "decoder_sparse_step": 1,
        "rope_theta": 1e6,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 4,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_theta": 150000.0,
        "rope_scaling": {**YARN, "truncate": False},
        "swiglu_limit": 1.0,  # so small that tiny models reach it
    },
    "deepseek-v3": {**DEEPSEEK, "n_group": 4, "topk_group": 2},
    "kimi-k2": {**DEEPSEEK, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827},
    "glm-4-moe": {  # a dense layer first, heads normalised, half of their columns rotated
        "model_type": "glm4_moe",
        "intermediate_size": 64,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "attention_bias": True,
        "rope_theta": 1e6,
    },
    "gemma-4-moe": {
        "model_type": "gemma4_text",
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "sliding_window": 8,
        "enable_moe_block": True,
        "moe_intermediate_size": 16,
        "num_experts": 16,
        "top_k_experts": 4,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 256,
        "num_kv_shared_layers": 0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
    },
    "qwen3.5": {"model_type": "qwen3_5_text", **HYBRID},
    "qwen3.5-moe": {
        "model_type": "qwen3_5_moe_text",
        **HYBRID,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 16,
        "num_experts_per_tok": 4,
    },
}


def run_model(name: str, case: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint on disk with our values under transformers' own names, and the logits of a prompt."""
    config = AutoConfig.for_model(**copy.deepcopy(case), dtype="float32")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="1GB")
    path = folder / "model.safetensors"
    with safe_open(path, "np") as file:
        shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    plus_one = case["model_type"].startswith("qwen3_5")
    values = {key: tensor(key, shape, plus_one=plus_one) for key, shape in shapes.items()}
    save_file(values, path, {"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    unused = {key: value for key, value in info.items() if value and key != "error_msgs"}
    if unused:
        raise ValueError(f"{name}: {unused}")
    prompt = np.random.RandomState(7).randint(3, case["vocab_size"], PROMPT)
    with torch.no_grad():
        logits = model.double().eval()(input_ids=torch.from_numpy(prompt)[None], use_cache=False).logits[0].numpy()
    return {
        "config": np.array((folder / "config.json").read_text()),
        "versions": np.array(json.dumps(VERSIONS)),
        "shapes": np.array(json.dumps(shapes)),
        "input_ids": prompt.astype(np.int32),
        "logits": logits.astype(np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "experts")
    parser.add_argument("cases", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            arrays = run_model(name, {**BASE, **MODELS[name]}, Path(folder))
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name}: logits std {arrays['logits'].std():.3f}, {(args.out / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
