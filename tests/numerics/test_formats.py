"""Block-float formats: golden vectors of the vendor's host library, an independent restatement, and array behaviour."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ttsim.numerics import conversion, formats

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics_bfp.npz"))
BYTES = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "numerics_bytes.npz"))
WIDTH = {"bfp8": 7, "bfp4": 3, "bfp2": 1}
BLOCK_FORMATS = list(WIDTH)
ROUNDINGS = ["host", "device", "device_precise"]


def bits(x):
    """Float bits, so that comparisons see signs of zeros and NaN payloads."""
    x = np.asarray(x)
    return x.view({4: np.uint32, 2: np.uint16}[x.dtype.itemsize])


def reference(x, w, mutation=None):
    """Restates the host rule in float64 arithmetic; returns (exponents, signed codes as int) of blocks [n, 16].

    `mutation` names a wrong rule that the golden vectors must tell apart.
    """
    u = bits(np.ascontiguousarray(x, np.float32)).astype(np.int64)
    if mutation == "pre-round to bf16":
        finite = (u & 0x7F800000) != 0x7F800000
        u = np.where(finite, (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000, u)
    if mutation == "pre-truncate to bf16":
        u = u & 0xFFFF0000
    e, negative = u >> 23 & 0xFF, u >> 31 == 1
    shared = e.max(axis=-1, keepdims=True)
    # |x| in units of 2**-23 of the shared binade; inf and NaN count as 1.f * 2**128.
    scaled = np.ldexp(1 + (u & 0x7FFFFF) / 2**23, 23 - (shared - e))
    steps = (scaled if mutation == "keep sticky bits" else np.floor(scaled)) / 2 ** (24 - w)
    if mutation == "ties away":
        q = np.floor(steps + 0.5)
    elif mutation == "ties to zero":
        q = np.ceil(steps - 0.5)
    elif mutation == "truncate":
        q = np.floor(steps)
    else:
        q = np.rint(steps)
    if mutation != "keep denormals":
        q = np.where(e == 0, 0, q)
    overflow = q > 2**w - 1
    if mutation == "bump exponent":
        bump = overflow.any(axis=-1, keepdims=True)
        shared, q = shared + bump, np.where(bump, np.rint(np.floor(scaled) / 2 ** (25 - w)), q)
    q = np.mod(q, 2**w) if mutation == "wrap" else np.minimum(q, 2**w - 1)
    sign = negative if mutation == "keep negative zero" else negative & (q > 0)
    return shared[..., 0], (sign * 2**w + q).astype(np.int64)


MUTATIONS = [
    "keep sticky bits",
    "ties away",
    "ties to zero",
    "truncate",
    "keep denormals",
    "keep negative zero",
    "pre-round to bf16",
    "pre-truncate to bf16",
    "bump exponent",
    "wrap",
]


def codes_of(array):
    """Codes of a BlockArray [..., n], one per element, unpacked with numpy."""
    packed = np.asarray(array.codes)
    per_byte = array.fmt.codes_per_byte
    width = 8 // per_byte
    return np.stack([packed >> (width * k) & (2**width - 1) for k in range(per_byte)], -1).reshape(
        *packed.shape[:-1], -1
    )


def golden_codes(name):
    """Exponents [2880] and codes [2880, 16] out of the vendor's packed tiles."""
    packed, per_byte = GOLDEN[f"packed_{name}"], formats.FORMATS[name].codes_per_byte
    width = 8 // per_byte
    codes = np.stack([packed[:, 64:] >> (width * k) & (2**width - 1) for k in range(per_byte)], -1)
    return packed[:, :64].reshape(-1), codes.reshape(-1, 16)


