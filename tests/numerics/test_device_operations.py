"""The emulation beside the vendor's own operations: ttnn 0.81.1 on Tenstorrent's instruction-level simulator.

The reference of each operation equals the device's result in all bits. The fast model, which whole models run with, is
compared by its relative error, next to the device's own error against exact arithmetic. It is the vendor's simulator,
not a board.
"""

import functools
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops
from ttsim.numerics import elementwise, switches
from ttsim.numerics.fidelity import ComputeSetting, MathFidelity
from ttsim.numerics.packer import pack
from ttsim.numerics.reference import datapath, flash, row_kernels, vector_unit
from ttsim.numerics.reference import vector_functions as unit

_FILE = np.load(pathlib.Path(__file__).parents[1] / "golden" / "device_operations.npz")
_INDEX = dict(entry.split("=") for entry in _FILE["index"])
CASES = list(dict.fromkeys(key.split("|")[0] for key in _INDEX))


def array(case, role):
    """float32 values; the file has bf16 bits as uint16 and float32 bits as uint32."""
    stored = _FILE[_INDEX[f"{case}|{role}"]]
    bits = stored.astype(np.uint32) << 16 if stored.dtype == np.uint16 else stored
    return bits.view(np.float32)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def relative_error(y, exact):
    y, exact = np.asarray(y, np.float64), np.asarray(exact, np.float64)
    return np.sqrt(((y - exact) ** 2).sum() / (exact**2).sum())


def test_every_operation_is_compared():
    assert len(CASES) == 125
    groups = (MATMULS, list(EXACT), SOFTMAX, NORMS, ATTENTION, ["neg_fp32"])
    assert sorted(CASES) == sorted(itertools.chain(*groups))


# --- matmuls --------------------------------------------------------------------------------------------------------

MATMULS = [case for case in CASES if "_K" in case]


@pytest.mark.parametrize("case", MATMULS)
def test_matmuls_are_equal(case):
    """Operand formats, fidelities, register widths, accumulation in L1, outputs and blocks of K. ttnn of 2026-07."""
    _, _, level, fp32_dest, l1_acc, out_format, _, block = case.split("_")
    setting = ComputeSetting("test", MathFidelity[level], False, fp32_dest == "d1", l1_acc == "l1")
    y = datapath.datapath_matmul(
        array(case, "x"),
        array(case, "w"),
        setting,
        k_block=int(block[1:]),
        out_format=out_format,
        tf32_reload=False,
    )
    np.testing.assert_array_equal(bits(y), bits(array(case, "y")))


# --- element-wise operations and conversions --------------------------------------------------------------------------


def _typecast(out_format, x):
    return ops.typecast(x, in_format="fp32", out_format=out_format)


def _sum(out_format, x, y):
    return ops.add(x, y, out_format=out_format)


def _product(out_format, x, y):
    return pack(elementwise.multiply(x, y), out_format)


def _block_product(out_format, x, y):
    return pack(datapath.elementwise_multiply(x, y, "hifi2fp16"), out_format)


def _store(function, fp32_dest, **options):
    def run(x):
        y = function(x, fp32_dest=fp32_dest, **options)
        return y if fp32_dest else pack(y, "bf16")

    return run


def _of_magnitude(function):
    """The square roots were taken of the inputs' magnitudes."""
    return lambda x, fp32_dest: function(jnp.abs(x), fp32_dest=fp32_dest)


def _vector(name, function, **options):
    return {f"{name}_{'fp32' if wide else 'bf16'}": _store(function, wide, **options) for wide in (False, True)}


