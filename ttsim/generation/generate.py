"""Batched generation with the emulated numerics: prefill each prompt, then decode all users with the KV cache.

    generator = Generator(model, layout, precision, batch_size=2)
    result = generator(prompts, max_generated_tokens=200, stop_tokens={2})
    result.tokens[0]

Every prompt is padded to a published length and decode always has the same shape, so that nothing is compiled again
for another prompt or another token. A user gets the same tokens in any batch: XLA sums a matrix product of two or more
rows in the same order whatever their number, so decode never has fewer than two rows.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ttsim.files.compiled import drop_cut_entries
from ttsim.generation.paging import BlockTable, PageParams
from ttsim.generation.sampling import SamplingParams, prompt_seeds, sample
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.fetch import cache_dir
from ttsim.models.chunk import Chunk
from ttsim.models.grids import padded_prefill_length
from ttsim.models.layout import Layout
from ttsim.models.run import decode_step, place_cache, prefill_step
from ttsim.models.transformer import Transformer
from ttsim.precision.values import Precision

_LEAST_ROWS = 2  # one row would be a matrix-vector product, which sums in another order

OnTokens = Callable[[int, "np.ndarray", "np.ndarray"], None]


@dataclass(frozen=True)
class Generation:
    """What a batch generated.

    Attributes:
      tokens: new tokens of each user: the prefill's, then one a decode iteration; a stop token ends them and is left
        out.
      stopped: whether each user ended with a stop token.
      prompt_lengths: tokens of each prompt.
      prefill_times: wall seconds of each prompt here. step_times: wall seconds of each decode iteration here; the
        first prompt of each padded length and the first iteration compile, unless the generator ran before.
      tables: block table of each replica at the end, or empty without paged attention.
    """

    tokens: tuple[tuple[int, ...], ...]
    stopped: tuple[bool, ...]
    prompt_lengths: tuple[int, ...]
    prefill_times: tuple[float, ...]
    step_times: tuple[float, ...]
    tables: tuple[BlockTable, ...] = ()

    @property
    def iterations(self) -> int:
        return len(self.step_times)


def keep_compiled() -> None:
    """Keeps compiled steps where JAX is told to (JAX_COMPILATION_CACHE_DIR), or else in the user's cache.

    The same model and shapes start at once the next time.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_dir() / "compiled")
    drop_cut_entries(folder)
    jax.config.update("jax_compilation_cache_dir", folder)


def cache_length(max_seq_len: int) -> int:
    """Positions that a user's cache needs so that every padded prompt of at most `max_seq_len` tokens fits."""
    return padded_prefill_length(max_seq_len)


