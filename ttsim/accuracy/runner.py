"""Windows of text run through a model: prefill, then all teacher-forced decode positions in one causal pass.

With teacher forcing, decode's positions don't depend on each other's choices, so one pass with decode's formats and
settings computes all of them: what runs is the program that the simulator prices.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ttsim import ops as tt
from ttsim.accuracy.results import PUBLISHED, Outputs, Protocol
from ttsim.models.cache import KVCache
from ttsim.models.chunk import Chunk
from ttsim.models.layerwise import AheadOfTime, prefill_by_layer
from ttsim.models.layout import Layout
from ttsim.models.run import decode_step, place_cache, prefill_step
from ttsim.models.transformer import Transformer
from ttsim.precision.values import Precision


class Runner:
    """Runs windows of text through a model: one compiled program for one layout, precision and protocol.

    Args:
      layout: the model on its system; windows are spread over the replicas. Sequences must fit `max_seq_len`.
      precision: formats and compute settings.
      protocol: lengths.
      mesh: the system's mesh; by default over JAX's devices.
      top5: whether to collect the five best tokens.
    """

    def __init__(
        self,
        layout: Layout,
        precision: Precision,
        protocol: Protocol = PUBLISHED,
        mesh: Mesh | None = None,
        *,
        top5: bool = False,
    ):
        if protocol.prefill + protocol.decode > layout.max_seq_len:
            raise ValueError(f"{protocol} does not fit the layout's max_seq_len of {layout.max_seq_len}")
        self.layout, self.precision, self.protocol, self.top5 = layout, precision, protocol, top5
        self.mesh = layout.system.mesh() if mesh is None else mesh
        self.compile_seconds = 0.0
        build = functools.partial(prefill_by_layer, layout, precision, 1, mesh=self.mesh, on_compile=self._count)
        self._prefill = build(Chunk(logits="none"))
        self._decode = build(Chunk(start=protocol.prefill, logits="all", numerics="decode"))
        self._statistics = AheadOfTime(self._everywhere, (), self._count)

    def _count(self, seconds: float) -> None:
        self.compile_seconds += seconds

    @property
    def _cache(self) -> KVCache:
        layers = (self.precision.layer(i) for i in range(len(self.layout.config.self_attention_layers)))
        exact = any(layer.kv_cache == "fp32" for layer in layers)
        # bfloat16 holds every value of every other format.
        return KVCache.zeros(self.layout, 1, jnp.float32 if exact else jnp.bfloat16)

    def _two_passes(self, model: Transformer, tokens_wt: jax.Array) -> tuple[jax.Array, ...]:
        """Prefill, then all decode positions at once. tokens_wt: [replicas, length]."""
        first, count, replicas = self.protocol.prefill, self.protocol.decode, tokens_wt.shape[0]
        zero, last = jnp.int32(0), jnp.zeros((replicas,), jnp.int32)
        cache = place_cache(self._cache, self.layout, 1, self.mesh)
        prompt, rest = tokens_wt[:, :first].reshape(-1), tokens_wt[:, first : first + count].reshape(-1)
        _, cache = self._prefill(model, prompt, jnp.arange(first), zero, last, cache)
        logits, _ = self._decode(model, rest, jnp.arange(first, first + count), zero, last, cache)
        statistics: tuple[jax.Array, ...] = self._statistics(logits, tokens_wt[:, first + 1 :])
        return statistics

    def _everywhere(self, logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        """`_read` with its results on all devices, so that every process has those of all replicas."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        return tuple(jax.lax.with_sharding_constraint(x, whole) for x in self._read(logits, targets))

    def _read(self, logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        """Choices, -log p of the targets and, if asked for, the five best, each [replicas, positions, ...].

        Args:
          logits: [replicas * positions, V], vocabulary padded. targets: [replicas, positions] tokens.
        """
        logits = logits.reshape(*targets.shape, -1)[..., : self.layout.config.vocab_size]
        choice = tt.argmax(logits, ties=self.precision.argmax_ties)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nll = jax.nn.logsumexp(logits, axis=-1) - chosen
        return (choice, nll, jax.lax.top_k(logits, 5)[1]) if self.top5 else (choice, nll)

    def __call__(
        self, model: Transformer, windows: np.ndarray, on_window: Callable[[Outputs], None] | None = None
    ) -> Outputs:
        """Runs all windows.

        Args:
          model: with the precision's values (`load_model`).
          windows: int [windows, length] tokens.
          on_window: called with the outputs so far after each pass.

        Raises:
          ValueError: windows of another length, or tokens outside the vocabulary.
        """
        windows = self._check(windows)
        replicas = self.layout.system.data_parallel
        parts: list[list[np.ndarray]] = []
        seconds = 0.0
        for start in range(0, len(windows), replicas):
            batch = windows[np.minimum(np.arange(start, start + replicas), len(windows) - 1)]
            tokens = jnp.asarray(batch, jnp.int32)
            began, compiled = time.perf_counter(), self.compile_seconds
            result = jax.block_until_ready(self._two_passes(model, tokens))
            seconds += time.perf_counter() - began - (self.compile_seconds - compiled)
            parts.append([np.asarray(x)[: len(windows) - start] for x in result])
            if on_window:
                on_window(self._outputs(parts, seconds))
        return self._outputs(parts, seconds)

    def _outputs(self, parts: list[list[np.ndarray]], seconds: float) -> Outputs:
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Outputs(columns[0], columns[1], columns[2] if self.top5 else None, seconds)

    def _check(self, windows: np.ndarray) -> np.ndarray:
        windows = np.asarray(windows)
        if windows.ndim != 2 or windows.shape[1] != self.protocol.length or not len(windows):
            raise ValueError(f"windows have shape {list(windows.shape)}, expected [n, {self.protocol.length}]")
        vocabulary = self.layout.config.vocab_size
        if windows.min() < 0 or windows.max() >= vocabulary:
            raise ValueError(
                f"token {windows.max()} is outside {self.layout.config.name}'s vocabulary of {vocabulary}: "
                "the text was encoded for another model"
            )
        return windows

    def single_steps(self, model: Transformer, window: np.ndarray) -> Outputs:
        """The same window in single decode steps, token by token, as the device runs it; slow, for comparison."""
        window = self._check(np.asarray(window)[None])
        first, count, layout = self.protocol.prefill, self.protocol.decode, self.layout
        replicas = layout.system.data_parallel
        prefill = jax.jit(prefill_step(layout, self.precision, 1, Chunk(logits="none"), mesh=self.mesh))
        step = jax.jit(decode_step(layout, self.precision, 1, mesh=self.mesh), donate_argnums=3)
        cache = place_cache(self._cache, layout, 1, self.mesh)
        zeros = jnp.zeros((replicas,), jnp.int32)
        prompt = jnp.tile(jnp.asarray(window[0, :first], jnp.int32), replicas)
        _, cache = prefill(model, prompt, jnp.arange(first), jnp.int32(0), zeros, cache)
        rows = []
        for position in range(first, first + count):
            token = jnp.full((replicas,), window[0, position], jnp.int32)
            logits, cache = step(model, token, jnp.full((replicas,), position, jnp.int32), cache)
            rows.append(self._read(logits[:1], jnp.asarray(window[:, position + 1, None], jnp.int32)))
        columns = [np.concatenate([np.asarray(x) for x in column], axis=1) for column in zip(*rows, strict=True)]
        return Outputs(columns[0], columns[1], columns[2] if self.top5 else None, 0.0)
