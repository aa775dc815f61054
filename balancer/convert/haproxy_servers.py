"""`server`, `default-server` and what checks them: a backend's servers and its one check."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from balancer.addr import parse_address
from balancer.convert.tree import Map
from balancer.convert.words import CannotError, Line, Report, milliseconds, number, with_values

__all__ = ["Checks", "Servers", "address_of", "ports_of"]

# Of a port range in one bind: what a person would write out.
_MOST = 256
# As of `server_template.count`.
_MOST_OF_TEMPLATE = 10_000
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_CHECK_METHODS = ("OPTIONS", "GET", "HEAD", "POST", "PUT")
# What a check waits for by itself, per server; here they are the backend's.
_TIMES = {"inter": "interval", "fastinter": "fast_interval", "downinter": "down_interval"}
_COUNTS = {"rise": "rise", "fall": "fall"}

_OF_NAMES = ("resolvers", "resolve_prefer", "resolve_opts", "init_addr")
# Parameter of a server to how many words follow it and why there is nothing to write.
_IDLE = {
    "id": (1, "servers are known by their names"),
    "non-stick": (0, "nothing sticks by tables"),
    "stick": (0, "nothing sticks by tables"),
    "no-tfo": (0, "there is none"),
    "tfo": (0, "connections are kept, so the first packet matters little"),
    "enabled": (0, "servers are"),
    "on-marked-up": (1, "clients of backups stay where they are until they are done"),
    "pool-low-conn": (1, "idle connections are each worker's own"),
    "log-proto": (1, "servers are not for logs"),
    "max-reuse": (1, "a connection is used until its server closes it"),
}
_LOST = {
    "resolve-net": (1, "no network is preferred: the first address of the family is taken"),
    "source": (1, "the kernel chooses the address that servers see"),
    "usesrc": (1, "the kernel chooses the address that servers see; engine kernel keeps the client's"),
    "redir": (1, "a server is not redirected to; `http_request` redirects"),
    "agent-check": (0, "agents are not asked"),
    "agent-port": (1, "agents are not asked"),
    "agent-inter": (1, "agents are not asked"),
    "agent-addr": (1, "agents are not asked"),
    "agent-send": (1, "agents are not asked"),
    "proto": (1, "servers are spoken to in HTTP/1.1"),
    "alpn": (1, "servers are spoken to in HTTP/1.1"),
    "check-proto": (1, "checks speak HTTP/1.1"),
    "check-alpn": (1, "checks speak HTTP/1.1"),
    "check-via-socks4": (0, "there is no SOCKS"),
    "socks4": (1, "there is no SOCKS"),
    "namespace": (1, "servers are in the daemon's network namespace"),
    "tcp-ut": (1, "the kernel's own time; `tcp_keepalive` finds dead peers"),
    "ws": (1, "WebSockets are tunnels of HTTP/1.1"),
    "shard": (1, "there are no peers"),
    "proxy-v2-options": (1, "the header holds addresses only"),
    "set-proxy-v2-tlv-fmt": (1, "the header holds addresses only"),
}
_OF_TLS = {
    "ca-file": 1, "ca-verify-file": 1, "ciphers": 1, "ciphersuites": 1, "crl-file": 1, "crt": 1, "force-sslv3": 0,
    "force-tlsv10": 0, "force-tlsv11": 0, "force-tlsv12": 0, "force-tlsv13": 0, "no-sslv3": 0, "no-tlsv10": 0,
    "no-tlsv11": 0, "no-tlsv12": 0, "no-tlsv13": 0, "no-ssl-reuse": 0, "no-tls-tickets": 0, "sni": 1,
    "ssl-max-ver": 1, "ssl-min-ver": 1, "ssl-reuse": 0, "tls-tickets": 0, "verify": 1, "verifyhost": 1, "npn": 1,
    "sigalgs": 1, "curves": 1, "client-sigalgs": 1, "allow-0rtt": 0,
}  # fmt: skip


def address_of(word: str, environ: Mapping[str, str], *, default_port: int | None = None) -> list[str]:
    """HAProxy's address as ours: `:80`, `*:80`, `10.0.0.1:80-82`, `:::80`, `ipv4@…`, `unix@/…`, `/…`.

    A range gives several. CannotError says why it cannot be.
    """
    text = with_values(word, environ)
    if "\ue000" in word and _loads(text):
        # All of it is understood, so it may stay a reference to the environment.
        return [word]
    scheme, at, rest = text.partition("@")
    if at and scheme in ("ipv4", "ipv6", "tcp4", "tcp6", "tcp", "unix", "uxst", "uxdg"):
        text = rest
    elif at:
        raise CannotError(f"there are no {scheme}@ addresses")
    if text.startswith("/"):
        return [text]
    host, colon, ports = text.rpartition(":")
    if not colon or (re.fullmatch(r"[0-9A-Fa-f:]*:[0-9A-Fa-f]*", text) and text.count(":") > 1 and not ports):
        host, ports = text.rstrip(":"), ""
    if not ports:
        if default_port is None:
            raise CannotError("has no port")
        ports = str(default_port)
    if ports[0] in "+-":
        raise CannotError("ports are written as they are, not as a distance from the client's")
    host = host.strip("[]")
    host = "*" if host in ("", "*", "0.0.0.0") else f"[{host}]" if ":" in host else host
    first, _, last = ports.partition("-")
    low, high = number(first, least=1, most=65535), number(last or first, least=1, most=65535)
    if high - low >= _MOST or high < low:
        raise CannotError(f"is a range of more than {_MOST} ports")
    made = [f"{host}:{port}" for port in range(low, high + 1)]
    if not all(map(_loads, made)):
        raise CannotError(f"{text!r} is no address")
    return made


def _loads(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def ports_of(binds: list[str], environ: Mapping[str, str]) -> frozenset[int]:
    """The ports of addresses as `address_of` gives them."""
    ports = (with_values(bind, environ).rpartition(":")[2] for bind in binds if not bind.startswith("/"))
    return frozenset(int(port) for port in ports if port.isdigit())


@dataclass
class Checks:
    """What a section says of its servers' checks, before it is known who is checked."""

    kind: str = "tcp"
    line: Line | None = None
    method: str | None = None
    path: str | None = None
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    expect: dict[str, Any] = field(default_factory=dict)
    timeout: str | None = None
    port: int | None = None
    send_proxy: bool = False
    tls: bool | dict[str, Any] = False

    def httpchk(self, line: Line, args: tuple[str, ...]) -> None:
        """`option httpchk [METHOD] [URI [VERSION]]`; a Host header may hide in the version."""
        self.kind, self.line = "http", line
        if len(args) == 1:
            self.path = args[0]
        elif args:
            self.method, self.path = args[0], args[1]
            version, *fields = re.split(r"\r\n|\\r\\n", args[2]) if len(args) > 2 else [""]
            for each in [*fields, *args[3:]]:
                name, colon, value = each.partition(":")
                if colon and version:
                    self.header(name.strip(), value.strip())

    def header(self, name: str, value: str) -> None:
        if name.lower() == "host":
            self.host = value
        elif name and name.lower() not in ("connection", "content-length", "transfer-encoding"):
            self.headers[name] = value

    def http_check(self, line: Line, args: tuple[str, ...], report: Report) -> None:
        """`http-check send`, `expect` and `connect`."""
        match args[:1]:
            case ("send",):
                self._send(line, args[1:], report)
            case ("expect",):
                self._expect(args[1:])
            case ("connect",):
                self._connect(line, args[1:], report)
            case ("send-state",):
                raise CannotError("servers are not told what is thought of them")
            case ("disable-on-404",):
                raise CannotError("a server that answers 404 is down; `pybalancer drain` lets it finish")
            case ("comment",):
                report.idle(line, "comments are for the configuration")
            case _:
                raise CannotError("a check is one request and what is expected of its answer")

    def _send(self, line: Line, args: tuple[str, ...], report: Report) -> None:
        words = iter(args)
        for word in words:
            match word:
                case "meth":
                    self.method = next(words, "")
                case "uri":
                    self.path = next(words, "")
                case "ver":
                    next(words, "")
                case "hdr":
                    self.header(next(words, ""), next(words, ""))
                case _:
                    next(words, "")
                    report.lost(line, f"a check's request has no {word}")

    def _expect(self, args: tuple[str, ...]) -> None:
        words = list(args)
        while len(words) > 1 and words[0] in ("min-recv", "ok-status", "error-status", "tout-status", "on-success",
                                              "on-error", "status-code", "comment"):  # fmt: skip
            del words[:2]
        if words[:1] == ["!"]:
            raise CannotError("a check expects what it wants, not what it does not")
        match words:
            case ["status", text]:
                self.expect["status"] = text
            case ["rstatus", text]:
                self.expect["status"] = _statuses(text)
            case ["string", text]:
                self.expect |= {"status": "100-599", "text": text}
            case _:
                raise CannotError("a check expects statuses and a text in the body")

    def _connect(self, line: Line, args: tuple[str, ...], report: Report) -> None:
        words = iter(args)
        for word in words:
            match word:
                case "port":
                    self.port = number(next(words, ""), least=1, most=65535)
                case "ssl":
                    self.tls = True
                case "send-proxy":
                    self.send_proxy = True
                case "sni":
                    self.tls = {"sni": next(words, "")}
                case "default" | "linger" | "via-socks4":
                    pass
                case _:
                    next(words, "")
                    report.lost(line, f"a check's connection has no {word}")

    def made(self, report: Report) -> Map:
        """The check as the configuration has it, without its times."""
        own = Map()
        own.put("type", self.kind)
        for key in ("timeout", "port"):
            if getattr(self, key) is not None:
                own.put(key, getattr(self, key))
        if self.send_proxy:
            own.put("send_proxy", True)
        if self.kind != "http":
            return own
        if self.method is not None and self.method not in _CHECK_METHODS and self.line is not None:
            report.lost(self.line, f"a check asks with {', '.join(_CHECK_METHODS)}; OPTIONS in place of {self.method}")
            self.method = None
        for key in ("method", "path", "host"):
            if getattr(self, key) is not None:
                own.put(key, getattr(self, key))
        if self.headers:
            own.put("headers", dict(self.headers))
        if self.expect:
            own.put("expect", dict(self.expect))
        if self.tls:
            own.put("tls", self.tls)
        return own


