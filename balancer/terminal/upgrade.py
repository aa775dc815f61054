"""`pybalancer upgrade`: a signal to the daemon that runs here, and what it says came of it.

It says so in its events; where it has no runtime socket, in what it tells systemd, whose service it has to be then.

Whoever asks may be root, and what answers at the socket is control, which has no rights and listens to the network: one
that is no longer ours is not to choose who gets the signal. So the kernel says who listens, and the daemon is that
process or its parent: the one that handles the signal, and has the socket too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.observe.lines import printable
from balancer.observe.upgrades import DONE, DRY_RUN, NEEDS_RESTART, NOT_DONE, POSSIBLE, TRYING, UPGRADE

__all__ = ["RESTART", "upgrade", "upgrade_service"]

_DONE, _NOT_DONE = 0, 1
RESTART = 3
"""Exit status: nobody can be asked, or told, or answers; or what runs and what is to come cannot share anything."""
_SERVICE = "pybalancer.service"
_SYSTEMD_ANSWERS = 30.0

# Seconds: the trial, a reload before it, and the new workers each have their own, shorter ones.
_PATIENCE = 180.0
_EVERY = 0.1
# What control gets to be there again.
_BRIEF = 5.0
# Of a socket that listens, in proc_net(5)'s `unix`: SO_ACCEPTCON of the kernel.
_LISTENS = 0x10000


def upgrade(path: str, *, is_dry: bool, out: TextIO, err: TextIO) -> int:
    """Have it done, or tried, by the daemon whose runtime socket that is; the exit status. BalancerError where it is
    somebody else's."""
    try:
        return _by_socket(path, DRY_RUN if is_dry else UPGRADE, out, err)
    except _Lost as error:
        print(error, file=err)
        return RESTART


def upgrade_service(why: str, *, is_dry: bool, out: TextIO, err: TextIO) -> int:
    """The same by systemd's service, as no runtime socket is known; `why` not."""
    try:
        return _by_service(why, DRY_RUN if is_dry else UPGRADE, out, err)
    except _Lost as error:
        print(error, file=err)
        return RESTART


class _Lost(BalancerError):
    """The daemon does not hear, or nothing is heard of it."""


def _by_socket(path: str, wish: int, out: TextIO, err: TextIO) -> int:
    try:
        pid = _daemon(path, wish)
        cursor = _now(path, pid)
    except BalancerError as error:
        raise _Lost(str(error)) from None
    _tell(pid, wish)
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_EVERY)
        try:
            events, cursor = _look(path, "after", cursor)
        except BalancerError:
            # One control process is not there any more, or the next one not yet.
            _expect_alive(pid)
            continue
        for level, text in events:
            status = _status(text, out, err)
            if status is not None:
                return status
            if level == "err":
                print(text, file=err)
    raise _nothing()


def _by_service(why: str, wish: int, out: TextIO, err: TextIO) -> int:
    before = _service()
    if not before.pid:
        raise _Lost(why)
    _expect_to_hear(before.pid, wish)
    _tell(before.pid, wish)
    until = time.monotonic() + _PATIENCE
    has_begun = False
    while time.monotonic() < until:
        time.sleep(_EVERY)
        now = _service()
        if not now.state:
            # systemd has not answered; that is no news of the daemon.
            _expect_alive(before.pid)
            continue
        if now.pid != before.pid:
            raise _ended(before.pid)
        # What came of the last one is there until this one begins.
        has_begun |= now.text != before.text
        if has_begun and now.state == "active" and not now.text.startswith(TRYING):
            status = _status(now.text, out, err)
            if status is not None:
                return status
    raise _nothing()


class _Service(NamedTuple):
    pid: int
    """0 where there is none, or it does not run."""
    state: str
    text: str
    """What it has told last."""


def _service() -> _Service:
    try:
        said = asyncio.run(_systemctl("show", _SERVICE, "--property=MainPID,ActiveState,StatusText"))
    except (OSError, TimeoutError):
        return _Service(0, "", "")
    told = dict(line.partition("=")[::2] for line in said.splitlines())
    pid = told.get("MainPID", "")
    return _Service(
        int(pid) if pid.isascii() and pid.isdigit() else 0,
        told.get("ActiveState", ""),
        printable(told.get("StatusText", "")),
    )


