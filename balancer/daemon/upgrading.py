"""What the supervisor does about an upgrade: steps that its main loop takes as they become possible (upgrade)."""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from math import inf
from typing import Any

from balancer import __version__
from balancer.daemon import estate, systemd, upgrade
from balancer.daemon.eventlog import Say
from balancer.daemon.faults import described
from balancer.daemon.lineage import Lineage
from balancer.daemon.speaking import Speaking
from balancer.daemon.standin import Standin
from balancer.daemon.upgrade import Inheritance, Trial
from balancer.errors import BalancerError
from balancer.observe.log import Level
from balancer.observe.upgrades import DONE, NOT_DONE, POSSIBLE, TRYING

__all__ = ["Upgrading"]

# Programs that are told of virtual routers get so long to end before a new version knows nothing of them (seconds).
_PATIENCE = 5.0
_LOOK_EVERY = 0.01


class Upgrading:
    """`left` is what another version needs to go on; `is_stopping` sees to signals that have come, and tells whether
    the daemon ends. `found`: what an upgrade has left to this process. A trial wakes the caller by `selector`."""

    def __init__(
        self,
        lineage: Lineage,
        speaking: Speaking,
        selector: selectors.BaseSelector,
        *,
        left: Callable[[], dict[str, Any]],
        is_stopping: Callable[[], bool],
        say: Say,
        found: Inheritance | None = None,
    ) -> None:
        self._lineage = lineage
        self._speaking = speaking
        self._selector = selector
        self._left = left
        self._is_stopping = is_stopping
        self._say = say
        self._found = found if found is not None and not found.back else None
        """Until it is known whether this version serves."""
        self._back = found.back if found is not None else ""
        self.failure = ""
        """Why it does not."""
        # Who was executed again after a failure was so by another path than the one that it was started by.
        self._path: list[str] = found.head["command"] if found is not None else upgrade.successor()
        self.is_wanted = False
        self._is_dry = False
        self._since = 0.0
        self._trial: Trial | None = None
        self._command: list[str] = []
        self._version = ""
        self._hand_over_until = 0.0
        """The trial is over, and this is for programs that run; 0: it is not."""

    def want(self, *, is_dry: bool) -> None:
        """As soon as nothing else is under way."""
        # A dry run makes no real one of itself, nor the other way round.
        self._is_dry = is_dry and (self._is_dry or not self.is_wanted)
        self.is_wanted = True

    @property
    def is_under_way(self) -> bool:
        """No reload is to begin."""
        return self._trial is not None or self._hand_over_until > 0

    @property
    def due(self) -> float:
        """When `turn` is to be called at the latest (monotonic seconds)."""
        if self._hand_over_until or self.is_wanted or self.failure:
            return time.monotonic() + _LOOK_EVERY
        return self._trial.deadline if self._trial is not None else inf

    def forget(self) -> None:
        """In a child."""
        if self._trial is not None:
            os.close(self._trial.fileno())

    def ended(self, pid: int) -> bool:
        """A child has ended: whether it is of this."""
        if self._trial is None or self._trial.pid != pid:
            return False
        self._trial.pid = 0
        return True

    def stop(self) -> None:
        """The daemon ends."""
        self.is_wanted = False
        self._hand_over_until = 0.0
        self._end_trial()

    def begin(self) -> None:
        """Try the new version."""
        self.is_wanted = False
        self._since = time.monotonic()
        self._command = self._path
        if not self._is_dry:
            systemd.reloading()
        self._tell(Level.NOTICE, f"{TRYING} {self._command[0]} is now")
        try:
            self._trial = Trial(self._command, lambda: estate.write(self._left()))
        except OSError as error:
            self._refuse(f"there can be no process to try it: {error.strerror}")
            return
        self._selector.register(self._trial, selectors.EVENT_READ)

    def turn(self) -> None:
        """Go on."""
        if self._trial is not None and (verdict := self._trial.turn()) is not None:
            self._end_trial()
            self._version = verdict.version
            if verdict.why:
                self._refuse(verdict.why)
            elif self._is_dry:
                took = time.monotonic() - self._since
                text = f"{POSSIBLE} from {__version__} to {verdict.version}, tried in {took:.1f} s"
                self._tell(Level.NOTICE, text)
            else:
                self._hand_over_until = time.monotonic() + _PATIENCE
        if self._hand_over_until:
            speaker = self._speaking.speaker
            if speaker is None or not speaker.is_notifying or time.monotonic() >= self._hand_over_until:
                self._hand_over_until = 0.0
                self._hand_over(self._command)

    def _end_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            self._selector.unregister(trial)
            trial.close()

    def _refuse(self, why: str) -> None:
        first, *others = why.splitlines() or [""]
        for line in others:
            self._say(Level.ERR, line)
        self._tell(Level.ALERT, f"{NOT_DONE} {first}; {__version__} goes on")
        if not self._is_dry:
            systemd.ready()

    def _tell(self, level: Level, text: str) -> None:
        """The log, and the service manager: who asks may have nobody else to ask."""
        self._say(level, text)
        systemd.status(text)

    def _hand_over(self, command: list[str], back: str = "") -> None:
        """Become it. Where that fails all is as before, and where we are told to end meanwhile."""
        other = None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # What was heard and not seen to would be forgotten; what comes now waits for the new version.
            if self._is_stopping():
                return
            if (speaker := self._speaking.speaker) is not None:
                # Loaded before, for whoever stands in has no time for it.
                importlib.import_module("balancer.vrrp.succession")
                other = Standin(speaker)
            left = self._left()
            if other is not None:
                left["speaker"]["line"] = other.line
            more = {
                "version": __version__,
                "since": self._since,
                "command": self._path,
                "back": upgrade.itself(),
                "children": [child.pid for child in self._lineage.children if child.pid]
                + ([other.pid] if other is not None else []),
                "listening": sorted({sock.fileno() for each in self._lineage.all for sock in each.sockets.all}),
            }
            upgrade.become(command, estate.write(left, more), back)
        except (OSError, BalancerError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self._refuse(f"{command[0]} cannot be executed: {why}")
        except Exception as error:
            self._refuse(described(error))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if other is not None:
            other.end()

    # In the new version, or in the one before again

    def gone_back(self) -> None:
        """It was us before, and is again."""
        why, *lines = self._back.splitlines()
        for line in lines:
            self._say(Level.ERR, line)
        self._tell(Level.ALERT, f"{NOT_DONE} {why}; {__version__} goes on")

    def done(self) -> None:
        """Its workers serve."""
        found, self._found = self._found, None
        if found is not None:
            took = time.monotonic() - found.head["since"]
            self._tell(Level.NOTICE, f"{DONE} {found.head['version']} to {__version__} in {took:.1f} s")

    def refused(self, why: str) -> bool:
        """Its workers do not come up: whether that is an upgrade's end, of which whoever goes on tells why."""
        if self._found is None:
            return False
        self.failure = why or "no reason was given"
        return True

    def give_way(self) -> None:
        """The old version, whose workers are there still, is to go on."""
        why, self.failure = self.failure, ""
        found, self._found = self._found, None
        if found is not None:
            self._since = found.head["since"]
            if upgrade.runs(found.head["back"], self._speaking.turn):
                self._hand_over(found.head["back"], why)
            else:
                text = f"{NOT_DONE} {why}; {found.head['version']} is not there any more, its workers go on"
                self._tell(Level.ALERT, text)
