"""Prometheus metrics: what stands in families and keepalived, written in the text format 0.0.4 or, for whoever asks for
it, as OpenMetrics 1.0.0.

Written by hand: prometheus_client keeps an object for each sample and takes several times as long for thousands of
servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from balancer.observe import families, keepalived, resolvers
from balancer.observe.families import Family, Table, escape, is_http
from balancer.observe.routers import is_stale
from balancer.observe.snapshot import Snapshot
from balancer.pool.routers import Standing

__all__ = ["CONTENT_TYPE", "OPEN_METRICS", "Tables", "Wanted", "content_type", "pieces", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

SCOPES = ("global", "frontend", "listener", "backend", "server", "sticktable", "resolver", "vrrp")
"""HAProxy's, and one for what keepalived's exporter tells."""

Tables = Callable[[], Iterable[tuple[str, int, Iterator[object | None]]]]
"""Name, size and rows of what clients have taken (pool.sources); None in between, for others to have their turn."""

# Lines put together before they are handed on: about a millisecond of work, some 30 KiB.
_LINES = 512
# RFC 9110 section 12.5.1: a media range, and what stands behind it.
_RANGE = re.compile(r"\s*([^;,\s]+)\s*((?:;[^,]*)?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([0-9.]+)", re.IGNORECASE)
_VERSION = re.compile(r";\s*version\s*=\s*\"?([0-9.]+)", re.IGNORECASE)


def content_type(accept: str) -> str:
    """What somebody gets whose Accept field says so: OpenMetrics only where it is named, and not second to text."""
    found = {CONTENT_TYPE: 0.0, OPEN_METRICS: 0.0}
    for media, rest in _RANGE.findall(accept[:1000]):
        quality = _QUALITY.search(rest)
        version = _VERSION.search(rest)
        try:
            weight = float(quality[1]) if quality else 1.0
        except ValueError:
            continue
        kind = media.lower()
        if kind == "application/openmetrics-text" and (version is None or version[1] in ("1.0.0", "0.0.1")):
            found[OPEN_METRICS] = max(found[OPEN_METRICS], weight)
        elif kind in ("text/plain", "text/*"):
            found[CONTENT_TYPE] = max(found[CONTENT_TYPE], weight)
    return OPEN_METRICS if found[OPEN_METRICS] > 0 and found[OPEN_METRICS] >= found[CONTENT_TYPE] else CONTENT_TYPE


class Wanted(NamedTuple):
    """Which metrics, in the words of HAProxy's exporter (addons/promex/README): `scope=`, `metrics=`, `no-maint`."""

    scopes: Collection[str] = SCOPES
    names: Collection[str] = ()
    """Only these; empty: all."""
    without: Collection[str] = ()
    hides_maint: bool = False

    @staticmethod
    def of(query: str) -> Wanted:
        """ValueError where it makes no sense."""
        scopes: list[str] | None = None
        names: list[str] = []
        hides_maint = False
        for key, value in parse_qsl(query, keep_blank_values=True, max_num_fields=64):
            if key == "scope":
                if not value:
                    scopes = []
                elif value == "*":
                    scopes = list(SCOPES)
                elif value in SCOPES:
                    scopes = [*(scopes or ()), value]
                else:
                    raise ValueError(f"There is no scope of this name; there are {', '.join(SCOPES)} and *.")
            elif key == "metrics":
                names += filter(None, value.split(","))
            elif key == "no-maint":
                hides_maint = True
        return Wanted(
            SCOPES if scopes is None else frozenset(scopes),
            frozenset(name for name in names if not name.startswith("-")),
            frozenset(name[1:] for name in names if name.startswith("-")),
            hides_maint,
        )

    def has(self, name: str) -> bool:
        return (not self.names or name in self.names) and name not in self.without


_ALL = Wanted()
Rows = Sequence[tuple[str, Any]]


def pieces(
    snapshot: Snapshot, wanted: Wanted = _ALL, *, type_: str = CONTENT_TYPE, tables: Tables = tuple
) -> Generator[str, None, None]:
    """The exposition in pieces of some 30 KiB, so that a caller can do other things in between. `type_` is CONTENT_TYPE
    or OPEN_METRICS."""
    lines: list[str] = []
    for line in _lines(snapshot, wanted, _open if type_ == OPEN_METRICS else _plain, tables):
        lines.append(line)
        if len(lines) >= _LINES or not line:
            yield "".join(lines)
            lines.clear()
    if type_ == OPEN_METRICS:
        lines.append("# EOF\n")
    yield "".join(lines)


