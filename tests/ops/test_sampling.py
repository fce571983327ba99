"""Tokens chosen by top-k are those of an argmax; what top-k costs follows width, chips and software."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttsim
from ttsim import ops as tt
from ttsim.hardware.software import software_of
from ttsim.scenarios.scenario import Scenario


@pytest.mark.parametrize("ties", ["first", "last"])
def test_topk_and_choose_are_an_argmax(ties):
    rows = jax.random.randint(jax.random.key(0), (8, 96), 0, 5).astype(jnp.float32)
    values, indices = tt.topk(rows, k=96, vocab_size=90)
    chosen = tt.choose(values, indices, ties=ties)
    np.testing.assert_array_equal(chosen, tt.argmax(rows[:, :90], ties=ties))


def test_padding_of_the_vocabulary_is_never_chosen():
    rows = jnp.zeros((2, 64)).at[:, 60].set(9.0).at[0, 3].set(1.0)
    values, indices = tt.topk(rows, k=4, vocab_size=50)
    np.testing.assert_array_equal(tt.choose(values, indices), [3, 0])


@pytest.mark.parametrize(
    ("date", "columns", "chips", "width", "many"),
    [
        ("2025-11-05", 16_032, 8, 16_032, True),
        ("2026-01-26", 16_032, 8, 16_032, False),  # no power of two: one core
        ("2026-03-24", 16_032, 8, 16_384, True),  # padded
        ("2026-03-24", 128_256, 1, 64_128, False),  # two halves of one chip are not padded
        ("2025-11-05", 8_192, 8, 8_192, True),
        ("2025-11-05", 8_160, 8, 8_160, False),  # too narrow for many cores
        ("2025-11-05", 65_536, 8, 65_536, False),  # too wide
    ],
)
def test_the_width_of_a_top_k(date, columns, chips, width, many):
    box = "T3K" if chips == 8 else "N150"
    software = software_of(datetime.date.fromisoformat(date), boxes=(box, "wormhole"))
    assert software.topk_width(columns, chips) == (width, many)


@pytest.mark.parametrize(
    ("date", "stack", "vocab", "chips", "batch", "expected"),
    [
        ("2025-05-12", "tt_transformers", 128_256, 8, 1, "device"),
        ("2025-05-12", "tt_transformers", 128_256, 8, 32, "host"),
        ("2025-05-12", "vllm", 128_256, 8, 1, "host"),
        ("2025-12-01", "tt_transformers", 128_256, 1, 1, "topk"),
        ("2025-12-01", "tt_transformers", 151_936, 1, 1, "host"),  # a half is wider than 65,536
        ("2026-08-01", "tt_transformers", 151_936, 1, 32, "device"),
    ],
)
def test_who_chooses(date, stack, vocab, chips, batch, expected):
    software = software_of(date, stack, boxes=("T3K" if chips == 8 else "N150", "wormhole"))
    assert software.sampler(vocab, chips, batch) == expected


def test_the_program_holds_the_ops_that_the_date_has():
    def ops(date):
        return [call.name for call, _ in Scenario.of("Llama3.2-1B", "N300", date=date).decode_program.ops()]

    before, after = ops("2025-10-01"), ops("2025-12-01")
    assert "argmax" in before
    assert "topk" not in before
    assert {"topk", "choose"} <= set(after)
    assert not {"argmax", "untilize"} & set(after)


def test_one_blackhole_chip_has_its_published_speed_before_and_after_forced_argmax():
    """22 and 38.5 t/s/u of Llama-3.1-8B on P150: tt-metal PR #48886."""
    dates = ("2025-11-10", "2026-07-02", "2026-07-03")
    first, before, after = (ttsim.simulate("Llama3.1-8B", "P150", date=date).speed for date in dates)
    assert first == pytest.approx(22, rel=0.05)
    assert before == pytest.approx(22, rel=0.03)
    assert after == pytest.approx(38.5, rel=0.03)
