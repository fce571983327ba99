"""Math fidelity: operand masks, compute settings, and the bit-exact datapath against an independent model."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ttsim.numerics import conversion, fidelity
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity
from ttsim.numerics.reference import datapath

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics_fpu.npz"))
LEVELS = {
    "LoFi": MathFidelity.LOFI,
    "HiFi2": MathFidelity.HIFI2,
    "HiFi3": MathFidelity.HIFI3,
    "HiFi4": MathFidelity.HIFI4,
}


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def setting_of(level, fp32_dest=True, l1_acc=True):
    return ComputeSetting("test", LEVELS[level], approx=False, fp32_dest=fp32_dest, l1_acc=l1_acc)


def count(function, primitive, *args):
    """Occurrences of a primitive in a function's jaxpr, inner jaxprs included."""
    return str(jax.make_jaxpr(function)(*args)).count(f"{primitive}[")


# --- masks --------------------------------------------------------------------------------------------------------


def test_masks_equal_the_model():
    x = GOLDEN["split_x"]
    np.testing.assert_array_equal(bits(fidelity.mask_weights(x, MathFidelity.LOFI)), bits(GOLDEN["split_srcA_phase0"]))
    for level in (MathFidelity.LOFI, MathFidelity.HIFI2):
        masked = fidelity.mask_activations(x, level)
        np.testing.assert_array_equal(bits(masked), bits(GOLDEN["split_srcB_phase0"]))
    for level in (MathFidelity.HIFI2, MathFidelity.HIFI3, MathFidelity.HIFI4):
        rest = fidelity.mask_weights(x, level) - fidelity.mask_weights(x, MathFidelity.LOFI)
        np.testing.assert_array_equal(rest, GOLDEN["split_srcA_phase1"])
    rest = fidelity.mask_activations(x, MathFidelity.HIFI4) - fidelity.mask_activations(x, MathFidelity.LOFI)
    np.testing.assert_array_equal(rest, GOLDEN["split_srcB_phase2"])


def test_masks_of_a_value_with_all_bits_set():
    """SrcA multiplies 4 fraction bits, from HiFi2 on 9 (never TF32's last); SrcB 6, from HiFi3 on 10."""
    x = np.array([0x3FFFFFFF, 0xBFFFFFFF], np.uint32).view(np.float32)
    for level in MathFidelity:
        weights = 0xFFF80000 if level is MathFidelity.LOFI else 0xFFFFC000
        activations = 0xFFFE0000 if level.value <= 2 else 0xFFFFE000
        np.testing.assert_array_equal(bits(fidelity.mask_weights(x, level)), bits(x) & np.uint32(weights))
        np.testing.assert_array_equal(bits(fidelity.mask_activations(x, level)), bits(x) & np.uint32(activations))


@pytest.mark.parametrize("mask", [fidelity.mask_weights, fidelity.mask_activations])
@pytest.mark.parametrize("level", list(MathFidelity))
def test_bf16_operands_are_masked_like_float32_ones(mask, level):
    patterns = np.arange(65536, dtype=np.uint16)
    narrow = np.asarray(mask(patterns.view(jnp.bfloat16), level)).view(np.uint16)
    wide = mask((patterns.astype(np.uint32) << 16).view(np.float32), level)
    np.testing.assert_array_equal(narrow.astype(np.uint32) << 16, bits(wide))


