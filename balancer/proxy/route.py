"""Which requests go where: a frontend's rules, compiled at start.

    request ── Router ── HttpBackend

What the rules make of a request depends on its head and on the networks that its client is in, and on nothing else:
it is remembered by these. A frontend without rules has no router, and its exchanges are plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from balancer.config import model
from balancer.config.rules import Condition
from balancer.proxy.exchange import Client, Exchange, HttpBackend
from balancer.proxy.match import Compiler, Networks, Seen, Test
from balancer.proxy.tcp import source_key
from balancer.wire.fields import host_name
from balancer.wire.http1 import Request, Section
from balancer.wire.path import canonical

__all__ = ["RoutedExchange", "Router"]

# What is remembered: so many requests and clients, from heads of so many octets at the most: some MiB at the worst.
_MOST_KNOWN = 512
_MOST_ZONES = 4096
_LONGEST_KNOWN = 2048

_Key = tuple[bytes, bytes, bytes, int, Section | None]


class Router:
    """The rules of one frontend. `backends` has all that it may send to, by name."""

    def __init__(
        self, frontend: model.Frontend, acls: Mapping[str, Condition], backends: Mapping[str, HttpBackend]
    ) -> None:
        self._networks = Networks()
        compiler = Compiler(acls, self._networks)
        self._rules: list[tuple[Test | None, HttpBackend]] = [
            (compiler.compile(rule.if_), backends[rule.backend]) for rule in frontend.use_backend
        ]
        if frontend.default_backend:
            self._rules.append((None, backends[frontend.default_backend]))
        self._looks_at_fields = compiler.looks_at_fields
        self._zones: dict[str, int] = {}
        self._known: dict[_Key, HttpBackend] = {}

    def route(self, request: Request, source: tuple[str, int] | None) -> HttpBackend:
        """Where `request` from `source` goes."""
        line, section = request.line, request.section
        zone = self._zone(source)
        key = (line.method, line.target, section.host, zone, section if self._looks_at_fields else None)
        found = self._known.get(key)
        if found is None:
            target = line.target
            path = canonical(target.partition(b"?")[0])
            found = self._decide(Seen(line.method, target, path, host_name(section.host), section, zone))
            if request.size <= _LONGEST_KNOWN:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[key] = found
        return found

    def _decide(self, seen: Seen) -> HttpBackend:
        return next(backend for test, backend in self._rules if test is None or test(seen))

    def _zone(self, source: tuple[str, int] | None) -> int:
        if source is None:
            return 0
        zone = self._zones.get(source[0])
        if zone is None:
            if len(self._zones) >= _MOST_ZONES:
                self._zones.clear()
            zone = self._zones[source[0]] = self._networks.zone(source[0])
        return zone


class RoutedExchange(Exchange):
    """An exchange whose backend the rules choose."""

    __slots__ = ("router",)

    def __init__(self, router: Router, client: Client, request: Request, began: float, parsed: float) -> None:
        super().__init__(client, request, began, parsed)
        self.router = router

    def begin(self) -> None:
        client = self.client
        to = self.to = self.router.route(self.request, client.source)
        if to.backend.needs == "source" and not client.key and client.source is not None:
            self.key = client.key = source_key(client.source[0])
        super().begin()
