"""`ttsim accuracy`: Top-1 and Top-5 of real weights under a precision, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ttsim.cli.flags import (
    DATA_PARALLEL,
    DECODER_CONFIG,
    DEVICE,
    FORMAT,
    NUMERICS,
    OUT,
    PRECISION,
    PROCESSES,
    WEIGHTS,
    Flag,
)
from ttsim.cli.main import Command

if TYPE_CHECKING:
    from ttsim.accuracy.results import AccuracyReport
    from ttsim.meshes.processes import Group
    from ttsim.meshes.systems import System

_FLAGS = (
    WEIGHTS.but(aliases=("model",)),
    DEVICE.but(default="N150"),
    DATA_PARALLEL.but(help="Replicas the system is cut into; they share the windows."),
    PRECISION,
    NUMERICS,
    DECODER_CONFIG.but(help="tt_transformers' decoder JSON, over --precision."),
    Flag("reference_file", "A .refpt file in place of the text and reference run."),
    Flag("text_file", "UTF-8 text; by default the opening of A Tale of Two Cities."),
    Flag("windows", "Consecutive windows of the text; several give a mean and a spread.", "number", 1, least=1),
    Flag("prefill", "Tokens of each window that are prefilled.", "number", 512, least=1),
    Flag("decode", "Positions of each window that are decoded and counted.", "number", 511, least=1),
    Flag("bf16", "Also measure the bf16 preset, for the drop against it.", "switch", True),
    Flag(
        "storage",
        "How weights are held, fastest first, smallest last; by default the first that fits the host's memory.",
        choices=("float32", "bfloat16", "packed"),
    ),
    Flag(
        "platform",
        "Where it runs: what JAX finds, or a board by Tenstorrent's JAX plugin (fp32 and bf16; checks the program).",
        default="host",
        choices=("host", "tt"),
    ),
    FORMAT,
    OUT,
    Flag("resume", "Keep finished windows in this file, and go on from those in it.", writes=True),
    *PROCESSES,
    Flag("expect_top1", "Fail (exit code 1) when Top-1 is below this value - 0.5.", "real"),
    Flag("expect_top5", "Fail (exit code 1) when Top-5 is below this value - 0.5.", "real"),
)


def _run(values: Any) -> int:
    from pathlib import Path

    if values.weights is None:
        raise ValueError(
            "--weights is missing: a Hugging Face directory, a .gguf file or SmolLM2-135M (`ttsim fetch-model`); "
            "without weights, `ttsim estimate` estimates Top-1 and Top-5"
        )
    from ttsim.files.reading import read_text
    from ttsim.meshes.platforms import choose
    from ttsim.precision.presets import resolve
    from ttsim.precision.values import Precision

    resolve(values.precision, "")  # what needs no weights is looked at before they are loaded
    choose(values.platform, values.precision)
    text = read_text(values.text_file) if values.text_file else None
    if values.decoder_config_file:
        Precision.from_decoder_json(Path(values.decoder_config_file))
    if values.reference_file:
        from ttsim.accuracy.refpt import read_refpt

        read_refpt(values.reference_file)

    from ttsim.meshes.lookup import get_system
    from ttsim.meshes.processes import join

    system = get_system(values.device, values.data_parallel)
    with join(system.num_chips, values.coordinator, values.processes, values.process_id) as group:
        report = _measure(values, system, text, group)
    from ttsim.accuracy.results import failures
    from ttsim.ui import accuracy_page, console

    failed = failures(report, values.expect_top1, values.expect_top5)
    if group.first:
        console.show(accuracy_page.document(report), values.format, values.out)
        console.warn(failed)
    return 1 if failed else 0


def _measure(values: Any, system: System, text: str | None, group: Group) -> AccuracyReport:
    import sys
    from pathlib import Path

    from ttsim.accuracy.measured import measure_accuracy
    from ttsim.accuracy.results import Protocol
    from ttsim.models.checkpoints.loading import open_checkpoint
    from ttsim.precision.presets import resolve
    from ttsim.precision.values import Precision

    checkpoint = open_checkpoint(values.weights)
    precision = resolve(values.precision, checkpoint.config.known_name)
    if values.decoder_config_file:
        precision = Precision.from_decoder_json(Path(values.decoder_config_file), precision)
    return measure_accuracy(
        checkpoint,
        system,
        precision,
        numerics=values.numerics,
        protocol=Protocol(values.prefill, values.decode),
        windows=values.windows,
        text=text,
        reference_file=values.reference_file,
        compare_bf16=values.bf16,
        storage=values.storage,
        label=None if values.decoder_config_file else values.precision,
        progress=None if group.first else False,
        log=(lambda line: print(line, file=sys.stderr, flush=True)) if group.first else None,
        resume=values.resume,
    )


COMMANDS = {
    "accuracy": Command(
        "accuracy",
        """Top-1 and Top-5 of real weights under a precision, measured on one chip or a mesh of virtual ones.
        ttsim fetch-model && ttsim accuracy --weights=SmolLM2-135M
        ttsim accuracy --weights=path/to/Llama-3.2-1B-Instruct --device=N300 --precision=accuracy
        ttsim accuracy --weights=model.gguf --windows=4 --expect_top1=90 --expect_top5=100
        ttsim accuracy --weights=DIR --device=T3K --dp=8 --windows=32 --coordinator=host:99 --processes=2 --process_id=0
        Each process holds its own shards only and process 0 prints; --resume=FILE goes on where a run was ended.""",
        _FLAGS,
        _run,
    )
}
