"""A traced program is what one device runs: its FLOPs, collectives and bytes, checked against independent counts."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ttsim import ops as tt
from ttsim.meshes.lookup import get_system
from ttsim.models import run
from ttsim.models.cache import KVCache
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.parameters import shardings
from ttsim.models.presets import PRESETS
from ttsim.models.run import decode_program, decode_step, prefill_program, prefill_step
from ttsim.models.transformer import Transformer
from ttsim.numerics.conversion import quantize
from ttsim.ops import OpCall, op
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision
from ttsim.pricing.program import trace

EXACT = preset("fp32", "Llama3.2-1B")
# One of each scheme: one chip, a line, the fused and the unfused ring, both Galaxy schemes, replicas, and each family.
CELLS = [
    ("Llama3.1-8B", "N150"),
    ("Llama3.1-8B", "N300"),
    ("Llama3.1-8B", "T3K"),
    ("Llama3.2-3B", "T3K"),
    ("Llama3.1-8B", "TG"),
    ("Llama3.1-70B", "T3K"),
    ("Llama3.1-70B", "TG"),
    ("Llama3.2-90B", "T3K"),
    ("Qwen2.5-7B", "N300"),
    ("Qwen2.5-72B", "T3K"),
    ("Phi3.5-mini", "T3K"),
    ("Mistral-7B", "N150"),
    ("Llama3.2-1B", "T3K DP=4"),
    ("Llama3.1-8B", "TG DP=4"),
]
cells = pytest.mark.parametrize(("model", "device"), CELLS)


@functools.cache
def layout_of(model, device, layers=None, max_seq_len=1024):
    config = PRESETS[model]
    if layers:
        config = dataclasses.replace(config, num_layers=layers, cross_attention_layers=())
    return Layout(config, get_system(device), max_seq_len=max_seq_len)


@functools.cache
def decode_of(model, device, batch=1):
    return decode_program(layout_of(model, device), preset("performance", model), batch)


@functools.cache
def prefill_of(model, device, batch=1, length=128):
    return prefill_program(layout_of(model, device), preset("performance", model), batch, length)


def matmul_flops(program):
    """2 M K N of every product with a weight."""
    return sum(
        count * 2 * math.prod(call.inputs[0].shape[:-1]) * math.prod(call.inputs[1].shape)
        for call, count in program.ops()
        if call.name in ("linear", "all_gather_matmul")
    )


def attention_flops(program):
    """2 products of every query with every position of the cache."""
    return sum(
        count * 4 * math.prod(call.inputs[0].shape) * call.inputs[1].shape[-2]
        for call, count in program.ops()
        if call.name.startswith("sdpa")
    )


def closed_form(layout, rows, head_rows):
    """FLOPs of one chip: 2 x rows x matrix parameters / chips."""
    c = layout.config
    attention = c.hidden_size * (2 * c.q_size + 2 * c.kv_size)
    layer = attention + 3 * c.hidden_size * layout.intermediate_size
    head = c.hidden_size * layout.vocab_share[1] * layout.ways  # whole tiles a chip
    total = 2 * (rows * len(c.self_attention_layers) * layer + head_rows * head)
    assert total % layout.system.chips_per_replica == 0
    return total // layout.system.chips_per_replica


# FLOPs


@cells
@pytest.mark.parametrize("batch", [1, 32])
def test_decode_flops_equal_the_closed_form(model, device, batch):
    assert matmul_flops(decode_of(model, device, batch)) == closed_form(layout_of(model, device), batch, batch)


@cells
def test_prefill_flops_equal_the_closed_form(model, device):
    """Every row goes through the layers, 32 rows through the LM head."""
    assert matmul_flops(prefill_of(model, device)) == closed_form(layout_of(model, device), 128, 32)


@pytest.mark.parametrize(("model", "device"), [("Llama3.1-8B", "N150"), ("Llama3.1-8B", "T3K"), ("Llama3.1-70B", "TG")])
def test_decode_flops_equal_xlas_count(model, device):
    """XLA's count of the compiled step (two layers of real width, unrolled) adds only elementwise operations."""
    layout, batch = layout_of(model, device, layers=2, max_seq_len=256), 32
    model_sds, cache, row = abstract_arguments(layout, batch)
    step = decode_step(layout, EXACT, batch, mesh=layout.system.mesh())
    compiled = jax.jit(step, donate_argnums=3).lower(model_sds, row, row, cache).compile()
    program = decode_program(layout, EXACT, batch)
    expected = matmul_flops(program) + attention_flops(program)
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, rel=0.003)

    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes == device_bytes((model_sds, cache, row, row))
    assert memory.alias_size_in_bytes == device_bytes(cache), "the donated cache is updated in place"


