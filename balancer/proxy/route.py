"""Which requests go where, and what becomes of them on the way: a frontend's rules, compiled at start.

    request ── Router ── Route: the backend, and what the rules change or answer

What the rules make of a request depends on its head and on the networks that its client is in, and on nothing else:
it is remembered by these, if it comes more than once. A frontend without rules has no router, and its exchanges are
plain ones.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from random import Random
from typing import Final, NamedTuple, TypeVar

from balancer.algorithms import registry
from balancer.config import model
from balancer.config.rules import Condition
from balancer.pool.backend import Backend
from balancer.pool.facts import BUCKETS, Counters
from balancer.pool.passwords import TooManyLoginsError
from balancer.pool.records import HttpRecord
from balancer.proxy.capture import Capture
from balancer.proxy.exchange import Client, Exchange, HttpBackend, Step
from balancer.proxy.format import Subject, field_line
from balancer.proxy.forward import Forwarding
from balancer.proxy.login import Login, credentials_of
from balancer.proxy.match import HTTPS, Compiler, Networks, Seen, Test
from balancer.proxy.origin import Pool, ServerConnection
from balancer.proxy.replies import Replies, composed
from balancer.proxy.rules import NO_KINDS, Answer, Deny, Edits, Moved, Rules, Verdict, denied
from balancer.proxy.stream import Poller
from balancer.proxy.sweep import NEVER
from balancer.proxy.tcp import source_key
from balancer.proxy.upstream import Upstream
from balancer.wire.fields import with_fields, with_lines, without_fields
from balancer.wire.http1 import Request, RequestLine, Response, Section
from balancer.wire.path import readings
from balancer.wire.recall import Recall

__all__ = ["RoutedExchange", "Router", "nowhere"]

# What is remembered: so much of a kind, from heads of so many octets at the most, each of which is there in so many
# forms; and so many clients.
_MOST_OCTETS: Final = 2 << 20
_MOST_ZONES: Final = 4096
_LONGEST_KNOWN: Final = 2048
_FORMS: Final = 5

_Key = tuple[bytes, bytes, bytes, int, Section | None]
_Head = TypeVar("_Head", Section, Response)


class Route(NamedTuple):
    """Where a request goes. Without a verdict it goes as it is."""

    to: HttpBackend
    verdict: Verdict | None


class Router:
    """The rules of one frontend.

    `backends` has all that it may send to, by name, `nowhere` stands for none of them, `pages` has contents of files.
    """

    def __init__(
        self,
        frontend: model.Frontend,
        acls: Mapping[str, Condition],
        backends: Mapping[str, HttpBackend],
        nowhere: HttpBackend,
        pages: Mapping[str, bytes],
    ) -> None:
        self.nowhere = nowhere
        self._networks = Networks()
        self.forwarding = _forwarding(frontend, self._networks)
        compiler = Compiler(acls, self._networks)
        self._backends: list[tuple[Test | None, HttpBackend]] = [
            (compiler.compile(rule.if_), backends[rule.backend]) for rule in frontend.use_backend
        ]
        if frontend.default_backend:
            self._backends.append((None, backends[frontend.default_backend]))
        self._rules = (
            Rules(frontend.http_request, frontend.http_response, compiler, pages)
            if frontend.http_request or frontend.http_response
            else None
        )
        self.kinds = self._rules.kinds if self._rules is not None else NO_KINDS
        """By status, which of a verdict's `responses` is for it."""
        noted = frontend.capture or frontend.log_format is not None
        self.capture = Capture(frontend) if noted else None
        self._looks_at_fields = compiler.looks_at_fields
        self._zones: dict[str, int] = {}
        self._routes: Recall[_Key, Route] = Recall(_MOST_OCTETS)
        self._known = self._routes.kept
        self._sections: Recall[tuple[Section, Edits], Section] = Recall(_MOST_OCTETS)
        self._responses: Recall[tuple[Response, Edits], Response] = Recall(_MOST_OCTETS)

    def route(self, request: Request, zone: int) -> Route:
        """What becomes of `request` from a client of this zone (`zone`, and whether it speaks TLS)."""
        line, section = request.line, request.section
        key = (line.method, line.target, section.host, zone, section if self._looks_at_fields else None)
        found = self._known.get(key)
        if found is None:
            found = self._decide(request, zone)
            if request.size <= _LONGEST_KNOWN:
                # By its octets: an object has none that would be the same the next time.
                mark = hash((*key[:4], section.fields if self._looks_at_fields else b""))
                self._routes.keep(mark, key, found, _FORMS * request.size)
        return found

    def _decide(self, request: Request, zone: int) -> Route:
        seen = [Seen(request, path, zone) for path in readings(request.line.target.partition(b"?")[0])]
        verdict = self._rules.judge(seen) if self._rules is not None else None
        if verdict is not None and verdict.answer is not None:
            return Route(self.nowhere, verdict)
        for test, backend in self._backends:
            if test is None or test(seen[0]):
                return Route(backend, verdict if verdict is not None and verdict.changes else None)
        return Route(self.nowhere, denied(Deny(503, "no rule leads to a backend")))

    def zone(self, source: tuple[str, int] | None) -> int:
        """What networks `source` is in."""
        if source is None:
            return 0
        zone = self._zones.get(source[0])
        if zone is None:
            if len(self._zones) >= _MOST_ZONES:
                self._zones.clear()
            zone = self._zones[source[0]] = self._networks.zone(source[0])
        return zone

    def asker(self, request: Request, source: tuple[str, int] | None) -> tuple[str, int] | None:
        """Who asks, of a connection from `source`: the client that a trusted proxy tells of, else `source` itself."""
        forwarding = self.forwarding
        if source is None or forwarding is None or not self.zone(source) & forwarding.trusted:
            return source
        host = forwarding.client(request.section, source[0], self._is_trusted)
        return source if host == source[0] else (host, source[1])

    def _is_trusted(self, host: str) -> bool:
        assert self.forwarding is not None
        return bool(self.zone((host, 0)) & self.forwarding.trusted)

    def section(self, section: Section, edits: Edits, subject: Subject) -> Section:
        """A request's fields with what the rules change."""
        return _edited(section, edits, subject, self._sections)

    def response(self, response: Response, edits: Edits, subject: Subject) -> Response:
        """The response with what the rules change."""
        return _edited(response, edits, subject, self._responses)


