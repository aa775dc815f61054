"""A set of Linux namespaces with an init of its own, that goes when whoever made it goes.

Nothing has a name that would outlive it: no file under /run/netns, no mount of the machine's own. The init reads a
pipe that only its maker holds; at its end, or killed, it takes with it every process of its PID namespace, the last
of which takes the network and the mounts.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["ENVIRONMENT", "LabError", "NoNamespacesError", "Space", "entering_command", "inits", "why_not"]

# Says that it stands, waits for the end of its input, and reaps whatever is orphaned meanwhile, as bash does.
_INIT = """
mount -t sysfs lab /sys && echo "${0##*:}" >/proc/sys/kernel/hostname && echo up && while read -r _; do :; done
"""
ENVIRONMENT = {
    # pybalancer stands beside the Python that runs this.
    "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/run",
    "TMPDIR": "/run",
    "LC_ALL": "C.UTF-8",
}
_COMMAND_TAKES = 60.0
# timeout(1) says so with this status.
_TIMED_OUT = 124
# The last word of an init's command line.
_SIGN = re.compile(r"lab:([0-9]+):([a-z0-9]+)")
# More than --kill-after (seconds).
_LEFT_BEHIND = 3.0


class LabError(Exception):
    """The machine does not let us, or something in the lab did not do what it must."""


class NoNamespacesError(LabError):
    """This machine, or this user, makes no namespaces."""


class Space:
    """Network, mounts, host name, IPC and processes apart from everyone else's, within another space or the machine.

    NoNamespacesError where there are none to be had (not root).
    """

    def __init__(self, name: str, *, within: Space | None = None) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            [
                *(within.entering if within is not None else ()),
                *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc"),
                *("--fork", "--kill-child=KILL", "bash", "--norc", "-c", _INIT, f"lab:{os.getpid()}:{name}"),
            ],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "up\n":
            self._holder.kill()
            why = self._holder.stderr.read().strip().rpartition("\n")[2]
            self._close()
            if "not permitted" in why:
                raise NoNamespacesError(f"the lab needs root and CAP_SYS_ADMIN to make namespaces: {why}")
            raise LabError(f"{name}: its namespaces could not be made: {why}")
        self.pid = _last_descendant(self._holder.pid)
        """Its init, as the one who made the space sees it."""

    @property
    def is_alive(self) -> bool:
        """Whether its init runs."""
        return self._holder.poll() is None

    @property
    def pid_within(self) -> int:
        """Its init, as the space around it sees it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[2])

    @property
    def entering(self) -> list[str]:
        """The command before a command that is to run in here."""
        return entering_command(self.pid)

    def path(self, path: str) -> Path:
        """How the maker reaches a file in here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, command: Sequence[str], *, text: str = "", takes: float = _COMMAND_TAKES) -> str:
        """Run a command with `text` as its input; its output. LabError when it fails or takes longer than `takes`
        seconds."""
        done = self.outcome(command, text=text, takes=takes)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"{self.name}: {' '.join(command)}: status {done.returncode}: {said}")
        return done.stdout

    def outcome(
        self, command: Sequence[str], *, text: str = "", takes: float = _COMMAND_TAKES
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its status. LabError when it takes longer than `takes` seconds."""
        # Ended in here: from outside we would reach nsenter alone.
        limited = [*self.entering, "timeout", "--kill-after=1", str(takes), *command]
        try:
            done = subprocess.run(
                limited, env=ENVIRONMENT, input=text, capture_output=True, text=True, errors="replace",
                timeout=takes + _LEFT_BEHIND, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # A child of it that stays holds its output open.
            raise LabError(f"{self.name}: {' '.join(command)}: what it started does not end") from None
        if done.returncode == _TIMED_OUT:
            raise LabError(f"{self.name}: {' '.join(command)}: not done in {takes:g} s")
        return done

    def start(self, command: Sequence[str], *, log: str) -> subprocess.Popen[bytes]:
        """Start a command that stays; what it says goes to the file `log` in here."""
        with self.path(log).open("ab") as file:
            return subprocess.Popen(
                [*self.entering, *command],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def kill(self) -> None:
        """All its processes die at once, as if by the mains switch."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._close()

    def _close(self) -> None:
        for stream in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()
        self._holder.wait()


def _last_descendant(pid: int) -> int:
    """nsenter and unshare fork each; the one at the end is the init."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def entering_command(pid: int) -> list[str]:
    """The command before a command that is to run in the namespaces of a process."""
    into = ("nsenter", "--target", str(pid), "--net", "--mount", "--uts", "--ipc", "--pid")
    # Not from the caller's directory: that would be one of another mount namespace.
    return [*into, "sh", "-c", 'cd / && exec "$@"', "sh"]


def inits() -> list[tuple[int, int, str]]:
    """The spaces of everybody on this machine, by age: process id of the init, of its maker, and name."""
    found = []
    for pid in sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            sign = _SIGN.fullmatch(words[-2]) if words[0] == "bash" and len(words) > 1 else None
            if sign is not None:
                found.append((pid, int(sign[1]), sign[2]))
    return found


@cache
def why_not() -> str:
    """Why this process can make no namespaces; empty when it can."""
    try:
        Space("probe").kill()
    except LabError as error:
        return str(error)
    return ""
