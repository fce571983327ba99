"""Answers questions about a model on Tenstorrent hardware: speed, TTFT, memory, bottlenecks, what would change them.

python scripts/estimate.py --model=Llama3.1-8B --device=N150
python scripts/estimate.py --model=path/to/config.json --device=T3K --data_parallel=4 --batch_size=32
python scripts/estimate.py --model=8b --format=html --out=8b.html --trace=8b.trace.json --ops_csv=8b.csv
python scripts/estimate.py --model=8b --sweep=batch_size=1..32 --sweep=device=N150,N300
python scripts/estimate.py --model=8b --goal="speed>=30,ttft<=200ms"
python scripts/estimate.py --model=8b --compare device=N150 device=N300
"""

import sys

from absl import flags

from ttsim.cli.ask import Request, answer
from ttsim.meshes.systems import SYSTEMS
from ttsim.scenarios import question
from ttsim.ui import console

_MODEL = flags.DEFINE_string(
    "model", "Llama3.1-8B", "Published name, short name (8b), Hugging Face config.json or checkpoint directory."
)
_DEVICE = flags.DEFINE_string("device", None, f"System: {', '.join(SYSTEMS)}; N150 if there is no --system_file.")
_SYSTEM_FILE = flags.DEFINE_string("system_file", None, "TOML file that describes a system, instead of --device.")
_DATA_PARALLEL = flags.DEFINE_integer("data_parallel", 1, "Replicas that the system is cut into.", lower_bound=1)
_PRECISION = flags.DEFINE_string(
    "precision",
    "performance",
    'performance, accuracy, or "precision_cfg = {group: format}, fidelity_cfg = {group: setting}".',
)
_DECODER_CONFIG = flags.DEFINE_string("decoder_config_file", None, "tt_transformers' decoder JSON, for --precision.")
_OVERRIDE = flags.DEFINE_string("override", "", "Groups changed on top of the precision, e.g. ff2=bfp4,li_ff2=lofi.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Users of one replica.")
_PROMPT_LENGTH = flags.DEFINE_string("prompt_length", "128", "Tokens of each prompt; k is 1024 (64k).")
_NEW_TOKENS = flags.DEFINE_integer("max_generated_tokens", 200, "Tokens generated for each user.")
_IMAGE = flags.DEFINE_multi_string(
    "image", [], "An image in the prompt: its size (512x512) or a JPEG or PNG file. Repeatable."
)
_DATE = flags.DEFINE_string("date", None, "State of the software, ISO format; by default that of the published tables.")
_CONSTANTS = flags.DEFINE_string("constants", None, "File of fitted constants, as scripts/calibrate.py writes it.")
_ROWS = flags.DEFINE_integer("rows", 14, "Ops shown of each phase in text and markdown; 0 shows all.", lower_bound=0)
_ADVICE = flags.DEFINE_bool("advice", True, "Try known levers and show what each would bring.")
_SWEEP = flags.DEFINE_multi_string(
    "sweep",
    [],
    "Answer for all values of a field: batch_size=1..32, prompt_length=128,1k,...,64k, device=N150,N300, "
    "precision=performance;accuracy. Repeatable: all combinations.",
)
_GOAL = flags.DEFINE_string(
    "goal", None, 'Find the cheapest system and layout that meets this: "speed>=30,ttft<=200ms".'
)
_COMPARE = flags.DEFINE_multi_string(
    "compare",
    [],
    "Two runs side by side: --compare A B. Each is a list of changes (device=N300,batch_size=32) or a JSON estimate. "
    "One alone is compared with the run that the other flags describe.",
)
_TRACE = flags.DEFINE_string("trace", None, "Write a timeline that ui.perfetto.dev and chrome://tracing open.")
_OPS_CSV = flags.DEFINE_string("ops_csv", None, "Write an ops CSV that tt-perf-report reads.")
_DIFF = flags.DEFINE_string("diff", None, "Line the run up with the ops CSV of a device's profiler, op by op.")
_PHASE = flags.DEFINE_enum("phase", "decode", ["decode", "prefill"], "Which phase --diff compares.")
_LIST_CONSTANTS = flags.DEFINE_bool("list_constants", False, "List every constant: value, unit, kind, source.")
_PRINT_SYSTEM = flags.DEFINE_string("print_system", None, 'Print a built-in system as TOML for --system_file; "all".')
_FORMAT = flags.DEFINE_enum(
    "format", "text", ["text", "markdown", "json", "csv", "html"], "text for people, html with plots, csv and json."
)
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def main() -> None:
    request = Request(
        question=question.Question(
            model=_MODEL.value,
            device=_DEVICE.value or "N150",
            data_parallel=_DATA_PARALLEL.value,
            precision=_PRECISION.value,
            override=_OVERRIDE.value,
            batch_size=_BATCH_SIZE.value,
            prompt_length=question.parse_number(_PROMPT_LENGTH.value, "prompt_length"),
            max_generated_tokens=_NEW_TOKENS.value,
            date=_DATE.value,
            images=question.parse_field("images", "+".join(_IMAGE.value)),
        ),
        device_given=_DEVICE.value is not None,
        system_file=_SYSTEM_FILE.value,
        decoder_config_file=_DECODER_CONFIG.value,
        constants_file=_CONSTANTS.value,
        sweep=tuple(_SWEEP.value),
        goal=_GOAL.value,
        compare=tuple(_COMPARE.value),
        trace=_TRACE.value,
        ops_csv=_OPS_CSV.value,
        diff=_DIFF.value,
        phase=_PHASE.value,
        list_constants=_LIST_CONSTANTS.value,
        print_system=_PRINT_SYSTEM.value,
        advice=_ADVICE.value,
        rows=_ROWS.value,
        format=_FORMAT.value,
    )
    console.write(answer(request, colour=console.colour(_OUT.value), progress=console.progress("points")), _OUT.value)


if __name__ == "__main__":
    sys.argv = question.pair_arguments(sys.argv, "compare")
    console.run(main)