# Bytes


def abstract_arguments(layout, batch):
    """The model, the cache and a row of tokens, abstract and sharded by the rules over virtual devices."""
    mesh = layout.system.mesh()

    def with_sharding(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    model = Transformer(layout)
    model = jax.tree.map(with_sharding, model, shardings(model, layout.rules, mesh))
    specs = jax.tree.map(lambda spec: NamedSharding(mesh, spec), KVCache.specs(layout, batch))
    cache = jax.tree.map(with_sharding, KVCache.abstract(layout, batch), specs)
    row = jax.ShapeDtypeStruct((batch * layout.system.data_parallel,), jnp.int32, sharding=NamedSharding(mesh, P()))
    return model, cache, row


def device_bytes(tree):
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("device", "ways"), [("TG", (8, 4)), ("T3K", (8, 8))])
def test_argument_bytes_of_70b_equal_an_ahead_of_time_compile(device, ways):
    """Nothing is allocated: 282 GB of float32 parameters, and a cache of 32 users, compiled as arguments."""
    layout, batch, c = layout_of("Llama3.1-70B", device), 32, PRESETS["Llama3.1-70B"]
    arguments = abstract_arguments(layout, batch)

    def first_token(model, cache, tokens):
        return tokens[0]

    compiled = jax.jit(first_token, keep_unused=True).lower(*arguments).compile()
    heads, residual = ways
    matrices = c.num_layers * (c.hidden_size * (2 * c.q_size + 2 * c.kv_size) + 3 * c.hidden_size * c.intermediate_size)
    head = c.hidden_size * layout.vocab_size
    norms = (2 * c.num_layers + 1) * c.hidden_size // (4 if device == "TG" else 1)
    floats = (matrices + head) // layout.system.num_chips + c.vocab_size * c.hidden_size // residual + norms
    users = batch // (4 if device == "TG" else 1)
    cached = 2 * c.num_layers * users * (c.num_kv_heads // heads) * layout.max_seq_len * c.head_dim
    assert compiled.memory_analysis().argument_size_in_bytes == 4 * floats + 2 * cached + 4 * batch


@pytest.mark.parametrize("model", PRESETS)
def test_parameter_counts_are_exact(model):
    """All parameters but the second copy of a tied table, the padding and the layers that text skips."""
    device = "N300" if model == "Qwen2.5-7B" else "T3K"
    layout = layout_of(model, device)
    config, abstract = layout.config, Transformer(layout)
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract))
    mlp_padding = 3 * config.hidden_size * (layout.intermediate_size - config.intermediate_size) * config.num_layers
    vocab_padding = config.hidden_size * (layout.vocab_share[1] * layout.ways - config.vocab_size)
    tied = config.hidden_size * config.vocab_size if config.tie_word_embeddings else 0
    text = total - mlp_padding - vocab_padding - tied - config.cross_attention_parameter_count
    assert text == config.parameter_count


def test_tracing_allocates_nothing():
    alive = len(jax.live_arrays())
    layout = dataclasses.replace(layout_of("Llama3.1-70B", "TG"), max_seq_len=2048)
    program = decode_program(layout, preset("performance", "Llama3.1-70B"), 32)
    constants = sum(x.nbytes for x in jax.live_arrays()[alive:])
    assert constants < 1024, "only rotary frequencies may be concrete"
    leaves = [x for call, _ in program.ops() for x in jax.tree.leaves((call.inputs, call.outputs))]
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)


