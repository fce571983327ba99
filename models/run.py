"""Run or trace a model on a mesh: the device program of `Transformer` wrapped in `jax.shard_map`.

layout = Layout(config, system, max_seq_len=1024)
step = decode_step(layout, precision, batch=1)            # a global function, for jax.jit on a mesh
program = decode_program(layout, precision, batch=1)      # or what one device runs, without devices or weights
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ttsim.hardware.chips import CHIPS
from ttsim.meshes.systems import DATA_AXIS
from ttsim.models.cache import KVCache, users_partition
from ttsim.models.chunk import WHOLE, Chunk
from ttsim.models.decoder import DECODE_LAYER, PREFILL_LAYER
from ttsim.models.layout import PAD_MLP_CORES, Layout
from ttsim.models.parameters import partition_specs, shardings
from ttsim.models.placement import Placement
from ttsim.models.transformer import Sample, Transformer
from ttsim.precision.slots import PrecisionSlots, abstract_precision
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program, trace

TRACE_LENGTH = 131_072  # longest sequence of the programs that are traced for a price, which doesn't depend on it


def decode_step(
    layout: Layout,
    precision: Precision,
    batch: int,
    *,
    sample: Sample = "none",
    mesh: Mesh | AbstractMesh | None = None,
) -> Callable[..., Any]:
    """The function (model, tokens [B], positions [B], cache) -> (tokens or logits, cache), over all replicas.

    Args:
      layout, precision: the model on its system, and its formats and settings.
      batch: users of one replica; B = batch x replicas.
      sample: where the token is chosen (see `Transformer.decode`).
      mesh: mesh of the system; by default the abstract one.
    """
    mesh = layout.system.abstract_mesh() if mesh is None else mesh
    model_specs = _model_specs(layout)
    cache_specs = KVCache.specs(layout, batch)
    step = functools.partial(Transformer.decode, layout=layout, precision=precision, sample=sample)
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(model_specs, P(DATA_AXIS), P(users_partition(layout, batch)), cache_specs),
        out_specs=(P(DATA_AXIS), cache_specs),
        check_vma=False,  # the gathered logits are replicated, which the type system can't see
    )


def prefill_step(
    layout: Layout,
    precision: Precision,
    batch: int,
    chunk: Chunk = WHOLE,
    *,
    mesh: Mesh | AbstractMesh | None = None,
) -> Callable[..., Any]:
    """The function (model, tokens [R T], positions [T], user, last [R], cache) -> (logits, cache).

    Each of the R replicas fills the cache of its user number `user` with its own T tokens. With the chunk's
    `logits="last"` the result has 32 rows a replica (the row `last % 32` is the wanted one), with "all" T rows, each of
    V columns.
    """
    mesh = layout.system.abstract_mesh() if mesh is None else mesh
    model_specs = _model_specs(layout)
    cache_specs = KVCache.specs(layout, batch)

    def step(
        model: Transformer, tokens_t: Array, positions_t: Array, user: Array, last: Array, cache: KVCache
    ) -> tuple[Array | None, KVCache]:
        return model.prefill(
            tokens_t, positions_t, user, last[0], cache, layout=layout, precision=precision, chunk=chunk
        )

    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(model_specs, P(DATA_AXIS), P(), P(), P(DATA_AXIS), cache_specs),
        out_specs=(P(DATA_AXIS, layout.axis) if chunk.logits != "none" else P(), cache_specs),
        check_vma=False,
    )


def place(model: Transformer, layout: Layout, mesh: Mesh) -> Transformer:
    """The model with every parameter sharded over the mesh by the layout's rules."""
    placed: Transformer = jax.tree.map(jax.device_put, model, shardings(model, layout.rules, mesh))
    return placed


def place_cache(cache: KVCache, layout: Layout, batch: int, mesh: Mesh) -> KVCache:
    """The cache sharded over the mesh."""
    specs = KVCache.specs(layout, batch)
    placed: KVCache = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), cache, specs)
    return placed


@functools.lru_cache(maxsize=128)
def _skeleton(layout: Layout) -> Transformer:
    """The abstract model. Its values are never changed, so that one serves all traces."""
    return Transformer(layout)


@functools.lru_cache(maxsize=128)
def _model_specs(layout: Layout) -> Transformer:
    return partition_specs(_skeleton(layout), layout.rules)


def decode_program(layout: Layout, precision: Precision, batch: int, *, sample: Sample = "none") -> Program:
    """What one device and its host run for one token of each user."""
    slots, value = abstract_precision(precision, len(layout.config.self_attention_layers))
    return _decode(_nameless(layout), slots, batch, sample).fill(value)


# How many users a decode step is traced with: a prime, so that no other size is taken for it (see `_MARK`).
_USERS = 63_949


@functools.lru_cache(maxsize=512)
def _decode(layout: Layout, precision: PrecisionSlots, batch: int, sample: Sample) -> Program:
    """The decode step of a batch: where users are rows alone, one trace serves all batches."""
    kinds = layout.config.text_kinds
    if layout.two_d or layout.config.experts or any(kind.mixer != "attention" for kind in kinds):
        return _trace_decode(layout, precision, batch, sample)
    return _trace_decode(layout, precision, _USERS, sample).renumber({_USERS: batch})