async def _systemctl(*words: str) -> str:
    """What it says; OSError where there is none, TimeoutError where it says nothing."""
    nothing, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("systemctl", *words, stdin=nothing, stdout=pipe, stderr=nothing)
    try:
        said, _ = await asyncio.wait_for(child.communicate(), _SYSTEMD_ANSWERS)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise
    return said.decode("utf-8", "replace")


def _status(text: str, out: TextIO, err: TextIO) -> int | None:
    """The exit status, if that says what came of it."""
    if text.startswith((DONE, POSSIBLE)):
        print(text, file=out)
        return _DONE
    if not text.startswith(NOT_DONE):
        return None
    print(text, file=err)
    return RESTART if NEEDS_RESTART in text else _NOT_DONE


def _tell(pid: int, wish: int) -> None:
    try:
        os.kill(pid, wish)
    except PermissionError:
        raise BalancerError(f"the daemon (process {pid}) is somebody else's: be root, or its user") from None
    except ProcessLookupError:
        raise _ended(pid) from None


def _nothing() -> _Lost:
    return _Lost(f"nothing has come of it within {_PATIENCE:.0f} s; the log says more")


def _ended(pid: int) -> _Lost:
    return _Lost(f"the daemon (process {pid}) has ended; the log says why")


def _expect_alive(pid: int) -> None:
    if not Path(f"/proc/{pid}").exists():
        raise _ended(pid) from None


def _expect_to_hear(pid: int, wish: int) -> None:
    process = _process(pid)
    if process is None:
        raise _Lost(f"there is no process {pid} here: ask where the daemon runs, in the same container")
    if not _hears(process, wish):
        raise _deaf(pid)


def _deaf(pid: int) -> _Lost:
    return _Lost(f"the daemon that runs here (process {pid}) cannot be upgraded: restart it")


def _daemon(path: str, wish: int) -> int:
    """The process that hears it. BalancerError where none does."""
    until = time.monotonic() + _BRIEF
    while (below := _process(who := client.listener(path))) is None:
        if not who or time.monotonic() >= until:
            raise _Lost(f"{path}: who listens is no process here: ask where the daemon runs, in the same container")
        time.sleep(_EVERY)
    if _hears(below, wish):
        return who
    parent = int(below["PPid"])
    above = _process(parent)
    if above is None or not _hears(above, wish):
        raise _deaf(parent)
    if not _both_have_it(who, parent):
        raise _Lost(f"{path}: process {who}, which listens to it, is no child of a pybalancer")
    return parent


def _process(pid: int) -> dict[str, str] | None:
    """What proc_pid_status(5) has of it; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _hears(process: Mapping[str, str], number: int) -> bool:
    """Whether it handles that signal, of which it would die otherwise."""
    return bool(int(process["SigCgt"], 16) >> (number - 1) & 1)


def _both_have_it(one: int, other: int) -> bool:
    """Whether there is a Unix socket at which both listen. Who may not look has no more rights than they."""
    try:
        lines = [line.split() for line in Path(f"/proc/{other}/net/unix").read_text().splitlines()[1:]]
        listening = {f"socket:[{line[6]}]" for line in lines if int(line[3], 16) & _LISTENS}
        return not listening.isdisjoint(_files(one) & _files(other))
    except PermissionError:
        return os.geteuid() != 0
    except OSError:
        return False


def _files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # It may close some meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found


def _now(path: str, pid: int) -> str:
    """Where the events that are to come begin. BalancerError."""
    until = time.monotonic() + _BRIEF
    while True:
        try:
            return _look(path, "last", "1")[1]
        except BalancerError:
            # The control process that listened may have ended, and another is about to be there.
            if time.monotonic() >= until:
                raise
        _expect_alive(pid)
        time.sleep(_EVERY)


def _look(path: str, *words: str) -> tuple[list[tuple[str, str]], str]:
    """Level and text of the supervisor's events, and where to go on."""
    answer = client.ask(path, "show", "events", "json", *words)
    if answer.is_error:
        raise BalancerError(f"{path}: {answer.text.strip()}")
    try:
        *lines, end = [json.loads(line) for line in answer.text.splitlines()] or [{}]
        found = [
            (str(each["level"]), printable(str(each["message"]))) for each in lines if each["source"] == "supervisor"
        ]
        return found, str(end["cursor"])
    except (ValueError, KeyError, TypeError) as error:
        raise BalancerError(f"{path}: its events cannot be understood ({error!r})") from None
