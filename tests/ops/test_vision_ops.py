"""Ops of models that see: numbers against numpy, and prices against formulas written out."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops as tt
from ttsim.hardware.chips import WORMHOLE
from ttsim.hardware.constants import CONSTANTS, load_constants
from ttsim.hardware.software import software_of
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.ops.core import OPS, OpCall
from ttsim.ops.vision import MASKED

EXACT = {"setting": "exact", "kv_format": "fp32", "out_format": "fp32"}
GUESSED = {**load_constants(), **{n: c.guess for n, c in CONSTANTS.items() if c.kind == "calibrated"}}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention(q, k, v, mask, scale):
    """softmax(q K^T scale + mask) V of one head, in float64."""
    scores = q.astype(np.float64) @ k.T * scale + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("rows", [7, 2050])
def test_attention_under_a_mask(rows):
    """Grouped heads; more rows than are computed at once; a row that sees nothing is finite."""
    q, k, v = random(4, rows, 8), random(2, 5, 8, seed=1), random(2, 5, 8, seed=2)
    mask = np.where(np.random.default_rng(3).random((rows, 5)) < 0.5, MASKED, 0.0).astype(np.float32)
    mask[0] = MASKED
    out = np.asarray(tt.sdpa(q, k, v, jnp.asarray(mask), scale=0.3, **EXACT))
    for head in range(4):
        expected = attention(q[head], k[head // 2], v[head // 2], mask, 0.3)
        sees = (mask == 0).any(-1)
        np.testing.assert_allclose(out[head, sees], expected[sees], atol=1e-5)
    assert np.isfinite(out).all()
    bare = np.asarray(tt.sdpa(q, k, v, None, scale=0.3, **EXACT))
    np.testing.assert_allclose(bare[1], attention(q[1], k[0], v[0], 0.0, 0.3), atol=1e-5)


def test_decode_attention_under_a_mask():
    q, k, v = random(3, 4, 8), random(3, 2, 6, 8, seed=1), random(3, 2, 6, 8, seed=2)
    mask = np.zeros((3, 6), np.float32)
    mask[1, 2:] = MASKED
    out = np.asarray(tt.sdpa_decode_masked(q, k, v, jnp.asarray(mask), **EXACT))
    for user, head in np.ndindex(3, 4):
        expected = attention(q[user, head][None], k[user, head // 2], v[user, head // 2], mask[user], 8**-0.5)
        np.testing.assert_allclose(out[user, head], expected[0], atol=1e-5)


def test_layer_norm_and_fused_activation():
    x, w, b = random(5, 12) * 3 + 1, random(12, seed=1), random(12, seed=2)
    out = tt.layer_norm(x, w, b, eps=1e-5, out_format="fp32")
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(out, expected, atol=1e-5)
    weight = random(12, 4, seed=3)
    product = wide @ weight + b[:4]
    exact = product / 2 * (1 + np.vectorize(math.erf)(product / 2**0.5))
    options = {"weight_format": "fp32", "setting": "exact", "out_format": "fp32"}
    np.testing.assert_allclose(tt.linear_bias(x, weight, b[:4], activation="gelu", **options), exact, atol=1e-5)
    plain = tt.linear_bias(x, weight, b[:4], **options)
    np.testing.assert_allclose(plain, product, atol=1e-5)


def test_who_sees_whom_in_the_tower():
    """Two tiles of 3 tokens, padded to 4 visible and 6 device rows; the second tile is unused."""
    mask = np.asarray(tt.tower_mask(jnp.array([1.0, 0.0]), tokens=3, visible=4, padded=6)) == 0
    token, pad, filler, unused = 0, 3, 4, 6
    assert mask[token, [token, pad, unused, unused + 3]].all()  # real tokens see padding and unused tiles
    assert mask[pad, token]
    assert mask[unused, token]
    assert not mask[pad, pad]
    assert not mask[unused, pad]
    assert not mask[unused, unused + 1]
    assert not mask[:, filler].any()  # what only fills the device's tiles is seen by nobody
    assert not mask[:, unused + filler].any()


def test_pooling_averages_squares():
    x = np.arange(16, dtype=np.float32)[:, None]
    pooled = tt.average_pool(x, side=4, kernel=2, format="fp32")
    np.testing.assert_allclose(pooled[:, 0], [2.5, 4.5, 10.5, 12.5])


# Prices


def machine(device):
    return Machine(WORMHOLE, get_system(device), software_of())


def seconds(name, device, inputs, constants=GUESSED, **attributes):
    """Seconds of each kernel of one call; inputs are shapes."""
    arrays = tuple(None if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    op, chips = OPS[name], get_system(device).chips_per_replica
    out = jax.ShapeDtypeStruct(attributes.pop("out", inputs[0]), jnp.float32)
    defaults = {p.name: p.default for p in inspect.signature(op.body).parameters.values() if p.default is not p.empty}
    call = OpCall(op, {**defaults, **attributes}, arrays, (out,), {"tp": chips})
    return [kernel.time(constants) for kernel in op.rule(call, machine(device))]


T, D = 6528, 1280


@pytest.mark.parametrize(("device", "gather", "reduce"), [("T3K", 10020e-6, 795e-6), ("N300", 2645e-6, 267e-6)])
def test_gathering_partial_sums(device, gather, reduce):
    """(n - 1) / n of n tensors of 16.7 MB over one link at 11.7 GB/s (two devices: 1.85 x slower), then their sum."""
    times = seconds("gather_sum", device, [(T, D)], axis="tp", format="bf16")
    assert times == pytest.approx([gather, reduce], rel=0.01)
    scattered = seconds("gather_sum", device, [(T, D)], axis="tp", format="bf16", scattered=True)
    if device == "T3K":  # 2 x 7/8 of 16.7 MB
        moved = 7 / 8 * T * D * 2 / 11.7e9
        assert sum(scattered) == pytest.approx((1 + 1.08) * moved + 14 * GUESSED["hop_latency"], rel=0.01)


@pytest.mark.parametrize(("heads", "micros"), [(2, 2204), (8, 7675)])
def test_the_tower_s_attention(heads, micros):
    shapes = [(heads, T, 96)] * 3 + [(T, T)]
    options = {"setting": "hifi4", "kv_format": "bf16", "out_format": "bf16", "mask_format": "bf16", "chunk": 128}
    assert seconds("sdpa", "T3K", shapes, scale=1.0, **options) == pytest.approx([micros * 1e-6], rel=0.01)


def test_cross_attention_of_a_prompt_and_of_a_step():
    shapes = [(8, 128, 128), (1, T, 128), (1, T, 128), (128, T)]
    options = {"setting": "hifi4", "kv_format": "bf16", "out_format": "bf16", "mask_format": "bfp4"}
    assert seconds("sdpa", "T3K", shapes, scale=1.0, **options) == pytest.approx([1265e-6], rel=0.01)
    shapes = [(1, 8, 128), (1, 1, T, 128), (1, 1, T, 128), (1, T)]
    assert seconds("sdpa_decode_masked", "T3K", shapes, **options) == pytest.approx([223e-6], rel=0.01)


def test_a_step_sends_its_mask_once_for_every_query_head():
    """Two users, eight heads of a device, 6528 keys, converted for each of eight devices; a prompt's are elsewhere."""
    options = {"tile_tokens": 1601, "keys": T, "heads": 8, "conversions": 8, "out_format": "bf16"}
    shapes = [(2,), (128_256, 4096), (8, 4096), (2, 4)]
    size = 2 * 8 * T
    expected = 8 * size * GUESSED["host_convert"] + size * GUESSED["host_tilize"] + GUESSED["host_step_inputs"]
    assert seconds("host_inputs", "T3K", shapes, step=1, **options) == pytest.approx([expected])
    assert seconds("host_inputs", "T3K", shapes, step=0, **options) == []


