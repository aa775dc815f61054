"""The parent: binds the sockets, starts and replaces the children, ends them, and speaks VRRP.

It runs no event loop library and serves nobody: a wait on signals, advertisements and deadlines, so that forking is
safe and a busy child never delays it. Its children are forked, not executed: what was imported before
is shared memory, and a replacement is there in milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from balancer.config import engines, model
from balancer.config.check import warnings
from balancer.config.model import Config
from balancer.daemon import errands, privileges
from balancer.daemon.control import Control, initialise
from balancer.daemon.faults import described
from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from balancer.daemon.serving import Serving, WorkerLife
from balancer.daemon.sockets import Sockets
from balancer.daemon.spawn import spawn
from balancer.daemon.worker import Worker
from balancer.errors import BalancerError, StartError
from balancer.observe.log import AccessLog, Level
from balancer.pool import routers

if TYPE_CHECKING:
    from balancer.daemon.lock import Lock
    from balancer.vrrp.speaker import Speaker
    from balancer.vrrp.track import Service

__all__ = ["Supervisor", "run"]

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
# There if a daemon of this boot had rules in the kernel (kerneld.state_file).
_TRACES = Path("/run/pybalancer/kernel")
_STDERR = 2
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)


@dataclass
class Child:
    """A process to keep running."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0
    is_told: bool = False
    """Has it got its SIGTERM?"""
    number: int | None = None
    """Of a worker."""
    is_of_network: bool = False
    """Does it keep the rights to change rules and settings of the network?"""


def run(config: Config) -> int:
    """Run the daemon until it is told to stop; the exit status. StartError when it cannot start."""
    return Supervisor(config).run()


