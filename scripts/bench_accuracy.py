"""Times an accuracy window and measures its memory, beside a plain JAX float32 forward pass of the same tokens.

    python scripts/bench_accuracy.py
    python scripts/bench_accuracy.py --weights=path/to/checkpoint --optimizations=accuracy
    python scripts/bench_accuracy.py --paired --windows=8 --folder=outputs
    python scripts/bench_accuracy.py --paired --windows=8 --folder=outputs --settings=S5,accuracy

Each side runs in a process of its own, so that its peak memory is its own: load, compile, then the median of several
windows of 512 + 511 tokens. The plain model is that of plain_model.py.

`--paired` instead measures what the device's roundings cost: the published sweep's twelve settings (S1 to S12) and the
presets, each with `--numerics=masked` and `--numerics=device` on the same tokens. The standard error is of the mean
of the differences token by token. What is measured is kept in `--folder`, so that a second call goes on.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from plain_model import plain_forward

from ttsim.accuracy.measured import bundled_text, cut_windows
from ttsim.accuracy.results import PUBLISHED, Outputs
from ttsim.accuracy.runner import Runner
from ttsim.explore.front import published_settings
from ttsim.files.writing import write_file
from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.loading import load_model, open_checkpoint
from ttsim.models.checkpoints.tokenizers import load_tokenizer
from ttsim.models.layout import Layout
from ttsim.models.rope import inverse_frequencies
from ttsim.numerics import switches
from ttsim.precision.presets import preset
from ttsim.ui import console, text

_WEIGHTS = flags.DEFINE_string("weights", "SmolLM2-135M", "Checkpoint.")
_OPTIMIZATIONS = flags.DEFINE_string("optimizations", "performance", "Preset of the emulated side.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Windows timed on each side.", lower_bound=1)
_SIDE = flags.DEFINE_enum("side", None, ["plain", "emulated"], "Run only this side and print JSON (used internally).")
_PAIRED = flags.DEFINE_bool("paired", False, "Measure settings under masked and device numerics instead.")
_WINDOWS = flags.DEFINE_integer("windows", 1, "Windows of text of --paired.", lower_bound=1)
_SETTINGS = flags.DEFINE_list("settings", [], "Names of --paired's settings; by default S1 to S12 and the presets.")
_FOLDER = flags.DEFINE_string("folder", None, "Where --paired keeps what it measured.")


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


def paired() -> None:
    """Prints Top-1 of settings under masked and device numerics, and the error of the difference."""
    checkpoint = open_checkpoint(_WEIGHTS.value)
    config = checkpoint.config
    layout = Layout(config, get_system("N150"), max_seq_len=PUBLISHED.length)
    tokenizer = load_tokenizer(checkpoint.path)
    windows = cut_windows(tokenizer.encode(bundled_text()), PUBLISHED, _WINDOWS.value, tokenizer.bos)
    settings = {f"S{i}": precision for i, (_, precision) in enumerate(published_settings(), 1)}
    for name in ("performance", "accuracy", "bf16"):
        settings[name] = preset(name, config.known_name)
    settings["accuracy of Llama3.2-1B"] = preset("accuracy", "Llama3.2-1B")
    unknown = set(_SETTINGS.value) - set(settings)
    if unknown:
        raise ValueError(f"unknown settings {', '.join(sorted(unknown))}: there are {', '.join(settings)}")
    folder = Path(_FOLDER.value) if _FOLDER.value else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)

    def run(name, precision, numerics, load) -> dict[str, list]:
        """Choices [windows, decode], the reference's best five, and CPU seconds of a window and of compilation."""
        path = folder and folder / f"{name}-{numerics}-{len(windows)}.json"
        if path and path.exists():
            return json.loads(path.read_text())
        clock = [time.process_time()]
        runner = Runner(layout, precision, top5=name == "reference")
        with switches.using(numerics):
            outputs: Outputs = runner(load(), windows, lambda _: clock.append(time.process_time()))
        seconds = np.diff(clock)  # the first window's hold the compilation
        done = {
            "choice": outputs.choice.tolist(),
            "window": float(np.median(seconds[1:])) if len(seconds) > 1 else None,
        }
        done |= {"first": float(seconds[0]), "top5": None if outputs.top5 is None else outputs.top5.tolist()}
        if path:
            write_file(json.dumps(done), path)
        return done

    def loader(precision):
        """The model, loaded when it is first needed."""
        held = []

        def load():
            if not held:
                held.append(load_model(checkpoint, layout, precision, layout.system.mesh(), progress=False))
            return held[0]

        return load

    exact = preset("fp32", config.known_name)
    best = np.array(run("reference", exact, "masked", loader(exact))["top5"])
    table = [("setting", "masked", "device", "difference", "masked", "device", "seconds")]
    for name in _SETTINGS.value or settings:
        load, hits, five, seconds = loader(settings[name]), [], [], []
        for numerics in ("masked", "device"):
            done = run(name, settings[name], numerics, load)
            hit = np.array(done["choice"])[..., None] == best
            hits.append(100 * hit[..., 0].ravel())
            five.append(100 * hit.any(-1).mean())
            seconds.append(done["window"] or done["first"])
        change = hits[1] - hits[0]
        error = change.std(ddof=1) / change.size**0.5
        row = (f"{hits[0].mean():.1f}", f"{hits[1].mean():.1f}", f"{change.mean():+.1f} ± {error:.1f}")
        table.append((name, *row, *(f"{x:.1f}" for x in five), f"{seconds[0]:.1f}, {seconds[1]:.1f}"))
    print("\n".join(text.align(table)))


def main() -> None:
    if _PAIRED.value:
        paired()
        return
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
