"""Precision values: tt_transformers' defaults and presets by date, the option text, the decoder JSON, errors."""

import dataclasses
import json
import subprocess
import sys

import pytest

from ttsim.errors import unknown
from ttsim.precision.presets import base_model_name, default_precision, preset, resolve
from ttsim.precision.slots import abstract_precision
from ttsim.precision.text import EXPERT_GROUPS, LAYER_GROUPS, OP_GROUPS, TENSOR_GROUPS, decoders_from_json
from ttsim.precision.values import LayerPrecision, Precision

# The first and the tenth published sweep sections.
SWEEP_0 = (
    "precision_cfg = {ff1_3: bfp4, ff2: bfp4, wqkv: bfp8, wo: bfp8, kv_cache: bfp8, activation: mixed}, "
    "fidelity_cfg = {li_ff1_3: lofi, li_ff2: lofi, li_qkv_decode: hifi2, li_o_decode: hifi2, sdpa_decode: hifi2na, "
    "li_qkv_prefill: hifi2, li_o_prefill: hifi2fp16, sdpa_prefill: hifi4}"
)
SWEEP_9 = (
    "precision_cfg = {ff1_3: bfp8, ff2: bfp8, wqkv: bfp8, wo: bfp4, kv_cache: bfp8, activation: bf16}, "
    "fidelity_cfg = {li_ff1_3: hifi2, li_ff2: hifi2, li_qkv_decode: hifi2, li_o_decode: lofi, sdpa_decode: hifi2na, "
    "li_qkv_prefill: hifi2, li_o_prefill: lofi, sdpa_prefill: hifi4}"
)
MIXED = (
    Precision().replace(lm_head="bf16").replace_layer(31, ff1_3="bf16", activation="bfp8").replace_layer(2, wo="bfp4")
)


def test_valid_names_keep_their_order_after_those_that_may_be_meant():
    groups = ("wqkv", "wo", "ff1_3", "ff2")
    assert str(unknown("group", "foo", groups)).endswith("valid: wqkv, wo, ff1_3, ff2")
    assert str(unknown("group", "fff2", groups)).endswith("valid: ff2, wqkv, wo, ff1_3")
    assert str(unknown("group", "foo", set(groups))).endswith("valid: ff1_3, ff2, wo, wqkv")


def test_groups_are_the_fields_in_published_order():
    assert tuple(f.name for f in dataclasses.fields(LayerPrecision)) == LAYER_GROUPS
    assert LAYER_GROUPS == TENSOR_GROUPS + OP_GROUPS + EXPERT_GROUPS


@pytest.mark.parametrize("text", [SWEEP_0, SWEEP_9])
def test_text_is_letter_for_letter_the_published_title(text):
    assert str(Precision.parse(text)) == text


@pytest.mark.parametrize(
    "p",
    [
        Precision(),
        MIXED,
        preset("bf16", "any"),
        preset("fp32", "any"),
        preset("performance", "Llama3.1-8B", "2025-06-01"),
    ],
    ids=["default", "mixed", "bf16", "fp32", "decoder-31"],
)
def test_text_round_trip(p):
    assert Precision.parse(p.to_text()) == p


def test_text_says_only_what_the_published_parts_cannot():
    assert "model_cfg" not in str(Precision())
    assert str(MIXED).endswith(
        "sdpa_prefill: hifi4}, model_cfg = {lm_head: bf16}, "
        "decoder_2 = {wo: bfp4}, decoder_31 = {ff1_3: bf16, activation: bfp8}"
    )


def test_missing_keys_keep_the_base():
    p = Precision.parse("fidelity_cfg={LI_FF2: HIFI4}", base=Precision().replace(wo="bf16"))
    assert p == Precision().replace(wo="bf16", li_ff2="hifi4")
    assert Precision.parse("precision_cfg = {}") == Precision()


def test_overrides_are_sparse_and_equal_values_hash_equal():
    by_hand = Precision(layers=((3, LayerPrecision(wo="bf16")), (1, LayerPrecision()), (0, LayerPrecision(ff2="bfp4"))))
    assert [i for i, _ in by_hand.layers] == [0, 3]
    same = Precision().replace_layer(3, wo="bf16").replace_layer(0, ff2="bfp4")
    assert by_hand == same
    assert hash(by_hand) == hash(same)
    assert by_hand.layer(1) == by_hand.default == LayerPrecision()
    assert by_hand.layer(3).wo == "bf16"


def test_replace_reaches_every_layer():
    p = MIXED.replace(kv_cache="bf16", logits="bf16")
    assert {p.layer(i).kv_cache for i in range(32)} == {"bf16"}
    assert p.layer(31).ff1_3 == "bf16"
    assert (p.lm_head, p.logits) == ("bf16", "bf16")


def test_runs_cover_all_layers():
    assert [(start, stop) for start, stop, _ in MIXED.runs(32)] == [(0, 2), (2, 3), (3, 31), (31, 32)]
    assert Precision().runs(16) == ((0, 16, LayerPrecision()),)
    with pytest.raises(ValueError, match="31 has its own precision, but there are 16 layers"):
        MIXED.runs(16)


