"""http-request, http-response, redirect and use_backend as rules of a frontend: an action each, and who does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balancer.config.units import DENY_STATUSES
from balancer.convert.conditions import Cond, all_of, any_of, negated, parse_acl, parse_terms, written
from balancer.convert.formats import replacement, template
from balancer.convert.haproxy_logs import captured_header
from balancer.convert.tree import Map, Seq
from balancer.convert.words import TOO_SHORT, CannotError, Line, Report, number

__all__ = ["Acls", "Rules", "Scope", "divided"]

_REDIRECT_CODES = (301, 302, 303, 307, 308)
_COUNTER = re.compile(r"(?:sc(?:[0-9]+)?_|src_)(http_req_rate|http_err_rate|conn_rate|conn_cur)(?:\(.*\))?")
_LIMITS = {
    "http_req_rate": "request_rate",
    "http_err_rate": "error_rate",
    "conn_rate": "connection_rate",
    "conn_cur": "connections",
}


def divided(words: tuple[str, ...]) -> tuple[list[str], list[str], bool]:
    """A rule's arguments, the words of its condition, and whether that is turned round (`unless`)."""
    for i, word in enumerate(words):
        if word in ("if", "unless") and i + 1 < len(words):
            return list(words[:i]), list(words[i + 1 :]), word == "unless"
    return list(words), [], False


class Acls:
    """All acls that rules ask for, under names of the whole configuration: HAProxy's are those of one section."""

    def __init__(self) -> None:
        self.named = Map()

    def add(self, scope: str, name: str, cond: dict[str, Any], line: Line) -> str:
        own = written(cond)
        for candidate in (name, f"{scope}.{name}", *(f"{scope}.{name}.{i}" for i in range(2, 1000))):
            if candidate not in self.named:
                self.named.put(candidate, own, line)
                return candidate
            if self.named[candidate] == own:
                return candidate
        raise CannotError("there are too many acls of this name")


