"""The accuracy estimate: order of precisions, the closed form against sampling, the published rows, bad input."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest

from ttsim.accuracy.estimated import estimate_accuracy, load_constants
from ttsim.accuracy.flips import contested, kept
from ttsim.accuracy.step_noise import Noise, noise_on
from ttsim.hardware.constants import prior_constants
from ttsim.meshes.lookup import get_system
from ttsim.models.presets import PRESETS
from ttsim.numerics import fidelity
from ttsim.numerics.noise import destination_roundings, rounding
from ttsim.numerics.noise import fidelity as fidelity_noise
from ttsim.precision.presets import preset
from ttsim.precision.text import SETTINGS
from ttsim.precision.values import Precision
from ttsim.proof import fit_accuracy as calibration
from ttsim.proof import published as tables
from ttsim.proof import reproduce
from ttsim.proof.published_tables import parse_markdown
from ttsim.proof.rows import estimate_row
from ttsim.ui.reproduce_page import document, published_layout

# The closed form


@pytest.mark.parametrize("r", [0.1, 0.4, 0.8, 1.1])
def test_kept_matches_sampling(r):
    """Logits of a Poisson process are spaced by Exp(1) / rank; perturb them and look at the choice."""
    rng = np.random.default_rng(0)
    draws, tokens = 40_000, 60
    gaps = rng.exponential(size=(draws, tokens)) / np.arange(1, tokens + 1)
    logits = np.concatenate([np.zeros((draws, 1)), -np.cumsum(gaps, axis=1)], axis=1)
    choice = (logits + r * rng.standard_normal(logits.shape)).argmax(1)
    first, five = kept(r)
    assert first == pytest.approx((choice == 0).mean(), abs=0.008)
    assert five == pytest.approx((choice < 5).mean(), abs=0.008)


def test_kept_without_noise_and_in_noise():
    first, five = kept(np.array([0.0, 0.01, 0.1, 1.0, 8.0]))
    assert first[0] == five[0] == 1
    assert (np.diff(first) < 0).all()
    assert (np.diff(five) <= 0).all()
    assert (five >= first).all()
    assert (first >= 0).all()


# Physics


def test_fp32_keeps_every_choice():
    e = estimate_accuracy("Llama3.2-1B", "fp32")
    assert (e.top1, e.top5) == (100, 100)
    assert e.top1_sigma > 0


@pytest.mark.parametrize("model", PRESETS)
def test_presets_are_in_order(model):
    performance, accuracy, bf16 = (estimate_accuracy(model, name) for name in ("performance", "accuracy", "bf16"))
    assert performance.top1 <= accuracy.top1 <= bf16.top1 <= 100
    assert performance.top5 <= accuracy.top5 <= bf16.top5 <= 100
    assert all(e.top1 <= e.top5 for e in (performance, accuracy, bf16))


@pytest.mark.parametrize("group", ["ff1_3", "ff2", "wqkv", "wo", "kv_cache", "activation", "lm_head", "logits"])
def test_fewer_bits_flip_more(group):
    formats = ("bf16", "bfp8", "bfp4")
    found = [estimate_accuracy("Llama3.1-8B", Precision().replace(**{group: fmt})).top1 for fmt in formats]
    assert found[0] > found[1] > found[2]


def noise(precision, device="N150", model="Llama3.1-8B"):
    return noise_on(PRESETS[model], get_system(device), precision)


def test_one_layer_of_many_counts_for_its_share():
    config, base = PRESETS["Llama3.1-8B"], preset("accuracy", "Llama3.1-8B")
    one, all_ = (noise(p).mlp for p in (base.replace_layer(31, ff1_3="bfp4"), base.replace(ff1_3="bfp4")))
    plain = noise(base).mlp
    assert (one - plain) / (all_ - plain) == pytest.approx(1 / config.num_layers)


def test_noise_of_a_layer_by_hand():
    """The rules of the ops, summed over the program: each rounding once where the program rounds."""
    p = Precision().replace(ff1_3="bfp4", li_ff1_3="lofi", ff2="bfp8", li_ff2="hifi4", activation="bf16")
    layer = p.layer(0)
    out, bfp8 = rounding(layer.linear_out).power, rounding("bfp8").power
    gate = rounding("bfp4").power + fidelity_noise("lofi", "bfp4").power + out
    product = rounding(layer.mlp_product).power
    down = bfp8 + fidelity_noise("hifi4", "bfp8").power + out
    assert noise(p).mlp == pytest.approx(2 * gate + product + down + rounding(layer.residual).power)


def test_variance_of_a_logit_by_hand():
    """Three fitted gains, the LM head's of 40, and the logits' own variance, which is in the unit already."""
    gains = {"mlp_gain": 2.0, "attention_gain": 3.0, "dst16_variance": 5.0}
    assert Noise(mlp=0.1, attention=0.2, dst16=7.0, head=0.5, logits=0.25).variance(gains) == pytest.approx(
        2 * 0.1 + 3 * 0.2 + 5 * 7 + 40 * 0.5 + 0.25
    )


def test_collectives_of_a_galaxy_round():
    base = preset("accuracy", "Llama3.1-8B")
    one, galaxy = noise(base), noise(base, "TG")
    assert galaxy.mlp > one.mlp
    assert galaxy.attention > one.attention
    assert noise(base, "T3K").mlp > one.mlp  # w2's partial sums are scattered


def test_the_host_packs_weights_and_the_device_the_rest():
    """Noise of activations is the device packer's, that of weights the host's: 6.1e-5 and 5.3e-5 for bfp8."""
    ours, other = (Precision().replace(ff2=fmt, li_ff2="hifi4") for fmt in ("bfp8", "bf16"))
    assert noise(ours).mlp - noise(other).mlp == pytest.approx(rounding("bfp8").power - rounding("bf16").power)
    ours, other = (Precision().replace(kv_cache=fmt) for fmt in ("bfp8", "bf16"))
    packed = rounding("bfp8", "device").power - rounding("bf16", "device").power
    assert noise(ours).attention - noise(other).attention == pytest.approx(2 * packed)


def test_every_setting_has_its_noise():
    for setting in SETTINGS:
        assert noise(Precision().replace(li_ff1_3=setting, li_lm_head=setting)).mlp > 0
        known = fidelity.SETTINGS[setting]
        phases = 0 if known.fp32_dest or known.fidelity is None else known.fidelity.value
        assert destination_roundings(setting) == phases / 2


def test_confidence_decides():
    sure, unsure = (estimate_accuracy("Llama3.1-8B", confidence=c).top1 for c in ((98.0, 99.5), (60.0, 80.0)))
    assert sure > 96 > unsure
    assert estimate_accuracy("Llama3.1-8B", confidence=100.0).top1 == 100


def test_sampling_error_shrinks_with_positions():
    full, early = (estimate_accuracy("Llama3.1-8B", positions=n) for n in (511, 128))
    assert full.top1_sigma == pytest.approx(100 * math.sqrt(0.9 * 0.1 / 511), rel=0.1)
    assert early.top1_sigma > 1.5 * full.top1_sigma


# Range and words


def test_unknown_confidence_is_marked():
    config = dataclasses.replace(PRESETS["Llama3.1-8B"], name="my-8B")
    e = estimate_accuracy(config)
    assert not e.in_range
    assert "unknown" in e.notes[0]
    assert e.top1 == pytest.approx(estimate_accuracy("Llama3.1-8B").top1, abs=0.01)
    assert str(e).endswith("out of range")
    assert "estimated" in str(e)
    assert "\n" not in str(e)


def test_published_models_are_in_range():
    assert all(estimate_row(row).in_range for row in calibration.measured_rows())
    noisy = Precision().replace(ff1_3="bfp4", ff2="bfp4", wqkv="bfp4", kv_cache="bfp4")
    assert not estimate_accuracy("Llama3.1-8B", noisy).in_range
    assert "less noisy" in estimate_accuracy("Llama3.1-8B", "bf16").notes[0]
    assert estimate_accuracy("Llama3.1-8B", "fp32").in_range


def test_a_device_s_collectives_count():
    alone, ring, galaxy = (estimate_accuracy("Llama3.1-8B", device=device).top1 for device in (None, "T3K", "TG"))
    assert alone > ring > galaxy > alone - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "Llama3.1-9B"}, "Llama3.1-8B"),
        ({"precision": "performence"}, "performance"),
        ({"positions": 0}, "positions must be at least 1"),
        ({"confidence": 120.0}, "confidence"),
        ({"confidence": (80.0, 70.0)}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        estimate_accuracy(**{"model": "Llama3.1-8B", **arguments})
    assert "\n" not in str(caught.value)


# The published rows


def test_in_sample_errors():
    errors = calibration.errors(load_constants())
    assert len(errors) == 57  # 87 / 99 of 90B is the 11B row's figure
    top1, top5 = np.abs([(e.top1, e.top5) for e in errors]).mean(0)
    assert top1 <= 1.45
    assert top5 <= 0.8


def test_sweep_order():
    sweep = tables.select(tables.published(), table="sweep")
    estimated = [estimate_row(row).top1 for row in sweep]
    assert calibration.rank_correlation(estimated, [row.top1 for row in sweep]) >= 0.7


def test_model_outside_the_tables():
    estimated = np.array(calibration.smollm2(load_constants()))
    measured = np.array(calibration.SMOLLM2_MEASURED)
    assert np.abs(estimated - measured).mean(0) == pytest.approx([1.5, 0.5], abs=0.5)
    assert calibration.rank_correlation(estimated[:, 0], measured[:, 0]) > 0.9
    assert not estimate_accuracy(calibration.SMOLLM2, confidence=calibration.SMOLLM2_CONFIDENCE).in_range


def test_stored_constants_are_the_fit():
    stored = load_constants()
    fitted = calibration.fit()[0]
    assert set(stored) == set(calibration.PRIORS) == set(fitted)
    assert len(stored) <= 6
    for name, value in fitted.items():
        assert stored[name] == pytest.approx(value, rel=0.02), name


def test_contested_share_is_bounded():
    for confidence in ((0.0, 50.0), (67.3, 83.2), (100.0, 100.0)):
        assert 0 <= contested(confidence, load_constants()) <= 1


# reproduce


@pytest.fixture(scope="module")
def items():
    rows = tables.select(tables.published(), table=("performance", "batch-32"), model="Llama3.2-1B", device="N300")
    return reproduce.reproduce(rows, constants=prior_constants())


def test_records_keep_their_keys_and_append_the_estimates(items):
    keys = list(json.loads(document(items).render("json"))["rows"][0])
    assert keys == list(reproduce.KEYS)
    assert keys[11:] == ["top1_published", "top5_published", "notes", "top1", "top5", "top1_kind", "top5_kind"]
    assert next(csv.reader(io.StringIO(document(items).render("csv")))) == keys
    record = items[0].record()
    assert record["top1_kind"] == record["top5_kind"] == "estimated"
    assert record["top1"] == pytest.approx(items[0].accuracy.top1, abs=0.01)


def test_text_labels_estimates_and_fits(items):
    out = document(items).render("text", 120)
    assert max(map(len, out.splitlines())) <= 120
    assert f"~{items[0].accuracy.top1:.1f}±" in out
    assert "in-sample" in out
    assert "estimated without weights" in out


def test_markdown_has_rounded_estimates(items):
    rows = parse_markdown(published_layout(items))
    assert rows[0].top1 == round(items[0].accuracy.top1)
    assert rows[1].top1 is None  # batch-32 has no such column


def test_accuracy_summary_is_in_points(items):
    summary = json.loads(document(items).render("json"))["summary"]
    all_rows = summary["top1"]["all"]["all"]
    assert all_rows["rows"] == 1
    assert all_rows["bias"] == pytest.approx(items[0].accuracy.top1 - items[0].row.top1)
