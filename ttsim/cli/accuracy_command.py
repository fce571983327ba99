"""`ttsim accuracy`: Top-1 and Top-5 of real weights under a precision, measured."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import DATA_PARALLEL, DECODER_CONFIG, DEVICE, FORMAT, OUT, PRECISION, WEIGHTS, Flag
from ttsim.cli.main import Command

_FLAGS = (
    WEIGHTS.but(aliases=("model",)),
    DEVICE.but(default="N150"),
    DATA_PARALLEL.but(help="Replicas the system is cut into; they share the windows."),
    PRECISION,
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
    FORMAT,
    OUT,
    Flag("expect_top1", "Fail (exit code 1) when Top-1 is below this value - 0.5.", "real"),
    Flag("expect_top5", "Fail (exit code 1) when Top-5 is below this value - 0.5.", "real"),
)


def _run(values: Any) -> int:
    import sys
    from pathlib import Path

    if values.weights is None:
        raise ValueError(
            "--weights is missing: a Hugging Face directory, a .gguf file or SmolLM2-135M (`ttsim fetch-model`); "
            "without weights, `ttsim estimate` estimates Top-1 and Top-5"
        )
    from ttsim.files.reading import read_text
    from ttsim.precision.values import Precision, resolve

    resolve(values.precision, "")  # what needs no weights is looked at before they are loaded
    text = read_text(values.text_file) if values.text_file else None
    if values.decoder_config_file:
        Precision.from_decoder_json(Path(values.decoder_config_file))
    if values.reference_file:
        from ttsim.accuracy.refpt import read_refpt

        read_refpt(values.reference_file)

    import jax

    from ttsim.accuracy.measured import measure_accuracy
    from ttsim.accuracy.results import Protocol, failures
    from ttsim.meshes.systems import get_system
    from ttsim.models.checkpoints.loading import open_checkpoint
    from ttsim.ui import accuracy_page, console

    system = get_system(values.device, values.data_parallel)
    jax.config.update("jax_num_cpu_devices", system.num_chips)
    checkpoint = open_checkpoint(values.weights)
    precision = resolve(values.precision, checkpoint.config.name)
    if values.decoder_config_file:
        precision = Precision.from_decoder_json(Path(values.decoder_config_file), precision)
    report = measure_accuracy(
        checkpoint,
        system,
        precision,
        protocol=Protocol(values.prefill, values.decode),
        windows=values.windows,
        text=text,
        reference_file=values.reference_file,
        compare_bf16=values.bf16,
        storage=values.storage,
        label=None if values.decoder_config_file else values.precision,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    console.show(accuracy_page.document(report), values.format, values.out)
    failed = failures(report, values.expect_top1, values.expect_top5)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


COMMANDS = {
    "accuracy": Command(
        "accuracy",
        """Top-1 and Top-5 of real weights under a precision, measured on one chip or a mesh of virtual ones.
        ttsim fetch-model && ttsim accuracy --weights=SmolLM2-135M
        ttsim accuracy --weights=path/to/Llama-3.2-1B-Instruct --device=N300 --precision=accuracy
        ttsim accuracy --weights=model.gguf --windows=4 --expect_top1=90 --expect_top5=100""",
        _FLAGS,
        _run,
    )
}
