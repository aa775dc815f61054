"""What no single key of a rule can know: acls that are not there, rules that nobody applies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as FilePath

from balancer.config.files import LARGEST_PAGE, unreadable
from balancer.config.format import OF_RESPONSES, OF_THE_TARGET, variables
from balancer.config.htpasswd import parse
from balancer.config.model import Config, Frontend
from balancer.config.rules import Condition, HttpRequestRule, HttpResponseRule, Redirect, UseBackend
from balancer.config.tree import Finding, Loc
from balancer.config.words import a_list_of, did_you_mean, printable
from balancer.regex import compile_regex

__all__ = ["FRAMING", "check_acls", "check_rules"]

# Nobody can follow more, and each is a call within a call.
_DEEPEST = 32
# Ten thousand users.
_LARGEST_HTPASSWD = 1 << 20
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,253})(?::[0-9]{1,5})?")
# %[path] and %[pathq] begin with a slash, nothing else is sure to.
_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*://((?:%\[(?!pathq?\])[^\]]*\]|(?!%\[)[^/?])*)")
_IS_OURS = "tells where messages end or who handles them, and is the balancer's own"
# They tell where a message ends or who handles it: the one who writes them must be the proxy itself.
FRAMING = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip


def check_acls(config: Config, known: Collection[str]) -> Iterator[Finding]:
    """All that is wrong between acls; `known` has the names of those too that are not in `config`."""
    for name, condition in config.acls.items():
        yield from _condition(("acls", name), condition, known)
    yield from _nesting(config.acls)


def check_rules(loc: Loc, frontend: Frontend, acls: Mapping[str, Condition | None]) -> Iterator[Finding]:
    """All that is wrong with a frontend's rules, but for the backends that they name. Of acls that cannot be read
    there is but the name."""
    for key in ("http_request", "http_response", "use_backend"):
        rules = getattr(frontend, key)
        if rules and frontend.mode != "http":
            yield Finding((*loc, key), f"is for mode http only, this is mode {frontend.mode}", "key")
        for i, rule in enumerate(rules):
            if rule.if_ is not None:
                yield from _condition((*loc, key, i, "if"), rule.if_, acls)
                if key != "http_response":
                    yield from _status((*loc, key, i, "if"), rule.if_, acls)
            if not isinstance(rule, UseBackend):
                yield from _headers((*loc, key, i), rule)
            if isinstance(rule, HttpRequestRule):
                yield from _action((*loc, key, i), rule)
    if not frontend.default_backend:
        yield from _nowhere((*loc, "default_backend"), frontend)


def _nowhere(loc: Loc, frontend: Frontend) -> Iterator[Finding]:
    """Whether a request could be left to which nothing happens."""
    if frontend.mode != "http" or not (frontend.use_backend or frontend.http_request):
        yield Finding(loc, "is missing; it has no default", "missing")
    elif all(rule.if_ is not None for rule in frontend.use_backend) and not any(
        rule.if_ is None and rule.is_final and rule.allow is None for rule in frontend.http_request
    ):
        text = "is missing: a request that no rule is for would go nowhere; name a backend here"
        yield Finding(loc, text, "missing")


def _headers(loc: Loc, rule: HttpRequestRule | HttpResponseRule) -> Iterator[Finding]:
    is_request = isinstance(rule, HttpRequestRule)
    for key, given in (("set_header", rule.set_header), ("add_header", rule.add_header)):
        for name, value in (given or {}).items():
            at = (*loc, key, name)
            if name.lower() == "host" and is_request and key == "set_header":
                if not _HOST.fullmatch(value):
                    yield Finding(at, f"{value!r} is no host; write a name or an address, without variables")
            elif name.lower() in FRAMING:
                yield Finding(at, f"{name} {_IS_OURS}", "key")
            yield from _variables(at, value, OF_RESPONSES if is_request else frozenset())
    for i, name in enumerate(rule.del_header or ()):
        if name.lower() in FRAMING:
            yield Finding((*loc, "del_header", i), f"{name} {_IS_OURS}")


def _action(loc: Loc, rule: HttpRequestRule) -> Iterator[Finding]:
    if rule.redirect is not None:
        yield from _redirect((*loc, "redirect"), rule.redirect)
    if rule.return_ is not None:
        own, at = rule.return_, (*loc, "return")
        has_body = own.body is not None or own.file is not None
        if own.body is not None and own.file is not None:
            yield Finding((*at, "file"), "stands beside `body`; give one of them", "key")
        if has_body and own.status in (204, 205, 304):
            yield Finding((*at, "status"), f"an answer of status {own.status} has no body")
        if own.file is not None and (trouble := unreadable(own.file, largest=LARGEST_PAGE)):
            yield Finding((*at, "file"), trouble)
    if rule.auth is not None:
        at, path = (*loc, "auth", "file"), rule.auth.file
        if trouble := unreadable(path, largest=_LARGEST_HTPASSWD):
            yield Finding(at, trouble)
        else:
            try:
                parse(FilePath(path).read_bytes())
            except (OSError, ValueError) as error:
                yield Finding(at, f"{path}: {error}")
    if rule.set_path is not None:
        yield from _variables((*loc, "set_path"), rule.set_path, only=OF_THE_TARGET)
    if rule.replace_path is not None:
        groups = compile_regex(rule.replace_path.regex).groups
        at = (*loc, "replace_path", "with")
        yield from _variables(at, rule.replace_path.with_, only=OF_THE_TARGET, groups=groups)


def _redirect(loc: Loc, own: Redirect) -> Iterator[Finding]:
    others = [key for key in ("scheme", "host", "path") if getattr(own, key) is not None]
    if own.location is not None and others:
        yield Finding((*loc, others[0]), "stands beside `location`, which is the whole of it; give one of them", "key")
    if own.location is None and not others:
        yield Finding(loc, "wants `location`, or some of `scheme`, `host` and `path`", "key")
    authority = _AUTHORITY.match(own.location or "")
    for name in sorted(variables(authority[1]) - {"host"} if authority is not None else ()):
        text = f"%[{name}] would be a part of the host, which the client could then choose; write a / before it"
        yield Finding((*loc, "location"), text)
    groups = compile_regex(own.path_reg).groups if own.path_reg is not None else 0
    for key in ("location", "host", "path"):
        value = getattr(own, key)
        if value is not None:
            yield from _variables((*loc, key), value, OF_RESPONSES, groups=groups)


def _variables(
    loc: Loc, text: str, never: frozenset[str] = frozenset(), *, only: frozenset[str] = frozenset(), groups: int = 0
) -> Iterator[Finding]:
    for name in sorted(variables(text)):
        if name.isdigit():
            if int(name) > groups:
                what = "there are fewer groups" if groups else "there is no expression with groups beside it"
                yield Finding(loc, f"%[{name}]: {what}")
        elif name in never:
            yield Finding(loc, f"%[{name}] is known in rules of `http_response` only")
        elif only and name not in only:
            choices = a_list_of((f"%[{each}]" for each in sorted(only) if not each.isdigit()), last="and")
            yield Finding(loc, f"%[{name}] cannot stand in a path; {choices} can")


def _condition(loc: Loc, condition: Condition, known: Collection[str]) -> Iterator[Finding]:
    for way, inner in condition.within:
        for i, name in enumerate(inner.acl or ()):
            if name not in known:
                some = ", ".join(map(printable, list(known)[:10])) + (", …" if len(known) > 10 else "")
                there = f"there are {some}{did_you_mean(name, known)}" if known else "define it under `acls:`"
                yield Finding((*loc, *way, "acl", i), f"there is no acl {name!r}; {there}")


def _status(loc: Loc, condition: Condition, acls: Mapping[str, Condition | None]) -> Iterator[Finding]:
    """What looks at the response, where there is none yet."""
    for way, inner in condition.within:
        if inner.status is not None:
            yield Finding((*loc, *way, "status"), "is known in rules of `http_response` only", "key")
        for i, name in enumerate(inner.acl or ()):
            if _looks_at_status(name, acls):
                text = f"acl {name} looks at the status, which is known in rules of `http_response` only"
                yield Finding((*loc, *way, "acl", i), text)


def _looks_at_status(name: str, acls: Mapping[str, Condition | None]) -> bool:
    seen, left = {name}, [name]
    while left:
        condition = acls.get(left.pop())
        if condition is not None:
            if any(inner.status is not None for _, inner in condition.within):
                return True
            fresh = _references(condition) - seen
            seen |= fresh
            left += fresh
    return False


def _references(condition: Condition) -> set[str]:
    return {name for _, inner in condition.within for name in inner.acl or ()}


def _nesting(acls: dict[str, Condition]) -> Iterator[Finding]:
    """Acls that lead back to themselves, or through too many others."""
    named = {name: _references(condition) & acls.keys() for name, condition in acls.items()}
    try:
        order = list(TopologicalSorter(named).static_order())
    except CycleError as error:
        circle = error.args[1][::-1]
        first = min(range(len(circle) - 1), key=lambda i: list(acls).index(circle[i]))
        circle = [*circle[first:-1], *circle[: first + 1]]
        yield Finding(("acls", circle[0]), f"leads back to itself: {' → '.join(map(printable, circle))}", "key")
        return
    depths: dict[str, int] = {}
    for name in order:
        depths[name] = 1 + max((depths[other] for other in named[name]), default=0)
        if depths[name] == _DEEPEST + 1:
            yield Finding(("acls", name), f"leads through more than {_DEEPEST} acls", "key")