def _statuses(text: str) -> str:
    """The statuses that a regular expression fits, as ranges."""
    try:
        regex = re.compile(text)
    except re.error:
        raise CannotError("the expression is not understood") from None
    fitting = [status for status in range(100, 600) if regex.search(str(status))]
    ranges: list[list[int]] = []
    for status in fitting:
        if ranges and ranges[-1][1] == status - 1:
            ranges[-1][1] = status
        else:
            ranges.append([status, status])
    if not ranges:
        raise CannotError("no status fits the expression")
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _numbers(written: str) -> tuple[int, int]:
    """The first number of a template's servers, and how many there are, of NUMBER or FIRST-LAST. CannotError."""
    match = _RANGE.fullmatch(written)
    if match is None:
        raise CannotError(f"a template has a number of servers, or a range FIRST-LAST of numbers: not {written!r}")
    first, last = (int(match[1]), int(match[2])) if match[2] is not None else (1, int(match[1]))
    if last < first:
        raise CannotError(f"the range {written} of its servers ends before it begins" if match[2] else "has no servers")
    if last - first >= _MOST_OF_TEMPLATE:
        raise CannotError(f"a template has at most {_MOST_OF_TEMPLATE} servers, not {last - first + 1}")
    return first, last - first + 1


@dataclass
class _Server:
    """A server with what it says of its check."""

    line: Line
    own: Map
    is_checked: bool = False
    times: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    check_tls: bool = False
    check_proxy: bool = False
    is_tls: bool = False
    is_disabled: bool = False
    pool: dict[str, Any] = field(default_factory=dict)