def random_bits(seed, shape):
    """Float32 of every kind: random patterns, close exponents, near ties, tiny and huge blocks, special values."""
    rng = np.random.default_rng(seed)
    u = rng.integers(0, 2**32, shape, dtype=np.uint32)
    base = rng.integers(0, 256, (*shape[:-1], 1))
    close = (u & 0x807FFFFF) | (np.clip(base - rng.integers(0, 14, shape), 0, 255).astype(np.uint32) << 23)
    tie = close & np.uint32(0xFFF00000) | rng.integers(0, 2, shape, dtype=np.uint32)
    ones = close | np.uint32(0x7E0000)
    special = np.array(
        [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0x7F900000, 0x7FFFFFFF, 1, 0x7F7FFFFF], np.uint32
    )
    kind = rng.integers(0, 5, (*shape[:-1], 1))
    return np.choose(kind, [u, close, tie, ones, special[u % 9]]).astype(np.uint32).view(np.float32)


# --- against the vendor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_quantize_equals_vendor_for_every_block(name):
    array = conversion.quantize(GOLDEN["x"], name)
    exponents, codes = golden_codes(name)
    np.testing.assert_array_equal(np.asarray(array.exponents)[:, 0], exponents)
    np.testing.assert_array_equal(codes_of(array), codes)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_values_equal_vendor_bit_for_bit(name):
    expected = bits(GOLDEN[f"y_{name}"])
    array = conversion.quantize(GOLDEN["x"], name)
    np.testing.assert_array_equal(bits(conversion.dequantize(array)), expected)
    np.testing.assert_array_equal(bits(conversion.round_to(GOLDEN["x"], name)), expected)
    np.testing.assert_array_equal(bits(conversion.dequantize(array, jnp.bfloat16)), expected >> 16)
    # The same inside a larger jitted function and without jit at all.
    np.testing.assert_array_equal(bits(jax.jit(lambda x: conversion.round_to(x, name))(GOLDEN["x"])), expected)
    with jax.disable_jit():
        np.testing.assert_array_equal(bits(conversion.round_to(GOLDEN["x"], name)), expected)


@pytest.mark.parametrize("name", ["bfp8", "bfp4"])
@pytest.mark.parametrize("case", range(5))
def test_padded_shapes_equal_vendor(name, case):
    x, expected = GOLDEN[f"pad{case}_x"], bits(GOLDEN[f"pad{case}_y_{name}"])
    np.testing.assert_array_equal(bits(conversion.dequantize(conversion.quantize(x, name))), expected)
    np.testing.assert_array_equal(bits(conversion.round_to(x, name)), expected)


@pytest.mark.parametrize("name", ["bfp8", "bfp4"])
def test_random_bit_patterns_equal_vendor(name):
    np.testing.assert_array_equal(bits(conversion.round_to(BYTES["x"], name)), bits(BYTES[f"y_{name}"]))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_device_packer_equals_its_model(name):
    truncated = (bits(GOLDEN["x"]) & 0xFFFF0000).view(np.float32)
    for x in (truncated, jnp.asarray(truncated).astype(jnp.bfloat16)):
        array = conversion.quantize(x, name, "device")
        np.testing.assert_array_equal(np.asarray(array.exponents)[:, 0], GOLDEN["hwpack_exp_bfp8"])
        np.testing.assert_array_equal(codes_of(array), GOLDEN[f"hwpack_code_{name}"])


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_golden_vectors_catch_wrong_rules(name, mutation):
    exponents, codes = reference(GOLDEN["x"], WIDTH[name], mutation)
    golden_exponents, golden = golden_codes(name)
    differ = (exponents != golden_exponents) | (codes != golden).any(axis=-1)
    # Rounding 1.5 to 2 saturates to 1 in bfp2, so this mutation is no mutation there.
    assert differ.any() == ((name, mutation) != ("bfp2", "ties to zero"))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_golden_vectors_catch_the_device_rule(name):
    _, golden = golden_codes(name)
    for rounding in ("device", "device_precise"):
        assert (codes_of(conversion.quantize(GOLDEN["x"], name, rounding)) != golden).any(axis=-1).sum() > 500


