"""The other directors, as their heartbeats tell.

A beat counts if it comes from a peer's address, is signed with our key and says that address too, is newer than what
we had of its session, and tells that its sender heard us a moment ago: it repeats a number that we sent within the
last three intervals. What was recorded of a peer cannot do that, so it makes no dead peer alive, and a peer that does
not hear us counts as silent. A number is the sender's own monotonic clock, which nobody else reads: that of others
and the time of day have no say.

Two that start hear each other within two intervals: who gets a beat that does not count since it tells of nothing
fresh, or the first one that counts, answers within half an interval.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

from balancer.addr import Address
from balancer.config.vrrp import Heartbeat
from balancer.errors import BadHeartbeatError
from balancer.pool.routers import PeerFacts
from balancer.wire import heartbeat as wire
from balancer.wire.heartbeat import Beat

__all__ = ["Peer", "Peers"]

# linux/in.h and linux/in6.h, where Python has no name for it.
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
# RFC 791: Internetwork Control, as our advertisements have it.
_TOS = 0xC0
# Taken in one go, datagrams and octets: a flood must leave time for our advertisements.
_AT_ONCE = 64
_OCTETS_AT_ONCE = 256 * 1024
_DATAGRAM = 65536
_NUMBERS_A_SECOND = 1_000_000
# Intervals.
_MISSED = 3
_DEAF_AFTER = 2
# Sessions of a peer besides the one that is believed: it may just have started, or somebody plays what it once said.
_SESSIONS = 4
_RETIRED = 8
# A kind of line is logged once in so long (seconds); that a peer comes and goes, more often.
_SELDOM = 300.0
_COMES_AND_GOES = 10
_LONGEST_NODE = 64


class _Unheard(NamedTuple):
    """Beats of a peer that told, one after another, that it does not hear us."""

    since: float
    at: float
    """When the last one came."""
    interval: float
    """The slower of ours and its."""


class Peer:
    """Another director."""

    def __init__(self, address: Address, interval: float) -> None:
        self.address = address
        self.beat: Beat | None = None
        """The last that was believed; stays when it falls silent."""
        self.heard_at = -math.inf
        """When that came (monotonic seconds)."""
        self.said_address = _plain(address)
        self.numbers: dict[bytes, int] = {}
        """The highest of each session, the session heard last at the end."""
        self.retired: deque[bytes] = deque(maxlen=_RETIRED)
        """Sessions that another one came after."""
        self.unheard: _Unheard | None = None
        self.told = ""
        """What the log knows of it."""
        self.told_heard_at = -math.inf
        self.interval = interval

    @property
    def until(self) -> float:
        """When it counts as silent, unless it is heard before then. The slower of two intervals counts."""
        return self.heard_at + _MISSED * max(self.interval, self.beat.interval if self.beat else 0.0)

    def __str__(self) -> str:
        return f"{self.address} ({self.beat.node})" if self.beat else str(self.address)


class Peers:
    """All other directors of `heartbeat`, by one socket; `log` takes a line and whether it is a warning.

    Drive it: `receive` when its `fileno` is readable, `send` when `due` has come (earlier does no harm). `now` is
    monotonic seconds. OSError where the socket cannot be bound, or an address is not of its family.

    The port is ours alone: with SO_REUSEADDR any user of this host could take our datagrams for himself, and there
    is no need for it, since UDP knows no TIME_WAIT.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        *,
        node: str,
        interval: float,
        log: Callable[[str, bool], None],
        own: socket.socket | None = None,
    ) -> None:
        """`own`: the socket, where it is bound already."""
        self.interval = interval
        self.due = 0.0
        """When `send` is wanted."""
        self.peers = tuple(Peer(address, interval) for address in heartbeat.peers)
        self.counted: Counter[str] = Counter()
        """sent, send_err; believed, unheard, old, refused, own, stranger."""
        self._log = log
        self._logged: dict[object, tuple[float, int]] = {}
        self._node = "".join(each if each.isprintable() else "?" for each in node)[:_LONGEST_NODE]
        self._key = heartbeat.key.encode()
        self.bind = heartbeat.bind
        self._sender = _plain(heartbeat.bind)
        self._session = os.urandom(wire.SESSION_SIZE)
        self._number = 0
        self._began: float | None = None
        self._sent_at = -math.inf
        for peer in self.peers:
            if peer.address.family != self.bind.family:
                raise OSError(errno.EAFNOSUPPORT, f"{peer.address} is not of the family of {self.bind}")
        self._by_source = {self._source(peer.address.host, peer.address.port): peer for peer in self.peers}
        self._socket = own if own is not None else _bound(self.bind)

    def change(self, heartbeat: Heartbeat, *, interval: float, now: float) -> None:
        """Others by the same socket: `bind` stays, and so does what is known of the peers that do."""
        known = {peer.address: peer for peer in self.peers}
        self.peers = tuple(known.get(address) or Peer(address, interval) for address in heartbeat.peers)
        for peer in self.peers:
            peer.interval = interval
        self._by_source = {self._source(peer.address.host, peer.address.port): peer for peer in self.peers}
        self._key = heartbeat.key.encode()
        self.interval = interval
        self.due = min(self.due, now + interval)

    def fileno(self) -> int:
        """Readable when datagrams have come."""
        return self._socket.fileno()

    def alive(self, now: float) -> list[Peer]:
        """Those heard within three intervals."""
        return [peer for peer in self.peers if now <= peer.until]

    def facts(self, now_monotonic: float, now_unix: float) -> tuple[PeerFacts, ...]:
        """What is known of each."""
        return tuple(
            PeerFacts(
                address=str(peer.address),
                is_alive=now_monotonic <= peer.until,
                node=peer.beat.node if peer.beat else "",
                last=now_unix - (now_monotonic - peer.heard_at) if peer.beat else None,
                states={name: state for name, (state, _) in peer.beat.routers.items()} if peer.beat else {},
                servers=peer.beat.servers if peer.beat else {},
            )
            for peer in self.peers
        )

    def close(self) -> None:
        """Close the socket; in a child too."""
        self._socket.close()

    def _source(self, host: str, port: int) -> tuple[bytes, int]:
        return socket.inet_pton(self.bind.family, host.partition("%")[0]), port

    # Out

    def send(
        self,
        routers: Mapping[str, tuple[str, int]],
        is_serving: bool,
        servers: Mapping[str, tuple[int, int]],
        now: float,
    ) -> None:
        """Tell all peers: state and priority of each instance, and what this host can do (`vrrp/track.py`, Service).

        Where it is too much for one datagram, `servers` are left out. More than an MTU's worth goes in fragments, of
        which none may be lost.
        """
        if self._began is None:
            self._began = now
        self._sent_at, self.due = now, now + self.interval
        self._number = max(self._number + 1, int(now * _NUMBERS_A_SECOND))
        octets = self._build(routers, is_serving, servers, now)
        if octets is not None:
            for peer in self.peers:
                self._send_to(peer, octets, now)
        self._tell(now)

    def _build(
        self,
        routers: Mapping[str, tuple[str, int]],
        is_serving: bool,
        servers: Mapping[str, tuple[int, int]],
        now: float,
    ) -> bytes | None:
        beat = Beat(
            node=self._node,
            session=self._session,
            number=self._number,
            sender=self._sender,
            interval=self.interval,
            heard={session: number for peer in self.peers for session, number in peer.numbers.items()},
            routers=routers,
            is_serving=is_serving,
            servers=servers,
        )
        try:
            return wire.build(beat, self._key)
        except ValueError as error:
            self._say("build", f"the servers of {len(servers)} backends are left out: {error}", now)
        try:
            return wire.build(replace(beat, servers={}), self._key)
        except ValueError as error:
            self._say("build less", f"cannot be sent: {error}", now)
            return None

    def _send_to(self, peer: Peer, octets: bytes, now: float) -> None:
        try:
            self._socket.sendto(octets, peer.address.sockaddr)
            self.counted["sent"] += 1
        except OSError as error:
            # An interface that is down or gone comes back.
            self.counted["send_err"] += 1
            self._say(("send", peer, error.errno), f"cannot send to {peer}: {error.strerror or error}", now)

    # In

    def receive(self, now: float) -> None:
        """Take what has come, up to a bound."""
        octets = 0
        for _ in range(_AT_ONCE):
            try:
                datagram, (host, port, *_) = self._socket.recvfrom(_DATAGRAM)
            except OSError:
                # Nothing more, or the interface went down.
                break
            self._take(datagram, host, port, now)
            octets += len(datagram)
            if octets >= _OCTETS_AT_ONCE:
                break

    def _take(self, datagram: bytes, host: str, port: int, now: float) -> None:
        peer = self._by_source.get(self._source(host, port))
        if peer is None:
            self.counted["stranger"] += 1
            self._say("stranger", f"{Address(host, port)} is no peer of ours ({self.counted['stranger']} so far)", now)
            return
        try:
            beat = wire.parse(datagram, self._key)
            if beat.session == self._session:
                self.counted["own"] += 1
                raise BadHeartbeatError("our own beat; it goes round in a loop, or somebody plays it back")
            if beat.sender != peer.said_address:
                raise BadHeartbeatError(f"a beat sent from {beat.sender}; somebody plays it back, or there is NAT")
        except BadHeartbeatError as error:
            self.counted["refused"] += 1
            text = f"refused from {peer}: {error.why} ({self.counted['refused']} so far)"
            self._say(("refused", peer), text, now)
            return
        self._judge(peer, beat, now)

    def _judge(self, peer: Peer, beat: Beat, now: float) -> None:
        """Whether a beat with a right signature counts."""
        session = beat.session
        if session in peer.retired or beat.number <= peer.numbers.get(session, -1):
            self.counted["old"] += 1
            return
        believed = peer.beat.session if peer.beat else None
        self._remember(peer, beat, believed)
        # What it repeats is an interval old when nothing gets lost on the way.
        slower = max(self.interval, beat.interval)
        echo = beat.heard.get(self._session)
        if echo is None or echo > self._number or now - echo / _NUMBERS_A_SECOND > _MISSED * slower:
            self.counted["unheard"] += 1
            before = peer.unheard
            since = before.since if before is not None and now - before.at <= _MISSED * slower else now
            peer.unheard = _Unheard(since, now, slower)
            self._answer(now)
            return
        if believed is not None and session != believed:
            peer.retired.append(believed)
            peer.numbers.pop(believed, None)
        if session != believed or now > peer.until:
            self._answer(now)
        self.counted["believed"] += 1
        peer.beat, peer.heard_at = beat, now
        peer.unheard = None
        self._tell_of(peer, now)

    def _remember(self, peer: Peer, beat: Beat, believed: bytes | None) -> None:
        """We say then that we heard it. Whatever is played back, the session that is believed stays."""
        peer.numbers.pop(beat.session, None)
        peer.numbers[beat.session] = beat.number
        others = [session for session in peer.numbers if session != believed]
        if len(others) > _SESSIONS:
            del peer.numbers[others[0]]

    def _answer(self, now: float) -> None:
        """Soon, and however often it is asked for, never more than twice an interval."""
        self.due = min(self.due, max(now, self._sent_at + self.interval / 2))

    # To the log

    def _tell(self, now: float) -> None:
        for peer in self.peers:
            self._tell_of(peer, now)

    def _tell_of(self, peer: Peer, now: float) -> None:
        what = self._condition(peer, now)
        if what == peer.told or not self._may_say(("peer", peer), now, _COMES_AND_GOES):
            return
        if what == "heard":
            after = f" again after {now - peer.told_heard_at:.1f} s" if math.isfinite(peer.told_heard_at) else ""
            self._log(f"heartbeat: {peer} is heard{after}", False)
        elif what == "deaf":
            text = "what we send gets lost, or we are not among its peers, or somebody plays back old beats"
            self._log(f"heartbeat: {peer} sends but does not hear us, so it does not count: {text}", True)
        else:
            ago = f"for {now - peer.heard_at:.1f} s" if peer.beat else "since we started"
            self._log(f"heartbeat: {peer} is silent {ago}", True)
        peer.told = what
        peer.told_heard_at = peer.heard_at

    def _condition(self, peer: Peer, now: float) -> str:
        if now <= peer.until:
            return "heard"
        if peer.unheard is not None:
            since, at, slower = peer.unheard
            if at - since >= _DEAF_AFTER * slower and now - at <= _MISSED * slower:
                return "deaf"
        if peer.beat is None and (self._began is None or now - self._began <= _MISSED * self.interval):
            return ""
        return "silent"

    def _say(self, kind: object, line: str, now: float) -> None:
        if self._may_say(kind, now):
            self._log(f"heartbeat: {line}", True)

    def _may_say(self, kind: object, now: float, times: int = 1) -> bool:
        until, said = self._logged.get(kind, (-math.inf, 0))
        if now >= until:
            until, said = now + _SELDOM, 0
        if said >= times:
            return False
        self._logged[kind] = until, said + 1
        return True


def _bound(bind: Address) -> socket.socket:
    own = socket.socket(bind.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        # The interface may come up later.
        if bind.family == socket.AF_INET6:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TOS)
        else:
            own.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            own.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TOS)
        own.bind(bind.sockaddr)
    except OSError:
        own.close()
        raise
    return own


def _plain(address: Address) -> str:
    """As all hosts write it: what they call the link of a link-local address is their own matter."""
    return str(address.with_host(str(ip_address(address.host.partition("%")[0]))))