class Supervisor:
    """One start of the daemon, in a process of its own: signal handlers and the like are not put back."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._started = time.time()
        self._children: list[Child] = []
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
            if self._speaker is not None:
                privileges.be_on_time()
                self._speaker.start()
            self._look_after_children()
            self._say(Level.NOTICE, "stopped")
        return 0

    def _prepare(self, at_the_end: contextlib.ExitStack) -> None:
        config, choices = engines.settle(self._config, _hindrance)
        self._config = config
        plan = self._plan = Plan.of(config, cores=len(os.sched_getaffinity(0)))
        self._identity = privileges.identity(config.global_.user, config.global_.group)
        self._log = AccessLog(plan.log)
        self._console = None if plan.log.target == "stdout" else AccessLog(model.Log(), stdout=_STDERR)
        for text in warnings(config):
            self._say(Level.WARNING, text)
        for text in choices:
            self._say(Level.NOTICE, text)
        if plan.unresolved:
            names = ", ".join(plan.unresolved)
            self._say(Level.WARNING, f"no address found for {names}: not used until the next start")
        self._afford_connections()
        plan = self._plan
        if plan.has_kernel:
            self._claim_kernel(at_the_end)
        elif _TRACES.is_dir():
            self._clear_leftovers()
        self._memory = Memory(plan)
        at_the_end.callback(self._memory.close)
        initialise(plan, self._memory)
        self._sockets = Sockets.open(config, plan.workers, owner=self._identity)
        at_the_end.callback(self._sockets.unlink)
        at_the_end.callback(self._sockets.close)
        if config.vrrp.instances:
            self._learn_to_speak(at_the_end)
        self._children = [Child("control", self._control)]
        if plan.has_kernel:
            self._children.append(Child("kernel", self._kernel, is_of_network=True))
        self._children += [
            Child(f"worker {number}", functools.partial(self._worker, number), number=number)
            for number in range(plan.workers)
        ]
        self._say(Level.NOTICE, f"pybalancer starts, {plan.workers} worker{'s' if plan.workers > 1 else ''}")

    def _afford_connections(self) -> None:
        """As many as our descriptors carry: serve with less rather than run out of them, or not serve at all."""
        wanted = self._plan.open_files
        allowed = privileges.raise_open_files(wanted)
        if allowed >= wanted:
            return
        within = self._plan.within(allowed)
        if within.maxconn < self._plan.maxconn:
            self._say(
                Level.WARNING,
                f"global.maxconn {self._plan.maxconn} needs {wanted} open files per worker, {allowed} are allowed: "
                f"{within.maxconn} connections are served; raise the limit (LimitNOFILE=, ulimit -n) or lower maxconn",
            )
        self._plan = within

    def _claim_kernel(self, at_the_end: contextlib.ExitStack) -> None:
        """Its rules are for one daemon only. StartError also where it cannot be programmed, or not by us."""
        # The library, and what goes with it, is loaded by those only who need it.
        from balancer.daemon import kerneld

        why = kerneld.hindrance()
        if why:
            raise StartError(why)
        self._lock = kerneld.exclusive()
        at_the_end.callback(self._lock.close)
        self._state = kerneld.state_file(self._identity)
        at_the_end.callback(self._clear_kernel)

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

    def _watch_control(self) -> None:
        """Replace it when it hangs. Who hung ourselves gives it time to move first."""
        now = time.monotonic()
        if now < self._watched_at + _WATCH_EVERY:
            return
        late, self._watched_at = now - self._watched_at - _WATCH_EVERY, now
        control = next((child for child in self._children if child.name == "control"), None)
        if control is None or not control.pid or late > _WATCH_EVERY:
            return
        moved = max(self._memory.beat[0] * 1e-6, control.started)
        if now - moved > _FROZEN:
            self._say(Level.ALERT, f"{control.name} has not moved for {now - moved:.0f} s, killed")
            os.kill(control.pid, signal.SIGKILL)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and child.start_at <= now and not self._stopping:
                child.started = now
                try:
                    child.pid = self._fork(child)
                except OSError as error:
                    self._start_later(child, f"{child.name} could not be started: {error.strerror}")

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
            self._hear_no_more()
            if self._speaker is not None:
                self._speaker.forget()
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C reaches the whole process group; the supervisor tells the children what to do.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            if self._lock is not None:
                self._lock.close()
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

    def _worker(self, number: int) -> None:
        self._sockets.keep(lambda _, worker: worker == number, stats=False)
        for line in (self._memory.line, self._memory.kernel_line):
            if line is not None:
                line.close()
        own = {name: of_worker[number] for name, of_worker in self._sockets.frontends.items()}
        Worker(self._plan, self._memory, number, own).run()

    def _control(self) -> None:
        self._sockets.keep(lambda *_: False, stats=True)
        if self._memory.line is not None:
            self._memory.line.supervisor.close()
        if self._memory.kernel_line is not None:
            self._memory.kernel_line.kernel.close()
        Control(
            self._plan,
            self._memory,
            self._sockets.stats,
            node=socket.gethostname(),
            started=self._started,
            runtime=self._sockets.runtime,
        ).run()

    def _kernel(self) -> None:
        from balancer.daemon.kerneld import Engine

        self._sockets.keep(lambda *_: False, stats=False)
        if self._memory.line is not None:
            self._memory.line.close()
        assert self._memory.kernel_line is not None and self._state is not None
        self._memory.kernel_line.control.close()
        Engine(self._plan, self._memory, self._state).run()

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
            elif (speaker := self._speaker or self._silent) is not None:
                # A script, a child of whatever ran in this process before us, or an orphan where we are process 1.
                speaker.ended(pid, status)

    def _on_death(self, child: Child, status: int) -> None:
        child.pid = 0
        if child.is_of_network and self._stopping and not status:
            self._has_rules = False
        if self._stopping:
            self._children.remove(child)
            return
        code = os.waitstatus_to_exitcode(status)
        self._start_later(child, f"{child.name} {_ending(code)}")

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

        vrrp = self._config.vrrp
        identity = _script_identity(vrrp.script_user)
        self._serving = Serving(self._plan, self._memory)
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
        assert self._memory.line is not None
        self._selector.register(self._memory.line.supervisor, selectors.EVENT_READ)

    def _service(self) -> Service:
        from balancer.vrrp.track import Service

        workers = [
            WorkerLife(child.number, child.pid != 0, child.started, child.pause > 0)
            for child in self._children
            if child.number is not None
        ]
        now = time.monotonic()
        trouble = self._serving.trouble(now)
        is_serving = not trouble and self._serving.is_serving(workers, now)
        return Service(is_serving, self._serving.servers(), *([trouble] if trouble else []))

    def _take_orders(self, speaker: Speaker) -> None:
        """Those that control passes on, a few at a time: it must not be able to keep us from speaking."""
        assert self._memory.line is not None
        line, now = self._memory.line.supervisor, time.monotonic()
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
            self._told_at = now
            routers.post(speaker.standing(), self._memory.notice)

    def _fall_silent(self) -> None:
        """Give all addresses up."""
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            self._silent = speaker
            self._silent_since = time.monotonic()
            speaker.stop()
            routers.post(speaker.standing(), self._memory.notice)
            self._selector.unregister(speaker)
            assert self._memory.line is not None
            if not self._take_at:
                # Nobody takes orders any more.
                self._selector.unregister(self._memory.line.supervisor)

    def _has_more_to_tell(self) -> bool:
        """Whether a program runs that was told of the end: the service manager kills it when we are gone."""
        left = self._silent_since + _LAST_WORDS - time.monotonic()
        return self._silent is not None and self._silent.is_notifying and left > 0 and not self._killed

    # Signals and the end

    def _hear_signals(self) -> None:
        """SIGUSR1 is HAProxy's soft stop. SIGHUP will reload one day, and must not kill until then."""
        self._pipe = socket.socketpair()
        for end in self._pipe:
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe[0], selectors.EVENT_READ)
        signal.set_wakeup_fd(self._pipe[1].fileno(), warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

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

    def _stop(self) -> None:
        if self._stopping:
            self._kill_at = 0.0
            return
        self._stopping = True
        self._kill_at = time.monotonic() + self._config.global_.hard_stop_after + _GRACE
        self._say(Level.NOTICE, "stopping; a second signal ends at once")
        # New clients are the other director's from now on.
        self._fall_silent()
        if self._silent is not None and any(child.is_of_network for child in self._children):
            self._rules_until = time.monotonic() + _LINGER
            self._kill_at = max(self._kill_at, self._rules_until + _GRACE)
        self._sockets.close()
        self._children = [child for child in self._children if child.pid]
        self._see_to_the_end()

    def _see_to_the_end(self) -> None:
        workers = [child for child in self._children if child.name != "control"]
        for child in workers or self._children:
            # Until the last worker is gone somebody has to check servers and show statistics.
            if not child.is_told and not (child.is_of_network and time.monotonic() < self._rules_until):
                child.is_told = True
                os.kill(child.pid, signal.SIGTERM)
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


def _script_identity(user: str | None) -> privileges.Identity | None:
    """Who check and notify scripts run as; None: as we were started."""
    try:
        return privileges.identity(user, None)
    except StartError:
        raise StartError(
            f"vrrp.script_user: there is no user {user!r}; create it with: useradd --system --user-group {user}"
        ) from None


def _hindrance() -> str:
    from balancer.daemon import kerneld

    return kerneld.hindrance()


def _ignore_signals() -> None:
    """One that comes while Python ends would kill us, and the exit status say so."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
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
