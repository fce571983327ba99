"""Every dense family computes transformers' logits: in prefill and in decode, on one chip and on several.

`TTSIM_PARITY=all pytest tests/models/test_families.py` runs every family in both phases on every mesh of `DEVICES`.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import tensor

import ttsim
from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.loading import Checkpoint
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.checkpoints.source import CheckpointError, MappedTensors
from ttsim.models.config import ModelConfig
from ttsim.models.hf import FAMILIES
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.models.run import decode_program, decode_step, place, place_cache
from ttsim.models.storage import parameters
from ttsim.precision.presets import preset

GOLDEN = np.load(Path(__file__).parents[1] / "golden/dense.npz")
CASES = sorted(key.removesuffix(".config") for key in GOLDEN.files if key.endswith(".config"))
DEVICES = ("N150", "N300", "T3K", "TG")
# One phase and mesh for each family, chosen so that each feature meets one chip, a line, a ring or a grid.
SHORT = {
    "qwen3": ("decode", "N150"),
    "mistral-small": ("prefill", "N150"),
    "llama-biases": ("decode", "N300"),
    "llama-dynamic": ("prefill", "N150"),
    "phi-4-mini": ("prefill", "N150"),
    "gemma-2": ("prefill", "N150"),
    "gemma-3": ("decode", "N150"),
    "gemma-4": ("decode", "T3K"),
    "gemma-4-e": ("decode", "N300"),
    "olmo-2": ("decode", "N300"),
    "olmo-3": ("prefill", "N150"),
    "smollm3": ("prefill", "N150"),
    "granite": ("prefill", "N150"),
    "afm": ("decode", "N150"),
    "cohere-2": ("decode", "N300"),
    "exaone-4": ("prefill", "N150"),
    "glm-4": ("prefill", "N150"),
    "ministral-3": ("decode", "N150"),
}
EVERY = [(case, phase, device) for case in CASES for phase in ("prefill", "decode") for device in DEVICES]
CHOSEN = EVERY if os.environ.get("TTSIM_PARITY") == "all" else [(case, *how) for case, how in SHORT.items()]


def config_of(case: str, spelling: str = "config", **changes) -> ModelConfig:
    data = json.loads(str(GOLDEN[f"{case}.{spelling}"]))
    data.get("text_config", data).update(changes)
    return read_config(data, name=case)


def tensors_of(case: str) -> dict[str, np.ndarray]:
    plus_one = FAMILIES[config_of(case).family].plus_one
    shapes = json.loads(str(GOLDEN[f"{case}.tensors"]))
    return {name: tensor(name, shape, plus_one=plus_one) for name, shape in shapes.items()}


def checkpoint_of(case: str, tensors=None, **changes) -> Checkpoint:
    config = config_of(case, **changes)
    return Checkpoint(Path(case), config, MappedTensors(tensors or tensors_of(case), config.family))


def decoded(case: str, device: str) -> np.ndarray:
    """The logits of each token, fed one after the other."""
    ids, config = GOLDEN["input_ids"], config_of(case)
    layout = Layout(config, get_system(device), max_seq_len=len(ids))
    mesh = layout.system.mesh()
    model = place(from_hf_tensors(layout, tensors_of(case)), layout, mesh)
    cache = place_cache(KVCache.zeros(layout, 1, jnp.float32), layout, 1, mesh)
    step = jax.jit(decode_step(layout, preset("fp32", case), 1, mesh=mesh))
    rows = []
    for position, token in enumerate(ids):
        row, cache = step(model, jnp.asarray([token]), jnp.asarray([position], jnp.int32), cache)
        rows.append(np.asarray(row)[0])
    return np.stack(rows)


@pytest.mark.parametrize(("case", "phase", "device"), CHOSEN)
def test_logits_equal_those_of_transformers(case, phase, device):
    if phase == "prefill":
        logits = ttsim.logits(checkpoint_of(case), GOLDEN["input_ids"], device)
    else:
        logits = decoded(case, device)
    np.testing.assert_allclose(logits, GOLDEN[f"{case}.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_both_spellings_of_a_config_agree(case):
    assert config_of(case) == config_of(case, "hub")


@pytest.mark.parametrize("case", SHORT)
def test_every_tensor_is_used(case):
    model = from_hf_tensors(Layout(config_of(case), get_system("N150")), tensors_of(case), lambda value, *_: value)
    made = sum(leaf.size for leaf in jax.tree.leaves(model))
    config = config_of(case)
    copies = config.vocab_size * config.hidden_size if config.tie_word_embeddings else 0
    copies += sum(
        config.hidden_size * kind.num_kv_heads * kind.head_dim for kind in config.layer_kinds if kind.value_is_key
    )
    assert made - copies == config.parameter_count
    assert config.parameter_count == sum(value.size for value in tensors_of(case).values())


def test_logits_refuses_tokens_outside_the_vocabulary():
    with pytest.raises(ValueError, match="token 96 is outside qwen3's vocabulary of 96"):
        ttsim.logits(checkpoint_of("qwen3"), [1, 96])
    with pytest.raises(ValueError, match="expected \\[T\\] integers"):
        ttsim.logits(checkpoint_of("qwen3"), [[1.0]])


def load(case: str, tensors, **changes) -> None:
    """What loading does but for the devices."""
    checkpoint = checkpoint_of(case, tensors, **changes)
    from_hf_tensors(Layout(checkpoint.config, get_system("N150")), checkpoint.tensors, lambda value, *_: value)


HOSTILE = {
    "a stray q_norm": ("falcon3", {"model.layers.0.self_attn.q_norm.weight": (32,)}, {}, "q_norm"),
    "a stray bias": ("falcon3", {"model.layers.1.self_attn.o_proj.bias": (128,)}, {}, "o_proj.bias"),
    "an MLP's bias": ("falcon3", {"model.layers.1.mlp.up_proj.bias": (256,)}, {}, "up_proj.bias"),
    "scales beside weights": ("qwen3", {"model.layers.0.mlp.up_proj.weight_scale_inv": (2, 1)}, {}, "scale_inv"),
    "a LoRA": ("qwen3", {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (8, 128)}, {}, "lora_A"),
    "more layers": ("falcon3", {"model.layers.2.input_layernorm.weight": (128,)}, {}, "is of layer 2; .* has 2"),
    "fewer layers in the config": ("qwen3", {}, {"num_hidden_layers": 1, "layer_types": None}, "layer 1; .* has 1"),
    "another head beside a tied one": ("granite", {"lm_head.weight": (96, 128)}, {}, "lm_head.weight differs"),
    "qwen3 relabelled llama": ("qwen3", {}, {"model_type": "llama"}, "k_norm.weight and 3 more: a llama model"),
    "gemma-2 relabelled llama": (
        "gemma-2",
        {},
        {"model_type": "llama", "layer_types": None},
        "attn_logit_softcapping=5.0",
    ),
    "granite relabelled llama": ("granite", {}, {"model_type": "llama"}, "attention_multiplier"),
    "olmo-2 relabelled llama": ("olmo-2", {}, {"model_type": "llama"}, "input_layernorm.weight is missing"),
    "glm-4 relabelled llama": ("glm-4", {}, {"model_type": "llama"}, "partial_rotary_factor|o_proj.bias"),
    "exaone-4 relabelled qwen3": ("exaone-4-full", {}, {"model_type": "qwen3"}, "input_layernorm.weight is missing"),
    "cohere-2 relabelled llama": ("cohere-2", {}, {"model_type": "llama"}, "has sliding_attention but"),
    "an untied config without a head": ("granite", {}, {"tie_word_embeddings": False}, "lm_head.weight is missing"),
    "a bias the config denies": ("seed-oss", {}, {"attention_out_bias": False}, "o_proj.bias"),
    "a bias the file lacks": ("qwen3", {}, {"attention_bias": True}, "q_proj.bias is missing"),
    "half of the heads": ("qwen3", {}, {"num_key_value_heads": 4}, "k_proj.weight has shape"),
    "inputs per layer that the file lacks": (
        "gemma-4",
        {},
        {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 96},
        "embed_tokens_per_layer.weight is missing",
    ),
    "inputs per layer of other tokens": ("gemma-4-e", {}, {"vocab_size_per_layer_input": 64}, "per_layer_input=64"),
    "inputs per layer that the config denies": ("gemma-4-e", {}, {"hidden_size_per_layer_input": 0}, "per_layer"),
    "no layer left to share": ("gemma-4-e", {}, {"num_kv_shared_layers": 4}, "leaves no full_attention layer"),
    "more shared layers than layers": ("gemma-4-e", {}, {"num_kv_shared_layers": 6}, "num_kv_shared_layers=6"),
    "an MLP that is wide only by its config": ("gemma-4-e", {}, {"use_double_wide_mlp": False}, "has shape"),
    "gemma-3 in both directions": ("gemma-3", {}, {"use_bidirectional_attention": True}, "use_bidirectional"),
    "experts in a llama": ("falcon3", {}, {"num_local_experts": 8}, "num_local_experts=8"),
    "an unknown rotary key": ("falcon3", {}, {"rope_parameters": {"rope_theta": 1e4, "twist": 2}}, "twist=2"),
    "an unknown activation": ("falcon3", {}, {"hidden_act": "mish"}, "hidden_act='mish'"),
    "clipped projections": ("olmo-2", {}, {"clip_qkv": 8}, "clip_qkv=8"),
    "layer types of another length": ("ministral", {}, {"layer_types": ["full_attention"]}, "has 1 values for 2"),
    "chunked attention in a mistral": ("ministral", {}, {"layer_types": ["chunked_attention"] * 2}, "chunked"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_is_silently_wrong(what):
    case, extra, changes, message = HOSTILE[what]
    tensors = {**tensors_of(case), **{name: tensor(name, shape) for name, shape in extra.items()}}
    with pytest.raises(ValueError, match=message) as error:
        load(case, tensors, **changes)
    assert "\n" not in str(error.value)


def test_a_head_that_is_the_table_may_stand_beside_the_flag():
    tensors = tensors_of("granite")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    layout = Layout(config_of("granite"), get_system("N150"))
    from_hf_tensors(layout, tensors, lambda value, *_: value)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    with pytest.raises(CheckpointError, match="differs from the embedding table"):
        from_hf_tensors(layout, tensors, lambda value, *_: value)


def test_a_vocabulary_that_cuts_blocks_runs_on_several_chips():
    """Phi-3.5-mini on T3K (4,008 columns a chip), and fine-tunes with added tokens: logits are those of one chip."""
    tensors = tensors_of("falcon3")
    rows = 96 + 2
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.concatenate([tensors[name], tensor("added", (2, 128))])
    ids = GOLDEN["input_ids"][:8]
    checkpoint = checkpoint_of("falcon3", tensors, vocab_size=rows)
    assert Layout(checkpoint.config, get_system("T3K")).vocab_share == (13, 32)
    precision = preset("fp32", "falcon3").replace(lm_head="bfp8")
    expected = ttsim.logits(checkpoint, ids, "N150", precision)
    assert expected.shape == (8, rows)
    # Blocks of 16 columns don't fall on the same values, so that bfp8's rounding differs in the last bits.
    np.testing.assert_allclose(ttsim.logits(checkpoint, ids, "N300", precision), expected, atol=0.1)
    assert Layout(checkpoint.config, get_system("N150")).vocab_share == (rows, rows)


def test_gemma_4_rotates_whole_heads_where_its_rotary_parameters_say_no_share():
    """transformers' default of 0.25 stands for the parameters as a whole, not for one of their keys."""
    data = json.loads(str(GOLDEN["gemma-4.config"]))
    full = data.get("text_config", data)["rope_parameters"]["full_attention"]
    said = [kind.rope.rotary_dim for kind in read_config(data).layer_kinds if kind.window is None]
    del full["partial_rotary_factor"]
    unsaid = [kind.rope.rotary_dim for kind in read_config(data).layer_kinds if kind.window is None]
    assert (set(said), set(unsaid)) == ({8}, {32})


