"""Servers that come, go, and are elsewhere while it runs: HAProxy's `add server`, `del server`, `set server … addr` and
`fqdn` (management manual, section 9.3), and its answers (src/server.c).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from balancer.addr import Address, parse_address
from balancer.config import units
from balancer.observe import reason, steering
from balancer.observe.reason import Reason
from balancer.observe.snapshot import ServerRow, Snapshot
from balancer.observe.steering import SteeringError
from balancer.pool.orders import Admin

__all__ = ["Order", "SuccessionError", "parse"]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_BY = " by 'stats socket command'"
# Of a Unix socket or a name with a port.
_NO_PORT = "requires a port: <addr>:<port>."
_OF_THE_BACKEND = frozenset(("inter", "fastinter", "downinter", "rise", "fall", "pool-max-conn", "pool-purge-delay"))


class SuccessionError(Exception):
    """It is being done, and another process will know that, to whom whoever asked is handed over: with the answer for
    when it is so, or None and the words by which to ask there."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to become of a server."""

    backend: str
    server: str
    added: Mapping[str, Any] | None = None
    """It is to be there: the keys of a server in the configuration."""
    is_deleted: bool = False
    address: str | None = None
    said: str = ""
    """The answer once it is so."""
    is_nothing: bool = False
    """It is so already."""
    reason: Reason = field(default_factory=Reason)


def parse(words: Sequence[str], snapshot: Snapshot) -> Order:
    """The order of a command. SteeringError says what is wrong."""
    try:
        words, why = reason.reasoned(words, snapshot.now)
    except ValueError as error:
        raise SteeringError(str(error)) from None
    match words[:2]:
        case ["add", "server"]:
            return _add(words[2:], snapshot, why)
        case ["del", "server"]:
            return _delete(words[2:], snapshot, why)
        case ["set", "server"]:
            return _move(words[2:], snapshot, why)
    raise AssertionError(words)


def _add(words: Sequence[str], snapshot: Snapshot, why: Reason) -> Order:
    backend, slash, name = (words[0] if words else "").partition("/")
    if not backend or not slash or not name:
        raise SteeringError("Require 'backend/server'.")
    row = next((row for row in snapshot.backends if row.name == backend), None)
    if row is None:
        raise SteeringError("No such backend.")
    bad = next((letter for letter in name if not _NAME.fullmatch(letter)), None)
    if bad is not None or not _NAME.fullmatch(name):
        raise SteeringError(f"character '{bad}' is not permitted in server name '{name[:128]}'.")
    if any(each.name == name for each in row.servers):
        raise SteeringError("Already exists a server with the same name in backend.")
    if len(words) < 2:
        raise SteeringError("'server' expects <name> and <addr>[:<port>] as arguments.")
    server: dict[str, Any] = {"address": str(_address(words[1]))}
    _options(words[2:], name, server)
    return Order(backend, name, added=server, said="New server registered.", reason=why)


def _address(text: str) -> Address:
    text = text.removeprefix("ipv4@").removeprefix("ipv6@")
    try:
        address = parse_address(text)
    except ValueError as error:
        raise SteeringError(f"invalid address: {error}") from None
    if address.is_wildcard:
        raise SteeringError(f"invalid address: '{text}' in 'server': nobody is there.")
    return address


def _options(words: Sequence[str], name: str, server: dict[str, Any]) -> None:
    """HAProxy's keywords of a server, as far as ours has them."""
    left = list(words)
    check: dict[str, Any] = {"enabled": False}
    while left:
        word = left.pop(0)
        if word in _FLAGS:
            key, value = _FLAGS[word]
            (check if key == "enabled" else server)[key] = value
            continue
        if word in ("disabled", "enabled"):
            # It is in maintenance at first in any case.
            continue
        if word in _OF_THE_BACKEND:
            raise SteeringError(f"'{word}' cannot be said of one server: it is the backend's (backends.NAME.check, …).")
        if word not in _VALUES:
            raise SteeringError(f"unknown keyword '{word}'.")
        if not left:
            raise SteeringError(f"'{word}' expects an argument.")
        key, read = _VALUES[word]
        text = left.pop(0)
        try:
            (check if word in ("port", "addr") else server)[key] = read(text)
        except ValueError:
            if word == "weight":
                raise SteeringError(f"weight of server {name} is not within 0 and 256 ({text}).") from None
            raise SteeringError(f"invalid argument '{text}' to '{word}'.") from None
    server["check"] = check if len(check) > 1 else check["enabled"]


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
            raise ValueError(text)
        return int(text)

    return read


