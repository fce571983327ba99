"""Top-1 and Top-5 by tt_transformers' token-matching protocol, measured by running weights as the device would.

A window of text is prefilled (512 tokens, prefill's formats and settings) into the KV cache; then 511 teacher-forced
decode positions follow. Top-1 counts the positions where the device's argmax is the reference model's first choice,
Top-5 those where it is among the reference's five best. The reference is the same checkpoint without rounding, or a
`.refpt` file. With teacher forcing, decode's positions don't depend on each other's choices, so one causal pass with
decode's formats and settings computes all of them: what runs is the program that the simulator prices.

Source: tt-metal models/tt_transformers/tests/test_accuracy.py, May 2025.

The device's numerics are those of `ttsim.numerics.switches`; `ttsim.numerics.left_out` says what is not modelled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from ttsim.accuracy.refpt import ReferenceFile, read_refpt
from ttsim.accuracy.results import PUBLISHED, AccuracyReport, Outputs, Protocol, Score
from ttsim.accuracy.runner import Runner
from ttsim.accuracy.saved import SavedWindows, identity, joined
from ttsim.files.progress import Progress
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.checkpoints.loading import Checkpoint, Storage, load_model, open_checkpoint
from ttsim.models.checkpoints.tokenizers import load_tokenizer
from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.numerics import switches
from ttsim.precision.presets import preset, resolve
from ttsim.precision.values import Precision

TEXT = "tale_of_two_cities.txt"  # the opening of the published runs' book, Project Gutenberg #98, public domain


def bundled_text() -> str:
    """The text that ships with the project."""
    return (resources.files("ttsim.data") / TEXT).read_text(encoding="utf-8")


def cut_windows(tokens: Sequence[int], protocol: Protocol, count: int, bos: int | None = None) -> np.ndarray:
    """Consecutive windows of a text.

    Args:
      tokens: of the text, without BOS.
      count: windows.
      bos: token that begins every window, where the tokenizer adds one.

    Returns:
      int32 [count, protocol.length].

    Raises:
      ValueError: the text is too short.
    """
    size = protocol.length - (bos is not None)
    if count < 1 or count * size > len(tokens):
        raise ValueError(
            f"the text has {len(tokens)} tokens: {len(tokens) // size} windows of {protocol.length}, not {count}"
        )
    windows = np.asarray(tokens[: count * size], np.int32).reshape(count, size)
    return windows if bos is None else np.insert(windows, 0, bos, axis=1)


def _reference_windows(file: ReferenceFile, protocol: Protocol, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A reference file's window and its best five tokens after each decode position."""
    if count != 1:
        raise ValueError(f"a reference file has one window, not {count}")
    if protocol.length > len(file.tokens):
        raise ValueError(f"the reference file has {len(file.tokens)} tokens, {protocol} needs {protocol.length}")
    rows = slice(protocol.prefill, protocol.prefill + protocol.decode)
    return file.tokens[None, : protocol.length], file.top5[None, rows]


