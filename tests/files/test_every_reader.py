"""Every reader of a file from outside, on damaged files and on files of another kind: an answer, or one clean line."""

import gzip
import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import Golden, save_gguf, save_hf, write_torch_file
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.accuracy.refpt import read_refpt
from ttsim.accuracy.results import Outputs
from ttsim.accuracy.saved import SavedWindows
from ttsim.explore.compare import run_of
from ttsim.explore.front import file_settings
from ttsim.generation.prompts import load_chat, load_prompts
from ttsim.hardware.constants import constants_json, load_constants
from ttsim.lt.state import State
from ttsim.meshes.lookup import get_system, print_systems
from ttsim.models.checkpoints.loading import open_checkpoint
from ttsim.models.checkpoints.meta_files import read_params
from ttsim.models.hf.reading import read_config
from ttsim.models.vision.images import image_size, open_image
from ttsim.models.vision.reading import read_vision_config
from ttsim.precision.values import Precision
from ttsim.proof.load_rows import read_load_rows
from ttsim.proof.measured import read_measured
from ttsim.scenarios.question import Question, read_question
from ttsim.serving.recorded import read_result
from ttsim.serving.workload import read_trace
from ttsim.ui.profile_diff import read_profile

GOLDEN = Path(__file__).parents[1] / "golden"
LAYER = {"precision_cfg": {"FF2": "BFP4"}, "fidelity_cfg": {"LI_FF2": "LOFI"}}
OP = {"op": "linear", "label": "linear ff2", "where": "", "shape": "1 x 2", "count": 1, "time": 0.1, "kernel": "m"}
PHASE = {"time": 0.1, "ops": [OP], "by_limit": {"dram": 0.1}}
RUN = {"model": "m", "device": "N150", "precision": "p", "batch_size": 1, "data_parallel": 1, "prompt_length": 128}
RUN |= dict.fromkeys(("speed", "ttft", "throughput", "latency", "top1"), 1.0)
RUN |= {"memory": {"used": 1, "weights": 1, "kv_cache": 0}, "decode": PHASE, "prefill": PHASE}
JOB = {"number": 1, "command": "demo", "model": "1b", "device": "n150", "status": "Finished", "speed": 1.0}
RESULT = {"completed": 1, "mean_ttft_ms": 5.0, "total_input_tokens": 9, "total_output_tokens": 3, "request_rate": "inf"}
PARAMS = {"dim": 64, "n_heads": 2, "n_layers": 1, "norm_eps": 1e-5, "vocab_size": 64, "multiple_of": 32}
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": []}
LOAD = "row,model,device,parallel,concurrency,requests,isl,osl,ttft_ms,tpot_ms,e2el_ms,date,stack,source\n"
LOAD += "1,1b,N150,,2,4,16,4,10,5,30,2025-09-01,vllm,here\n"
PROFILE = "OP CODE,OP TYPE,DEVICE ID,DEVICE KERNEL DURATION [ns]\nMatmul,tt_dnn_device,0,100\n"


def chat(path):
    load_chat(path.parent)


def tensors(path):
    """Opens a checkpoint and reads what it holds of three names."""
    found = open_checkpoint(path).tensors
    for name in ("embed_tokens.weight", "norm.weight", "layers.0.mlp.up_proj.weight"):
        if name in found:
            found.read(name)


