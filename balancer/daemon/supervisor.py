"""The parent: binds the sockets, starts and replaces the children, ends them.

It runs no event loop library and serves nobody: a wait on signals and deadlines, so that forking is safe
and a busy child never delays it. Its children are forked, not executed: what was imported before
is shared memory, and a replacement is there in milliseconds.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from balancer.config.check import warnings
from balancer.config.model import Config
from balancer.daemon import privileges
from balancer.daemon.control import Control, initialise
from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from balancer.daemon.sockets import Sockets
from balancer.daemon.worker import Worker
from balancer.observe.log import AccessLog, Level

__all__ = ["Supervisor", "run"]

# Descriptors besides connections: sockets, doorbells, logs, the loop's own.
_SPARE_FILES = 256
# A child that dies young is started again after a pause that doubles up to this.
_LONGEST_PAUSE = 5.0
_YOUNG = 1.0
# After the children's own hard stop, what they get before they are killed.
_GRACE = 2.0


@dataclass
class Child:
    """A process to keep running."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0


def run(config: Config) -> int:
    """Run the daemon until it is told to stop; the exit status. StartError when it cannot start."""
    return Supervisor(config).run()


class Supervisor:
    """One start of the daemon."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._plan = Plan.of(config, cores=len(os.sched_getaffinity(0)))
        self._identity = privileges.identity(config.global_.user, config.global_.group)
        self._log = AccessLog(config.global_.log)
        self._started = time.time()
        self._stopping = False
        self._kill_at = 0.0

    def run(self) -> int:
        """Start everything, keep it running, end it."""
        self._prepare()
        wakeup, signals = socket.socketpair()
        wakeup.setblocking(False)
        signals.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup, selectors.EVENT_READ)
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._children = [Child("control", self._control)]
        self._children += [
            Child(f"worker {number}", lambda number=number: self._worker(number))  # type: ignore[misc]
            for number in range(self._plan.workers)
        ]
        # Nothing made so far is ever freed; not even looked at, it stays shared with the children.
        gc.collect()
        gc.freeze()
        try:
            while self._children:
                self._start_due()
                self._selector.select(self._until_next())
                self._hear(wakeup)
                self._reap()
                if self._stopping and time.monotonic() >= self._kill_at:
                    self._signal(signal.SIGKILL)
        finally:
            self._signal(signal.SIGKILL)
            self._sockets.unlink()
        self._say(Level.NOTICE, "stopped")
        return 0

    def _prepare(self) -> None:
        config, plan = self._config, self._plan
        for text in warnings(config):
            self._say(Level.WARNING, text)
        if plan.unresolved:
            self._say(Level.WARNING, f"no address found for {', '.join(plan.unresolved)}; not used")
        per_worker = -(-config.global_.maxconn // plan.workers)
        # A client and a server connection each.
        wanted = 2 * per_worker + _SPARE_FILES
        allowed = privileges.raise_open_files(wanted)
        if allowed < wanted:
            self._say(
                Level.WARNING,
                f"global.maxconn {config.global_.maxconn} needs {wanted} open files per worker, "
                f"the limit is {allowed}: raise it (LimitNOFILE=, ulimit -n) or lower maxconn",
            )
        self._memory = Memory(plan)
        initialise(plan, self._memory)
        self._sockets = Sockets.open(config, plan.workers)
        self._say(Level.NOTICE, f"pybalancer starts, {plan.workers} workers")

    def _say(self, level: Level, text: str) -> None:
        self._log.event(level, text)
        if self._config.global_.log.target != "stdout":
            print(f"pybalancer: {text}", file=sys.stderr, flush=True)  # noqa: T201

    # Children

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and child.start_at <= now and not self._stopping:
                child.started = now
                child.pid = self._fork(child)

    def _fork(self, child: Child) -> int:
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._be(child, parent)
        return pid

    def _be(self, child: Child, parent: int) -> NoReturn:
        """In the new process: become the child, never come back."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C reaches the whole process group; the supervisor tells the children what to do.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._selector.close()
            privileges.drop(self._identity)
            privileges.die_with_parent(parent)
            child.main()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _worker(self, number: int) -> None:
        self._sockets.keep(lambda _, worker: worker == number, stats=False)
        Worker(
            self._plan,
            self._memory,
            number,
            {name: of_worker[number] for name, of_worker in self._sockets.frontends.items()},
        ).run()

    def _control(self) -> None:
        self._sockets.keep(lambda *_: False, stats=True)
        Control(self._plan, self._memory, self._sockets.stats, node=socket.gethostname(), started=self._started).run()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if not pid:
                break
            child = next((child for child in self._children if child.pid == pid), None)
            if child is not None:
                self._on_death(child, status)
        if self._stopping and all(child.name == "control" for child in self._children):
            self._signal(signal.SIGTERM)

    def _on_death(self, child: Child, status: int) -> None:
        child.pid = 0
        if self._stopping:
            self._children.remove(child)
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
        now = time.monotonic()
        young = now - child.started < _YOUNG
        child.pause = min(_LONGEST_PAUSE, max(0.1, 2 * child.pause)) if young else 0.0
        child.start_at = now + child.pause
        self._say(Level.ALERT, f"{child.name} {how}, starting another")

    # Signals

    def _until_next(self) -> float | None:
        if self._stopping:
            return max(0.0, self._kill_at - time.monotonic())
        waiting = [child.start_at for child in self._children if not child.pid]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _hear(self, wakeup: socket.socket) -> None:
        try:
            heard = wakeup.recv(4096)
        except BlockingIOError:
            return
        for number in heard:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _stop(self) -> None:
        if self._stopping:
            self._kill_at = 0.0
            return
        self._stopping = True
        self._kill_at = time.monotonic() + self._config.global_.hard_stop_after + _GRACE
        self._say(Level.NOTICE, "stopping; a second signal ends at once")
        self._sockets.close()
        self._children = [child for child in self._children if child.pid]
        self._signal(signal.SIGTERM, but="control")

    def _signal(self, number: signal.Signals, *, but: str = "") -> None:
        for child in self._children:
            if child.pid and child.name != but:
                os.kill(child.pid, number)
