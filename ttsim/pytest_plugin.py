"""pytest fixtures that guard a model's accuracy, speed and time to first token.

Installing ttsim registers them. In a test suite of your own:

    def test_llama_on_n300(ttsim_accuracy, ttsim_simulate):
        assert ttsim_accuracy("path/to/Llama-3.2-1B-Instruct", device="N300", precision="performance").top1 >= 75
        report = ttsim_simulate(model="Llama3.2-1B", device="N300", precision="performance")
        assert report.speed >= 100  # tokens/s/user
        assert report.ttft <= 0.030  # seconds

Equal questions are answered once per session. A device of n chips needs n JAX devices: the plugin asks JAX for 32
virtual CPU devices, unless their number is set already (`jax_num_cpu_devices`) or JAX has started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ttsim.accuracy.results import AccuracyReport
    from ttsim.scenarios.report import Report

_DEVICES = 32  # chips of the largest system, a Galaxy


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Remembers results by their arguments' text, since arrays and mappings don't hash."""
    results: dict[str, Any] = {}

    def ask(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    return ask


@pytest.fixture(scope="session")
def ttsim_accuracy() -> Callable[..., AccuracyReport]:
    """`ttsim.accuracy.measured.measure_accuracy`, without the bf16 comparison unless it is asked for.

    `ttsim_accuracy(weights, device="N150", precision="performance", windows=1, ...)` returns a report with `top1` and
    `top5` in per cent, `delta_nll`, `sampling_error()` and, with `compare_bf16=True`, `drop`.
    """
    import jax

    from ttsim.accuracy.measured import measure_accuracy

    if jax.config.values["jax_num_cpu_devices"] < 1:
        with contextlib.suppress(RuntimeError):  # JAX has started: its devices are what there is
            jax.config.update("jax_num_cpu_devices", _DEVICES)

    def measure(weights: Any, device: Any = "N150", precision: Any = "performance", **options: Any) -> AccuracyReport:
        return measure_accuracy(weights, device, precision, **{"compare_bf16": False, "progress": False, **options})

    return _once(measure)


@pytest.fixture(scope="session")
def ttsim_simulate() -> Callable[..., Report]:
    """`ttsim.simulate`: a report with `speed` in tokens/s/user, `ttft` in seconds, `throughput` and `memory`."""
    from ttsim.scenarios.simulate import simulate

    return _once(simulate)
