"""Several processes, on one machine or many, as one: their devices form the mesh, and process 0 speaks for all.

    with join(system.num_chips, "host:1234", processes=2, process_id=0) as group:
        ...
        if group.first: print(result)

Every process runs the same program on its own share of the devices (`jax.distributed`). Each holds a connection to
process 0; when one ends without saying so, the others end too, in one line, instead of waiting in a collective.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

_START_SECONDS = 60  # that a process waits for the others
_NOTICE_SECONDS = 5  # for the end of another process to be seen, once a collective has failed
_LEFT = b"."  # said by a process that has finished


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
      count: of processes. index: this one's.
    """

    count: int = 1
    index: int = 0

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.index == 0


@contextlib.contextmanager
def join(
    chips: int, coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> Iterator[Group]:
    """Makes this process one of a group, before JAX's first use of a device.

    Args:
      chips: devices of the whole mesh; each process has an equal share, on CPUs as virtual ones.
      coordinator: "host:port" of process 0. processes: how many. process_id: this one's number. What is None is taken
        from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or from what a cluster's launcher tells JAX
        (Slurm, Open MPI, ...). Where none of all that is given, this is a group of one.

    Raises:
      ValueError: a number out of range, chips that don't divide, or no others within a minute.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number("processes", processes, "JAX_NUM_PROCESSES", least=1)
    process_id = _number("process_id", process_id, "JAX_PROCESS_ID", least=0)
    if (coordinator, processes, process_id) == (None, None, None) or processes == 1:
        with contextlib.suppress(RuntimeError):  # JAX has started: `System.mesh` says so if its devices are too few
            jax.config.update("jax_num_cpu_devices", chips)
        yield Group()
        return
    if processes is not None and chips % processes:
        raise ValueError(f"{chips} chips don't divide over {processes} processes")
    if processes is not None and process_id is not None and process_id >= processes:
        raise ValueError(f"process_id must be 0 to {processes - 1}, not {process_id}")
    if processes is not None:
        jax.config.update("jax_num_cpu_devices", chips // processes)
    try:
        jax.distributed.initialize(
            coordinator, processes, process_id, initialization_timeout=_START_SECONDS, shutdown_timeout_seconds=20
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"no group of processes at {coordinator or 'the launcher'}: {reason}") from None
    group = Group(jax.process_count(), jax.process_index())
    with _own_stdout():
        watch = _Watch(group)
        try:
            yield group
        except RuntimeError:  # a collective's, which may see before the watch that another process has gone
            watch.wait()
            raise
        watch.leave()
        jax.distributed.shutdown()


@contextlib.contextmanager
def _own_stdout() -> Iterator[None]:
    """Keeps standard output for what Python prints; the libraries behind the collectives greet each other there."""
    if sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    before, kept = sys.stdout, os.dup(1)
    with open(os.devnull, "wb") as nothing, os.fdopen(kept, "w", encoding=before.encoding, errors=before.errors) as own:
        os.dup2(nothing.fileno(), 1)
        sys.stdout = own
        try:
            yield
        finally:
            own.flush()
            os.dup2(kept, 1)
            sys.stdout = before


def _number(name: str, value: int | None, variable: str, least: int) -> int | None:
    if value is None and (text := os.environ.get(variable)) is not None:
        if not text.isdecimal():
            raise ValueError(f"{variable} must be a whole number, not {text!r}")
        value = int(text)
    if value is not None and not least <= value <= 2**16:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


class _Watch:
    """Connections of every process with process 0, which are cut when a process ends."""

    def __init__(self, group: Group):
        self._left = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if group.first:
            server = socket.create_server(("", 0))
            _shared(_own_address(), server.getsockname()[1])
            for _ in range(group.count - 1):
                other, _ = server.accept()
                self._watch(other, f"process {int.from_bytes(other.recv(4), 'little')}")
            server.close()
        else:
            own = socket.create_connection(_shared(), timeout=_START_SECONDS)
            own.settimeout(None)
            own.sendall(group.index.to_bytes(4, "little"))
            self._watch(own, "process 0")

    def _watch(self, other: socket.socket, name: str) -> None:
        self._sockets.append(other)
        self._threads.append(threading.Thread(target=self._wait, args=(other, name), daemon=True))
        self._threads[-1].start()

    def _wait(self, other: socket.socket, name: str) -> None:
        try:
            said = other.recv(1)
        except OSError:
            said = b""
        if said != _LEFT and not self._left.is_set():
            print(f"error: {name} of this run has ended: so does this one", file=sys.stderr, flush=True)
            os._exit(1)  # the main thread may be waiting for the other in a collective

    def wait(self) -> None:
        """Gives the watching threads the time to end this process, if another has ended."""
        for thread in self._threads:
            thread.join(_NOTICE_SECONDS)

    def leave(self) -> None:
        """Says that this process has finished."""
        self._left.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.sendall(_LEFT)


def _own_address() -> str:
    """An address of this machine that other machines reach."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which way a packet would leave
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _shared(address: str = "", port: int = 0) -> tuple[str, int]:
    """Process 0's address and port, known to all."""
    from jax.experimental import multihost_utils

    text = np.zeros(64, np.uint8)
    encoded = np.frombuffer(f"{address}:{port}".encode(), np.uint8)
    text[: len(encoded)] = encoded
    found = bytes(np.asarray(multihost_utils.broadcast_one_to_all(text)).tolist()).rstrip(b"\0").decode()
    host, _, number = found.rpartition(":")
    return host, int(number)