def _limit(text: str) -> int | None:
    return _number(0, 1_000_000_000)(text) or None


def _time(text: str) -> str:
    """HAProxy's are milliseconds without a unit."""
    text = f"{text}ms" if text.isascii() and text.isdigit() else text
    units.duration(text)
    return text


def _cookie(text: str) -> str:
    if not re.fullmatch(r"[!#-+\--:<-\[\]-~]{1,256}", text):
        raise ValueError(text)
    return text


_FLAGS: dict[str, tuple[str, Any]] = {
    "check": ("enabled", True),
    "no-check": ("enabled", False),
    "backup": ("backup", True),
    "no-backup": ("backup", False),
    "send-proxy": ("send_proxy", "v1"),
    "send-proxy-v2": ("send_proxy", "v2"),
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "weight": ("weight", _number(0, 256)),
    "maxconn": ("maxconn", _limit),
    "maxqueue": ("maxqueue", _limit),
    "cookie": ("cookie", _cookie),
    "slowstart": ("slowstart", _time),
    "port": ("port", _number(1, 65535)),
    "addr": ("address", units.ip_address),
}


def _delete(words: Sequence[str], snapshot: Snapshot, why: Reason) -> Order:
    row = steering.found(words, snapshot)
    if row.state.admin is not Admin.MAINT:
        raise SteeringError("Only servers in maintenance mode can be deleted.")
    if row.counters["scur"] or row.counters["qcur"]:
        raise SteeringError("Server still has connections attached to it, cannot remove it.")
    return Order(row.entry.backend, row.name, is_deleted=True, said="Server deleted.", reason=why)


def _move(words: Sequence[str], snapshot: Snapshot, why: Reason) -> Order:
    row = steering.found(words, snapshot)
    is_name = words[1] == "fqdn"
    host = words[2] if len(words) > 2 else ""
    if not host:
        wants = "a FQDN." if is_name else "an address and optionally a port."
        raise SteeringError(f"set server <b>/<s> {words[1]} requires {wants}")
    old = row.entry.address
    if is_name:
        new, said = _to_name(row, old, host)
    else:
        port = (words[4] if len(words) > 4 else "") if words[3:4] == ["port"] else None
        new, said = _to_address(row.address, host, port)
        if not new.path and not new.port:
            raise SteeringError(f"{row.entry.backend}/{row.name} has no port as long as its name is not resolved.")
    return Order(row.entry.backend, row.name, address=str(new), said=said, is_nothing=new == old, reason=why)


def _to_name(row: ServerRow, old: Address, name: str) -> tuple[Address, str]:
    try:
        new = parse_address(f"{name}:{old.port or 1}")
    except ValueError:
        new = old
    if not new.is_name or old.path:
        raise SteeringError(f"could not update {row.entry.backend}/{row.name} FQDN: '{name}' is no host name.")
    return new, f"{row.entry.backend}/{row.name} changed its FQDN from {old.host} to {name}{_BY}"


def _to_address(old: Address, host: str, port: str | None) -> tuple[Address, str]:
    """HAProxy says of each of the two what becomes of it; a port that makes no sense changes neither."""
    if host.startswith(("/", "unix@")):
        new = _address(host)
        return (
            new,
            f"address changed from '{old}' to '{new}'{_BY}" if new != old else f"no need to change the addr{_BY}",
        )
    try:
        bare = units.ip_address(host.strip("[]"))
    except ValueError:
        raise SteeringError(f"Invalid addr '{host}'{_BY}") from None
    said = [f"IP changed from '{old.host or old}' to '{bare}'" if bare != old.host else "no need to change the addr"]
    number = old.port
    if port is not None:
        if not (port.isascii() and port.isdigit()):
            is_map = port[:1] in ("+", "-")
            text = "a port map ('%s') is not known here" if is_map else "problem converting port '%s' to an int"
            raise SteeringError(f"{said[0]}, {text % port}{_BY}" if bare == old.host else f"{text % port}{_BY}")
        if not 1 <= int(port[:6]) <= 65535:
            raise SteeringError(f"invalid port '{port}'{_BY}")
        number = int(port)
        is_new = number != old.port
        said.append(f"port changed from '{old.port}' to '{number}'" if is_new else "no need to change the port")
    if not number:
        raise SteeringError(f"a server that was at {old} {_NO_PORT}")
    return Address(bare, number), ", ".join(said) + _BY
