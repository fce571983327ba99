"""Published noise powers against the bit-exact emulation of the same step."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.numerics import fidelity, noise
from ttsim.numerics.conversion import round_to
from ttsim.numerics.destination import registers_of
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity
from ttsim.numerics.reference.datapath import datapath_matmul


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def measure(y, exact):
    """Gain and remaining relative power of y against exact."""
    y, exact = np.asarray(y, np.float64), np.asarray(exact, np.float64)
    gain = (y * exact).sum() / (exact**2).sum()
    return noise.Noise(((y - gain * exact) ** 2).sum() / (exact**2).sum(), gain - 1)


def setting_of(level, fp32_dest=True, l1_acc=True):
    return ComputeSetting("test", level, approx=False, fp32_dest=fp32_dest, l1_acc=l1_acc)


@pytest.mark.parametrize("rule", ["host", "device", "device_precise"])
@pytest.mark.parametrize("fmt", ["bf16", "bfp8", "bfp4", "bfp2"])
def test_rounding(fmt, rule):
    x = normal(0, 512, 256)
    measured, known = measure(round_to(x, fmt, rule), x), noise.rounding(fmt, rule)
    assert measured.power == pytest.approx(known.power, rel=0.03)
    assert measured.gain == pytest.approx(known.gain, rel=0.03, abs=3e-4)


def test_fp32_and_exact_have_no_noise():
    assert noise.rounding("fp32") == noise.Noise()
    assert noise.matmul("exact", 4096) == noise.Noise()


@pytest.mark.parametrize("activations", ["fp32", "bf16", "bfp8"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "bfp8", "bfp4"])
def test_fidelity(weights, activations):
    x, w = round_to(normal(1, 64, 512), activations), round_to(normal(2, 512, 256), weights)
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    for level in MathFidelity:
        known = noise.fidelity(setting_of(level), weights, activations)
        measured = measure(fidelity.matmul(x, w, setting_of(level)), exact)
        # HiFi3 multiplies the last bits of an activation with the first of a weight only: 1e-4 that is not counted.
        assert measured.power**0.5 == pytest.approx(known.power**0.5, rel=0.05, abs=1e-4)
        assert measured.gain == pytest.approx(known.gain, rel=0.05, abs=1.5e-4)


@pytest.mark.parametrize(
    ("weights", "level"),
    [
        ("bfp4", MathFidelity.LOFI),
        ("bfp4", MathFidelity.HIFI2),
        ("bfp8", MathFidelity.HIFI2),
        ("bf16", MathFidelity.HIFI2),
        ("bf16", MathFidelity.HIFI4),
    ],
)
@pytest.mark.parametrize(("k", "k_block"), [(128, 128), (512, 512), (512, 128), (1024, 128)])
def test_destination(weights, level, k, k_block):
    """The growth with K and the blocks of K, in rms and in gain, from the bit-exact datapath."""
    x, w = round_to(normal(3, 32, k), "bf16"), round_to(normal(4, k, 64), weights)
    y = datapath_matmul(x, w, setting_of(level, fp32_dest=False), k_block=k_block, tf32_reload=False)
    measured = measure(y, fidelity.matmul(x, w, setting_of(level)))
    known = noise.destination(setting_of(level, fp32_dest=False), k, k_block=k_block, weight_format=weights)
    assert known.power**0.5 == pytest.approx(measured.power**0.5, rel=0.12)
    assert known.gain == pytest.approx(measured.gain, rel=0.3, abs=5e-4)


def test_the_figures_of_the_vendors_stack():
    """Relative rms errors of ttnn 0.81.1's matmuls on Tenstorrent's simulator, [32, K] x [K, N], DRAM-sharded.

    The blocks of K = 4096 are 128 (32 cores); K = 128 and 512 have blocks of 128.
    """
    for setting, k, weights, expected in (
        ("hifi2fp16", 128, "bfp8", 5.9e-3),
        ("hifi2fp16", 512, "bfp8", 9.5e-3),
        ("hifi2fp16", 4096, "bfp8", 1.14e-2),
        ("lofi", 4096, "bfp4", 1.01e-2),
    ):
        known = noise.matmul(setting, k, k_block=128, weight_format=weights)
        assert known.rms == pytest.approx(expected, rel=0.1)


def test_without_accumulation_in_l1_blocks_do_not_matter():
    spilled, whole = (noise.destination("hifi2na", 1024, k_block=block) for block in (128, None))
    assert spilled == whole
    assert noise.destination("hifi2fp16", 1024, k_block=128).power < whole.power


def test_float32_registers_leave_the_alignment():
    x, w = round_to(normal(5, 32, 512), "bf16"), round_to(normal(6, 512, 64), "bf16")
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    measured = measure(datapath_matmul(x, w, setting_of(MathFidelity.HIFI4)), exact)
    assert measured.power == pytest.approx(noise.destination("hifi4", 512).power, rel=0.15)


def test_noise_grows_with_k_and_with_what_is_multiplied():
    powers = [noise.destination("lofi", k, weight_format="bfp4").power for k in (32, 128, 512, 2048)]
    assert all(a < b for a, b in itertools.pairwise(powers))
    roundings = [
        registers_of(*phases_and_bits, None, True).noise for phases_and_bits in ((4, 2, 6), (4, 7, 6), (4, 7, 7))
    ]
    assert roundings == [1, 2, 2.5]  # bfp4 x bfp8 has one phase with anything to multiply, bf16 x bfp8 two
    assert registers_of(2, 7, 7, None, True).noise == 2


def test_steps_add_up():
    total = noise.Noise(1e-4, 0.01) + noise.Noise(2e-4, -0.02)
    assert total.power == pytest.approx(3e-4)
    assert total.gain == pytest.approx(1.01 * 0.98 - 1)
    assert noise.Noise(9e-4, 0.04).rms == pytest.approx(0.05)