@dataclass
class Scope:
    """The acls of one section."""

    name: str
    acls: Acls
    ports: frozenset[int] = frozenset()
    lines: dict[str, list[Line]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    userlists: list[str] | None = None
    """While an `auth` is read: the lists whose users it wants."""

    def condition(self, words: list[str], *, is_unless: bool = False) -> Cond:
        if not words:
            return True
        found = parse_terms(words, self._named, self._inline)
        return negated(found) if is_unless else found

    def criterion(self, words: list[str]) -> list[str]:
        """The one criterion that a condition consists of, be it named or not; empty where there are several."""
        if len(words) > 2 and words[0] == "{" and words[-1] == "}" and "{" not in words[1:]:
            return words[1:-1]
        lines = self.lines.get(words[0], []) if len(words) == 1 else []
        if len(lines) == 1:
            self.asked.add(words[0])
            return list(lines[0].words[2:])
        return []

    def _named(self, name: str) -> Cond:
        lines = self.lines.get(name)
        if not lines:
            raise CannotError(f"there is no acl {name} in this section")
        self.asked.add(name)
        try:
            cond = any_of([self._inline(list(line.words[2:])) for line in lines])
        except CannotError as error:
            raise CannotError(f"acl {name} ({lines[0].place}): {error.why}") from None
        return cond if isinstance(cond, bool) else {"acl": [self.acls.add(self.name, name, cond, lines[0])]}

    def _inline(self, words: list[str]) -> Cond:
        match = re.fullmatch(r"http_auth(?:_group)?\(([^)]*)\)", words[0]) if words else None
        if match is not None and self.userlists is not None:
            self.userlists.append(match[1])
            # Who has to log in is asked for by the action, not by the condition.
            return False
        return parse_acl(words, ports=self.ports)


@dataclass
class Rules:
    """The rules of one frontend to be."""

    report: Report
    requests: Seq = field(default_factory=Seq)
    responses: Seq = field(default_factory=Seq)
    limits: Map = field(default_factory=Map)
    tables: Callable[[str], dict[str, str]] = lambda _: {}
    """What a stick-table stores over which time, by the section's name; "" for this one."""
    userlist: Callable[[str], str] = lambda _: ""
    """The file of a list's users; "" where none is to be written."""
    found: dict[str, Line] = field(default_factory=dict)
    """What else was said: cache-use, prometheus, trusted."""
    trusted: list[str] = field(default_factory=list)
    captures: Seq = field(default_factory=Seq)
    changed: set[str] = field(default_factory=set)
    """What rules so far have changed of the request: `path`, and headers in lower case."""

    def request(self, line: Line, words: tuple[str, ...], scope: Scope, route: Cond = True) -> None:
        """One rule of `http-request`. Where `route` holds, its section is passed."""
        args, terms, is_unless = divided(words)
        try:
            if (
                args
                and args[0] in ("deny", "reject", "silent-drop", "tarpit")
                and self._limit(line, args, terms, scope)
            ):
                return
            if not args or args[0].partition("(")[0] not in _REQUEST:
                raise CannotError(_NOT_REQUEST.get(args[0].partition("(")[0] if args else "", "no rule does this"))
            scope.userlists = [] if args[0] == "auth" else None
            own = scope.condition(terms, is_unless=is_unless)
            cond = all_of([route, own])
            for action, value in _REQUEST[args[0].partition("(")[0]](self, line, args, scope, cond):
                self.compare(line, own, scope)
                _add(self.requests, action, value, cond, line)
                self.changed |= _changed_by(action, value)
        except CannotError as error:
            self.report.lost(line, error.why)
        except IndexError:
            self.report.lost(line, TOO_SHORT)

    def response(self, line: Line, words: tuple[str, ...], scope: Scope, route: Cond = True) -> None:
        """One rule of `http-response`."""
        args, terms, is_unless = divided(words)
        try:
            word = args[0] if args else ""
            if word == "cache-store":
                if terms:
                    raise CannotError("what is kept is for servers to say; there is no condition")
                self.found.setdefault("cache-store", line)
                return
            if word == "capture":
                if terms or route is not True:
                    raise CannotError("headers are captured of all of a frontend's responses; there is no condition")
                captured_header(args, "response", self.captures, line, self.report)
                return
            if word not in ("set-header", "add-header", "del-header"):
                raise CannotError(_NOT_REQUEST.get(word, "no rule for responses does this"))
            cond = all_of([route, scope.condition(terms, is_unless=is_unless)])
            for action, value in _headers(self, line, args, scope, cond):
                _add(self.responses, action, value, cond, line)
        except CannotError as error:
            self.report.lost(line, error.why)

    def compare(self, line: Line, cond: Cond, scope: Scope) -> None:
        """Tell where a condition looks at what an earlier rule changed: there HAProxy sees the new, we what came."""
        for part in _parts(cond, scope.acls.named):
            seen = {key for key in part if key.startswith("path")} and {"path"}
            for key in ("header", "header_beg", "header_reg"):
                seen = seen | {name.lower() for name in part.get(key, ())}
            found = part.get("header_found", ())
            seen = seen | {name.lower() for name in ([found] if isinstance(found, str) else found)}
            for what in sorted(seen & self.changed):
                self.report.lost(
                    line, f"is translated, but looks at the {what} as it came, not as a rule before left it"
                )

    def _limit(self, line: Line, args: list[str], terms: list[str], scope: Scope) -> bool:
        """A rule on what a stick-table counts of the client's address; whether it was one."""
        criterion = scope.criterion(terms)
        match = _COUNTER.fullmatch(criterion[0].partition(",")[0]) if criterion else None
        if match is None:
            return False
        named = re.search(r"\((?:[0-9]+,)?\s*([^),]*)\)", criterion[0])
        table = named[1] if named is not None and not named[1].isdigit() else ""
        if len(criterion) != 3 or criterion[1] not in ("gt", "ge"):
            raise CannotError("limits are of the form `COUNTER gt NUMBER`")
        most = number(criterion[2]) - (criterion[1] == "ge")
        if most < 1:
            raise CannotError("a limit lets at least one pass")
        what = match[1]
        stored = self.tables(table)
        if what not in stored:
            raise CannotError(f"no stick-table stores {what} of the client's address (track-sc0 src)")
        key = _LIMITS[what]
        if what == "conn_cur":
            self.limits.put(key, most, line)
        elif what == "conn_rate":
            self.limits.put(key, f"{most}/{stored[what]}", line)
        else:
            limit: dict[str, Any] = {"limit": f"{most}/{stored[what]}"}
            status = _option(args, ("deny_status", "status"))
            limit["status"] = _deny_status(status, 403 if args[0] == "deny" else 500)
            if args[0] == "tarpit":
                self.report.other(line, "the answer does not wait; `tarpit` beside the limit says for how long")
            if args[0] in ("silent-drop", "reject"):
                limit["status"] = 429
                self.report.other(line, "answered 429, not closed without an answer")
            self.limits.put(key, limit, line)
        return True


def _add(rules: Seq, action: str, value: Any, cond: Cond, line: Line) -> None:
    if cond is False:
        return
    rule: dict[str, Any] = {action: value}
    if isinstance(cond, dict):
        rule["if"] = written(cond)
    rules.add(rule, line)


def _changed_by(action: str, value: Any) -> set[str]:
    if action in ("set_path", "replace_path"):
        return {"path"}
    if action in ("set_header", "add_header"):
        return {name.lower() for name in value}
    return {value.lower()} if action == "del_header" else set()


def _parts(cond: Any, named: Map) -> Iterator[dict[str, Any]]:
    """All conditions in a condition, those of acls too."""
    if isinstance(cond, str):
        yield from _parts(named.get(cond), named)
    elif isinstance(cond, list):
        for each in cond:
            yield from _parts(each, named)
    elif isinstance(cond, dict):
        yield cond
        for key in ("acl", "any", "all", "not"):
            yield from _parts(cond.get(key), named)


def _option(args: list[str], names: tuple[str, ...]) -> str | None:
    return next((args[i + 1] for i, word in enumerate(args[:-1]) if word in names), None)


def _deny_status(text: str | None, default: int) -> int:
    status = number(text, least=200, most=599) if text is not None else default
    if status not in DENY_STATUSES:
        raise CannotError(f"there is no page for {status}")
    return status


_Done = Iterator[tuple[str, Any]]


def _allow(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    yield "allow", True


def _deny(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    status = _option(args, ("deny_status", "status"))
    own = number(status, least=200, most=599) if status is not None else 403
    if any(word in args for word in ("content-type", "string", "lf-string", "file", "lf-file", "errorfile", "hdr")):
        rules.report.other(line, "the answer is pybalancer's page of that status; `error_files` has others")
    if own in DENY_STATUSES:
        yield "deny", True if own == 403 else own
    else:
        yield "return", {"status": own}


def _tarpit(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    rules.report.other(line, "denied at once, without making the client wait")
    yield "deny", _deny_status(_option(args, ("deny_status", "status")), 500)


def _drop(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    yield "silent_drop", True


def _auth(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    names = list(dict.fromkeys(scope.userlists or []))
    if len(names) != 1:
        raise CannotError("no one userlist says who may log in")
    file = rules.userlist(names[0])
    if not file:
        rules.report.lost(line, "wants a file with the users, which -o FILE writes beside it; denied to all instead")
        yield "deny", True
        return
    own = {"file": file}
    realm = _option(args, ("realm",))
    if realm is not None:
        own["realm"] = realm
    yield "auth", own


def _redirect(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    own: dict[str, Any] = {}
    words = iter(args[1:])
    for word in words:
        match word:
            case "location":
                own["location"] = template(next(words, ""), is_location=True)
            case "prefix":
                own |= _prefix(next(words, ""))
            case "scheme":
                own["scheme"] = next(words, "").lower()
            case "code":
                code = number(next(words, ""))
                if code not in _REDIRECT_CODES:
                    raise CannotError(f"{code} is no code of a redirect")
                own["code"] = code
            case "drop-query":
                own["drop_query"] = True
            case "append-slash" | "ignore-empty":
                rules.report.other(line, f"`{word}` has no counterpart")
            case "set-cookie" | "clear-cookie":
                next(words, "")
                rules.report.other(line, "redirects set no cookie")
            case _:
                raise CannotError(f"redirects have no `{word}`")
    yield "redirect", own


def _prefix(text: str) -> dict[str, Any]:
    if text == "/":
        return {"path": "%[path]"}
    match = re.fullmatch(r"(?:(https?)://([^/]+))?(/.*?)?/?", text)
    if match is None:
        # A variable as the whole of the authority.
        return {"location": template(text, is_location=True).removesuffix("/") + "%[pathq]"}
    own: dict[str, Any] = {}
    if match[1]:
        own["scheme"] = match[1]
        host = template(match[2], is_location=True)
        if host != "%[host]":
            own["host"] = host
    if match[3]:
        own["path"] = template(match[3]) + "%[path]"
    return own


def _return(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    own: dict[str, Any] = {"status": 200}
    words = iter(args[1:])
    for word in words:
        match word:
            case "status":
                own["status"] = number(next(words, ""), least=200, most=599)
            case "content-type":
                own["content_type"] = next(words, "")
            case "string":
                own["body"] = next(words, "")
            case "file":
                own["file"] = str(Path(next(words, "")).absolute())
            case "default-errorfiles":
                pass
            case "lf-string":
                text = next(words, "")
                if "%" in text.replace("%%", ""):
                    raise CannotError("a body has no variables")
                own["body"] = text.replace("%%", "%")
            case "hdr":
                name = next(words, "")
                next(words, "")
                rules.report.other(line, f"an answer of its own has no further header ({name})")
            case _:
                raise CannotError(f"answers have no `{word}`")
    if own.get("body") == "":
        del own["body"]
    yield "return", own


def _headers(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if len(args) < 2 or (args[0] != "del-header" and len(args) < 3):
        raise CannotError("a header's name or value is missing")
    if args[0] == "del-header":
        if len(args) > 2 and args[2:4] != ["-m", "str"]:
            raise CannotError("headers are named, not matched")
        yield "del_header", args[1]
        return
    value = template(args[2])
    if not value.strip():
        if args[0] == "set-header":
            yield "del_header", args[1]
            return
        raise CannotError("a header without value cannot be added")
    yield args[0].replace("-", "_"), {args[1]: value.strip()}


def _set_path(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    yield "set_path", template(args[1] if len(args) > 1 else "")


def _replace_path(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if len(args) < 3:
        raise CannotError("an expression and what replaces it are missing")
    regex, made = replacement(args[1], args[2])
    yield "replace_path", {"regex": regex, "with": made}


def _track(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if len(args) < 2 or args[1] not in ("src", "fc_src"):
        raise CannotError("only the client's address is counted (`limits`)")
    rules.report.idle(line, "`limits` count the client's address by themselves")
    yield from ()


def _cache_use(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if isinstance(cond, dict):
        raise CannotError("the cache is asked for all requests; there is no condition")
    rules.found.setdefault("cache-use", line)
    yield from ()


def _capture(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if cond is not True:
        raise CannotError("headers are captured of all of a frontend's requests; there is no condition")
    name = captured_header(args, "request", rules.captures, line, rules.report)
    if name.lower() in rules.changed:
        rules.report.lost(line, f"is translated, but captures the {name.lower()} as it came, not as a rule left it")
    yield from ()


def _service(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    if args[1:2] != ["prometheus-exporter"]:
        raise CannotError("there are no services")
    rules.found.setdefault("prometheus", line)
    yield from ()


def _set_src(rules: Rules, line: Line, args: list[str], scope: Scope, cond: Cond) -> _Done:
    is_header = len(args) > 1 and re.fullmatch(r"(?:req\.)?hdr(?:_ip)?\(x-forwarded-for(?:,-1)?\)", args[1].lower())
    if not is_header or not isinstance(cond, dict) or set(cond) != {"src"}:
        raise CannotError("`trusted_proxies` believes X-Forwarded-For of networks: write `if { src NETWORK }`")
    rules.found.setdefault("trusted", line)
    rules.trusted += cond["src"]
    yield from ()


_Action = Callable[[Rules, Line, list[str], Scope, Cond], _Done]

_REQUEST: dict[str, _Action] = {
    "add-header": _headers,
    "allow": _allow,
    "auth": _auth,
    "cache-use": _cache_use,
    "capture": _capture,
    "del-header": _headers,
    "deny": _deny,
    "redirect": _redirect,
    "reject": _drop,
    "replace-path": _replace_path,
    "return": _return,
    "set-header": _headers,
    "set-path": _set_path,
    "set-src": _set_src,
    "silent-drop": _drop,
    "tarpit": _tarpit,
    "track-sc0": _track,
    "track-sc1": _track,
    "track-sc2": _track,
    "use-service": _service,
}
_NO_HEADER_PARTS = "headers are set, added and deleted, not rewritten in part"
_NOT_REQUEST = {
    "disable-l7-retry": "what may be sent twice is known without it",
    "do-resolve": "names of servers are resolved at start",
    "early-hint": "there are no early hints",
    "lua": "there is no Lua",
    "normalize-uri": "rules see paths normalized anyway, and servers see them as they came",
    "replace-header": _NO_HEADER_PARTS,
    "replace-pathq": "`replace_path` is for the path; the query stays",
    "replace-uri": "`replace_path` is for the path; the query stays",
    "replace-value": _NO_HEADER_PARTS,
    "sc-inc-gpc": "`limits` count what is known, and nothing of rules' own",
    "sc-inc-gpc0": "`limits` count what is known, and nothing of rules' own",
    "sc-inc-gpc1": "`limits` count what is known, and nothing of rules' own",
    "send-spoe-group": "there are no agents (SPOE)",
    "set-dst": "the server is the backend's",
    "set-dst-port": "the server is the backend's",
    "set-log-level": "a frontend is logged or is not (`log`)",
    "set-map": "there are no maps",
    "set-mark": "packets are not marked",
    "set-method": "the method stays",
    "set-nice": "connections have no priority",
    "set-pathq": "`set_path` is for the path; the query stays",
    "set-priority-class": "who waits longest is next",
    "set-priority-offset": "who waits longest is next",
    "set-query": "the query stays",
    "set-status": "the status is the server's",
    "set-timeout": "timeouts are those of frontend and backend",
    "set-tos": "packets are not marked",
    "set-uri": "`set_path` is for the path; the query stays",
    "set-var": "rules have no variables of their own",
    "set-var-fmt": "rules have no variables of their own",
    "strict-mode": "a rule that cannot be applied is an error at the start",
    "unset-var": "rules have no variables of their own",
    "wait-for-body": "bodies pass as they come",
    "wait-for-handshake": "TLS does not end here",
}
