"""Roundings inside the device ops that a whole model hides: each by the rule that says where it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops
from ttsim.meshes.lookup import get_system
from ttsim.numerics import elementwise, switches
from ttsim.numerics.conversion import round_to

spec = jax.sharding.PartitionSpec


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_weights_of_attention_are_bf16_and_the_sum_divides_last():
    """Values that are unit vectors read the weights of attention: bf16 tiles times a bf16 tile of 1 / sum."""
    q, keys = round_to(normal(0, 1, 1, 32), "bf16"), round_to(normal(1, 1, 1, 32, 32), "bf16")
    read = {"setting": "hifi4", "kv_format": "bf16", "out_format": "fp32"}
    weights = ops.sdpa_decode(q, keys, jnp.eye(32)[None, None], jnp.array([31]), **read)[0, 0]
    scores = round_to(jnp.einsum("d,sd->s", q[0, 0], keys[0, 0], precision="highest"), "bf16") / 32**0.5
    heaviness = round_to(jnp.exp(scores - scores.max()), "bf16", "device")
    inverse = round_to(1 / round_to(heaviness.sum(), "bf16", "device"), "bf16", "device")
    np.testing.assert_array_equal(weights, heaviness * inverse)
    np.testing.assert_allclose(weights, jax.nn.softmax(scores), rtol=2**-6)


def test_rotary_tables_are_scaled_before_they_are_rounded():
    positions, frequencies = jnp.arange(40), jnp.array([1.0, 0.1, 0.01, 0.001])
    cos, sin = ops.rotary_tables(positions, frequencies, scaling=1.19, format="bf16")
    angles = positions[:, None] * frequencies[None]
    np.testing.assert_array_equal(cos, round_to(jnp.cos(angles) * 1.19, "bf16"))
    np.testing.assert_array_equal(sin, round_to(jnp.sin(angles) * 1.19, "bf16"))
    assert not np.array_equal(cos, round_to(round_to(jnp.cos(angles), "bf16") * 1.19, "bf16"))


def test_rotary_keeps_its_products_as_bf16():
    x, angle = round_to(normal(2, 8, 16), "bf16"), normal(3, 8, 8)
    cos, sin = round_to(jnp.cos(angle), "bf16"), round_to(jnp.sin(angle), "bf16")

    def packed(x):
        return round_to(x, "bf16", "device")

    even, odd = x[:, ::2], x[:, 1::2]
    expected = elementwise.add(packed(even * cos), packed(-odd * sin))
    rotated = ops.rotary(x, cos, sin, out_format="bf16")
    np.testing.assert_array_equal(rotated[:, ::2], expected)
    with switches.using("masked"):
        plain = ops.rotary(x, cos, sin, out_format="bf16")
    np.testing.assert_array_equal(plain[:, ::2], packed(even * cos - odd * sin))
    assert not np.array_equal(plain, rotated)


def on_four_chips(function, parts):
    """function of each chip's part, on four chips in a ring; parts: [4, rows, columns]."""
    mesh = get_system("T3K", 2).mesh()
    axis = mesh.axis_names[-1]
    mapped = jax.shard_map(
        lambda x: function(x[0], axis)[None], mesh=mesh, in_specs=spec(axis), out_specs=spec(axis), check_vma=False
    )
    return np.asarray(mapped(parts))


@pytest.mark.parametrize("fmt", ["bf16", "bfp8"])
def test_a_reduce_scatter_packs_at_every_hop(fmt):
    """Slice i begins at chip i + 1 and is packed as often as it is sent on."""
    parts = round_to(normal(4, 4, 8, 128), fmt)
    got = on_four_chips(lambda x, axis: ops.reduce_scatter(x, axis=axis, dim=1, format=fmt), parts)
    for chip in range(4):
        columns = slice(32 * chip, 32 * chip + 32)
        total = parts[(chip + 1) % 4, :, columns]
        for hop in (2, 3, 4):
            total = round_to(elementwise.add(total, parts[(chip + hop) % 4, :, columns]), fmt, "device")
        np.testing.assert_array_equal(got[chip], total)
    with switches.using("masked"):
        once = on_four_chips(lambda x, axis: ops.reduce_scatter(x, axis=axis, dim=1, format=fmt), parts)
    exact = np.asarray(parts, np.float64).sum(0)
    errors = [np.std(np.concatenate(list(sums), axis=1) - exact) for sums in (got, once)]
    assert errors[0] > 1.2 * errors[1]


def test_an_all_reduce_rounds_its_sum():
    parts = round_to(normal(5, 4, 8, 128), "bf16")
    got = on_four_chips(lambda x, axis: ops.all_reduce(x, axis=axis, format="bfp8"), parts)
    exact = parts.sum(0)
    np.testing.assert_array_equal(got[0], round_to(exact, "bfp8", "device"))
    assert not np.array_equal(got[0], exact)
    assert all(np.array_equal(copy, got[0]) for copy in got)


def test_a_composite_all_reduce_is_a_reduce_scatter_and_a_gather():
    parts = round_to(normal(6, 4, 8, 128), "bf16")
    whole = on_four_chips(lambda x, axis: ops.all_reduce(x, axis=axis, format="bf16", composite=True), parts)
    slices = on_four_chips(lambda x, axis: ops.reduce_scatter(x, axis=axis, dim=1, format="bf16"), parts)
    np.testing.assert_array_equal(whole[2], np.concatenate(list(slices), axis=1))


def test_typecast_packs_bfp4_as_every_other_op():
    """Only bfp8 has the packer's precise mode."""
    x = round_to(normal(7, 32, 64), "bf16")
    for fmt, rounding in (("bfp8", "device_precise"), ("bfp4", "device")):
        cast = ops.typecast(x, in_format="bf16", out_format=fmt)
        np.testing.assert_array_equal(cast, round_to(x, fmt, rounding))
        other = "device" if fmt == "bfp8" else "device_precise"
        assert not np.array_equal(cast, round_to(x, fmt, other))


def test_switches():
    assert switches.current() is switches.DEVICE
    with switches.using("masked"):
        assert switches.current() is switches.MASKED
    with pytest.raises(ValueError, match="numerics"):
        switches.using("maskd")
