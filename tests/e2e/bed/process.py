"""A program under test or beside it: in a session of its own, waited for by condition, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["PATIENCE", "Process", "descendants", "free_port", "holders", "is_alive", "is_bound", "members", "until"]

T = TypeVar("T")

# How soon a failure shows; longer than anything waited for takes on a loaded machine.
PATIENCE = 20.0


def until(condition: Callable[[], T], what: str, *, within: float = PATIENCE) -> T:
    """Ask again and again until the answer is true, and give it; AssertionError says what did not happen."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(0.01)
    return answer


def is_bound(port: int, *, udp: bool = False) -> bool:
    """Whether something on this machine listens on the port. Asks the kernel, so that no server sees a connection."""
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == port and (udp or state == "0A"):
                return True
    return False


def holders(port: int) -> set[int]:
    """The processes that hold a listening TCP socket of the port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == port and state == "0A":
                inodes.add(f"socket:[{inode}]")
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        if any(name in inodes for name in _open_files(process)):
            found.add(int(process.name))
    return found


def _open_files(process: Path) -> Iterator[str]:
    """It may close them, and end, meanwhile."""
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(entry.readlink())


def members(session: int) -> dict[int, str]:
    """The living processes of a session: pid and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # proc(5): pid (comm) state ppid pgrp session …; comm may hold spaces and parentheses.
                state, _, _, sid, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(sid) == session and state != "Z":
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found[int(entry.name)] = command
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs, whatever sessions they made for themselves."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Process:
    """A running program. Its output is read as it comes, line by line."""

    def __init__(self, command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None) -> None:
        # Dies with us even where no `finally` runs.
        self._popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.name = Path(command[0]).name
        self.pid = self._popen.pid
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=_collect, args=(stream, lines), daemon=True)
            for stream, lines in ((self._popen.stdout, self.out), (self._popen.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._popen.poll()

    @property
    def children(self) -> dict[int, str]:
        """The other processes of its session."""
        return {pid: command for pid, command in members(self.pid).items() if pid != self.pid}

    def wait_until(self, condition: Callable[[], T], what: str, *, within: float = PATIENCE) -> T:
        """Like `until`, and fails at once when the program ends instead."""

        def answer() -> T | None:
            ended = self.status is not None
            found = condition()
            assert found or not ended, f"{self.name} ended with {self.status} before {what}:\n{self.said()}"
            return found

        try:
            found = until(answer, f"{self.name}: {what}", within=within)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None
        assert found is not None
        return found

    def wait_for_line(self, text: str, *, after: int = 0, within: float = PATIENCE) -> str:
        """The first line of output, from the `after`th on, that holds `text`."""

        def find() -> str | None:
            return next((line for line in [*self.out[after:], *self.err] if text in line), None)

        return self.wait_until(find, f"a line with {text!r}", within=within) or ""

    def said(self) -> str:
        """The end of its output, for failure messages."""
        return "\n".join(["--- stdout", *self.out[-40:], "--- stderr", *self.err[-60:]])

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, *, within: float = PATIENCE) -> int:
        """Wait for its end, all of its output read; the exit status."""
        try:
            status = self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within:.0f} s\n{self.said()}") from None
        for reader in self._readers:
            reader.join(within)
        return status

    def kill(self) -> None:
        """kill -9 for it and for all that belongs to its session."""
        self._popen.kill()
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        if self.status is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
        self.kill()
        for stream in (self._popen.stdout, self._popen.stderr):
            assert stream is not None
            stream.close()


def _collect(stream: object, lines: list[str]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.append(line.decode(errors="replace").rstrip("\n"))


_given: set[int] = set()


def free_port() -> int:
    """A port nothing uses, neither TCP nor UDP, never given twice, and outside of the range that the kernel takes
    for outgoing connections: a server can be stopped and started on it again in the middle of a load."""
    first = int.from_bytes(os.urandom(2)) % 10000 + 15000
    for port in range(first, 32768):
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port
    raise AssertionError("no free port")


def _can_bind(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True
