"""Device ops honour their formats and compute settings, and are what a trace sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops, trace
from ttsim.meshes.lookup import get_system
from ttsim.numerics import elementwise, fidelity, switches
from ttsim.numerics.conversion import quantize, round_to

FORMATS = ("bf16", "bfp8", "bfp4")
LINEAR = {"kernel": "dram_sharded", "cores": 2}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def on_grid(x, fmt):
    """Whether every value of x is one of the format's, as the device's packer rounds."""
    return np.array_equal(round_to(x, fmt, "device"), x)


@pytest.mark.parametrize("fmt", FORMATS)
def test_outputs_are_on_their_formats_grid(fmt):
    x, y, w = normal(0, 32, 64), normal(1, 32, 64), normal(2, 64, 96)
    linear = {"kernel": "dram_sharded", "weight_format": "bf16", "cores": 2, "in_format": "bf16"}
    heads = {"kv_format": "bf16", "out_format": fmt, "setting": "hifi2"}
    cache, q = normal(3, 2, 2, 32, 16), normal(4, 2, 4, 16)
    results = {
        "linear": ops.linear(round_to(x, "bf16"), round_to(w, "bf16"), setting="hifi2", out_format=fmt, **linear),
        "add": ops.add(x, y, out_format=fmt),
        "add_bias": ops.add_bias(x, y[0], out_format=fmt),
        "silu_mul": ops.silu_mul(x, y, out_format=fmt),
        "rms_norm": ops.rms_norm(x, y[0], eps=1e-5, out_format=fmt),
        "rotary": ops.rotary(x, jnp.cos(y[:, :32]), jnp.sin(y[:, :32]), out_format=fmt),
        "sdpa_decode": ops.sdpa_decode(q, cache, cache, jnp.array([3, 9]), **heads),
        "sdpa_prefill": ops.sdpa_prefill(normal(5, 4, 8, 16), cache[0][:, :8], cache[1][:, :8], start=0, **heads),
    }
    assert [name for name, value in results.items() if not on_grid(value, fmt)] == []


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_cache_holds_its_format(fmt):
    cache, token = jnp.zeros((2, 2, 8, 16)), normal(0, 2, 2, 16)
    cache = ops.update_cache(cache, token, jnp.array([0, 5]), format=fmt)
    np.testing.assert_array_equal(cache[0, :, 0], round_to(token[0], fmt, "device"))
    np.testing.assert_array_equal(cache[1, :, 5], round_to(token[1], fmt, "device"))
    assert np.count_nonzero(cache[1, :, :5]) == 0


def test_fidelity_is_that_of_the_matrix_unit():
    """x and w have bits in every place, so that each level drops some more than the next."""
    x, w = round_to(normal(0, 8, 64), "bf16"), round_to(normal(1, 64, 32), "bf16")
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    errors = []
    for setting in ("lofi", "hifi2", "hifi4"):
        with switches.using("masked"):
            y = ops.linear(
                x, w, kernel="dram_sharded", weight_format="bf16", setting=setting, out_format="fp32", cores=1
            )
        level = fidelity.get_setting(setting).fidelity
        masked = fidelity.mask_activations(x, level) @ fidelity.mask_weights(w, level)
        np.testing.assert_allclose(y, round_to(masked, "bf16") if setting == "lofi" else masked, rtol=1e-5, atol=1e-5)
        errors.append(np.sqrt(np.mean((np.asarray(y) - exact) ** 2)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_packed_weights_give_the_same_result():
    x, w = round_to(normal(0, 32, 64), "bf16"), normal(1, 64, 32)
    attributes = {
        "kernel": "dram_sharded",
        "weight_format": "bfp4",
        "setting": "lofi",
        "out_format": "bf16",
        "cores": 2,
    }
    expanded = ops.linear(x, round_to(w, "bfp4"), **attributes)
    np.testing.assert_array_equal(ops.linear(x, quantize(w, "bfp4"), **attributes), expanded)


def test_partial_sums_are_rounded_before_a_collective():
    """Two devices round their halves to bf16, then the sum: not what one device's whole sum rounds to."""
    x, w = round_to(normal(0, 32, 256), "bf16"), round_to(normal(1, 256, 64), "bf16")
    attributes = {
        "kernel": "dram_sharded",
        "weight_format": "bf16",
        "setting": "hifi4",
        "out_format": "bf16",
        "cores": 1,
    }

    def device(x, w):
        return ops.reduce_scatter(ops.linear(x, w, **attributes), axis="tp", dim=1, format="bf16")

    spec = jax.sharding.PartitionSpec
    step = jax.shard_map(
        device,
        mesh=get_system("N300").mesh(),
        in_specs=(spec(None, "tp"), spec("tp", None)),
        out_specs=spec(None, "tp"),
    )
    halves = [ops.linear(x[:, part], w[part], **attributes) for part in (slice(0, 128), slice(128, 256))]
    np.testing.assert_array_equal(step(x, w), elementwise.add(*halves))
    with switches.using("masked"):
        np.testing.assert_array_equal(step(x, w), round_to(halves[0] + halves[1], "bf16", "device"))
    assert not np.array_equal(step(x, w), ops.linear(x, w, **attributes))


def test_gradients_flow_through_rounding():
    def loss(w):
        y = ops.linear(
            normal(0, 8, 32),
            w,
            kernel="dram_sharded",
            weight_format="bf16",
            setting="hifi2",
            out_format="bfp8",
            cores=1,
        )
        return jnp.sum(ops.silu_mul(y, y, out_format="bfp8"))

    gradient = jax.grad(loss)(normal(1, 32, 16))
    assert np.all(np.isfinite(gradient))
    assert np.linalg.norm(gradient) > 0


def test_argmax_takes_the_first_of_equal_logits():
    assert ops.argmax(jnp.array([[1.0, 3.0, 3.0, 2.0]]))[0] == 1


def test_each_call_is_one_op_of_the_program():
    def function(x, w):
        y = ops.linear(x, w, kernel="dram_sharded", weight_format="bfp8", setting="hifi2", out_format="bf16", cores=8)
        return ops.add(y, y, out_format="bf16")

    program = trace(
        function, jax.ShapeDtypeStruct((32, 256), jnp.float32), jax.ShapeDtypeStruct((256, 128), jnp.float32)
    )
    calls = [call for call, _ in program.ops()]
    assert [call.name for call in calls] == ["linear", "add"]
    assert calls[0]["weight_format"] == "bfp8"
    assert calls[0].outputs[0].shape == (32, 128)
    assert program.unpriced == ()
