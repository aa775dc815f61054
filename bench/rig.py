"""The bench's processes: started on a core, in their own process group, and ended whatever happens."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import procfs

__all__ = [
    "BALANCER_CORE",
    "LOAD_CORE",
    "PACKAGES",
    "BenchError",
    "Process",
    "Rig",
    "find_tool",
    "free_port",
    "open_files",
    "wait_for",
]

BALANCER_CORE = 0
LOAD_CORE = 1
# Below the kernel's range for outgoing connections (ip_local_port_range): the load's own ports never take one of ours.
LISTEN_PORTS = range(20000, 32000)
# A TCP proxy holds two sockets for each connection, and HAProxy asks for some more than two for each of its maxconn.
# With less than the first number not every work can be done, more than the second none needs.
LEAST_OPEN_FILES = 12000
OPEN_FILES = 20000
END_AFTER = 4.0
PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


# Debian's names for what the bench runs.
PACKAGES = {
    "haproxy": "haproxy",
    "dnsdist": "dnsdist",
    "nginx": "nginx-light",
    "named": "bind9",
    "wrk": "wrk",
    "dnsperf": "dnsperf",
    "h2load": "nghttp2-client",
    "ab": "apache2-utils",
    "apache2": "apache2",
    "ipvsadm": "ipvsadm",
}


class BenchError(Exception):
    """A measurement that cannot go on; the text is one line for the operator."""


def find_tool(name: str) -> str:
    """The path of a program, by its name or path. /usr/sbin is looked at too, where users have no PATH to it.

    Raises BenchError naming the package to install.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        package = PACKAGES.get(name)
        raise BenchError(f"{name} is missing: apt install {package}" if package else f"{name} is no program")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody holds, for TCP and for UDP alike."""
    for port in random.sample(LISTEN_PORTS, 200):
        with socket.socket(type=socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError(f"no free port between {LISTEN_PORTS.start} and {LISTEN_PORTS.stop}")


def wait_for(what: str, holds: Callable[[], bool], *, within: float, every: float = 0.01) -> None:
    """Ask `holds` until it says yes. Raises BenchError after `within` seconds."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {within:g} s")
        time.sleep(every)


def open_files() -> int:
    """How many a process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


class Process:
    """One program under way, with all that it starts, on `core`, or on both where that is None."""

    def __init__(self, name: str, command: Sequence[str], *, core: int | None, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        parent = os.getpid()

        def on_this_core() -> None:
            os.sched_setaffinity(0, {BALANCER_CORE, LOAD_CORE} if core is None else {core})
            # Should the bench itself be killed with no chance to tidy up, its processes go with it.
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        with self.log.open("wb") as log:
            self.started = time.monotonic()
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
                preexec_fn=on_this_core,  # safe: the bench has one thread
            )

        self._pidfd = os.pidfd_open(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def pids(self) -> list[int]:
        """The process and its descendants. Raises BenchError if it has ended."""
        self.require_alive()
        return procfs.tree(self.pid)

    def move(self, core: int) -> None:
        """To another core, with all that it has started."""
        for pid in self.pids():
            os.sched_setaffinity(pid, {core})

    def ended(self, *, within: float = 0.0) -> bool:
        """Whether it has ended, or does so within that many seconds. It stays a zombie until `end`."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def require_alive(self) -> None:
        if self.ended():
            raise BenchError(f"{self.name} has ended: {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def end(self) -> int:
        """SIGTERM, after a grace time SIGKILL, and nothing of its process group is left. Returns the exit status."""
        family = procfs.tree(self.pid)
        os.kill(self.pid, signal.SIGTERM)  # and not Popen.terminate, which reaps: the number must stay ours to the end
        if not self.ended(within=END_AFTER):
            for pid in family:
                _kill(pid)
        # The group is the session that it began, and as long as it is not reaped no other group can have its number.
        os.killpg(self.pid, signal.SIGKILL)
        os.close(self._pidfd)
        return self._popen.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Rig:
    """A temporary directory and the processes that run in it; leaving it ends them and removes it."""

    directory: Path

    def __init__(self, *, least_open_files: int = LEAST_OPEN_FILES) -> None:
        self._least_open_files = least_open_files
        self._processes: list[Process] = []
        self._cores = os.sched_getaffinity(0)
        self._count = 0

    def __enter__(self) -> Self:
        if not {BALANCER_CORE, LOAD_CORE} <= self._cores:
            allowed = sorted(self._cores)
            raise BenchError(f"cores {BALANCER_CORE} and {LOAD_CORE} are needed; this process may use {allowed}")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < self._least_open_files:
            raise BenchError(
                f"{self._least_open_files} open files are needed and {hard} allowed: raise it with ulimit -Hn"
            )
        if soft != resource.RLIM_INFINITY:
            wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        os.sched_setaffinity(0, {LOAD_CORE})
        self.directory = Path(tempfile.mkdtemp(prefix="pybalancer-bench-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave a balancer behind.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self._processes:
                self._processes.pop().end()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.sched_setaffinity(0, self._cores)
        finally:
            signal.signal(signal.SIGINT, previous)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def unique(self, stem: str) -> str:
        """A file name stem that was not given out before."""
        self._count += 1
        return f"{stem}-{self._count}"

    def start(self, name: str, command: Sequence[str], *, core: int | None) -> Process:
        process = Process(name, command, core=core, directory=self.directory)
        self._processes.append(process)
        return process

    def end(self, process: Process) -> int:
        """End it now and return its exit status."""
        status = process.end()
        self._processes.remove(process)
        return status

    def run(self, command: Sequence[str], *, within: float, core: int | None = LOAD_CORE) -> str:
        """Run a load on the load's core, or on both, to its end and return what it printed.

        Raises BenchError when it fails or takes longer than `within` seconds.
        """
        name = self.unique(Path(command[0]).name)
        process = self.start(name, command, core=core)
        in_time = process.ended(within=within)
        status = self.end(process)
        if not in_time:
            raise BenchError(f"{process.name} was not done within {within:g} s")
        if status:
            raise BenchError(f"{process.name} failed with status {status}: {process.last_words()}")
        return process.log.read_text(errors="replace")
