"""Write tests/golden/hf/*.npz: tiny random models run by Hugging Face transformers, and its rotary frequencies.

    pip install numpy torch transformers && python tests/golden/make_hf_golden.py

Only this script needs torch and transformers; the tests read what it wrote. Each model's file holds

    config              JSON text of config.json
    versions            JSON text: torch, transformers, numpy
    input_ids           int32 [2, 24]
    logits              float32 [2, 24, vocab]
    greedy              int32 [2, 8], the greedy continuation of both prompts
    <name>              float32, every parameter under its state_dict name (once, where two names share one)

and rope.npz holds, for each case, `<case>.config` (JSON text), `<case>.sequence_lengths` [n],
`<case>.inverse_frequencies` [n, head_dim/2] and `<case>.attention_factors` [n], and the tables that a model computes
from two calls with positions: `<case>.positions` [2, 6], `<case>.cos` and `<case>.sin` [2, 6, head_dim/2].
"""

import argparse
import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, MllamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

SEED = 20250101
PROMPT, CONTINUATION, BATCH = 24, 8, 2

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": None,  # the greedy continuation must not stop early
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
# With head_dim 16 and theta 10000 the wavelengths are 6.3, 19.9, 62.8, 199 ... positions: 64 original positions keep
# the first, interpolate two and stretch the rest, and 24 tokens are enough to tell.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def longrope(pairs: int) -> dict[str, Any]:
    """LongRoPE factors that grow with the wavelength, as Phi's do."""
    return {
        "type": "longrope",
        "short_factor": np.linspace(1.0, 2.5, pairs).round(3).tolist(),
        "long_factor": np.geomspace(1.1, 40.0, pairs).round(3).tolist(),
    }


PHI3 = {
    "model_type": "phi3",
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "rope_scaling": longrope(24),
    "sliding_window": 512,
}

MODELS: dict[str, dict[str, Any]] = {
    "llama-mha": {  # heads wider than the hidden size
        "model_type": "llama",
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 16,
        "rope_theta": 10000.0,
    },
    "llama-gqa": {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": LLAMA3_ROPE,
    },
    # Splits over 8 devices: 2 query heads, 1 key/value head, 32 MLP columns and 32 tokens of the vocabulary each.
    "llama-gqa-8kv": {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 16,
        "vocab_size": 256,
        "rope_theta": 500000.0,
    },
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "num_key_value_heads": 2, "rope_theta": 10000.0, "sliding_window": 6},
    "phi3-short": {**PHI3, "original_max_position_embeddings": 64},
    "phi3-long": {**PHI3, "original_max_position_embeddings": 8},
    "mllama-text": {
        "model_type": "mllama_text_model",
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "cross_attention_layers": [1],
        "rope_theta": 10000.0,
        "rope_scaling": LLAMA3_ROPE,
    },
}

