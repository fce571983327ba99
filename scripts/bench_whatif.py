"""Times 10,000 decode steps priced at once beside the same steps asked one by one, and 10,000 prompts.

python scripts/bench_whatif.py
python scripts/bench_whatif.py --model=70b --device=T3K
"""

import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ttsim.explore.whatif import WhatIf
from ttsim.explore.whatif_prompts import PromptWhatIf
from ttsim.hardware.constants import load_constants
from ttsim.models.identity import get_config
from ttsim.precision.presets import preset
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import console, text

_MODEL = flags.DEFINE_string("model", "Llama3.1-8B", "Model.")
_DEVICE = flags.DEFINE_string("device", "N150", "System.")
_ALONE = flags.DEFINE_integer("alone", 50, "Points that are also asked one by one.", lower_bound=1)


def main() -> None:
    base = preset("performance", get_config(_MODEL.value).name)
    choices = itertools.product(("bfp4", "bfp8"), repeat=4)
    precisions = [base.replace(ff1_3=a, ff2=b, wqkv=c, kv_cache=d) for a, b, c, d in choices][:10]
    batches, contexts = [1, 2, 4, 8, 12, 16, 24, 32], np.unique(np.geomspace(128, 100_000, 125).astype(int)).tolist()
    constants = dict(load_constants())

    start = time.perf_counter()
    points = WhatIf.build(_MODEL.value, _DEVICE.value, precisions, batches, contexts)
    built = time.perf_counter() - start
    times = np.asarray(points.step_time(constants))
    first = time.perf_counter() - start
    priced = jax.jit(points.step_time)
    gradient = jax.jit(jax.grad(lambda c: jnp.mean(points.step_time(c))))
    for function in (priced, gradient):
        jax.block_until_ready(function(constants))
    start = time.perf_counter()
    jax.block_until_ready(priced(constants))
    again = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(gradient(constants))
    differentiated = time.perf_counter() - start

    rng = np.random.default_rng(0)
    picks = [tuple(rng.integers(size) for size in points.shape) for _ in range(_ALONE.value)]
    start = time.perf_counter()
    for i, j, k in picks:
        scenario = Scenario.of(_MODEL.value, _DEVICE.value, "performance", batches[j], 1, 2)
        scenario = dataclasses.replace(scenario, precision=precisions[i])
        alone = float(scenario.step_times(constants, np.array(contexts[k])))
        np.testing.assert_allclose(times[i, j, k], alone, rtol=1e-5)
    each = (time.perf_counter() - start) / len(picks)
    start = time.perf_counter()
    lengths = np.unique(np.geomspace(128, 65_536, 125).astype(int)).tolist()
    prompts = PromptWhatIf.build(_MODEL.value, _DEVICE.value, precisions, batches, lengths)
    ttft = np.asarray(prompts.ttft(constants))
    prompted = time.perf_counter() - start
    number = times.size
    lines = (
        f"{number:,} points of {_MODEL.value} on {_DEVICE.value}",
        f"  cold, programs and matrices included   {text.duration(first)} (matrices {text.duration(built)})",
        f"  again, other constants                 {text.duration(again)}",
        f"  gradient by the constants              {text.duration(differentiated)}",
        f"  one by one, warm                       {text.duration(each * number)} ({text.duration(each)} each)",
        f"  one by one / all at once               {each * number / first:.1f} cold, "
        f"{each * number / again:,.0f} again",
        f"{ttft.size:,} prompts of up to 65,536 tokens, cold      {text.duration(prompted)}",
    )
    console.write("\n".join(lines) + "\n", None)


if __name__ == "__main__":
    console.run(main)
