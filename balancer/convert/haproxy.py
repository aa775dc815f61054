"""haproxy.cfg: its sections put together, defaults applied, each proxy made a frontend, a backend or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from balancer.convert import haproxy_global as others
from balancer.convert.conditions import Cond, all_of, any_of, negated, parse_acl, written
from balancer.convert.haproxy_lines import Environment, Section, sections
from balancer.convert.haproxy_logs import log_target, one_or_many, undeclared
from balancer.convert.haproxy_proxy import Proxy, read_proxy
from balancer.convert.haproxy_servers import ports_of
from balancer.convert.haproxy_stats import SETTINGS, binds_of, no_setting, tls_of
from balancer.convert.rules import Acls, Rules, Scope, divided
from balancer.convert.tree import Map, Seq
from balancer.convert.words import TOO_SHORT, CannotError, Line, Report, UnreadableError, with_values

__all__ = ["convert"]

# Settings that stand once, where all proxies have one defaults section.
_SHARED = ("timeout", "retries", "redispatch", "maxconn", "error_files", "dontlognull", "dontlog_normal",
           "log_separate_errors", "tcp_keepalive")  # fmt: skip


@dataclass
class _Route:
    """When requests of a frontend go to a backend."""

    backend: str
    cond: Cond
    line: Line


@dataclass
class _Sources:
    """All sections of a file, by kind and name."""

    proxies: list[tuple[Section, list[Line]]] = field(default_factory=list)
    defaults: dict[str, list[Line]] = field(default_factory=dict)
    userlists: dict[str, Section] = field(default_factory=dict)
    caches: dict[str, Section] = field(default_factory=dict)
    errors: dict[str, Section] = field(default_factory=dict)


def convert(
    text: str, file: str, root: Map, report: Report, environ: Mapping[str, str], *, files: dict[str, str] | None
) -> None:
    """Add what a haproxy.cfg says to `root`. `files` takes what further files it needs; None: none may be."""
    _Converter(root, report, Environment(environ), files).convert(text, file)


class _Converter:
    def __init__(self, root: Map, report: Report, environ: Environment, files: dict[str, str] | None) -> None:
        self.root = root
        self.report = report
        self.environ = environ
        self.files = files
        self.acls = Acls()
        self.sources = _Sources()
        self.proxies: dict[tuple[str, str], Proxy] = {}
        self.crt_base = ""

    def convert(self, text: str, file: str) -> None:
        found = list(sections(text, file, self.environ, self.report))
        if not found:
            raise UnreadableError(f"{file}: has no section; haproxy.cfg begins with `global`, `defaults` or `listen`")
        users = self._sort(found)
        shared = users <= 1
        for section, lines in self.sources.proxies:
            self._proxy(section, lines, shared=shared)
        self._logs()
        for front in [proxy for proxy in self.proxies.values() if proxy.is_front]:
            self._front(front)
        for back in [proxy for proxy in self.proxies.values() if proxy.is_back]:
            self._back(back)
        self._unasked()
        if self.acls.named:
            own = self.root.under("acls")
            for name, cond in self.acls.named.items():
                own.put(name, cond, self.acls.named.origins.get(name))

    def _sort(self, found: list[Section]) -> int:
        """Sections by what they are; how many defaults sections proxies make use of."""
        current: list[Line] = []
        asked: set[int] = set()
        for section in found:
            self.report.begins(section.head, section.lines)
            match section.kind:
                case "defaults":
                    current = self._defaults(section)
                case "global":
                    others.global_section(section, self.root, self.report, self.environ)
                    for line in section.lines:
                        if line.words[0] == "crt-base" and len(line.words) > 1:
                            self.crt_base = with_values(line.words[1], self.environ)
                case "userlist":
                    self.sources.userlists[section.name] = section
                case "cache":
                    self.sources.caches[section.name] = section
                case "resolvers":
                    self.root.under("resolvers").put(
                        section.name, others.resolvers(section, self.report, self.environ), section.head
                    )
                case "http-errors":
                    self.sources.errors[section.name] = section
                case "frontend" | "backend" | "listen":
                    lines = current
                    if "from" in section.args:
                        name = section.args[-1]
                        lines = self.sources.defaults.get(name, [])
                        if name not in self.sources.defaults:
                            self.report.lost(section.head, f"there is no defaults section {name}")
                    if lines:
                        asked.add(id(lines))
                    self.sources.proxies.append((section, lines))
                case _:
                    others.no_section(section, self.report)
        return len(asked)

    def _defaults(self, section: Section) -> list[Line]:
        lines: list[Line] = []
        args = section.args
        if "from" in args:
            parent = args[-1]
            lines += self.sources.defaults.get(parent, [])
            if parent not in self.sources.defaults:
                self.report.lost(section.head, f"there is no defaults section {parent}")
        lines += [Line(line.words, line.place, inherited=True) for line in section.lines]
        if args and args[0] != "from":
            self.sources.defaults[args[0]] = lines
        return lines

    def _proxy(self, section: Section, lines: list[Line], *, shared: bool) -> None:
        if not section.name:
            self.report.lost(section.head, "has no name")
            return
        proxy = Proxy(
            section.name, section.head, is_front=section.kind != "backend", is_back=section.kind != "frontend"
        )
        errors = {name: others.error_files(each, Report()) for name, each in self.sources.errors.items()}
        own = list(section.lines)
        if section.kind != "backend" and len(section.args) > 1 and section.args[1] != "from":
            # `listen NAME ADDRESS:PORT`, as it was written before `bind`.
            own.insert(0, Line(("bind", *section.args[1:2]), section.head.place))
        read_proxy(proxy, [*lines, *own], self.report, self.environ, errors)
        proxy.defaults = self.root.under("defaults") if shared and lines else None
        for settings in (proxy.front, proxy.back):
            if proxy.defaults is None:
                break
            for key in _SHARED:
                self._share(settings, key, proxy.defaults)
        if (section.kind, section.name) in self.proxies:
            self.report.lost(section.head, "there is a section of this name already")
            return
        self.proxies[section.kind, section.name] = proxy

    @staticmethod
    def _share(settings: Map, key: str, defaults: Map) -> None:
        """Put what came from the one defaults section there."""
        value = settings.get(key)
        if isinstance(value, Map):
            for inner in list(value):
                line = value.origins.get(inner)
                if line is not None and line.inherited:
                    defaults.under(key).put(inner, value[inner], line)
                    value.drop(inner)
            if not value:
                settings.drop(key)
        elif key in settings and (line := settings.origins.get(key)) is not None and line.inherited:
            defaults.put(key, value, line)
            settings.drop(key)

    def _logs(self) -> None:
        """`log` lines: those of `global` are for all that say `log global`, the others for the proxy that has them.

        HAProxy logs a proxy that has one, we all but those that have none. What happens to servers is logged where
        their backend says there, and where `global.log` says here.
        """
        own = self.root.under("global")
        shared: Seq = own.get("log") or Seq()
        traffic = list(shared)
        for proxy in self.proxies.values():
            targets = Seq()
            for i, each in enumerate(traffic if proxy.is_globally else ()):
                targets.add(each, shared.origins[i])
            for line in proxy.logs:
                try:
                    target = log_target(line, self.report)
                    if target not in targets:
                        targets.add(target, line)
                except CannotError as error:
                    self.report.lost(line, error.why)
                except IndexError:
                    self.report.lost(line, TOO_SHORT)
            if targets and not traffic:
                own.put("log", targets, targets.origins[0])
                shared, traffic = targets, list(targets)
            if proxy.is_front and not proxy.is_logged:
                proxy.front.put("log", False, proxy.unlogged)
            elif proxy.is_front and targets and list(targets) != traffic:
                proxy.front.put("log", one_or_many(targets), targets.origins[0])
            if proxy.is_back:
                self._events(proxy, targets, shared)
        if shared:
            own.put("log", one_or_many(shared), shared.origins[0])
        if not own:
            self.root.drop("global")

    def _events(self, proxy: Proxy, targets: Seq, shared: Seq) -> None:
        """Add where a backend's servers are told of to `global.log`, for that alone."""
        for target, line in zip(targets, targets.origins, strict=True):
            events = Map()
            for key, value in target.items():
                if key != "sample":
                    events.put(key, value)
            events.put("content", "events")
            if target in shared or events in shared:
                continue
            shared.add(events, line)
            if line is not None:
                self.report.other(line, "what happens to servers goes there, be they of this section or of others")

    def _table(self, proxy: Proxy, name: str) -> dict[str, str]:
        """What a stick-table stores over which time. "" is the section's own, or the one that a rule tracks."""
        if not name:
            name = proxy.tracked or proxy.name
        for (_, other), candidate in self.proxies.items():
            if other == name:
                return candidate.table
        return {}

    def _userlist(self, name: str) -> str:
        section = self.sources.userlists.get(name)
        if section is None or self.files is None:
            return ""
        file = f"{name}.htpasswd"
        if file not in self.files:
            self.files[file] = others.users(section, self.report, self.environ)
        return file if self.files[file] else ""

    def _scope(self, proxy: Proxy, ports: frozenset[int] = frozenset()) -> Scope:
        return Scope(proxy.name, self.acls, ports, proxy.acls, proxy.asked)

    def _front(self, front: Proxy) -> None:
        """A frontend, with its rules and those of the backends that it sends to; or the statistics page."""
        has_way = front.default is not None or front.uses or (front.is_back and front.servers)
        is_page = front.stats and not has_way
        for line in () if is_page else front.tls:
            self.report.lost(
                line, "TLS does not end here (`ssl`): let it end at the servers with `mode: tcp`, or before us"
            )
        if not front.binds and not (is_page and front.tls_binds):
            if front.is_back and not front.is_bound:
                return
            self.report.lost(front.line, "listens nowhere that it can here, so there is no frontend of it")
            return
        if is_page:
            self._stats(front)
            return
        if front.stats:
            for line in front.stats:
                self.report.lost(line, "the page has an address of its own: `stats.bind`")
        own = Map()
        own.put("mode", front.mode, front.mode_line)
        own.put("bind", one_or_many(front.binds), front.binds.origins[0])
        addresses = [each if isinstance(each, str) else each["address"] for each in front.binds]
        scope = self._scope(front, ports_of(addresses, self.environ))
        rules = Rules(self.report, tables=lambda name: self._table(front, name), userlist=self._userlist)
        rules.captures = front.captures
        routes = self._routes(front, scope)
        if front.mode == "http":
            self._rules(front, rules, scope, routes)
        for key, value in front.front.items():
            own.put(key, value, front.front.origins.get(key))
        self._forwarding(front, own, rules, routes)
        for key, made in (("http_request", rules.requests), ("http_response", rules.responses)):
            if made:
                own.put(key, made)
        if rules.limits:
            own.put("limits", rules.limits)
        if rules.trusted:
            own.put("trusted_proxies", rules.trusted, rules.found["trusted"])
        undeclared(rules.captures, self.report)
        if rules.captures:
            own.put("capture", one_or_many(rules.captures), rules.captures.origins[0])
        self._caches(front, rules, routes)
        if self._ways(own, routes):
            self.root.under("frontends").put(front.name, own, front.line)
        else:
            self.report.lost(front.line, "leads to no servers, so there is no frontend of it")

    def _stats(self, front: Proxy) -> None:
        if "stats" in self.root:
            place = self.root.origins["stats"].place
            for line in [front.line, *front.stats]:
                self.report.lost(line, f"there is one statistics page, and that is {place}'s")
            return
        own = Map()
        if front.tls_binds:
            try:
                own.put("tls", tls_of(front.tls, self.crt_base, self.report), front.tls[0])
            except CannotError as error:
                # Without TLS its passwords would be seen.
                for line in [front.line, *front.tls]:
                    self.report.lost(line, error.why)
                return
        binds = binds_of(front, self.report)
        own.put("bind", one_or_many(binds), binds.origins[0])
        scope = self._scope(front)
        for line in front.stats:
            try:
                SETTINGS.get(line.words[1], no_setting)(own, line, scope)
            except CannotError as error:
                self.report.lost(line, error.why)
            except IndexError:
                self.report.lost(line, TOO_SHORT)
        for line in front.rules:
            if line.words[1:3] == ("use-service", "prometheus-exporter"):
                path = _path_of(line, scope)
                own.put("metrics", path or "/metrics", line)
            else:
                self.report.lost(line, "the statistics page has no rules")
        if "metrics" not in own and own.get("uri", "") == "/metrics":
            own.put("metrics", None)
        if own.get("admin") and not own.get("users"):
            self.report.lost(
                own.origins["admin"], "without `stats auth` anybody could change servers; the page may not"
            )
            own.drop("admin")
        self.root.put("stats", own, front.line)

    def _routes(self, front: Proxy, scope: Scope) -> list[_Route]:
        """The backends of a frontend, with the condition of each as HAProxy tries them: the first that holds."""
        routes: list[_Route] = []
        earlier: list[Cond] = []
        for line in front.uses:
            args, terms, is_unless = divided(line.words)
            try:
                if front.mode != "http":
                    raise CannotError("there are no rules for connections (mode tcp): only `default_backend`")
                if len(args) < 2 or "%[" in args[1]:
                    raise CannotError("backends are named; write a rule for each")
                cond = scope.condition(terms, is_unless=is_unless)
                if cond is False:
                    self.report.idle(line, "its condition never holds")
                    continue
                routes.append(_Route(args[1], all_of([cond, *(negated(each) for each in earlier)]), line))
                routes[-1].cond = cond
                earlier.append(cond)
            except CannotError as error:
                self.report.lost(line, error.why)
        default = front.default
        if default is None and front.is_back and (front.servers or not front.uses):
            default = Line(("default_backend", front.name), front.line.place)
        if default is not None and len(default.words) > 1:
            routes.append(_Route(default.words[1], True, default))
        known = {name for kind, name in self.proxies if kind != "frontend"}
        for route in routes:
            if route.backend not in known:
                self.report.lost(route.line, f"there is no backend {route.backend}")
        return [route for route in routes if route.backend in known]

    def _backend(self, name: str) -> Proxy:
        return self.proxies.get(("backend", name)) or self.proxies["listen", name]

    def _passed(self, routes: list[_Route]) -> Iterator[tuple[_Route, Cond]]:
        """Each way, with the condition of requests that come to it: no earlier way was theirs."""
        earlier: list[Cond] = []
        for route in routes:
            yield route, all_of([route.cond, negated(any_of(earlier))]) if earlier else route.cond
            earlier.append(route.cond)

    def _rules(self, front: Proxy, rules: Rules, scope: Scope, routes: list[_Route]) -> None:
        _apply(front, rules, scope, True)
        for route in routes if front.uses else ():
            rules.compare(route.line, route.cond, scope)
        changed = rules.changed
        for route, cond in self._passed(routes):
            back = self._backend(route.backend)
            if back is front:
                continue
            rules.changed = set(changed)
            back.is_reached = True
            if back.mode == "http":
                _apply(back, rules, self._scope(back), cond)
            if not back.servers and not _answers_all(rules.requests, cond):
                # HAProxy answers 503 where a backend has no server and no rule answered.
                rules.requests.add(_rule("deny", 503, cond), route.line)
        if not any(route.cond is True for route in routes):
            ways = any_of([route.cond for route in routes])
            rules.requests.add(_rule("deny", 503, negated(ways)), front.line)
        elif not any(self._backend(route.backend).servers for route in routes):
            # Each way has answered by now, but nothing here says so.
            rules.requests.add({"deny": 503}, front.line)

    def _forwarding(self, front: Proxy, own: Map, rules: Rules, routes: list[_Route]) -> None:
        """`option forwardfor` of backends; a frontend's is in `own` already."""
        if front.mode != "http" or "forwarded_for" in own:
            return
        backs = [(self._backend(route.backend), cond) for route, cond in self._passed(routes)]
        wanting = [(back, cond) for back, cond in backs if "forwarded_for" in back.back]
        if not wanting:
            return
        first = wanting[0][0].back
        if len(wanting) == len(backs) and all(
            back.back["forwarded_for"] == first["forwarded_for"] for back, _ in backs
        ):
            own.put("forwarded_for", first["forwarded_for"], first.origins.get("forwarded_for"))
            return
        for back, cond in wanting:
            line = back.back.origins["forwarded_for"]
            setting = back.back["forwarded_for"]
            header = setting.get("header", "X-Forwarded-For") if isinstance(setting, dict) else "X-Forwarded-For"
            if isinstance(setting, dict) and setting.keys() - {"header"}:
                self.report.lost(line, "exceptions are for all of a frontend; its other backends want none")
            rules.requests.add(_rule("add_header", {header: "%[src]"}, cond), line)

    def _caches(self, front: Proxy, rules: Rules, routes: list[_Route]) -> None:
        line = rules.found.get("cache-use")
        store = rules.found.get("cache-store")
        if line is None and store is None:
            return
        if line is None or store is None:
            self.report.lost(line or store or front.line, "a cache is asked and filled: `cache-use` and `cache-store`")
            return
        section = self.sources.caches.get(line.words[-1])
        if section is None:
            self.report.lost(line, "there is no such cache")
            return
        made = others.cache(section, self.report)
        for route in routes:
            self._backend(route.backend).back.put("cache", made or True, section.head)

    def _ways(self, own: Map, routes: list[_Route]) -> bool:
        """`use_backend` and `default_backend`; whether a request can go anywhere."""
        uses = Seq()
        own.put("use_backend", uses)
        for route in routes:
            if not self._backend(route.backend).servers:
                if route.cond is True and own["mode"] != "http":
                    return False
                continue
            if route.cond is True:
                own.put("default_backend", route.backend, route.line)
                break
            assert isinstance(route.cond, dict)
            uses.add({"backend": route.backend, "if": written(route.cond)}, route.line)
        if not uses:
            own.drop("use_backend")
        if "default_backend" not in own and uses:
            # Never gone to: what no rule is for was answered by http_request.
            own.put("default_backend", uses[-1]["backend"], uses.origins[-1])
        if "default_backend" not in own and own["mode"] != "http":
            return False
        return "default_backend" in own or "http_request" in own

    def _back(self, back: Proxy) -> None:
        """A backend, where it has servers."""
        if not back.servers:
            if not back.is_front and not back.is_reached:
                self.report.lost(back.line, "has no servers, and no rule that was translated leads to it")
            elif back.had_servers:
                self.report.lost(back.line, "none of its servers can be used here; answered 503")
            elif not back.is_front:
                self.report.idle(back.line, "its rules stand in the frontends that lead to it")
            return
        own = Map()
        for key, value in back.back.items():
            if key != "forwarded_for":
                own.put(key, value, back.back.origins.get(key))
        servers, templates = Map(), Seq()
        for name, server in back.servers.items():
            if "count" in server:
                templates.add(server, back.servers.origins.get(name))
            else:
                servers.put(name, server, back.servers.origins.get(name))
        if servers:
            own.put("servers", servers)
        if templates:
            own.put("server_template", one_or_many(templates))
        for line in back.rules if not back.is_front and not back.is_reached and back.mode == "http" else ():
            self.report.lost(line, "no frontend leads to this backend")
        self.root.under("backends").put(back.name, own, back.line)

    def _unasked(self) -> None:
        """acls and userlists that no rule asks for."""
        for proxy in self.proxies.values():
            for name, lines in proxy.acls.items():
                for line in lines if name not in proxy.asked else ():
                    try:
                        parse_acl(line.words[2:])
                        self.report.idle(line, "no rule that was translated asks for it")
                    except CannotError as error:
                        self.report.lost(line, error.why)
        for name, section in self.sources.userlists.items():
            if self.files is None or f"{name}.htpasswd" not in self.files:
                for line in (section.head, *section.lines):
                    self.report.lost(line, "users stand in a file that a rule `auth` names, written with -o FILE")