# Name of the file -> what reads it. What a good one holds is in `good_files`.
READERS = {
    "config.json": lambda path: read_config(path),
    "vision/config.json": read_vision_config,
    "params.json": read_params,
    "hf/model.safetensors": lambda path: tensors(path.parent),
    "hf/model.safetensors.index.json": lambda path: tensors(path.parent),
    "a.gguf": tensors,
    "a.refpt": read_refpt,
    "chat/tokenizer.json": chat,
    "chat/tokenizer_config.json": chat,
    "chat/generation_config.json": chat,
    "chat/config.json": chat,
    "chat/chat_template.jinja": chat,
    "prompts.json": lambda path: load_prompts(path, 1),
    "system.toml": lambda path: get_system(str(path)),
    "question.toml": lambda path: read_question(str(path)),
    "decoders.json": Precision.from_decoder_json,
    "constants.json": load_constants,
    "settings.txt": lambda path: file_settings([path]),
    "windows.json": lambda path: SavedWindows(path, {}).of("run", 4),
    "run.json": lambda path: run_of(str(path), Question(model="1b")),
    "result.json": lambda path: read_result(str(path)),
    "measured.csv": lambda path: read_measured(str(path)),
    "load.csv": lambda path: read_load_rows(str(path)),
    "trace.csv": lambda path: read_trace(str(path)),
    "trace.jsonl": lambda path: read_trace(str(path)),
    "profile.csv": lambda path: read_profile(str(path), "decode"),
    "image.png": lambda path: image_size(str(path)),
    "logs/state.json": lambda path: State(path.parents[1]),
}


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """A good file for each reader: its bytes by name, in a folder with the files that it needs beside it."""
    folder = tmp_path_factory.mktemp("good")
    golden = Golden("llama-gqa")
    for name in READERS:
        (folder / name).parent.mkdir(exist_ok=True)
    save_hf(golden, folder / "hf")
    shards = {name: "model.safetensors" for name in golden.tensors}
    (folder / "hf/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    save_gguf(golden, folder / "a.gguf")
    tokens = {"reference_tokens": np.arange(8)[None], "top5_tokens": np.zeros((7, 5), np.int64)}
    write_torch_file(folder / "a.refpt", tokens)
    outputs = Outputs(np.ones((2, 4), np.int32), np.full((2, 4), 0.1, np.float32), np.ones((2, 4, 5), np.int32), 1.5)
    SavedWindows(folder / "windows.json", {}).keep("run", outputs)
    open_image(np.zeros((3, 5, 3), np.uint8)).save(folder / "image.png")
    texts = {
        "config.json": golden.json,
        "vision/config.json": str(np.load(GOLDEN / "vision/mllama.npz")["config"]),
        "params.json": json.dumps(PARAMS),
        "chat/tokenizer.json": json.dumps(TOKENIZER),
        "chat/tokenizer_config.json": json.dumps({"bos_token": "a", "eos_token": {"content": "b"}}),
        "chat/generation_config.json": json.dumps({"eos_token_id": [1]}),
        "chat/config.json": json.dumps({"eos_token_id": 1}),
        "chat/chat_template.jinja": "{{ messages[0]['content'] }}",
        "prompts.json": json.dumps([{"prompt": "Hi", "max_length": 5}]),
        "system.toml": print_systems("N300").replace('name = "', 'name = "My'),
        "question.toml": 'model = "1b"\nbatch_size = 2\nprompt_length = "1k"\n',
        "decoders.json": json.dumps({"decoders": {"0": LAYER, "1": LAYER}}),
        "constants.json": constants_json({}),
        "settings.txt": "precision_cfg = {ff2: bfp4}, fidelity_cfg = {}\n",
        "run.json": json.dumps(RUN),
        "result.json": json.dumps(RESULT),
        "measured.csv": "model,device,speed,ttft_ms,decode_tsu\n1b,N150,1,2,3\n",
        "load.csv": LOAD,
        "trace.csv": "time,prompt,output\n0,16,4\n1,32,4\n",
        "trace.jsonl": json.dumps({"timestamp": 0, "input_length": 16, "output_length": 4}) + "\n",
        "profile.csv": PROFILE,
        "logs/state.json": json.dumps({"last": 1, "jobs": [JOB]}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder, {name: (folder / name).read_bytes() for name in READERS}


def said(name, folder, read):
    """What a reader says of the file that lies there: nothing, or one line that tells a reader of it what is wrong."""
    try:
        read(folder / name)
    except (ValueError, OSError) as error:
        line = str(error)
    else:
        return
    assert line.isprintable(), line
    assert 0 < len(line) < 1500
    assert not re.search(r"NoneType|object has no|unhashable|codec can't|invalid literal|could not convert", line), line


@st.composite
def damages(draw):
    """How bytes are damaged: a function of them."""
    kind = draw(st.sampled_from(["bytes", "cut", "twice", "line ends", "mark", "utf-16", "gzip", "insert", "replace"]))
    at, value = draw(st.integers(0, 10**6)), draw(st.sampled_from(_PIECES))
    spots = draw(_SPOTS)

    def damage(data):
        if kind == "bytes":
            data = bytearray(data)
            for place, byte in spots:
                data[place % len(data)] = byte
        elif kind == "replace":  # a value between two signs
            ends = [m.start() for m in re.finditer(rb"[,:\]}\n=]", data[:5000])] or [0]
            first = at % len(ends)
            data = data[: ends[first] + 1] + value + data[ends[min(first + 1, len(ends) - 1)] :]
        place = at % (len(data) + 1)
        changes = {
            "cut": lambda: data[:place],
            "twice": lambda: data + data,
            "line ends": lambda: data.replace(b"\n", b"\r\n").replace(b",", b",\r\n"),
            "mark": lambda: b"\xef\xbb\xbf" + data,
            "utf-16": lambda: data.decode("latin-1").encode("utf-16"),
            "gzip": lambda: gzip.compress(bytes(data[:1000]), mtime=0),
            "insert": lambda: data[:place] + value + data[place:],
        }
        return bytes(changes[kind]()) if kind in changes else bytes(data)

    return damage


_SPOTS = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4)
_PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"true",
    b'""',
    b'"\\ud800"',
    b"[]",
    b"{}",
    b"0",
    b"1.5",
]
_PIECES += [b"9" * 5000, b"[" * 5000, b'{"a":' * 5000, b"x" * 200_000, b'"' + b"x" * 200_000 + b'"', b"1e200", b"[[1]]"]
_PIECES += [b"\x1b[31m", "\u202e".encode(), b"\r", b"a.b.c", b"2025-13-01", b"99999999999", struct.pack("<Q", 2**62)]


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(good_files, name):
    folder, _ = good_files
    READERS[name](folder / name)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=8)
