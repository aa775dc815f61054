"""Heartbeats between directors: what each sees and where it stands, one datagram each.

     0  magic "pybb", version, three octets of zero
     8  session      8 octets, drawn at random when the sender started
    16  number       64 bits; grows within a session
    24  JSON         the rest of a `Beat`, in UTF-8; members that are not known are passed over
   -32  HMAC-SHA256  (RFC 2104) over all of the above

A recorded beat must not pass for a living peer. So a beat tells of each session that its sender heard lately the
highest number, and is believed by whoever finds its own session and a fresh number there (`vrrp/peers.py`).
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from balancer.errors import BadHeartbeatError

__all__ = ["SESSION_SIZE", "Beat", "build", "parse"]

SESSION_SIZE = 8

_MAGIC = b"pybb"
_VERSION = 1
_HEAD = struct.Struct("!4sBxxx8sQ")
_MAC_SIZE = 32
# What UDP over IPv4 can carry; over IPv6 it is 20 octets more.
_LONGEST = 65507

# Far more than there is, and little enough to go through.
_MOST_MEMBERS = 4096
_LONGEST_TEXT = 255
_LONGEST_INTERVAL = 3650 * 86400.0
_MOST_NUMBER = (1 << 64) - 1
_MOST_PRIORITY = 255
_MOST_SERVERS = 1_000_000
_STATES = frozenset(("INIT", "BACKUP", "MASTER", "FAULT", "STOPPED"))

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a director says of itself. Texts are printable, of at most 255 characters."""

    node: str
    """Its name."""
    session: bytes
    """8 octets."""
    number: int
    """From 0 to 2**64 - 1."""
    sender: str = ""
    """The address that it is sent from, for the HMAC to cover it: two peers have one key."""
    interval: float = 1.0
    """Seconds until the next one."""
    heard: Mapping[bytes, int] = field(default_factory=dict)
    """The highest number of each session that came to it lately."""
    routers: Mapping[str, tuple[str, int]]
    """State (INIT, BACKUP, MASTER, FAULT, STOPPED) and priority of each instance."""
    is_serving: bool
    """Whether a worker process takes connections."""
    servers: Mapping[str, tuple[int, int]]
    """How many servers of a backend are up, and of how many."""


def build(beat: Beat, key: bytes) -> bytes:
    """The datagram. ValueError for what `parse` would refuse, such as too much for one datagram."""
    said = {
        "node": beat.node,
        "sender": beat.sender,
        "interval": beat.interval,
        "heard": {session.hex(): number for session, number in beat.heard.items()},
        "routers": dict(beat.routers),
        "serving": beat.is_serving,
        "servers": dict(beat.servers),
    }
    if len(beat.session) != SESSION_SIZE or not 0 <= beat.number <= _MOST_NUMBER:
        raise ValueError("a session has 8 octets, a number 64 bits")
    try:
        _read(beat.session, beat.number, said)
    except BadHeartbeatError as error:
        raise ValueError(error.why) from None
    signed = _HEAD.pack(_MAGIC, _VERSION, beat.session, beat.number) + _encode(said).encode()
    if len(signed) + _MAC_SIZE > _LONGEST:
        raise ValueError(f"{len(signed) + _MAC_SIZE} octets, more than a datagram's {_LONGEST}")
    return signed + hmac.digest(key, signed, "sha256")


def parse(octets: bytes, key: bytes) -> Beat:
    """Read a datagram. BadHeartbeatError for whatever `build` does not make with this key.

    Nothing is looked at before the HMAC; where that is wrong, the rest serves to say what it may be.
    """
    signed = octets[:-_MAC_SIZE]
    if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), octets[-_MAC_SIZE:]):
        if octets.startswith(_MAGIC):
            raise BadHeartbeatError("wrong HMAC; most likely `vrrp.heartbeat.key` is not the same there")
        raise BadHeartbeatError(f"{len(octets)} octets that are no heartbeat")
    if not _HEAD.size <= len(signed) <= _LONGEST - _MAC_SIZE:
        raise BadHeartbeatError(f"a heartbeat has no {len(octets)} octets")
    magic, version, session, number = _HEAD.unpack_from(signed)
    if magic != _MAGIC:
        raise BadHeartbeatError("no heartbeat, but signed with its key")
    if version != _VERSION:
        raise BadHeartbeatError(f"version {version}, {_VERSION} expected: another release of pybalancer runs there")
    try:
        said = json.loads(signed[_HEAD.size :].decode())
    except (ValueError, RecursionError):
        raise BadHeartbeatError("no JSON") from None
    return _read(session, number, said)


def _read(session: bytes, number: int, said: Any) -> Beat:
    """Check all that is `said`, as JSON has it or as a `Beat` has it."""
    said = _members(said, "what is said")
    interval, is_serving = said.get("interval"), said.get("serving")
    if type(interval) not in (int, float) or not 0 < interval <= _LONGEST_INTERVAL:
        raise BadHeartbeatError("interval: no such time")
    if type(is_serving) is not bool:
        raise BadHeartbeatError("serving: neither true nor false")
    return Beat(
        node=_text(said.get("node"), "node"),
        session=session,
        number=number,
        sender=_text(said.get("sender"), "sender"),
        interval=float(interval),
        heard={
            _session(each): _whole(highest, _MOST_NUMBER, "heard")
            for each, highest in _members(said.get("heard"), "heard").items()
        },
        routers={
            name: (_state(state), _whole(priority, _MOST_PRIORITY, "routers"))
            for name, state, priority in _pairs(said.get("routers"), "routers")
        },
        is_serving=is_serving,
        servers={
            name: (_whole(up, _MOST_SERVERS, "servers"), _whole(of, _MOST_SERVERS, "servers"))
            for name, up, of in _pairs(said.get("servers"), "servers")
        },
    )


def _members(value: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping) or len(value) > _MOST_MEMBERS:
        raise BadHeartbeatError(f"{what}: no object, or too large a one")
    return value


def _pairs(value: Any, what: str) -> Iterator[tuple[str, Any, Any]]:
    for name, pair in _members(value, what).items():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadHeartbeatError(f"{what}: not two values each")
        yield _text(name, what), pair[0], pair[1]


def _text(value: Any, what: str) -> str:
    # It goes to the log.
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise BadHeartbeatError(f"{what}: no text, too long or not printable")
    return value


def _whole(value: Any, most: int, what: str) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadHeartbeatError(f"{what}: no whole number from 0 to {most}")
    return value


def _state(value: Any) -> str:
    if not isinstance(value, str) or value not in _STATES:
        raise BadHeartbeatError("routers: no such state")
    return str(value)


def _session(text: Any) -> bytes:
    try:
        session = bytes.fromhex(text)
    except (ValueError, TypeError):
        session = b""
    if len(session) != SESSION_SIZE:
        raise BadHeartbeatError("heard: no session")
    return session