def test_masks_are_straight_through():
    x = jax.random.normal(jax.random.key(0), (4, 8))
    for mask in (fidelity.mask_weights, fidelity.mask_activations):
        gradient = jax.vmap(jax.grad(lambda x, mask=mask: jnp.sum(mask(x, MathFidelity.LOFI) * x)))(x)
        np.testing.assert_array_equal(gradient, x + mask(x, MathFidelity.LOFI))


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_those_of_tt_transformers():
    table = {
        "lofi": (1, False, False, True),
        "hifi2": (2, True, True, True),
        "hifi2fp16": (2, False, False, True),
        "hifi2na": (2, False, False, False),
        "hifi2nol1acc": (2, True, True, False),
        "hifi4": (4, False, True, True),
        "hifi4fp32": (4, True, True, True),
    }
    assert set(fidelity.SETTINGS) == {*table, "exact"}
    for name, (phases, approx, fp32_dest, l1_acc) in table.items():
        assert fidelity.get_setting(name) == ComputeSetting(name, MathFidelity(phases), approx, fp32_dest, l1_acc)
    assert fidelity.get_setting(fidelity.SETTINGS["lofi"]) is fidelity.SETTINGS["lofi"]
    with pytest.raises(ValueError, match="unknown compute setting 'hifi_2'; valid: hifi2"):
        fidelity.get_setting("hifi_2")


# --- masked matmul --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", list(LEVELS))
@pytest.mark.parametrize("name", ["bf16", "bfp8", "bfp4"])
@pytest.mark.parametrize("k", [32, 256])
def test_matmul_equals_the_ideal_sum_of_phases(level, name, k):
    x, w, ideal = (GOLDEN[f"mm_K{k}_{name}_{part}"] for part in ("x", "w", f"{level}_ideal"))
    setting = setting_of(level)
    narrow = jnp.asarray(x).astype(jnp.bfloat16), jnp.asarray(w).astype(jnp.bfloat16)  # exact: both hold bf16 values
    masked = fidelity.mask_weights(w, LEVELS[level])
    results = [
        fidelity.matmul(x, w, setting),
        fidelity.matmul(x, w, setting, weight_format=name, activation_format="bf16"),
        fidelity.matmul(*narrow, setting),
        fidelity.matmul(x, masked, setting, weights_masked=True),
        fidelity.matmul(x[None], w, setting)[0],
    ]
    if name != "bf16":
        results.append(fidelity.matmul(x, conversion.quantize(w, name), setting))
    for result in results:
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, ideal, rtol=0, atol=2e-6 * np.abs(ideal).max())


def test_worked_example_of_the_phases():
    one = jnp.full((1, 1), 1.9921875)
    expected = {"LoFi": 3.8447265625, "HiFi2": 3.9532470703125, "HiFi3": 3.9683837890625, "HiFi4": 3.96881103515625}
    for level, value in expected.items():
        assert fidelity.matmul(one, one, setting_of(level)).item() == value
        assert fidelity.multiply(one, one, setting_of(level)).item() == value


def test_each_level_is_as_few_matmuls_and_masks_as_can_be():
    x, w = jnp.ones((4, 32)), jnp.ones((32, 16))

    def parts(level, weight_format=None, activation_format=None, **kwargs):
        run = functools.partial(
            fidelity.matmul,
            setting=setting_of(level),
            weight_format=weight_format,
            activation_format=activation_format,
            **kwargs,
        )
        return count(run, "dot_general", x, w), count(run, "custom_jvp_call", x, w)

    assert parts("LoFi") == (1, 2)
    assert parts("LoFi", "bf16", "bf16") == (1, 2)
    assert parts("LoFi", "bfp8", "bfp8") == (1, 1)
    assert parts("LoFi", "bfp4", "bfp8") == (1, 0)
    assert parts("LoFi", "bf16", "bfp8", weights_masked=True) == (1, 0)
    assert parts("HiFi2", "bfp8", "bf16") == (1, 1)
    assert parts("HiFi2", "bfp8", "bfp8") == (1, 0)
    assert parts("HiFi3", "bf16", "bf16")[0] == 2
    assert parts("HiFi3", "bfp4", "bf16") == (1, 0)
    assert parts("HiFi3", "bf16", "bfp8") == (1, 0)
    assert parts("HiFi4", "bf16", "bf16") == (1, 0)
    assert parts("HiFi4") == (1, 2)


