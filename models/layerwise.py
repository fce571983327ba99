"""Prefill in pieces: one compiled program for all layers of one precision, in place of one for the whole model.

XLA compiles a layer as often as a program contains it, about a second each on two CPU cores. Running `Transformer`'s
own pieces (the embedding, each layer, the logits) as programs of their own compiles each kind of layer once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ttsim.meshes.systems import DATA_AXIS
from ttsim.models.attention import Rotary, rotary_tables
from ttsim.models.cache import KVCache
from ttsim.models.chunk import Chunk
from ttsim.models.decoder import DecoderLayer, prefill_layer
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout
from ttsim.models.parallel import Stage, prefill_stage
from ttsim.models.parameters import partition_specs
from ttsim.models.transformer import Transformer, table_of
from ttsim.precision.values import Precision


class AheadOfTime:
    """A function compiled at its first call, for arguments of one kind, in time that is counted apart."""

    def __init__(self, function: Callable[..., Any], donate: tuple[int, ...], on_compile: Callable[[float], None]):
        self._jitted, self._on_compile = jax.jit(function, donate_argnums=donate), on_compile
        self._compiled: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            began = time.perf_counter()
            with jax.default_matmul_precision("highest"):  # accelerators would multiply attention in fewer bits
                self._compiled = self._jitted.lower(*args).compile()
            self._on_compile(time.perf_counter() - began)
        return self._compiled(*args)


def prefill_by_layer(
    layout: Layout,
    precision: Precision,
    batch: int,
    chunk: Chunk,
    *,
    mesh: Mesh,
    on_compile: Callable[[float], None] = lambda seconds: None,
) -> Callable[..., Any]:
    """The same function as `ttsim.models.run.prefill_step`, already compiled in pieces; it consumes the cache.

    Args and result: see there; the chunk's logits are those of all rows, or none. `on_compile` is told the seconds that
    each compilation takes.
    """
    specs = partition_specs(Transformer(layout), layout.rules)
    cache_specs = KVCache.specs(layout, batch)
    residual, replicated = P(DATA_AXIS, layout.rules.mesh_axis("residual")), P()

    def compiled(function: Callable[..., Any], in_specs: Any, out_specs: Any, donate: tuple[int, ...] = ()) -> Any:
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return AheadOfTime(mapped, donate, on_compile)

    def embed_and_slice(
        model: Transformer, tokens_t: Array, positions_t: Array
    ) -> tuple[Array, tuple[Rotary, ...], tuple[Array, ...]]:
        tables = rotary_tables(positions_t, layout, precision.layer(0), "host")
        given = model.layer_inputs(tokens_t, layout, precision, together=False)
        return model.embed(tokens_t, layout=layout, precision=precision), tables, given

    embed = compiled(embed_and_slice, (specs, P(DATA_AXIS), replicated), (residual, replicated, P(DATA_AXIS)))
    read = compiled(
        lambda model, x: model.prompt_logits(x, None, layout=layout, precision=precision),
        (specs, residual),
        P(DATA_AXIS, layout.axis),
    )

    @functools.cache
    def layer_program(stage: Stage, kind: LayerKind) -> Any:
        slot = layout.config.text_kinds.index(kind)
        index, at = layout.config.self_attention_layers[slot], layout.config.cache_slots[slot]
        keys, values = cache_specs.keys[at], cache_specs.values[at]

        def run_layer(layer: DecoderLayer, x: Array, *others: Any) -> tuple[Array, Array, Array]:
            *rest, given = others
            result: tuple[Array, Array, Array]
            result = prefill_layer(layer, x, *rest, start=chunk.start, stage=stage, kind=kind, given=given)
            return result

        return compiled(
            run_layer,
            (specs.layers[index], residual, replicated, replicated, replicated, keys, values, P(DATA_AXIS)),
            (residual, keys, values),
            donate=(5, 6),
        )

    def run(
        model: Transformer, tokens_t: Array, positions_t: Array, user: Array, last: Array, cache: KVCache
    ) -> tuple[Array | None, KVCache]:
        del last  # "none" and "all" need no row
        x, tables, given = embed(model, tokens_t, positions_t)
        keys, values = list(cache.keys), list(cache.values)
        for slot, (layer, kind, layer_precision) in enumerate(model.text_layers(layout.config, precision)):
            program = layer_program(prefill_stage(layout, layer_precision, cache.users_axis, chunk.numerics), kind)
            rotary = table_of(kind, tables, layout)
            own, at = given[slot] if given else None, layout.config.cache_slots[slot]
            x, keys[at], values[at] = program(layer, x, rotary, user, None, keys[at], values[at], own)
        cache = KVCache(tuple(keys), tuple(values), cache.users_axis)
        return (None if chunk.logits == "none" else read(model, x)), cache

    return run
