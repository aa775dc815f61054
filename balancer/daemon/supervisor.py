"""The parent: binds the sockets, starts and replaces the children, ends them, and speaks VRRP.

It runs no event loop library and serves nobody: a wait on signals, advertisements and deadlines, so that forking is
safe and a busy child never delays it. What it does has a module each, and this one is their course from start to end:

    lineage     the generations of processes, memory and sockets: one by one, as configurations follow each other
    children    processes are forked, and started again when they die (roles: what each then is)
    wishes      what it is asked for: the file again, other servers
    changeover  the steps from one generation to the next, or back
    upgrading   another version in its place: it finds all that this one has (estate), and has a changeover
    speaking    the virtual routers
    softstop    the end

It forks, and what it has is the children's too: each part has a `forget` for what is the supervisor's alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import Any

from balancer import __version__
from balancer.config.model import Config
from balancer.daemon import estate, privileges, signals, systemd, upgrade
from balancer.daemon.changeover import Changeover
from balancer.daemon.children import Children
from balancer.daemon.claim import Claim
from balancer.daemon.eventlog import EventLog, opened
from balancer.daemon.faults import described
from balancer.daemon.generation import Child, Generation
from balancer.daemon.lineage import Lineage
from balancer.daemon.logbook import Logbook, LogbookError, Storage
from balancer.daemon.passed import Passed
from balancer.daemon.privileges import Identity
from balancer.daemon.reload import Source, affordable, draft
from balancer.daemon.roles import Roles
from balancer.daemon.serving import Serving
from balancer.daemon.signals import Signals
from balancer.daemon.softstop import SoftStop
from balancer.daemon.speaking import Speaking
from balancer.daemon.upgrading import Upgrading
from balancer.daemon.watch import Watch
from balancer.daemon.wishes import Wishes
from balancer.errors import BalancerError, StartError
from balancer.observe.log import AccessLog, Level
from balancer.observe.upgrades import DRY_RUN, NOT_DONE, UPGRADE
from balancer.pool import shared

__all__ = ["Source", "Supervisor", "run", "take_over"]

# How often it is looked for what rings no bell (seconds).
_LOOK_EVERY = 0.01
_STDERR = 2


def take_over(found: upgrade.Inheritance, source: Source) -> int:
    """`run`, in the place of another version."""
    if found.is_lost:
        sockets = upgrade.clear(found)
        return Supervisor(source.load(), source, passed=Passed(("kept", sock) for sock in sockets)).run()
    try:
        left = estate.read(found.octets)
        supervisor = Supervisor(left["current"].plan.config, source, left=left, found=found)
    except Exception as error:
        upgrade.go_on_otherwise(found, str(error) if isinstance(error, BalancerError) else described(error))
    return supervisor.run()


def run(config: Config, source: Source | None = None) -> int:
    """Run the daemon until it is told to stop; the exit status. StartError when it cannot start. `source`: to read it
    anew."""
    return Supervisor(config, source).run()


class Supervisor:
    """One start of the daemon, in a process of its own: signal handlers and the like are not put back."""

    def __init__(
        self,
        config: Config,
        source: Source | None = None,
        *,
        left: dict[str, Any] | None = None,
        found: upgrade.Inheritance | None = None,
        passed: Passed | None = None,
    ) -> None:
        """`left`: by another version, in the place of which we are; as `found`. `passed`: sockets that are bound
        already; of the environment's."""
        self._config = config
        """To start with."""
        self._source = source
        self._left = left
        self._found = found
        self._passed = passed
        self._started = time.time()
        self._watch = Watch()
        self._stop: SoftStop | None = None
        """Since it was told to."""

    def run(self) -> int:
        """Start everything, keep it running, end it."""
        _open_standard_files()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(signals.ignore)
            try:
                self._selector = selectors.DefaultSelector()
                at_the_end.callback(self._selector.close)
                self._signals = Signals()
                at_the_end.callback(self._signals.close)
                self._selector.register(self._signals, selectors.EVENT_READ)
                if self._left is None:
                    upgrade.past_exec()
                    self._prepare(at_the_end)
                else:
                    self._resume_or_leave(at_the_end, self._left)
            except OSError as error:
                raise StartError(f"cannot start: {error}") from error
            at_the_end.callback(self._changeover.stop_reading)
            at_the_end.callback(self._children.kill)
            # Nothing made so far is ever freed; not even looked at, it stays shared with the children.
            gc.collect()
            gc.freeze()
            # First the workers: a director that serves nobody yet should not be master.
            self._children.start()
            if not self._wishes.is_reload_wanted:
                systemd.ready()
            self._speak()
            self._left = None
            self._look_after_children()
            self._events.say(Level.NOTICE, "stopped")
        return 0

    # Start

    def _prepare(self, at_the_end: contextlib.ExitStack) -> None:
        """All but processes."""
        identity = privileges.identity(self._config.global_.user, self._config.global_.group)
        logbook, problems = self._logbook(identity)
        at_the_end.callback(logbook.close)
        made = draft(self._config, kept=logbook.read().values())
        events = self._events = EventLog(opened(made.plan, identity), made.plan, identity)
        events.say_of(made._replace(warnings=problems + made.warnings))
        plan, lack = affordable(made.plan)
        if lack:
            events.say(Level.WARNING, lack)
        claim = Claim(identity, events.say)
        at_the_end.callback(claim.give_back)
        if plan.has_kernel:
            claim.take(waits=True)
        else:
            claim.clear_leftovers()
        passed = self._passed if self._passed is not None else Passed.of_environment()
        first = Generation.of(plan, events.log, identity, logbook=logbook, passed=passed)
        for text in first.sockets.warnings:
            events.say(Level.WARNING, text)
        self._put_together(at_the_end, Lineage(first, say=events.say), claim, identity)
        first.memory.go()
        self._speaking.prepare(plan.config.vrrp, made.scripts)
        first.children = self._roles.deciders(first) + self._roles.workers(first)
        events.say(Level.NOTICE, f"pybalancer starts, {plan.workers} worker{'s' if plan.workers > 1 else ''}")

    def _logbook(self, identity: Identity | None) -> tuple[Logbook, list[str]]:
        """What operators changed before the last stop, and what is wrong with it. We start all the same."""
        directory = self._config.global_.state_directory or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        try:
            logbook = Logbook(Storage(directory, identity) if directory else None)
        except LogbookError as error:
            return Logbook(), [f"runtime changes are not remembered over a restart: {error}"]
        return logbook, logbook.storage.problems if logbook.storage is not None else []

    def _resume_or_leave(self, at_the_end: contextlib.ExitStack, left: dict[str, Any]) -> None:
        """Where we cannot go on, another has to, and nothing of this is closed."""
        assert self._found is not None
        try:
            self._resume(at_the_end, left)
        except Exception as error:
            upgrade.go_on_otherwise(self._found, str(error) if isinstance(error, BalancerError) else described(error))
        upgrade.past_exec()

    def _resume(self, at_the_end: contextlib.ExitStack, left: dict[str, Any]) -> None:
        """With the processes of another version."""
        assert self._found is not None
        current: Generation = left["current"]
        self._started = left["started"]
        plan = current.plan
        identity = privileges.identity(plan.config.global_.user, plan.config.global_.group)
        at_the_end.callback(current.memory.logbook.close)
        log = opened(plan, identity)
        log.keep = current.memory.journal.writer("supervisor")
        events = self._events = EventLog(log, plan, identity)
        claim = Claim(identity, events.say, left)
        at_the_end.callback(claim.give_back)
        lineage = Lineage(current, left["elders"], say=events.say)
        self._put_together(at_the_end, lineage, claim, identity)
        for generation in lineage.all:
            generation.log = log if generation is current else AccessLog(())
            generation.serving = Serving(generation.plan, generation.memory)
            for child in generation.children:
                child.main = self._roles.main(generation, child)
        if "speaker" in left:
            self._speaking.inherit(left["speaker"])
        if self._found.back:
            self._upgrading.gone_back()
        else:
            self._wishes.is_reload_wanted = True
            events.say(Level.NOTICE, f"upgrade: {__version__} is here, its workers are to come")

    def _put_together(
        self, at_the_end: contextlib.ExitStack, lineage: Lineage, claim: Claim, identity: Identity | None
    ) -> None:
        """The parts, around generations that are there."""
        events, current = self._events, lineage.current
        self._lineage, self._claim = lineage, claim
        at_the_end.callback(lineage.close)
        if lineage.book.bell is None:
            lineage.book.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        at_the_end.callback(os.close, lineage.book.bell)
        self._selector.register(lineage.book.bell, selectors.EVENT_READ)
        self._roles = Roles(lineage, claim, self._started)
        self._children = Children(
            lineage, claim, identity, become=self._become_ordinary, missing=self._make_up_for, say=events.say
        )
        self._wishes = Wishes(current.memory.logbook, self._source, say=events.say)
        self._wishes.register(self._selector)
        self._speaking = Speaking(current, self._selector, log=events.remark)
        at_the_end.callback(self._speaking.close)
        at_the_end.callback(self._speaking.fall_silent)
        self._upgrading = Upgrading(
            lineage,
            self._speaking,
            self._selector,
            left=self._estate,
            is_stopping=self._is_told_to_stop,
            say=events.say,
            found=self._found,
        )
        self._changeover = Changeover(
            lineage,
            roles=self._roles,
            wishes=self._wishes,
            speaking=self._speaking,
            claim=claim,
            events=events,
            upgrading=self._upgrading,
            identity=identity,
            selector=self._selector,
            become=self._become_ordinary,
        )

    def _speak(self) -> None:
        """As was prepared."""
        try:
            self._speaking.change()
        except StartError as error:
            if not self._lineage.elders:
                raise
            # It is not a start: others are served.
            self._events.say(Level.ALERT, str(error))

    # The loop

    def _look_after_children(self) -> None:
        # One may have come while we prepared.
        self._take_signals()
        while self._lineage.children or (self._speaking.has_more_to_tell() and not self._is_over):
            self._children.start()
            self._selector.select(self._until_next())
            self._speaking.turn()
            self._take_signals()
            self._wishes.hear()
            self._reap()
            if self._stop is not None:
                self._stop.turn()
            else:
                self._see_who_hangs()
                self._go_on()
            self._lineage.see_to_elders(is_quiet=self._stop is not None)
            self._lineage.book.look()
            self._events.look()
            self._lineage.current.shut_doors()
            if not self._lineage.book.is_settled:
                self._lineage.book.settle()

    def _until_next(self) -> float | None:
        """Seconds to the next deadline; None where only the end of a child can bring work."""
        if self._stop is not None:
            if self._is_over:
                return None
            return max(0.0, min(self._stop.due, self._events.due) - time.monotonic())
        waiting = [
            self._watch.due,
            self._events.due,
            self._upgrading.due,
            self._changeover.due,
            self._children.due,
            self._speaking.due,
        ]
        waiting += [elder.kill_at for elder in self._lineage.elders if not elder.is_killed]
        if not self._lineage.book.is_settled or (self._wishes.are_open and not self._changeover.is_under_way):
            waiting.append(time.monotonic() + _LOOK_EVERY)
        return max(0.0, min(waiting) - time.monotonic())

    def _go_on(self) -> None:
        """With what is under way, or the next thing that is wanted: one at a time."""
        if self._upgrading.is_under_way:
            self._upgrading.turn()
        elif self._changeover.is_under_way:
            self._changeover.turn()
        elif self._upgrading.failure:
            self._upgrading.give_way()
        elif self._wishes.begin():
            self._changeover.begin()
        elif self._upgrading.is_wanted:
            self._upgrading.begin()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            is_ours = self._children.ended(pid, status) or self._changeover.ended(pid) or self._upgrading.ended(pid)
            if not is_ours:
                # A script, a child of whatever ran in this process before us, or an orphan where we are process 1.
                self._speaking.ended(pid, status)

    def _make_up_for(self, child: Child, why: str) -> None:
        """For one that should run and does not: another is started, or a changeover comes to nothing."""
        if not self._changeover.is_ended_by(child, why):
            self._children.start_later(child, why)

    def _see_who_hangs(self) -> None:
        for child, seconds in self._watch.look(self._lineage.current, time.monotonic()):
            self._events.say(Level.ALERT, f"{child.name} has not moved for {seconds:.0f} s, killed")
            os.kill(child.pid, signal.SIGKILL)

    def _become_ordinary(self) -> None:
        """In a new process: leave behind what is the supervisor's alone."""
        shared.forget()
        self._selector.close()
        self._changeover.forget()
        self._upgrading.forget()
        self._speaking.forget()
        self._claim.drop()
        self._signals.forget()

    def _estate(self) -> dict[str, Any]:
        """What another version needs to go on. All that is not here it makes anew."""
        left: dict[str, Any] = {
            "current": self._lineage.current,
            "elders": self._lineage.elders,
            "started": self._started,
            **self._claim.estate(),
        }
        if (speaker := self._speaking.estate()) is not None:
            left["speaker"] = speaker
        return left

    # Signals, and the end

    def _take_signals(self) -> None:
        for number in self._signals.heard():
            if number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGUSR1 and self._stop is None):
                self._stop_or_hurry()
            elif number == signal.SIGHUP:
                self._wishes.is_reload_wanted = True
            elif number in (UPGRADE, DRY_RUN) and self._source is None:
                text = f"{NOT_DONE} there is no file that another version could read; {__version__} goes on"
                self._events.say(Level.ALERT, text)
            elif number in (UPGRADE, DRY_RUN):
                self._upgrading.want(is_dry=number == DRY_RUN)

    def _is_told_to_stop(self) -> bool:
        """By now."""
        self._take_signals()
        return self._stop is not None

    def _stop_or_hurry(self) -> None:
        if self._stop is not None:
            self._stop.hurry()
            return
        systemd.stopping()
        self._children.start_no_more()
        self._upgrading.stop()
        self._wishes.stop()
        self._changeover.stop()
        self._events.say(Level.NOTICE, "stopping; a second signal ends at once")
        self._stop = SoftStop(self._lineage, self._speaking)

    @property
    def _is_over(self) -> bool:
        return self._stop is not None and self._stop.is_over


def _open_standard_files() -> None:
    """Closed ones lead nowhere from now on: else a socket would get their number, and what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