def test_worked_example():
    x = [3.1415927, 1, -1, 0.1, -0.1, 1.9921875, 3.9999, 0.015625, 0.0234375, -0.0078125, 2.015625, 2.046875]
    x = np.array([*x, 1e-5, -0.0, 0.5, 0.25], np.float32)
    expected = {
        ("bfp8", "host"): "6520a00383407f000100404200001008",
        ("bfp4", "host"): "260a400700440001",
        ("bfp8", "device_precise"): "6520a00383407f010100414200001008",
        ("bfp8", "device"): "33109002822040000000212100000804",
    }
    for (name, rounding), codes in expected.items():
        array = conversion.quantize(x, name, rounding)
        assert np.asarray(array.codes).tobytes().hex() == codes, (name, rounding)
        assert int(array.exponents[0]) == (129 if rounding == "device" else 128)


# --- against the restatement --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_random_blocks_equal_restatement(name, seed):
    x = random_bits(seed, (1000, 16))
    array = conversion.quantize(x, name)
    exponents, codes = reference(x, WIDTH[name])
    np.testing.assert_array_equal(np.asarray(array.exponents)[:, 0], exponents)
    np.testing.assert_array_equal(codes_of(array), codes)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_every_bf16_value_against_every_shared_exponent_distance(name):
    patterns = np.arange(65536, dtype=np.uint32)
    for distance in (0, 1, 2, 5, 7, 8, 20):
        top = np.minimum((patterns >> 7 & 0xFF) + distance, 255) << 23
        x = np.zeros((65536, 16), np.uint32)
        x[:, 0], x[:, 1] = patterns << 16, top
        x = x.view(np.float32)
        exponents, codes = reference(x, WIDTH[name])
        array = conversion.quantize(x, name)
        np.testing.assert_array_equal(np.asarray(array.exponents)[:, 0], exponents)
        np.testing.assert_array_equal(codes_of(array)[:, :2], codes[:, :2])


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize(
    ("rounding", "dtype"), [*((rounding, jnp.float32) for rounding in ROUNDINGS), ("host", jnp.bfloat16)]
)
def test_round_to_is_quantize_then_dequantize_without_negative_zeros(name, rounding, dtype):
    pattern = random_bits(7, (300, 48))
    x = pattern if dtype == jnp.float32 else (bits(pattern) >> 16).astype(np.uint16).view(jnp.bfloat16)
    rounded = conversion.round_to(x, name, rounding)
    assert rounded.dtype == dtype
    array = conversion.quantize(x, name, rounding)
    np.testing.assert_array_equal(bits(rounded), bits(conversion.dequantize(array, dtype)))
    assert not (codes_of(array) == 1 << WIDTH[name]).any()
    assert not (bits(rounded) == 1 << (8 * dtype.dtype.itemsize - 1)).any()


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_bf16_and_float32_inputs_agree(name):
    x = (bits(random_bits(8, (200, 32))) >> 16).astype(np.uint16)
    wide = (x.astype(np.uint32) << 16).view(np.float32)
    narrow = conversion.round_to(x.view(jnp.bfloat16), name)
    np.testing.assert_array_equal(bits(narrow).astype(np.uint32) << 16, bits(conversion.round_to(wide, name)))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_finite_values_twice_changes_nothing(name, rounding):
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) * np.exp2(np.arange(-32, 32))[:, None]
    once = conversion.round_to(x.astype(np.float32), name, rounding)
    again = conversion.round_to(once, name, rounding)
    # The device's default path rounds once more to 6 fraction bits, which may change bfp8 values.
    if rounding == "device" and name == "bfp8":
        assert (bits(once) == bits(again)).mean() > 0.7
    else:
        np.testing.assert_array_equal(bits(again), bits(once))


