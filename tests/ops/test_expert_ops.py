"""Routing and the delta rule against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops as tt
from ttsim.hardware.software import software_of
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.numerics.conversion import round_to
from ttsim.numerics.packer import pack
from ttsim.ops.core import OpNoise
from ttsim.pricing.program import trace


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def routed(logits, bias, *, active, scoring, renormalise, scale, groups, active_groups):
    """What `tt.route` computes, token by token."""
    out = np.zeros_like(logits)
    for row, x in zip(out, logits, strict=True):
        score = {"softmax": softmax(x), "softmax_chosen": x, "sigmoid": 1 / (1 + np.exp(-x))}[scoring]
        choice = score + (0 if bias is None else bias)
        if groups > 1:
            blocks = choice.reshape(groups, -1)
            best = np.argsort(-np.sort(blocks, axis=-1)[:, -2:].sum(-1), kind="stable")[:active_groups]
            choice = np.where(np.isin(np.arange(groups), best)[:, None], blocks, -np.inf).reshape(-1)
        chosen = np.argsort(-choice, kind="stable")[:active]
        weights = softmax(score[chosen]) if scoring == "softmax_chosen" else score[chosen]
        if renormalise and scoring != "softmax_chosen":
            weights = weights / weights.sum()
        row[chosen] = weights * scale
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"scoring": "softmax", "renormalise": False},
        {"scoring": "softmax"},
        {"scoring": "softmax_chosen"},
        # Scores below 0 after the bias: a mask of 0 in place of -inf would choose from dropped groups.
        {"scoring": "sigmoid", "bias": -1.2, "groups": 4, "active_groups": 2, "scale": 2.5},
        {"scoring": "sigmoid", "bias": 0.3, "scale": 2.827},
    ],
)
def test_routing(options):
    rng, options = np.random.RandomState(1), dict(options)
    logits = rng.standard_normal((50, 16)).astype(np.float32)
    bias = options.pop("bias", None)
    bias = None if bias is None else (bias + 0.3 * rng.standard_normal(16)).astype(np.float32)
    options = {"active": 4, "renormalise": True, "scale": 1.0, "groups": 1, "active_groups": 1, **options}
    result = tt.route(jnp.asarray(logits), None if bias is None else jnp.asarray(bias), format="fp32", **options)
    np.testing.assert_allclose(result, routed(logits, bias, **options), atol=1e-6)
    assert (np.count_nonzero(result, axis=-1) == 4).all()


def test_equal_scores_choose_the_lower_expert():
    weights = tt.route(jnp.zeros((1, 8)), None, active=2, scoring="softmax_chosen", format="fp32")
    np.testing.assert_array_equal(weights, [[0.5, 0.5, 0, 0, 0, 0, 0, 0]])


def test_the_clamped_gate_of_gpt_oss():
    gate, up = jnp.array([[[9.0, -9.0, 1.0]]]), jnp.array([[[9.0, -9.0, 1.0]]])
    result = tt.expert_gate(gate, up, activation="silu", clamp=7.0, out_format="fp32")
    g, u = np.minimum(gate, 7), np.clip(up, -7, 7)
    np.testing.assert_allclose(result, (u + 1) * g / (1 + np.exp(-1.702 * g)), rtol=1e-6)


def test_a_prompt_through_a_delta_net_is_its_tokens_one_by_one():
    rng = np.random.RandomState(2)
    heads, keys, values, tokens = 4, 8, 6, 9

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    q, k, v = normal(tokens, 2, keys), normal(tokens, 2, keys), normal(tokens, heads, values)
    a, b, decay, dt = normal(tokens, heads), normal(tokens, heads), normal(heads), normal(heads)
    state = normal(heads, keys, values)
    last = 6
    out, end = tt.delta_prefill(q, k, v, a, b, decay, dt, state, jnp.int32(last), out_format="fp32")
    step = state[None]
    for t in range(last + 1):
        row = (x[t : t + 1] for x in (q, k, v, a, b))
        one, step = tt.delta_decode(*row, decay, dt, step, out_format="fp32")
        np.testing.assert_allclose(one[0], out[t], atol=1e-5)
    np.testing.assert_allclose(end, step[0], atol=1e-5)


def test_a_convolution_ends_at_the_last_row_that_counts():
    rng = np.random.RandomState(3)
    x, taps = rng.standard_normal((7, 5)).astype(np.float32), rng.standard_normal((5, 4)).astype(np.float32)
    y, end = tt.conv_prefill(jnp.asarray(x), jnp.zeros((5, 3)), jnp.asarray(taps), jnp.int32(4), out_format="fp32")
    padded = np.concatenate([np.zeros((3, 5)), x])
    plain = sum(padded[i : i + 7] * taps[:, i] for i in range(4))
    np.testing.assert_allclose(y, plain / (1 + np.exp(-plain)), atol=1e-5)
    np.testing.assert_allclose(end, x[2:5].T)


def relative_power(rough, exact):
    return float(jnp.square(rough - exact).mean() / jnp.square(exact).mean())


def rule_of(op, *args, **attributes):
    """What an op's noise rule says of a call."""
    call, _ = next(iter(trace(lambda *inputs: op(*inputs, **attributes), *args).ops()))
    return op.noise_rule(call)


def launches(op, *args, box="N150", **attributes):
    """The kernels of one call on a box."""
    call, _ = next(iter(trace(lambda *inputs: op(*inputs, **attributes), *args).ops()))
    system = get_system(box)
    return op.rule(call, Machine(system.chip, system, software_of()))


