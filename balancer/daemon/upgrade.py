"""Another version in the place of this one: the same process, by execve(2), with all that it holds (estate).

    wish      SIGUSR2; the dry run is a signal of its own
    Trial     the new version as a child: it reads what it would be left, and the configuration; else nothing changes
    hand_over somebody speaks for the virtual routers meanwhile (standin), and the new version is executed
    ...       it has the old one's workers, and follows it as if the file had been read again: see supervisor

Where the new one cannot go on, it executes the old one again; where that cannot either, it starts anew with the sockets
that it holds. What is executed is what the command's path leads to now, such as a link to the newest of several.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from balancer import __version__
from balancer.config.model import Config
from balancer.daemon import estate, privileges
from balancer.daemon.reload import draft
from balancer.errors import BalancerError
from balancer.observe.upgrades import DRY_RUN, NEEDS_RESTART, UPGRADE

__all__ = [
    "Inheritance", "Trial", "Verdict", "become", "clear", "go_on_otherwise", "inherited",
    "itself", "past_exec", "runs", "successor", "try_out",
]  # fmt: skip

# Where the next version finds what it is left, in its environment: a descriptor; why it is the old one again.
_ESTATE, _BACK = "PYBALANCER_ESTATE", "PYBALANCER_BACK"
_LOST = "lost:"
# Seconds. A large configuration is read, by an interpreter that is started from a disk.
_PATIENCE = 60.0
_BRIEF, _PAUSE = 20.0, 0.01
_PIECE = 1 << 16
_LONGEST = 1 << 16


# As they are at the start: what a path leads to may be another version later.
_SCRIPT = Path(sys.argv[0])
_IS_COMMAND = _SCRIPT.name != "__main__.py" and os.access(_SCRIPT, os.X_OK)
_ITSELF = (
    [sys.executable, str(_SCRIPT.resolve()), *sys.argv[1:]] if _IS_COMMAND else [sys.executable, *sys.orig_argv[1:]]
)


def successor() -> list[str]:
    """The command line of whatever this command's path leads to now, with our arguments."""
    return [sys.argv[0], *sys.argv[1:]] if _IS_COMMAND else [sys.executable, *sys.orig_argv[1:]]


def itself() -> list[str]:
    """That of this version, whatever the path leads to by now."""
    return list(_ITSELF)


class Verdict(NamedTuple):
    """What came of a trial."""

    version: str
    """Of the one that was tried; empty where it did not say."""
    why: str
    """It cannot take over; empty where it can."""