def test_error_grows_as_published():
    x = jax.random.normal(jax.random.key(0), (256, 1024))
    for name, decibel in {"bfp8": 42.8, "bfp4": 18.6, "bfp2": 6.3}.items():
        noise = conversion.round_to(x, name) - x
        assert 10 * np.log10(float(jnp.mean(x**2) / jnp.mean(noise**2))) == pytest.approx(decibel, abs=0.1)


def test_bf16_rounds_half_to_even_on_the_host_and_half_away_on_the_device():
    x = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000, 0x7F7FFFFF, 0x00008001, 0xFF800001], np.uint32)
    host = [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x7F80, 0x0001, 0x7FC0]
    device = [0x3F81, 0x3F82, 0x3F81, 0xBF81, 0x7F80, 0x0000, 0xFF80]
    for rounding, expected in (("host", host), ("device", device)):
        stored = conversion.quantize(x.view(np.float32), "bf16", rounding)
        assert stored.dtype == jnp.bfloat16
        np.testing.assert_array_equal(bits(stored), np.array(expected, np.uint16))
        rounded = jax.jit(functools.partial(conversion.round_to, fmt="bf16", rounding=rounding))(x.view(np.float32))
        np.testing.assert_array_equal(bits(rounded), np.array(expected, np.uint32) << 16)


def test_fp32_is_the_identity():
    x = random_bits(1, (8, 16))
    np.testing.assert_array_equal(bits(conversion.round_to(x, "fp32")), bits(x))
    np.testing.assert_array_equal(bits(conversion.quantize(x, "fp32")), bits(x))


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bfp4", shape)
        for shape in [(1,), (16,), (17,), (3, 1), (5, 7), (2, 3, 40), (1, 1, 1, 1), (0, 5), (5, 0), (2, 0, 16)]
    ]
    + [("bfp8", (17,)), ("bfp8", (5, 0)), ("bfp2", (2, 3, 40))],
)
def test_any_shape_survives(name, shape):
    x = random_bits(2, (*shape[:-1], max(shape[-1], 1)))[..., : shape[-1]]
    array = conversion.quantize(x, name)
    assert array.shape == shape
    assert array.size == x.size
    assert array.ndim == len(shape)
    values = conversion.dequantize(array)
    assert values.shape == shape
    np.testing.assert_array_equal(bits(values), bits(conversion.round_to(x, name)))
    padded = np.pad(x, [(0, 0)] * (len(shape) - 1) + [(0, 64 - shape[-1])])
    np.testing.assert_array_equal(bits(values), bits(conversion.round_to(padded, name))[..., : shape[-1]])


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_a_scalar_rounds_like_a_block_of_one(name):
    assert conversion.round_to(jnp.float32(3.9999), name).shape == ()
    assert conversion.round_to(jnp.float32(3.9999), name) == conversion.round_to(jnp.array([3.9999]), name)[0]


def test_bytes_of_a_block_array():
    x = jnp.ones((64, 256))
    for name, per_value in {"bfp8": 1.0625, "bfp4": 0.5625, "bfp2": 0.3125}.items():
        array = conversion.quantize(x, name)
        assert array.nbytes == per_value * x.size
        assert formats.FORMATS[name].bytes_per_value == per_value
        assert array.nbytes == formats.tile_padded_bytes(x.shape, name)
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(array)) == array.nbytes


def test_tile_bytes():
    expected = {"bfp8": 1088, "bfp4": 576, "bfp2": 320, "bf16": 2048, "fp32": 4096}
    assert {name: fmt.tile_bytes for name, fmt in formats.FORMATS.items()} == expected
    assert formats.tile_padded_bytes((32, 32), "bfp8") == 1088
    assert formats.tile_padded_bytes((3, 1, 5, 40), "bfp4") == 3 * 2 * 576
    assert formats.tile_padded_bytes((33,), "bf16") == 2 * 2048
    assert formats.tile_padded_bytes((), "fp32") == 4096
    assert formats.tile_padded_bytes((0, 32), "fp32") == 0


