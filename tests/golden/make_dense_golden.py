"""Write tests/golden/dense.npz: logits of transformers' dense families on small random checkpoints.

    python -m venv oracle && oracle/bin/pip install torch transformers safetensors numpy
    oracle/bin/python tests/golden/make_dense_golden.py

For each case: `<case>.config` is the config.json that `save_pretrained` writes, `<case>.hub` the older spelling of it
that repositories have, `<case>.tensors` the names and shapes of the checkpoint, and `<case>.logits` float32
[T, vocabulary] of the prompt `input_ids`. Values of tensors are not stored: `random_weights.tensor` makes them again.
"""

from __future__ import annotations

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
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_weights import tensor

PROMPT = 24
PLUS_ONE = ("gemma2", "gemma3_text", "gemma")  # families whose norm weights are stored less 1

# Sizes that divide over eight chips; windows and original contexts are shorter than the prompt, so that they matter.
BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
PIXTRAL |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128}
QWEN_TOKENS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def text(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def wrapped(model_type: str, decoder: dict[str, Any], vision: dict[str, Any], **outer: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "text_config": decoder,
        "vision_config": vision,
        "tie_word_embeddings": False,
    } | outer


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3ForCausalLM", text(model_type="qwen3", head_dim=16, rope_theta=1e6)),
    "qwen3-bias": ("Qwen3ForCausalLM", text(model_type="qwen3", head_dim=16, rope_theta=1e6, attention_bias=True)),
    "llama-biases": ("LlamaForCausalLM", text(model_type="llama", attention_bias=True, mlp_bias=True)),
    "llama-dynamic": (
        "LlamaForCausalLM",
        text(
            model_type="llama",
            max_position_embeddings=16,
            rope_scaling={"rope_type": "dynamic", "factor": 4.0},
        ),
    ),
    "mistral-small": (
        "Mistral3ForConditionalGeneration",
        wrapped(
            "mistral3",
            text(model_type="mistral", head_dim=16, sliding_window=None, rope_theta=1e9),
            PIXTRAL,
        ),
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        wrapped(
            "llava",
            text(model_type="llama"),
            {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            image_token_index=90,
        ),
    ),
    "qwen2-window": (
        "Qwen2ForCausalLM",
        text(model_type="qwen2", sliding_window=8, use_sliding_window=True, max_window_layers=1),
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        wrapped(
            "qwen2_5_vl",
            text(
                model_type="qwen2_5_vl_text",
                rope_theta=1e6,
                rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]},
            ),
            QWEN_VISION,
            **QWEN_TOKENS,
        ),
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        wrapped(
            "qwen3_vl",
            text(
                model_type="qwen3_vl_text",
                head_dim=16,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 5e6,
                    "mrope_section": [3, 3, 2],
                    "mrope_interleaved": True,
                },
            ),
            {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            **QWEN_TOKENS,
        ),
    ),
    "phi-4": ("Phi3ForCausalLM", text(model_type="phi3", pad_token_id=0, rope_theta=250000.0)),
    "phi-4-mini": (
        "Phi3ForCausalLM",
        text(
            model_type="phi3",
            head_dim=8,
            partial_rotary_factor=0.75,
            original_max_position_embeddings=16,
            tie_word_embeddings=True,
            pad_token_id=0,
            sliding_window=200,
            rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.2], "long_factor": [2.0, 2.5, 3.0]},
        ),
    ),
    "gemma": ("GemmaForCausalLM", text(model_type="gemma", head_dim=16, tie_word_embeddings=True)),
    "gemma-2": (
        "Gemma2ForCausalLM",
        text(
            model_type="gemma2",
            head_dim=16,
            sliding_window=8,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
            tie_word_embeddings=True,
        ),
    ),
    "gemma-3": (
        "Gemma3ForCausalLM",
        text(
            model_type="gemma3_text",
            num_hidden_layers=3,
            head_dim=16,
            sliding_window=8,
            query_pre_attn_scalar=20,
            rope_theta=1e6,
            rope_local_base_freq=1e4,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
            sliding_window_pattern=2,
            tie_word_embeddings=True,
        ),
    ),
    "gemma-4": (
        "Gemma4ForCausalLM",
        text(
            model_type="gemma4_text",
            num_hidden_layers=3,
            head_dim=16,
            global_head_dim=32,
            num_global_key_value_heads=2,
            attention_k_eq_v=True,
            hidden_size_per_layer_input=0,
            sliding_window=8,
            final_logit_softcapping=3.0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            tie_word_embeddings=True,
        ),
    ),
    "gemma-4-e": (  # inputs of each layer, and layers that reuse the keys and values of others
        "Gemma4ForCausalLM",
        text(
            model_type="gemma4_text",
            num_hidden_layers=5,
            num_key_value_heads=2,
            head_dim=16,
            global_head_dim=32,
            hidden_size_per_layer_input=32,
            vocab_size_per_layer_input=96,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            sliding_window=8,
            final_logit_softcapping=3.0,
            layer_types=[
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            tie_word_embeddings=True,
        ),
    ),
    "gemma-4-unified": (
        "Gemma4UnifiedForCausalLM",
        text(
            model_type="gemma4_unified_text",
            num_hidden_layers=2,
            head_dim=16,
            global_head_dim=32,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            sliding_window=8,
            final_logit_softcapping=3.0,
            tie_word_embeddings=True,
        ),
    ),
    "olmo-2": ("Olmo2ForCausalLM", text(model_type="olmo2", rope_theta=5e5)),
    "olmo-3": (
        "Olmo3ForCausalLM",
        text(
            model_type="olmo3",
            num_hidden_layers=4,
            sliding_window=8,
            rope_theta=5e5,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "attention_factor": 1.2,
            },
        ),
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        text(model_type="smollm3", rope_theta=5e6, pad_token_id=0, no_rope_layer_interval=2),
    ),
    "granite": (
        "GraniteForCausalLM",
        text(
            model_type="granite",
            rope_theta=1e7,
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            residual_multiplier=0.22,
            attention_multiplier=0.09,
            tie_word_embeddings=True,
        ),
    ),
    "falcon3": ("LlamaForCausalLM", text(model_type="llama", head_dim=32, rope_theta=1000042)),
    "afm": (
        "ArceeForCausalLM",
        text(
            model_type="arcee",
            head_dim=16,
            rope_theta=1e4,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 20.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
            },
        ),
    ),
    "cohere": (
        "CohereForCausalLM",
        text(model_type="cohere", logit_scale=0.25, layer_norm_eps=1e-5, tie_word_embeddings=True),
    ),
    "cohere-2": (
        "Cohere2ForCausalLM",
        text(
            model_type="cohere2",
            sliding_window=8,
            sliding_window_pattern=2,
            rope_theta=5e4,
            logit_scale=0.25,
            layer_norm_eps=1e-5,
            tie_word_embeddings=True,
        ),
    ),
    "exaone-4": (
        "Exaone4ForCausalLM",
        text(model_type="exaone4", head_dim=16, sliding_window=8, sliding_window_pattern=2, rope_theta=1e6),
    ),
    "exaone-4-full": (
        "Exaone4ForCausalLM",
        text(
            model_type="exaone4",
            head_dim=16,
            sliding_window=None,
            layer_types=["full_attention"] * 2,
            rope_theta=1e6,
        ),
    ),
    "glm-4": (
        "Glm4ForCausalLM",
        text(model_type="glm4", head_dim=16, attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0),
    ),
    "glm": (
        "GlmForCausalLM",
        text(model_type="glm", head_dim=16, attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0),
    ),
    "ministral": (
        "MinistralForCausalLM",
        text(
            model_type="ministral",
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_theta=1e8,
        ),
    ),
    "ministral-3": (
        "Ministral3ForCausalLM",
        text(
            model_type="ministral3",
            head_dim=16,
            pad_token_id=0,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 8,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        ),
    ),
    "seed-oss": (
        "SeedOssForCausalLM",
        text(model_type="seed_oss", head_dim=16, attention_bias=True, attention_out_bias=True, rope_theta=1e7),
    ),
}


