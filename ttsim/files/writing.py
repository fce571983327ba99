"""Careful writing: whole files or nothing, and never over what is no plain file.

A plain file is written beside its place, without a name where the system can (`O_TMPFILE`: nothing to leave behind,
however the process ends), and takes the place at the end. Links are followed; the mode of a file that was there stays,
a new one has what the umask leaves. Devices, pipes and this process's own output are written to as they are.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping

from ttsim.files import interrupts
from ttsim.files.reading import printable

Content = str | bytes
_temporary: set[str] = set()  # names to remove if the process is ended


@interrupts.on_end
@atexit.register
def _remove_temporary() -> None:
    for name in list(_temporary):
        with contextlib.suppress(OSError):
            os.unlink(name)


def write_file(content: Content, path: str | os.PathLike[str]) -> None:
    """Writes one file (see `write_files`)."""
    write_files({os.fspath(path): content})


def write_files(contents: Mapping[str, Content]) -> None:
    """Writes several files that belong together: all or none.

    Args:
      contents: text (written as UTF-8) or bytes by path.

    Raises:
      OSError: one can't be written; the error names it. Plain files are then as they were before.
    """
    check_targets({path: path for path in contents})
    staged: list[_Staged] = []
    through: list[tuple[str, bytes]] = []
    try:
        for path, content in contents.items():
            data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
            with _naming(path):
                if _is_plain(path):
                    staged.append(_Staged(path, data))
                else:
                    through.append((path, data))
        for path, data in through:
            with _naming(path):
                _write_through(path, data)
        _publish(staged)
    finally:
        for item in staged:
            item.discard()


def check_targets(paths: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """Finds out before the work what writing would find out after it.

    Args:
      paths: where each flag's file goes, None where the flag isn't given.

    Raises:
      OSError: a directory, no directory to be in, or no right to write.
      ValueError: two flags write to one plain file.
    """
    seen: dict[str, str] = {}
    for flag, path in paths.items():
        if path is None:
            continue
        name = os.fspath(path)
        with _naming(name):
            if not name or "\0" in name:
                raise OSError(errno.EINVAL, "no file name", name)
            if not _is_plain(name):
                continue
            real = os.path.realpath(name)
            parent = os.path.dirname(real)
            if not os.path.isdir(parent):
                raise FileNotFoundError(errno.ENOENT, f"there is no directory {printable(parent)}", name)
            if not os.access(real if os.path.exists(real) else parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        if real in seen:
            raise ValueError(f"{seen[real]} and {flag} both write {printable(name)}: give two names")
        seen[real] = flag


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class _Staged:
    """A file that is written but not in its place yet."""

    def __init__(self, path: str, data: bytes):
        self.path, self.target = path, os.path.realpath(path)
        self.old = os.stat(self.target) if os.path.exists(self.target) else None
        self._data = data
        self._handle, self._name = _create(self.target)
        try:
            self._fill()
        except BaseException:
            self.discard()
            raise

    def _fill(self) -> None:
        if self.old is not None:
            os.fchmod(self._handle, stat.S_IMODE(self.old.st_mode))
            if (self.old.st_uid, self.old.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(self._handle, self.old.st_uid, self.old.st_gid)
        _write_all(self._handle, self._data)

    def publish(self) -> None:
        """Takes its place."""
        if self._name is None:
            self._name = _beside(self.target)
            try:
                # Only with a directory given does Python ask the system to follow the link in /proc.
                os.link(f"/proc/self/fd/{self._handle}", self._name, src_dir_fd=self._handle, follow_symlinks=True)
            except OSError:  # no /proc, or a file system that gives no name later
                self.discard()
                self._handle, self._name = _create(self.target, nameless=False)
                self._fill()
        assert self._name is not None
        os.replace(self._name, self.target)
        _temporary.discard(self._name)
        self._name = None
        self.discard()

    def discard(self) -> None:
        """Closes it, and removes what has not taken its place."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._name is not None:
            name, self._name = self._name, None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            _temporary.discard(name)


def _create(target: str, nameless: bool = True) -> tuple[int, str | None]:
    """(an open file in the target's directory, its name or None); its mode is what the umask leaves of 0666."""
    if nameless and hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):  # the file system has no files without names
            return os.open(os.path.dirname(target), os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), None
    name = _beside(target)
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), name


def _beside(target: str) -> str:
    """A free name in the target's directory, which is removed should the process be ended."""
    folder, name = os.path.split(target)
    free = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
    _temporary.add(free)
    return free


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _publish(staged: list[_Staged]) -> None:
    """Puts every file in its place; after a failure those that were there before are there again."""
    kept: list[tuple[str, str | None]] = []  # (target, name of what was there)
    try:
        for item in staged:
            with _naming(item.path):
                if len(staged) > 1:
                    kept.append((item.target, _keep(item.target) if item.old else None))
                item.publish()
    except BaseException:
        for target, old in kept:
            with contextlib.suppress(OSError):
                os.replace(old, target) if old else os.unlink(target)
        raise
    finally:
        for _, old in kept:
            if old:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old)
                _temporary.discard(old)


def _keep(target: str) -> str:
    """A second name of a file that is about to be replaced."""
    name = _beside(target)
    os.link(target, name)
    return name


def _is_plain(path: str) -> bool:
    """Whether a file of this name would be replaced: a plain one, or none yet; not this process's own output.

    Raises:
      OSError: a directory, or links in a circle.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return stat.S_ISREG(status.st_mode) and _own_output(status) is None


def _own_output(status: os.stat_result) -> int | None:
    """1 or 2 if this file is what standard output or error goes to."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(number)):
                return number
    return None


def _write_through(path: str, data: bytes) -> None:
    own = _own_output(os.stat(path))
    if own is not None:
        stream = sys.stdout if own == 1 else sys.stderr
        if stream is not None:
            stream.flush()
        _write_all(own, data)
        return
    with open(path, "wb", buffering=0) as file:
        _write_all(file.fileno(), data)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors within carry this path and say that it can't be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        prefix = "" if reason.startswith("can't be written") else "can't be written: "
        raise OSError(error.errno, f"{prefix}{reason}", path) from None
