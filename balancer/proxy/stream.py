"""Stream sockets to protocols: what asyncio's transports do, for connections that come and go by the thousand.

    Poller    an epoll instance that the loop watches as one descriptor: many connections a turn
    Acceptor  a listening socket: each connection becomes a stream
    Dial      a connection to be: a stream once it is there
    Stream    one connection: reads for its receiver, keeps what the other side does not take yet

A connection is watched edge-triggered (epoll(7)), so that holding it and letting it go on, and closing it, take no
system call of their own; a write is tried at once. Semantics are those of asyncio's transports: a receiver is told of
the end after the current turn, never from within its own call.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from errno import EINPROGRESS
from typing import Any, Final

__all__ = ["Acceptor", "Address", "Caller", "Dial", "Poller", "Receiver", "Stream"]

Address = str | tuple[str, int] | tuple[str, int, int, int]

# Events taken, and connections accepted, in one go.
_MOST_EVENTS: Final = 64
# Where there were so many there are mostly more by now. To look costs less than to go through the loop, which has its
# turn after so many looks.
_BUSY: Final = 4
_MOST_TURNS: Final = 4
_MOST_ACCEPTED: Final = 64
# Events that found so many connections waiting, before twice as many are asked for.
_PROOFS: Final = 4
# Octets of one read: so many to begin with, up to so many where they all come; and reads of one connection before it
# is others' turn.
_READ: Final = 16384
_MOST_READ: Final = 262144
_MOST_READS: Final = 4
# A client is read as soon as it has come while at least a third of them have said something by then: the one is worth
# two points, its lack costs one. Below none, one in so many is still tried.
_MOST_LUCK: Final = 32
_TRIED: Final = 16
# Seconds until a connection is watched of which nothing is expected but its end: most are over before.
_LATE: Final = 0.05
# Unsent octets of a connection at which whoever fills it is told to wait, and to go on.
_HIGH: Final = 65536
_LOW: Final = 16384

_IN: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_IN_AND_OUT: Final = _IN | select.EPOLLOUT
_READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_FAILED: Final = select.EPOLLHUP | select.EPOLLERR
_ENDS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_OUT: Final = select.EPOLLOUT
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
# The kernel keeps what does not fill a segment: at once there is an end to go with it.
_SEND_LAST: Final = _SEND | socket.MSG_MORE
_RECEIVE: Final = socket.MSG_DONTWAIT
_WRITING: Final = socket.SHUT_WR
_STREAM: Final = int(socket.SOCK_STREAM)
_Socket: Final = socket.SocketType


class Receiver(ABC):
    """Whom a stream serves: asyncio's protocol."""

    __slots__ = ()

    @abstractmethod
    def connection_made(self, transport: Stream) -> None:
        """It is open. Called once."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Octets have come."""

    @abstractmethod
    def eof_received(self) -> bool:
        """The other side sends no more. True keeps the stream open for writing."""

    def expects_more(self) -> bool:
        """Whether the other side has more to say than that it goes."""
        return True

    @abstractmethod
    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed. Called once, last."""

    @abstractmethod
    def pause_writing(self) -> None:
        """The other side reads slower than we write."""

    @abstractmethod
    def resume_writing(self) -> None:
        """It has caught up."""


class Caller(ABC):
    """Whoever dials."""

    __slots__ = ()

    @abstractmethod
    def on_open(self, stream: Stream) -> None:
        """There is a connection, and its receiver has heard of it."""

    @abstractmethod
    def on_refused(self, error: int) -> None:
        """There is none: errno."""

    @abstractmethod
    def on_fault(self, fault: Exception) -> None:
        """There is none, by a fault of ours, which has been told."""


class Watched(ABC):
    """What a poller calls."""

    __slots__ = ()

    @abstractmethod
    def on_events(self, events: int) -> None:
        """Of epoll_ctl(2)."""

    @abstractmethod
    def end(self, why: Exception) -> None:
        """It has failed."""

    @abstractmethod
    def drop(self) -> None:
        """Nobody watches any more: close what is its own."""


class Poller:
    """The stream sockets of one event loop."""

    __slots__ = (
        "_again", "_ended", "_epoll", "_is_turning", "_late", "_luck", "_new", "_untried", "_watched", "is_awaited",
        "loop",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        self._new: list[Stream] = []
        self._luck = _MOST_LUCK
        self._untried = 0
        self._late: set[int] = set()
        self._again: list[Stream] = []
        self._ended: list[Stream] = []
        self._is_turning = False
        self.is_awaited = False
        """Somebody has to go on who needs the loop for it."""
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        """The loop ends: so does what is left, unsaid."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for watched in [*self._watched.values(), *self._ended, *self._new]:
            watched.drop()
        self._watched.clear()
        self._ended.clear()
        self._new.clear()

    def watch(self, fd: int, watched: Watched, events: int) -> None:
        self._epoll.register(fd, events)
        self._watched[fd] = watched

    def hear(self, stream: Stream) -> bool:
        """It has just connected: `Stream.hear` once the turn is over, if by then it has probably said something."""
        if self._luck <= 0:
            self._untried += 1
            if self._untried < _TRIED:
                return False
            self._untried = 0
        if not self._new and not self._is_turning:
            self.loop.call_soon(self._hear)
        self._new.append(stream)
        return True

    def _hear(self) -> None:
        new, self._new = self._new, []
        luck = self._luck
        for stream in new:
            try:
                luck += 2 if stream.hear() else -1
            except Exception as error:
                stream.end(error)
                self.complain(error)
        self._luck = min(max(luck, -_MOST_LUCK), _MOST_LUCK)

    def keep(self, fd: int, stream: Stream) -> None:
        """Of `stream` nothing is expected but its end: `watch` it a little later, if it is still there."""
        self._watched[fd] = stream
        if not self._late:
            self.loop.call_later(_LATE, self._watch_late)
        self._late.add(fd)

    def _watch_late(self) -> None:
        late, self._late = self._late, set()
        for fd in late:
            one = self._watched.get(fd)
            if isinstance(one, Stream):
                one.watch()

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch `fd` no more; it stays open."""
        self._epoll.unregister(fd)
        del self._watched[fd]

    def closing(self, fd: int) -> None:
        """`fd` is about to be closed, and nobody else has it: the kernel then forgets it by itself."""
        self._watched.pop(fd, None)

    def again(self, stream: Stream) -> None:
        """There is more to read from it: in the next turn."""
        if not self._again:
            self.is_awaited = True
            self.loop.call_soon(self._go_on)
        self._again.append(stream)

    def end(self, stream: Stream) -> None:
        """It is over: tell its receiver when nobody is in the middle of something."""
        if not self._ended and not self._is_turning:
            self.loop.call_soon(self._bury)
        self._ended.append(stream)

    def complain(self, error: Exception) -> None:
        """A fault of ours ends one connection, and is told."""
        self.loop.call_exception_handler({"message": "fault in a connection's receiver", "exception": error})

    def _turn(self) -> None:
        watched = self._watched
        events: int
        fd: int
        self.is_awaited = False
        for _ in range(_MOST_TURNS):
            happened = self._epoll.poll(0, _MOST_EVENTS)
            self._is_turning = True
            for fd, events in happened:
                one = watched.get(fd)
                if one is not None:
                    try:
                        one.on_events(events)
                    except Exception as error:
                        one.end(error)
                        self.complain(error)
            if self._new:
                self._hear()
            self._is_turning = False
            if self._ended:
                self._bury()
            if len(happened) < _BUSY or self.is_awaited:
                return

    def _go_on(self) -> None:
        again, self._again = self._again, []
        for stream in again:
            try:
                stream.read()
            except Exception as error:
                stream.end(error)
                self.complain(error)

    def _bury(self) -> None:
        """Sockets are closed only here: while events are looked at, no descriptor changes hands."""
        while self._ended:
            ended, self._ended = self._ended, []
            for stream in ended:
                try:
                    stream.bury()
                except Exception as error:
                    self.complain(error)

    def dial(self, address: Address, receiver: Receiver, caller: Caller) -> Dial:
        """Connect to `address`, an AF_UNIX path or as AF_INET and AF_INET6 have it, for as long as it takes: `caller`
        hears how it went, not before the next turn. Raises OSError where that is known at once."""
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if len(address) == 4 or ":" in address[0] else socket.AF_INET
        sock = _Socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = sock.connect_ex(address)
            if error and error != EINPROGRESS:
                raise OSError(error, os.strerror(error))
            dial = Dial(self, sock, receiver, caller)
            self.watch(sock.fileno(), dial, _IN_AND_OUT)
        except BaseException:
            sock.close()
            raise
        return dial

    def instead(self, fd: int, stream: Stream) -> None:
        """What happens to `fd`, which is watched, concerns `stream` from now on."""
        self._watched[fd] = stream


class _Nobody(Receiver):
    """Of a stream that is gone: who held each other go without the garbage collector."""

    __slots__ = ()

    def connection_made(self, transport: Stream) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


_NOBODY: Final = _Nobody()


class Dial(Watched):
    """A connection that is not there yet."""

    __slots__ = ("_caller", "_poller", "_receiver", "_sock")

    def __init__(self, poller: Poller, sock: socket.SocketType, receiver: Receiver, caller: Caller) -> None:
        self._poller = poller
        self._sock = sock
        self._receiver = receiver
        self._caller = caller

    def on_events(self, events: int) -> None:
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & _FAILED else 0
        if error:
            self.hang_up()
            self._caller.on_refused(error)
        elif events & _OUT:
            stream = self._become(self._receiver)
            # What there is to read already, nothing will tell of again.
            stream.made(is_readable=events & _READABLE != 0)
            self._caller.on_open(stream)

    def end(self, why: Exception) -> None:
        self.hang_up()
        self._caller.on_fault(why)

    def drop(self) -> None:
        self._sock.close()

    def hang_up(self) -> None:
        """Wait no longer; the caller hears nothing of it."""
        self._become(_NOBODY).abort()

    def _become(self, receiver: Receiver) -> Stream:
        stream = Stream(self._poller, self._sock, receiver, None)
        self._poller.instead(self._sock.fileno(), stream)
        return stream


class Stream(Watched):
    """One connection."""

    __slots__ = (
        "_fd", "_is_closing", "_is_dead", "_is_held", "_is_late", "_is_over", "_is_paused", "_is_readable",
        "_is_watched", "_is_watched_out", "_out", "_peername", "_poller", "_receiver", "_recv", "_room", "_send",
        "_sock", "_unsent", "_was_told_to_wait", "_why", "_will_end",
    )  # fmt: skip

    def __init__(self, poller: Poller, sock: socket.SocketType, receiver: Receiver, peername: Any) -> None:
        self._poller = poller
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._fd = sock.fileno()
        self._receiver = receiver
        self._room = _READ
        self._peername = peername
        self._out: deque[bytes] | None = None
        """What the kernel did not take, `_unsent` octets."""
        self._unsent = 0
        self._why: Exception | None = None
        self._is_readable = False
        """There may be something that has not been read, of which the kernel has told us."""
        self._is_held = False
        """It is not to be read now: on request, or since it is over or closing."""
        self._is_paused = self._is_over = self._is_closing = self._is_dead = False
        self._is_watched = self._is_late = self._is_watched_out = False
        """The kernel tells when there is room again."""
        self._was_told_to_wait = self._will_end = False

    def __repr__(self) -> str:
        return f"<Stream {self._fd} of {self._receiver!r}>"

    # Coming and going

    def open(self) -> None:
        """A client has connected."""
        self._receiver.connection_made(self)
        if not self._is_late:
            self.watch()

    def watch(self) -> None:
        """Be told of what happens to it from now on, and of what has happened. Once is enough."""
        if not self._is_watched and not self._is_dead:
            self._is_watched = True
            self._poller.watch(self._fd, self, _IN_AND_OUT if self._is_watched_out else _IN)

    def hear_soon(self) -> None:
        """Mostly a client says something at once: read that before it is watched. To be called from
        `connection_made`."""
        self._is_late = self._poller.hear(self)

    def made(self, *, is_readable: bool) -> None:
        """We have connected; it is watched."""
        self._is_watched = self._is_watched_out = True
        self._is_readable = is_readable
        self._receiver.connection_made(self)
        if is_readable and not self._is_held:
            self._poller.again(self)

    def on_events(self, events: int) -> None:
        if events & _READABLE:
            if self._is_held:
                self._is_readable = True
            else:
                self._read(events & _ENDS != 0)
        if self._unsent and events & (_OUT | _FAILED):
            self._flush()

    def close(self) -> None:
        """Close once all is sent."""
        if self._is_closing:
            return
        self._is_closing = self._is_held = True
        if not self._unsent:
            self.end(None)

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        self.end(None)

    def end(self, why: Exception | None) -> None:
        if self._is_dead:
            return
        self._is_dead = self._is_closing = self._is_held = True
        self._why = why
        self._unsent = 0
        self._out = None
        self._poller.end(self)

    def bury(self) -> None:
        try:
            self._receiver.connection_lost(self._why)
        finally:
            self._poller.closing(self._fd)
            self._sock.close()
            self._why = None
            self._receiver = _NOBODY

    def drop(self) -> None:
        self._is_dead = self._is_closing = self._is_held = True
        self._receiver = _NOBODY
        self._sock.close()

    def is_closing(self) -> bool:
        return self._is_closing

    # Reading

    def pause_reading(self) -> None:
        self._is_paused = self._is_held = True

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if not self._is_over and not self._is_closing:
                self._is_held = False
                if self._is_readable:
                    self._poller.again(self)

    def is_reading(self) -> bool:
        return not self._is_paused and not self._is_closing

    def hear(self) -> bool:
        """After `hear_soon`: whether it has said anything."""
        has_spoken = not self._is_held and self._read(False)
        if self._receiver.expects_more():
            self.watch()
        elif not self._is_watched and not self._is_dead:
            self._poller.keep(self._fd, self)
        return has_spoken

    def read(self) -> None:
        """What was known to be there."""
        if self._is_readable and not self._is_held:
            self._read(True)

    def _read(self, to_the_end: bool) -> bool:
        """A short read has emptied the socket, unless its end has been announced (`to_the_end`). False: it was so."""
        is_first = True
        for _ in range(_MOST_READS):
            room = self._room
            try:
                data = self._recv(room, _RECEIVE)
            except BlockingIOError:
                self._is_readable = False
                return not is_first
            except OSError as error:
                self.end(error)
                return True
            if not data:
                self._is_readable = False
                self._is_over = self._is_held = True
                if not self._receiver.eof_received():
                    self.close()
                return True
            if len(data) < room and not to_the_end:
                self._is_readable = False
                self._receiver.data_received(data)
                return True
            self._is_readable = True
            if len(data) == room < _MOST_READ:
                self._room = room * 4
            self._receiver.data_received(data)
            if self._is_held:
                return True
            is_first = False
        self._poller.again(self)
        return True

    # Writing

    def write(self, data: bytes) -> None:
        if self._unsent or self._is_closing or not data:
            if data and not self._is_closing:
                self._keep(data)
            return
        try:
            sent = self._send(data, _SEND)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.end(error)
            return
        if sent != len(data):
            self._keep(data[sent:] if sent else data)

    def write_last(self, data: bytes) -> None:
        """Send `data`, and then no more. What fits is one segment with the end: the other side wakes once."""
        if self._unsent or self._is_closing or not data:
            self.write(data)
            self.write_eof()
            return
        try:
            sent = self._send(data, _SEND_LAST)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.end(error)
            return
        if sent != len(data):
            self._keep(data[sent:] if sent else data)
        self.write_eof()

    def _keep(self, data: bytes) -> None:
        if self._out is None:
            self._out = deque()
        self._out.append(data)
        self._unsent += len(data)
        if not self._is_watched_out:
            self._is_watched_out = True
            if self._is_watched:
                self._poller.change(self._fd, _IN_AND_OUT)
            else:
                self.watch()
        if self._unsent > _HIGH and not self._was_told_to_wait:
            self._was_told_to_wait = True
            self._receiver.pause_writing()

    def _flush(self) -> None:
        out = self._out
        assert out is not None
        try:
            while out:
                data = out[0]
                sent = self._send(data, _SEND)
                self._unsent -= sent
                if sent < len(data):
                    out[0] = data[sent:]
                    break
                out.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(error)
            return
        if not out:
            self._out = None
            if self._will_end:
                self._shut_down()
        if self._was_told_to_wait and self._unsent <= _LOW:
            self._was_told_to_wait = False
            self._receiver.resume_writing()
        if self._is_closing and not self._unsent:
            self.end(None)

    def write_eof(self) -> None:
        """Send no more, once all is sent. Once is enough."""
        if self._is_closing or self._will_end:
            return
        self._will_end = True
        if not self._unsent:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(_WRITING)
        except OSError:
            # The other side is gone; reading tells of it.
            return

    def get_write_buffer_size(self) -> int:
        return self._unsent

    # Who

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `peername`, `sockname`."""
        if name == "socket":
            return self._sock
        try:
            if name == "peername":
                return self._peername if self._peername is not None else self._sock.getpeername()
            if name == "sockname":
                return self._sock.getsockname()
        except OSError:
            return default
        return default

    def forget(self) -> None:
        """Its receiver hears no more of it."""
        self._receiver = _NOBODY

    @property
    def receiver(self) -> Receiver:
        """Whom it serves."""
        return self._receiver