# --- BlockArray as an array -----------------------------------------------------------------------------------------


@pytest.fixture(params=["bfp8", "bfp4"])
def array(request):
    return conversion.quantize(jax.random.normal(jax.random.key(3), (4, 6, 64)), request.param)


@pytest.mark.parametrize(
    "index",
    [
        1,
        -1,
        slice(1, 3),
        (2, slice(None, None, 2)),
        (..., slice(16, 48)),
        (slice(None), 3, slice(32, None)),
        (0, 0, slice(48, 64)),
        (None, 1),
        np.array([2, 0]),
        np.array([True, False, True, False]),
        (Ellipsis, slice(0, 0)),
    ],
)
def test_indexing_commutes_with_dequantize(array, index):
    np.testing.assert_array_equal(conversion.dequantize(array[index]), conversion.dequantize(array)[index])


def test_a_traced_index_works(array):
    take = jax.jit(lambda a, i: conversion.dequantize(a[i]))
    np.testing.assert_array_equal(take(array, 2), conversion.dequantize(array)[2])


def test_slices_up_to_an_unaligned_end():
    array = conversion.quantize(jnp.arange(80.0).reshape(2, 40), "bfp4")
    for index in [(0, slice(16, None)), (0, slice(32, 40)), (slice(None), slice(0, 16))]:
        np.testing.assert_array_equal(conversion.dequantize(array[index]), conversion.dequantize(array)[index])
    assert array[:, :16].padding == 0


@pytest.mark.parametrize(
    "index", [(0, 0, 5), (..., slice(8, None)), (..., slice(0, 8)), (..., slice(0, 64, 2)), (0, 0, 0, 0)]
)
def test_indices_that_cut_a_block_are_refused(array, index):
    with pytest.raises(IndexError):
        array[index]


def test_iterates_over_rows(array):
    assert len(array) == 4
    for row, expected in zip(array, conversion.dequantize(array), strict=True):
        np.testing.assert_array_equal(conversion.dequantize(row), expected)


def test_reshape_of_leading_axes(array):
    for shape in [(24, 64), (-1, 64), (2, 2, 6, 64)]:
        np.testing.assert_array_equal(
            conversion.dequantize(array.reshape(shape)), conversion.dequantize(array).reshape(shape)
        )
    assert array.reshape(3, 8, 64).shape == (3, 8, 64)
    with pytest.raises(ValueError, match="keeps the last axis"):
        array.reshape(4, 3, 128)


def test_transforms_see_a_block_array_as_one_array(array):
    expected = conversion.dequantize(array)
    np.testing.assert_array_equal(jax.jit(conversion.dequantize)(array), expected)
    np.testing.assert_array_equal(jax.vmap(conversion.dequantize)(array), expected)
    np.testing.assert_array_equal(jax.vmap(conversion.dequantize, in_axes=1, out_axes=1)(array), expected)
    _, scanned = jax.lax.scan(lambda carry, row: (carry, conversion.dequantize(row)), 0, array)
    np.testing.assert_array_equal(scanned, expected)
    _, quantised = jax.lax.scan(lambda carry, row: (carry, conversion.quantize(row, array.fmt)), 0, expected)
    assert quantised.shape == array.shape
    np.testing.assert_array_equal(conversion.dequantize(quantised), expected)
    assert jax.eval_shape(lambda a: a, array).shape == array.shape


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_over_rows_and_whole_blocks(array, axis_type):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    spec = P("x", None, "y")
    placed = jax.device_put(array, NamedSharding(mesh, spec))
    assert placed.sharding.spec == spec
    local_shapes = []

    def body(shard):
        local_shapes.append(shard.shape)
        return conversion.dequantize(shard)

    values = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec)(placed)
    assert local_shapes[0] == (2, 6, 32)
    np.testing.assert_array_equal(values, conversion.dequantize(array))
    np.testing.assert_array_equal(conversion.dequantize(placed), conversion.dequantize(array))
    quantised = conversion.quantize(values, array.fmt)
    np.testing.assert_array_equal(conversion.dequantize(quantised), values)


