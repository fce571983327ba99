"""`ttsim demo`: the published demo's text and clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ttsim.cli.flags import (
    BATCH_SIZE,
    DATA_PARALLEL,
    DECODER_CONFIG,
    DEVICE,
    IMAGES,
    MODEL,
    NEW_TOKENS,
    NUMERICS,
    PRECISION,
    PROCESSES,
    WEIGHTS,
    Flag,
)
from ttsim.cli.main import Command

if TYPE_CHECKING:
    from ttsim.generation.demo import Batch, Demo
    from ttsim.generation.demo_settings import DemoSettings


def _switch(name: str, meaning: str) -> Flag:
    return Flag(name, meaning, choices=("0", "1", "false", "true"))


_FLAGS = (
    NUMERICS,
    Flag(
        "test",
        "Test id: batch-1, batch-32, long-context-64k, long-context-16k, reasoning-1, ci-1, ci-32, DP-4-b1, DP-8-b1, "
        'DP-4-b32, ci-b1-DP-4, ci-b1-DP-8; with a preset as in pytest\'s -k: "accuracy and batch-32".',
        default="batch-1",
        short="k",
    ),
    MODEL.but(help="Model to simulate, $HF_MODEL by default; with --weights it is theirs.", default=None),
    DEVICE.but(help="N150, N300, T3K or TG; $MESH_DEVICE by default, else N150.", default=None),
    WEIGHTS,
    Flag("simulate_only", "Only the clock: no weights, no text.", "switch", False),
    Flag(
        "iterations",
        "Iteration lines; by default some on a terminal, else all.",
        choices=("all", "some", "none"),
    ),
    # The published demo's overrides.
    Flag("input_prompts", "Prompt file (JSON), name of a bundled one, or the prompt."),
    IMAGES,
    _switch("instruct", "Whether prompts go through the chat template."),
    Flag("repeat_batches", "Batches, one after another.", "number"),
    Flag("max_seq_len", "Longest prompt with its generated tokens.", "number"),
    BATCH_SIZE.but(help="Users of one replica: 1, 2, 4, 8, 16 or 32.", default=None, least=None),
    NEW_TOKENS.but(help="Decode iterations.", default=None, least=None),
    DATA_PARALLEL.but(default=None, least=None),
    _switch("paged_attention", "Whether the KV cache is paged."),
    Flag("page_params", '{"page_block_size": 32, "page_max_num_blocks_per_dp": 1024}'),
    Flag("sampling_params", '{"temperature": 0, "top_p": 0.08}; "seed" is ours.'),
    _switch("stop_at_eos", "Whether a user ends with an end-of-sequence token."),
    PRECISION.but(help="performance, accuracy, or an option text; by default the test's.", default=None),
    DECODER_CONFIG,
    *PROCESSES,
)


def _truth(value: str | None) -> bool | None:
    return None if value is None else value.lower() in ("1", "true")


def _check_prompts(source: str | None) -> None:
    if source and not source.endswith(".json") and os.path.isfile(source):  # which a long prompt is not
        raise ValueError(
            f"--input_prompts={source} is a file, but no .json: prompt files are JSON; for its text, quote it"
        )


def _run(values: Any) -> None:
    _check_prompts(values.input_prompts)
    from ttsim.generation import demo, demo_settings

    test, preset = demo_settings.parse_test(values.test)
    base = demo_settings.TESTS[test]
    settings = demo_settings.settings_with(
        test,
        {
            "input_prompts": values.input_prompts,
            "instruct": _truth(values.instruct),
            "repeat_batches": values.repeat_batches,
            "max_seq_len": values.max_seq_len,
            "batch_size": values.batch_size,
            "max_generated_tokens": values.max_generated_tokens,
            "data_parallel": values.data_parallel,
            "paged_attention": _truth(values.paged_attention),
            "page_params": values.page_params and demo_settings.parse_page_params(values.page_params, base.page_params),
            "sampling_params": values.sampling_params
            and demo_settings.parse_sampling_params(values.sampling_params, base.sampling_params),
            "stop_at_eos": _truth(values.stop_at_eos),
        },
    )
    device = values.device or os.environ.get("MESH_DEVICE", "N150")
    precision_text = values.precision or preset
    if values.images:
        _with_images(values, settings, device, precision_text)
    elif values.simulate_only:
        _simulate(values, settings, test, device, precision_text)
    elif values.weights is None:
        raise ValueError(demo.NO_WEIGHTS)
    else:
        from ttsim.meshes.lookup import get_system
        from ttsim.meshes.processes import join
        from ttsim.numerics import switches
        from ttsim.ui import console

        chips = get_system(device, settings.data_parallel).num_chips
        with (
            join(chips, values.coordinator, values.processes, values.process_id) as group,
            switches.using(values.numerics),
        ):
            if not group.first:
                console.silence()
            _generate(values, settings, test, device, precision_text)


def _simulate(values: Any, settings: DemoSettings, test: str, device: str, precision_text: str) -> None:
    from ttsim.generation import demo, demo_lines
    from ttsim.models.identity import get_config

    weights = values.weights
    if weights is not None and values.model is None:
        from ttsim.models.checkpoints.loading import open_checkpoint

        config = open_checkpoint(weights).config
    else:
        config = get_config(values.model or os.environ.get("HF_MODEL", "Llama3.1-8B"))
    layers = len(config.self_attention_layers)
    precision, name = demo.demo_precision(config.name, precision_text, values.decoder_config_file, layers)
    scenario, clock, lengths = demo.simulate_demo(settings, config, device, precision)
    _print([*_fitted(demo_lines.header_lines(scenario, name, test)), ""])
    _print([*demo_lines.iteration_lines(clock, every=_every(values)), ""])
    _print(_fitted(demo_lines.summary_lines(clock, lengths)))


def _with_images(values: Any, settings: DemoSettings, device: str, precision_text: str) -> None:
    """The vision demo: one user, greedy; with weights its text, and the clock in any case."""
    from ttsim.generation import demo, demo_lines
    from ttsim.generation.clock import simulate_clock
    from ttsim.generation.image_text import scenario_with_images, tell
    from ttsim.models.vision.images import image_size
    from ttsim.scenarios.scenario import Scenario

    if settings.users != 1:
        raise ValueError(f"--image takes one user, and the test has {settings.users}: --batch_size=1")
    sizes, new = [image_size(each) for each in values.images], settings.max_generated_tokens
    if values.simulate_only or values.weights is None:
        if values.model is None:
            raise ValueError("--image needs a model that sees: --weights=DIR, or --simulate_only --model=11b")
        prompt = demo.simulated_lengths(settings, values.model)[0]
        scenario = Scenario.of(values.model, device, precision_text, 1, prompt, max(2, new), images=sizes)
    else:
        files = values.images
        question = values.input_prompts or "Describe this image."
        instruct = _truth(values.instruct) is not False
        written, told, prompt, generator = tell(values.weights, device, precision_text, question, files, new, instruct)
        _print([f"{question} [{', '.join(files)}]", "", written, ""])
        scenario, new = scenario_with_images(generator, sizes, prompt, new), len(told.tokens)
    scenario.check_fits()
    clock = simulate_clock(scenario, [prompt], max(1, new))
    _print([*demo_lines.iteration_lines(clock, every=_every(values)), ""])
    _print(_fitted(demo_lines.summary_lines(clock, [prompt])))


def _generate(values: Any, settings: DemoSettings, test: str, device: str, precision_text: str) -> None:
    from ttsim.generation import demo, demo_lines

    if values.model is not None:
        raise ValueError("--weights decide the model: leave --model out, or use --simulate_only")
    run = demo.Demo(values.weights, device, settings, precision_text, values.decoder_config_file)
    _print(_fitted(demo_lines.header_lines(run.scenario, run.precision_name, test)))
    streams = sys.stdout.isatty() and settings.users == 1

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
                _print(["", *_bold(f"== User {user}: {_short(prompt)}"), output])
        _print(["", *demo_lines.iteration_lines(batch.clock, batch.generation.step_times, _every(values)), ""])
        _print(_fitted(demo_lines.summary_lines(batch.clock, batch.generation.prompt_lengths, batch.generation)))


def _with_prompt(run: Demo, show: Callable[[str], None] | None) -> Iterator[Batch]:
    if show:
        show("\n".join(["", *_bold(_short(run.texts[0][0])), ""]))
    return run.batches(show)


def _short(prompt: str, length: int = 300) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= length else f"{line[: length // 2]} <...> {line[-length // 2 :]}"


def _fitted(lines: Sequence[str]) -> list[str]:
    """Lines as wide as the terminal."""
    from ttsim.ui import text
    from ttsim.ui.table import columns_of

    return [piece for line in lines for piece in text.wrap(line, columns_of())]


def _bold(line: str) -> list[str]:
    """A prompt above what was made of it."""
    from ttsim.ui import console, text

    return [text.paint(piece, text.BOLD, console.colour(None)) for piece in _fitted([line])]


def _every(values: Any) -> int:
    choice = values.iterations or ("some" if sys.stdout.isatty() else "all")
    return {"all": 1, "some": 32, "none": 1 << 30}[choice]


def _print(lines: list[str]) -> None:
    from ttsim.ui import console

    console.write("\n".join(lines) + "\n", None)


COMMANDS = {
    "demo": Command(
        "demo",
        """Generates text as tt_transformers' demo does, with the device's numerics, and reports the device's clock.
        ttsim demo --weights=SmolLM2-135M --input_prompts="Why is the sky blue?"
        ttsim demo --simulate_only --model=Llama3.1-8B --device=T3K --test="accuracy and batch-32"
        ttsim demo --weights=path/to/Llama-3.2-11B-Vision --device=N300 --image=dog.jpg --input_prompts="What is this?"
        ttsim demo --weights=SmolLM2-135M --test=batch-32 --decoder_config_file=winner.json
        Compiled steps are kept in the user's cache (~/.cache/ttsim/compiled); delete the folder to clear them.""",
        _FLAGS,
        _run,
    )
}
