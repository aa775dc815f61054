"""Tells others of a virtual router's state: programs, and a named pipe (keepalived's notify and notify_fifo)."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

from balancer.config.vrrp import Vrrp
from balancer.vrrp.script import ending, has_ended, kill

__all__ = ["Notifier"]

Kind = Literal["INSTANCE", "GROUP"]
State = Literal["MASTER", "BACKUP", "FAULT", "STOP"]

# A program that hangs must not keep the next state from being told.
_LONGEST = 60.0
# After a fork that failed, and while a line of the pipe waits for a reader.
_AGAIN = 1.0
# A reader that is a little too slow makes it full and takes something time and again.
_WARN_EVERY = 300.0
_MODE = 0o600
# Nobody reads; nobody reads any more; the reader is slow.
_WAIT_FOR_READER = (errno.ENXIO, errno.EPIPE, errno.EAGAIN)


class Notifier:
    """Programs and pipe of all instances and sync groups.

    Programs of one are run one after another, so that the last state is told last; a state that was left before its
    turn came is not told. A turn starts one program at most, for a fork takes milliseconds in which the caller has
    something more important to do.

    Drive it: `turn` when `due` has come, `ended` for each child.
    """

    def __init__(self, vrrp: Vrrp, *, spawn: Callable[[Sequence[str]], int], log: Callable[[str, bool], None]) -> None:
        self._vrrp = vrrp
        self._spawn = spawn
        self._log = log
        self._queues: dict[tuple[Kind, str], _Queue] = {}
        self._by_pid: dict[int, tuple[_Queue, _Order]] = {}
        self._fifo = _Fifo(Path(vrrp.notify_fifo), vrrp.script_user, log) if vrrp.notify_fifo else None

    def change(self, vrrp: Vrrp, now: float, *, spawn: Callable[[Sequence[str]], int]) -> None:
        """Others are to be told from now on, of what comes; nobody is of what is."""
        before, self._vrrp, self._spawn = self._vrrp, vrrp, spawn
        if (before.notify_fifo, before.script_user) != (vrrp.notify_fifo, vrrp.script_user):
            if self._fifo is not None:
                self._fifo.send(now)
                self._fifo.close()
            self._fifo = _Fifo(Path(vrrp.notify_fifo), vrrp.script_user, self._log) if vrrp.notify_fifo else None
        named = {("INSTANCE", name) for name in vrrp.instances} | {("GROUP", name) for name in vrrp.sync_groups}
        for key, queue in list(self._queues.items()):
            if key not in named:
                queue.begun, queue.waiting = [], []
                if not queue.pid:
                    del self._queues[key]

    @property
    def dropped(self) -> int:
        """Lines that a reader of the pipe will never see."""
        return self._fifo.dropped if self._fifo is not None else 0

    @property
    def due(self) -> float:
        """When `turn` is wanted (monotonic seconds); inf: never."""
        times = [queue.due for queue in self._queues.values()]
        if self._fifo is not None:
            times.append(self._fifo.due)
        return min(times, default=inf)

    @property
    def is_busy(self) -> bool:
        """Whether a program runs."""
        return bool(self._by_pid)

    def tell(self, kind: Kind, name: str, state: State, priority: int, now: float) -> None:
        """It has entered that state. Programs are started in the next turns; those of STOP at once, for there may be
        no further turn, and they go on when we are gone.
        """
        if self._fifo is not None:
            self._fifo.tell((kind, name), f'{kind} "{name}" {state} {priority}\n'.encode(), now)
        orders = self._orders(kind, name, state, priority)
        queue = self._queues.get((kind, name))
        if queue is None:
            if not orders:
                return
            queue = self._queues[kind, name] = _Queue(name)
        if state == "STOP":
            queue.begun, queue.waiting = [], []
            for order in orders:
                self._start(queue, order)
        else:
            queue.waiting = orders
            queue.start_at = now

    def turn(self, now: float) -> None:
        """Kill what hangs, start what is due, and write what could not be written."""
        if self._fifo is not None and now >= self._fifo.due:
            self._fifo.send(now)
        for queue in self._queues.values():
            if queue.pid and now >= queue.deadline:
                self._end(queue)
        for queue in self._queues.values():
            order = queue.next
            if order is not None and now >= queue.due:
                pid = self._start(queue, order)
                if pid:
                    queue.begin(pid, now + _LONGEST)
                else:
                    queue.start_at = now + _AGAIN
                return

    def ended(self, pid: int, status: int, now: float) -> bool:
        """A child ended, with this status of waitpid(2): whether it was one of these."""
        if pid not in self._by_pid:
            return False
        queue, order = self._by_pid.pop(pid)
        if queue.pid == pid:
            queue.pid = 0
            queue.start_at = now
        if status and pid not in queue.killed:
            self._log(f"({queue.name}) {order.program}, told of {order.state}: {ending(status)}", True)
        queue.killed.discard(pid)
        return True

    def close(self) -> None:
        """Close the pipe; programs go on."""
        if self._fifo is not None:
            self._fifo.close()

    def _orders(self, kind: Kind, name: str, state: State, priority: int) -> list[_Order]:
        own = self._vrrp.instances[name] if kind == "INSTANCE" else self._vrrp.sync_groups[name]
        of_state = {
            "MASTER": own.notify_master,
            "BACKUP": own.notify_backup,
            "FAULT": own.notify_fault,
            "STOP": own.notify_stop,
        }[state]
        orders = [] if of_state is None else [_Order(state, of_state)]
        if own.notify is not None:
            orders.append(_Order(state, (*own.notify, kind, name, state, str(priority))))
        return orders

    def _start(self, queue: _Queue, order: _Order) -> int:
        """The process id; 0 where it cannot be."""
        try:
            pid = self._spawn(order.words)
        except OSError as error:
            if not queue.has_complained:
                text = f"{order.program} cannot be told of {order.state}: {error.strerror}"
                self._log(f"({queue.name}) {text}", True)
            queue.has_complained = True
            return 0
        queue.has_complained = False
        self._by_pid[pid] = queue, order
        return pid

    def _end(self, queue: _Queue) -> None:
        """The next one need not wait for the kernel to let go of it."""
        pid, queue.pid = queue.pid, 0
        queue.start_at = queue.deadline
        try:
            if has_ended(pid):
                return
        except ChildProcessError:
            del self._by_pid[pid]
            return
        kill(pid)
        queue.killed.add(pid)
        order = self._by_pid[pid][1]
        self._log(f"({queue.name}) {order.program}, told of {order.state}: killed after {_LONGEST:.0f} s", True)


class _Order(NamedTuple):
    """A program to start."""

    state: State
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]


class _Queue:
    """What one instance or group has to tell to programs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun: list[_Order] = []
        """The rest of those of a state of which one was started."""
        self.waiting: list[_Order] = []
        """Those of the newest state."""
        self.pid = 0
        """Of the one that runs; 0: none."""
        self.deadline = 0.0
        self.start_at = 0.0
        self.killed: set[int] = set()
        self.has_complained = False

    @property
    def next(self) -> _Order | None:
        """What is to be started as soon as none runs."""
        orders = self.begun or self.waiting
        return orders[0] if orders else None

    @property
    def due(self) -> float:
        if self.pid:
            return self.deadline
        return self.start_at if self.next is not None else inf

    def begin(self, pid: int, deadline: float) -> None:
        """`next` was started."""
        self.pid, self.deadline = pid, deadline
        if not self.begun:
            self.begun, self.waiting = self.waiting, []
        del self.begun[0]