def prefill_program(
    layout: Layout,
    precision: Precision,
    batch: int,
    length: int,
    chunk: Chunk = WHOLE,
) -> Program:
    """What one device and its host run for one user's prompt, or for a chunk of it of `length` padded rows."""
    chunk, start = dataclasses.replace(chunk, first=chunk.copied), chunk.start
    if not start or _MARK + length > layout.max_seq_len:
        return _prefill(layout, precision, batch, length, chunk)
    marked = _prefill(layout, precision, batch, length, dataclasses.replace(chunk, start=_MARK))
    return marked.renumber({_MARK: start, _MARK + length: start + length})


# Where a later chunk of a prompt is traced to start: a prime, so that no other size is taken for it. Chunks differ in
# their start alone, as a number and in the sizes of what they read from the cache.
_MARK = 63_977


@functools.lru_cache(maxsize=128)
def _prefill(layout: Layout, precision: Precision, batch: int, length: int, chunk: Chunk) -> Program:
    slots, value = abstract_precision(precision, len(layout.config.self_attention_layers))
    return _trace_prefill(_nameless(layout), slots, batch, length, chunk).fill(value)


# Layers of one precision and kind are the same call on other weights. A trace holds one layer of each run of equal
# layers, and the program repeats it (tests/test_run.py compares with the trace of all layers).


@functools.lru_cache(maxsize=512)
def _nameless(layout: Layout) -> Layout:
    """The layout of a model that is called after its padding only, on a system that is known by its mesh only.

    Models of the same sizes share their traces, on all boxes with as many chips of a family that are connected alike.
    """
    config = layout.config
    name = config.known_name if config.known_name in PAD_MLP_CORES else "model"
    family = "" if layout.placement == Placement() else config.family  # whose code runs it decides its placement
    config = dataclasses.replace(
        config, name=name, family=family, known_as="", known_by="", bos_token_id=None, eos_token_ids=()
    )
    system = dataclasses.replace(
        layout.system,
        name="system",
        chip=next(chip for chip in CHIPS.values() if chip.family == layout.system.chip.family),
        data_parallel=layout.system.data_parallel if layout.experts_over_replicas else 1,
        links=1,
        local_chips=None,
        software=None,
        replica_name=None,
    )
    return dataclasses.replace(layout, config=config, system=system)


@functools.lru_cache(maxsize=512)
def _trace_decode(layout: Layout, precision: PrecisionSlots, batch: int, sample: Sample) -> Program:
    layout, precision, counts = one_layer_a_run(layout, precision)
    row = jax.ShapeDtypeStruct((batch * layout.system.data_parallel,), jnp.int32)
    step = decode_step(layout, precision, batch, sample=sample)
    program = trace(step, _skeleton(layout), row, row, KVCache.abstract(layout, batch))
    return program.repeat(DECODE_LAYER, counts)


@functools.lru_cache(maxsize=512)
def _trace_prefill(layout: Layout, precision: PrecisionSlots, batch: int, length: int, chunk: Chunk) -> Program:
    layout, precision, counts = one_layer_a_run(layout, precision)
    replicas = layout.system.data_parallel
    tokens, positions, last = (jax.ShapeDtypeStruct((n,), jnp.int32) for n in (replicas * length, length, replicas))
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    step = prefill_step(layout, precision, batch, chunk)
    program = trace(step, _skeleton(layout), tokens, positions, scalar, last, KVCache.abstract(layout, batch))
    return program.repeat(PREFILL_LAYER, counts)


def one_layer_a_run(layout: Layout, precision: PrecisionSlots) -> tuple[Layout, PrecisionSlots, tuple[int, ...]]:
    """The same model with one layer for each run of equal layers; and the runs' lengths.

    On one replica, unless the experts of a layer lie on the chips of all.
    """
    config = layout.config
    runs = _runs(tuple(zip(precision.classes, config.text_kinds, strict=True)))
    (classes, kinds), counts = zip(*(run for run, _ in runs), strict=True), tuple(count for _, count in runs)
    one = dataclasses.replace(
        config, num_layers=len(runs), layers=kinds if config.layers else (), cross_attention_layers=()
    )
    system = layout.system if layout.experts_over_replicas else dataclasses.replace(layout.system, data_parallel=1)
    return dataclasses.replace(layout, config=one, system=system), PrecisionSlots(classes), counts


def _runs(layers: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Equal neighbours as (layer, how many). A pattern that alternates is put in order: its layers' times only add up.

    The first and the last layer stay where they are: the embedding and the logits take their formats from them.
    """
    runs = [(key, len(list(group))) for key, group in itertools.groupby(layers)]
    distinct = dict.fromkeys(layers)
    if len(runs) <= len(distinct) + 1:
        return runs
    inner = Counter(layers[1:-1])
    first, last = layers[0], layers[-1]
    order = [first, *(key for key in inner if key not in (first, last)), *([last] if last != first else [])]
    counts = {key: inner[key] + (key == first) + (key == last) for key in order}
    if last != first:
        return [(key, counts[key]) for key in order]
    return [(first, counts[first] - 1), *((key, counts[key]) for key in order[1:]), (last, 1)]