EXACT = {
    **{f"typecast_{x}_{y}": functools.partial(_typecast, y) for x in ("bf16", "fp32") for y in ("bfp8", "bfp4")},
    "typecast_fp32_bf16": functools.partial(_typecast, "bf16"),
    **{f"tobf16_{x}": functools.partial(_typecast, "bf16") for x in ("bfp8", "bfp4")},
    **{f"clone_bf16_{y}": functools.partial(lambda fmt, x: pack(x, fmt), y) for y in ("bfp8", "bfp4")},
    **{f"relu_bf16_{y}x": functools.partial(lambda fmt, x: pack(jnp.maximum(x, 0), fmt), y) for y in ("bfp8", "bfp4")},
    "add_bf16": functools.partial(_sum, "bf16"),
    "sub_bf16": lambda x, y: ops.add(x, -y, out_format="bf16"),
    **{f"add_{x}_{y}": functools.partial(_sum, y) for x, y in (("bf16", "bfp8"), ("bf16", "bfp4"))},
    **{f"add_{x}_{x}": functools.partial(_sum, x) for x in ("bfp8", "bfp4")},
    "add_fp32": vector_unit.add,
    "mul_fp32": vector_unit.multiply,
    "mul_bf16": functools.partial(_product, "bf16"),
    **{f"mul_bf16_{y}": functools.partial(_product, y) for y in ("bfp8", "bfp4")},
    **{f"mul_{x}_{x}": functools.partial(_block_product, x) for x in ("bfp8", "bfp4")},
    **{f"mul_bf16_{y}in": functools.partial(_block_product, "bf16") for y in ("bfp8", "bfp4")},
    **_vector("exp", unit.exponential),
    **_vector("exp_fast", unit.exponential, approximate=True),
    **_vector("sigmoid", unit.sigmoid),
    **_vector("silu", unit.silu),
    **_vector("gelu", unit.gelu),
    **_vector("gelu_fast", unit.gelu, approximate=True),
    **_vector("tanh", unit.tanh),
    **_vector("recip", unit.reciprocal),
    **_vector("sqrt", _of_magnitude(unit.square_root)),
    **_vector("rsqrt", _of_magnitude(unit.reciprocal_square_root)),
    **_vector("square", unit.square),
    "neg_bf16": lambda x: pack(-x, "bf16"),
    "mulsilu": lambda x, y: pack(elementwise.multiply(unit.silu(x, fp32_dest=False), y), "bfp8"),
}


@pytest.mark.parametrize("case", EXACT)
def test_bits_are_equal(case):
    operands = [jnp.asarray(array(case, role)) for role in "01" if f"{case}|{role}" in _INDEX]
    np.testing.assert_array_equal(bits(EXACT[case](*operands)), bits(array(case, "y")))


def test_negation_of_wide_values_keeps_the_sign_of_zero():
    """The one operation whose -0 reaches memory: float32 values that never pass a 16-bit register."""
    np.testing.assert_array_equal(bits(-array("neg_fp32", "0")), bits(array("neg_fp32", "y")))


def test_the_fast_activations_differ_in_the_last_place_of_few_values():
    ours, device = pack(elementwise.silu(array("silu_bf16", "0")), "bf16"), array("silu_bf16", "y")
    assert np.mean(bits(ours) != bits(device)) < 2e-3
    np.testing.assert_allclose(ours, device, rtol=2**-7, atol=1e-30)
    gate, up = array("mulsilu", "0"), array("mulsilu", "1")
    fused = ops.silu_mul(gate, up, out_format="bfp8")
    assert np.mean(bits(fused) != bits(array("mulsilu", "y"))) < 2e-3
    x = array("exp_fast_fp32", "0")
    np.testing.assert_array_equal(bits(elementwise.approximate_exponential(x)), bits(array("exp_fast_fp32", "y")))


# --- kernels of several steps -----------------------------------------------------------------------------------------

SOFTMAX = [case for case in CASES if case.startswith("softmax")]
NORMS = [case for case in CASES if case.startswith("rms")]
ATTENTION = [case for case in CASES if case.startswith(("sdpa", "dec_"))]


def setting_of(case):
    """Fidelity, registers and approximations out of a case's name."""
    parts = case.split("_")
    return ComputeSetting(
        "test", MathFidelity[parts[-2 if parts[0] == "rms" else -3]], parts[-1] == "a1", "d1" in parts, True
    )


@pytest.mark.parametrize("case", SOFTMAX)
def test_softmaxes_are_equal(case):
    np.testing.assert_array_equal(bits(row_kernels.softmax(array(case, "0"), setting_of(case))), bits(array(case, "y")))


@pytest.mark.parametrize("case", NORMS)
def test_norms_are_equal(case):
    y = row_kernels.rms_norm(array(case, "0"), setting_of(case), eps=1e-5)
    np.testing.assert_array_equal(bits(y), bits(array(case, "y")))