class Servers:
    """The servers of one section, in order."""

    def __init__(self, report: Report, environ: Mapping[str, str], *, default_port: int | None) -> None:
        self._report = report
        self._environ = environ
        self._default_port = default_port
        self._defaults: list[Line] = []
        self._servers: dict[str, _Server] = {}
        self.pool: dict[str, Any] = {}

    def default_server(self, line: Line) -> None:
        self._defaults.append(line)

    def server(self, line: Line) -> None:
        """`server NAME ADDRESS[:PORT] PARAMETER…`"""
        if len(line.words) < 3:
            raise CannotError("a server has a name and an address")
        self._one(line, line.words[1], line.words[2], line.words[3:])

    def template(self, line: Line) -> None:
        """`server-template PREFIX COUNT NAME:PORT PARAMETER…`: as many servers as the name may have addresses."""
        if len(line.words) < 4:
            raise CannotError("a template has a prefix, a number and an address")
        first, count = _numbers(with_values(line.words[2], self._environ))
        name = f"{line.words[1]}1"
        self._one(line, name, line.words[3], line.words[4:])
        own = self._servers[name].own
        if "resolvers" not in own:
            self._report.lost(line, "one server in place of several that are the same (a name wants `resolvers`)")
            return
        own.put("prefix", line.words[1])
        own.put("count", count)
        if first != 1:
            self._report.other(line, "its servers are numbered from 1 on")

    def _one(self, line: Line, name: str, address: str, parameters: tuple[str, ...]) -> None:
        if with_values(address, self._environ).partition(":")[0] in ("0.0.0.0", "*", ""):
            raise CannotError("there is no transparent proxying: a server has an address")
        named = with_values(address, self._environ)
        is_service = named.startswith("_")
        made = (
            [named.partition(":")[0]]
            if is_service
            else address_of(address, self._environ, default_port=self._default_port)
        )
        if len(made) > 1:
            raise CannotError("a server has one port")
        own = Map()
        own.put("address", made[0])
        server = _Server(line, own)
        for default in self._defaults:
            self._take(server, default, default.words[1:])
        self._take(server, line, parameters)
        if server.is_tls:
            raise CannotError("there is no TLS to servers (`ssl`); `mode: tcp` passes TLS on as it is")
        if server.is_disabled:
            raise CannotError("is disabled; `pybalancer maint` takes a server out while all runs")
        self._resolution(own, line, is_service=is_service)
        low, high = own.get("minconn"), own.get("maxconn")
        if low is not None and (high is None or low >= high):
            # HAProxy takes the larger of the two then, always.
            own.put("maxconn", low)
            own.drop("minconn")
        if name in self._servers:
            raise CannotError(f"there is a server {name} already")
        self._servers[name] = server

    def _resolution(self, own: Map, line: Line, *, is_service: bool) -> None:
        """What is said of a name, where there is one that is resolved while it runs."""
        if is_service and "resolvers" not in own:
            raise CannotError("names SRV records, which want `resolvers`")
        if "resolvers" in own and (is_service or _is_name(own["address"])):
            return
        why = "a name is resolved at start and reload" if "resolvers" not in own else "has an address and no name"
        for key in _OF_NAMES:
            if key in own:
                own.drop(key)
                self._report.idle(_part(line, key.replace("resolve_", "resolve-").replace("init_", "init-")), why)

    def _take(self, server: _Server, line: Line, words: tuple[str, ...]) -> None:
        pending = iter(words)
        for word in pending:
            try:
                if word in _PARAMETERS:
                    _PARAMETERS[word](self, server, pending, line)
                elif word in _IDLE:
                    count, why = _IDLE[word]
                    _skip(pending, count)
                    self._report.idle(_part(line, word), why)
                elif word in _LOST:
                    count, why = _LOST[word]
                    _skip(pending, count)
                    self._report.lost(_part(line, word), why)
                elif word in _OF_TLS:
                    _skip(pending, _OF_TLS[word])
                    if not server.is_tls and not server.check_tls:
                        self._report.idle(_part(line, word), "there is no TLS to servers")
                else:
                    self._report.lost(_part(line, word), "servers have no such parameter")
            except CannotError as error:
                self._report.lost(_part(line, word), error.why)

    def made(self, checks: Checks) -> tuple[Map, Map | None]:
        """The servers, and the check where one of them has one."""
        check = self._check(checks)
        servers = Map()
        for name, server in self._servers.items():
            if check is not None and not server.is_checked:
                server.own.put("check", False)
                server.own.drop("observe") if "observe" in server.own else None
            elif server.check and check is not None:
                server.own.put("check", server.check)
            self.pool |= server.pool
            servers.put(name, server.own, server.line)
        return servers, check

    def _check(self, checks: Checks) -> Map | None:
        """One check for all of them, with the times that most have."""
        checked = [server for server in self._servers.values() if server.is_checked]
        if not checked:
            return None
        if any(server.check_tls for server in checked) and checks.kind == "http" and not checks.tls:
            checks.tls = True
        if any(server.check_proxy for server in checked):
            checks.send_proxy = True
        own = checks.made(self._report)
        for key in (*_TIMES.values(), *_COUNTS.values()):
            values = Counter(server.times.get(key) for server in checked)
            ((most, _),) = values.most_common(1)
            if most is not None:
                own.put(key, most)
            for server in checked:
                if server.times.get(key) != most:
                    word = next(each for each, ours in (_TIMES | _COUNTS).items() if ours == key)
                    self._report.lost(_part(server.line, word), f"all servers of a backend are checked alike ({key})")
        return own