class Acceptor(Watched):
    """A listening socket. `accept` makes the receiver of a connection; `trouble` is told of what `accept(2)` said when
    it was not about one connection."""

    __slots__ = ("_accept", "_family", "_is_open", "_most", "_poller", "_proofs", "_sock", "_take", "_trouble")

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        accept: Callable[[], Receiver],
        trouble: Callable[[OSError], None],
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._family = int(sock.family)
        # Without the objects that `socket.accept` makes around its result, which cost as much as the call.
        self._take: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
        self._accept = accept
        self._trouble = trouble
        self._is_open = False
        self._most = 1
        self._proofs = 0
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Inherited by what is accepted (tcp(7)).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def open(self) -> None:
        self._is_open = True
        self._poller.watch(self._sock.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Accept no more. The socket stays open."""
        if self._is_open:
            self._is_open = False
            self._poller.forget(self._sock.fileno())

    def end(self, why: Exception) -> None:
        """One connection has failed, and that is all."""

    def drop(self) -> None:
        self._is_open = False

    def on_events(self, events: int) -> None:  # noqa: ARG002
        """As many as there were the last time; twice as many if there were so several times: to ask in vain costs more
        than to be told again."""
        for count in range(self._most):
            if not self._is_open:
                return
            if not self.one():
                self._most = max(count, 1)
                self._proofs = 0
                return
        self._proofs += 1
        if self._proofs == _PROOFS:
            self._proofs = 0
            self._most = min(2 * self._most, _MOST_ACCEPTED)

    def read(self) -> None:
        """Let in whoever has connected by now."""
        while self.one():
            pass

    def one(self) -> bool:
        """Accept one; whether there may be more."""
        try:
            fd, peername = self._take()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            self._trouble(error)
            return False
        sock = _Socket(self._family, _STREAM, 0, fd)
        try:
            stream = Stream(self._poller, sock, self._accept(), peername)
        except Exception:
            sock.close()
            raise
        try:
            stream.open()
        except Exception as fault:
            stream.end(fault)
            raise
        return True