def test_copies_between_host_and_devices():
    """The mask and the vision tokens of 90B on T3K before 2025-04-18, each formula written out; all at its guess."""
    c = {name: GUESSED[f"host_{name}"] for name in ("convert", "tilize", "tilize_8", "unpad", "post", "join")}
    c["untilize"] = GUESSED["host_untilize_element"]
    slow = {"conversions": 8, "tilings": 8, "fast_tilize": False, "format": "bf16"}
    size = T * T
    expected = 8 * size * c["convert"] + 3 * size * c["tilize"] * c["tilize_8"] + 2 * 8 * size / 30e9
    assert seconds("from_torch", "T3K", [(T, T)], **slow) == pytest.approx([expected], rel=1e-6)
    assert seconds("tower_mask", "T3K", [(4,)], out=(T, T)) == pytest.approx([size * 3e-9], rel=1e-6)
    size = T * 8192
    each = 2 / 4.8e9 + 2.6 * c["untilize"] + c["unpad"] + c["join"]
    back = seconds("to_torch", "T3K", [(4, 1601, 8192)], rows=T, copies=8, fast_tilize=False, format="bf16")
    assert back == pytest.approx([8 * size * each + size * c["post"]], rel=1e-6)
    assert back[0] == pytest.approx(2.558, rel=0.005)
    one = seconds("to_torch", "T3K", [(4, 1601, 8192)], rows=T, format="bf16")
    each = 2 / 4.8e9 + c["untilize"] + c["unpad"]
    assert one == pytest.approx([size * (each + c["post"])], rel=1e-6)


def test_the_host_s_work_is_the_host_s():
    """Device ops overlap with dispatch, host ops do not; a read-back waits for the device."""
    reads = {"to_torch", "host_logits"}
    for name in ("host_image", "tower_mask", "from_torch", *reads):
        op = OPS[name]
        inputs = (jax.ShapeDtypeStruct((4, 32, 32), jnp.float32),)
        attributes = {"format": "bf16", "rows": 128, "copies": 1, "conversions": 1, "tilings": 1, "fast_tilize": True}
        (kernel,) = op.rule(OpCall(op, attributes, inputs, inputs, {}), machine("N150"))
        assert op.on_host
        assert (kernel.place, kernel.waits) == ("host", name in reads)