# The rotary embeddings that none of the published models uses, beside those in ttsim/data/models.json.
OTHER_ROPES: dict[str, dict[str, Any]] = {
    "yarn": {
        "head_dim": 128,
        "rope_theta": 1000000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "yarn-mscale": {
        "head_dim": 64,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.707,
            "mscale_all_dim": 1.0,
            "truncate": False,
        },
    },
    "linear": {"head_dim": 96, "rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
VERSIONS = {module.__name__: module.__version__.split("+")[0] for module in (torch, transformers, np)}


def run_model(case: dict[str, Any], seed: list[int]) -> dict[str, np.ndarray] | None:
    """A model's random weights, its logits on two prompts and their greedy continuations.

    None where two tokens come so close that the greedy choice would depend on how sums are rounded.
    """
    config = AutoConfig.for_model(**copy.deepcopy(case), attn_implementation="eager", dtype="float32")
    model_class = MllamaForCausalLM if case["model_type"] == "mllama_text_model" else AutoModelForCausalLM.from_config
    model = model_class(config).eval()
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, parameter in model.named_parameters():  # a tied head comes once, as in a published checkpoint
        value = random_parameter(rng, name, tuple(parameter.shape))
        parameter.data = torch.from_numpy(value.copy())
        parameters[name] = value
    if config.tie_word_embeddings:
        model.tie_weights()

    input_ids = rng.integers(3, case["vocab_size"], (BATCH, PROMPT))
    prompt = torch.from_numpy(input_ids)
    with torch.no_grad():
        logits = model(input_ids=prompt, use_cache=False).logits.numpy()
        greedy = []
        sequence = prompt
        for _ in range(CONTINUATION):  # without a cache: what a cache must reproduce
            last = model(input_ids=sequence, use_cache=False).logits[:, -1]
            best = last.topk(2, dim=-1).values
            if (best[:, 0] - best[:, 1]).min() < 0.02:
                return None
            greedy.append(last.argmax(-1))
            sequence = torch.cat([sequence, greedy[-1][:, None]], dim=-1)
        cached = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=CONTINUATION, do_sample=False
        )
        if not torch.equal(cached, sequence):
            raise ValueError(f"seed {seed}: generate() with a cache chose other tokens")
    return {
        "config": np.array(config.to_json_string(use_diff=True)),
        "versions": np.array(json.dumps(VERSIONS)),
        "input_ids": input_ids.astype(np.int32),
        "logits": logits.astype(np.float32),
        "greedy": torch.stack(greedy, dim=-1).numpy().astype(np.int32),
        **parameters,
    }


def random_parameter(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights wide enough that logits differ, and norms and biases that matter.

    Five significant bits keep the compressed files small; block float formats still have to round them.
    """
    mean, std = (1.0, 0.2) if "norm" in name else (0.0, 0.2 if name.endswith("bias") else 0.12)
    fraction, exponent = np.frexp(rng.normal(mean, std, shape))
    return np.ldexp(np.round(fraction * 32) / 32, exponent).astype(np.float32)


def rope_cases() -> dict[str, np.ndarray]:
    """Frequencies of each kind of rotary embedding, below, at and above the original context."""
    published = json.loads((Path(__file__).parents[2] / "ttsim/data/models.json").read_text(encoding="utf-8"))
    cases = {name: entry["config"] for name, entry in published.items()}
    cases |= {name: {**SMALL, "model_type": "llama", **case} for name, case in OTHER_ROPES.items()}
    arrays = {"versions": np.array(json.dumps(VERSIONS))}
    for name, case in cases.items():
        config = AutoConfig.for_model(**copy.deepcopy(case))
        kind = config.rope_parameters["rope_type"]
        lengths = [128, 4096, 4097] if kind == "longrope" else [128]
        function = ROPE_INIT_FUNCTIONS.get(kind, default_frequencies)
        frequencies, factors = zip(*(function(config, "cpu", seq_len=n) for n in lengths), strict=True)
        arrays[f"{name}.config"] = np.array(json.dumps(case))
        arrays[f"{name}.sequence_lengths"] = np.array(lengths, np.int32)
        arrays[f"{name}.inverse_frequencies"] = torch.stack(frequencies).numpy()
        arrays[f"{name}.attention_factors"] = np.array(factors, np.float64)
        # cos and sin as a model gets them, at short and at far positions
        positions = np.array([[0, 1, 2, 31, 1000, 4095], [5, 4096, 9999, 30000, 65535, 131071]])
        embedding = type_of_rotary(config)(config)
        tables = [embedding(torch.zeros(1), torch.from_numpy(row[None])) for row in positions]
        arrays[f"{name}.positions"] = positions.astype(np.int32)
        for index, part in enumerate(("cos", "sin")):
            full = torch.cat([table[index] for table in tables]).numpy()
            half = full.shape[-1] // 2
            assert np.array_equal(full[..., :half], full[..., half:])
            arrays[f"{name}.{part}"] = full[..., :half]
    return arrays


def default_frequencies(config: Any, device: str, seq_len: int) -> tuple[torch.Tensor, float]:
    """The kind that ROPE_INIT_FUNCTIONS leaves out; models carry it themselves."""
    return LlamaRotaryEmbedding.compute_default_rope_parameters(config, device=device)


def type_of_rotary(config: Any) -> type:
    """The rotary module of a model family; only Phi-3's follows the length of the sequence."""
    return Phi3RotaryEmbedding if config.model_type == "phi3" else LlamaRotaryEmbedding


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "hf")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for index, (name, case) in enumerate(MODELS.items()):
        attempts = (run_model({**SMALL, **case}, [SEED, index, attempt]) for attempt in itertools.count())
        save(out / f"{name}.npz", next(arrays for arrays in attempts if arrays is not None))
    save(out / "rope.npz", rope_cases())


if __name__ == "__main__":
    main()
