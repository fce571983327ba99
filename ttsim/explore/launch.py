"""The command lines that start on hardware what was simulated: tt_transformers' demo, or a vLLM server.

Sources: tt-metal models/tt_transformers/README.md 00b0fa3 (2026) for the demo; vllm-tt-plugin README.md 01078a0
(2026-09) for servers, whose Tenstorrent options are in --additional-config; tenstorrent/vllm tt_metal/README.md 07540dd
(2025) for those before the plugin, which have --override_tt_config.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from typing import Any

from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.models.presets import known_models
from ttsim.precision.presets import resolve
from ttsim.scenarios.scenario import Scenario

_PRESETS = ("performance", "accuracy")  # what a server can be told
_DEMO = "models/tt_transformers/demo/simple_text_demo.py"
_PAGES = 1024  # blocks of 32 tokens that the demo's page table has unless it is told otherwise
# MESH_DEVICE of systems that are called otherwise there; a mesh shape is understood too.
_MESHES = {"Galaxy": "TG", "Galaxy T3K": "T3K", "BH Galaxy": "BHGLX"}
_PLUGIN_MESHES = {"BH Galaxy": "BH-Galaxy"}
_NAMED = frozenset(
    {"N150", "N300", "N150x4", "T3K", "TG", "P100", "P150", "P150x2", "P300", "P150x4", "P300x2", "P150x8"}
)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What a server is started with: requests at once, longest request, tokens of a prefill step, cache blocks."""

    max_num_seqs: int
    max_model_len: int
    max_num_batched_tokens: int
    block_size: int = 64
    data_parallel: int = 1
    steps_per_look: int = 1
    prefix_caching: bool = False
    chunked_prefill: bool = False


def continued(command: str, width: int) -> list[str]:
    """A command line as lines of at most `width` columns that a shell reads as one, where its words allow."""
    lines = [""]
    for word in _words(command):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _words(command: str) -> list[str]:
    """A command line's words, each flag with its value."""
    found: list[str] = []
    for word in re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", command):
        if found and found[-1].startswith("-") and " " not in found[-1] and not word.startswith("-"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def launch(scenario: Scenario, model: str = "") -> str:
    """The command line of a scenario: a server's where its stack is one, else the demo's; "" where none is known.

    Args:
      model: what the user called the model, if that is a path.
    """
    if scenario.software.stack.startswith("vllm"):
        length = -(-scenario.sequence_length // 64) * 64
        options = ServerOptions(
            max_num_seqs=scenario.batch_size,
            max_model_len=length,
            max_num_batched_tokens=length,
            data_parallel=scenario.system.data_parallel,
        )
        return server(scenario, options, model)
    config = scenario.config
    own_code = scenario.software.galaxy or any((config.experts, config.latent, config.delta, scenario.images))
    return "" if own_code else _demo(scenario, model)


def server(scenario: Scenario, options: ServerOptions, model: str = "") -> str:
    """A vLLM server's command line."""
    plugin = bool(scenario.software.fact("server_plugin"))
    tt: dict[str, Any] = {}
    flags: list[tuple[str, Any]] = [
        ("--model", repository(scenario.config, model)),
        ("--max_num_seqs", options.max_num_seqs),
        ("--max_model_len", options.max_model_len),
        ("--max_num_batched_tokens", options.max_num_batched_tokens),
        ("--block_size", options.block_size),
    ]
    if options.data_parallel > 1:
        if plugin:
            flags.append(("--data_parallel_size", options.data_parallel))
        else:
            tt["data_parallel"] = options.data_parallel
    if options.steps_per_look > 1:
        flags.append(("--num_scheduler_steps", options.steps_per_look))
    if (preset := _preset(scenario)) and preset != "performance":  # the default
        tt["optimizations"] = preset
    words = [f"{name} {shlex.quote(str(value))}" for name, value in flags]
    words.append("--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching")
    if plugin:
        words.append("--enable-chunked-prefill" if options.chunked_prefill else "--no-enable-chunked-prefill")
    if tt:
        given = json.dumps({"tt": tt} if plugin else tt)
        words.append(f"{'--additional-config' if plugin else '--override_tt_config'} {shlex.quote(given)}")
    program = "vllm serve" if plugin else "python examples/server_example_tt.py"
    if plugin:  # the model is an argument of its own
        words[0] = words[0].removeprefix("--model ")
    return " ".join([*_environment(scenario.system, plugin), program, *words])


def unsaid(scenario: Scenario) -> str:
    """What a launch line can't say of a scenario, "" if it says all."""
    if scenario.software.stack.startswith("vllm") and not _preset(scenario):
        return "a server takes the precision performance or accuracy only"
    if scenario.speculation or scenario.prefix_hit:
        return "the demo neither speculates nor keeps prefixes"
    if scenario.precision.layers and not _preset(scenario):
        return "precisions that differ by layer go into a file: --decoder_config_file"
    return ""


def repository(config: ModelConfig, model: str = "") -> str:
    """What HF_MODEL is set to: the user's path, or the repository of a known model."""
    if model and os.path.exists(model):
        return model
    known = known_models().get(config.known_name)
    return known.repository if known else config.name


def _demo(scenario: Scenario, model: str) -> str:
    preset = _preset(scenario)
    length = max(1024, 1 << (scenario.sequence_length - 1).bit_length())
    words = [
        f"HF_MODEL={shlex.quote(repository(scenario.config, model))}",
        *_environment(scenario.system, False),
        f'pytest {_DEMO} -k "{preset or "performance"} and batch-1"',
        f"--batch_size {scenario.batch_size}",
        f"--max_seq_len {length}",
        f"--max_generated_tokens {scenario.max_generated_tokens}",
    ]
    if scenario.system.data_parallel > 1:
        words.append(f"--data_parallel {scenario.system.data_parallel}")
    if scenario.software.prefetcher:
        words.append("--use_prefetcher True")
    blocks = scenario.batch_size * -(-scenario.sequence_length // 32)
    if blocks > _PAGES:
        pages = json.dumps({"page_block_size": 32, "page_max_num_blocks_per_dp": blocks})
        words.append(f"--page_params {shlex.quote(pages)}")
    if not preset and not scenario.precision.layers:
        said = re.match(r"precision_cfg = \{.*?\}, fidelity_cfg = \{.*?\}", str(scenario.precision))
        words.append(f"--optimizations {shlex.quote(said[0] if said else str(scenario.precision))}")
    return " ".join(words)


def _preset(scenario: Scenario) -> str:
    """The preset that a precision is, "" if it is none."""
    config, day = scenario.config, scenario.software.date
    return next((name for name in _PRESETS if resolve(name, config.known_name, day) == scenario.precision), "")


def _environment(system: System, plugin: bool) -> list[str]:
    """MESH_DEVICE: a name, or rows and columns."""
    name = (_PLUGIN_MESHES if plugin else {}).get(system.name) or _MESHES.get(system.name, system.name)
    if name not in {*_NAMED, *_MESHES.values(), *_PLUGIN_MESHES.values()}:
        rows, columns = system.grid if len(system.grid) > 1 else (1, system.num_chips)
        name = f'"({rows},{columns})"'
    return [f"MESH_DEVICE={name}"]