def test_repeated_layers_are_one_block():
    blocks = list(decode_of("Llama3.1-70B", "TG").blocks())
    assert [(block.name, block.count) for block in blocks] == [("traced", 1), ("decode_layer", 80)]
    assert len(list(decode_of("Llama3.1-70B", "TG").ops())) < 60


MIXED = Precision().replace(activation="bf16").replace_layer(3, ff1_3="bfp4").replace_layer(15, ff2="bf16")


@pytest.mark.parametrize(
    ("model", "device", "precision"),
    [
        ("Llama3.2-1B", "N150", preset("performance", "Llama3.2-1B")),
        ("Llama3.2-1B", "N300", MIXED),
        ("Llama3.2-1B", "T3K DP=4", MIXED),
        ("Llama3.2-11B", "T3K", preset("accuracy", "Llama3.2-11B")),
        ("Llama3.2-1B", "TG", preset("performance", "Llama3.2-1B")),
        ("Llama3.2-1B", "N150", EXACT),
    ],
)
def test_programs_equal_the_trace_of_the_whole_step(model, device, precision):
    """`decode_program` and `prefill_program` may take short cuts; `trace` of the function that runs takes none."""
    layout, batch, length = layout_of(model, device), 4, 128
    model_sds, cache = Transformer(layout), KVCache.abstract(layout, batch)
    replicas = layout.system.data_parallel
    row, tokens, positions, user, last = (
        jax.ShapeDtypeStruct(shape, jnp.int32)
        for shape in ((batch * replicas,), (length * replicas,), (length,), (), (replicas,))
    )
    decode = trace(decode_step(layout, precision, batch), model_sds, row, row, cache)
    prefill = trace(prefill_step(layout, precision, batch), model_sds, tokens, positions, user, last, cache)
    assert unrolled(decode_program(layout, precision, batch)) == unrolled(decode)
    assert unrolled(prefill_program(layout, precision, batch, length)) == unrolled(prefill)


@pytest.mark.parametrize(
    ("model", "device"),
    [("Llama3.1-8B", "N150"), ("gemma-3-4b", "P150"), ("Qwen3.6-27B", "P300x2"), ("DeepSeek-R1-0528", "Galaxy DP=4")],
)
@pytest.mark.parametrize("last_chunk", [False, True])
def test_a_later_chunk_equals_the_trace_at_its_start(model, device, last_chunk):
    """All later chunks share one trace, with another start: whichever mixer reads what is before it."""
    layout = Layout(get_config(model), get_system(device), max_seq_len=131_072)
    length, start = 2048, 10_240
    options = {"last_chunk": last_chunk, "first_chunk": False}
    shared = prefill_program(layout, Precision(), 1, length, start=start, **options)
    own = run._prefill(layout, Precision(), 1, length, start, last_chunk, False, False, "dram")
    assert shared == own
    assert shared != prefill_program(layout, Precision(), 1, length, start=2048, **options)


def unrolled(program):
    """Every launch in order: op, attributes, shapes and how many devices take part."""

    def launches(block):
        for _ in range(block.count):
            for item in block.body:
                if not isinstance(item, OpCall):
                    yield from launches(item)
                    continue
                shapes = [(x.shape, x.dtype) for x in jax.tree.leaves((item.inputs, item.outputs))]
                devices = item.num_devices if "axis" in item.attributes else 1
                yield item.name, dict(item.attributes), shapes, devices

    return list(launches(program.block))


@cells
def test_every_equation_has_an_op(model, device):
    assert decode_of(model, device).unpriced == ()
    assert decode_of(model, device, 32).unpriced == ()
    assert prefill_of(model, device).unpriced == ()


# Collectives

AG, RS, AGMM, AR, AR2 = "all_gather", "reduce_scatter", "all_gather_matmul", "all_reduce", "composite all_reduce"
LINE = [AG, RS, AG, RS]  # gather the residual, reduce wo; gather, reduce w2
FUSED = [AG, AGMM, AG, RS]
GALAXY = [AG, AR, AG, AR, AG, AR, AR, AR]  # stats, wqkv, users, wo; stats, w1, w3, w2
GALAXY_8192 = [AG, AR, AG, AR2, AG, RS, RS, AG, AR2]
STATS = [AG, AG]  # statistics, then the normalised slices


