"""Settings per decoder layer that beat the presets: sensitivities, a greedy path, and measured accuracy.

Each (layer, tensor group) can go from bfp8 to bfp4 with LoFi. It then saves time, the same in every layer, and adds
noise, which adds up over layers and groups. Taking the moves in the order of noise per second saved gives the front of
all such settings, as long as both add up: the fractional knapsack's argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ttsim.accuracy.estimated import estimate_accuracy
from ttsim.accuracy.measured import bundled_text, cut_windows
from ttsim.accuracy.results import Outputs, Protocol, Score
from ttsim.accuracy.runner import Runner
from ttsim.explore.front import Accuracy, Kind, Point, dominates, evaluate, front, set_formats
from ttsim.hardware.constants import load_constants
from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.loading import Checkpoint, load_model
from ttsim.models.checkpoints.tokenizers import load_tokenizer
from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.parameters import is_variable, key_names, traits
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision
from ttsim.scenarios.scenario import Scenario

GROUPS = ("ff1_3", "ff2", "wqkv", "wo")
Progress = Callable[[int, int], None]
_EQUAL = 0.5  # points of Top-1 that a base may lose for speed: the published test's own allowance


def default_bases() -> list[Precision]:
    """All weights in bfp8, with mixed and with bfp8 activations, and the MLP in hifi2fp16 and in hifi2."""
    return [
        Precision().replace(activation=activation, li_ff1_3=setting, li_ff2=setting)
        for activation in ("mixed", "bfp8")
        for setting in ("hifi2fp16", "hifi2")
    ]


class Measured:
    """Accuracy of a checkpoint, measured on one chip; the reference runs once for all precisions.

    Args:
      checkpoint: opened weights.
      protocol: lengths of prefill and decode. windows: consecutive pieces of the bundled text.
    """

    def __init__(self, checkpoint: Checkpoint, protocol: Protocol | None = None, windows: int = 1):
        protocol = protocol or Protocol()
        self._checkpoint, self._protocol = checkpoint, protocol
        tokenizer = load_tokenizer(checkpoint.path)
        self._windows = cut_windows(tokenizer.encode(bundled_text()), protocol, windows, tokenizer.bos)
        self._layout = Layout(checkpoint.config, get_system("N150"), max_seq_len=-(-protocol.length // 32) * 32)
        self._known: dict[Precision, tuple[float, float, Kind]] = {}
        exact = self._run(preset("fp32", checkpoint.config.known_name), top5=True)
        assert exact.top5 is not None
        self._top5, self._nll = exact.top5, exact.nll

    def _run(self, precision: Precision, top5: bool = False) -> Outputs:
        model = load_model(self._checkpoint, self._layout, precision, progress=False)
        return Runner(self._layout, precision, self._protocol, top5=top5)(model, self._windows)

    def __call__(self, precision: Precision) -> tuple[float, float, Kind]:
        """(Top-1, Top-5, "measured"), means over the windows."""
        if precision not in self._known:
            self._known[precision] = self._score(self._run(precision))
        return self._known[precision]

    def _score(self, outputs: Outputs) -> tuple[float, float, Kind]:
        score = Score.of(outputs, self._top5, self._nll)
        return float(score.top1.mean()), float(score.top5.mean()), "measured"

    def mixes(self, base: Precision) -> Mixes:
        """Quick runs of precisions that move weights of `base` from bfp8 to bfp4."""
        return Mixes(self, base)


class Mixes:
    """Precisions between one with bfp8 weights and the same with bfp4 weights, all run by one compiled pass.

    bfp4's four significand bits lose nothing in LoFi, and LoFi takes as many bits of the activations as HiFi2: with
    bfp4 values the base's program computes LoFi's products. The outputs of wqkv and wo skip a rounding to bf16 that
    LoFi's 16-bit registers add. `Measured` itself runs a precision exactly as it is.
    """

    def __init__(self, measured: Measured, base: Precision):
        self._measured = measured
        self._config = measured._checkpoint.config
        coarse = base.replace(**dict.fromkeys(GROUPS, "bfp4"))
        self._runner = Runner(measured._layout, base, measured._protocol)
        model, other = (load_model(measured._checkpoint, measured._layout, p, progress=False) for p in (base, coarse))
        self._leaves, self._structure = jax.tree.flatten(model)
        self._coarse = jax.tree.leaves(other)
        self._owners = [
            _owner(keys, traits(param).group, self._config)
            for keys, param in jax.tree.leaves_with_path(model, is_leaf=is_variable)
            for _ in jax.tree.leaves(param)
        ]

    def run(self, moved: Collection[tuple[str, int]]) -> Outputs:
        """One pass with these (group, layer) in bfp4."""
        leaves = [
            coarse if owner in moved else leaf
            for leaf, coarse, owner in zip(self._leaves, self._coarse, self._owners, strict=True)
        ]
        return self._runner(jax.tree.unflatten(self._structure, leaves), self._measured._windows)

    def __call__(self, precision: Precision) -> tuple[float, float, Kind]:
        """(Top-1, Top-5, "measured") of the base with some weights in bfp4."""
        layers = range(len(self._config.self_attention_layers))
        moved = {(group, i) for i in layers for group in GROUPS if getattr(precision.layer(i), group) == "bfp4"}
        return self._measured._score(self.run(moved))

    def sensitivities(self, progress: Progress | None = None) -> np.ndarray:
        """Noise that bfp4 in one group of one layer adds: the mean squared change of the text's log-probabilities.

        Returns:
          [layers, groups], for GROUPS.
        """
        plain = self.run(()).nll
        noise = np.zeros((len(self._config.self_attention_layers), len(GROUPS)))
        for done, (layer, g) in enumerate(np.ndindex(*noise.shape), start=1):
            noise[layer, g] = float(np.mean((self.run({(GROUPS[g], layer)}).nll - plain) ** 2))
            if progress:
                progress(done, noise.size)
        return noise


def _owner(keys: Sequence[Any], group: str, config: ModelConfig) -> tuple[str, int] | None:
    """(group, layer as `Precision.layer` counts) of a parameter, or None if no search moves it."""
    names = key_names(keys)
    layers = config.self_attention_layers
    if group not in GROUPS or names[0] != "layers" or int(names[1]) not in layers:
        return None
    return group, layers.index(int(names[1]))


def estimated_sensitivities(config: ModelConfig, base: Precision) -> np.ndarray:
    """The estimate's noise of bfp4 in each group, the same in every layer. [layers, groups]."""
    layers = len(config.self_attention_layers)
    top1 = estimate_accuracy(config, base).top1
    lost = [top1 - estimate_accuracy(config, set_formats(base, {group: "bfp4"})).top1 for group in GROUPS]
    return np.tile(np.maximum(lost, 1e-9) / layers, (layers, 1))


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
      path: points of the greedy path that were evaluated, base first.
      winner: the fastest of them whose Top-1 is at least the target's, or None.
      beaten: points of the presets that the winner dominates.
      target: the Top-1 that was asked for.
    """

    path: tuple[Point, ...]
    winner: Point | None
    beaten: tuple[Point, ...]
    target: float


def search(
    config: ModelConfig,
    device: str,
    accuracy: Accuracy,
    noise: np.ndarray,
    bases: Sequence[Precision],
    presets: Sequence[Point],
    *,
    target: float | None = None,
    steps: int = 16,
    first_index: int = 0,
    constants: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Search:
    """Walks from the base precision towards bfp4, the moves with the least noise per second saved first.

    Args:
      config, device: what runs. accuracy: of a precision.
      noise: [layers, groups] (`Measured.sensitivities` or `estimated_sensitivities`).
      bases: where the path may begin, all weights in bfp8: the fastest of those whose Top-1 is within half a point of
        the best is taken.
      presets: points to beat. target: least Top-1; by default that of the fastest preset on their front.
      steps: points of the path that are evaluated; a bisection around the target follows.
      first_index: number of the first point.
    """
    constants = load_constants() if constants is None else constants
    starts = evaluate([("search: base", base) for base in bases], config, device, accuracy, constants=constants)
    enough = max(p.top1 for p in starts) - _EQUAL
    base = max((p for p in starts if p.top1 >= enough), key=lambda p: p.speed).precision
    saved = _time_saved(config, device, base, constants)
    moves = [
        (noise[layer, g] / saved[g], layer, g)
        for layer in range(noise.shape[0])
        for g in range(len(GROUPS))
        if saved[g] > 0
    ]
    moves.sort()
    goal = front(presets)[0].top1 if target is None else target
    found: dict[int, Point] = {}

    def point(count: int) -> Point:
        if count not in found:
            precision = _moved(base, [(layer, g) for _, layer, g in moves[:count]])
            label = f"search: {count} of {len(moves)} weights in bfp4"
            found[count] = evaluate([(label, precision)], config, device, accuracy, constants=constants)[0]
            if progress:
                progress(len(found), max(len(found), steps + 1))
        return found[count]

    for count in np.unique(np.linspace(0, len(moves), steps + 1).round().astype(int)):
        point(int(count))
    reaching = [count for count, p in found.items() if p.top1 >= goal]
    if reaching:  # between the last point that reaches the target and the next one
        low = max(reaching)
        high = min((count for count in found if count > low), default=low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if point(middle).top1 >= goal else (low, middle)
    path = [dataclasses.replace(p, index=first_index + i) for i, (_, p) in enumerate(sorted(found.items()))]
    able = [p for p in path if p.top1 >= goal]
    winner = max(able, key=lambda p: p.speed, default=None)
    beaten = [p for p in presets if winner is not None and dominates(winner, p)]
    return Search(tuple(path), winner, tuple(beaten), goal)


def _moved(base: Precision, moves: Sequence[tuple[int, int]]) -> Precision:
    precision = base
    by_layer: dict[int, dict[str, str]] = {}
    for layer, g in moves:
        by_layer.setdefault(layer, {})[GROUPS[g]] = "bfp4"
    layers = dict(precision.layers)
    for layer, formats in by_layer.items():
        layers[layer] = set_formats(Precision(precision.layer(layer)), formats).default
    return dataclasses.replace(precision, layers=tuple(layers.items()))


def _time_saved(config: ModelConfig, device: str, base: Precision, constants: Mapping[str, float]) -> list[float]:
    """Seconds of a decode step that bfp4 in one layer's group saves."""

    def step(precision: Precision) -> float:
        return float(np.mean(Scenario.of(config, device, precision).step_times(constants)))

    whole, layers = step(base), len(config.self_attention_layers)
    return [(whole - step(set_formats(base, {group: "bfp4"}))) / layers for group in GROUPS]