def test_activation_names_what_the_device_rounds():
    mixed, bf16, fp32 = (LayerPrecision(activation=a) for a in ("mixed", "bf16", "fp32"))
    names = ("residual", "linear_out", "mlp_product", "prefill_q", "prefill_wo_out", "rope_in")
    assert [getattr(mixed, n) for n in names] == ["bf16", "bf16", "bfp8", "bfp8", "bfp8", "bf16"]
    assert {getattr(bf16, n) for n in names} == {"bf16"}
    assert {getattr(fp32, n) for n in names} == {"fp32"}
    assert LayerPrecision(activation="bfp8").rope_in == "bf16"


# Presets


def test_performance_is_bfp4_in_ff1_and_ff3_only():
    assert preset("performance", "Llama3.2-1B") == Precision().replace(ff1_3="bfp4", li_ff1_3="lofi")


@pytest.mark.parametrize("model", ["Llama3.1-70B", "Llama3.2-90B", "Qwen2.5-72B", "DeepSeek-R1-Distill-Llama-70B"])
def test_accuracy_of_the_70b_class_is_performance(model):
    assert preset("accuracy", model) == preset("performance", model)


@pytest.mark.parametrize(
    "model", ["Llama3.2-1B", "Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-11B-Vision", "mistral-7b"]
)
def test_accuracy_of_llama_and_mistral_is_the_default(model):
    assert preset("accuracy", model) == Precision()


def test_other_models_have_bf16_attention():
    attention = Precision().replace(
        **dict.fromkeys(("wqkv", "wo", "kv_cache"), "bf16"),
        **dict.fromkeys((g for g in OP_GROUPS if g not in ("li_ff1_3", "li_ff2")), "hifi4"),
    )
    assert preset("accuracy", "Phi3.5-mini") == preset("accuracy", "Qwen2.5-7B") == attention
    assert preset("performance", "Qwen2.5-7B") == attention


def test_presets_of_older_software():
    march = preset("performance", "Llama3.2-1B", "2025-03-17")
    assert march == Precision.parse(SWEEP_0.replace("ff2: bfp4", "ff2: bfp8").replace("li_ff2: lofi", "li_ff2: hifi2"))
    april = default_precision("2025-04-26").default
    assert (april.sdpa_decode, april.li_o_prefill, april.li_ff2) == ("hifi2na", "hifi2fp16", "hifi2fp16")
    for model in ("Phi3.5-mini", "Qwen2.5-7B", "Llama3.1-8B"):
        assert preset("accuracy", model, "2025-05-11") == default_precision("2025-05-11")
    assert preset("performance", "Qwen2.5-7B", "2025-03-17") == march
    assert preset("accuracy", "Llama3.1-70B", "2025-03-17") == march


def test_presets_of_newer_software():
    assert preset("performance", "Llama3.1-8B", "2025-05-14").layers == ()
    ((layer, p),) = preset("performance", "Llama3.1-8B", "2025-05-15").layers
    assert (layer, p.ff1_3, p.li_ff1_3) == (31, "bfp8", "hifi2fp16")
    qwen = preset("performance", "Qwen2.5-7B", "2025-06-03").default
    assert (qwen.activation, qwen.ff2, {getattr(qwen, g) for g in OP_GROUPS}) == ("bf16", "bfp8", {"hifi4"})


def test_resolve():
    assert resolve(MIXED, "Llama3.2-1B") is MIXED
    assert resolve("Performance", "Llama3.2-1B") == preset("performance", "Llama3.2-1B")
    assert str(resolve(SWEEP_9, "Llama3.2-1B")) == SWEEP_9
    assert resolve("precision_cfg = {ff2: bfp4}", "x", "2025-03-17") == default_precision("2025-03-17").replace(
        ff2="bfp4"
    )


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "Llama3.2-11B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"),
        ("microsoft/Phi-3.5-mini-instruct", "Phi3.5-mini"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-Distill-Llama-70B"),
        ("Llama3.1-8B", "Llama3.1-8B"),
    ],
)
def test_base_model_name(name, base):
    assert base_model_name(name) == base


# Decoder JSON


def test_decoder_json_round_trip(tmp_path):
    path = tmp_path / "decoders.json"
    path.write_text(MIXED.to_decoder_json(32))
    assert Precision.from_decoder_json(path, base=MIXED) == MIXED
    read = Precision.from_decoder_json(path.read_text())
    assert [read.layer(i) for i in range(32)] == [MIXED.layer(i) for i in range(32)]
    assert read.to_decoder_json(32) == MIXED.to_decoder_json(32)


