"""What fits beside the weights: the largest batch and the longest context.

free for the cache = DRAM - weights - trace - activations of the longest prefill chunk
cache              = users x positions x layers x KV heads x head size x 2, in the cache's format
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ttsim.models.run import prefill_program
from ttsim.scenarios.memory import CACHE_BLOCK, activation_bytes, kept_bytes, kv_cache_bytes, weight_bytes
from ttsim.scenarios.scenario import MAX_BATCH, Scenario

_REFERENCE_ROWS = 2048  # rows of the prefill that activations are scaled from
_LONGEST = 2**20  # positions: no model's context is longer


@dataclass(frozen=True)
class Capacity:
    """What one replica can hold.

    Attributes:
      batch: most users at the scenario's sequence length, 0 if not one fits.
      batch_limit: why no more: "DRAM", or "tile" (32 users are the rows of one tile).
      context: most positions of each user at the scenario's batch size (prompt and generated tokens), 0 if none fit.
      context_limit: why no more: "DRAM", or "model" (its max_position_embeddings).
      prompt: tokens of the longest prompt in this context, which its padding must fit into as well; 0 if none does.
      kv_bytes_per_token: bytes of cache that one position of one user takes on a chip.
    """

    batch: int
    batch_limit: str
    context: int
    context_limit: str
    prompt: int
    kv_bytes_per_token: float


def capacity_of(scenario: Scenario) -> Capacity:
    """The largest batch and context of a scenario's model, system and precision."""
    layout, precision = scenario.layout, scenario.precision
    room = scenario.chip.dram_bytes - weight_bytes(layout, precision) - kept_bytes(scenario.chip)
    activations = scenario.memory().activations

    def batch_fits(batch: int) -> bool:
        return activations + kv_cache_bytes(layout, precision, batch, scenario.sequence_length) <= room

    batch = _largest(batch_fits, MAX_BATCH)
    longest = min(scenario.config.max_position_embeddings, _LONGEST)
    blocks = longest // CACHE_BLOCK
    working_set = activations_by_length(scenario)  # of the context's own prompt, whatever the scenario's length is
    beside = activations if scenario.images else 0

    def context_fits(blocks: int) -> bool:
        positions = blocks * CACHE_BLOCK
        cache = kv_cache_bytes(layout, precision, scenario.batch_size, positions)
        return max(beside, working_set(positions)) + cache <= room

    fitting = _largest(context_fits, blocks)
    block = kv_cache_bytes(layout, precision, scenario.batch_size, CACHE_BLOCK)
    return Capacity(
        batch=batch,
        batch_limit="tile" if batch == MAX_BATCH else "DRAM",
        context=fitting * CACHE_BLOCK,
        context_limit="model" if fitting == blocks else "DRAM",
        prompt=_longest_prompt(scenario, fitting * CACHE_BLOCK),
        kv_bytes_per_token=block / CACHE_BLOCK / scenario.batch_size,
    )


def _longest_prompt(scenario: Scenario, context: int) -> int:
    """Tokens of the longest prompt whose padding, and whose generated tokens, end within the context."""

    def fits(prompt: int) -> bool:
        return max(scenario.software.padded_prompt(prompt), prompt + scenario.max_generated_tokens) <= context

    return _largest(fits, context)


def activations_by_length(scenario: Scenario) -> Callable[[int], float]:
    """Bytes of prefill's working set by the prompt's length: proportional to the rows of a chunk.

    An upper bound: what does not grow with the rows (the logits of the last tile) is scaled too.
    """
    limit = scenario.layout.prefill_chunk(_LONGEST)
    rows = min(limit, _REFERENCE_ROWS)
    batch = scenario.batch_size if scenario.layout.two_d else 1
    program = prefill_program(scenario.layout, scenario.precision, batch, rows)
    size = activation_bytes(program)
    return lambda positions: size * max(min(positions, limit), rows) / rows


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n <= most for which `fits(n)`, 0 if there is none; `fits` is true up to some n."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
