"""Several processes as one: equal results, printed once; a lost process ends the others; ended runs go on."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from checkpoint_files import Golden, save_hf

from ttsim.accuracy import measured as accuracy
from ttsim.accuracy.results import Outputs, Protocol
from ttsim.accuracy.saved import SavedWindows, identity, joined
from ttsim.files.reading import InputError
from ttsim.generation.generate import Generator
from ttsim.meshes.lookup import get_system
from ttsim.meshes.processes import join
from ttsim.models.checkpoints.loading import load_model, open_checkpoint
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.precision.presets import preset

PROTOCOL = Protocol(32, 16)
# Text and accuracy as one process has them: each process runs it on its share of the chips.
_COMPILE_SOON = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PROGRAM = """
import sys, json
import numpy as np
from ttsim.meshes.processes import join
coordinator, count, index, weights = sys.argv[1:]
with join(4, coordinator, int(count), int(index)) as group:
    from test_processes import everything
    print(json.dumps(everything(weights)))
"""
WAITS = """
import sys, jax
from ttsim.meshes.processes import join
with join(2, sys.argv[1], int(sys.argv[2]), int(sys.argv[3])) as group:
    print("joined", flush=True)
    if group.first:
        from jax.experimental import multihost_utils
        multihost_utils.sync_global_devices("a collective that the other never joins")
    import time
    time.sleep(600)
"""


def measured(weights, path, precision="performance", **options):
    return accuracy.measure_accuracy(
        weights, "N150", precision, protocol=PROTOCOL, tokens=tokens(), windows=3, compare_bf16=False,
        progress=False, resume=path, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_hf(Golden("llama-gqa"), folder)
    return folder


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(program, count, *arguments):
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, coordinator, str(count), str(index), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": _COMPILE_SOON},
        )
        for index in range(count)
    ]


def tokens():
    return np.random.default_rng(0).integers(0, 64, (3, 49))


def everything(weights):
    """Greedy tokens and accuracies on four chips in two replicas, as lists."""
    layout = Layout(read_config(weights), get_system("N150x4", 2), max_seq_len=128)
    mesh = layout.system.mesh()
    model = load_model(open_checkpoint(weights), layout, preset("fp32", ""), mesh)
    generator = Generator(model, layout, preset("fp32", ""), batch_size=1, mesh=mesh)
    text = generator([[1, 2, 3], [4, 5]], max_generated_tokens=4)
    score = accuracy.measure_accuracy(
        weights, "N150x4", "fp32", data_parallel=2, protocol=PROTOCOL, tokens=tokens(), windows=3, compare_bf16=False,
        progress=False,
    ).score  # fmt: skip
    return [list(map(list, text.tokens)), score.top1.tolist(), score.top5.tolist(), score.delta_nll.tolist()]


def test_four_processes_say_what_one_says(weights):
    processes = [*start(PROGRAM, 1, weights), *start(PROGRAM, 4, weights)]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs
    alone, *found = [json.loads(out) for out, _ in outputs]
    assert found == found[:1] * 4
    assert found[0][:3] == alone[:3]
    np.testing.assert_allclose(found[0][3], alone[3], atol=1e-5)


def test_a_lost_process_ends_the_other_in_one_line():
    first, second = start(WAITS, 2)
    assert first.stdout.readline() == "joined\n"
    assert second.stdout.readline() == "joined\n"
    second.kill()
    _, said = first.communicate(timeout=60)  # the collective itself would wait for longer
    assert first.returncode == 1
    assert said == "error: process 1 of this run has ended: so does this one\n"
    second.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((8, "a:1", 3, 0), "8 chips don't divide over 3 processes"),
        ((8, "a:1", 2, 2), "process_id must be 0 to 1, not 2"),
        ((8, "a:1", 0, 0), "processes must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words), join(*arguments):
        pass


# Going on


class Fake:
    """A runner whose outputs are a function of the windows alone."""

    compile_seconds = 0.0

    def __init__(self, layout, precision, protocol, mesh, *, top5):
        self.decode, self.top5 = protocol.decode, top5

    def __call__(self, model, windows, on_window):
        for count in range(1, len(windows) + 1):
            choice = windows[:count, -self.decode :].astype(np.int32)
            nll = choice.astype(np.float32) / 3
            outputs = Outputs(choice, nll, np.stack([choice] * 5, -1) if self.top5 else None, 0.5 * count)
            on_window(outputs)
        return outputs


class EndedError(Exception):
    pass


def test_a_run_that_was_ended_goes_on_with_the_windows_that_it_has(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "Runner", Fake)
    loads = []
    monkeypatch.setattr(accuracy, "load_model", lambda *args, **options: loads.append(1))
    path = tmp_path / "run.json"
    whole = measured(weights, None).score

    def end(line):
        if line.startswith("run: 2/3"):
            raise EndedError

    with pytest.raises(EndedError):
        measured(weights, path, log=end)
    loads.clear()
    lines = []
    report = measured(weights, path, log=lines.append)
    assert [line.split(",")[0] for line in lines] == ["run: 3/3 windows"]
    assert len(loads) == 1  # the reference is not run again
    for name in ("top1", "top5", "delta_nll"):
        assert getattr(report.score, name).tolist() == getattr(whole, name).tolist()
    assert report.seconds["run"] == 1.5
    loads.clear()
    assert measured(weights, path).score.top1.tolist() == whole.top1.tolist()
    assert not loads  # all windows are there: no weights are needed


def test_windows_of_another_run_are_refused(tmp_path):
    path = tmp_path / "run.json"
    outputs = Outputs(np.ones((2, 4), np.int32), np.full((2, 4), 0.1, np.float32), np.ones((2, 4, 5), np.int32), 1.5)
    SavedWindows(path, identity(precision="a", tokens=np.arange(3))).keep("run", outputs)
    same = SavedWindows(path, identity(precision="a", tokens=np.arange(3))).of("run", 4)
    np.testing.assert_array_equal(same.choice, outputs.choice)
    np.testing.assert_array_equal(same.nll, outputs.nll)
    assert joined(same, outputs).top5.shape == (4, 4, 5)
    for other in (identity(precision="b", tokens=np.arange(3)), identity(precision="a", tokens=np.arange(4))):
        with pytest.raises(InputError, match=r"run\.json has the windows of another run"):
            SavedWindows(path, other)
    with pytest.raises(InputError, match="has the shape"):
        SavedWindows(path, {}).of("run", 5)
    stored = json.loads(path.read_text())
    for bad in ("x", [[1, "a"]], None, [[1] * 4] * 3):
        stored["parts"]["run"]["nll"] = bad
        path.write_text(json.dumps(stored))
        with pytest.raises(InputError, match=r"run\.json: nll of run"):
            SavedWindows(path, {}).of("run", 4)
