"""The directives of frontend, backend, listen and defaults: a row each, what it becomes or why it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from balancer.convert.formats import template
from balancer.convert.haproxy_logs import capture, declared, line_format
from balancer.convert.haproxy_servers import Checks, Servers, address_of, ports_of
from balancer.convert.haproxy_without import IDLE, LOST
from balancer.convert.tree import Map, Seq
from balancer.convert.words import TOO_SHORT, CannotError, Line, Report, milliseconds, number, with_values

__all__ = ["Proxy", "read_proxy"]

_FRONT_TIMEOUTS = {"client": "client", "client-fin": "client_fin", "http-request": "http_request",
                   "http-keep-alive": "http_keep_alive"}  # fmt: skip
_BACK_TIMEOUTS = {"connect": "connect", "queue": "queue", "server": "server", "server-fin": "server_fin",
                  "tunnel": "tunnel"}  # fmt: skip
# Those that pybalancer has pages for.
_PAGES = frozenset((400, 401, 403, 404, 408, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504, 505))


@dataclass
class Proxy:
    """One section of haproxy.cfg, read."""

    name: str
    line: Line
    is_front: bool
    is_back: bool
    mode: str = "tcp"
    mode_line: Line | None = None
    front: Map = field(default_factory=Map)
    back: Map = field(default_factory=Map)
    binds: Seq = field(default_factory=Seq)
    is_bound: bool = False
    tls: list[Line] = field(default_factory=list)
    tls_binds: Seq = field(default_factory=Seq)
    """Those with `ssl`, which the statistics page alone has."""
    servers: Map = field(default_factory=Map)
    had_servers: bool = False
    default: Line | None = None
    uses: list[Line] = field(default_factory=list)
    rules: list[Line] = field(default_factory=list)
    acls: dict[str, list[Line]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    stats: list[Line] = field(default_factory=list)
    logs: list[Line] = field(default_factory=list)
    is_logged: bool = False
    unlogged: Line | None = None
    is_globally: bool = False
    """`log global`: where the section `global` says."""
    captures: Seq = field(default_factory=Seq)
    table: dict[str, str] = field(default_factory=dict)
    """What its stick-table stores, and over which time."""
    tracked: str = ""
    is_reached: bool = False
    defaults: Map | None = None


class _Reader:
    """A section while it is read."""

    def __init__(
        self, proxy: Proxy, report: Report, environ: Mapping[str, str], errors: Mapping[str, list[Line]]
    ) -> None:
        self.proxy = proxy
        self.report = report
        self.environ = environ
        self.errors = errors
        self.checks = Checks()
        self.servers: list[Line] = []
        self.request_id: dict[str, Any] = {}
        self.log_format: Line | None = None
        self.fullconn: Line | None = None
        self.original: Line | None = None

    def value(self, line: Line, index: int = 1) -> str:
        """A word of the line, as it is to be understood."""
        if index >= len(line.words):
            raise CannotError("says nothing")
        return with_values(line.words[index], self.environ)


class Row(NamedTuple):
    """Where a directive counts (frontends, backends, both) and what is done about it."""

    side: Literal["front", "back", "both"]
    take: Callable[[_Reader, Line], None]


def read_proxy(
    proxy: Proxy, lines: list[Line], report: Report, environ: Mapping[str, str], errors: Mapping[str, list[Line]]
) -> None:
    """Read the lines of a section, those of its defaults first."""
    reader = _Reader(proxy, report, environ, errors)
    for line in lines:
        if line.words[0] == "mode":
            proxy.mode, proxy.mode_line = (line.words[1] if len(line.words) > 1 else ""), line
    if proxy.mode not in ("tcp", "http"):
        report.lost(proxy.mode_line or proxy.line, "there are the modes tcp, http and udp; tcp in place of it")
        proxy.mode = "tcp"
    for line in lines:
        try:
            _read(reader, line)
        except CannotError as error:
            report.lost(line, error.why)
        except IndexError:
            report.lost(line, TOO_SHORT)
    _finish(reader)


def _read(reader: _Reader, line: Line) -> None:
    words = line.words
    is_no = words[0] in ("no", "default")
    if is_no:
        words = words[1:]
    key = " ".join(words[:2])
    row = _ROWS.get(key) or _ROWS.get(words[0] if words else "")
    if row is None:
        _untranslated(reader, line, key, words)
        return
    proxy = reader.proxy
    if not ((row.side != "back" and proxy.is_front) or (row.side != "front" and proxy.is_back)):
        if not line.inherited:
            reader.report.idle(line, f"has no effect in a {'backend' if row.side == 'front' else 'frontend'}")
        return
    if is_no and words[0] != "option" and words[0] != "log":
        raise CannotError("there is nothing to take back")
    row.take(reader, line)


def _untranslated(reader: _Reader, line: Line, key: str, words: tuple[str, ...]) -> None:
    word = words[0] if words else ""
    if key in IDLE or word in IDLE:
        reader.report.idle(line, IDLE.get(key) or IDLE[word])
    elif line.words[0] in ("no", "default"):
        reader.report.idle(line, "is off here anyway")
    elif word.startswith(("req", "rsp")) and word not in ("requests",):
        raise CannotError("`http_request` and `http_response` have rules for headers")
    else:
        raise CannotError(LOST.get(key) or LOST.get(word) or "there is no such directive")


def _finish(reader: _Reader) -> None:
    """What is known only once all lines are read: servers and their check."""
    proxy = reader.proxy
    ports = ports_of([each if isinstance(each, str) else each["address"] for each in proxy.binds], reader.environ)
    servers = Servers(reader.report, reader.environ, default_port=next(iter(ports)) if len(ports) == 1 else None)
    for line in reader.servers:
        try:
            match line.words[0]:
                case "default-server":
                    servers.default_server(line)
                case "server":
                    servers.server(line)
                case "server-template":
                    servers.template(line)
                case "dispatch":
                    servers.server(Line(("server", "dispatch", *line.words[1:2]), line.place))
        except CannotError as error:
            reader.report.lost(line, error.why)
        except IndexError:
            reader.report.lost(line, TOO_SHORT)
    proxy.had_servers = any(line.words[0] != "default-server" for line in reader.servers)
    proxy.servers, check = servers.made(reader.checks)
    if check is not None:
        proxy.back.put("check", check, reader.checks.line)
    if reader.fullconn is not None and any("minconn" in each for each in proxy.servers.values()):
        proxy.back.put("fullconn", number(reader.value(reader.fullconn)), reader.fullconn)
    elif reader.fullconn is not None and not reader.fullconn.inherited:
        reader.report.idle(reader.fullconn, "counts for servers with a `minconn`")
    for key, value in servers.pool.items():
        proxy.back.put(key, value)
    if reader.log_format is not None and proxy.is_front:
        try:
            proxy.front.put("log_format", line_format(reader.log_format, proxy.mode), reader.log_format)
        except CannotError as error:
            reader.report.lost(reader.log_format, error.why)
    if reader.request_id:
        proxy.front.put("request_id", dict(reader.request_id))
    if reader.original is not None:
        words = reader.original.words
        header = words[words.index("header") + 1] if "header" in words[:-1] else "X-Original-To"
        proxy.rules.append(Line(("http-request", "add-header", header, "%[dst]"), reader.original.place))
    order = {"monitor-uri": 0, "tcp-request": 1, "http-request": 2, "http-response": 2, "redirect": 3}
    proxy.rules.sort(key=lambda line: order[line.words[0]])
    if proxy.mode != "http":
        for line in proxy.rules:
            if not line.inherited:
                reader.report.lost(line, "there are no rules for connections (mode tcp); a host firewall has them")
        proxy.rules = []


def _bind(reader: _Reader, line: Line) -> None:
    reader.proxy.is_bound = True
    own = Map()
    words = iter(line.words[2:])
    is_tls = False
    for word in words:
        if word == "accept-proxy":
            own.put("accept_proxy", True)
        elif word == "v4v6":
            own.put("v4v6", True)
        elif word == "interface":
            own.put("interface", next(words, ""))
        elif word == "mode":
            own.put("mode", next(words, "").rjust(4, "0")[-4:])
        elif word == "ssl":
            is_tls = True
        elif word in _BIND_IDLE:
            for _ in range(_BIND_IDLE[word]):
                next(words, "")
        elif word in _BIND_LOST:
            count, why = _BIND_LOST[word]
            for _ in range(count):
                next(words, "")
            reader.report.lost(Line(("bind", "…", word), line.place), why)
        elif not is_tls and word not in _BIND_OF_TLS:
            reader.report.lost(Line(("bind", "…", word), line.place), "binds have no such parameter")
        elif word in _BIND_OF_TLS and not is_tls:
            next(words, "")
    if len(line.words) < 2:
        raise CannotError("wants an address")
    binds = reader.proxy.binds
    if is_tls:
        reader.proxy.tls.append(line)
        binds = reader.proxy.tls_binds
    for part in line.words[1].split(","):
        for address in address_of(part, reader.environ):
            given = own if not address.startswith("/") or "interface" not in own else Map()
            if not given:
                binds.add(address, line)
                continue
            each = Map()
            each.put("address", address)
            for key, value in given.items():
                is_fitting = {"v4v6": address.startswith("[::]"), "mode": address.startswith("/")}.get(key, True)
                if is_fitting:
                    each.put(key, value)
            binds.add(each if len(each) > 1 else address, line)


_BIND_IDLE = {
    "backlog": 1, "defer-accept": 0, "expose-fd": 1, "gid": 1, "group": 1, "id": 1, "level": 1, "name": 1, "nice": 1,
    "process": 1, "shards": 1, "severity-output": 1, "tfo": 0, "thread": 1, "transparent": 0, "uid": 1, "user": 1,
    "v6only": 0, "mss": 1, "accept-netscaler-cip": 1, "no-alpn": 0, "no-strict-sni": 0,
}  # fmt: skip
_BIND_LOST = {
    "maxconn": (1, "connections are counted by frontend: `maxconn`"),
    "namespace": (1, "binds are in the daemon's network namespace"),
    "tcp-ut": (1, "the kernel's own time; `tcp_keepalive` finds dead peers"),
    "proto": (1, "clients speak HTTP/1.1"),
}
_BIND_OF_TLS = frozenset(
    ("alpn", "ca-file", "ca-ignore-err", "ca-sign-file", "ca-verify-file", "ciphers", "ciphersuites", "crl-file",
     "crt", "crt-ignore-err", "crt-list", "curves", "ecdhe", "npn", "prefer-client-ciphers", "sigalgs", "ssl-max-ver",
     "ssl-min-ver", "strict-sni", "tls-ticket-keys", "verify", "no-sslv3", "no-tlsv10", "no-tlsv11", "no-tlsv12",
     "no-tlsv13", "no-tls-tickets", "force-tlsv12", "force-tlsv13", "allow-0rtt", "generate-certificates",
     "client-sigalgs", "default-crt")
)  # fmt: skip


def _balance(reader: _Reader, line: Line) -> None:
    name, _, argument = reader.value(line).partition("(")
    ours = {"static-rr": "roundrobin", "hash": "source"}.get(name, name)
    if name not in ("roundrobin", "static-rr", "leastconn", "first", "source", "uri", "random"):
        raise CannotError(f"there is no balance {name}; roundrobin in its place (also: source, uri, maglev, random)")
    if name == "uri" and reader.proxy.mode != "http":
        raise CannotError("uri is for mode http; roundrobin in its place")
    if len(line.words) > 2 or argument.removesuffix(")") not in ("", "2"):
        reader.report.other(line, f"{ours} has no arguments")
    reader.proxy.back.put("balance", ours, line)


def _hash_type(reader: _Reader, line: Line) -> None:
    if reader.value(line) not in ("map-based", "consistent"):
        raise CannotError("there is map-based and consistent")
    if reader.proxy.back.get("balance") in ("source", "uri"):
        if len(line.words) > 2:
            reader.report.other(line, "the hash function is its own")
        reader.proxy.back.put("hash_type", line.words[1], line)
    elif not line.inherited:
        reader.report.idle(line, "counts for balance source and uri")


def _cookie(reader: _Reader, line: Line) -> None:
    if reader.proxy.mode != "http":
        if not line.inherited:
            reader.report.idle(line, "counts in mode http")
        return
    words = iter(line.words[2:])
    own = Map()
    own.put("name", reader.value(line))
    mode = ""
    lists: dict[str, list[str]] = {"domain": [], "attr": []}
    for word in words:
        if word in ("insert", "rewrite", "prefix"):
            mode = word
        elif word in ("indirect", "nocache", "postonly", "preserve", "httponly", "secure"):
            own.put(word, True)
        elif word in lists:
            lists[word].append(next(words, ""))
        elif word in ("maxidle", "maxlife"):
            value = milliseconds(next(words, ""), unit="s")
            if value is not None:
                own.put(word, value)
        else:
            reader.report.lost(Line(("cookie", "…", word), line.place), "cookies have no such option")
            if word == "attr":
                next(words, "")
    if mode != "insert":
        raise CannotError("a cookie is `insert`: one of the balancer's own, not the application's")
    for key, values in lists.items():
        if values:
            own.put(key, values[0] if len(values) == 1 else values)
    reader.proxy.back.put("cookie", own, line)


def _timeout(reader: _Reader, line: Line) -> None:
    proxy, name = reader.proxy, reader.value(line)
    if name == "check":
        reader.checks.timeout = milliseconds(reader.value(line, 2))
        return
    if name == "tarpit":
        reader.report.idle(line, "what is denied is denied at once")
        return
    if name not in _FRONT_TIMEOUTS and name not in _BACK_TIMEOUTS:
        raise CannotError("there is no such timeout")
    value = milliseconds(reader.value(line, 2))
    if value is None:
        raise CannotError("timeouts are finite; the default counts")
    if proxy.is_front and name in _FRONT_TIMEOUTS:
        proxy.front.under("timeout").put(_FRONT_TIMEOUTS[name], value, line)
    elif proxy.is_back and name in _BACK_TIMEOUTS:
        proxy.back.under("timeout").put(_BACK_TIMEOUTS[name], value, line)
    elif not line.inherited:
        reader.report.idle(line, "has no effect in this section")


def _maxconn(reader: _Reader, line: Line) -> None:
    value = number(reader.value(line))
    if value:
        reader.proxy.front.put("maxconn", value, line)
    elif "maxconn" in reader.proxy.front:
        reader.proxy.front.drop("maxconn")


def _fullconn(reader: _Reader, line: Line) -> None:
    reader.fullconn = line if number(reader.value(line)) else None


def _retries(reader: _Reader, line: Line) -> None:
    reader.proxy.back.put("retries", number(reader.value(line), most=100), line)


def _is_on(line: Line) -> bool:
    return line.words[0] not in ("no", "default")


def _option(key: str, value: Any = True, *, side: str = "back", needs_http: bool = False) -> Callable[..., None]:
    """An option that is a key with one value, or that key turned off."""

    def take(reader: _Reader, line: Line) -> None:
        settings = reader.proxy.front if side == "front" else reader.proxy.back
        if needs_http and reader.proxy.mode != "http":
            return
        if _is_on(line):
            settings.put(key, value, line)
        elif isinstance(value, bool):
            settings.put(key, not value, line)
        elif key in settings:
            settings.drop(key)

    return take


def _keepalive(*sides: str) -> Callable[..., None]:
    def take(reader: _Reader, line: Line) -> None:
        proxy = reader.proxy
        if proxy.is_front and "front" in sides:
            proxy.front.put("tcp_keepalive", _is_on(line), line)
        if proxy.is_back and "back" in sides:
            proxy.back.put("tcp_keepalive", _is_on(line), line)

    return take


def _forwardfor(reader: _Reader, line: Line) -> None:
    proxy = reader.proxy
    settings = proxy.front if proxy.is_front else proxy.back
    if proxy.mode != "http":
        return
    if not _is_on(line):
        settings.pop("forwarded_for", None)
        return
    own = Map()
    words = iter(line.words[2:])
    for word in words:
        if word == "except":
            own.put("except", next(words, ""))
        elif word == "header":
            own.put("header", next(words, ""))
        elif word == "if-none":
            own.put("if_none", True)
    settings.put("forwarded_for", own or True, line)


def _forwarded(reader: _Reader, line: Line) -> None:
    if reader.proxy.mode != "http" or not _is_on(line):
        return
    own = Map()
    given = set(line.words[2:])
    if given:
        for key in ("for", "by"):
            if given & {key, f"{key}_port"}:
                own.put(key, "address_port" if f"{key}_port" in given else "address")
        if "for" not in own:
            own.put("for", None)
        if "host" in given:
            own.put("host", True)
        if "proto" not in given:
            own.put("proto", False)
    for word in line.words[2:]:
        if word.endswith("expr"):
            reader.report.lost(line, f"is translated, but {word}: `forwarded` has what is known of the connection")
    reader.proxy.front.put("forwarded", own or True, line)


def _originalto(reader: _Reader, line: Line) -> None:
    """`option originalto [except NETWORK] [header NAME]`, a rule here: one from defaults is the frontend's."""
    if reader.proxy.mode != "http" or (line.inherited and not reader.proxy.is_front):
        return
    reader.original = line if _is_on(line) else None
    if "except" in line.words:
        reader.report.lost(line, "is translated, but for all addresses that are connected to: there is no `except`")