def _is_name(address: str) -> bool:
    try:
        return parse_address(address).is_name
    except ValueError:
        # A reference to the environment.
        return True


def _part(line: Line, word: str) -> Line:
    """The line, shown with the parameter in question alone."""
    head = line.words[:2] if line.words[0] == "server" else line.words[:1]
    return Line((*head, *(("…", word) if line.words[2:3] != (word,) else (word,))), line.place)


def _skip(pending: Iterator[str], count: int) -> None:
    for _ in range(count):
        next(pending, "")


_Taker = Callable[[Servers, _Server, Iterator[str], Line], None]


def _flag(key: str, value: Any) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        server.own.put(key, value)

    return take


def _number(key: str, least: int = 0, most: int = 10**9) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        value = number(with_values(next(pending, ""), servers._environ), least=least, most=most)
        if value == 0 and key in ("maxconn", "minconn", "maxqueue"):
            server.own.drop(key) if key in server.own else None
            return
        server.own.put(key, value)

    return take


def _word(key: str, *, allowed: tuple[str, ...] = ()) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        value = next(pending, "")
        if allowed and value not in allowed:
            raise CannotError(f"{key} is one of {', '.join(allowed)}")
        server.own.put(key, value)

    return take


def _check_time(servers: Servers, server: _Server, pending: Iterator[str], word: str) -> None:
    value = milliseconds(next(pending, ""))
    if value is not None:
        server.times[_TIMES[word]] = value


