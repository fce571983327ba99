"""JAX's folder of compiled programs, without entries that a process which was ended left cut short.

JAX writes an entry in its place. One that is cut is compiled again with a warning, correctly, but never replaced: so
each later run would warn and compile. Before the folder is used, entries that are new since the last look are tried.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

_SUFFIX = "-cache"
_STAMP = ".ttsim-checked"  # its time: entries that were written before it are whole
_ZSTD = b"\x28\xb5\x2f\xfd"


def drop_cut_entries(folder: str | os.PathLike[str]) -> list[str]:
    """Removes entries that end before their compressed stream does, and returns their names.

    An entry that another process is writing may be among them: it goes on writing to a file without a name.
    """
    stamp, dropped = Path(folder) / _STAMP, []
    with contextlib.suppress(OSError):  # no folder yet, or not ours to change: JAX says what it can't do
        since = stamp.stat().st_mtime_ns if stamp.exists() else 0
        entries = [entry for entry in os.scandir(folder) if entry.name.endswith(_SUFFIX)]
        for entry in entries:
            if entry.stat().st_mtime_ns >= since and not _whole(Path(entry.path).read_bytes()):
                os.unlink(entry.path)
                dropped.append(entry.name)
        if entries:
            stamp.touch()
    return dropped


def _whole(data: bytes) -> bool:
    """Whether a compressed stream has its end (zlib's, or zstd's where JAX finds a module for it)."""
    if data.startswith(_ZSTD):
        try:
            import zstandard
        except ModuleNotFoundError:
            return True
        try:
            return len(zstandard.ZstdDecompressor().decompress(data)) > 0
        except zstandard.ZstdError:
            return False
    stream = zlib.decompressobj()
    try:
        stream.decompress(data)
    except zlib.error:
        return False
    return stream.eof
