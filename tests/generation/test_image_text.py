"""Text about images: the reference's greedy continuation, and the demo's way from files to words."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttsim.cli import main as command_line
from ttsim.generation.image_text import VisionGenerator, tell, visible_tiles, with_image_tokens
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.vision.images import tiled_image
from ttsim.models.vision.reading import read_vision_config

GOLDEN = Path(__file__).parents[1] / "golden" / "vision" / "llama_dev"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The reference checkpoint with a tokenizer of one word a token: "t0", "t1" ..."""
    folder = tmp_path_factory.mktemp("vision")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, folder)
    words = {f"t{i}": i for i in range(120)} | {"<|image|>": 120}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
    tokenizer = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    arrays = np.load(GOLDEN / "golden.npz")
    Image.fromarray(arrays["image_0_0"]).save(folder / "image.png")
    return folder, arrays


def test_text_of_a_checkpoint_and_an_image_file(checkpoint):
    folder, arrays = checkpoint
    prompt = " ".join(f"t{i}" for i in range(3, 15))
    text, told, length, generator = tell(str(folder), "N150", "fp32", prompt, [str(folder / "image.png")], 3, False)
    assert length == 13
    assert text.split() == [f"t{token}" for token in told.tokens]
    assert len(told.step_times) == len(told.tokens) - 1 == 2
    image = tiled_image(generator.config.tower, folder / "image.png")
    golden = generator([int(token) for token in arrays["input_ids"][0]], [image], 6)
    np.testing.assert_array_equal(golden.tokens, arrays["greedy"][0])
    with pytest.raises(ValueError, match="0 image tokens and 1 images"):
        generator([1, 2, 3], [image], 2)
    with pytest.raises(ValueError, match="outgrow the cache of 512"):
        generator([120, 2, 3], [image], 600)


def test_each_row_sees_the_last_image_before_it():
    seen = visible_tiles(6, [1, 4], [2, 1], 4)
    assert seen[0].sum() == 0
    np.testing.assert_array_equal(seen[1:4].sum(0), [3, 3, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(seen[4:].sum(0), [0, 0, 0, 0, 2, 0, 0, 0])


def test_image_tokens_follow_bos_unless_a_template_wrote_them(checkpoint):
    config = read_vision_config(checkpoint[0])
    assert with_image_tokens([1, 5], config, 2, 1) == [1, 120, 120, 5]
    assert with_image_tokens([5], config, 1, None) == [120, 5]
    assert with_image_tokens([1, 5, 120], config, 1, 1) == [1, 5, 120]


def test_other_checkpoints_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="holds no model that sees"):
        VisionGenerator.load(tmp_path)


def test_the_demo_s_clock_with_an_image(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ttsim"])
    flags = ["--simulate_only", "--model=11b", "--device=N300", "--image=512x512", "--max_generated_tokens=3"]
    with pytest.raises(SystemExit) as ended:
        command_line.main(["demo", *flags])
    assert not ended.value.code
    assert "Time to First Token" in capsys.readouterr().out