@given(data=st.data())
def test_a_damaged_file_is_an_answer_or_one_line(good_files, name, data):
    folder, contents = good_files
    damaged = data.draw(damages())(contents[name])
    try:
        (folder / name).write_bytes(damaged)
        said(name, folder, READERS[name])
    finally:
        (folder / name).write_bytes(contents[name])


@pytest.mark.parametrize("kind", ["empty", "folder", "loop", "nowhere"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_one_line(good_files, name, kind):
    folder, contents = good_files
    path = folder / name
    path.unlink()
    try:
        {
            "empty": path.touch,
            "folder": path.mkdir,
            "loop": lambda: path.symlink_to(path.name),
            "nowhere": lambda: path.symlink_to("nowhere"),
        }[kind]()
        said(name, folder, READERS[name])
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
        path.write_bytes(contents[name])


@pytest.mark.parametrize("name", ["hf/model.safetensors", "a.gguf", "a.refpt"])
def test_a_file_that_shrinks_after_it_was_opened_is_one_line(good_files, tmp_path, name):
    """Weights are read when they are needed: long after the head that says where they are."""
    folder, contents = good_files
    path = folder / name
    if name == "a.refpt":
        from ttsim.models.checkpoints.torch_files import read_torch_file

        found = read_torch_file(path)
        read = lambda: [np.asarray(value) for value in found.values()]  # noqa: E731
    else:
        source = open_checkpoint(path.parent if "safetensors" in name else path).tensors
        read = lambda: [source.read(f"layers.0.mlp.{part}_proj.weight") for part in ("gate", "up", "down")]  # noqa: E731
    try:
        for size in (len(contents[name]) // 100, 8, 0):
            os.truncate(path, size)
            with pytest.raises(ValueError, match=re.escape(path.name)):
                read()
    finally:
        path.write_bytes(contents[name])
