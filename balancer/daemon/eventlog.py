"""What the supervisor says: to the log of the configuration that serves, and on the console where that one does not go.

A reload has another log; files of either are made anew where they are missing (observe.sinks).
"""

from __future__ import annotations

from collections.abc import Callable

from balancer.config import model
from balancer.daemon.plan import Plan
from balancer.daemon.privileges import Identity
from balancer.daemon.reload import Draft
from balancer.observe.log import AccessLog, Level
from balancer.observe.sinks import Files, prepare

__all__ = ["EventLog", "Say", "opened"]

Say = Callable[[Level, str], None]


def opened(plan: Plan, identity: Identity | None) -> AccessLog:
    """A plan's log, with files that `identity` too can write to. StartError where it cannot be."""
    prepare(plan.log_targets, identity)
    return AccessLog(plan.log)


class EventLog:
    """`identity` is whose the files are."""

    def __init__(self, log: AccessLog, plan: Plan, identity: Identity | None) -> None:
        self._identity = identity
        # One for as long as we run: a reload has no use for another, and must not fail for want of a descriptor.
        self._stderr = AccessLog([model.Log(target="stderr")])
        self.use(log, plan)

    def use(self, log: AccessLog, plan: Plan) -> None:
        """From now on, as this plan says."""
        self.log = log
        self._files = Files(plan.log_targets, self._identity)
        self._console = None if any(each.target in ("stdout", "stderr") for each in plan.log) else self._stderr

    def say(self, level: Level, text: str) -> None:
        self.log.event(level, text)
        if self._console is not None:
            self._console.event(level, text)

    def remark(self, text: str, is_warning: bool) -> None:
        """As those say who know two levels."""
        self.say(Level.WARNING if is_warning else Level.NOTICE, text)

    def say_of(self, made: Draft) -> None:
        """What is to be known of a configuration."""
        for text in made.warnings:
            self.say(Level.WARNING, text)
        for text in made.choices:
            self.say(Level.NOTICE, text)

    @property
    def due(self) -> float:
        """When `look` has something to do again (monotonic seconds)."""
        return self._files.due

    def look(self) -> None:
        """Make files anew that are missing, about once a second."""
        self._files.look()
