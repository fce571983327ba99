"""Checkpoints from strangers: no file runs anything, reads outside of itself or takes more than it holds."""

import dataclasses
import io
import json
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile

import gguf
import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import Golden, save_gguf, save_hf, write_torch_file
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.gguf_header import read_gguf_header
from ttsim.models.checkpoints.loading import open_checkpoint
from ttsim.models.checkpoints.safetensors_files import SafetensorsFiles
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.torch_files import read_torch_file

MUTATED = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data, draws):
    """The bytes with some of them replaced."""
    data = bytearray(data)
    for place, value in draws:
        data[place % len(data)] = value
    return bytes(data)


DAMAGE = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


def archive(path, pickled, members=(), method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", pickled)
        for name, data in members:
            file.writestr(f"a/data/{name}", data)
    return path


# torch.save


class Runs:
    """What pickle would run."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def storage(kind="FloatStorage", key="0", count=64):
    return b"(X\x07\x00\x00\x00storagectorch\n%s\nX\x01\x00\x00\x00%sX\x03\x00\x00\x00cpuJ%stQ" % (
        kind.encode(), key.encode(), struct.pack("<i", count)
    )  # fmt: skip


def tensor(shape, strides, offset=0, **of):
    def number(value):
        return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)

    sides = [b"(" + b"".join(map(number, each)) + b"t" for each in (shape, strides)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**of) + number(offset) + b"".join(sides) + b"\x89NtR"


@pytest.mark.parametrize(
    "pickled",
    [
        *(pickle.dumps(Runs(), protocol) for protocol in range(6)),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(S'touch executed'\nios\nsystem\n.",
        b"\x80\x02ctorch\nBFloat16Storage\n(K\x03X\x01\x00\x00\x00<NNNK\x10K\x08K\x00tb.",  # BUILD on a storage's type
        b"\x80\x04\x8c\x05torch\x8c\x16FloatStorage.__class__\x93.",
        b"\x80\x02ccollections\nOrderedDict\n)R}b0ccollections\nOrderedDict\n.",
        b"Nr\xff\xff\xff\x7f\x80.",
        b"\x80\x02}q\x00h\x01.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 1_050_000 + b".",
        b"\x80\x02]a.",
        b"\x80\x02a.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02",
        b"\x82\x01.",
        b"\x80\x02}X\x01\x00\x00\x00aQ.",
        b"\x80\x02" + storage() + b".",
    ],
)
def test_no_pickle_runs_or_changes_anything(tmp_path, monkeypatch, pickled):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "x.pth", pickled)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"x\.pth: data\.pkl can't be read") as error:
        read_torch_file(path)
    assert str(error.value).isprintable()
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2
    assert not (tmp_path / "executed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ([1, 64], [0, -1], 0),
        ([2], [1], -1),
        ([65], [1], 0),
        ([8], [1], 60),
        ([2, 2], [2**62, 1], 0),
        ([2**62, 4], [1, 1], 0),
        ([10**8], [-4096], 0),
        ([10**6], [0], 0),
        ([8, 8], [8], 0),
        ([1] * 9, [1] * 9, 0),
        ([0], [1], 65),
    ],
)
def test_no_tensor_reaches_outside_of_its_storage(tmp_path, shape, strides, offset):
    path = archive(tmp_path / "x.pth", b"\x80\x02" + tensor(shape, strides, offset) + b".", [("0", bytes(256))])
    with pytest.raises(CheckpointError):
        read_torch_file(path)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.integers(0, 70),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_tensor_that_is_taken_is_the_storage_by_shape_and_strides(tmp_path, sides, offset):
    shape, strides = [n for n, _ in sides], [s for _, s in sides]
    path = tmp_path / "x.pth"
    path.unlink(missing_ok=True)
    values = np.arange(64, dtype=np.float32)
    archive(path, b"\x80\x02" + tensor(shape, strides, offset) + b".", [("0", values.tobytes())])
    places = [offset + sum(i * s for i, s in zip(at, strides, strict=True)) for at in np.ndindex(*shape)]
    inside = all(place < 64 for place in places) and offset <= 64 and len(places) <= 64
    if not inside:
        with pytest.raises(CheckpointError):
            read_torch_file(path)
        return
    assert np.asarray(read_torch_file(path)).ravel().tolist() == places


def test_a_storage_has_exactly_the_bytes_that_its_tensors_need(tmp_path):
    pickled = b"\x80\x02" + tensor([64], [1]) + b"."
    for members, method in (
        ([("0", bytes(255))], zipfile.ZIP_STORED),
        ([("0", bytes(2**22))], zipfile.ZIP_STORED),
        ([], zipfile.ZIP_STORED),
        ([("0", bytes(256))], zipfile.ZIP_DEFLATED),
    ):
        with pytest.raises(CheckpointError, match=r"x\.pth"):
            np.asarray(read_torch_file(archive(tmp_path / "x.pth", pickled, members, method)))
    bomb = archive(tmp_path / "b.pth", bytes(2**25), method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_file(bomb)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**22  # it was not unpacked


@given(DAMAGE)
@example([(365005, 2)])  # a directory whose members begin before the file
@MUTATED
def test_a_damaged_torch_file_is_one_line(tmp_path, draws):
    write_torch_file(tmp_path / "good.pth", {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)})
    path = tmp_path / "x.pth"
    path.write_bytes(damaged((tmp_path / "good.pth").read_bytes(), draws))
    try:
        found = read_torch_file(path)
        for value in found.values() if isinstance(found, dict) else ():
            np.asarray(value)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017


# safetensors


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small checkpoint in each form."""
    folder = tmp_path_factory.mktemp("good")
    golden = Golden("llama-gqa")
    save_hf(golden, folder / "hf")
    return folder, golden, save_gguf(golden, folder / "good.gguf").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, -4]},
        {"shape": [float("inf")]},
        {"shape": ["4"]},
        {"shape": [True]},
        {"shape": 4},
        {"shape": [2**62, 2**62]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [16, 0], "dtype": "I64"},
        {"data_offsets": [0, 2**70]},
        {"data_offsets": [0]},
        {"data_offsets": None},
        {"dtype": []},
        {"dtype": None},
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path, change):
    header = json.dumps({"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **change}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        SafetensorsFiles(path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "", ".", 5, None, ["a"], "a\0", "/dev/zero"])
def test_an_index_stays_in_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": name}}))
    with pytest.raises(CheckpointError, match=r"index\.json names the file|a file name must be a text"):
        SafetensorsFiles(tmp_path)


def test_a_packed_checkpoint_names_its_quantisation(tmp_path, good):
    from safetensors.numpy import save_file

    golden = good[1]
    (tmp_path / "config.json").write_text(
        json.dumps({**json.loads(golden.json), "quantization_config": {"quant_method": "awq", "bits": 4}})
    )
    save_file({"model.layers.0.mlp.up_proj.qweight": np.zeros(4, np.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json: quantization_config says 'awq'"):
        open_checkpoint(tmp_path)


# GGUF


@pytest.mark.parametrize("kind", [None, "Q8_0", "Q4_1", "Q5_0"])
def test_a_big_endian_file_has_the_same_values(tmp_path, good, kind):
    golden = good[1]
    little = GGUFFile(save_gguf(golden, tmp_path / "little.gguf", kind))
    big_path = save_gguf(golden, tmp_path / "big.gguf", kind, endianess=gguf.GGUFEndian.BIG)
    if kind:  # the writer leaves the halves in blocks as they are
        turn_halves(big_path)
    big = GGUFFile(big_path)
    assert big.config == dataclasses.replace(little.config, name="big")
    for name in ("embed_tokens.weight", "norm.weight", "layers.0.mlp.up_proj.weight"):
        np.testing.assert_array_equal(big.read(name), little.read(name))


def turn_halves(path):
    """Turns the 16-bit scales in the blocks of every quantised tensor, as a big-endian machine would store them."""
    from ttsim.models.checkpoints import gguf_files

    data = bytearray(path.read_bytes())
    for tensor in read_gguf_header(path).tensors:
        values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
        halves = {"Q8_0": 1, "Q4_1": 2, "Q5_0": 1}.get(gguf.GGMLQuantizationType(tensor.kind).name, 0)
        for block in range(int(np.prod(tensor.sides)) // values):
            for half in range(halves):
                at = tensor.offset + block * size + 2 * half
                data[at : at + 2] = data[at : at + 2][::-1]
    assert gguf_files  # the table under test is not the one used here
    path.write_bytes(bytes(data))


# ggml-common.h: the numbers of 16 bits that begin a block, and the bytes behind them.
BLOCKS = {
    "Q4_0": (1, 16),
    "Q4_1": (2, 16),
    "Q5_0": (1, 4 + 16),
    "Q5_1": (2, 4 + 16),
    "Q8_0": (1, 32),
    "Q4_K": (2, 12 + 128),
    "Q5_K": (2, 12 + 32 + 128),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_of_a_big_endian_file_are_turned_number_by_number(kind):
    from ttsim.models.checkpoints.gguf_files import _turned

    halves, rest = BLOCKS[kind]
    little = np.dtype([("scales", "<u2", halves), ("bytes", "u1", rest)])
    blocks = np.frombuffer(np.random.default_rng(0).bytes(3 * little.itemsize), little)
    big = np.frombuffer(blocks.astype(little.newbyteorder(">")).tobytes(), np.uint8)
    turned = _turned(big, gguf.GGMLQuantizationType[kind], "a tensor")
    assert turned.tobytes() == blocks.tobytes() != big.tobytes()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"extra_tensors": [("blk.0.attn_output.bias", (8,))]}, r"blk\.0\.attn_output\.bias.*not supported"),
        ({"extra_tensors": [("blk.0.attn_q_norm.weight", (8,))]}, r"attn_q_norm"),
        ({"extra_tensors": [("blk.0.ffn_gate_inp.weight", (8, 8))]}, r"ffn_gate_inp"),
        ({"extra_keys": [("rope.scaling.yarn_beta_fast", 32.0)]}, r"yarn_beta_fast"),
        ({"extra_keys": [("attention.head_count_kv", [2, 4])]}, r"differs between layers|head_count_kv"),
    ],
)
def test_parts_that_would_be_left_out_are_refused_by_name(tmp_path, good, extra, words):
    with pytest.raises((CheckpointError, ValueError), match=words):
        open_checkpoint(save_gguf(good[1], tmp_path / "x.gguf", **extra))


@given(DAMAGE)
@MUTATED
def test_a_damaged_gguf_file_is_one_line(tmp_path, good, draws):
    path = tmp_path / "x.gguf"
    path.write_bytes(damaged(good[2][:1500], draws) + good[2][1500:])
    try:
        file = GGUFFile(path)
        for name in ("embed_tokens.weight", "layers.0.mlp.up_proj.weight"):
            if name in file:
                file.read(name)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize("at", [8, 16, 24])
@pytest.mark.parametrize("count", [2**31, 2**40, 2**63 - 1, 2**64 - 1])
def test_counts_that_a_file_can_t_hold_cost_nothing(tmp_path, good, at, count):
    data = bytearray(good[2])
    data[at : at + 8] = struct.pack("<Q", count)
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.gguf is cut short or broken"):  # at once: 2^31 of them take minutes
        GGUFFile(path)


def test_the_head_agrees_with_the_gguf_package(tmp_path, good):
    path = tmp_path / "x.gguf"
    path.write_bytes(good[2])
    ours, theirs = read_gguf_header(path), gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.sides, mine.offset) == (other.name, tuple(map(int, other.shape)), other.data_offset)


def test_a_zip_that_claims_more_than_it_holds(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
    data = bytearray(out.getvalue())
    central = data.find(b"PK\x01\x02")
    data[central + 20 : central + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="cut short"):
        read_torch_file(tmp_path / "x.pth")
