"""Generates text as tt_transformers' demo does, with the device's numerics, and reports the device's clock.

python scripts/text_demo.py --weights=SmolLM2-135M --input_prompts="Why is the sky blue?"
python scripts/text_demo.py --simulate_only --model=Llama3.1-8B --device=T3K --test="accuracy and batch-32"
python scripts/text_demo.py --weights=SmolLM2-135M --test=batch-32 --decoder_config_file=winner.json
"""

import os
import sys

from absl import flags

from ttsim.ui import console, text

_BOOLEAN = ["0", "1", "false", "true"]


def _switch(name: str, meaning: str) -> flags.FlagHolder:
    return flags.DEFINE_enum(name, None, _BOOLEAN, meaning, case_sensitive=False)


_TEST = flags.DEFINE_string(
    "test",
    "batch-1",
    "Test id: batch-1, batch-32, long-context-64k, long-context-16k, reasoning-1, ci-1, ci-32, DP-4-b1, DP-8-b1, "
    'DP-4-b32, ci-b1-DP-4, ci-b1-DP-8; with a preset as in pytest\'s -k: "accuracy and batch-32".',
    short_name="k",
)
_MODEL = flags.DEFINE_string("model", None, "Model to simulate, $HF_MODEL by default; with --weights it is theirs.")
_DEVICE = flags.DEFINE_string("device", None, "N150, N300, T3K or TG; $MESH_DEVICE by default, else N150.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Checkpoint: directory, GGUF file, hub name or SmolLM2-135M.")
_SIMULATE = flags.DEFINE_boolean("simulate_only", False, "Only the clock: no weights, no text.")
_LINES = flags.DEFINE_enum(
    "iterations", None, ["all", "some", "none"], "Iteration lines; by default some on a terminal, else all."
)
# The published demo's overrides.
_PROMPTS = flags.DEFINE_string("input_prompts", None, "Prompt file (JSON), name of a bundled one, or the prompt.")
_INSTRUCT = _switch("instruct", "Whether prompts go through the chat template.")
_REPEAT = flags.DEFINE_integer("repeat_batches", None, "Batches, one after another.")
_SEQ = flags.DEFINE_integer("max_seq_len", None, "Longest prompt with its generated tokens.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Users of one replica: 1, 2, 4, 8, 16 or 32.")
_TOKENS = flags.DEFINE_integer("max_generated_tokens", None, "Decode iterations.")
_DP = flags.DEFINE_integer("data_parallel", None, "Replicas that the device is cut into.")
_PAGED = _switch("paged_attention", "Whether the KV cache is paged.")
_PAGES = flags.DEFINE_string("page_params", None, '{"page_block_size": 32, "page_max_num_blocks_per_dp": 1024}')
_SAMPLING = flags.DEFINE_string("sampling_params", None, '{"temperature": 0, "top_p": 0.08}; "seed" is ours.')
_STOP = _switch("stop_at_eos", "Whether a user ends with an end-of-sequence token.")
_OPTIMIZATIONS = flags.DEFINE_string(
    "optimizations", None, 'performance, accuracy, or "precision_cfg = {...}, fidelity_cfg = {...}".'
)
_DECODERS = flags.DEFINE_string("decoder_config_file", None, "Decoder JSON: a precision for each layer.")


def _truth(value: str | None) -> bool | None:
    return None if value is None else value.lower() in ("1", "true")


def main() -> None:
    from ttsim.generation import demo

    test, preset = demo.parse_test(_TEST.value)
    base = demo.TESTS[test]
    settings = demo.settings_with(
        test,
        {
            "input_prompts": _PROMPTS.value,
            "instruct": _truth(_INSTRUCT.value),
            "repeat_batches": _REPEAT.value,
            "max_seq_len": _SEQ.value,
            "batch_size": _BATCH.value,
            "max_generated_tokens": _TOKENS.value,
            "data_parallel": _DP.value,
            "paged_attention": _truth(_PAGED.value),
            "page_params": _PAGES.value and demo.parse_page_params(_PAGES.value, base.page_params),
            "sampling_params": _SAMPLING.value and demo.parse_sampling_params(_SAMPLING.value, base.sampling_params),
            "stop_at_eos": _truth(_STOP.value),
        },
    )
    device = _DEVICE.value or os.environ.get("MESH_DEVICE", "N150")
    optimizations = _OPTIMIZATIONS.value or preset
    if _SIMULATE.value:
        _simulate(demo, settings, test, device, optimizations)
    elif _WEIGHTS.value is None:
        raise ValueError(demo.NO_WEIGHTS)
    else:
        _generate(demo, settings, test, device, optimizations)


def _simulate(demo, settings, test: str, device: str, optimizations: str) -> None:
    from ttsim.models.identity import get_config

    weights = _WEIGHTS.value
    if weights is not None and _MODEL.value is None:
        from ttsim.models.checkpoints.loading import open_checkpoint

        config = open_checkpoint(weights).config
    else:
        config = get_config(_MODEL.value or os.environ.get("HF_MODEL", "Llama3.1-8B"))
    layers = len(config.self_attention_layers)
    precision, name = demo.demo_precision(config.name, optimizations, _DECODERS.value, layers)
    scenario, clock, lengths = demo.simulate_demo(settings, config, device, precision)
    _print([*demo.header_lines(scenario, name, test), ""])
    _print([*demo.iteration_lines(clock, every=_every()), ""])
    _print(demo.summary_lines(clock, lengths))


def _generate(demo, settings, test: str, device: str, optimizations: str) -> None:
    if _MODEL.value is not None:
        raise ValueError("--weights decide the model: leave --model out, or use --simulate_only")
    run = demo.Demo(_WEIGHTS.value, device, settings, optimizations, _DECODERS.value)
    _print(demo.header_lines(run.scenario, run.precision_name, test))
    streams = sys.stdout.isatty() and settings.users == 1
    colour = console.colour(None)

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    for number, batch in enumerate(_with_prompt(run, show if streams else None)):
        if settings.repeat_batches > 1:
            _print(["", f"Batch {number}"])
        if streams:
            _print([""])
        else:
            for user, (prompt, output) in enumerate(zip(batch.prompts, batch.outputs, strict=True)):
                _print(["", text.paint(f"== User {user}: {_short(prompt)}", text.BOLD, colour), output])
        _print(["", *demo.iteration_lines(batch.clock, batch.generation.step_times, _every()), ""])
        _print(demo.summary_lines(batch.clock, batch.generation.prompt_lengths, batch.generation))


def _with_prompt(run, show):
    if show:
        show(text.paint(f"\n{_short(run.texts[0][0])}\n", text.BOLD, console.colour(None)))
    return run.batches(show)


def _short(prompt: str, length: int = 300) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= length else f"{line[: length // 2]} <...> {line[-length // 2 :]}"


def _every() -> int:
    choice = _LINES.value or ("some" if sys.stdout.isatty() else "all")
    return {"all": 1, "some": 32, "none": 1 << 30}[choice]


def _print(lines: list[str]) -> None:
    console.write("\n".join(lines) + "\n", None)


if __name__ == "__main__":
    console.run(main)
