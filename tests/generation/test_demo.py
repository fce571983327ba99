"""The text demo: its test ids and overrides, prompts, chat templates, the clock and its words, and the script."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttsim.cli import demo_command
from ttsim.errors import UnknownSystemError
from ttsim.generation import demo, demo_lines, demo_settings, prompts
from ttsim.generation.paging import PageParams
from ttsim.generation.prompts import Chat, Prompt, load_prompts
from ttsim.lt.state import Job
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision
from ttsim.scenarios.memory import DoesNotFitError

ROOT = Path(__file__).parents[2]
QUESTIONS = "input_data_questions_prefill_128.json"


def script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "text_demo.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


# Settings


@pytest.mark.parametrize("test", list(demo_settings.TESTS))
def test_every_id_is_a_test(test):
    assert demo_settings.parse_test(test.upper()) == (test, "performance")
    assert demo_settings.parse_test(f"accuracy and {test}") == (test, "accuracy")


def test_published_settings():
    long = demo_settings.TESTS["long-context-64k"]
    assert (long.max_seq_len, long.page_params.block_size, long.page_params.max_num_blocks) == (131_072, 64, 2048)
    assert demo_settings.TESTS["ci-32"].max_seq_len == 2000
    assert demo_settings.TESTS["DP-4-b32"].users == 128
    assert not demo_settings.TESTS["reasoning-1"].stop_at_eos


@pytest.mark.parametrize("prompt", ["a word " * 60, "é" * 200, "一" * 5000])
def test_a_prompt_longer_than_a_file_s_name_is_a_prompt(prompt):
    assert [each.text() for each in load_prompts(prompt, 1)] == [prompt]
    demo_command._check_prompts(prompt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size must be one of 1, 2, 4, 8, 16, 32, not 3"),
        ({"max_generated_tokens": 0}, "max_generated_tokens must be at least 1"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        demo_settings.settings_with("batch-1", change)


def test_options_are_dictionaries_in_json_or_python():
    base = demo_settings.TESTS["batch-1"]
    page = demo_settings.parse_page_params("{'page_block_size': 64, 'page_max_num_blocks': 16}", base.page_params)
    assert (page.block_size, page.max_num_blocks) == (64, 16)
    sampling = demo_settings.parse_sampling_params('{"temperature": 0.6}', base.sampling_params)
    assert (sampling.temperature, sampling.top_p) == (0.6, 0.08)
    for text, message in (("32", "takes a dictionary"), ('{"block": 1}', "unknown page parameter 'block'")):
        with pytest.raises(ValueError, match=message):
            demo_settings.parse_page_params(text, base.page_params)
    with pytest.raises(ValueError, match="temperature must be a number"):
        demo_settings.parse_sampling_params('{"temperature": "hot"}', base.sampling_params)


def test_lengths_are_checked_against_the_sequence_and_the_pool():
    with pytest.raises(ValueError, match="max_seq_len is 1024"):
        demo.check_lengths(demo_settings.TESTS["batch-1"], [900])
    small = demo_settings.settings_with("batch-32", {"page_params": demo_settings.PageParams(32, 128)})
    with pytest.raises(ValueError, match="out of KV-cache blocks: 318 positions for each of 32 users need 320 blocks"):
        demo.check_lengths(small, [118])


def test_decoder_file_wins_over_the_preset(tmp_path):
    path = tmp_path / "decoders.json"
    path.write_text(Precision().replace_layer(1, ff2="bfp4").to_decoder_json(16))
    precision, name = demo.demo_precision("Llama3.2-1B", "performance", str(path), 16)
    assert name == "decoders.json"
    assert precision.layer(1).ff2 == "bfp4"
    assert precision.layer(0).ff1_3 == "bfp8"
    with pytest.raises(ValueError, match="decoder layer 1 has its own precision, but there are 1 layers"):
        demo.demo_precision("Llama3.2-1B", "performance", str(path), 1)


# Prompts


def test_bundled_prompts_fill_a_batch_and_go_round():
    first = load_prompts(QUESTIONS, 32)
    assert len({prompt.prompt for prompt in first}) == 32
    assert load_prompts(QUESTIONS, 3, batch=1)[0] == first[3]
    assert len(load_prompts(QUESTIONS, 40)) == 40
    assert max(prompt.estimated_tokens() for prompt in first) <= 128


def test_prompts_come_from_files_or_the_command_line(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh")
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"prompt": "Who?", "context": str(tmp_path / "text.txt"), "max_length": 4}]))
    assert load_prompts(path, 1)[0].text() == "```abcd```\n\nWho?"
    assert load_prompts("Why?", 2) == [Prompt("Why?")] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not in the prompt format"),
        ('[{"text": "x"}]', "entry 0 of .* is not in the prompt"),
    ],
)
def test_broken_prompt_files_are_one_clear_line(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_prompts(path, 1)
    with pytest.raises(FileNotFoundError, match=r"bundled ones: input_data_long_16k\.json"):
        load_prompts("missing.json", 1)


class Letters:
    """A tokenizer of characters."""

    bos = 1

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def test_chat_template_is_the_checkpoints_own():
    pytest.importorskip("jinja2")
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = Chat(Letters(), template, frozenset({2}), {"eos_token": "."})
    assert chat.decode(chat.encode("hi")) == "[user]hi.[assistant]"
    assert chat.encode("hi", instruct=False) == [1, ord("h"), ord("i")]
    with pytest.raises(ValueError, match="no chat template: use --instruct=0"):
        Chat(Letters(), None, frozenset(), {}).encode("hi")
    refusing = Chat(Letters(), "{{ raise_exception('no system role') }}", frozenset(), {})
    with pytest.raises(prompts.CheckpointError, match="refuses the prompt: no system role"):
        refusing.encode("hi")


def test_stream_holds_back_incomplete_characters():
    class Bytes(Letters):
        def decode(self, tokens):
            return bytes(tokens).decode(errors="replace")

    shown = []
    stream = demo._Stream(Chat(Bytes(), None, frozenset(), {}), shown.append)
    for token in "aéb".encode():
        stream(0, np.array([token]), np.array([True]))
    stream(0, np.array([33]), np.array([False]))
    assert shown == ["a", "é", "b"]


# The clock


def test_clock_alone_is_what_simulate_says():
    from ttsim import simulate

    precision = preset("performance", "Llama3.2-1B")
    scenario, clock, lengths = demo.simulate_demo(demo_settings.TESTS["batch-1"], "Llama3.2-1B", "N150", precision)
    report = simulate("Llama3.2-1B", "N150", prompt_length=118)
    assert lengths == [118]
    np.testing.assert_allclose((clock.speed, clock.ttft), (report.speed, report.ttft))
    assert scenario.max_generated_tokens == 200


def test_lines_are_those_that_the_devices_log_has():
    precision = preset("performance", "Llama3.2-1B")
    _, clock, lengths = demo.simulate_demo(demo_settings.TESTS["batch-32"], "Llama3.2-1B", "N300", precision)
    lines = list(demo_lines.iteration_lines(clock, [0.5]))
    assert len(lines) == 200
    assert lines[0].endswith("tok/s throughput) | here 500 ms")
    job = Job(1, "demo", "1b", "n300")
    job.parse("\n".join([*lines, *demo_lines.summary_lines(clock, lengths)]))
    np.testing.assert_allclose((job.speed, job.ttft), (clock.speed, clock.ttft), rtol=0.02)


def test_replicas_must_divide_the_device():
    with pytest.raises(UnknownSystemError, match="N150 has 1 chips"):
        demo.simulate_demo(demo_settings.TESTS["DP-4-b1"], "Llama3.2-1B", "N150", preset("performance", "1b"))


# The script


def test_script_without_weights_says_so_in_one_line():
    done = script()
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "`ttsim fetch-model`" in done.stderr
    assert "--simulate_only" in done.stderr


def test_script_takes_the_published_flags():
    flags = """--simulate_only --model=8b --device=T3K --iterations=none -k performance --instruct 0 --repeat_batches 1
        --max_seq_len 2048 --batch_size 4 --max_generated_tokens 50 --data_parallel 2 --paged_attention True
        --stop_at_eos 1 --optimizations accuracy --input_prompts Why?"""
    page = ("--page_params", '{"page_block_size": 32, "page_max_num_blocks": 1024}')
    done = script(*flags.split(), *page, "--sampling_params", '{"temperature": 0, "top_p": 0.9}')
    assert done.returncode == 0, done.stderr
    assert "Llama3.1-8B on T3K DP=2" in done.stdout
    assert "Prompts: 8 of" in done.stdout
    assert "tok/s/user" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120  # the precision and the prompts too


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"paged_attention": False, "max_seq_len": 4096}, "32 x 4,096 positions of cache"),
        ({"page_params": PageParams(32, 40_000)}, "a pool of 1,280,000 positions"),
    ],
)
def test_the_cache_that_is_allocated_must_fit(changes, what):
    settings = dataclasses.replace(demo_settings.TESTS["batch-32"], **changes)
    with pytest.raises(DoesNotFitError, match=f"{what} does not fit"):
        demo.simulate_demo(settings, "8b", "N150", preset("performance", "Llama3.1-8B"))