def test_decoder_json_has_the_enum_names():
    decoders = json.loads(preset("performance", "Llama3.2-1B", "2025-04-01").to_decoder_json(2))["decoders"]
    assert list(decoders) == ["0", "1"]
    assert decoders["1"]["precision_cfg"] == {
        "FF1_FF3": "BFP4", "FF2": "BFP8", "WQKV": "BFP8", "WO": "BFP8", "KV_CACHE": "BFP8",
    }  # fmt: skip
    assert decoders["1"]["fidelity_cfg"] == {
        "LI_FF1_FF3": "LOFI", "LI_FF2": "HIFI2_FP16", "LI_QKV_DECODE": "HIFI2", "LI_O_DECODE": "HIFI2",
        "SDPA_DECODE": "HIFI2_NA", "LI_QKV_PREFILL": "HIFI2", "LI_O_PREFILL": "HIFI2_FP16", "SDPA_PREFILL": "HIFI4",
    }  # fmt: skip


def test_decoder_json_may_be_partial():
    source = {"decoders": {"31": {"precision_cfg": {"FF1_FF3": "BFP8"}, "fidelity_cfg": {"LI_FF1_FF3": "HIFI2_FP16"}}}}
    performance = preset("performance", "Llama3.1-8B")
    p = Precision.from_decoder_json(source, base=performance)
    assert p == preset("performance", "Llama3.1-8B", "2025-05-15")
    assert Precision.from_decoder_json(source) == Precision()


def test_decoder_json_refuses_what_tt_transformers_has_not():
    with pytest.raises(ValueError, match=r"tt_transformers has no 'fp32', the value of ff1_3; valid: bfp4, bfp8, bf16"):
        preset("fp32", "any").to_decoder_json(1)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LayerPrecision(ff2="bfp6"), "unknown format for ff2: 'bfp6'; valid: bfp4, bfp8"),
        (lambda: LayerPrecision(ff2="mixed"), "unknown format for ff2: 'mixed'"),
        (lambda: LayerPrecision(li_ff2="hifi3"), "unknown setting for li_ff2: 'hifi3'; valid: hifi2, hifi4"),
        (lambda: Precision(lm_head="int8"), "unknown format for lm_head: 'int8'"),
        (lambda: Precision().replace(ff3="bfp8"), "unknown group 'ff3'; valid: ff"),
        (lambda: Precision().replace_layer(-1, ff2="bfp4"), "decoder layer -1 is not an index"),
        (lambda: Precision.parse("precision_cfg = {ff1: bfp8}"), "unknown key in precision_cfg: 'ff1'; valid: ff1_3"),
        (lambda: Precision.parse("precision_cfg = {ff2 bfp8}"), "'ff2 bfp8' in precision_cfg is not 'group: value'"),
        (lambda: Precision.parse("precision_cfg = {ff2: bfp8, ff2: bfp4}"), "ff2 is given twice in precision_cfg"),
        (lambda: Precision.parse("precision_cf = {ff2: bfp8}"), "unknown part 'precision_cf'; valid: precision_cfg"),
        (lambda: Precision.parse("ff2: bfp8"), "not 'precision_cfg = "),
        (lambda: preset("perf", "Llama3.2-1B"), "unknown preset 'perf'; valid: performance"),
        (lambda: preset("accuracy", "Llama3.2-1B", "May 2025"), "date 'May 2025' is no day in ISO format"),
        (lambda: Precision.from_decoder_json("{"), "decoder JSON is not JSON: "),
        (lambda: Precision.from_decoder_json({"0": {}}), "a decoder JSON has the form"),
        (
            lambda: Precision.from_decoder_json({"decoders": {"0": {"precision_cfg": {"FF1": "BFP8"}}}}),
            "unknown precision_cfg key in decoder 0: 'FF1'; valid: FF1_FF3",
        ),
        (
            lambda: Precision.from_decoder_json({"decoders": {"0": {"fidelity_cfg": {"LI_FF2": "HIFI2FP16"}}}}),
            "unknown value of LI_FF2 in decoder 0: 'HIFI2FP16'; valid: HIFI2_FP16",
        ),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_the_nearest_names_first(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_importing_does_not_import_jax():
    code = "import sys, ttsim.precision.values; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_decoder_json_of_later_software_has_one_group_more():
    fidelity = {"LI_FF1_FF3": "LOFI", "ACCURACY": "HIFI4_FP32"}
    source = {"decoders": {"0": {"precision_cfg": {"FF1_FF3": "BFP4"}, "fidelity_cfg": fidelity}}}
    assert decoders_from_json(source) == {0: {"ff1_3": "bfp4", "li_ff1_3": "lofi"}}
    fidelity["ACCURACY"] = "HIFI5"
    with pytest.raises(ValueError, match="value of ACCURACY in decoder 0: 'HIFI5'"):
        decoders_from_json(source)


def test_a_layer_that_the_model_has_not_is_refused():
    precision = preset("performance", "Llama3.2-1B").replace_layer(20, ff1_3="bf16")
    with pytest.raises(ValueError, match="decoder layer 20 has its own precision, but there are 16 layers"):
        abstract_precision(precision, 16)
