"""What a frontend's rules make of a request: compiled at start, judged once for all requests that look alike.

    Seen ── Rules.judge ── Verdict

A path can be read in several ways (wire.path), and who serves it may choose any of them. The usual reading decides;
but whoever is to be denied in one reading is denied, and whoever must log in in one reading has to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from balancer.config import htpasswd
from balancer.config.rules import Auth, HttpRequestRule, HttpResponseRule, Redirect, Return
from balancer.pool.passwords import Passwords
from balancer.proxy.format import NO_GROUPS, Groups, Subject, Template, compile_template
from balancer.proxy.login import Login
from balancer.proxy.match import Compiler, Seen, Test
from balancer.regex import compile_regex
from balancer.wire.path import canonical, encoded

__all__ = ["NO_KINDS", "Answer", "Deny", "Edits", "Moved", "Page", "Rules", "Verdict", "denied"]

# Not in a URI (RFC 3986 appendix A); a browser takes a backslash for a slash.
_NOT_IN_URI = re.compile(rb"[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")
# What OPTIONS asks of the server as a whole (RFC 9112 section 3.2.4).
_NO_PATH = b"*"
NO_KINDS = [0] * 1000
"""By status: all are of one kind."""
# Different changes of heads that are kept apart; with more rules than this many can tell, they are made anew.
_MOST_EDITS = 512


@dataclass(frozen=True, slots=True)
class Deny:
    """An answer of ours with a page of ours; status 0 is none at all."""

    status: int
    why: str = "denied by a rule"


@dataclass(frozen=True, slots=True)
class Moved:
    """A redirect."""

    code: int
    location: Callable[[Subject], bytes]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that the operator wrote."""

    status: int
    content_type: bytes
    body: bytes


Answer = Deny | Moved | Page


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """What is changed in a head's fields; the same changes are the same object."""

    removed: frozenset[bytes]
    """In lower case, with hyphens for underscores."""
    added: tuple[tuple[bytes, bytes | Template], ...]
    """Names and values."""

    is_fixed: bool
    """Whether they are the same for all exchanges."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to a request."""

    answer: Answer | None
    """In place of a server's."""
    logins: tuple[Login, ...]
    """What must be passed before all that."""
    path: bytes | None
    """To ask the server for, if not what the client asked for."""
    request: Edits | None
    responses: tuple[Edits | None, ...]
    """For each kind of response; `Rules.kinds` tells of which kind one is."""

    @property
    def changes(self) -> bool:
        """Whether anything happens at all."""
        parts = (self.answer, self.path, self.request, *self.responses)
        return self.logins != () or any(part is not None for part in parts)


def denied(answer: Deny) -> Verdict:
    """The verdict on a request that goes nowhere."""
    return Verdict(answer, (), None, None, ())


class _Draft:
    """A verdict in the making."""

    __slots__ = ("added", "answer", "logins", "path", "removed")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.path: bytes | None = None
        self.logins: list[Login] = []
        self.removed: set[bytes] = set()
        self.added: list[tuple[bytes, bytes | Template]] = []


_Action = Callable[[_Draft, Seen], bool]
"""Does what a rule says; whether the rules behind it count no more."""


class Rules:
    """The rules of one frontend that change or answer requests. `pages` has contents of files by path."""

    def __init__(
        self,
        requests: Sequence[HttpRequestRule],
        responses: Sequence[HttpResponseRule],
        compiler: Compiler,
        pages: Mapping[str, bytes],
    ) -> None:
        passwords: dict[str, Passwords] = {}
        self._requests = [(compiler.compile(rule.if_), _request_action(rule, pages, passwords)) for rule in requests]
        self._responses = [(compiler.compile(rule.if_), _header_action(rule)) for rule in responses]
        self.kinds, self._statuses = _kinds(compiler.statuses)
        """By status, which of a verdict's `responses` is for it."""
        self._edits: dict[tuple[frozenset[bytes], tuple[tuple[bytes, bytes | Template], ...]], Edits] = {}

    def judge(self, seen: Sequence[Seen]) -> Verdict:
        """The verdict on a request, of which `seen` has all readings of the path, the usual one first."""
        drafts = [_run(self._requests, each) for each in seen]
        for draft in drafts:
            if isinstance(draft.answer, Deny):
                return denied(draft.answer)
        draft, usual = drafts[0], seen[0]
        responses = []
        for status in self._statuses:
            usual.status = status
            responses.append(self._edits_of(_run(self._responses, usual)))
        logins = tuple(dict.fromkeys(login for each in drafts for login in each.logins))
        return Verdict(draft.answer, logins, draft.path, self._edits_of(draft), tuple(responses))

    def _edits_of(self, draft: _Draft) -> Edits | None:
        if not draft.removed and not draft.added:
            return None
        key = frozenset(draft.removed), tuple(draft.added)
        edits = self._edits.get(key)
        if edits is None:
            if len(self._edits) >= _MOST_EDITS:
                self._edits.clear()
            edits = self._edits[key] = Edits(*key, all(isinstance(value, bytes) for _, value in draft.added))
        return edits


def _kinds(told_apart: Iterable[frozenset[int]]) -> tuple[list[int], list[int]]:
    """The kind of each status, of those that no condition tells from each other; and a status of each kind."""
    known: dict[tuple[bool, ...], int] = {}
    kinds: list[int] = []
    examples: list[int] = []
    wanted = list(dict.fromkeys(told_apart))
    for status in range(len(NO_KINDS)):
        looks = tuple(status in each for each in wanted)
        if looks not in known:
            known[looks] = len(examples)
            examples.append(status)
        kinds.append(known[looks])
    return kinds, examples