def test_bfp4_weights_need_no_second_phase():
    x = jax.random.normal(jax.random.key(0), (8, 64))
    w = conversion.quantize(jax.random.normal(jax.random.key(1), (64, 32)), "bfp4")
    np.testing.assert_array_equal(fidelity.matmul(x, w, "lofi"), fidelity.matmul(x, w, "hifi2"))


def test_errors_are_ordered_and_lofi_shrinks():
    x = conversion.round_to(jax.random.normal(jax.random.key(0), (64, 256)), "bf16")
    w = conversion.round_to(jax.random.normal(jax.random.key(1), (256, 64)), "bf16")
    exact = fidelity.matmul(x, w, "exact")
    errors = [
        float(jnp.sqrt(jnp.mean((fidelity.matmul(x, w, setting_of(level)) - exact) ** 2) / jnp.mean(exact**2)))
        for level in LEVELS
    ]
    np.testing.assert_allclose(errors[:3], [2.7e-2, 4.2e-3, 9.7e-5], rtol=0.1)
    assert errors[3] < 1e-6
    shrink = fidelity.matmul(jnp.abs(x), jnp.abs(w), "lofi").sum() / (jnp.abs(x) @ jnp.abs(w)).sum()
    assert float(shrink) == pytest.approx(1 - 0.022, abs=2e-3)


def test_the_first_operand_of_a_multiply_is_srca():
    a, b = jnp.full((1,), 1.3125), jnp.full((1,), 7.96875)
    # b has 7 fraction bits: SrcB drops the last one in HiFi2, SrcA keeps it.
    assert fidelity.multiply(a, b, "hifi2").item() == 1.3125 * 7.9375
    assert fidelity.multiply(b, a, "hifi2").item() == 1.3125 * 7.96875
    assert fidelity.multiply(a, b, "hifi2fp16", out_format="bf16").item() == 10.4375
    assert fidelity.multiply(a, b, "exact").item() == 1.3125 * 7.96875
    assert fidelity.matmul(b[:, None], a[:, None], "lofi").item() == fidelity.multiply(a, b, "lofi").item()


def test_results_are_packed_like_the_device_packs_them():
    x = jax.random.normal(jax.random.key(0), (8, 64))
    w = jax.random.normal(jax.random.key(1), (64, 40))
    wide, narrow = (fidelity.matmul(x, w, setting_of("HiFi4", fp32_dest=wide)) for wide in (True, False))
    np.testing.assert_array_equal(wide, narrow)
    for name in ("bf16", "bfp8", "bfp4"):
        packed = fidelity.matmul(x, w, "hifi4", out_format=name)
        np.testing.assert_array_equal(packed, conversion.round_to(wide, name, "device"))
        host = fidelity.matmul(x, w, "hifi4", out_format=name, out_rounding="host")
        np.testing.assert_array_equal(host, conversion.round_to(wide, name))
        via_bf16 = fidelity.matmul(x, w, setting_of("HiFi4", fp32_dest=False), out_format=name)
        expected = conversion.round_to(conversion.round_to(wide, "bf16", "device"), name, "device")
        np.testing.assert_array_equal(via_bf16, expected)
    np.testing.assert_array_equal(fidelity.matmul(x, w, "exact", out_format="fp32"), fidelity.matmul(x, w, "exact"))