def _httpchk(reader: _Reader, line: Line) -> None:
    reader.checks = Checks(timeout=reader.checks.timeout)
    if _is_on(line):
        reader.checks.httpchk(line, line.words[2:])


def _http_check(reader: _Reader, line: Line) -> None:
    reader.checks.http_check(line, line.words[1:], reader.report)


def _tcp_check(reader: _Reader, line: Line) -> None:
    if line.words[:2] == ("option", "tcp-check"):
        reader.checks = Checks(line=line, timeout=reader.checks.timeout)
        return
    match line.words[1:2]:
        case ("connect",):
            words = iter(line.words[2:])
            for word in words:
                if word == "port":
                    reader.checks.port = number(next(words, ""), least=1, most=65535)
                elif word == "send-proxy":
                    reader.checks.send_proxy = True
                elif word not in ("default", "linger"):
                    reader.report.lost(line, f"a check of type tcp connects and no more ({word})")
        case ("comment",):
            pass
        case _:
            raise CannotError("a check of type tcp connects and no more")


def _other_check(reader: _Reader, line: Line) -> None:
    if _is_on(line):
        reader.checks = Checks(line=line, timeout=reader.checks.timeout)
        raise CannotError("checks are of type tcp, http and dns; tcp in place of it")


def _error_file(reader: _Reader, line: Line) -> None:
    status = number(reader.value(line), least=100, most=599)
    if status not in _PAGES:
        raise CannotError(f"there is no page of {status}")
    proxy = reader.proxy
    settings = proxy.front if proxy.is_front else proxy.back
    path = reader.value(line, 2)
    if path == "/dev/null":
        raise CannotError("an answer has a page; a client that is too slow is closed without one anyway")
    settings.under("error_files").put(str(status), str(Path(path).absolute()), line)


