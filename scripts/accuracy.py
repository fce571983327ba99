"""Measures Top-1 and Top-5 of real weights under a precision, on one chip or a mesh of virtual ones.

python scripts/fetch_model.py && python scripts/accuracy.py --weights=SmolLM2-135M
python scripts/accuracy.py --weights=path/to/Llama-3.2-1B-Instruct --device=N300 --optimizations=accuracy
python scripts/accuracy.py --weights=model.gguf --windows=4 --expect_top1=90 --expect_top5=100
"""

import sys
from pathlib import Path

import jax
from absl import flags

from ttsim.accuracy.measured import measure_accuracy
from ttsim.accuracy.results import FORMATS, Protocol, failures
from ttsim.meshes.systems import get_system
from ttsim.models.checkpoints.loading import open_checkpoint
from ttsim.precision.values import Precision, resolve
from ttsim.ui import console

_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Hugging Face directory, .gguf file, directory with Meta's consolidated.*.pth, hub repository, published model's "
    "name, or SmolLM2-135M.",
    required=True,
)
_DEVICE = flags.DEFINE_string("device", "N150", "N150, N300, T3K or TG.")
_DATA_PARALLEL = flags.DEFINE_integer("data_parallel", 1, "Replicas the system is cut into; they share the windows.")
_OPTIMIZATIONS = flags.DEFINE_string(
    "optimizations",
    "performance",
    'performance, accuracy, bf16, fp32, or "precision_cfg = {ff1_3: bfp4, ...}, fidelity_cfg = {li_ff1_3: lofi, ...}, '
    'model_cfg = {logits: bf16, ...}".',
)
_DECODER_CONFIG = flags.DEFINE_string("decoder_config_file", None, "tt_transformers' decoder JSON, over the above.")
_REFERENCE_FILE = flags.DEFINE_string("reference_file", None, "A .refpt file in place of the text and reference run.")
_TEXT_FILE = flags.DEFINE_string("text_file", None, "UTF-8 text; by default the opening of A Tale of Two Cities.")
_WINDOWS = flags.DEFINE_integer("windows", 1, "Consecutive windows of the text; several give a mean and a spread.")
_PREFILL = flags.DEFINE_integer("prefill", 512, "Tokens of each window that are prefilled.")
_DECODE = flags.DEFINE_integer("decode", 511, "Positions of each window that are decoded and counted.")
_BF16 = flags.DEFINE_bool("bf16", True, "Also measure the bf16 preset, for the drop against it.")
_STORAGE = flags.DEFINE_enum(
    "storage",
    None,
    ["float32", "bfloat16", "packed"],
    "How weights are held, fastest first, smallest last; by default the first that fits the host's memory.",
)
_FORMAT = flags.DEFINE_enum("format", "text", list(FORMATS), "text for people, json or markdown for programs.")
_EXPECT_TOP1 = flags.DEFINE_float("expect_top1", None, "Fail (exit code 1) when Top-1 is below this value - 0.5.")
_EXPECT_TOP5 = flags.DEFINE_float("expect_top5", None, "Fail (exit code 1) when Top-5 is below this value - 0.5.")


def main() -> int:
    system = get_system(_DEVICE.value, _DATA_PARALLEL.value)
    jax.config.update("jax_num_cpu_devices", system.num_chips)
    checkpoint = open_checkpoint(_WEIGHTS.value)
    precision = resolve(_OPTIMIZATIONS.value, checkpoint.config.known_name)
    if _DECODER_CONFIG.value:
        precision = Precision.from_decoder_json(Path(_DECODER_CONFIG.value), precision)
    report = measure_accuracy(
        checkpoint,
        system,
        precision,
        protocol=Protocol(_PREFILL.value, _DECODE.value),
        windows=_WINDOWS.value,
        text=Path(_TEXT_FILE.value).read_text(encoding="utf-8") if _TEXT_FILE.value else None,
        reference_file=_REFERENCE_FILE.value,
        compare_bf16=_BF16.value,
        storage=_STORAGE.value,
        label=None if _DECODER_CONFIG.value else _OPTIMIZATIONS.value,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    console.write(FORMATS[_FORMAT.value](report), None)
    failed = failures(report, _EXPECT_TOP1.value, _EXPECT_TOP5.value)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    console.run(main)