class Generator:
    """A model with its KV cache and its compiled steps.

    Args:
      model: parameters on their formats' grids, on the mesh (`ttsim.models.checkpoints.loading.load_model`).
      layout: the model on its system; its `max_seq_len` is the cache's length.
      precision: formats and settings.
      batch_size: users of one replica, at most 32.
      mesh: of the system; by default over JAX's devices.
      sampling: how tokens are chosen.
      pages: size of each replica's block pool; None: one contiguous cache per user.
      cache_dtype: float32 holds every format's values; bfloat16 halves the memory and is slower on CPUs.
    """

    def __init__(
        self,
        model: Transformer,
        layout: Layout,
        precision: Precision,
        *,
        batch_size: int = 1,
        mesh: Mesh | None = None,
        sampling: SamplingParams | None = None,
        pages: PageParams | None = None,
        cache_dtype: DTypeLike = jnp.float32,
    ):
        if not 1 <= batch_size <= 32:
            raise ValueError(f"batch_size must be 1 to 32 users a replica, the rows of one tile, not {batch_size}")
        self.layout, self.precision, self.batch_size = layout, precision, batch_size
        self.mesh = layout.system.mesh() if mesh is None else mesh
        self.sampling = sampling or SamplingParams()
        self.pages = pages
        self._model = model
        self._rows = max(_LEAST_ROWS, batch_size)
        self._replicas = layout.system.data_parallel
        self._cache = place_cache(KVCache.zeros(layout, self._rows, cache_dtype), layout, self._rows, self.mesh)
        # Named, because another spelling of the same sharding would compile the next step again.
        everywhere = NamedSharding(self.mesh, PartitionSpec())  # every process has the tokens of all users
        self._out_shardings = (everywhere, jax.tree.map(lambda x: x.sharding, self._cache))
        self._decode = self._compiled_decode()
        self._prefills: dict[tuple[int, int], Callable[..., Any]] = {}

    @property
    def users(self) -> int:
        """Users of all replicas."""
        return self.batch_size * self._replicas

    @property
    def compilations(self) -> dict[str, int]:
        """How often each step was compiled: "decode", and "prefill T" or "prefill T at start" for each shape."""
        counts = {"decode": self._decode._cache_size()}  # type: ignore[attr-defined]
        for (length, start), step in self._prefills.items():
            counts[f"prefill {length}" + (f" at {start}" if start else "")] = step._cache_size()  # type: ignore[attr-defined]
        return counts

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        max_generated_tokens: int,
        *,
        stop_tokens: Collection[int] = (),
        on_tokens: OnTokens | None = None,
    ) -> Generation:
        """Generates for a batch of prompts.

        Args:
          prompts: token ids of each user, at most `users` of them.
          max_generated_tokens: decode iterations; the token of the prefill comes on top, as in tt_transformers' demo.
          stop_tokens: end of sequence; a user that emits one is done.
          on_tokens: called after prefill (iteration -1) and after each iteration with (iteration, tokens [users],
            which users are still generating [users]).

        Raises:
          ValueError: no prompt, an empty one, or one too long for the cache.
          OutOfBlocksError: the block pool is too small.
        """
        self._check(prompts, max_generated_tokens)
        lengths = np.array([len(prompt) for prompt in prompts])
        tables = self._block_tables()
        stops = np.array(sorted(stop_tokens), np.int64)
        seeds = self._by_row(prompt_seeds(prompts, self.sampling), np.uint32)
        first, prefill_times = self._prefill_all(prompts, seeds, tables)
        tokens = self._by_row(first, np.int32)
        positions = self._by_row(lengths, np.int32)
        rows = self._row_numbers(len(prompts))
        generated: list[list[int]] = [[] for _ in prompts]
        alive = np.ones(len(prompts), bool)
        stopped = np.zeros(len(prompts), bool)

        def take(iteration: int) -> None:
            new = tokens[rows]
            ends = alive & np.isin(new, stops)
            stopped[ends], alive[ends] = True, False
            for user in map(int, np.flatnonzero(alive)):
                generated[user].append(int(new[user]))
            for user in map(int, np.flatnonzero(ends)):
                self._release(tables, user)
            if on_tokens:
                on_tokens(iteration, new, alive.copy())

        take(-1)
        step_times: list[float] = []
        for iteration in range(max_generated_tokens):
            if not alive.any():
                break
            for user in map(int, np.flatnonzero(alive)):
                self._reserve(tables, user, int(positions[rows[user]]) + 1)
            start = time.perf_counter()
            out, self._cache = self._decode(self._model, tokens, positions, seeds, self._cache)
            tokens = np.asarray(out)
            step_times.append(time.perf_counter() - start)
            positions[rows[alive]] += 1  # the others stay where they are: what they write is never read
            take(iteration)
        return Generation(
            tuple(map(tuple, generated)),
            tuple(map(bool, stopped)),
            tuple(map(int, lengths)),
            tuple(prefill_times),
            tuple(step_times),
            tuple(tables),
        )

    # Prefill

    def _prefill_all(
        self, prompts: Sequence[Sequence[int]], seeds: np.ndarray, tables: list[BlockTable]
    ) -> tuple[np.ndarray, list[float]]:
        """The first token of each user, and the wall seconds of each."""
        first = np.zeros(len(prompts), np.int32)
        times = [0.0] * len(prompts)
        for slot in range(min(self.batch_size, len(prompts))):
            users = [u for u in range(slot, len(prompts), self.batch_size)]
            for user in users:
                self._reserve(tables, user, len(prompts[user]))
            start = time.perf_counter()
            tokens = self._prefill_slot([prompts[u] for u in users], slot, seeds[slot :: self._rows])
            first[users] = tokens[: len(users)]
            for user in users:
                times[user] = (time.perf_counter() - start) / len(users)
        return first, times

    def _prefill_slot(self, prompts: Sequence[Sequence[int]], slot: int, seeds: np.ndarray) -> np.ndarray:
        """Fills one user of each replica; replicas without a prompt get padding. Returns their first tokens."""
        padded = padded_prefill_length(max(map(len, prompts)))
        chunk = self.layout.prefill_chunk(padded)
        tokens = np.zeros((self._replicas, padded), np.int32)
        last = np.zeros(self._replicas, np.int32)
        for replica, prompt in enumerate(prompts):
            tokens[replica, : len(prompt)] = prompt
            last[replica] = len(prompt) - 1
        result = np.zeros(self._replicas, np.int32)
        for start in range(0, int(last.max()) + 1, chunk):
            step = self._compiled_prefill(chunk, start)
            part = np.ascontiguousarray(tokens[:, start : start + chunk]).reshape(-1)
            inside = np.clip(last - start, 0, chunk - 1).astype(np.int32)
            positions = np.arange(start, start + chunk, dtype=np.int32)
            out, self._cache = step(self._model, part, positions, np.int32(slot), inside, last, seeds, self._cache)
            here = (last >= start) & (last < start + chunk)
            result[here] = np.asarray(out)[here]
        return result

    def _compiled_prefill(self, length: int, start: int) -> Callable[..., Any]:
        key = (length, start)
        if key not in self._prefills:
            step = prefill_step(self.layout, self.precision, self._rows, Chunk(start), mesh=self.mesh)
            self._prefills[key] = jax.jit(
                functools.partial(self._prefill_and_sample, step), donate_argnums=7, out_shardings=self._out_shardings
            )
        return self._prefills[key]

    def _prefill_and_sample(
        self,
        step: Callable[..., tuple[jax.Array, KVCache]],
        model: Transformer,
        tokens: jax.Array,
        positions: jax.Array,
        user: jax.Array,
        inside: jax.Array,
        last: jax.Array,
        seeds: jax.Array,
        cache: KVCache,
    ) -> tuple[jax.Array, KVCache]:
        logits, cache = step(model, tokens, positions, user, inside, cache)
        rows = logits.reshape(self._replicas, -1, logits.shape[-1])
        picked = rows[jnp.arange(self._replicas), inside % rows.shape[1], : self.layout.config.vocab_size]
        return sample(picked, seeds, last, self.sampling, self.precision.argmax_ties), cache

    # Decode

    def _compiled_decode(self) -> Callable[..., Any]:
        step = decode_step(self.layout, self.precision, self._rows, mesh=self.mesh)

        def run(
            model: Transformer, tokens: jax.Array, positions: jax.Array, seeds: jax.Array, cache: KVCache
        ) -> tuple[jax.Array, KVCache]:
            logits, cache = step(model, tokens, positions, cache)
            return sample(logits, seeds, positions, self.sampling, self.precision.argmax_ties), cache

        return jax.jit(run, donate_argnums=4, out_shardings=self._out_shardings)

    # Users: user u of the batch is row u % batch_size of replica u // batch_size.

    def _row_numbers(self, users: int) -> np.ndarray:
        return np.array([u // self.batch_size * self._rows + u % self.batch_size for u in range(users)])

    def _by_row(self, values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
        rows = np.zeros(self._rows * self._replicas, dtype)
        rows[self._row_numbers(len(values))] = values
        return rows

    # Pages

    def _block_tables(self) -> list[BlockTable]:
        if self.pages is None:
            return []
        return [BlockTable(self.pages, self.batch_size, seed) for seed in range(self._replicas)]

    def _reserve(self, tables: list[BlockTable], user: int, positions: int) -> None:
        if tables:
            tables[user // self.batch_size].reserve(user % self.batch_size, positions)

    def _release(self, tables: list[BlockTable], user: int) -> None:
        if tables:
            tables[user // self.batch_size].release(user % self.batch_size)

    def _check(self, prompts: Sequence[Sequence[int]], max_generated_tokens: int) -> None:
        if not prompts:
            raise ValueError("there is no prompt")
        if len(prompts) > self.users:
            raise ValueError(f"{len(prompts)} prompts are more than the batch of {self.users} users")
        if max_generated_tokens < 0:
            raise ValueError(f"max_generated_tokens must not be negative, got {max_generated_tokens}")
        room = self.layout.max_seq_len
        vocab = self.layout.config.vocab_size
        for user, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"the prompt of user {user} is empty")
            if min(prompt) < 0 or max(prompt) >= vocab:
                raise ValueError(f"the prompt of user {user} has token ids outside 0 .. {vocab - 1}")
            if len(prompt) + max_generated_tokens > room:
                raise ValueError(
                    f"the prompt of user {user} has {len(prompt)} tokens, and with {max_generated_tokens} generated "
                    f"ones it is longer than max_seq_len = {room}"
                )
