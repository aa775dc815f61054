"""The parent: binds the sockets, starts and replaces the children, ends them, and speaks VRRP.

It runs no event loop library and serves nobody: a wait on signals, advertisements and deadlines, so that forking is
safe and a busy child never delays it. Its children are forked, not executed: what was imported before
is shared memory, and a replacement is there in milliseconds.

SIGHUP, a reload, in steps that the main loop takes as they become possible:

    _read       a process reads the file and makes a plan of it         else nothing changes
    _come       sockets and memory of a new generation, its workers     else, or if one dies: nothing changes
    _take_over  they take clients; old control and `kernel` end
    _install    what those decided and counted is taken over, and new ones start
    _dismiss    old workers are told: they hand over datagram flows, and finish what they have
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from balancer.config import model
from balancer.config.model import Config
from balancer.daemon import errands, privileges, systemd
from balancer.daemon.control import Control
from balancer.daemon.faults import described
from balancer.daemon.generation import Child, Generation
from balancer.daemon.limits import Book
from balancer.daemon.plan import Plan
from balancer.daemon.reload import Draft, Reading, Source, draft
from balancer.daemon.spawn import spawn
from balancer.daemon.worker import Worker
from balancer.errors import BalancerError, StartError
from balancer.observe.log import AccessLog, Level
from balancer.pool import routers

if TYPE_CHECKING:
    from balancer.daemon.lock import Lock
    from balancer.vrrp.speaker import Speaker
    from balancer.vrrp.track import Service

__all__ = ["Source", "Supervisor", "run"]

# A child that dies young is started again after a pause that doubles up to this.
_LONGEST_PAUSE = 5.0
_YOUNG = 1.0
# After the children's own hard stop, what they get before they are killed.
_GRACE = 2.0
# Control that has not moved for so long is replaced: nobody would check servers any more. Looked at this often.
_FROZEN = 10.0
_WATCH_EVERY = 5.0
# What programs get that are told of the end.
_LAST_WORDS = 5.0
# Where the virtual routers stand is told to control at most so often, and its orders are taken so often (seconds).
_TELL_EVERY = 0.2
_TAKE_EVERY = 0.1
# What others send to an address that has moved still comes here until they know; their flows need the rules so long.
_LINGER = 2.0
# What new workers, and then the new rules, get to be there after a reload; and how often it is looked.
_UNTIL_READY, _UNTIL_RULES, _LOOK_EVERY = 20.0, 5.0, 0.01
# What an address gets to be free again that the last reload has removed.
_UNTIL_FREE, _TRY_EVERY = 1.0, 0.05
# Generations that may have connections left at one time, besides the one that takes new ones.
_MOST_ELDERS = 8
# There if a daemon of this boot had rules in the kernel (kerneld.state_file).
_TRACES = Path("/run/pybalancer/kernel")
_STDERR = 2
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD)


def run(config: Config, source: Source | None = None) -> int:
    """Run the daemon until it is told to stop; the exit status. StartError when it cannot start. `source`: to read it
    anew."""
    return Supervisor(config, source).run()


class Supervisor:
    """One start of the daemon, in a process of its own: signal handlers and the like are not put back."""

    def __init__(self, config: Config, source: Source | None = None) -> None:
        self._config = config
        """To start with."""
        self._source = source
        self._started = time.time()
        self._current: Generation | None = None
        self._elders: list[Generation] = []
        """The oldest first."""
        self._speaker: Speaker | None = None
        # After its stop.
        self._silent: Speaker | None = None
        self._silent_since = 0.0
        self._told_at = 0.0
        self._watched_at = 0.0
        # When orders are taken again; 0: as they come.
        self._take_at = 0.0
        self._stopping = False
        self._kill_at = 0.0
        self._killed = False
        # Until when the rules stay at the end.
        self._rules_until = 0.0
        # What the process `kernel` needs, where there is to be one.
        self._lock: Lock | None = None
        self._state: Path | None = None
        self._has_rules = False
        # A reload: wanted, being read, coming up, taken over from.
        self._is_reload_wanted = False
        self._reading: Reading | None = None
        self._draft: Draft | None = None
        """Read, but what it is to listen to is not free yet."""
        self._try_at = 0.0
        self._coming: Generation | None = None
        self._leaving: Generation | None = None
        self._changes = ""
        self._reload_until = 0.0
        """When the step that is under way has taken too long."""

    def run(self) -> int:
        """Start everything, keep it running, end it."""
        _open_standard_files()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(_ignore_signals)
            try:
                self._hear_signals()
                at_the_end.callback(self._hear_no_more)
                self._prepare(at_the_end)
            except OSError as error:
                raise StartError(f"cannot start: {error}") from error
            at_the_end.callback(self._end_children)
            # Nothing made so far is ever freed; not even looked at, it stays shared with the children.
            gc.collect()
            gc.freeze()
            # First the workers: a director that serves nobody yet should not be master.
            self._start_due()
            systemd.ready()
            if self._speaker is not None:
                privileges.be_on_time()
                self._speaker.start()
            self._look_after_children()
            self._say(Level.NOTICE, "stopped")
        return 0

    def _prepare(self, at_the_end: contextlib.ExitStack) -> None:
        made = draft(self._config)
        self._identity = privileges.identity(self._config.global_.user, self._config.global_.group)
        log = AccessLog(made.plan.log)
        # One for as long as we run: a reload has no use for another, and must not fail for want of a descriptor.
        self._stderr = AccessLog(model.Log(), stdout=_STDERR)
        self._use_log(log, made.plan)
        self._say_all(made)
        plan = self._affordable(made.plan)
        at_the_end.callback(self._give_kernel_back)
        if plan.has_kernel:
            self._claim_kernel()
        elif _TRACES.is_dir():
            self._clear_leftovers()
        first = self._current = Generation.of(plan, log, self._identity)
        at_the_end.callback(self._close_all)
        first.memory.go()
        if plan.config.vrrp.instances:
            self._learn_to_speak(at_the_end)
        first.children = self._deciders(first) + self._workers(first)
        self._say(Level.NOTICE, f"pybalancer starts, {plan.workers} worker{'s' if plan.workers > 1 else ''}")

    def _say_all(self, made: Draft) -> None:
        for text in made.warnings:
            self._say(Level.WARNING, text)
        for text in made.choices:
            self._say(Level.NOTICE, text)

    def _use_log(self, log: AccessLog, plan: Plan) -> None:
        self._log = log
        self._console = None if plan.log.target == "stdout" else self._stderr

    def _workers(self, generation: Generation) -> list[Child]:
        return [
            Child(f"worker {number}", functools.partial(self._worker, generation, number), number=number)
            for number in range(generation.plan.workers)
        ]

    def _deciders(self, generation: Generation) -> list[Child]:
        children = [Child("control", functools.partial(self._control, generation))]
        if generation.plan.has_kernel:
            children.append(Child("kernel", functools.partial(self._kernel, generation), is_of_network=True))
        return children

    @property
    def _generations(self) -> list[Generation]:
        """The oldest first."""
        return [each for each in (*self._elders, self._current, self._coming) if each is not None]

    @property
    def _children(self) -> list[Child]:
        return [child for generation in self._generations for child in generation.children]

    def _close_all(self) -> None:
        for generation in self._generations:
            generation.sockets.close()
            generation.close()

    def _affordable(self, plan: Plan) -> Plan:
        """As many connections as our descriptors carry: serve with less rather than run out of them, or not serve at
        all. StartError."""
        wanted = plan.open_files
        allowed = privileges.raise_open_files(wanted)
        if allowed >= wanted:
            return plan
        within = plan.within(allowed)
        if within.maxconn < plan.maxconn:
            self._say(
                Level.WARNING,
                f"global.maxconn {plan.maxconn} needs {wanted} open files per worker, {allowed} are allowed: "
                f"{within.maxconn} connections are served; raise the limit (LimitNOFILE=, ulimit -n) or lower maxconn",
            )
        return within

    def _claim_kernel(self) -> None:
        """Its rules are for one daemon only. StartError where another has them."""
        # The library, and what goes with it, is loaded by those only who need it.
        from balancer.daemon import kerneld

        # Nobody waits for another who goes while we serve.
        self._lock = kerneld.exclusive() if self._current is None else kerneld.exclusive(patience=0.0)
        self._state = kerneld.state_file(self._identity)

    def _give_kernel_back(self) -> None:
        self._clear_kernel()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _clear_kernel(self) -> None:
        """Where the process `kernel` could not do it: no rules of ours outlive us."""
        if self._has_rules and self._state is not None:
            from balancer.daemon import kerneld

            try:
                kerneld.clear(self._state)
            except BalancerError as error:
                self._say(Level.ALERT, f"the kernel's rules could not be taken away: {error}")

    def _clear_leftovers(self) -> None:
        """Rules of an earlier run that nobody uses any more."""
        from balancer.daemon import kerneld

        try:
            for line in kerneld.clear_leftovers():
                self._say(Level.NOTICE, line)
        except (BalancerError, OSError) as error:
            self._say(Level.ALERT, f"what an earlier run has left in the kernel cannot be taken away: {error}")

    def _say(self, level: Level, text: str) -> None:
        self._log.event(level, text)
        if self._console is not None:
            self._console.event(level, text)

    def _tell(self, text: str, is_warning: bool) -> None:
        self._say(Level.WARNING if is_warning else Level.NOTICE, text)

    # Children

    def _look_after_children(self) -> None:
        # One may have come while we prepared.
        self._take_signals()
        while self._children or self._has_more_to_tell():
            self._start_due()
            self._selector.select(self._until_next())
            if self._speaker is not None:
                self._speaker.turn()
                self._take_orders(self._speaker)
                self._tell_control(self._speaker)
            self._take_signals()
            self._reap()
            if self._stopping:
                self._see_to_the_end()
            else:
                self._watch_control()
                self._go_on_reloading()
            self._see_to_elders()
            if not self._book.is_settled:
                self._book.settle()

    def _watch_control(self) -> None:
        """Replace it when it hangs. Who hung ourselves gives it time to move first."""
        now = time.monotonic()
        if now < self._watched_at + _WATCH_EVERY:
            return
        late, self._watched_at = now - self._watched_at - _WATCH_EVERY, now
        assert self._current is not None
        control = next((child for child in self._current.children if child.name == "control"), None)
        if control is None or not control.pid or late > _WATCH_EVERY:
            return
        moved = max(self._current.memory.beat[0] * 1e-6, control.started)
        if now - moved > _FROZEN:
            self._say(Level.ALERT, f"{control.name} has not moved for {now - moved:.0f} s, killed")
            os.kill(control.pid, signal.SIGKILL)

    def _start_due(self) -> None:
        now = time.monotonic()
        if self._stopping:
            return
        for child in [child for each in (self._current, self._coming) if each is not None for child in each.children]:
            if not child.pid and child.start_at <= now and child in self._children:
                child.started = now
                try:
                    if child.number is not None:
                        child.slot = self._book.enter()
                    child.pid = self._fork(child)
                except OSError as error:
                    self._free_slot(child)
                    self._is_missing(child, f"{child.name} could not be started: {error.strerror}")

    @property
    def _book(self) -> Book:
        assert self._current is not None
        return self._current.memory.book

    def _free_slot(self, child: Child) -> None:
        """What it held of the limits is given back, not later than some turns from now."""
        slot, child.slot = child.slot, None
        if slot is not None:
            self._book.leave(slot)
            self._book.settle()

    def _fork(self, child: Child) -> int:
        parent = os.getpid()
        # A signal that reached the child before it has left our handlers behind would come out of our pipe.
        self._has_rules |= child.is_of_network
        with _blocked(_HANDLED):
            pid = os.fork()
            if not pid:
                self._be(child, parent)
        return pid

    def _be(self, child: Child, parent: int) -> NoReturn:
        """In the new process: become the child, never come back."""
        status = 1
        try:
            self._be_a_child()
            if child.is_of_network:
                privileges.drop_to_network(self._identity)
            else:
                privileges.drop(self._identity)
            privileges.die_with_parent(parent)
            child.main()
            status = 0
        except (BalancerError, OSError) as error:
            self._say(Level.ALERT, f"{child.name}: {error}")
        except BaseException as error:
            self._say(Level.ALERT, f"{child.name}: {described(error)}")
        finally:
            os._exit(status)

    def _be_a_child(self) -> None:
        """Leave behind what is the supervisor's alone."""
        self._hear_no_more()
        if self._reading is not None:
            self._reading.close()
        if self._speaker is not None:
            self._speaker.forget()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C and the end of a terminal reach the whole process group; the supervisor tells the children what to do.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        if self._lock is not None:
            self._lock.close()

    def _beside(self, generation: Generation) -> list[Generation]:
        return [other for other in self._generations if other is not generation]

    def _worker(self, generation: Generation, number: int) -> None:
        memory, predecessor = generation.memory, None
        generation.sockets.keep(
            lambda _, worker: worker == number,
            stats=False,
            beside=[other.sockets for other in self._beside(generation)],
        )
        for line in (memory.line, memory.kernel_line):
            if line is not None:
                line.close()
        for other, succession in enumerate(memory.successions):
            succession.new.close()
            if other != number:
                succession.old.close()
        before = generation.predecessor
        if before is not None and number < len(before.memory.successions):
            predecessor = before.memory.successions[number].new
            predecessor = socket.socket(fileno=os.dup(predecessor.fileno()))
        for elder in self._beside(generation):
            elder.memory.close()
        own = {name: of_worker[number] for name, of_worker in generation.sockets.frontends.items()}
        slot = next(child.slot for child in generation.children if child.number == number)
        assert slot is not None
        Worker(generation.plan, memory, number, own, predecessor, slot=slot).run()

    def _control(self, generation: Generation) -> None:
        memory = generation.memory
        self._leave_sockets(generation, stats=True)
        if memory.line is not None:
            memory.line.supervisor.close()
        if memory.kernel_line is not None:
            memory.kernel_line.kernel.close()
        for succession in memory.successions:
            succession.close()
        for other in self._beside(generation):
            other.memory.close(keeps_workers=other in generation.elders)
        Control(
            generation.plan,
            memory,
            generation.sockets.stats,
            node=socket.gethostname(),
            started=self._started,
            runtime=generation.sockets.runtime,
            elders=[elder.former for elder in generation.elders],
        ).run()

    def _kernel(self, generation: Generation) -> None:
        from balancer.daemon.kerneld import Engine

        memory = generation.memory
        self._leave_sockets(generation, stats=False)
        for other in self._beside(generation):
            other.memory.close()
        if memory.line is not None:
            memory.line.close()
        for succession in memory.successions:
            succession.close()
        assert memory.kernel_line is not None and self._state is not None
        memory.kernel_line.control.close()
        Engine(generation.plan, memory, self._state).run()

    def _leave_sockets(self, generation: Generation, *, stats: bool) -> None:
        beside = [other.sockets for other in self._beside(generation)]
        generation.sockets.keep(lambda *_: False, stats=stats, beside=beside)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = next((child for child in self._children if child.pid == pid), None)
            if child is not None:
                self._on_death(child, status)
            elif self._reading is not None and self._reading.pid == pid:
                self._reading.pid = 0
            elif (speaker := self._speaker or self._silent) is not None:
                # A script, a child of whatever ran in this process before us, or an orphan where we are process 1.
                speaker.ended(pid, status)

    def _on_death(self, child: Child, status: int) -> None:
        child.pid = 0
        self._free_slot(child)
        if child.is_of_network and self._stopping and not status and not child.is_followed:
            self._has_rules = False
        generation = next((each for each in self._generations if child in each.children), None)
        ending = _ending(os.waitstatus_to_exitcode(status))
        if generation is not None and (child.is_told or self._stopping or generation in self._elders):
            generation.bury(child, was_killed=status != 0)
            if status and not self._stopping and not generation.is_killed:
                self._say(Level.ALERT, f"{child.name} of before the reload {ending}")
            return
        if generation is not None and child.number is not None:
            generation.memory.let_go(child.number, for_good=False)
        self._is_missing(child, f"{child.name} {ending}")

    def _is_missing(self, child: Child, why: str) -> None:
        if self._coming is not None and child in self._coming.children:
            self._give_up(why)
        else:
            self._start_later(child, why)

    def _start_later(self, child: Child, why: str) -> None:
        now = time.monotonic()
        young = now - child.started < _YOUNG
        child.pause = min(_LONGEST_PAUSE, max(0.1, 2 * child.pause)) if young else 0.0
        child.start_at = now + child.pause
        self._say(Level.ALERT, f"{why}, starting another{f' in {child.pause:g} s' if child.pause else ''}")

    def _until_next(self) -> float | None:
        """Seconds to the next deadline; None where only the end of a child can bring work."""
        if self._stopping:
            if self._killed:
                return None
            end = self._kill_at if self._children else self._silent_since + _LAST_WORDS
            if any(child.is_of_network and not child.is_told for child in self._children):
                end = min(end, self._rules_until)
            return max(0.0, end - time.monotonic())
        waiting = [self._watched_at + _WATCH_EVERY, *(child.start_at for child in self._children if not child.pid)]
        waiting += [elder.kill_at for elder in self._elders if not elder.is_killed]
        if not self._book.is_settled:
            waiting.append(time.monotonic() + _LOOK_EVERY)
        if self._reading is not None:
            waiting.append(self._reading.deadline)
        elif self._is_reload_wanted or self._draft is not None or self._coming is not None or self._leaving is not None:
            waiting.append(time.monotonic() + _LOOK_EVERY)
        if self._speaker is not None:
            waiting.append(self._speaker.due)
            if self._speaker.has_news:
                waiting.append(self._told_at + _TELL_EVERY)
            if self._take_at:
                waiting.append(self._take_at)
        return max(0.0, min(waiting) - time.monotonic())

    # Virtual routers

    def _learn_to_speak(self, at_the_end: contextlib.ExitStack) -> None:
        # Netlink comes with a large library, which only those load who need it.
        from balancer.vrrp.speaker import Speaker

        assert self._current is not None
        vrrp = self._current.plan.config.vrrp
        identity = _script_identity(vrrp.script_user)
        self._speaker = Speaker(
            vrrp,
            node=socket.gethostname(),
            log=self._tell,
            spawn=lambda words: spawn(words, identity),
            service=self._service,
        )
        at_the_end.callback(self._speaker.close)
        at_the_end.callback(self._fall_silent)
        self._selector.register(self._speaker, selectors.EVENT_READ)
        self._selector.register(self._line, selectors.EVENT_READ)

    @property
    def _line(self) -> socket.socket:
        """From control."""
        assert self._current is not None and self._current.memory.line is not None
        return self._current.memory.line.supervisor

    def _service(self) -> Service:
        from balancer.vrrp.track import Service

        assert self._current is not None
        serving, now = self._current.serving, time.monotonic()
        trouble = serving.trouble(now)
        is_serving = not trouble and serving.is_serving(self._current.lives, now)
        return Service(is_serving, serving.servers(), *([trouble] if trouble else []))

    def _take_orders(self, speaker: Speaker) -> None:
        """Those that control passes on, a few at a time: it must not be able to keep us from speaking."""
        line, now = self._line, time.monotonic()
        if self._take_at:
            if now < self._take_at:
                return
            self._take_at = 0.0
            self._selector.register(line, selectors.EVENT_READ)
        if errands.take(line, speaker):
            self._selector.unregister(line)
            self._take_at = now + _TAKE_EVERY

    def _tell_control(self, speaker: Speaker) -> None:
        now = time.monotonic()
        if speaker.has_news and now - self._told_at >= _TELL_EVERY:
            self._tell_standing(speaker, now)

    def _tell_standing(self, speaker: Speaker, now: float) -> None:
        assert self._current is not None
        self._told_at = now
        routers.post(speaker.standing(), self._current.memory.notice)

    def _fall_silent(self) -> None:
        """Give all addresses up."""
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            self._silent = speaker
            self._silent_since = time.monotonic()
            speaker.stop()
            self._tell_standing(speaker, self._silent_since)
            self._selector.unregister(speaker)
            if not self._take_at:
                # Nobody takes orders any more.
                self._selector.unregister(self._line)

    def _has_more_to_tell(self) -> bool:
        """Whether a program runs that was told of the end: the service manager kills it when we are gone."""
        left = self._silent_since + _LAST_WORDS - time.monotonic()
        return self._silent is not None and self._silent.is_notifying and left > 0 and not self._killed

    # Reload

    def _go_on_reloading(self) -> None:
        if self._reading is not None:
            made = self._reading.turn()
            if made is not None:
                self._stop_reading()
                self._come(made)
        elif self._draft is not None:
            if time.monotonic() >= self._try_at:
                self._come(self._draft)
        elif self._coming is not None:
            if self._coming.serving.are_ready(self._coming.lives):
                self._take_over(self._coming)
            elif time.monotonic() >= self._reload_until:
                self._give_up(f"the new workers were not ready within {_UNTIL_READY:.0f} s")
        elif self._leaving is not None:
            self._go_on_taking_over(self._leaving)
        elif self._is_reload_wanted:
            self._is_reload_wanted = False
            self._read()

    def _read(self) -> None:
        source, current = self._source, self._current
        if source is None or current is None:
            self._say(Level.WARNING, "SIGHUP: there is no file to read again")
            return
        systemd.reloading()
        self._say(Level.NOTICE, f"reloading {source.name}")
        parent = os.getpid()

        def make() -> Draft:
            return draft(source.load(), current.plan)

        def become() -> None:
            self._be_a_child()
            privileges.die_with_parent(parent)

        try:
            with _blocked(_HANDLED):
                self._reading = Reading(make, become)
        except OSError as error:
            self._refuse(f"there can be no process to read it: {error.strerror}")
            return
        self._selector.register(self._reading, selectors.EVENT_READ)

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(reading)
            reading.close()
            if reading.pid:
                os.kill(reading.pid, signal.SIGKILL)
                os.waitpid(reading.pid, 0)

    def _refuse(self, why: str) -> None:
        """Nothing has changed; every line of the reason is one in the log."""
        for line in why.splitlines():
            self._say(Level.ERR, line)
        assert self._source is not None
        self._say(Level.ALERT, f"{self._source.name} is not loaded, all goes on as before")
        systemd.ready()

    def _come(self, made: Draft | str) -> None:
        """The new generation's sockets, memory and workers, beside those that serve."""
        before = self._current
        assert before is not None
        if isinstance(made, str):
            self._refuse(made)
            return
        had_kernel, log = self._lock is not None, None
        try:
            plan = self._affordable(dataclasses.replace(made.plan, keeps_flows=had_kernel))
            made = made._replace(plan=plan)
            if plan.has_kernel and not had_kernel:
                self._claim_kernel()
            log = AccessLog(plan.log)
            coming = Generation.of(plan, log, self._identity, before)
        except Exception as error:
            if log is not None:
                log.close()
            if not had_kernel and self._lock is not None:
                self._lock.close()
                self._lock = None
            self._draft = made if self._may_be_free_soon(error) else None
            if self._draft is None:
                # A defect of ours is no reason to end those who serve.
                self._refuse(str(error) if isinstance(error, StartError | OSError) else described(error))
            return
        self._draft = None
        self._say_all(made)
        self._changes = made.changes
        self._coming = coming
        coming.children = self._workers(coming)
        self._reload_until = time.monotonic() + _UNTIL_READY
        # As at the start; what is garbage by now does not matter.
        gc.freeze()
        self._start_due()

    def _may_be_free_soon(self, error: Exception) -> bool:
        """What the last reload has removed is closed by its workers, once they have taken who was in the queue."""
        self._try_at = time.monotonic() + _TRY_EVERY
        is_taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        now = time.monotonic()
        if self._draft is None:
            self._reload_until = now + _UNTIL_FREE
        return is_taken and any(elder.children for elder in self._elders) and now < self._reload_until

    def _give_up(self, why: str) -> None:
        """Nobody has come to the new workers yet."""
        coming, self._coming = self._coming, None
        assert coming is not None
        self._abandon(coming)
        self._refuse(why)

    def _abandon(self, coming: Generation) -> None:
        coming.children = [child for child in coming.children if child.pid]
        coming.kill()
        coming.sockets.take_back()
        coming.predecessor = None
        if self._lock is not None and not self._has_rules:
            self._lock.close()
            self._lock = None
        self._elders.insert(0, coming)

    def _take_over(self, coming: Generation) -> None:
        """From here on there is no way back."""
        before = self._leaving = self._current
        assert before is not None
        now = time.monotonic()
        if coming.plan.has_kernel_frontends:
            # The old rules are there until the new ones are.
            coming.memory.applied[0] = before.memory.applied[0] or int(now * 1e6)
        if self._speaker is not None:
            if not self._take_at:
                self._selector.unregister(self._line)
            self._take_at = 0.0
        self._current, self._coming = coming, None
        self._elders.append(before)
        if self._speaker is not None:
            self._selector.register(self._line, selectors.EVENT_READ)
            self._tell_standing(self._speaker, now)
        before.log.flush()
        self._use_log(coming.log, coming.plan)
        coming.sockets.settle()
        coming.memory.go()
        before.children = [child for child in before.children if child.pid]
        for child in before.children:
            if child.is_of_network:
                child.is_followed = True
                child.tell(signal.SIGUSR1)
            elif child.number is None:
                child.tell(signal.SIGTERM)
        self._reload_until = now + _GRACE

    def _go_on_taking_over(self, before: Generation) -> None:
        assert self._current is not None
        now = time.monotonic()
        deciders = [child for child in before.children if child.number is None]
        if deciders:
            if now >= self._reload_until:
                for child in deciders:
                    os.kill(child.pid, signal.SIGKILL)
            return
        kernel = next((child for child in self._current.children if child.is_of_network), None)
        if not any(child.name == "control" for child in self._current.children):
            self._install(before)
        elif kernel is None or self._current.memory.applied[0] * 1e-6 >= kernel.started:
            self._dismiss(before)
        elif now >= self._reload_until:
            self._say(Level.WARNING, f"the kernel has not taken the new rules within {_UNTIL_RULES:.0f} s")
            self._dismiss(before)

    def _install(self, before: Generation) -> None:
        assert self._current is not None
        self._current.take_over(before)
        # The workers look at the board again.
        self._current.memory.go()
        self._current.children[:0] = self._deciders(self._current)
        self._reload_until = time.monotonic() + _UNTIL_RULES
        self._start_due()

    def _dismiss(self, before: Generation) -> None:
        self._leaving = None
        assert self._current is not None
        # What is removed may still have somebody in its queue: those who are told accept them.
        before.sockets.close(but=self._current.sockets)
        for child in before.children:
            child.tell(signal.SIGUSR1)
        for succession in before.memory.successions:
            succession.close()
        self._current.predecessor = None
        before.kill_at = time.monotonic() + before.plan.config.global_.hard_stop_after + _GRACE
        self._say(Level.NOTICE, f"reloaded: {self._changes}")
        self._end_oldest()
        systemd.ready()

    def _end_oldest(self) -> None:
        """Else each reload would add processes, as long as there is a connection for each."""
        living = [elder for elder in self._elders if elder.children]
        for elder in living[: max(0, len(living) - _MOST_ELDERS)]:
            self._say(
                Level.WARNING,
                f"connections of before the last {_MOST_ELDERS} reloads are ended: no more generations are kept",
            )
            elder.kill_at = min(elder.kill_at, time.monotonic() + _GRACE)
            for child in elder.children:
                child.tell(signal.SIGUSR2)

    def _see_to_elders(self) -> None:
        now = time.monotonic()
        for elder in list(self._elders):
            if not elder.children:
                if elder is not self._leaving:
                    self._elders.remove(elder)
                    elder.close()
                    if elder.memory.going[0] and not self._stopping:
                        self._say(Level.NOTICE, "the workers of before the reload have ended")
            elif now >= elder.kill_at and not elder.is_killed:
                elder.kill()

    def _stop_reloading(self) -> None:
        self._is_reload_wanted = False
        self._stop_reading()
        self._draft = None
        coming, self._coming = self._coming, None
        if coming is not None:
            self._abandon(coming)
        self._leaving = None

    # Signals and the end

    def _hear_signals(self) -> None:
        """SIGUSR1 is HAProxy's soft stop."""
        self._pipe = socket.socketpair()
        for end in self._pipe:
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe[0], selectors.EVENT_READ)
        signal.set_wakeup_fd(self._pipe[1].fileno(), warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)

    def _hear_no_more(self) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for end in self._pipe:
            end.close()

    def _take_signals(self) -> None:
        try:
            heard = self._pipe[0].recv(4096)
        except BlockingIOError:
            return
        for number in heard:
            if number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGUSR1 and not self._stopping):
                self._stop()
            elif number == signal.SIGHUP:
                self._is_reload_wanted = True

    def _stop(self) -> None:
        if self._stopping:
            self._kill_at = 0.0
            return
        assert self._current is not None
        self._stopping = True
        systemd.stopping()
        self._stop_reloading()
        self._kill_at = time.monotonic() + self._current.plan.config.global_.hard_stop_after + _GRACE
        self._say(Level.NOTICE, "stopping; a second signal ends at once")
        # New clients are the other director's from now on.
        self._fall_silent()
        if self._silent is not None and any(child.is_of_network for child in self._children):
            self._rules_until = time.monotonic() + _LINGER
            self._kill_at = max(self._kill_at, self._rules_until + _GRACE)
        for generation in self._generations:
            generation.sockets.close()
            generation.children = [child for child in generation.children if child.pid]
            for child in generation.workers:
                # Those of before a reload too: they need not wait for idle clients any more.
                child.tell(signal.SIGTERM)
        self._see_to_the_end()

    def _see_to_the_end(self) -> None:
        workers = [child for child in self._children if child.name != "control"]
        for child in workers or self._children:
            # Until the last worker is gone somebody has to check servers and show statistics.
            if not child.is_told and not (child.is_of_network and time.monotonic() < self._rules_until):
                child.tell(signal.SIGTERM)
                if not workers:
                    self._kill_at = min(self._kill_at, time.monotonic() + _GRACE)
        if time.monotonic() >= self._kill_at and not self._killed:
            self._killed = True
            for child in self._children:
                os.kill(child.pid, signal.SIGKILL)

    def _end_children(self) -> None:
        """Whatever ended us: when we are gone, so are they, and the ports are free."""
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
        self._stop_reading()


def _script_identity(user: str | None) -> privileges.Identity | None:
    """Who check and notify scripts run as; None: as we were started."""
    try:
        return privileges.identity(user, None)
    except StartError:
        raise StartError(
            f"vrrp.script_user: there is no user {user!r}; create it with: useradd --system --user-group {user}"
        ) from None


def _ignore_signals() -> None:
    """One that comes while Python ends would kill us, and the exit status say so."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _blocked(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    return f"killed by signal {-code} ({signal.strsignal(-code)})"


def _open_standard_files() -> None:
    """Closed ones lead nowhere from now on: else a socket would get their number, and what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
