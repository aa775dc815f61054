"""`stats` of haproxy.cfg: the page's settings, where it listens, and its TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balancer.convert.haproxy_proxy import Proxy
from balancer.convert.rules import Scope, divided
from balancer.convert.tree import Map, Seq
from balancer.convert.words import CannotError, Line, Report, milliseconds

__all__ = ["SETTINGS", "binds_of", "no_setting", "tls_of"]

# Of a `bind … ssl`, what OpenSSL or the page see to by themselves.
_IDLE = frozenset(("alpn", "npn", "strict-sni", "no-sslv3", "no-tlsv10", "no-tlsv11", "no-alpn"))
_OLDEST = {"TLSv1.2": "TLSv1.2", "TLSv1.3": "TLSv1.3", "force-tlsv13": "TLSv1.3", "no-tlsv12": "TLSv1.3"}
_OF_CLIENTS = "clients show no certificates: `users` have passwords"
_OTHERS = frozenset(("ciphers", "ciphersuites", "curves", "ecdhe", "sigalgs", "ssl-max-ver", "force-tlsv12",
                     "prefer-client-ciphers", "no-tls-tickets", "tls-ticket-keys", "no-tlsv13"))  # fmt: skip


def binds_of(page: Proxy, report: Report) -> Seq:
    """Where the page listens: without TLS, or with it, and at Unix sockets besides."""
    if not page.tls_binds:
        return page.binds
    binds = Seq()
    for bind, line in zip(page.tls_binds, page.tls_binds.origins, strict=True):
        binds.add(bind, line)
    for bind, line in zip(page.binds, page.binds.origins, strict=True):
        address = bind if isinstance(bind, str) else bind["address"]
        if address.startswith("/"):
            binds.add(bind, line)
        elif line is not None:
            report.lost(line, "the page speaks TLS at all of its addresses, or at none (`stats.tls`)")
    return binds


def tls_of(lines: list[Line], base: str, report: Report) -> Map:
    """What `bind … ssl` says of the page's TLS; certificates stand in the directory `base`. CannotError."""
    own = Map()
    for line in lines:
        each = _tls_of(line, base, report)
        if not own:
            own = each
        elif each != own:
            report.lost(line, "all addresses of the page have the same certificate and versions (`stats.tls`)")
    return own


def _tls_of(line: Line, base: str, report: Report) -> Map:
    own = Map()
    words = iter(line.words[2:])
    for word in words:
        if word == "crt":
            path = Path(base, next(words, "")).absolute()
            if "crt" in own:
                report.lost(line, "the page has one certificate (`stats.tls`)")
                continue
            if path.is_dir():
                raise CannotError("the page has one certificate, and this is a directory; name the file (`crt`)")
            own.put("crt", str(path), line)
            if Path(f"{path}.key").is_file():
                own.put("key", f"{path}.key", line)
        elif word == "verify":
            if next(words, "") == "required":
                raise CannotError(_OF_CLIENTS)
        elif word in ("crt-list", "generate-certificates"):
            raise CannotError("the page has one certificate (`stats.tls`); name its file (`crt`)")
        elif word in ("ca-file", "ca-verify-file", "crl-file"):
            report.other(Line(("bind", "…", word), line.place), _OF_CLIENTS)
            next(words, "")
        elif word == "ssl-min-ver" or word in _OLDEST:
            version = next(words, "") if word == "ssl-min-ver" else word
            if version not in _OLDEST:
                report.other(line, f"TLSv1.2 is the oldest, not {version}")
            elif _OLDEST[version] != "TLSv1.2":
                own.put("ssl_min_ver", _OLDEST[version], line)
        elif word in _OTHERS:
            report.other(Line(("bind", "…", word), line.place), "OpenSSL's own choice counts")
    if "crt" not in own:
        raise CannotError("TLS wants a certificate: `crt`")
    return own


_Stats = Callable[[Map, Line, Scope], None]


def no_setting(own: Map, line: Line, scope: Scope) -> None:
    """There is no such setting."""
    raise CannotError("the page has no such setting")


def _stats_auth(own: Map, line: Line, scope: Scope) -> None:
    name, colon, password = (line.words[2] if len(line.words) > 2 else "").partition(":")
    if not colon or not name or not password:
        raise CannotError("wants USER:PASSWORD")
    own.under("users", line).put(name, password, line)


def _stats_admin(own: Map, line: Line, scope: Scope) -> None:
    _, terms, is_unless = divided(line.words)
    if scope.condition(terms, is_unless=is_unless) is not True:
        raise CannotError("who may change servers is a matter of users: `users: {NAME: {password, admin}}`")
    own.put("admin", True, line)


def _stats_refresh(own: Map, line: Line, scope: Scope) -> None:
    value = milliseconds(line.words[2], unit="s")
    if value is not None:
        own.put("refresh", value, line)


def _text(key: str, *, is_joined: bool = True) -> _Stats:
    def take(own: Map, line: Line, scope: Scope) -> None:
        words = line.words[2:] if is_joined else line.words[2:3]
        if words:
            own.put(key, " ".join(words), line)

    return take


SETTINGS: dict[str, _Stats] = {
    "admin": _stats_admin,
    "auth": _stats_auth,
    "enable": lambda own, line, scope: None,
    "hide-version": lambda own, line, scope: None,
    "maxconn": lambda own, line, scope: None,
    "realm": _text("realm"),
    "refresh": _stats_refresh,
    "show-desc": _text("description"),
    "show-legends": lambda own, line, scope: None,
    "show-node": _text("description"),
    "uri": _text("uri", is_joined=False),
}