def family(config: dict[str, Any]) -> str:
    return str(config.get("text_config", config)["model_type"])


def run(class_name: str, hub: dict[str, Any], input_ids: np.ndarray) -> dict[str, np.ndarray]:
    """One case's arrays."""
    settings = copy.deepcopy({key: value for key, value in hub.items() if key != "model_type"})
    config = AutoConfig.for_model(hub["model_type"], **settings)
    model = getattr(transformers, class_name)._from_config(config, attn_implementation="eager").float().eval()
    plus_one = family(hub) in PLUS_ONE
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # the names that published files have
        shapes = {}
        for file in Path(folder).glob("*.safetensors"):
            with safe_open(file, "np") as tensors:
                shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        shapes = {name: shape for name, shape in shapes.items() if "vis" not in name and "projector" not in name}
        state = {name: torch.from_numpy(tensor(name, shape, plus_one=plus_one)) for name, shape in shapes.items()}
        written = json.loads((Path(folder) / "config.json").read_text())
        model = getattr(transformers, class_name).from_pretrained(
            folder, config=config, attn_implementation="eager", state_dict=None, dtype=torch.float32
        )
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in state.items():
            target = next(key for key in candidates(name) if key in named)
            assert named[target].shape == value.shape, name
            named[target].copy_(value)
        model.eval()
        logits = model(input_ids=torch.from_numpy(input_ids)[None].long(), use_cache=False).logits[0].numpy()
    return {
        "config": np.array(json.dumps(written)),
        "hub": np.array(json.dumps(hub)),
        "tensors": np.array(json.dumps(shapes)),
        "logits": logits.astype(np.float32),
    }


def candidates(name: str) -> list[str]:
    """What the model in memory may call a tensor of the file."""
    stem = name.removeprefix("language_model.")
    inner = stem.removeprefix("model.")
    return [name, f"model.language_model.{inner}", f"model.{inner}", stem, inner]


def main() -> None:
    transformers.logging.set_verbosity_error()
    input_ids = np.random.RandomState(20250101).randint(3, 90, PROMPT)
    modules = (torch, transformers, np)
    arrays: dict[str, np.ndarray] = {
        "input_ids": input_ids.astype(np.int32),
        "versions": np.array(json.dumps({module.__name__: module.__version__.split("+")[0] for module in modules})),
    }
    for case, (class_name, hub) in CASES.items():
        made = run(class_name, hub, input_ids)
        print(f"{case}: rms {made['logits'].std():.2f}, {len(json.loads(str(made['tensors'])))} tensors", flush=True)
        arrays |= {f"{case}.{key}": value for key, value in made.items()}
    path = Path(__file__).parent / "dense.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