class Trial:
    """The new version, as a child, with what it would be left. Ask `turn` whenever `fileno` is readable, and once
    `deadline` has come. OSError where there can be no process."""

    def __init__(self, command: Sequence[str], left: Callable[[], bytes]) -> None:
        self.deadline = time.monotonic() + _PATIENCE
        self.command = command
        self._octets = bytearray()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        parent = os.getpid()
        try:
            self.pid = os.fork()
            if not self.pid:
                _try(command, left, writer, parent)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def fileno(self) -> int:
        return self._reader

    def turn(self) -> Verdict | None:
        """What came of it; None while it is not done."""
        while True:
            try:
                piece = os.read(self._reader, _PIECE)
            except BlockingIOError:
                if time.monotonic() < self.deadline:
                    return None
                return Verdict("", f"{self.command[0]} did not answer within {_PATIENCE:.0f} s")
            if not piece:
                return self._verdict()
            self._octets += piece
            del self._octets[:-_LONGEST]

    def _verdict(self) -> Verdict:
        lines = self._octets.decode("utf-8", "replace").strip().splitlines()
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            told = json.loads(lines[-1])
            return Verdict(str(told["version"]), str(told["why"]))
        said = lines[-1].strip() if lines else "it said nothing"
        return Verdict("", f"{self.command[0]}: {said}")

    def close(self) -> None:
        """End it."""
        os.close(self._reader)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _try(command: Sequence[str], left: Callable[[], bytes], writer: int, parent: int) -> NoReturn:
    """In the new process: execute it, never come back."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, UPGRADE, DRY_RUN, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        privileges.die_with_parent(parent)
        file = _kept(left())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute([*command, "upgrade", "--take-over", str(file)], os.environ)
    except BaseException as error:
        os.write(2, f"{getattr(error, 'strerror', None) or error}\n".encode())
    finally:
        os._exit(1)


def try_out(file: int, load: Callable[[], Config]) -> NoReturn:
    """In the new version, run by `Trial`: say whether it could take over, and change nothing."""
    verdict = Verdict(__version__, "")
    try:
        left = estate.read(_read(file))
        before = left["current"].plan
        # Whatever is imported later is to be there.
        importlib.import_module("balancer.daemon.supervisor")
        if before.has_kernel:
            importlib.import_module("balancer.daemon.kerneld")
        if before.config.vrrp.instances:
            importlib.import_module("balancer.vrrp.succession")
        draft(load(), before, left["current"].memory.logbook.read().values())
    except estate.EstateError as error:
        verdict = verdict._replace(why=f"{NEEDS_RESTART}: {error}")
    except BalancerError as error:
        verdict = verdict._replace(why=str(error))
    except Exception as error:
        verdict = verdict._replace(why=f"{type(error).__name__}: {error}")
    os.write(1, f"\n{json.dumps(verdict._asdict())}\n".encode())
    # Nothing that it has attached is to be closed in an orderly way.
    os._exit(0)


class Inheritance(NamedTuple):
    """What a new version finds when it has been executed."""

    octets: bytes
    back: str
    """Why the old one was executed again; empty for a new one."""

    @property
    def head(self) -> dict[str, Any]:
        return estate.head(self.octets)

    @property
    def is_lost(self) -> bool:
        """Nobody can go on with it: we start anew, with the sockets."""
        return self.back.startswith(_LOST)


def go_on_otherwise(found: Inheritance, why: str) -> NoReturn:
    """It cannot be taken over after all: by the version before, or else by nobody. OSError where even that fails."""
    if not found.back and runs(found.head["back"]):
        with contextlib.suppress(OSError):
            become(found.head["back"], found.octets, why)
    become(_ITSELF, found.octets, f"{_LOST} {why}")


def runs(command: Sequence[str], meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Whether it can be executed at all: it may have been removed by now. `meanwhile` is called again and again."""
    nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    try:
        pid = os.posix_spawn(command[0], [*command, "--version"], os.environ, file_actions=nothing, setsigmask=())
    except OSError:
        return False
    until = time.monotonic() + _BRIEF
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        meanwhile()
        time.sleep(_PAUSE)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def clear(found: Inheritance) -> list[socket.socket]:
    """Before we start anew: end all children, close everything; the sockets that were listened to."""
    head = found.head
    for pid in head["children"]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    sockets = []
    for file in head["files"]:
        with contextlib.suppress(OSError):
            if file in head["listening"]:
                sockets.append(socket.socket(fileno=file))
            else:
                os.close(file)
    return sockets


def inherited() -> Inheritance | None:
    """None at an ordinary start."""
    file, back = os.environ.pop(_ESTATE, ""), os.environ.pop(_BACK, "")
    if not (file.isascii() and file.isdigit()):
        return None
    try:
        octets = _read(int(file))
        estate.keep(estate.head(octets)["files"], over_exec=False)
        os.close(int(file))
    except (OSError, OverflowError, estate.EstateError):
        # Somebody's environment.
        return None
    return Inheritance(octets, back)


def become(command: Sequence[str], octets: bytes, back: str = "") -> NoReturn:
    """Execute it, with that left to it. OSError where that cannot be, or EstateError: then all is as before.

    Signals are blocked until the new one hears them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    priority = os.sched_getscheduler(0), os.sched_getparam(0)
    file = -1
    try:
        file = _kept(octets)
        # To start takes a second of a processor, which whoever stands in for the virtual routers needs, and workers.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        more = {_ESTATE: str(file)} | ({_BACK: back} if back else {})
        _execute(command, {**os.environ, **more})
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, *priority)
        if file >= 0:
            os.close(file)
        estate.keep(estate.head(octets)["files"], over_exec=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def past_exec() -> None:
    """Hear signals again; those that have come meanwhile come now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    os.execve(command[0], list(command), dict(environment))  # noqa: S606 (no shell is what we want)


def _kept(octets: bytes) -> int:
    """In a file without a name; with all that it speaks of there after execve(2)."""
    file = os.memfd_create("pybalancer-estate")
    os.set_inheritable(file, True)
    left = memoryview(octets)
    while left:
        left = left[os.write(file, left) :]
    estate.keep(estate.head(octets)["files"], over_exec=True)
    return file


def _read(file: int) -> bytes:
    size = os.fstat(file).st_size
    octets = b""
    while len(octets) < size and (piece := os.pread(file, size - len(octets), len(octets))):
        octets += piece
    return octets
