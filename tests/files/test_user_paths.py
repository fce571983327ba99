"""What somebody types as a path: unknown homes, names that no file can have. Each is one line, short enough to read."""

import pytest

from ttsim.accuracy.saved import SavedWindows
from ttsim.models.checkpoints.loading import resolve_weights
from ttsim.models.identity import get_config, hub_snapshot
from ttsim.models.vision.images import image_size, open_image

READERS = [get_config, resolve_weights, image_size, open_image]


@pytest.mark.parametrize("name", ["~nobody-of-this-name", "~nobody-of-this-name/x", "a" * 5000, "a/" * 5000, "\0", ""])
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_name_without_a_file_is_one_short_line(read, name):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the line is looked at below
        read(name)
    line = str(error.value)
    assert line.isprintable()
    assert 10 < len(line) < 1000


def test_the_hubs_cache_may_be_set_to_nonsense(monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", "~nobody-of-this-name")
    assert hub_snapshot("owner/name") is None


def test_windows_are_not_read_from_a_name_that_no_file_can_have():
    assert SavedWindows("a" * 5000, {}).of("run", 4) is None


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_weights("~/model") == tmp_path / "model"
