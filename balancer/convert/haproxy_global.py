"""The sections of haproxy.cfg that are not proxies: global, userlist, cache, http-errors; and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import bcrypt

from balancer.config import htpasswd
from balancer.convert.haproxy_lines import Section
from balancer.convert.haproxy_logs import log_target
from balancer.convert.tree import Map, Seq
from balancer.convert.words import TOO_SHORT, CannotError, Fate, Line, Report, milliseconds, number, size, with_values

__all__ = ["cache", "error_files", "global_section", "no_section", "resolvers", "users"]

_NO_TLS = "only the statistics page has TLS (`stats.tls`); `mode: tcp` passes it on to the servers"
_TUNING = "has no counterpart; buffers and limits of pybalancer are its own"
_STATE = "changes are kept over reload and restart (`global.state_directory`)"
_BY_ITSELF = "pybalancer sees to it by itself"
# Sections of their own, and why there is none here.
_NO_SECTIONS = {
    "peers": "directors share no tables: `balance: source` and `maglev` choose alike on both",
    "mailers": "no mail is sent; logs and metrics tell of servers",
    "ring": "logs go over TCP without one: `log: {target: tcp://HOST:PORT}`",
    "log-forward": "other programs' logs are not passed on",
    "log-profile": "frontends have a `log_format` each",
    "program": "no other programs are started; systemd does",
    "fcgi-app": "servers speak HTTP, not FastCGI",
    "crt-store": _NO_TLS,
    "acme": _NO_TLS,
    "traces": "there are no traces",
}


def no_section(section: Section, report: Report) -> None:
    """Tell of a section that there is no counterpart of, line by line."""
    why = _NO_SECTIONS.get(section.kind, "there is no such section")
    for line in (section.head, *section.lines):
        report.lost(line, why)


class _Global:
    """What the lines of `global` make."""

    def __init__(self, root: Map, report: Report, environ: Mapping[str, str]) -> None:
        self.root = root
        self.report = report
        self.environ = environ

    def put(self, key: str, value: object, line: Line) -> None:
        self.root.under("global").put(key, value, line)

    def log(self, line: Line) -> None:
        own = self.root.under("global")
        if len(line.words) < 3:
            raise CannotError("wants an address and a facility")
        target = log_target(line, self.report)
        if "log" not in own:
            own.put("log", Seq(), line)
        if target not in own["log"]:
            own["log"].add(target, line)

    def stats(self, line: Line) -> None:
        word, *rest = line.words[1:] or ("",)
        if word != "socket":
            why = "commands are answered at once" if word == "timeout" else "as many as ask at a time"
            self.report.idle(line, why)
            return
        if "runtime_socket" in self.root.under("global"):
            raise CannotError("there is one runtime socket")
        if not rest or not rest[0].removeprefix("unix@").startswith("/"):
            raise CannotError("commands are taken at a Unix socket")
        own = Map()
        path = rest.pop(0).removeprefix("unix@")
        own.put("path", path)
        pending = iter(rest)
        for option in pending:
            if option == "mode":
                own.put("mode", next(pending, "").rjust(4, "0")[-4:])
            elif option == "level":
                own.put("level", next(pending, ""))
            elif option == "expose-fd":
                next(pending, "")
                self.report.idle(line, "a reload keeps the sockets without it")
            else:
                next(pending, "")
                self.report.other(line, f"the socket has no `{option}`; it belongs to the daemon's user")
        self.put("runtime_socket", own, line)

    def threads(self, line: Line) -> None:
        value = number(with_values(line.words[1], self.environ), least=1, most=256)
        own = self.root.under("global")
        self.put("workers", min(256, value * own.get("workers", 1)), line)


def global_section(section: Section, root: Map, report: Report, environ: Mapping[str, str]) -> None:
    """`global`: a row a word in _GLOBAL, or why there is none."""
    own = _Global(root, report, environ)
    for line in section.lines:
        word = line.words[1] if line.words[0] == "no" and len(line.words) > 1 else line.words[0]
        try:
            if word in _GLOBAL:
                if len(line.words) < 2:
                    raise CannotError("says nothing")
                _GLOBAL[word](own, line)
            else:
                fate, why = _without_counterpart(word)
                report.say(line, fate, why)
        except CannotError as error:
            report.lost(line, error.why)
        except IndexError:
            report.lost(line, TOO_SHORT)


def _without_counterpart(word: str) -> tuple[Fate, str]:
    if word in _IDLE:
        return Fate.IDLE, _IDLE[word]
    if word.startswith(("ssl-", "tune.ssl", "tune.quic", "ca-base", "crt-base", "key-base", "issuers-chain")):
        return Fate.IDLE, _NO_TLS
    if word.startswith(("tune.", "profiling.", "no-memory", "busy-polling")):
        return Fate.IDLE, _TUNING
    if word.startswith(("lua-", "51degrees-", "deviceatlas-", "wurfl-")):
        return Fate.LOST, "no code is loaded"
    if word.startswith(("noepoll", "nokqueue", "nopoll", "noevports", "nosplice", "noreuse", "nogetaddr", "thread-")):
        return Fate.IDLE, _BY_ITSELF
    return Fate.LOST, _LOST.get(word, "there is no such setting")


_GLOBAL: dict[str, Callable[[_Global, Line], None]] = {
    "group": lambda own, line: own.put("group", line.words[1], line),
    "hard-stop-after": lambda own, line: own.put("hard_stop_after", milliseconds(line.words[1]) or "30s", line),
    "log": _Global.log,
    "maxcompcpuusage": lambda own, line: own.put("maxcompcpuusage", number(line.words[1], least=1, most=100), line),
    "maxconn": lambda own, line: own.put("maxconn", number(with_values(line.words[1], own.environ), least=1), line),
    "maxzlibmem": lambda own, line: own.put("maxcompmem", f"{number(line.words[1], least=1)}m", line),
    "nbproc": _Global.threads,
    "nbthread": _Global.threads,
    "stats": _Global.stats,
    "tune.bufsize": lambda own, line: own.put("max_header_size", size(line.words[1]), line),
    "tune.http.maxhdr": lambda own, line: own.put("max_headers", number(line.words[1], least=1), line),
    "user": lambda own, line: own.put("user", line.words[1], line),
}
_IDLE = {
    "chroot": "workers have no rights that it would take from them",
    "cpu-map": _BY_ITSELF,
    "daemon": "systemd keeps it: it stays in the foreground",
    "debug": "is a way to start",
    "expose-experimental-directives": "there are none",
    "external-check": "programs are not started for checks",
    "insecure-fork-wanted": _BY_ITSELF,
    "insecure-setuid-wanted": _BY_ITSELF,
    "load-server-state-from-file": _STATE,
    "localpeer": "there are no peers",
    "log-send-hostname": "the syslog daemon adds the host's name",
    "log-tag": "the name in the log is pybalancer",
    "master-worker": "it has a supervisor and workers",
    "mworker-max-reloads": _BY_ITSELF,
    "numa-cpu-mapping": _BY_ITSELF,
    "pidfile": "systemd knows its process",
    "presetenv": "was put in as this file was read",
    "prealloc-fd": _BY_ITSELF,
    "quiet": "is a way to start",
    "resetenv": "was put in as this file was read",
    "server-state-base": _STATE,
    "server-state-file": _STATE,
    "set-dumpable": _BY_ITSELF,
    "setcap": _BY_ITSELF,
    "setenv": "was put in as this file was read",
    "spread-checks": "checks are spread by themselves",
    "strict-limits": "where descriptors do not do for maxconn, the log says so",
    "ulimit-n": "the limit of descriptors is raised as far as it goes",
    "unsetenv": "was put in as this file was read",
    "zero-warning": "`pybalancer check` tells of warnings",
}
_LOST = {
    "default-path": "relative paths are those of the directory that this was started in",
    "description": "the page has `stats.description`",
    "gid": "groups are given by name: `group`",
    "grace": "on SIGTERM no new connections are taken at once",
    "h1-case-adjust": "names of headers are passed on as they came",
    "h1-case-adjust-file": "names of headers are passed on as they came",
    "maxcomprate": "`maxcompcpuusage` limits what compression takes",
    "maxconnrate": "`limits` of a frontend are for each client",
    "maxpipes": "there are no pipes",
    "maxsessrate": "`limits` of a frontend are for each client",
    "maxsslconn": _NO_TLS,
    "maxsslrate": _NO_TLS,
    "node": "the page has `stats.description`",
    "uid": "users are given by name: `user`",
    "unix-bind": "a Unix socket has `bind: {address, mode}`",
}


def users(section: Section, report: Report, environ: Mapping[str, str]) -> str:
    """A userlist as a file for `auth`: a name and a hashed password on each line."""
    rows = []
    for line in section.lines:
        try:
            match line.words:
                case ("user", name, "password", hashed, *rest):
                    hashed = with_values(hashed, environ)
                    if (
                        why := htpasswd.unusable(hashed)
                        if htpasswd.is_hash(hashed)
                        else "is no hash that is known here"
                    ):
                        raise CannotError(f"the password {why}; make it with htpasswd -nB")
                    rows.append(f"{name}:{hashed}")
                case ("user", name, "insecure-password", text, *rest):
                    hashed = bcrypt.hashpw(with_values(text, environ).encode(), bcrypt.gensalt(rounds=10)).decode()
                    rows.append(f"{name}:{hashed}")
                case ("group", *_):
                    raise CannotError("there are no groups")
                case _:
                    raise CannotError("users have a password")
            if rest:
                report.lost(line, "there are no groups")
        except CannotError as error:
            report.lost(line, error.why)
    return "".join(f"{row}\n" for row in rows)


def cache(section: Section, report: Report) -> Map:
    """A cache section as that of a backend."""
    own = Map()
    for line in section.lines:
        try:
            match line.words:
                case ("total-max-size", text):
                    own.put("total_max_size", f"{number(text, least=1)}m", line)
                case ("max-object-size", text):
                    own.put("max_object_size", size(text), line)
                case ("max-age", text):
                    value = milliseconds(text, unit="s")
                    if value is not None:
                        own.put("max_age", value, line)
                case ("process-vary", text):
                    own.put("process_vary", text in ("on", "1"), line)
                case ("max-secondary-entries", text):
                    own.put("max_secondary_entries", number(text, least=1), line)
                case _:
                    raise CannotError("caches have no such setting")
        except CannotError as error:
            report.lost(line, error.why)
    return own


_HOLDS = ("valid", "obsolete", "nx", "timeout", "refused", "other")


def resolvers(section: Section, report: Report, environ: Mapping[str, str]) -> Map:
    """A resolvers section as ours."""
    own = Map()
    for line in section.lines:
        try:
            _resolvers_line(own, line, report, environ)
        except CannotError as error:
            report.lost(line, error.why)
    return own


def _resolvers_line(own: Map, line: Line, report: Report, environ: Mapping[str, str]) -> None:
    match line.words:
        case ("nameserver", name, address):
            text = with_values(address, environ)
            scheme, at, rest = text.partition("@")
            if at and scheme not in ("udp", "tcp", "ipv4", "ipv6"):
                raise CannotError("name servers are asked over UDP and TCP")
            own.under("nameservers", line).put(name, f"{'tcp@' if scheme == 'tcp' else ''}{rest if at else text}", line)
        case ("nameserver", name, _, *_):
            raise CannotError("a name server has no parameters here")
        case ("parse-resolv-conf",):
            own.put("parse_resolv_conf", True, line)
        case ("resolve_retries", text):
            own.put("resolve_retries", number(text, least=1), line)
        case ("accepted_payload_size", text):
            own.put("accepted_payload_size", number(text, least=512, most=65535), line)
        case ("timeout", "resolve" | "retry" as which, text):
            if (value := milliseconds(text)) is not None:
                own.under("timeout", line).put(which, value, line)
        case ("hold", which, text) if which in _HOLDS:
            value = milliseconds(text)
            if value is None and which == "valid":
                report.idle(line, "what is asked for each time holds for its TTL")
            else:
                own.under("hold", line).put(which, value or "0s", line)
        case _:
            raise CannotError("resolvers have no such setting")


def error_files(section: Section, report: Report) -> list[Line]:
    """The `errorfile` lines of an http-errors section."""
    for line in section.lines:
        if line.words[0] != "errorfile":
            report.lost(line, "there is only `errorfile` in here")
    return [line for line in section.lines if line.words[0] == "errorfile"]
