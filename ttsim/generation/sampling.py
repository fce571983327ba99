"""How the next token is chosen: greedily, or from the nucleus of the softmax (top-p)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ttsim import ops as tt
from ttsim.files.reading import shown


@dataclass(frozen=True)
class SamplingParams:
    """Sampling as tt_transformers' demo spells it.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_p: smallest probability mass that is sampled from, in (0, 1].
      seed: of the random choices.
    """

    temperature: float = 0.0
    top_p: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 1e6:
            raise ValueError(f"temperature must be 0 to 1e6, got {shown(self.temperature)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {shown(self.top_p)}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {shown(self.seed)}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def prompt_seeds(prompts: Sequence[Sequence[int]], params: SamplingParams) -> np.ndarray:
    """One seed a prompt: a prompt samples the same text alone and in any batch; its repetitions in a batch differ.

    Args:
      prompts: token ids.

    Returns:
      uint32 [prompts].
    """
    seen: Counter[int] = Counter()
    seeds = []
    for prompt in prompts:
        digest = zlib.crc32(np.asarray(prompt, np.int64).tobytes(), params.seed & 0xFFFFFFFF)
        seeds.append((digest + 0x9E3779B9 * seen[digest]) & 0xFFFFFFFF)
        seen[digest] += 1
    return np.asarray(seeds, np.uint32)


def sample(
    logits_bv: jax.Array,
    seeds: jax.Array,
    positions: jax.Array,
    params: SamplingParams,
    ties: str = "first",
) -> jax.Array:
    """The next token of each user.

    Greedy takes the largest logit. Otherwise a token is drawn from softmax(logits / temperature) over
    the nucleus: the most likely tokens whose probabilities before them sum to less than top_p.

    Args:
      logits_bv: [B, V]. seeds: uint32 [B], one a user. positions: int32 [B], which make the draws of a user differ.
      params: static.
      ties: which of equal logits is chosen, "first" or "last" (`Precision.argmax_ties`).

    Returns:
      int32 [B].
    """
    if params.greedy:
        return tt.argmax(logits_bv, ties=ties)

    def draw(logits_v: jax.Array, seed: jax.Array, position: jax.Array) -> jax.Array:
        probabilities = jax.nn.softmax(logits_v.astype(jnp.float32) / params.temperature)
        descending, order = jax.lax.top_k(probabilities, probabilities.size)
        before = jnp.cumsum(descending) - descending
        nucleus = jnp.where(before < params.top_p, jnp.log(descending), -jnp.inf)
        return order[jax.random.categorical(jax.random.fold_in(jax.random.key(seed), position), nucleus)]

    drawn: jax.Array = jax.vmap(draw)(logits_bv, seeds, positions)
    return drawn.astype(jnp.int32)
