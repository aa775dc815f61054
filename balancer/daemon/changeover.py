"""From one generation to the next, in steps that the supervisor's loop takes as they become possible:

    begin       a process reads the file and makes a plan of it         else nothing changes
    _come       sockets and memory of a new generation, its workers     else, or if one dies: nothing changes
    _take_over  they take clients; old control and `kernel` end
    _install    what those decided and counted is taken over, and new ones start
                                                                        else, or if one dies: _go_back
    _dismiss    the virtual routers are others; old workers are told: they hand over datagram flows, and finish what
                they have

That servers are to be others goes the same way, without the file (wishes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import selectors
import signal
import time
from collections.abc import Callable
from math import inf

from balancer.daemon import privileges, systemd
from balancer.daemon.claim import Claim
from balancer.daemon.eventlog import EventLog, opened
from balancer.daemon.faults import described
from balancer.daemon.generation import GRACE, Child, Generation
from balancer.daemon.lineage import Lineage
from balancer.daemon.privileges import Identity
from balancer.daemon.reload import Draft, Look, Reading, affordable
from balancer.daemon.roles import Roles
from balancer.daemon.signals import blocked
from balancer.daemon.speaking import Speaking
from balancer.daemon.upgrading import Upgrading
from balancer.daemon.wishes import Wishes
from balancer.errors import StartError
from balancer.observe.log import Level
from balancer.observe.reloading import Outcome

__all__ = ["Changeover"]

# What new workers, and then the new rules, get to be there; and how often it is looked (seconds).
_UNTIL_READY, _UNTIL_RULES, _LOOK_EVERY = 20.0, 5.0, 0.01
# What an address gets to be free again that the last reload has removed.
_UNTIL_FREE, _TRY_EVERY = 1.0, 0.05


class Changeover:
    """`identity` is whose files and sockets are, `become` makes an ordinary process of a fork. The process that reads
    wakes the caller by `selector`."""

    def __init__(
        self,
        lineage: Lineage,
        *,
        roles: Roles,
        wishes: Wishes,
        speaking: Speaking,
        claim: Claim,
        events: EventLog,
        upgrading: Upgrading,
        identity: Identity | None,
        selector: selectors.BaseSelector,
        become: Callable[[], None],
    ) -> None:
        self._lineage = lineage
        self._roles = roles
        self._wishes = wishes
        self._speaking = speaking
        self._claim = claim
        self._events = events
        self._upgrading = upgrading
        self._identity = identity
        self._selector = selector
        self._become = become
        self._reading: Reading[Draft | Look] | None = None
        self._draft: Draft | None = None
        """Read, but what it is to listen to is not free yet, or there is no room for its workers."""
        self._try_at = 0.0
        self._is_going_back = False
        """It is one of before that takes over again."""
        self._changes = ""
        self._lines: tuple[str, ...] = ()
        self._until = 0.0
        """When the step that is under way has taken too long."""

    @property
    def is_under_way(self) -> bool:
        steps = self._reading, self._draft, self._lineage.coming, self._lineage.leaving
        return any(step is not None for step in steps)

    @property
    def due(self) -> float:
        """When `turn` is to be called at the latest (monotonic seconds)."""
        if self._reading is not None:
            return self._reading.deadline
        return time.monotonic() + _LOOK_EVERY if self.is_under_way else inf

    def begin(self) -> None:
        """Read what `wishes` has begun with."""
        current, masters, parent = self._lineage.current, self._speaking.masters, os.getpid()

        def become() -> None:
            self._become()
            privileges.die_with_parent(parent)

        try:
            with blocked():
                self._reading = Reading(lambda: self._wishes.read(current, masters), become)
        except OSError as error:
            self._refuse(f"there can be no process to read it: {error.strerror}")
            return
        self._selector.register(self._reading, selectors.EVENT_READ)

    def turn(self) -> None:
        """Take the next step, if it is possible."""
        coming, leaving = self._lineage.coming, self._lineage.leaving
        if self._reading is not None:
            made = self._reading.turn()
            if made is not None:
                self.stop_reading()
                self._see_to(made)
        elif self._draft is not None:
            if time.monotonic() >= self._try_at:
                self._come(self._draft)
        elif coming is not None:
            if coming.serving.are_ready(coming.lives):
                self._take_over(coming)
            elif time.monotonic() >= self._until:
                self._give_up(f"the new workers were not ready within {_UNTIL_READY:.0f} s")
        elif leaving is not None:
            self._go_on_taking_over(leaving)

    def ended(self, pid: int) -> bool:
        """A process has ended: whether it is the one that reads."""
        if self._reading is None or self._reading.pid != pid:
            return False
        self._reading.pid = 0
        return True

    def is_ended_by(self, child: Child, why: str) -> bool:
        """Whether nothing comes of it without that child, which has died or could not be started: then nobody is to
        take its place."""
        coming = self._lineage.coming
        if coming is not None and child in coming.children:
            self._give_up(why)
        elif self._lineage.leaving is not None and not self._is_going_back and child.number is None:
            self._go_back(why)
        else:
            return False
        return True

    def forget(self) -> None:
        """In a child."""
        if self._reading is not None:
            self._reading.close()

    def stop(self) -> None:
        """The daemon ends."""
        self.stop_reading()
        self._draft = None
        if self._lineage.coming is not None:
            self._abandon()
        self._lineage.leaving = None

    def stop_reading(self) -> None:
        """End the process that reads, if there is one."""
        reading, self._reading = self._reading, None
        if reading is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(reading)
            reading.close()
            if reading.pid:
                os.kill(reading.pid, signal.SIGKILL)
                os.waitpid(reading.pid, 0)

    # New workers

    def _see_to(self, made: Draft | Look | str) -> None:
        if self._wishes.is_look:
            assert not isinstance(made, Draft)
            self._wishes.show(made if isinstance(made, Look) else Look(why=made))
        elif isinstance(made, str):
            self._refuse(made)
        else:
            assert not isinstance(made, Look)
            self._come(made)

    def _come(self, made: Draft) -> None:
        """The new generation's sockets, memory and workers, beside those that serve."""
        before = self._lineage.current
        self._wishes.find(made.body)
        if self._wishes.is_of_servers and made.plan.laid == before.plan.laid:
            # Another reload has done it meanwhile.
            self._wishes.grant()
            return
        if self._lineage.waits_for_room(made.plan.workers):
            self._draft, self._try_at = made, time.monotonic() + _TRY_EVERY
            # Once there is some, addresses get as long as ever.
            self._until = time.monotonic() + _UNTIL_FREE
            return
        had_claim, log = self._claim.is_held, None
        try:
            plan, lack = affordable(dataclasses.replace(made.plan, keeps_flows=had_claim))
            # Tried again, it is told no more.
            made = made._replace(plan=plan)
            if lack and not self._wishes.is_of_servers:
                self._events.say(Level.WARNING, lack)
            if plan.has_kernel and not had_claim:
                # Nobody waits for another who goes while we serve.
                self._claim.take(waits=False)
            log = opened(plan, self._identity)
            self._speaking.prepare(plan.config.vrrp, made.scripts)
            coming = Generation.of(plan, log, self._identity, before)
        except Exception as error:
            self._speaking.give_up()
            if log is not None:
                log.close()
            if not had_claim:
                self._claim.drop()
            self._draft = made if self._may_be_free_soon(error) else None
            if self._draft is None:
                # A defect of ours is no reason to end those who serve.
                why = str(error) if isinstance(error, StartError | OSError) else described(error)
                self._refuse(why, "rolled back")
            return
        self._draft = None
        if self._wishes.is_of_servers:
            coming.leave_doors(before)
        else:
            self._events.say_of(made)
        self._changes, self._lines = made.changes, made.lines
        self._lineage.coming = coming
        coming.children = self._roles.workers(coming)
        self._until = time.monotonic() + _UNTIL_READY
        # As at the start; what is garbage by now does not matter.
        gc.freeze()

    def _may_be_free_soon(self, error: Exception) -> bool:
        """What the last reload has removed is closed by its workers, once they have taken who was in the queue."""
        self._try_at = time.monotonic() + _TRY_EVERY
        is_taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        now = time.monotonic()
        if self._draft is None:
            self._until = now + _UNTIL_FREE
        return is_taken and any(elder.children for elder in self._lineage.elders) and now < self._until

    def _refuse(self, why: str, outcome: Outcome = "refused") -> None:
        is_of_file = not (self._wishes.is_of_servers or self._wishes.is_look)
        is_told = is_of_file and self._upgrading.refused(next(iter(why.splitlines()), ""))
        self._wishes.refuse(why, outcome, is_told=is_told)

    def _give_up(self, why: str) -> None:
        """Nobody has come to the new workers yet."""
        self._abandon()
        self._refuse(why, "rolled back")

    def _abandon(self) -> None:
        self._speaking.give_up()
        self._lineage.abandon()
        if not self._claim.has_rules:
            self._claim.drop()

    # Taking over

    def _take_over(self, coming: Generation) -> None:
        """New workers take clients, those of before still do."""
        before = self._lineage.current
        now = time.monotonic()
        if coming.plan.has_kernel_frontends:
            # The old rules are there until the new ones are.
            coming.memory.applied[0] = before.memory.applied[0] or int(now * 1e6)
        self._lineage.succeed(coming)
        self._speaking.follow(coming)
        before.log.flush()
        self._events.use(coming.log, coming.plan)
        coming.sockets.settle()
        coming.memory.go()
        before.children = [child for child in before.children if child.pid]
        for child in before.children:
            if child.is_of_network and coming.plan.has_kernel:
                child.is_followed = True
                child.tell(signal.SIGUSR1)
            elif child.number is None:
                child.tell(signal.SIGTERM)
        self._until = now + GRACE

    def _go_on_taking_over(self, before: Generation) -> None:
        current, now = self._lineage.current, time.monotonic()
        deciders = [child for child in before.children if child.number is None]
        if deciders:
            if now >= self._until:
                for child in deciders:
                    os.kill(child.pid, signal.SIGKILL)
            return
        control = next((child for child in current.children if child.name == "control"), None)
        kernel = next((child for child in current.children if child.is_of_network), None)
        if control is None:
            self._install(before)
        elif not self._is_going_back and current.memory.beat[0] * 1e-6 < control.started:
            if now >= control.started + _UNTIL_READY:
                self._go_back(f"new control was not ready within {_UNTIL_READY:.0f} s")
        elif kernel is None or current.memory.applied[0] * 1e-6 >= kernel.started:
            self._dismiss(before)
        elif self._is_going_back and self._upgrading.failure:
            # The version before has a process of its own for the rules, which are as it has left them.
            self._dismiss(before)
        elif now >= self._until:
            self._events.say(Level.WARNING, f"the kernel has not taken the new rules within {_UNTIL_RULES:.0f} s")
            self._dismiss(before)

    def _install(self, before: Generation) -> None:
        current = self._lineage.current
        if self._is_going_back:
            current.take_back(before)
        else:
            current.take_over(before)
        # The workers look at the board again.
        current.memory.go()
        current.children[:0] = self._roles.deciders(current)
        self._until = time.monotonic() + _UNTIL_RULES

    def _go_back(self, why: str) -> None:
        """New control or new rules do not come up. Workers of before have never left off: theirs is all that is new,
        and what the new workers have taken they finish."""
        before, failed = self._lineage.leaving, self._lineage.current
        assert before is not None
        self._refuse(why, "rolled back")
        self._speaking.give_up()
        self._is_going_back = True
        failed.predecessor = None
        # One that has died meanwhile had nobody follow it.
        numbers = {child.number for child in before.children}
        before.children += [child for child in self._roles.workers(before) if child.number not in numbers]
        self._take_over(before)

    # The end of those before

    def _dismiss(self, before: Generation) -> None:
        current, is_of_servers = self._lineage.current, self._wishes.is_of_servers
        self._lineage.leaving = None
        self._change_virtual_routers()
        # What is removed may still have somebody in its queue: those who are told accept them.
        before.sockets.close(but=current.sockets)
        before.memory.has_time[0] = int(is_of_servers)
        before.dismissed = time.monotonic()
        for child in before.children:
            child.tell(signal.SIGUSR1)
        for succession in before.memory.successions:
            succession.close()
        # There is no way back from here.
        current.predecessor, current.folded = None, []
        for elder in () if is_of_servers else [each for each in self._lineage.elders if each.kill_at == inf]:
            # Those too who had time, as only servers were others.
            elder.memory.has_time[0] = 0
            elder.kill_at = time.monotonic() + elder.plan.config.global_.hard_stop_after + GRACE
            for child in elder.children:
                child.tell(signal.SIGUSR1)
        if self._is_going_back:
            self._is_going_back = False
            if not current.plan.has_kernel:
                self._claim.give_back()
            self._events.say(Level.NOTICE, "those of before the reload have taken over again")
        else:
            self._tell_what_has_come()
        self._lineage.end_surplus()
        systemd.ready()

    def _change_virtual_routers(self) -> None:
        try:
            self._speaking.change()
        except StartError as error:
            # It cannot be taken back any more.
            self._events.say(Level.ALERT, str(error))

    def _tell_what_has_come(self) -> None:
        self._wishes.grant()
        self._events.say(Level.NOTICE, f"reloaded: {self._changes}")
        if not self._wishes.is_of_servers:
            self._upgrading.done()
            for line in self._lines:
                self._events.say(Level.INFO, line)