def _answers_all(requests: Seq, cond: Cond) -> bool:
    """Whether the last rule answers all that it holds for."""
    last = requests[-1] if requests else {}
    rest = {"if": written(cond)} if isinstance(cond, dict) else {}
    return any(last == {action: last.get(action), **rest} for action in ("deny", "return", "redirect"))


def _apply(proxy: Proxy, rules: Rules, scope: Scope, cond: Cond) -> None:
    """The rules of one section, for what comes to it."""
    for line in proxy.rules:
        match line.words[0]:
            case "http-request":
                rules.request(line, line.words[1:], scope, cond)
            case "http-response":
                rules.response(line, line.words[1:], scope, cond)
            case "redirect":
                rules.request(line, line.words, scope, cond)
            case "monitor-uri":
                rules.request(line, ("return", "status", "200", "if", "{", "path", *line.words[1:2], "}"), scope, cond)
            case "tcp-request":
                rules.request(line, line.words[2:], scope, cond)


def _rule(action: str, value: Any, cond: Cond) -> dict[str, Any]:
    rule: dict[str, Any] = {action: value}
    if isinstance(cond, dict):
        rule["if"] = written(cond)
    return rule


def _path_of(line: Line, scope: Scope) -> str | None:
    """The one path that a rule is for."""
    try:
        cond = scope.condition(divided(line.words)[1])
    except CannotError:
        return None
    if isinstance(cond, dict) and set(cond) == {"acl"}:
        cond = scope.acls.named.get(cond["acl"][0], {})
    path = cond.get("path") if isinstance(cond, dict) else None
    return path[0] if isinstance(path, list) else path
