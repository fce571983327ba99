"""The fast model of 16-bit destination registers against the bit-exact datapath: the same noise and the same drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.numerics import fidelity
from ttsim.numerics.conversion import round_to
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity
from ttsim.numerics.reference.datapath import datapath_matmul


def operands(seed, k, weights="bf16"):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((32, k)), rng.standard_normal((k, 64))
    return round_to(jnp.asarray(x, jnp.float32), "bf16"), round_to(jnp.asarray(w, jnp.float32), weights)


def error(y, exact):
    """Relative rms error of y once its common gain is taken out, and the gain."""
    y, exact = np.asarray(y, np.float64), np.asarray(exact, np.float64)
    gain = (y * exact).sum() / (exact**2).sum()
    return np.sqrt(((y - gain * exact) ** 2).sum() / (exact**2).sum()), gain - 1


@pytest.mark.parametrize(
    ("weights", "level"), [("bfp4", MathFidelity.LOFI), ("bfp8", MathFidelity.HIFI2), ("bf16", MathFidelity.HIFI4)]
)
@pytest.mark.parametrize(("k", "k_block", "l1_acc"), [(128, None, True), (512, 128, True), (512, 128, False)])
def test_noise_and_drift_are_those_of_the_datapath(weights, level, k, k_block, l1_acc):
    x, w = operands(0, k, weights)
    setting = ComputeSetting("test", level, approx=False, fp32_dest=False, l1_acc=l1_acc)
    whole = ComputeSetting("test", level, approx=False, fp32_dest=True, l1_acc=l1_acc)
    formats = {"weight_format": weights, "activation_format": "bf16"}
    exact = fidelity.matmul(x, w, whole, **formats)
    fast = error(fidelity.matmul(x, w, setting, registers=True, k_block=k_block, **formats), exact)
    device = error(datapath_matmul(x, w, setting, k_block=k_block, tf32_reload=False), exact)
    assert fast[0] == pytest.approx(device[0], rel=0.12)
    assert fast[1] == pytest.approx(device[1], rel=0.25, abs=5e-4)


def test_the_result_is_a_bf16_value_and_wide_registers_are_left_alone():
    x, w = operands(1, 256)
    y = fidelity.matmul(x, w, "hifi2fp16", registers=True)
    np.testing.assert_array_equal(y, round_to(y, "bf16"))
    wide = fidelity.matmul(x, w, "hifi4", registers=True, k_block=64)
    np.testing.assert_array_equal(wide, fidelity.matmul(x, w, "hifi4"))
    exact = fidelity.matmul(x, w, "exact", registers=True)
    np.testing.assert_array_equal(exact, fidelity.matmul(x, w, "exact"))


def test_zeros_stay_zeros_and_short_sums_are_rounded_once():
    x, w = operands(2, 16)
    one_step = fidelity.matmul(x, w, "lofi", registers=True)
    np.testing.assert_allclose(one_step, round_to(fidelity.matmul(x, w, "lofi"), "bf16", "device"), rtol=2**-7)
    assert not np.any(fidelity.matmul(0 * x, w, "lofi", registers=True))


def test_rows_and_leading_axes_do_not_matter():
    """A row's result does not hang on the rows beside it: a decode step computes what one pass does."""
    x, w = operands(3, 512)
    run = jax.jit(lambda x: fidelity.matmul(x, w, "hifi2fp16", registers=True, k_block=128))
    together = run(x)
    np.testing.assert_array_equal(run(x.reshape(4, 8, -1)).reshape(32, -1), together)
    alone = jnp.concatenate([run(x[i : i + 8]) for i in range(0, 32, 8)])
    assert np.mean(np.asarray(alone != together)) < 0.01  # XLA may sum other shapes in another order


def test_the_derivative_is_that_of_the_product():
    x, w = operands(4, 64)
    dy = jax.random.normal(jax.random.key(0), (32, 64))

    def loss(x, w, registers):
        return jnp.sum(fidelity.matmul(x, w, "hifi2fp16", registers=registers, k_block=32) * dy)

    noisy, plain = (jax.grad(loss, argnums=(0, 1))(x, w, registers) for registers in (True, False))
    for a, b in zip(noisy, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("l1_acc", [True, False])
def test_wide_registers_that_spill_bf16_are_as_noisy_as_the_datapath(l1_acc):
    """HiFi4 decode before early 2026: eight blocks of K, each spill a rounding; without spills the error is tiny."""
    x, w = operands(3, 512, "bfp8")
    setting = ComputeSetting("test", MathFidelity.HIFI4, approx=False, fp32_dest=True, l1_acc=l1_acc)
    formats = {"weight_format": "bfp8", "activation_format": "bf16"}
    exact = fidelity.matmul(x, w, "exact")
    fast = error(fidelity.matmul(x, w, setting, k_block=64, bf16_spills=True, **formats), exact)
    device = error(datapath_matmul(x, w, setting, k_block=64, spill_format="bf16", tf32_reload=False), exact)
    assert device[0] > 2e-3
    assert fast[0] == pytest.approx(device[0], rel=0.12)
    assert error(fidelity.matmul(x, w, setting, k_block=64, **formats), exact)[0] < 1e-4
    one_block = fidelity.matmul(x, w, setting, k_block=512, bf16_spills=True, **formats)
    np.testing.assert_array_equal(one_block, fidelity.matmul(x, w, setting, **formats))


@pytest.mark.parametrize(
    ("setting", "k_block"), [("hifi2fp16", 64), ("hifi2na", 64), ("hifi2fp16", None), ("hifi4", 64)]
)
def test_a_row_does_not_depend_on_how_many_come_with_it(setting, k_block):
    """Few rows multiply all chunks at once. Small whole numbers, whose sums are exact in any order."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-64, 65, (129, 256)), jnp.float32)
    w = jnp.asarray(rng.integers(-7, 8, (256, 32)), jnp.float32)
    formats = {"weight_format": "bfp8", "activation_format": "bf16", "registers": True, "bf16_spills": True}
    many = fidelity.matmul(x, w, setting, k_block=k_block, **formats)
    few = fidelity.matmul(x[:3], w, setting, k_block=k_block, **formats)
    np.testing.assert_array_equal(few, many[:3])
    assert np.any(many != x @ w)