def _error_files(reader: _Reader, line: Line) -> None:
    lines = reader.errors.get(reader.value(line))
    if lines is None:
        raise CannotError("there is no such section http-errors")
    wanted = set(line.words[2:])
    for each in lines:
        if not wanted or each.words[1] in wanted:
            _error_file(reader, Line(each.words, each.place))


def _compression(reader: _Reader, line: Line) -> None:
    proxy = reader.proxy
    if proxy.mode != "http":
        return
    settings = proxy.front if proxy.is_front else proxy.back
    word = reader.value(line)
    own = settings.get("compression")
    if not isinstance(own, Map):
        own = Map()
        settings.put("compression", own, line)
    if word in ("algo", "algo-res"):
        known = [each for each in line.words[2:] if each == "gzip"]
        for each in line.words[2:]:
            if each not in ("gzip", "identity"):
                reader.report.other(line, f"{each} is not among zstd, br and gzip")
        own.put("algorithms", known[0] if known else "gzip", line)
    elif word in ("type", "type-res"):
        own.put("types", [f"{each}*" if each.endswith("/") else each for each in line.words[2:]], line)
    elif word == "offload":
        own.put("offload", True, line)
    else:
        raise CannotError("there is algo, type and offload")


def _stick(reader: _Reader, line: Line) -> None:
    match line.words[1:3]:
        case ("on", "src"):
            if reader.proxy.back.get("balance") in ("source", "maglev"):
                return
            reader.report.other(line, "a client's server is chosen by its address, not remembered in a table")
            reader.proxy.back.put("balance", "source", line)
            reader.proxy.back.put("hash_type", "consistent", line)
        case _:
            raise CannotError("clients stay by cookie, or by address (`balance: source`, `maglev`)")