def measure_accuracy(
    weights: str | os.PathLike[str] | Checkpoint,
    device: str | System = "N150",
    precision: str | Precision = "performance",
    *,
    data_parallel: int = 1,
    numerics: str | switches.Numerics = "device",
    protocol: Protocol = PUBLISHED,
    windows: int = 1,
    text: str | None = None,
    tokens: np.ndarray | None = None,
    reference_file: str | os.PathLike[str] | None = None,
    compare_bf16: bool = True,
    storage: Storage | None = None,
    label: str | None = None,
    progress: bool | None = None,
    log: Callable[[str], None] | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> AccuracyReport:
    """Top-1 and Top-5 of a checkpoint on a system under a precision.

    One model is in memory at a time: the checkpoint is streamed once for the reference, once for bf16 and once for the
    precision that is asked for.

    Args:
      weights: what `open_checkpoint` takes, or a checkpoint.
      device: "N150", "N300", "T3K", "TG", or a system; needs as many JAX devices (virtual CPU devices will do).
      precision: a preset's name, a `precision_cfg = {...}, fidelity_cfg = {...}` text, or a value.
      data_parallel: replicas, which share the windows.
      numerics: effects of the device beyond formats and operand bits: "device", "masked" (none), or a value
        (`ttsim.numerics.switches`). The reference has none in any case.
      protocol: lengths of prefill and decode.
      windows: consecutive pieces of the text; several give a mean and a spread.
      text: text to run; by default the bundled one.
      tokens: int [windows, protocol.length] instead of a text.
      reference_file: a `.refpt` file, whose tokens and choices replace the text and the reference run.
      compare_bf16: also measure the bf16 preset, for the drop against it.
      storage: see `load_model`; None: the fastest one that fits the host's memory.
      label: what the report calls the precision; by default its name or text.
      progress: bars on stderr; None: on a terminal.
      log: told the running accuracy, line by line.
      resume: a file that finished windows are kept in, and taken from if it is there.

    Raises:
      ValueError: unknown names, a text that is too short or `CheckpointError`.
    """
    began = time.perf_counter()
    checkpoint = weights if isinstance(weights, Checkpoint) else open_checkpoint(weights)
    config, system = checkpoint.config, get_system(device, data_parallel)
    numerics = switches.get_numerics(numerics)
    layout = Layout(config, system, max_seq_len=-(-protocol.length // 32) * 32)
    label = label or (precision if isinstance(precision, str) else precision.to_text())
    mesh, storage = _mesh(system), storage or _storage(config)
    seconds = {"load": 0.0, "compile": 0.0}
    file = None if reference_file is None else read_refpt(reference_file)
    if file is not None:
        cut, best = _reference_windows(file, protocol, windows)
    else:
        cut = _windows(checkpoint, protocol, windows, text) if tokens is None else np.asarray(tokens, np.int32)
    precision = resolve(precision, config.known_name)
    about = {"config": config, "device": system.label, "precision": precision.to_text(), "protocol": protocol}
    about["numerics"] = numerics
    run_id = identity(weights=checkpoint.path.resolve(), **about, storage=storage, tokens=cut)
    saved = SavedWindows(resume, run_id, writes=jax.process_index() == 0)

    def run(
        part: str, precision: Precision, top5: bool = False, score: Callable[[Outputs], str] | None = None
    ) -> Outputs:
        done = saved.of(part, protocol.decode)
        first = 0 if done is None else len(done.choice)
        if done is not None and first >= len(cut):
            seconds[part] = done.seconds
            return done
        start = time.perf_counter()
        model = load_model(checkpoint, layout, precision, mesh, storage=storage, progress=progress)
        jax.block_until_ready(jax.tree.leaves(model))
        seconds["load"] += time.perf_counter() - start
        with Progress(part, -(-(len(cut) - first) // system.data_parallel), progress, first="compiling") as bar:

            def on_window(new: Outputs) -> None:
                outputs = joined(done, new)
                saved.keep(part, outputs)
                line = score(outputs) if score else ""
                bar.advance(line)
                if log and line:
                    log(f"{part}: {len(outputs.choice)}/{len(cut)} windows, {line}")

            runner = Runner(layout, precision, protocol, mesh, top5=top5)
            with switches.using(numerics):
                outputs = joined(done, runner(model, cut[first:], on_window))
        seconds[part] = outputs.seconds
        seconds["compile"] += runner.compile_seconds
        return outputs

    nll: np.ndarray | None = None
    if reference_file is not None:
        source = Path(reference_file).name
    else:
        exact = run("reference", preset("fp32", config.known_name), top5=True)
        assert exact.top5 is not None
        best, nll, source = exact.top5, exact.nll, "the same checkpoint in fp32"

    def running(outputs: Outputs) -> str:
        score = Score.of(outputs, best[: len(outputs.choice)])
        return f"Top-1: {score.top1.mean():.1f} % | Top-5: {score.top5.mean():.1f} %"

    bf16 = Score.of(run("bf16", preset("bf16", config.known_name), score=running), best, nll) if compare_bf16 else None
    score = Score.of(run("run", precision, score=running), best, nll)
    seconds["total"] = time.perf_counter() - began
    return AccuracyReport(
        model=config.name,
        device=system.label,
        precision=label,
        reference=source,
        protocol=protocol,
        score=score,
        bf16=bf16,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _mesh(system: System) -> Mesh:
    """The system's mesh over JAX's devices, or over CPU devices where there are too few accelerators."""
    return system.mesh(jax.devices() if len(jax.devices()) >= system.num_chips else jax.devices("cpu"))


def _storage(config: ModelConfig) -> Storage:
    """The fastest way to hold the weights that leaves a third of the host's memory to everything else."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = config.parameter_count + config.vocab_size * config.hidden_size  # a tied LM head is held twice
    if 4 * values < memory * 2 / 3:
        return "float32"
    return "bfloat16" if 2 * values < memory * 2 / 3 else "packed"


def _windows(checkpoint: Checkpoint, protocol: Protocol, count: int, text: str | None) -> np.ndarray:
    tokenizer = load_tokenizer(checkpoint.path)
    tokens = tokenizer.encode(bundled_text() if text is None else text)
    return cut_windows(tokens, protocol, count, tokenizer.bos)