def test_as_a_parameter_of_a_flax_module(array):
    class Layer(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(array)

        def __call__(self):
            return conversion.dequantize(self.w.get_value())

    layer = Layer()
    np.testing.assert_array_equal(nnx.jit(lambda module: module())(layer), conversion.dequantize(array))
    assert layer.w.shape == array.shape
    _, state = nnx.split(layer)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == array.nbytes
    assert "BlockArray" in repr(jax.tree.map(jnp.shape, array))


# --- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfp4", "bf16"])
def test_the_derivative_is_that_of_the_identity(name):
    x, dy = jax.random.normal(jax.random.key(0), (2, 3, 5, 40))

    def loss(x, dy):
        return jnp.sum(conversion.round_to(x, name) * dy)

    np.testing.assert_array_equal(jax.grad(loss)(x, dy), dy)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(loss)))(x, dy), dy)
    np.testing.assert_array_equal(jax.jvp(lambda x: conversion.round_to(x, name), (x,), (dy,))[1], dy)
    half = jax.grad(lambda x: jnp.sum(conversion.round_to(x, name)))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16

    def scanned(x):
        return jnp.sum(jax.lax.scan(lambda carry, row: (carry, conversion.round_to(row, name)), 0, x)[1] * dy)

    np.testing.assert_array_equal(jax.grad(scanned)(x), dy)


def test_the_derivative_under_shard_map():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    x = jax.random.normal(jax.random.key(0), (4, 64))
    spec = P("x", "y")
    rounded = jax.shard_map(lambda x: conversion.round_to(x, "bfp4"), mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_array_equal(rounded(x), conversion.round_to(x, "bfp4"))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(rounded(x) * x))(x), rounded(x) + x)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_wrong_names_list_the_nearest_valid_ones():
    with pytest.raises(ValueError, match=r"unknown format 'bpf8'; valid: bfp8"):
        formats.get_format("bpf8")
    with pytest.raises(ValueError, match="valid: bfp8, bfp4, bfp2, bf16, fp32"):
        formats.get_format("?")
    with pytest.raises(ValueError, match="unknown rounding 'devise'; valid: device"):
        conversion.quantize(jnp.ones(16), "bfp8", "devise")
    assert formats.get_format(formats.FORMATS["bfp4"]) is formats.FORMATS["bfp4"]


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16 values, got int32"):
        conversion.round_to(jnp.arange(16), "bfp8")
    with pytest.raises(ValueError, match="at least one axis"):
        conversion.quantize(jnp.float32(1), "bfp8")
    with pytest.raises(ValueError, match="not float16"):
        conversion.dequantize(conversion.quantize(jnp.ones(16), "bfp8"), jnp.float16)
    with pytest.raises(ValueError, match="not a block format"):
        _ = formats.FORMATS["bf16"].codes_per_byte


@pytest.mark.parametrize("convert", [conversion.quantize, conversion.round_to])
@pytest.mark.parametrize("check_vma", [True, False])
def test_a_shard_that_cuts_a_block_is_refused(convert, check_vma):
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    spec = jax.sharding.PartitionSpec(None, "tp")

    def sharded(width, rounding="host"):
        function = jax.shard_map(
            lambda x: conversion.dequantize(convert(x, "bfp8", rounding)),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=check_vma,
        )
        return function(jnp.linspace(-3, 3, 2 * width).reshape(2, width))

    np.testing.assert_array_equal(sharded(64), conversion.round_to(jnp.linspace(-3, 3, 128).reshape(2, 64), "bfp8"))
    with pytest.raises(ValueError, match="cuts a block of 16"):
        sharded(4 * 24)
    assert sharded(4 * 24, "device").shape == (2, 96)  # each device pads its own tiles