def render(snapshot: Snapshot, wanted: Wanted = _ALL, *, type_: str = CONTENT_TYPE, tables: Tables = tuple) -> bytes:
    """The whole exposition."""
    return "".join(pieces(snapshot, wanted, type_=type_, tables=tables)).encode("utf-8", "replace")


_Head = Callable[[str, Literal["counter", "gauge", "histogram"], str], str]


def _plain(name: str, type_: Literal["counter", "gauge", "histogram"], help_: str) -> str:
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def _open(name: str, type_: Literal["counter", "gauge", "histogram"], help_: str) -> str:
    """A counter's family is called like its samples but for `_total`; a name without it is that of no counter."""
    known: str = type_
    if type_ == "counter":
        short = name.removesuffix("_total")
        known = "counter" if short != name else "unknown"
        name = short
    unit = next((f"# UNIT {name} {unit}\n" for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
    return f"# HELP {name} {help_}\n# TYPE {name} {known}\n{unit}"


def _lines(snapshot: Snapshot, wanted: Wanted, head: _Head, tables: Tables) -> Iterator[str]:
    def of(scope: str, own: Iterable[Family], rows: Rows) -> Iterator[str]:
        if scope in wanted.scopes:
            yield from _families((each for each in own if wanted.has(each.name)), rows, head)

    now = snapshot.now
    if "global" in wanted.scopes:
        yield from of("global", families.PROCESS, [("", families.process(snapshot))])
    frontends = [(f'{{proxy="{row.name}"', row) for row in snapshot.frontends]
    backends = [(f'{{proxy="{row.name}"', row) for row in snapshot.backends]
    yield from of("frontend", families.FRONTEND, frontends)
    yield from of("backend", [*families.BACKEND, families.last_sessions("haproxy_backend", now)], backends)
    if "server" in wanted.scopes:
        servers = [
            (f'{{proxy="{backend.name}",server="{row.name}"', row, is_http(backend))
            for backend in snapshot.backends
            for row in backend.servers
            if not (wanted.hides_maint and row.label == "MAINT")
        ]
        every = [(labels, row) for labels, row, _ in servers]
        yield from of("server", [*families.SERVER, families.last_sessions("haproxy_server", now)], every)
        of_http = [(labels, row) for labels, row, is_http_ in servers if is_http_]
        yield from of("server", families.SERVER_HTTP, of_http)
    if "sticktable" in wanted.scopes and any(wanted.has(each.name) for each in families.TABLE):
        rows: list[tuple[str, Table]] = []
        for name, size, entries in tables():
            used = 0
            for entry in entries:
                if entry is None:
                    yield ""
                else:
                    used += 1
            rows.append((f'{{name="{escape(name)}",type="ipv6"', Table(size, used)))
        yield from of("sticktable", families.TABLE, rows)
    yield from of("resolver", resolvers.FAMILIES, resolvers.rows(snapshot.resolvers))
    if snapshot.routers is not None and "vrrp" in wanted.scopes:
        yield from _routers(snapshot.routers, now, of)


def _routers(
    standing: Standing, now: float, of: Callable[[str, Iterable[Family], Rows], Iterator[str]]
) -> Iterator[str]:
    stale = is_stale(standing, now)
    yield from of("vrrp", keepalived.UP, [("", not stale)])
    if stale:
        # As the exporter does when keepalived says nothing: what it said last would be taken for the present.
        return
    routers = [
        (f'{{iname="{escape(row.name)}",intf="{escape(row.interface)}",vrid="{row.vrid}"', row)
        for row in standing.routers
    ]
    yield from of("vrrp", [*keepalived.ROUTER, *keepalived.of_now(now)], routers)
    yield from of("vrrp", keepalived.SCRIPT, [(f'{{name="{escape(row.name)}"', row) for row in standing.scripts])
    yield from of("vrrp", keepalived.PEER, [(f'{{address="{escape(row.address)}"', row) for row in standing.peers])


def _families(own: Iterable[Family], rows: Rows, head: _Head) -> Iterator[str]:
    for name, type_, help_, samples, applies in own:
        concerned = [labelled for labelled in rows if applies(labelled[1])]
        if concerned:
            yield head(name, type_, help_)
            for labels, row in concerned:
                yield from samples(name, labels, row)
