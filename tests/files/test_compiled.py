"""Entries of JAX's compile cache that an ended process left cut short are dropped; whole ones stay."""

import os
import zlib

import pytest

from ttsim.files.compiled import drop_cut_entries

WHOLE = zlib.compress(bytes(range(256)) * 40)


def entries(folder):
    return sorted(path.name for path in folder.glob("*-cache"))


@pytest.mark.parametrize("cut", [b"", WHOLE[:1], WHOLE[: len(WHOLE) // 2], WHOLE[:-1], b"no stream at all"])
def test_a_cut_entry_is_dropped(tmp_path, cut):
    (tmp_path / "a-cache").write_bytes(WHOLE)
    (tmp_path / "b-cache").write_bytes(cut)
    (tmp_path / "b-atime").write_bytes(b"")  # JAX's own, beside entries
    assert drop_cut_entries(tmp_path) == ["b-cache"]
    assert entries(tmp_path) == ["a-cache"]
    assert (tmp_path / "b-atime").exists()
    assert drop_cut_entries(tmp_path) == []


def test_only_what_is_new_is_read_again(tmp_path):
    (tmp_path / "a-cache").write_bytes(WHOLE)
    assert drop_cut_entries(tmp_path) == []
    for name, time in (("old-cache", 1), ("new-cache", 2**33)):
        (tmp_path / name).write_bytes(b"cut")
        os.utime(tmp_path / name, (time, time))
    assert drop_cut_entries(tmp_path) == ["new-cache"]
    assert drop_cut_entries(tmp_path / "nowhere") == []


def test_entries_of_jax_are_whole(tmp_path):
    """What JAX writes is taken for whole, whichever compression it found."""
    from jax._src import compilation_cache

    data = compilation_cache.compress_executable(bytes(10_000))
    (tmp_path / "a-cache").write_bytes(data)
    (tmp_path / "b-cache").write_bytes(data[:-3])
    assert drop_cut_entries(tmp_path) == ["b-cache"]