def collectives(program):
    """Collectives of one layer in order."""
    layer = max(program.blocks(), key=lambda block: block.count)
    names = []
    for call in layer.body:
        if "axis" in call.attributes and call.name in (AG, RS, AGMM, AR):
            names.append(AR2 if call.attributes.get("composite") else call.name)
    return names


def launched(names):
    """How many collectives the device launches: a composite all-reduce is a reduce-scatter and an all-gather."""
    return sum(2 if name == AR2 else 1 for name in names)


@pytest.mark.parametrize(
    ("model", "device", "expected", "count"),
    [
        ("Llama3.1-8B", "N150", [], 0),
        ("Llama3.1-8B", "N300", LINE, 4),
        ("Qwen2.5-7B", "N300", LINE, 4),
        ("Llama3.1-8B", "T3K", FUSED, 4),
        ("Llama3.2-1B", "T3K", FUSED, 4),
        ("Llama3.1-70B", "T3K", FUSED, 4),
        ("Llama3.2-3B", "T3K", LINE, 4),
        ("Phi3.5-mini", "T3K", LINE, 4),
        ("Llama3.1-8B", "T3K DP=4", LINE, 4),
        ("Llama3.1-8B", "T3K DP=8", [], 0),
        ("Llama3.1-8B", "TG DP=4", LINE, 4),
        ("Llama3.2-1B", "TG", GALAXY, 8),
        ("Llama3.1-8B", "TG", GALAXY, 8),
        ("Llama3.1-70B", "TG", GALAXY_8192, 11),
    ],
)
@pytest.mark.parametrize("batch", [1, 32])
def test_collectives_of_a_decoder_layer(model, device, expected, count, batch):
    """Source: tt_transformers tt/{attention,mlp,distributed_norm,ccl}.py, May 2025."""
    found = collectives(decode_of(model, device, batch))
    assert found == expected
    assert launched(found) == count


@pytest.mark.parametrize(
    ("model", "device", "expected"),
    [
        ("Llama3.1-8B", "N150", []),
        ("Llama3.1-8B", "N300", LINE),
        ("Llama3.1-8B", "T3K", [AG, AG, AG, RS]),  # wo's input is gathered by itself
        ("Llama3.2-3B", "T3K", LINE),
        ("Llama3.1-70B", "T3K", [*STATS, AG, *STATS, RS]),
        ("Llama3.1-8B", "TG", [AG, AR, AR, AG, AR, AR, AR]),  # one user: none to gather
        ("Llama3.1-70B", "TG", [AG, AR, AR2, AG, RS, RS, AG, AR2]),
    ],
)
def test_collectives_of_a_prefill_layer(model, device, expected):
    assert collectives(prefill_of(model, device)) == expected


@pytest.mark.parametrize(
    ("model", "device", "names"),
    [
        ("Llama3.1-8B", "N150", []),
        ("Llama3.1-8B", "T3K", [AG, AG]),  # the residual, the logits
        ("Llama3.1-8B", "TG", [AG, AR2, AG]),  # statistics, partial sums, the logits
    ],
)
def test_collectives_after_the_layers(model, device, names):
    traced = next(decode_of(model, device).blocks())
    tail = [item for item in traced.body if isinstance(item, OpCall)]
    assert [AR2 if c.attributes.get("composite") else c.name for c in tail if c.name in (AG, AR, RS)] == names


def test_shapes_are_those_of_one_device():
    """70B on a Galaxy, 32 users: 8 heads and 8 users a chip, a quarter of the hidden size."""
    calls = {}
    for call, _ in decode_of("Llama3.1-70B", "TG", 32).ops():
        calls.setdefault(call.name, call)
    assert calls["sdpa_decode"].inputs[0].shape == (8, 8, 128)
    assert calls["sdpa_decode"].inputs[1].shape == (8, 1, 1024, 128)
    assert calls["rms_norm_stats"].inputs[0].shape == (32, 2048)
    assert calls["all_reduce"].outputs[0].shape == (32, 1280)
    assert calls["all_reduce"].num_devices == 4


