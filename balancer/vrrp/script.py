"""What the operator's own checks say: programs with an exit status, and files with a number."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple

from balancer.config.vrrp import CheckScript, TrackFile

__all__ = ["Files", "Outcome", "Scripts", "ending", "has_ended", "kill"]

# First starts are so far apart, where the interval allows it.
_APART = 0.02
# A child that ended is waited for within this.
_SOON = 0.1
# sh(1): what a program that could not be executed leaves as its status.
_HINTS = {126: " (not executable)", 127: " (no such program)"}
# strtol(3) with base 0, as keepalived reads it.
_NUMBER = re.compile(rb"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_INT32 = range(-(1 << 31), (1 << 31) + 1)


class Outcome(NamedTuple):
    """What counts of a script, and why."""

    is_good: bool | None
    """None: not known yet."""
    text: str
    """How the last run ended."""


class Scripts:
    """All check scripts (keepalived's vrrp_script).

    The first result counts at once, later ones when they came `rise` or `fall` times in a row. One that cannot be
    started has failed, and so has one that runs for longer than its `timeout`: it is killed with all it started.
    While a script runs it is not started beside that; the starts that it missed are left out.

    Drive it: `turn` when `due` has come, `ended` for each child. A turn starts one script at most, for a fork takes
    milliseconds in which the caller has something more important to do.
    """

    def __init__(
        self,
        scripts: Mapping[str, CheckScript],
        *,
        spawn: Callable[[Sequence[str]], int],
        log: Callable[[str, bool], None],
    ) -> None:
        self._spawn = spawn
        self._log = log
        self._checks = [_Check(name, script) for name, script in scripts.items()]
        self._by_pid: dict[int, _Check] = {}
        self._has_begun = False
        self.outcomes: dict[str, Outcome] = {check.name: check.outcome for check in self._checks}
        """By name, after `rise` and `fall`."""
        self.due = 0.0 if self._checks else inf
        """When `turn` is wanted (monotonic seconds); inf: never."""

    def change(self, scripts: Mapping[str, CheckScript], now: float, *, spawn: Callable[[Sequence[str]], int]) -> None:
        """Other scripts from now on, or others of these names: what is known of a name counts until its next run."""
        self._spawn = spawn
        before = {check.name: check for check in self._checks}
        self._checks = []
        for number, (name, script) in enumerate(scripts.items()):
            known = before.get(name)
            if known is not None and known.script.script == script.script:
                known.bear(script, now)
                self._checks.append(before.pop(name))
                continue
            check = _Check(name, script)
            check.start_at = now + number * min(_APART, script.interval / len(scripts))
            if known is not None:
                check.outcome, check.said = known.outcome, known.said
            self._checks.append(check)
        for check in before.values():
            self._kill(check)
        self.outcomes = {check.name: check.outcome for check in self._checks}
        self._set_due()

    def turn(self, now: float) -> None:
        """Kill what is over its time, and start what is due: at most one, `due` tells of more."""
        if not self._has_begun:
            self._begin(now)
        if now < self.due:
            return
        for check in self._checks:
            if check.pid and now >= check.deadline:
                self._see_to_the_end(check, now)
        waiting = [check for check in self._checks if not check.pid and check.start_at <= now]
        if waiting:
            self._start(min(waiting, key=lambda check: check.start_at), now)
        self._set_due()

    def ended(self, pid: int, status: int, now: float) -> bool:
        """A child ended, with this status of waitpid(2): whether it was one of these."""
        check = self._by_pid.pop(pid, None)
        if check is None:
            return False
        check.pid = 0
        if check.is_killed:
            # Its failure has counted, and it is time for the next.
            self._set_due()
            return True
        if check.start_at <= now:
            interval = check.script.interval
            check.start_at += interval * ((now - check.start_at) // interval + 1)
        self._count(check, os.waitstatus_to_exitcode(status) == 0, ending(status))
        self._set_due()
        return True

    def stop(self) -> None:
        """Kill what runs, start nothing more."""
        for check in self._checks:
            self._kill(check)
        self._checks = []
        self.due = inf

    def _kill(self, check: _Check) -> None:
        if check.pid:
            kill(check.pid)
            check.is_killed = True

    def _begin(self, now: float) -> None:
        self._has_begun = True
        for number, check in enumerate(self._checks):
            check.start_at = now + number * min(_APART, check.script.interval / len(self._checks))
        self._set_due()

    def _start(self, check: _Check, now: float) -> None:
        check.start_at += check.script.interval
        if check.start_at <= now:
            check.start_at = now + check.script.interval
        try:
            check.pid = self._spawn(check.script.script)
        except OSError as error:
            self._count(check, False, f"cannot be started: {error.strerror}")
            return
        self._by_pid[check.pid] = check
        check.is_killed = False
        check.started = now
        check.deadline = now + check.timeout

    def _see_to_the_end(self, check: _Check, now: float) -> None:
        """A run is over its time. Its failure counts now: nobody knows when the kernel lets go of it. Until then it
        fails once in each interval.
        """
        text = f"killed after {check.timeout:g} s"
        try:
            if has_ended(check.pid):
                check.deadline = now + _SOON
                return
            kill(check.pid)
            if check.is_killed:
                text += f", still there after {now - check.started:.0f} s"
        except ChildProcessError:
            del self._by_pid[check.pid]
            check.pid = 0
            text = "ended, nobody knows how"
        check.is_killed = True
        check.deadline = now + check.script.interval
        self._count(check, False, text)

    def _count(self, check: _Check, is_good: bool, text: str) -> None:
        check.count(is_good, text)
        self.outcomes[check.name] = check.outcome
        if check.outcome.is_good and check.said is not True:
            self._log(f"script {check.name}: succeeds{' again' if check.said is False else ''}", False)
            check.said = True
        elif not check.outcome.is_good and not is_good and check.said is not False:
            self._log(f"script {check.name}: failed ({text})", True)
            check.said = False

    def _set_due(self) -> None:
        times = (check.deadline if check.pid else check.start_at for check in self._checks)
        self.due = min(times, default=inf)


class _Check:
    """One script."""

    def __init__(self, name: str, script: CheckScript) -> None:
        self.name = name
        self.script = script
        self.timeout = script.interval if script.timeout is None else script.timeout
        self.outcome = Outcome(False if script.init_fail else None, "not run yet")
        self.said: bool | None = None
        """The outcome that was logged."""
        self.pid = 0
        """Of the run; 0: none."""
        self.started = 0.0
        self.deadline = 0.0
        """The run has to end until then, or to be killed again."""
        self.is_killed = False
        self.start_at = 0.0
        self._streak = 0
        """Results in a row against the outcome."""

    def bear(self, script: CheckScript, now: float) -> None:
        """The same program at other times, or with another weight."""
        self.script = script
        self.timeout = script.interval if script.timeout is None else script.timeout
        self.start_at = min(self.start_at, now + script.interval)

    def count(self, is_good: bool, text: str) -> None:
        """keepalived's counting (vrrp_script_child_thread)."""
        outcome = self.outcome.is_good
        if is_good == outcome:
            self._streak = 0
        else:
            self._streak += 1
            wanted = self.script.rise if is_good else self.script.fall
            if outcome is None or self._streak >= wanted:
                outcome, self._streak = is_good, 0
        self.outcome = Outcome(outcome, text)


class Files:
    """Files with numbers (keepalived's vrrp_track_file).

    One that is not there, or has no number in it, is 0. A number of more than 32 bits is not taken.
    """

    def __init__(self, files: Mapping[str, TrackFile]) -> None:
        self._files = [_File(name, Path(file.file)) for name, file in files.items()]
        self.numbers: dict[str, int] = dict.fromkeys(files, 0)
        """By name, as last read."""

    def change(self, files: Mapping[str, TrackFile]) -> None:
        """Other files from now on; those of before are as they were last read."""
        known = {file.name: file for file in self._files}
        self._files = [_File(name, Path(file.file)) for name, file in files.items()]
        numbers = dict.fromkeys(files, 0)
        for file in self._files:
            before = known.get(file.name)
            if before is not None and before.path == file.path:
                file.was_filled = before.was_filled
                numbers[file.name] = self.numbers[file.name]
        self.numbers = numbers

    def read(self) -> None:
        """Look at all of them."""
        for file in self._files:
            octets = _beginning(file.path)
            if not octets and octets is not None and file.was_filled:
                # A shell's `>` empties it before the number is written; so it stays for one more look.
                file.was_filled = False
                continue
            file.was_filled = bool(octets)
            number = _number(octets or b"")
            if number in _INT32:
                self.numbers[file.name] = number


@dataclass(slots=True)
class _File:
    name: str
    path: Path
    was_filled: bool = False


def _beginning(path: Path) -> bytes | None:
    """Of a regular file; None where there is none. Nothing else is opened, for that may block or have effects."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 128)
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _number(octets: bytes) -> int:
    match = _NUMBER.match(octets)
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return -number if sign == b"-" else number


def ending(status: int) -> str:
    """How a program ended that had this status of waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}{_HINTS.get(code, '')}"
    return f"killed by signal {-code} ({signal.strsignal(-code)})"


def has_ended(pid: int) -> bool:
    """Whether a child ended, and is only to be waited for.

    ChildProcessError where it has been waited for: its number may be another's by now.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill(pid: int) -> None:
    """A child that was not yet waited for, and all of its process group."""
    for _ in range(2):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has not come to making its group. If it does so just now, there is one at the second attempt.
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        except PermissionError:
            # It became somebody else, whom we may not kill.
            return
        else:
            return