def _check_count(servers: Servers, server: _Server, pending: Iterator[str], word: str) -> None:
    server.times[_COUNTS[word]] = number(next(pending, ""), least=1)


def _slowstart(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
    value = milliseconds(next(pending, ""), unit="ms")
    if value is not None:
        server.own.put("slowstart", value)


def _words(key: str, *, allowed: tuple[str, ...] = ()) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        words = [word for word in next(pending, "").split(",") if word]
        if key == "resolve_opts" and not set(words) <= set(allowed):
            raise CannotError(f"{key} are of {', '.join(allowed)}")
        server.own.put(key, words[0] if len(words) == 1 else words)

    return take


def _port(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
    server.check["port"] = number(next(pending, ""), least=1, most=65535)


def _addr(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
    server.check["address"] = next(pending, "").strip("[]").removeprefix("ipv4@").removeprefix("ipv6@")


def _track(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
    tracked = next(pending, "")
    server.is_checked = True
    servers._report.other(_part(line, "track"), f"is checked by itself, not as {tracked} is")


def _set(name: str, value: bool = True) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        setattr(server, name, value)

    return take


def _unset(key: str) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        if key in server.own:
            server.own.drop(key)

    return take


def _pool(key: str, *, is_time: bool) -> _Taker:
    def take(servers: Servers, server: _Server, pending: Iterator[str], line: Line) -> None:
        word = next(pending, "")
        value = milliseconds(word) if is_time else (0 if word == "0" else number(word.removeprefix("-")))
        if value is not None and not word.startswith("-"):
            server.pool[key] = value

    return take


_PARAMETERS: dict[str, _Taker] = {
    "addr": _addr,
    "backup": _flag("backup", True),
    "check": _set("is_checked"),
    "check-send-proxy": _set("check_proxy"),
    "check-sni": lambda servers, server, pending, line: _skip(pending, 1),
    "check-ssl": _set("check_tls"),
    "cookie": _word("cookie"),
    "disabled": _set("is_disabled"),
    "downinter": lambda servers, server, pending, line: _check_time(servers, server, pending, "downinter"),
    "error-limit": _number("error_limit", 1),
    "fall": lambda servers, server, pending, line: _check_count(servers, server, pending, "fall"),
    "fastinter": lambda servers, server, pending, line: _check_time(servers, server, pending, "fastinter"),
    "init-addr": _words("init_addr"),
    "init-state": _word("init_state", allowed=("up", "down")),
    "inter": lambda servers, server, pending, line: _check_time(servers, server, pending, "inter"),
    "maxconn": _number("maxconn"),
    "maxqueue": _number("maxqueue"),
    "minconn": _number("minconn"),
    "no-backup": _unset("backup"),
    "no-check": _set("is_checked", False),
    "no-check-send-proxy": _set("check_proxy", False),
    "no-check-ssl": _set("check_tls", False),
    "no-send-proxy": _unset("send_proxy"),
    "no-send-proxy-v2": _unset("send_proxy"),
    "no-ssl": _set("is_tls", False),
    "no-disabled": _set("is_disabled", False),
    "observe": _word("observe", allowed=("layer4", "layer7")),
    "on-error": _word("on_error", allowed=("fastinter", "fail-check", "sudden-death", "mark-down")),
    "on-marked-down": _word("on_marked_down", allowed=("shutdown-sessions",)),
    "pool-max-conn": _pool("pool_max_conn", is_time=False),
    "pool-purge-delay": _pool("pool_purge_delay", is_time=True),
    "port": _port,
    "resolve-opts": _words("resolve_opts", allowed=("allow-dup-ip", "ignore-weight", "prevent-dup-ip")),
    "resolve-prefer": _word("resolve_prefer", allowed=("ipv4", "ipv6")),
    "resolvers": _word("resolvers"),
    "rise": lambda servers, server, pending, line: _check_count(servers, server, pending, "rise"),
    "send-proxy": _flag("send_proxy", "v1"),
    "send-proxy-v2": _flag("send_proxy", "v2"),
    "send-proxy-v2-ssl": _flag("send_proxy", "v2"),
    "send-proxy-v2-ssl-cn": _flag("send_proxy", "v2"),
    "slowstart": _slowstart,
    "ssl": _set("is_tls"),
    "track": _track,
    "weight": _number("weight", 0, 256),
}