# A user's own function

X = jax.ShapeDtypeStruct((32, 64), jnp.float32)
W = jax.ShapeDtypeStruct((64, 64), jnp.float32)
FP32 = {"weight_format": "fp32", "in_format": "fp32", "out_format": "fp32", "setting": "exact"}
linear = functools.partial(tt.linear, kernel="mcast_2d", **FP32)


def block(x, w):
    return tt.add(x, linear(x, w), out_format="fp32")


def counts(program):
    return {call.name: program.count(call.name) for call, _ in program.ops()}


def test_jit_and_nested_jit():
    inner = jax.jit(block)
    program = trace(jax.jit(lambda x, w: inner(inner(x, w), w)), X, W)
    assert counts(program) == {"linear": 2, "add": 2}
    assert program.unpriced == ()


def test_scan_multiplies():
    def stack(x, w_lkn):
        def layer(x, w):
            return jax.lax.scan(lambda x, _: (block(x, w), None), x, None, length=3)[0], None

        return jax.lax.scan(layer, x, w_lkn)[0]

    program = trace(stack, X, jax.ShapeDtypeStruct((5, 64, 64), jnp.float32))
    assert counts(program) == {"linear": 15, "add": 15}
    assert matmul_flops(program) == 15 * 2 * 32 * 64 * 64


def test_fori_loop_of_constant_length_multiplies():
    program = trace(lambda x, w: jax.lax.fori_loop(0, 7, lambda _, x: block(x, w), x), X, W)
    assert program.count("linear") == 7


def test_shard_map_gives_local_shapes():
    mesh = AbstractMesh((4,), ("tp",), axis_types=(AxisType.Auto,))

    def step(x, w):
        return tt.reduce_scatter(linear(x, w), axis="tp", dim=1, format="fp32")

    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(None, "tp"), P("tp", None)), out_specs=P(None, "tp"))
    program = trace(sharded, X, W)
    (product, _), (scatter, _) = program.ops()
    assert [x.shape for x in product.inputs] == [(32, 16), (16, 64)]
    assert scatter.outputs[0].shape == (32, 16)
    assert scatter.num_devices == 4
    assert product.axis_sizes == {"tp": 4}


def test_vmap_of_rows_is_one_op_on_more_rows():
    program = trace(jax.vmap(block, in_axes=(0, None)), jax.ShapeDtypeStruct((3, 32, 64), jnp.float32), W)
    assert counts(program) == {"linear": 1, "add": 1}
    assert matmul_flops(program) == 3 * 2 * 32 * 64 * 64


def test_vmap_of_weights_is_no_linear_and_is_listed():
    """A batch of weights is another operation than the op: it must not be priced as one of [3, 64 x 64]."""
    stacked = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in (X, W)]
    program = trace(jax.vmap(linear), *stacked)
    assert program.count("linear") == 0
    assert [gap.primitive for gap in program.unpriced] == ["dot_general"]


def test_vmap_inside_shard_map():
    mesh = AbstractMesh((4,), ("tp",), axis_types=(AxisType.Auto,))
    gather = jax.vmap(functools.partial(tt.all_gather, axis="tp", dim=0, format="bf16"), in_axes=1, out_axes=1)
    program = trace(jax.shard_map(gather, mesh=mesh, in_specs=P("tp"), out_specs=P(), check_vma=False), X)
    ((call, _),) = program.ops()
    assert (call.name, call.inputs[0].shape, call.outputs[0].shape) == ("all_gather", (8, 64), (32, 64))


def test_grad_keeps_the_forward_ops_and_lists_the_backward_ones():
    def loss(x, w):
        return linear(linear(x, w), w).sum()

    program = trace(jax.grad(loss, argnums=1), X, W)
    assert counts(program) == {"linear": 2}
    backward = {gap.primitive: gap.count for gap in program.unpriced}
    assert backward["dot_general"] == 3, "two products for the weight, one for the first layer's output"