def _stick_table(reader: _Reader, line: Line) -> None:
    words = list(line.words)
    stored = words[words.index("store") + 1] if "store" in words[:-1] else ""
    for each in _outside_brackets(stored):
        name, _, period = each.partition("(")
        time = milliseconds(period.removesuffix(")")) if period else ""
        if time is not None:
            reader.proxy.table[name] = time
    if "size" in words[:-1]:
        reader.proxy.table["size"] = words[words.index("size") + 1]
    reader.report.idle(line, "`limits` and `balance` remember clients by themselves")


def _outside_brackets(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _tcp_request(reader: _Reader, line: Line) -> None:
    match line.words[1:3]:
        case ("connection" | "session" | "content", word) if word.startswith("track-sc"):
            if "table" in line.words[:-1]:
                reader.proxy.tracked = line.words[line.words.index("table") + 1]
            if "src" not in line.words:
                raise CannotError("only the client's address is counted (`limits`)")
            reader.report.idle(line, "`limits` count the client's address by themselves")
        case ("connection" | "session" | "content", "reject" | "silent-drop"):
            reader.proxy.rules.append(line)
        case ("inspect-delay", _):
            reader.report.idle(line, "a request is read before rules look at it, for `timeout.http_request` at most")
        case ("content" | "connection" | "session", "accept"):
            reader.report.idle(line, "what no rule refuses is accepted")
        case _:
            raise CannotError("connections are only refused or counted")


def _http_rule(reader: _Reader, line: Line) -> None:
    if reader.proxy.mode != "http" and line.inherited:
        return
    words = line.words
    if words[1:2] and words[1].startswith("track-sc") and "table" in words[:-1]:
        reader.proxy.tracked = words[words.index("table") + 1]
    reader.proxy.rules.append(line)


def _acl(reader: _Reader, line: Line) -> None:
    if len(line.words) < 3:
        raise CannotError("wants a name and a criterion")
    name = line.words[1].replace("(", "_").replace(")", "_")
    reader.proxy.acls.setdefault(name, []).append(line)


def _log(reader: _Reader, line: Line) -> None:
    proxy = reader.proxy
    if line.words[0] == "no":
        proxy.is_logged = proxy.is_globally = False
        proxy.logs.clear()
        proxy.unlogged = line
        return
    proxy.is_logged = True
    if line.words[1:] == ("global",):
        proxy.is_globally = True
    if line.words[1:] == ("global",) and proxy.is_front:
        reader.report.idle(line, "what is not `log: false` is logged where `global.log` says")
    if line.words[1:] != ("global",):
        proxy.logs.append(line)


def _log_format(reader: _Reader, line: Line) -> None:
    """`log-format`, or one of the usual formats, which takes one from the defaults section back."""
    if line.words[0] == "log-format":
        reader.value(line)
        reader.log_format = line
        return
    reader.log_format = None
    if "clf" in line.words:
        reader.report.other(line, "lines are those of `option httplog`, not the Common Log Format")
    elif line.words[0] == "option":
        what = "requests" if line.words[1] == "httplog" else "connections"
        reader.report.idle(line, f"{what} are logged so")


def _capture(reader: _Reader, line: Line) -> None:
    if reader.proxy.mode != "http":
        raise CannotError("connections have no headers")
    take = capture if line.words[0] == "capture" else declared
    take(line, reader.proxy.captures, reader.report)


def _unique_id(reader: _Reader, line: Line) -> None:
    if reader.proxy.mode != "http":
        return
    if line.words[0] == "unique-id-header":
        reader.request_id["header"] = reader.value(line)
        return
    try:
        reader.request_id["format"] = template(reader.value(line))
    except CannotError as error:
        reader.report.other(line, f"{error.why}; a random one (%[uuid]) in its place")
        reader.request_id.setdefault("header", "X-Request-ID")


def _default(reader: _Reader, line: Line) -> None:
    reader.proxy.default = line


def _server(reader: _Reader, line: Line) -> None:
    reader.servers.append(line)


def _collected(name: str) -> Callable[..., None]:
    def take(reader: _Reader, line: Line) -> None:
        getattr(reader.proxy, name).append(line)

    return take


def _nothing(reader: _Reader, line: Line) -> None:
    """What is written elsewhere."""


_ROWS: dict[str, Row] = {
    "acl": Row("both", _acl),
    "balance": Row("back", _balance),
    "bind": Row("front", _bind),
    "capture": Row("front", _capture),
    "compression": Row("both", _compression),
    "cookie": Row("back", _cookie),
    "declare": Row("front", _capture),
    "default-server": Row("back", _server),
    "default_backend": Row("front", _default),
    "dispatch": Row("back", _server),
    "errorfile": Row("both", _error_file),
    "errorfiles": Row("both", _error_files),
    "fullconn": Row("back", _fullconn),
    "hash-type": Row("back", _hash_type),
    "http-check": Row("back", _http_check),
    "http-request": Row("both", _http_rule),
    "http-response": Row("both", _http_rule),
    "http-reuse": Row("back", lambda reader, line: reader.proxy.back.put(
        "http_reuse", {"aggressive": "always"}.get(reader.value(line), reader.value(line)), line)),
    "log": Row("both", _log),
    "log-format": Row("front", _log_format),
    "maxconn": Row("front", _maxconn),
    "mode": Row("both", _nothing),
    "monitor-uri": Row("front", _http_rule),
    "option allbackups": Row("back", _option("allbackups")),
    "option clitcpka": Row("front", _keepalive("front")),
    "option dontlog-normal": Row("front", _option("dontlog_normal", side="front")),
    "option dontlognull": Row("front", _option("dontlognull", side="front")),
    "option forwarded": Row("front", _forwarded),
    "option forwardfor": Row("both", _forwardfor),
    "option http-server-close": Row("back", _option("pool_max_conn", 0, needs_http=True)),
    "option httpchk": Row("back", _httpchk),
    "option httplog": Row("front", _log_format),
    "option log-separate-errors": Row("front", _option("log_separate_errors", side="front")),
    "option originalto": Row("both", _originalto),
    "option redispatch": Row("back", _option("redispatch")),
    "option srvtcpka": Row("back", _keepalive("back")),
    "option tcp-check": Row("back", _tcp_check),
    "option tcplog": Row("front", _log_format),
    "option tcpka": Row("both", _keepalive("front", "back")),
    "redirect": Row("both", _http_rule),
    "retries": Row("back", _retries),
    "server": Row("back", _server),
    "server-template": Row("back", _server),
    "stats": Row("both", _collected("stats")),
    "stick": Row("back", _stick),
    "stick-table": Row("both", _stick_table),
    "tcp-check": Row("back", _tcp_check),
    "tcp-request": Row("both", _tcp_request),
    "timeout": Row("both", _timeout),
    "unique-id-format": Row("front", _unique_id),
    "unique-id-header": Row("front", _unique_id),
    "use_backend": Row("front", _collected("uses")),
    **{f"option {name}": Row("back", _other_check)
       for name in ("external-check", "ldap-check", "mysql-check", "pgsql-check", "redis-check", "smtpchk",
                    "spop-check", "ssl-hello-chk")},
}  # fmt: skip