class _Fifo:
    """The pipe. It is never waited for.

    While nobody reads, or the reader does not keep up, the newest line of each instance and group waits for him and
    the older ones are dropped: so whoever comes learns how things stand.
    """

    def __init__(self, path: Path, user: str | None, log: Callable[[str, bool], None]) -> None:
        self.path = path
        self.dropped = 0
        self.due = inf
        self._log = log
        self._descriptor = -1
        self._waiting: dict[tuple[Kind, str], bytes] = {}
        self._lost = 0
        """Dropped since all was written last."""
        self._has_warned = False
        self._warn_at = -inf
        self._complaint = ""
        self._owner = _owner(user)
        self.send(0.0)

    def tell(self, key: tuple[Kind, str], line: bytes, now: float) -> None:
        """Write a line now or later."""
        if self._waiting.pop(key, None) is not None:
            self.dropped += 1
            self._lost += 1
        self._waiting[key] = line
        self.send(now)
        if self._lost and not self._has_warned and now >= self._warn_at:
            self._has_warned = True
            self._warn_at = now + _WARN_EVERY
            self._log(f"{self.path}: nobody reads it, or too slowly: older lines are dropped", True)

    def send(self, now: float) -> None:
        """Write what waits, as far as it is taken."""
        try:
            self._open()
            for key, line in list(self._waiting.items()):
                # Of less than PIPE_BUF octets: all of it or nothing.
                os.write(self._descriptor, line)
                del self._waiting[key]
        except OSError as error:
            if error.errno in _WAIT_FOR_READER:
                self._complaint = ""
            else:
                self._complain(error.strerror or str(error))
        else:
            self._complaint = ""
            if self._has_warned:
                self._log(f"{self.path}: is read again; lines dropped: {self._lost}", False)
            self._lost = 0
            self._has_warned = False
        self.due = now + _AGAIN if self._waiting else inf

    def close(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            self._log(f"{self.path}: changes are not written there: {text}", True)

    def _open(self) -> None:
        """What is at the path now, made if nothing is. OSError where that is no pipe of ours, or nobody reads it."""
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            self._make()
            there = self.path.lstat()
        if self._descriptor != -1:
            if os.path.samestat(there, os.fstat(self._descriptor)):
                return
            self.close()
        # Before it is opened, which has effects with a device.
        self._examine(there)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._examine(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _make(self) -> None:
        os.mkfifo(self.path, _MODE)
        if self._owner is None or os.geteuid() != 0:
            return
        # By descriptor: somebody could have put another file there.
        descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._examine(os.fstat(descriptor))
            os.fchown(descriptor, *self._owner)
        finally:
            os.close(descriptor)

    def _examine(self, file: os.stat_result) -> None:
        """Whoever planted it must not have us write elsewhere, nor read what we write."""
        if not stat.S_ISFIFO(file.st_mode):
            raise OSError(errno.EEXIST, "there is something else in the place of the pipe")
        owners = {0, os.geteuid()} | ({self._owner[0]} if self._owner is not None else set())
        if file.st_uid not in owners:
            raise OSError(errno.EPERM, "the pipe is somebody else's")


def _owner(user: str | None) -> tuple[int, int] | None:
    """User and group ids; None for ourselves."""
    with contextlib.suppress(KeyError):
        if user is not None:
            entry = pwd.getpwnam(user)
            return entry.pw_uid, entry.pw_gid
    return None