@pytest.mark.parametrize("transform", [jax.checkpoint, jax.jit, lambda f: jax.vmap(f, in_axes=(0, None))])
def test_grad_of_a_transformed_function_traces(transform):
    x = jax.ShapeDtypeStruct((3, 32, 64), jnp.float32)
    program = trace(jax.grad(lambda x, w: transform(block)(x, w).sum()), x, W)
    assert program.count("linear") == 1
    assert {"dot_general"} <= {gap.primitive for gap in program.unpriced}


def test_jvp_and_linearize_are_not_misread():
    """The tangent's product has the op's name and as many arguments, but is not the op."""
    pushed = trace(lambda x, w: jax.jvp(block, (x, w), (x, w)), X, W)
    tangent = trace(lambda x, w: jax.linearize(lambda x: linear(x, w), x)[1](x), X, W)
    assert {gap.primitive for gap in pushed.unpriced} >= {"dot_general"}
    assert tangent.count("linear") + sum(g.count for g in tangent.unpriced if g.primitive == "dot_general") == 2


def test_cond_takes_the_branch_with_the_most_ops():
    def long_loop(x, w):
        return jax.lax.fori_loop(0, 9, lambda _, x: block(x, w), x)

    def two_ops(x, w):
        return tt.add(tt.add(x, x, out_format="fp32"), x, out_format="fp32")

    program = trace(lambda p, x, w: jax.lax.cond(p, two_ops, long_loop, x, w), jax.ShapeDtypeStruct((), bool), X, W)
    assert program.count("linear") == 9


def test_while_raises_and_says_where():
    def forever(x):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x, x)

    with pytest.raises(ValueError, match=r"while loop has no trip count.*test_program\.py:\d+.*forever"):
        trace(forever, X)


def test_what_no_op_covers_is_listed_with_its_line_and_count():
    def tail(x):
        return jnp.tanh(x) * 2 + x.T.T

    def model(x):
        return jax.lax.scan(lambda x, _: (tail(x), None), x, None, length=4)[0]

    gaps = {gap.primitive: gap for gap in trace(model, X).unpriced}
    assert {name: gap.count for name, gap in gaps.items()} == {"tanh": 4, "mul": 4, "transpose": 8, "add": 4}
    assert all("test_program.py:" in gap.where and "tail" in gap.where for gap in gaps.values())


def test_a_reduction_with_a_body_is_listed_as_itself():
    program = trace(lambda x: jax.lax.reduce(x, np.float32(1), lambda a, b: a * b + a, (0,)), X)
    assert [gap.primitive for gap in program.unpriced] == ["reduce"]


def test_array_and_block_float_weights_have_one_shape():
    blocks = jax.eval_shape(lambda w: quantize(w, "bfp8"), W)
    plain, packed = (trace(linear, X, w) for w in (W, blocks))
    for program in (plain, packed, trace(linear, X, W)):
        ((call, count),) = program.ops()
        assert (call.name, count, call.inputs[1].shape, call.outputs[0].shape) == ("linear", 1, (64, 64), (32, 64))
    assert matmul_flops(plain) == matmul_flops(packed)


def test_a_users_own_op():
    @op
    def test_program_softcap(x, *, cap):
        return jnp.tanh(x / cap) * cap

    program = trace(lambda x: test_program_softcap(x, cap=30.0), X)
    ((call, _),) = program.ops()
    assert (call.name, call["cap"]) == ("test_program_softcap", 30.0)
    with pytest.raises(ValueError, match="test_program_softcap already"):
        op(test_program_softcap.body)


def test_layers_under_named_scopes_are_still_one_block():
    layer = jax.jit(block)

    def stack(x, w):
        for i in range(6):
            with jax.named_scope(f"layer{i}"):
                x = layer(x, w)
        return x

    assert [item.count for item in trace(stack, X, W).block.body] == [6]


def test_abstract_and_concrete_arguments_give_one_program():
    x, w = (jnp.zeros(a.shape, a.dtype) for a in (X, W))
    assert counts(trace(block, x, w)) == counts(trace(block, X, W)) == {"linear": 1, "add": 1}
