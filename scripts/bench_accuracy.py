"""Times an accuracy window and measures its memory, beside a plain JAX float32 forward pass of the same tokens.

    python scripts/bench_accuracy.py
    python scripts/bench_accuracy.py --weights=path/to/checkpoint --optimizations=accuracy

Each side runs in a process of its own, so that its peak memory is its own: load, compile, then the median of several
windows of 512 + 511 tokens. The plain model is that of plain_model.py.
"""

import json
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from plain_model import plain_forward

from ttsim.accuracy.measured import Runner, bundled_text, cut_windows
from ttsim.accuracy.results import PUBLISHED
from ttsim.meshes.systems import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.loading import load_model, open_checkpoint
from ttsim.models.checkpoints.tokenizers import load_tokenizer
from ttsim.models.layout import Layout
from ttsim.models.rope import inverse_frequencies
from ttsim.precision.values import preset
from ttsim.ui import console, text

_WEIGHTS = flags.DEFINE_string("weights", "SmolLM2-135M", "Checkpoint.")
_OPTIMIZATIONS = flags.DEFINE_string("optimizations", "performance", "Preset of the emulated side.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Windows timed on each side.", lower_bound=1)
_SIDE = flags.DEFINE_enum("side", None, ["plain", "emulated"], "Run only this side and print JSON (used internally).")


def run_side(side: str) -> dict[str, float]:
    """Seconds of a window (median) and peak bytes of this process."""
    checkpoint = open_checkpoint(_WEIGHTS.value)
    config, length = checkpoint.config, PUBLISHED.length
    layout = Layout(config, get_system("N150"), max_seq_len=length)
    name = "fp32" if side == "plain" else _OPTIMIZATIONS.value
    precision = preset(name, config.known_name)
    model = load_model(checkpoint, layout, precision, layout.system.mesh(), progress=False)
    tokenizer = load_tokenizer(checkpoint.path)
    windows = cut_windows(tokenizer.encode(bundled_text()), PUBLISHED, 1, tokenizer.bos)
    if side == "plain":
        frequencies = jnp.asarray(inverse_frequencies(config.rope, config.head_dim, length)[0])
        tokens = jnp.asarray(windows[:, :-1], jnp.int32)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        cache = KVCache.zeros(layout, 1)

        @jax.jit
        def choices(model, tokens, positions, cache):
            logits, _ = plain_forward(model, tokens, positions, cache, config, frequencies)
            return jnp.argmax(logits[:, PUBLISHED.prefill :], -1)

        def window():
            return choices(model, tokens, positions, cache)
    else:
        runner = Runner(layout, precision)

        def window():
            return runner(model, windows).choice

    times = []
    for _ in range(_REPEATS.value + 1):
        begin = time.perf_counter()
        jax.block_until_ready(window())
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": float(np.median(times[1:])), "bytes": peak}


def main() -> None:
    if _SIDE.value:
        print(json.dumps(run_side(_SIDE.value)))
        return
    results = {}
    for side in ("plain", "emulated"):
        command = [sys.executable, __file__, f"--side={side}", f"--weights={_WEIGHTS.value}"]
        command += [f"--optimizations={_OPTIMIZATIONS.value}", f"--repeats={_REPEATS.value}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1])
        results[side] = json.loads(done.stdout)
    plain, emulated = results["plain"], results["emulated"]
    table: list[tuple[str, ...]] = [("512 + 511 tokens", "seconds", "peak memory")]
    table.append(("plain JAX float32", f"{plain['seconds']:.2f}", text.size(plain["bytes"])))
    table.append((_OPTIMIZATIONS.value, f"{emulated['seconds']:.2f}", text.size(emulated["bytes"])))
    ratios = (emulated[key] / plain[key] for key in ("seconds", "bytes"))
    table.append(("ratio", *(f"{ratio:.2f}" for ratio in ratios)))
    print("\n".join(text.align(table)))


if __name__ == "__main__":
    console.run(main)