@pytest.mark.parametrize("fmt", ["bfp8", "bfp4"])
def test_noise_of_the_products_of_experts_and_heads_is_what_the_numerics_make(fmt):
    rng = np.random.RandomState(3)
    x, w = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((16, 256), (4, 256, 64)))
    x = pack(x, "bf16")
    of = {"weight_format": fmt, "setting": "hifi4", "out_format": "bf16", "memory": "l1"}
    exact = {"weight_format": "fp32", "setting": "exact", "out_format": "fp32", "memory": "l1", "in_format": "fp32"}
    for op, extra in ((tt.expert_linear, {"kernel": "dense", "active": 4}), (tt.head_linear, {})):
        rows = x if op is tt.expert_linear else jnp.stack([x] * 4, axis=1)
        measured = relative_power(op(rows, round_to(w, fmt), **of, **extra), op(rows, w, **exact, **extra))
        assert rule_of(op, rows, w, **of, **extra).power == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize(("fmt", "power"), [("bf16", 2.77e-6), ("bfp8", 6.07e-5), ("bfp4", 2.34e-2)])
def test_what_a_cache_keeps_is_rounded_once_to_its_format(fmt, power):
    positions = jnp.arange(4)
    latent = tt.update_latent_cache, jnp.zeros((4, 32, 576)), jnp.zeros((4, 576))
    keys = tt.update_cache, jnp.zeros((4, 2, 32, 64)), jnp.zeros((4, 2, 64))
    for op, cache, x in (latent, keys):
        assert rule_of(op, cache, x, positions, format=fmt) == OpNoise(power)


@pytest.mark.parametrize(("rows", "tiles"), [(1, 1), (32, 1), (33, 2), (96, 3)])
def test_weights_in_dram_are_read_again_for_every_row_of_tiles(rows, tiles):
    """What lies in L1 is multiplied a row of tiles at a time: by each of four experts, or by all heads at once."""
    of = {"weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16", "memory": "l1"}
    w = jnp.zeros((4, 256, 128))
    experts = launches(tt.expert_linear, jnp.zeros((rows, 256)), w, kernel="dense", active=4, **of)
    assert [(kernel.name, kernel.bytes) for kernel in experts] == [("matmul (DRAM-sharded)", 8 * 12 * 1088)] * (
        4 * tiles
    )
    heads = launches(tt.head_linear, jnp.zeros((rows, 4, 256)), w, **of)
    assert [(kernel.name, kernel.bytes) for kernel in heads] == [("matmul (DRAM-sharded)", 4 * 8 * 12 * 1088)] * tiles


@pytest.mark.parametrize("box", ["P300x2", "P150", "T3K"])
def test_a_step_of_a_delta_net_reads_and_writes_its_states(box):
    """Two users: four value heads of 8 x 6 in float32, and three inputs of 80 channels of a convolution in bf16.

    Several Blackhole chips fuse each into one kernel; elsewhere ops of their own pass over the state ten times, and
    over a row of inputs 2 x (4 products, SiLU, 3 copies) + 3 x 3 sums times.
    """
    keys, heads = jnp.zeros((2, 2, 8)), jnp.zeros((2, 4))
    operands = keys, keys, jnp.zeros((2, 4, 6)), heads, heads, jnp.zeros(4), jnp.zeros(4), jnp.zeros((2, 4, 8, 6))
    convolution = jnp.zeros((2, 80)), jnp.zeros((2, 80, 3)), jnp.zeros((80, 4))
    steps = launches(tt.delta_decode, *operands, out_format="bf16", box=box)
    updates = launches(tt.conv_decode, *convolution, out_format="bf16", box=box)
    state, row = 2 * 4 * 8 * 6 * 4, 3 * 2048  # 80 channels of one row of tiles
    if box == "P300x2":
        assert [kernel.bytes for kernel in steps] == [2 * state]
        assert [kernel.bytes for kernel in updates] == [2 * 3 * (2 * 80 * 2)]
        return
    assert [kernel.name for kernel in steps[-6:]] == ["multiply", "matmul", "multiply", "add", "matmul", "copy"]
    assert sum(kernel.bytes for kernel in steps[-6:]) == 10 * state
    assert len(updates) == 4 + 3 + 1 + 3
    assert sum(kernel.bytes for kernel in updates) == (2 * (4 + 1 + 3) + 3 * 3) * row


def test_a_convolution_of_a_prompt_copies_its_rows_for_every_tap_on_wormhole():
    """Of 64 rows of 80 channels: in order and joined; four shifted copies, tilized; a product, three sums, SiLU."""
    operands = jnp.zeros((64, 80)), jnp.zeros((80, 3)), jnp.zeros((80, 4)), jnp.int32(63)
    rows = 2 * 3 * 2048
    (one,) = launches(tt.conv_prefill, *operands, out_format="bf16", box="P150")
    assert one.bytes == 2 * rows
    many = launches(tt.conv_prefill, *operands, out_format="bf16", box="N300")
    assert len(many) == 2 + 2 * 4 + 4 + 1
    assert sum(kernel.bytes for kernel in many) == (2 * (2 + 8 + 1 + 1) + 3 * 3) * rows


def test_a_sum_of_experts_is_relatively_as_noisy_as_one():
    rng = np.random.RandomState(4)
    exact = jnp.asarray(rng.standard_normal((4, 32, 256)), jnp.float32)
    rough = exact + 0.1 * jnp.asarray(rng.standard_normal(exact.shape), jnp.float32)
    weights = jnp.asarray(rng.dirichlet(np.ones(4), 32), jnp.float32)
    sums = [tt.expert_sum(y, weights, out_format="fp32") for y in (rough, exact)]
    assert relative_power(*sums) == pytest.approx(relative_power(rough, exact), rel=0.05)