@pytest.mark.parametrize("level", list(LEVELS))
def test_gradients_are_those_of_a_matmul_of_the_masked_operands(level):
    x, w = jax.random.normal(jax.random.key(0), (3, 4, 32)), jax.random.normal(jax.random.key(1), (32, 16))
    dy = jax.random.normal(jax.random.key(2), (3, 4, 16))

    def loss(x, w):
        return jnp.sum(fidelity.matmul(x, w, setting_of(level), out_format="bfp8") * dy)

    dx, dw = jax.grad(loss, argnums=(0, 1))(x, w)
    np.testing.assert_allclose(dx, dy @ fidelity.mask_weights(w, LEVELS[level]).T, rtol=1e-5, atol=1e-5)
    b = fidelity.mask_activations(x, MathFidelity.HIFI2 if level == "HiFi3" else LEVELS[level])
    np.testing.assert_allclose(dw, jnp.einsum("abk,abn->kn", b, dy), rtol=1e-5, atol=1e-5)
    narrow = jax.grad(loss, argnums=(0, 1))(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert [g.dtype for g in narrow] == [jnp.bfloat16] * 2


def test_matmul_under_transformations():
    x, w = jax.random.normal(jax.random.key(0), (4, 2, 32)), jax.random.normal(jax.random.key(1), (32, 64))
    run = functools.partial(fidelity.matmul, setting="lofi", out_format="bfp8")
    expected = run(x, w)
    np.testing.assert_array_equal(jax.jit(jax.vmap(run, in_axes=(0, None)))(x, w), expected)
    stacked = conversion.quantize(jnp.stack([w, -w]), "bfp4")
    _, y = jax.lax.scan(lambda carry, w: (carry, fidelity.matmul(x, w, "lofi")), 0, stacked)
    np.testing.assert_array_equal(y[0], -y[1])
    mesh = jax.make_mesh((2,), ("tp",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(P(), P(None, "tp")), out_specs=P(None, None, "tp"))
    np.testing.assert_array_equal(sharded(x, w), expected)


def test_bad_operands_are_refused():
    with pytest.raises(ValueError, match=r"x \[..., K\] and w \[K, N\], got \(2, 3\) and \(4, 5\)"):
        fidelity.matmul(jnp.ones((2, 3)), jnp.ones((4, 5)), "lofi")
    with pytest.raises(ValueError, match="got int32"):
        fidelity.matmul(jnp.ones((2, 3), int), jnp.ones((3, 5)), "lofi")
    with pytest.raises(ValueError, match="valid: bfp8"):
        fidelity.matmul(jnp.ones((2, 3)), jnp.ones((3, 5)), "lofi", weight_format="bfp_8")


# --- datapath -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("fp32_dest", [False, True])
def test_one_mvmul_equals_the_model(phase, fp32_dest):
    key = f"mv_acc{int(fp32_dest)}_p{phase}_"
    a, b, dst, out = (GOLDEN[key + part] for part in ("a", "b", "dst", "out"))
    np.testing.assert_array_equal(bits(datapath.mvmul(b, a, dst, phase, fp32_dest=fp32_dest)), bits(out))


@pytest.mark.parametrize("level", list(LEVELS))
@pytest.mark.parametrize("fp32_dest", [False, True])
def test_datapath_matmul_equals_the_model(level, fp32_dest):
    for k in (32, 256):
        for name in ("bf16", "bfp8", "bfp4"):
            x, w = GOLDEN[f"mm_K{k}_{name}_x"], GOLDEN[f"mm_K{k}_{name}_w"]
            y = datapath.datapath_matmul(x, w, setting_of(level, fp32_dest))
            np.testing.assert_array_equal(bits(y), bits(GOLDEN[f"mm_K{k}_{name}_{level}_acc{int(fp32_dest)}"]))


def test_masked_matmul_is_close_to_the_datapath():
    x, w = GOLDEN["mm_K256_bfp8_x"], GOLDEN["mm_K256_bfp8_w"]
    for level in LEVELS:
        masked = fidelity.matmul(x, w, setting_of(level))
        exact = datapath.datapath_matmul(x, w, setting_of(level))
        assert float(jnp.sqrt(jnp.mean((masked - exact) ** 2) / jnp.mean(exact**2))) < 5e-4


def test_values_reported_from_silicon():
    def times(a, b, level):  # an element-wise multiply is one product, a in SrcA
        setting = setting_of(level, fp32_dest=False)
        return datapath.datapath_matmul(jnp.full((1, 1), b), jnp.full((1, 1), a), setting).item()

    # tt-metal issues 12923, 16448 and 8449.
    assert times(1.3125, 7.96875, "HiFi2") == 10.4375
    assert times(1.3125, 7.96875, "HiFi4") == 10.5
    assert times(-3.640625, 0.298828125, "HiFi4") == -1.09375
    assert times(-3.640625, 0.30078125, "HiFi4") == -1.1015625
    ones = jnp.ones((1, 6144))
    assert datapath.datapath_matmul(ones, ones.T, "hifi2na").item() == 8192


def test_small_products_vanish_beside_large_ones():
    x = np.array([[1] + [2.0**-12] * 15], np.float32)
    w = np.ones((16, 1), np.float32)
    assert datapath.datapath_matmul(x, w, setting_of("HiFi4")).item() == 1.001953125
    assert datapath.datapath_matmul(x, w, setting_of("HiFi4", fp32_dest=False)).item() == 1.0


def test_wormhole_misplaces_the_exponent_of_minus_one_ulp():
    x, w = np.zeros((1, 16), np.float32), np.zeros((16, 1), np.float32)
    x[0, 0] = w[0, 0] = 1
    dst = np.float32([[-1 - 2.0**-23]])
    for bug, expected in ((True, -(2.0**4)), (False, -(2.0**-23))):
        assert datapath.mvmul(x, w, dst, 0, fp32_dest=True, renormalisation_bug=bug).item() == expected


def test_overflow_gives_infinity_and_underflow_zero():
    huge, tiny = jnp.full((1, 1), 2.0**100), jnp.full((1, 1), 2.0**-100)
    for fp32_dest in (False, True):
        setting = setting_of("LoFi", fp32_dest)
        assert datapath.datapath_matmul(huge, -huge, setting).item() == -np.inf
        assert datapath.datapath_matmul(tiny, tiny, setting).item() == 0


def test_partial_sums_of_k_blocks():
    rng = np.random.default_rng(0)
    x = np.asarray(conversion.round_to(rng.standard_normal((8, 256)).astype(np.float32), "bf16"))
    w = np.asarray(conversion.round_to(rng.standard_normal((256, 16)).astype(np.float32), "bf16"))
    run = functools.partial(datapath.datapath_matmul, x, w, k_block=64)

    # 16-bit registers: the sum so far is a bf16 value, so spilling it as bf16 changes nothing ...
    whole = datapath.datapath_matmul(x, w, "hifi2na")
    np.testing.assert_array_equal(run("hifi2na"), whole)
    # ... but as bfp8 it does, and L1 accumulation adds whole blocks, which is more accurate.
    exact = x.astype(np.float64) @ w

    def error(y):
        return float(np.sqrt(np.mean((np.asarray(y) - exact) ** 2)))

    assert error(run("hifi2na", out_format="bfp8")) > error(run("hifi2fp16", out_format="bfp8"))
    assert error(run("hifi2fp16")) < error(whole)

    # L1 accumulation, spelled out: float32 sums of the first blocks, then one reload.
    parts = [datapath.datapath_matmul(x[:, k : k + 64], w[k : k + 64], "hifi4") for k in range(0, 192, 64)]
    in_l1 = (parts[0] + parts[1]) + parts[2]
    last = datapath._dest_matmul(x[:, 192:], w[192:], in_l1, MathFidelity.HIFI4, fp32_dest=True, bug=True)
    np.testing.assert_array_equal(run("hifi4", tf32_reload=False), last)
    assert error(run("hifi4", tf32_reload=False)) < error(run("hifi4"))


def test_datapath_refuses_bad_input():
    x = jnp.ones((2, 32))
    with pytest.raises(ValueError, match="no math fidelity"):
        datapath.datapath_matmul(x, x.T, "exact")
    with pytest.raises(ValueError, match="multiple of 32, got 48"):
        datapath.datapath_matmul(x, x.T, "lofi", k_block=48)
    with pytest.raises(ValueError, match="got"):
        datapath.datapath_matmul(x, x, "lofi")