def test_keys_of_layers_that_make_none_may_stand_in_the_file():
    """Published files hold them; transformers, too, leaves them unread."""
    layer = "model.layers.3.self_attn"
    more = {f"{layer}.k_proj.weight": np.ones((32, 128)), f"{layer}.k_norm.weight": np.ones(16)}
    config = config_of("gemma-4-e")
    assert config.layer_kinds[3].mixer == "reused"
    assert config.cache_slots == (0, 1, 2, 2, 1)
    from_hf_tensors(Layout(config, get_system("N150")), tensors_of("gemma-4-e") | more, lambda value, *_: value)
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn\.k_more"):
        load("gemma-4-e", tensors_of("gemma-4-e") | {"model.layers.2.self_attn.k_more.weight": np.ones(3)})


def test_the_host_holds_the_tables_of_all_layers():
    """Their bytes are no chip's, whatever the number of layers that a trace has."""
    config = config_of("gemma-4-e")
    layout = Layout(config, get_system("N150"))
    held = {info.path: info.bytes for info in parameters(layout, preset("bf16", "gemma-4-e"))}
    assert held["token_inputs.table_vl"] == held["token_inputs.projection_dl"] == 0
    assert held["layers.0.input.gate_dp"] == 2 * 128 * 32
    program = decode_program(layout, preset("bf16", "gemma-4-e"), 1)
    (made,) = (call for call, _ in program.ops() if call.op.name == "token_inputs")
    assert made.inputs[3].shape == (128, 5 * 32)