def _run(rules: Iterable[tuple[Test | None, _Action]], seen: Seen) -> _Draft:
    draft = _Draft()
    for test, action in rules:
        if (test is None or test(seen)) and action(draft, seen):
            break
    return draft


def _request_action(rule: HttpRequestRule, pages: Mapping[str, bytes], passwords: dict[str, Passwords]) -> _Action:
    if rule.allow is not None:
        return lambda draft, seen: True  # noqa: ARG005
    if rule.deny is not None:
        return _answer(Deny(rule.deny))
    if rule.silent_drop is not None:
        return _answer(Deny(0))
    if rule.auth is not None:
        return _log_in(rule.auth, pages, passwords)
    if rule.redirect is not None:
        return _redirect(rule.redirect)
    if rule.return_ is not None:
        return _answer(_page(rule.return_, pages))
    if rule.set_path is not None:
        return _set_path(compile_template(rule.set_path))
    if rule.strip_prefix is not None:
        return _strip_prefix(canonical(rule.strip_prefix.encode()).rstrip(b"/"))
    if rule.replace_path is not None:
        return _replace_path(rule.replace_path.regex, compile_template(rule.replace_path.with_))
    return _header_action(rule)


def _answer(answer: Answer) -> _Action:
    def action(draft: _Draft, _: Seen) -> bool:
        draft.answer = answer
        return True

    return action


def _log_in(own: Auth, pages: Mapping[str, bytes], passwords: dict[str, Passwords]) -> _Action:
    if own.file not in passwords:
        passwords[own.file] = Passwords(htpasswd.parse(pages[own.file]))
    login = Login(passwords[own.file], own.realm)

    def action(draft: _Draft, _: Seen) -> bool:
        draft.logins.append(login)
        return False

    return action


def _page(own: Return, pages: Mapping[str, bytes]) -> Page:
    body = pages[own.file] if own.file is not None else (own.body or "").encode()
    return Page(own.status, own.content_type.encode(), body)


def _header_action(rule: HttpRequestRule | HttpResponseRule) -> _Action:
    added = rule.set_header or rule.add_header or {}
    lines = [(name.encode(), compile_template(value)) for name, value in added.items()]
    names = frozenset(_key(name.encode()) for name in (rule.set_header or rule.del_header or ()))

    def action(draft: _Draft, _: Seen) -> bool:
        draft.removed |= names
        draft.added = [line for line in draft.added if _key(line[0]) not in names] + lines
        return False

    return action


def _key(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


def _set_path(path: bytes | Template) -> _Action:
    def action(draft: _Draft, seen: Seen) -> bool:
        if seen.path != _NO_PATH:
            draft.path = _as_path(path if isinstance(path, bytes) else path(_subject(seen), NO_GROUPS))
        return False

    return action


def _strip_prefix(prefix: bytes) -> _Action:
    def action(draft: _Draft, seen: Seen) -> bool:
        path = draft.path or seen.path
        if path == prefix or path.startswith(prefix + b"/"):
            draft.path = _as_path(path[len(prefix) :])
        return False

    return action


def _replace_path(pattern: str, replacement: bytes | Template) -> _Action:
    search = compile_regex(pattern).search

    def action(draft: _Draft, seen: Seen) -> bool:
        path = draft.path or seen.path
        match = search(path)
        if match is not None and path != _NO_PATH:
            new = replacement if isinstance(replacement, bytes) else replacement(_subject(seen), match.groups())
            draft.path = _as_path(path[: match.start()] + new + path[match.end() :])
        return False

    return action


def _as_path(path: bytes) -> bytes:
    """A path that a server can only read as one: nothing in it is a query or another host."""
    return b"/" + encoded(path).lstrip(b"/")


def _subject(seen: Seen) -> Subject:
    # The variables that may stand in a path look at `asked` alone (config.format.OF_THE_TARGET).
    return cast(Subject, seen)


def _redirect(own: Redirect) -> _Action:
    search = compile_regex(own.path_reg).search if own.path_reg is not None else None
    write = _location(own)

    def action(draft: _Draft, seen: Seen) -> bool:
        groups = NO_GROUPS
        if search is not None:
            match = search(seen.path)
            if match is None:
                return False
            groups = match.groups()
        draft.answer = Moved(own.code, lambda subject: write(subject, groups))
        return True

    return action


def _location(own: Redirect) -> Template:
    """The redirect's target; empty where the request names no host and one is needed."""
    if own.location is not None:
        whole = _template(own.location)
        return lambda subject, groups: _as_uri(whole(subject, groups))
    host, path = _template(own.host or "%[host]"), _template(own.path or "%[path]")
    query = _template("" if own.drop_query else "%[query]")
    scheme = own.scheme.encode() + b":" if own.scheme is not None else b""

    def location(subject: Subject, groups: Groups) -> bytes:
        asked = query(subject, groups)
        rest = _as_uri(b"/" + path(subject, groups)) + (b"?" + asked if asked else b"")
        if own.scheme is None and own.host is None:
            return rest
        where = host(subject, groups)
        return b"%b//%b%b" % (scheme, where, rest) if where else b""

    return location


def _template(text: str) -> Template:
    compiled = compile_template(text)
    return compiled if not isinstance(compiled, bytes) else lambda _, __: compiled


def _as_uri(octets: bytes) -> bytes:
    """As a browser cannot misread it: no octet that needs encoding (RFC 3986 section 2), and a path is no host."""
    octets = _NOT_IN_URI.sub(lambda match: b"%%%02X" % match[0][0], octets)
    return b"/" + octets.lstrip(b"/") if octets.startswith(b"/") else octets
