"""Predict how a language model runs on Tenstorrent hardware: speed, time to first token, memory and accuracy.

    import ttsim
    report = ttsim.simulate(model="Llama3.1-8B", device="N150")
    report.speed, report.ttft, report.memory.free
    print(report)

What is listed here is public; modules and names below the packages may change. Names are imported when they are first
used, so that `import ttsim` costs nothing.
"""

from __future__ import annotations

__version__ = "0.2.0"

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all else before a program can be stopped
if TYPE_CHECKING:
    from typing import Any

    from ttsim.accuracy.estimated import AccuracyEstimate, estimate_accuracy
    from ttsim.accuracy.measured import measure_accuracy
    from ttsim.accuracy.results import AccuracyReport
    from ttsim.explore.advice import Advice, advise
    from ttsim.explore.compare import compare
    from ttsim.explore.estimate import Estimate, estimate
    from ttsim.explore.front import front
    from ttsim.explore.goal import goal
    from ttsim.explore.sweep import Sweep, sweep
    from ttsim.explore.whatif import WhatIf
    from ttsim.explore.whatif_prompts import PromptWhatIf
    from ttsim.generation.logits import logits
    from ttsim.meshes.lookup import get_system
    from ttsim.meshes.systems import System
    from ttsim.models.config import ModelConfig
    from ttsim.models.identity import get_config
    from ttsim.precision.presets import preset
    from ttsim.precision.values import Precision
    from ttsim.pricing.program import Program, trace
    from ttsim.proof.intervals import Interval, interval
    from ttsim.proof.reproduce import reproduce
    from ttsim.scenarios.question import Question
    from ttsim.scenarios.report import Report
    from ttsim.scenarios.scenario import Scenario
    from ttsim.scenarios.simulate import price, simulate
    from ttsim.scenarios.timing import Breakdown
    from ttsim.ui.render import render
    from ttsim.ui.timeline import timeline

_HOMES = {
    "ttsim.accuracy.estimated": ("AccuracyEstimate", "estimate_accuracy"),
    "ttsim.accuracy.measured": ("measure_accuracy",),
    "ttsim.accuracy.results": ("AccuracyReport",),
    "ttsim.explore.advice": ("Advice", "advise"),
    "ttsim.explore.compare": ("compare",),
    "ttsim.explore.estimate": ("Estimate", "estimate"),
    "ttsim.explore.front": ("front",),
    "ttsim.explore.goal": ("goal",),
    "ttsim.explore.sweep": ("Sweep", "sweep"),
    "ttsim.explore.whatif": ("WhatIf",),
    "ttsim.explore.whatif_prompts": ("PromptWhatIf",),
    "ttsim.generation.logits": ("logits",),
    "ttsim.meshes.lookup": ("get_system",),
    "ttsim.meshes.systems": ("System",),
    "ttsim.models.config": ("ModelConfig",),
    "ttsim.models.identity": ("get_config",),
    "ttsim.precision.presets": ("preset",),
    "ttsim.precision.values": ("Precision",),
    "ttsim.pricing.program": ("Program", "trace"),
    "ttsim.proof.intervals": ("Interval", "interval"),
    "ttsim.proof.reproduce": ("reproduce",),
    "ttsim.scenarios.question": ("Question",),
    "ttsim.scenarios.report": ("Report",),
    "ttsim.scenarios.scenario": ("Scenario",),
    "ttsim.scenarios.simulate": ("price", "simulate"),
    "ttsim.scenarios.timing": ("Breakdown",),
    "ttsim.ui.render": ("render",),
    "ttsim.ui.timeline": ("timeline",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

# mypy and editors read a literal; tests/test_public.py compares it with the homes.
__all__ = [
    "AccuracyEstimate",
    "AccuracyReport",
    "Advice",
    "Breakdown",
    "Estimate",
    "Interval",
    "ModelConfig",
    "Precision",
    "Program",
    "PromptWhatIf",
    "Question",
    "Report",
    "Scenario",
    "Sweep",
    "System",
    "WhatIf",
    "advise",
    "compare",
    "estimate",
    "estimate_accuracy",
    "front",
    "get_config",
    "get_system",
    "goal",
    "interval",
    "logits",
    "measure_accuracy",
    "preset",
    "price",
    "render",
    "reproduce",
    "simulate",
    "sweep",
    "timeline",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ttsim' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
