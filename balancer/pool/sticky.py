"""Persistence by a cookie that we insert: HAProxy's `cookie NAME insert`, to the letter.

The client's cookie says `VALUE`, or `VALUE|LAST` or `VALUE|LAST|FIRST` where `maxidle` or `maxlife` are
configured: dates of the last and the first use, each five base64 digits that count units of four seconds.

    request   `find(value, now)`: the server to go to, if there is one, and what the client's cookie was
    response  `set_cookie(server, choice, method, now)`: the line to insert, or nothing

What is for the caller to do: `indirect` strips our cookie from the request; responses below 200 but 101 stay
as they are; without `preserve`, and with `indirect` where the client came with a valid cookie, a cookie of this
name that the server sets is removed; with `preserve` it stays and none is inserted; `nocache` adds
`cache-control: private` to a cacheable response when a cookie goes in.

In the log the third character of the termination state is `Choice.state`. The fourth is N where no line was
inserted; else U where the server is the one that the cookie named (a new date only), I where it is another.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from balancer.config import model
from balancer.pool.server import Server

__all__ = ["NO_COOKIE", "Choice", "Persistence"]

# A date this far in the future is a wrong clock, and the cookie is not believed; less is let pass, so that a
# corrected time zone does not expire every client (HAProxy's limit).
_FUTURE: Final = 86400
# What is left of a Unix date: 30 bits of four seconds. It lasts until 2106.
_DATE: Final = 0xFFFFFFFC


@dataclass(frozen=True, slots=True)
class Choice:
    """What a request's cookie said."""

    server: Server | None
    """Where to go: up, draining or a backup, but neither down nor in maintenance. None: balance."""
    state: Literal["N", "I", "D", "V", "E", "O"]
    """No cookie, Invalid (names no server), Down (its server is), Valid, Expired (`maxidle`), Old (`maxlife`)."""
    first: int = 0
    """When the client got its first cookie, in Unix seconds; 0 if it does not say."""
    refresh: bool = False
    """The date is to be renewed, though the server stays."""

    def lost(self) -> Choice:
        """Its server could not take it, and another is to."""
        return Choice(None, "D", self.first) if self.server is not None else self


NO_COOKIE: Final = Choice(None, "N")
"""The request had none."""
_INVALID: Final = Choice(None, "I")
_DOWN: Final = Choice(None, "D")
_EXPIRED: Final = Choice(None, "E")
_OLD: Final = Choice(None, "O")


class Persistence:
    """A backend's cookie. `servers` are all of its servers in configuration order; several may share a
    value, and then the first that takes clients gets them."""

    def __init__(self, cookie: model.Cookie, servers: Sequence[Server]) -> None:
        self.name = cookie.name.encode()
        self._postonly = cookie.postonly
        self._maxidle = cookie.maxidle or 0
        self._maxlife = cookie.maxlife or 0
        self._dated = bool(self._maxidle or self._maxlife)
        self._named: dict[bytes, list[tuple[Server, Choice]]] = {}
        for server in servers:
            if server.cookie:
                self._named.setdefault(server.cookie, []).append((server, Choice(server, "V")))
        tail = b"".join(b"; domain=" + domain.encode() for domain in cookie.domain)
        tail += b"; HttpOnly" if cookie.httponly else b""
        tail += b"; Secure" if cookie.secure else b""
        tail += b"".join(b"; " + attribute.encode() for attribute in cookie.attr)
        self._tail = b"; path=/" + tail + b"\r\n"
        self._head = b"set-cookie: " + self.name + b"="
        self._lines = {server: self._head + server.cookie + self._tail for server in servers if server.cookie}
        self._removal = self._head + b"; Expires=Thu, 01-Jan-1970 00:00:01 GMT" + self._tail

    def find(self, value: bytes | None, now: float) -> Choice:
        """What the client's cookie means. `value` is as it stood in the request, None if there was none;
        `now` is Unix time in seconds."""
        if value is None:
            return NO_COOKIE
        if not self._dated:
            # One look-up for the steady state, and for values that hold a bar themselves.
            named = self._named.get(value)
            if named is not None:
                for server, valid in named:
                    if server.takes_cookie:
                        return valid
                return _DOWN
        return self._find_dated(value, int(now))

    def _find_dated(self, value: bytes, now: int) -> Choice:
        value, _, dates = value.partition(b"|")
        last = _date(dates)
        first = _date(dates.partition(b"|")[2])
        if first and self._maxlife and not -_FUTURE <= now - first <= self._maxlife:
            return _OLD
        if last and self._maxidle and not -_FUTURE <= now - last <= self._maxidle:
            return _EXPIRED
        named = self._named.get(value)
        if named is None:
            return Choice(None, "I", first) if first else _INVALID
        for server, valid in named:
            if server.takes_cookie:
                stale = last < now if last else self._maxidle > 0
                refresh = stale or bool(self._maxlife) != bool(first)
                return Choice(server, "V", first, refresh) if first or refresh else valid
        return Choice(None, "D", first) if first else _DOWN

    def set_cookie(self, server: Server, choice: Choice, method: bytes, now: float) -> bytes:
        """The whole line, `set-cookie: …` with its CRLF, for a response of `server`, or b"" where nothing is
        to be inserted: the client has this cookie already, or `postonly` and another method than POST.

        A server without a value (a backup, say) removes the cookie that the client came with; HAProxy sends
        the removal even where there was none. `choice` is what `find` said of the request, also where it
        was redispatched since.
        """
        if (server is choice.server and not choice.refresh) or (self._postonly and method != b"POST"):
            return b""
        if not server.cookie:
            return b"" if choice.state == "N" else self._removal
        if not self._dated:
            return self._lines[server]
        today = _digits(int(now) + 3)
        dates = b"|" + today
        if self._maxlife:
            dates += b"|" + (_digits(choice.first) if choice.first else today)
        return self._head + server.cookie + dates + self._tail


def _digits(date: int) -> bytes:
    """A date as five base64 digits, the highest first: its number of four seconds since the epoch."""
    return binascii.b2a_base64((date & _DATE).to_bytes(4), newline=False)[:5]


def _date(digits: bytes) -> int:
    """The date in the first five of `digits`, 0 where they are none."""
    if len(digits) < 5:
        return 0
    try:
        return int.from_bytes(binascii.a2b_base64(digits[:5] + b"A==", strict_mode=True))
    except binascii.Error:
        return 0