def _edited(head: _Head, edits: Edits, subject: Subject, known: Recall[tuple[_Head, Edits], _Head]) -> _Head:
    """`head` changed; what is the same for all exchanges is made once and kept in `known`."""
    base = known.kept.get((head, edits))
    if base is None:
        base = head
        if edits.removed:
            base = with_fields(head, without_fields(head.end_to_end, edits.removed))
        if edits.is_fixed and edits.added:
            base = with_lines(base, _lines(edits, subject))
        if len(head.fields) <= _LONGEST_KNOWN:
            octets = _FORMS * (len(head.fields) + len(base.fields))
            known.keep(hash((head.fields, edits)), (head, edits), base, octets)
    return base if edits.is_fixed else with_lines(base, _lines(edits, subject))


def _lines(edits: Edits, subject: Subject) -> bytes:
    return b"".join([field_line(name, value, subject) for name, value in edits.added])


def _forwarding(frontend: model.Frontend, networks: Networks) -> Forwarding | None:
    told = frontend.forwarded is not None or frontend.request_id is not None or frontend.x_forwarded is not None
    if not told and frontend.trusted_proxies is None:
        return None
    return Forwarding(frontend, networks)


class RoutedExchange(Exchange):
    """An exchange that the rules decide on."""

    __slots__ = (
        "asked", "came", "is_https", "is_trusted", "received", "request_id", "router", "source", "user", "verdict",
    )  # fmt: skip

    def __init__(self, router: Router, client: Client, request: Request, began: float, parsed: float) -> None:
        super().__init__(client, request, began, parsed)
        self.asked = request
        self.router = router
        self.source = client.source
        self.is_https = client.is_tls
        self.is_trusted = False
        self.came: Response | None = None
        self.request_id = self.user = b""
        self.verdict: Verdict | None = None
        self.received: Response | None = None

    def begin(self) -> None:
        router = self.router
        zone = router.zone(self.source)
        if router.forwarding is not None:
            zone = self._receive(router.forwarding, zone)
        if self.is_https:
            zone |= HTTPS
        to, verdict = router.route(self.asked, zone)
        if verdict is None:
            self._go(to)
            return
        self.verdict = verdict
        self.to = router.nowhere
        if verdict.logins:
            credentials = credentials_of(self.asked.section)
            if credentials is None:
                self._ask_for_password(verdict.logins[0])
                return
            for login in verdict.logins:
                is_right = login.passwords.known(credentials)
                if is_right is None:
                    self._wait_for(self._log_in(to, verdict, credentials))
                    return
                if not is_right:
                    self._ask_for_password(login)
                    return
            self.user = credentials.partition(b":")[0]
        self._obey(to, verdict)

    def _receive(self, forwarding: Forwarding, zone: int) -> int:
        """Who asks, as far as that is believed; its zone."""
        asked, router, source = self.asked, self.router, self.source
        section, near = asked.section, zone
        if zone & forwarding.trusted and source is not None:
            self.is_trusted = True
            is_https = forwarding.is_https(section)
            if is_https is not None:
                self.is_https = is_https
            host = forwarding.client(section, source[0], lambda host: bool(router.zone((host, 0)) & forwarding.trusted))
            self.source = (host, source[1])
            zone = router.zone(self.source)
        else:
            section = forwarding.received(section)
            if section is not asked.section:
                self.asked = Request(asked.line, section, asked.size)
        self.request_id = forwarding.name(self)
        self.request = Request(asked.line, forwarding.told(section, self, near), asked.size)
        return zone

    def _wait_for(self, work: Coroutine[None, None, None]) -> None:
        """Whatever the client sends meanwhile stays where it is."""
        if self.asked.section.body:
            self.step = Step.UPLOADING
        self.client.deadline = NEVER
        self.dialling = self.frontend.loop.create_task(work)

    async def _log_in(self, to: HttpBackend, verdict: Verdict, credentials: bytes) -> None:
        """Go on if the password is right."""
        try:
            refused = None
            for login in verdict.logins:
                if not await login.passwords.check(credentials):
                    refused = login
                    break
            self.dialling = None
            if refused is None:
                self.user = credentials.partition(b":")[0]
                self._obey(to, verdict)
            else:
                self._ask_for_password(refused)
        except TooManyLoginsError:
            self.dialling = None
            self._answer(503, "too many passwords wait to be checked", "PR")
        except Exception as error:
            # A fault of ours; the client is not to wait for ever.
            self.dialling = None
            self._answer(500, f"internal error: {error!r}", "IC")
            raise

    def _obey(self, to: HttpBackend, verdict: Verdict) -> None:
        """Do what the rules say."""
        if verdict.answer is not None:
            self._answer_by_rule(verdict.answer)
            return
        line, section = self.request.line, self.request.section
        if verdict.path is not None:
            line = RequestLine(line.octets, line.method, _with_query(verdict.path, line.target), line.minor)
        # Variables tell of the backend.
        self.to = to
        if verdict.request is not None:
            section = self.router.section(section, verdict.request, self)
        self.request = Request(line, section, self.asked.size)
        self._go(to)

    def _go(self, to: HttpBackend) -> None:
        client = self.client
        self.to = to
        if to.backend.needs == "source" and self.source is not None:
            if self.source != client.source:
                self.key = source_key(self.source[0])
            elif not client.key:
                self.key = client.key = source_key(self.source[0])
        super().begin()

    def _ask_for_password(self, login: Login) -> None:
        if self.asked.section.body:
            self.step = Step.UPLOADING
        self._reply(401, "no password, or a wrong one", "PR", partial(self.to.replies.reply, added=login.challenge))

    def _answer_by_rule(self, answer: Answer) -> None:
        if self.asked.section.body:
            self.step = Step.UPLOADING
        if isinstance(answer, Deny):
            self.frontend.gate.counters.dreq += 1
            if answer.status:
                self._answer(answer.status, answer.why, "PR")
            else:
                self.abort("PR", why=answer.why)
        elif isinstance(answer, Moved):
            location = answer.location(self)
            if location:
                fields = b"location: %b\r\ncache-control: no-cache\r\n" % location
                self._reply(answer.code, "", "LR", composed(fields))
            else:
                self._answer(400, "no host to redirect to", "PR")
        else:
            fields = b"content-type: %b\r\n" % answer.content_type if answer.body else b""
            self._reply(answer.status, "", "LR", composed(fields, answer.body))

    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        super().on_response(self._by_rule(response), data, connection)

    def on_switch(self, response: Response, rest: bytes, connection: ServerConnection) -> None:
        super().on_switch(self._by_rule(response), rest, connection)

    def _record(self, termination: str, status: int, total: int, why: str) -> HttpRecord:
        record = super()._record(termination, status, total, why)
        capture = self.router.capture
        if capture is not None:
            destination = self.client.endpoints()[1]
            details = capture.details(self.asked.section, self.received, destination, self.server)
            record = record._replace(details=details)
        if self.source == self.client.source and not self.request_id:
            return record
        client = self.source[0] if self.source is not None else record.client
        return record._replace(client=client, request_id=self.request_id.decode("ascii"))

    def _by_rule(self, response: Response) -> Response:
        self.received = response
        verdict = self.verdict
        if verdict is None:
            return response
        edits = verdict.responses[self.router.kinds[response.status]]
        if edits is None:
            return response
        self.came = response
        return self.router.response(response, edits, self)


def _with_query(path: bytes, target: bytes) -> bytes:
    _, mark, query = target.partition(b"?")
    return path + mark + query


def nowhere(poller: Poller, name: str, replies: Replies) -> HttpBackend:
    """What stands for the backend of requests that go to none: without servers, under the frontend's name, and what it
    counts nobody reads."""
    config = model.Backend.model_construct(servers={})
    counters = Counters(connect_times=[0] * BUCKETS, response_times=[0] * BUCKETS, total_times=[0] * BUCKETS)
    algorithm = registry.create("first", hash_type="map-based", rng=Random())  # noqa: S311 (no secret)
    backend = Backend(name, config, servers=(), algorithm=algorithm, counters=counters, touched=[])
    return HttpBackend(
        backend=backend,
        upstream=Upstream(poller, backend, connect_timeout=0, retries=0, redispatch=False, keepalive=None),
        pool=Pool((), most=0, purge_delay=0),
        persistence=None,
        cookie=None,
        reuse="never",
        is_pooled=False,
        queue_timeout=0,
        server_timeout=0,
        server_fin=0,
        tunnel_timeout=0,
        replies=replies,
    )
