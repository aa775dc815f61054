"""Datagram flows from the workers before a reload to those after it, by number: each keeps its socket to its server.

    new ── {"u": ["('192.0.2.1', 5000)"]} ────────────────────────────► old    what it listens to, by frontend
        ◄── [["u", place, client, server, …], …] with their sockets ──          as often as needed
        ◄── [] ────────────────────────────────────────────────────────          that was all

A packet each, JSON; sockets as SCM_RIGHTS (unix(7)). Until the last packet, or the end of the line, nobody reads what
clients send: it waits in the listening socket, which both have, and then finds its flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice

from balancer.proxy.udp import FlowForwarder, Handed

__all__ = ["Giving", "Taking"]

# Sockets in one packet; SCM_MAX_FD is 253.
_FLOWS = 64
_LONGEST = 128 << 10
# Packets taken in one turn of the loop.
_MOST = 16
# Whoever is to take over, or to give, is waited for so long (seconds): new control and new rules are there by then.
# Until those who are to give are told, they go on as ever.
_PATIENCE = 10.0


class _Side:
    """One end of the line, until all has passed or patience is at its end. `done` is called then."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: socket.socket,
        forwarders: Mapping[str, FlowForwarder],
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._line = line
        self._forwarders = forwarders
        self._done = done
        loop.add_reader(line.fileno(), self._hear)
        self._timer: asyncio.TimerHandle | None = loop.call_later(_PATIENCE, self._end)

    def _hear(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._loop.remove_reader(self._line.fileno())
        self._loop.remove_writer(self._line.fileno())
        self._let_go()
        self._line.close()
        self._done()

    def _let_go(self) -> None:
        """Of what has not passed."""


class Giving(_Side):
    """In a worker that leaves. `done` is called once what could be handed over is."""

    _flows: Iterator[tuple[str, Handed, socket.socket]] = iter(())
    _packet: tuple[bytes, list[socket.socket]] | None = None

    def _hear(self) -> None:
        """What the successor listens to."""
        self._loop.remove_reader(self._line.fileno())
        wanted = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            asked = json.loads(self._asked())
            wanted = {name: {str(place) for place in places} for name, places in asked.items()}
        if not wanted:
            self._end()
            return
        self._flows = chain.from_iterable(
            ((name, handed, sock) for handed, sock in self._forwarders[name].hand_over(places))
            for name, places in wanted.items()
            if name in self._forwarders
        )
        self._loop.add_writer(self._line.fileno(), self._give)

    def _asked(self) -> bytes:
        """By the last who did: those of a reload that has come to nothing may have, too."""
        octets = self._line.recv(_LONGEST)
        with contextlib.suppress(BlockingIOError):
            while more := self._line.recv(_LONGEST):
                octets = more
        return octets

    def _give(self) -> None:
        if self._packet is None:
            some = list(islice(self._flows, _FLOWS))
            flows = [[name, handed.place, handed.client.hex(), *handed[2:]] for name, handed, _ in some]
            self._packet = json.dumps(flows).encode(), [sock for *_, sock in some]
        octets, sockets = self._packet
        try:
            if sockets:
                socket.send_fds(self._line, [octets], [sock.fileno() for sock in sockets])
            else:
                self._line.send(octets)
        except BlockingIOError:
            return
        except OSError:
            # Nobody is there any more, or too much is under way.
            self._end()
            return
        self._packet = None
        for sock in sockets:
            sock.close()
        if not sockets:
            self._end()

    def _let_go(self) -> None:
        for sock in self._packet[1] if self._packet is not None else ():
            sock.close()
        for *_, sock in self._flows:
            sock.close()


class Taking(_Side):
    """In a worker that begins. `done` is called when it may listen."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: socket.socket,
        forwarders: Mapping[str, FlowForwarder],
        done: Callable[[], None],
    ) -> None:
        super().__init__(loop, line, forwarders, done)
        try:
            line.send(json.dumps({name: each.places for name, each in forwarders.items()}).encode())
        except OSError:
            self._end()

    def _hear(self) -> None:
        for _ in range(_MOST):
            try:
                octets, numbers, _, _ = socket.recv_fds(self._line, _LONGEST, _FLOWS)
            except BlockingIOError:
                return
            except OSError:
                self._end()
                return
            sockets = [socket.socket(fileno=number) for number in numbers]
            if not octets or octets == b"[]":
                self._end()
                return
            self._take(octets, sockets)

    def _take(self, octets: bytes, sockets: list[socket.socket]) -> None:
        """Where this process had no room for all sockets, the last flows are lost."""
        for (name, place, client, *rest), sock in zip(json.loads(octets), sockets, strict=False):
            forwarder = self._forwarders.get(name)
            if forwarder is None:
                sock.close()
            else:
                forwarder.take_over(Handed(place, bytes.fromhex(client), *rest), sock)
