"""The fast model beside the device's rules written again, in whole numbers, on inputs that break floats."""

import itertools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.numerics import elementwise
from ttsim.numerics.packer import pack
from ttsim.numerics.reference import datapath, vector_functions

# bf16 patterns: zeros, denormals, the smallest and largest normals, ties of every rounding, infinities, NaNs.
_MAGNITUDES = (
    *(0x0000, 0x0001, 0x007F, 0x0080, 0x0081, 0x00FF, 0x0100, 0x0580, 0x05FF, 0x3F7F, 0x3F80, 0x3F81, 0x3FFF),
    *(0x3B80, 0x3B7F, 0x3A80, 0x3B01, 0x4000, 0x4040, 0x7E80, 0x7F00, 0x7F7F, 0x7F80, 0x7F81, 0x7FC0),
)
PATTERNS = np.array([sign | pattern for sign in (0, 0x8000) for pattern in _MAGNITUDES], np.uint32)


def floats(patterns):
    return (np.asarray(patterns, np.uint32) << 16).view(np.float32)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def _half_away(magnitude: Fraction) -> int:
    return int(magnitude + Fraction(1, 2))  # truncates: magnitudes are positive


def _bf16(value: Fraction) -> int:
    """Pattern of a value: 8 significant bits, half away from zero; no denormal, no -0, infinity from 2**128 on."""
    if value == 0:
        return 0
    magnitude, exponent = abs(value), 0
    while magnitude >= 2 ** (exponent + 1):
        exponent += 1
    while magnitude < Fraction(2) ** exponent:
        exponent -= 1
    significand = _half_away(magnitude / Fraction(2) ** (exponent - 7))
    if significand == 256:
        significand, exponent = 128, exponent + 1
    if exponent + 127 <= 0:
        return 0
    pattern = 0x7F80 if exponent + 127 >= 255 else (exponent + 127) << 7 | (significand & 0x7F)
    return pattern | (0x8000 if value < 0 else 0)


def _parts(pattern: int) -> tuple[int, int, int]:
    """Sign, exponent and the significand of 11 bits that a source register has; exponent 255 is one more binade."""
    exponent = pattern >> 7 & 0xFF
    return -1 if pattern & 0x8000 else 1, exponent, ((pattern & 0x7F) | 0x80) << 3 if exponent else 0


def _sum(a: int, b: int) -> int:
    (sign_a, exponent_a, x), (sign_b, exponent_b, y) = _parts(a), _parts(b)
    largest = max(exponent_a, exponent_b)
    x = sign_a * _half_away(Fraction(x, 2 ** (largest - exponent_a)))
    y = sign_b * _half_away(Fraction(y, 2 ** (largest - exponent_b)))
    return _bf16((x + y) * Fraction(2) ** (largest - 137))


def test_sums_of_all_pairs():
    pairs = np.array(list(itertools.product(PATTERNS, PATTERNS)), np.uint32)
    ours = bits(elementwise.add(jnp.asarray(floats(pairs[:, 0])), jnp.asarray(floats(pairs[:, 1])))) >> 16
    expected = [_sum(int(a), int(b)) for a, b in pairs]
    np.testing.assert_array_equal(ours, expected)


def test_matrix_unit_sums_are_the_same_as_one_product_with_one():
    """x + y is [x, y] @ [1, 1] in one step of 16-bit registers, where nothing is lost in the products' groups."""
    x, y = np.meshgrid(floats(PATTERNS), floats(PATTERNS))
    zero = np.zeros_like(x.ravel())
    lanes = np.stack([x.ravel(), *[zero] * 7, y.ravel(), *[zero] * 7], axis=1)  # one operand a group of 8
    ones = np.ones((16, 1), np.float32)
    dst = np.zeros((len(lanes), 1), np.float32)
    with np.errstate(invalid="ignore"):
        unit = datapath.mvmul(lanes, ones, dst, 0, fp32_dest=False)
    # Phase 0 has 7 of the 8 significant bits of bf16; take the operands for which that is all.
    short = ((bits(x.ravel()) | bits(y.ravel())) & 0x10000) == 0
    ours = bits(elementwise.add(jnp.asarray(x.ravel()), jnp.asarray(y.ravel())))
    np.testing.assert_array_equal(bits(unit)[short, 0], ours[short])


def _block(patterns, width: int, precise: bool) -> list[float]:
    """A block of the packer: to 6 fraction bits unless precise, half away to 7 bits of the largest, then cut."""
    halves = []
    for pattern in patterns:
        magnitude = min(int(pattern) & 0x7FFF, 0x7F80)  # NaN is infinity
        magnitude = 0 if magnitude < 0x80 else magnitude  # denormals are zero
        halves.append(magnitude if precise else (magnitude + 1) & 0x7FFE)
    largest = max(half >> 7 for half in halves)
    values = []
    for pattern, half in zip(patterns, halves, strict=True):
        exact = Fraction((half & 0x7F | 0x80) if half >> 7 else 0, 2 ** (largest - (half >> 7) + 1))
        magnitude = min(_half_away(exact), 127) >> (7 - width)
        sign = -1 if int(pattern) & 0x8000 else 1
        values.append(sign * magnitude * 2.0 ** (largest - 126 - width) if magnitude else 0.0)
    return values


@pytest.mark.parametrize(("fmt", "width"), [("bfp8", 7), ("bfp4", 3), ("bfp2", 1)])
def test_blocks(fmt, width):
    """Equal values, one huge value among tiny ones, ties, signs, zeros, denormals."""
    generator = np.random.default_rng(3)
    usable = PATTERNS[((PATTERNS >> 7) & 0xFF < 250) & (((PATTERNS >> 7) & 0xFF == 0) | ((PATTERNS >> 7) & 0xFF > 8))]
    rows = [np.full(16, pattern) for pattern in usable]
    rows += [generator.choice(usable, 16) for _ in range(300)]
    exponents = generator.integers(110, 135, (300, 16)) << 7
    rows += list(exponents | generator.integers(0, 128, (300, 16)) | generator.integers(0, 2, (300, 16)) << 15)
    blocks = np.array(rows, np.uint32)
    expected = np.array([_block(block, width, precise=False) for block in blocks], np.float32)
    np.testing.assert_array_equal(bits(pack(jnp.asarray(floats(blocks)), fmt)), bits(expected))


def test_silu_of_every_bf16_value():
    """The fast one beside the one that rounds every step: equal but for the last place of few values."""
    x = jnp.asarray(floats(np.arange(65536)))
    fast = bits(pack(elementwise.silu(x), "bf16")).astype(np.int64) >> 16
    exact = bits(pack(vector_functions.silu(x, fp32_dest=False), "bf16")).astype(np.int64) >> 16
    assert np.abs(fast - exact).max() <= 1
    assert (fast != exact).mean() < 2e-3


def test_the_approximate_exponential_of_every_bf16_value():
    x = jnp.asarray(floats(np.arange(65536)))
    np.testing.assert_array_equal(
        bits(elementwise.approximate_exponential(x)),
        bits(vector_functions.exponential(x, fp32_dest=True, approximate=True)),
    )
