"""Times the emulated forward pass under each preset beside the same model in plain JAX float32.

    python scripts/bench_forward.py
    python scripts/bench_forward.py --layers=8 --rows=1024 --repeats=9
    python scripts/bench_forward.py --layers=2 --numerics=masked --numerics=device

The plain model (plain_model.py) has no device op: the same weights, shapes, cache and attention, in float32.
Emulated and plain runs alternate, so that a change of the machine's speed hits both; ratios are of medians.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from plain_model import plain_forward

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.chunk import Chunk
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.parameters import is_variable, key_names, traits
from ttsim.models.run import decode_step, prefill_step
from ttsim.models.storage import parameter_format
from ttsim.models.transformer import Transformer
from ttsim.numerics import switches
from ttsim.numerics.conversion import round_to
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision
from ttsim.ui import console, text

_MODEL = flags.DEFINE_string("model", "Llama3.2-1B", "Model whose widths are used.")
_LAYERS = flags.DEFINE_integer("layers", 4, "Decoder layers.", lower_bound=1)
_VOCAB = flags.DEFINE_integer("vocab", 32_064, "Vocabulary.", lower_bound=32)
_ROWS = flags.DEFINE_integer("rows", 512, "Tokens of the prompt.", lower_bound=32)
_BATCHES = flags.DEFINE_multi_integer("batch", [1, 32], "Users of the decode step. Repeatable.")
_PRESETS = flags.DEFINE_multi_string("preset", ["bf16", "accuracy", "performance"], "Precision. Repeatable.")
_NUMERICS = flags.DEFINE_multi_string("numerics", ["device"], "Effects of the device beyond formats. Repeatable.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each; medians are compared.", lower_bound=1)


def rounded(model: Transformer, precision: Precision) -> Transformer:
    """The model with every weight on its format's grid (done once, as when a checkpoint is loaded)."""

    def convert(keys, param):
        names = key_names(keys)
        layer = precision.layer(int(names[1])) if names[0] == "layers" else None
        fmt = parameter_format(traits(param), layer, precision)
        return param.replace(round_to(param.get_value(), fmt))

    return jax.tree.map_with_path(convert, model, is_leaf=is_variable)


def alternate(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in [*runs.values()] * 2:  # the second call compiles for the cache's sharding, which the first one returned
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


class Chain:
    """Calls a step that donates its cache again and again on the cache that it returned last."""

    def __init__(self, step, cache, *args, numerics="device"):
        self.step, self.cache, self.args, self.numerics = step, jax.tree.map(jnp.copy, cache), args, numerics

    def __call__(self):
        with switches.using(self.numerics):
            result, self.cache = self.step(*self.args, self.cache)
        return result


def measure(model: Transformer, layout: Layout, phase: str, batch: int, rows: int) -> dict[str, float]:
    """Median seconds of the plain model ("plain") and of each preset and numerics."""
    config, mesh = layout.config, layout.system.mesh()
    frequencies = jnp.asarray(config.rope.theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim), jnp.float32)
    forward = jax.jit(lambda m, t, p, c: plain_forward(m, t, p, c, config, frequencies), donate_argnums=3)
    t, first = (rows, 0) if phase == "prefill" else (1, rows)
    tokens = jnp.arange(batch * t, dtype=jnp.int32).reshape(batch, t) % config.vocab_size
    positions = jnp.tile(jnp.arange(first, first + t, dtype=jnp.int32)[None], (batch, 1))
    cache = KVCache.zeros(layout, batch)
    runs: dict[str, Callable[[], object]] = {"plain": Chain(forward, cache, model, tokens, positions)}
    for name, numerics in itertools.product(_PRESETS.value, _NUMERICS.value):
        precision = preset(name, config.known_name)
        emulated = rounded(model, precision)
        if phase == "prefill":
            step = jax.jit(prefill_step(layout, precision, batch, Chunk(logits="all"), mesh=mesh), donate_argnums=5)
            args = (tokens[0], positions[0], jnp.int32(0), jnp.zeros(1, jnp.int32))
        else:
            step = jax.jit(decode_step(layout, precision, batch, mesh=mesh), donate_argnums=3)
            args = (tokens[:, 0], positions[:, 0])
        runs[f"{name}, {numerics}"] = Chain(step, cache, emulated, *args, numerics=numerics)
    return alternate(runs, _REPEATS.value)


def main() -> None:
    config = dataclasses.replace(get_config(_MODEL.value), num_layers=_LAYERS.value, vocab_size=_VOCAB.value)
    rows = _ROWS.value
    layout = Layout(config, get_system("N150"), max_seq_len=2 * rows)
    model = Transformer(layout, nnx.Rngs(0))
    table: list[tuple[str, ...]] = [("phase", "precision", "plain f32", "emulated", "ratio")]
    for phase, batch in [("prefill", 1)] + [("decode", batch) for batch in _BATCHES.value]:
        medians = measure(model, layout, phase, batch, rows)
        label = f"{phase}, {rows} rows" if phase == "prefill" else f"{phase}, batch {batch}"
        plain = medians.pop("plain")
        for name, seconds in medians.items():
            table.append((label, name, text.duration(plain), text.duration(seconds), f"{seconds / plain:.2f}"))
    print(f"{config.name} widths, {config.num_layers} layers, vocabulary {config.vocab_size}, {jax.devices()[0]}")
    print("\n".join(text.align(table, left=2)))


if __name__ == "__main__":
    console.run(main)