POSITIONS = (100, 255)  # of decode's users: two and four chunks of 64 keys


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_equal(case):
    """Two chunks of queries in prefill; in decode up to four cores' chunks, which a tree merges."""
    q, k, v, y = (array(case, role) for role in "qkvy")
    options = {"setting": setting_of(case), "approximate": case.endswith("a1")}
    if case.startswith("sdpa"):
        np.testing.assert_array_equal(bits(flash.flash_prefill(q[0, 0], k[0, 0], v[0, 0], **options)), bits(y[0, 0]))
        return
    for user, position in enumerate(POSITIONS[: len(k)]):
        ours = flash.flash_decode(q[0, user], k[user, 0], v[user, 0], position=position, **options)
        np.testing.assert_array_equal(bits(ours), bits(y[0, user]))


def attend(case, numerics, exact=False):
    """Ours on the case's inputs, and the device's result; prefill is causal."""
    kind, fmt, level, dest, _ = case.split("_")
    setting = "exact" if exact else ComputeSetting("test", MathFidelity[level], False, dest == "d1", False)
    q, k, v, y = (jnp.asarray(array(case, role)) for role in "qkvy")
    attributes = {"setting": setting, "kv_format": fmt, "out_format": "fp32" if exact else "bf16"}
    with switches.using(numerics):
        if kind == "sdpa":
            return ops.sdpa_prefill(q[0], k[0], v[0], start=0, **attributes), y[0]
        return ops.sdpa_decode(q[0], k, v, jnp.array(POSITIONS[: len(k)]), **attributes), y[0]


@pytest.mark.parametrize("case", ATTENTION)
def test_the_fast_attention(case):
    """Without the rescaling of chunks. The noise of 16-bit registers is another draw of the same size."""
    kind, _, level, dest, approx = case.split("_")
    numerics = "device_fast_exp" if approx == "a1" else "device"
    ours, device = attend(case, numerics)
    exact = attend(case, "masked", exact=True)[0]
    bound = {
        ("sdpa", "HIFI4", "d1"): 5.8e-3 if approx == "a1" else 3.6e-3,
        ("sdpa", "HIFI2", "d1"): 7.5e-3,
        ("sdpa", "HIFI2", "d0"): 1.4e-2,
        ("dec", "HIFI2", "d1"): 7.5e-3,
        ("dec", "HIFI2", "d0"): 1.7e-2,
    }[kind, level, dest]
    assert relative_error(ours, device) < bound
    assert 0.85 < relative_error(ours, exact) / relative_error(device, exact) < 1.2


@pytest.mark.parametrize("setting", ["hifi2", "hifi2na"])
def test_a_prompt_with_decodes_numbers_is_decoding(setting):
    """What the accuracy test runs for its decoded positions: decode's roundings, not those of prefill's kernels."""
    rng = np.random.default_rng(0)
    q, keys, values = (pack(jnp.asarray(rng.normal(size=(2, 64, 32)), jnp.float32), "bf16") for _ in "qkv")
    attributes = {"setting": setting, "kv_format": "bf16", "out_format": "bf16"}
    cache = (jnp.broadcast_to(x, (64, *x.shape)) for x in (keys, values))
    steps = ops.sdpa_decode(q.swapaxes(0, 1), *cache, jnp.arange(64), **attributes).swapaxes(0, 1)
    once, prompt = (
        ops.sdpa_prefill(q, keys, values, start=0, numerics=kernel, **attributes) for kernel in ("decode", "prefill")
    )
    assert relative_error(once, steps) < 1e-3  # sums of another order
    assert relative_error(prompt, steps) > 4e-3


@pytest.mark.parametrize("case", ["sdpa_bf16_HIFI4_d1_a1", "sdpa_bfp8_HIFI2_d1_a1"])
def test_the_approximate_exponential_is_what_attention_suffers_from(case):
    """Its error is the device's, value by value: with it, ours is at less than half the distance."""
    exact, device = attend(case, "masked", exact=True)
    assert relative_error(device, exact) > 1.8e-2
    assert relative_error(attend(case, "device_fast_exp")[0], device) < relative_error(exact, device) / 2
