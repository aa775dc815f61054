"""Frontends, backends and servers as a table of as many columns as there is room for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from balancer.observe import routers
from balancer.observe.routers import duration
from balancer.terminal.paint import UNBOUNDED, Paint, cut, octets, short
from balancer.terminal.picture import Backend, Frontend, Picture, Server, Tone

__all__ = ["COLUMNS", "Column", "Row", "cells_of", "drawn", "fitting", "header", "lines", "rows", "top_lines"]

Kind = Literal["frontend", "backend", "server"]
_GAP = 2
# Columns of a name and of what a check said, at the most; where there is no end of them, all of it.
_LONGEST_NAME, _LONGEST_CHECK = 32, 40
_SHORTEST_CHECK, _WIDE = 8, 100


class Row(NamedTuple):
    """One line: who it is of, and the text of each cell."""

    kind: Kind
    key: str
    """`frontend NAME`, `backend NAME` or `BACKEND/SERVER`."""
    tone: Tone
    of: Frontend | Backend | Server

    def cell(self, column: Column) -> str:
        return column.read(self.of)


class Column(NamedTuple):
    """What stands in a column."""

    title: str
    rank: int
    """Where there is no room, those of the highest rank are left out first."""
    read: Callable[[Frontend | Backend | Server], str]
    is_left: bool = False
    sort: Callable[[Frontend | Backend | Server], float] | None = None
    """A number by which servers can be sorted, the largest first."""


_Of = Frontend | Backend | Server


def _name(of: _Of) -> str:
    if isinstance(of, Server):
        return f"  {of.name}{' (backup)' if of.is_backup else ''}"
    return f"{'frontend' if isinstance(of, Frontend) else 'backend'} {of.name}"


def _state(of: _Of) -> str:
    if isinstance(of, Backend):
        return f"{of.status} {of.active + of.backup} of {len(of.servers)}" if of.servers else of.status
    return of.status


def _since(of: _Of) -> str:
    return "" if isinstance(of, Frontend) else duration(of.since)


def _weight(of: _Of) -> str:
    return "" if isinstance(of, Frontend) else str(of.weight)


def _limit(of: _Of) -> str:
    limit = of.traffic.sessions_limit
    return short(limit) if limit is not None else "-"


def _requests(of: _Of) -> float:
    rate = of.traffic.request_rate
    return rate if rate is not None and of.mode != "tcp" else of.traffic.session_rate


def _check(of: _Of) -> str:
    check = of.check if isinstance(of, Server) else None
    if check is None:
        return ""
    code = check.status if check.code is None else f"{check.status}/{check.code}"
    took = f" {check.duration_ms}ms" if check.duration_ms is not None else ""
    said = f" {check.text}" if check.text and check.text != "OK" else ""
    return f"{code}{took}{said}"


def _downs(of: _Of) -> str:
    return "" if isinstance(of, Frontend) else str(of.downs)


def _downtime(of: _Of) -> str:
    return "" if isinstance(of, Frontend) else duration(of.downtime)


def _address(of: _Of) -> str:
    return of.address if isinstance(of, Server) else ""


COLUMNS = (
    Column("NAME", 0, _name, is_left=True),
    Column("STATE", 1, _state, is_left=True),
    Column("SINCE", 7, _since, sort=lambda of: 0 if isinstance(of, Frontend) else -of.since),
    Column("WGHT", 5, _weight),
    Column("SESS", 2, lambda of: short(of.traffic.sessions), sort=lambda of: of.traffic.sessions),
    Column("MAX", 9, lambda of: short(of.traffic.sessions_max)),
    Column("LIMIT", 14, _limit),
    Column("QUEUE", 10, lambda of: short(of.traffic.queue), sort=lambda of: of.traffic.queue),
    Column("RATE", 3, lambda of: short(_requests(of)), sort=_requests),
    Column("TOTAL", 11, lambda of: short(of.traffic.sessions_total), sort=lambda of: of.traffic.sessions_total),
    Column("IN", 12, lambda of: octets(of.traffic.bytes_in)),
    Column("OUT", 13, lambda of: octets(of.traffic.bytes_out), sort=lambda of: of.traffic.bytes_out),
    Column("ERR", 4, lambda of: short(of.traffic.errors), sort=lambda of: of.traffic.errors),
    Column("RETR", 15, lambda of: short(of.traffic.retries)),
    Column("DOWNS", 16, _downs),
    Column("DOWN", 8, _downtime, sort=lambda of: 0 if isinstance(of, Frontend) else of.downtime),
    Column("CHECK", 6, _check, is_left=True),
    Column("ADDRESS", 17, _address, is_left=True),
)


def rows(seen: Picture) -> Iterator[Row]:
    """Frontends, then each backend with its servers after it."""
    for frontend in seen.frontends:
        yield Row("frontend", f"frontend {frontend.name}", frontend.tone, frontend)
    for backend in seen.backends:
        yield Row("backend", f"backend {backend.name}", backend.tone, backend)
        for server in backend.servers:
            yield Row("server", server.path, server.tone, server)


def fitting(all_: Sequence[Row], width: int, *, least: Mapping[str, int] | None = None) -> list[tuple[Column, int]]:
    """The columns that there is room for, in their order, and how wide each is: as its title and its cells, and as
    `least` has it by title."""
    widths = {column: max((len(row.cell(column)) for row in all_), default=0) for column in COLUMNS}
    for column in COLUMNS:
        widths[column] = max(widths[column], len(column.title), least.get(column.title, 0) if least else 0)
    by_title = {column.title: column for column in COLUMNS}
    name, check = by_title["NAME"], by_title["CHECK"]
    wanted = widths[check]
    if width < UNBOUNDED:
        widths[name] = min(widths[name], _LONGEST_NAME, max(width // 3, 1))
        # What a check said fills what is left.
        wanted = min(wanted, _LONGEST_CHECK)
        widths[check] = min(wanted, _SHORTEST_CHECK if width < _WIDE else width // 4)
    left, chosen = width + _GAP, set()
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        if widths[column] + _GAP > left:
            break
        left -= widths[column] + _GAP
        chosen.add(column)
    if check in chosen:
        widths[check] += min(wanted - widths[check], left)
    return [(column, widths[column]) for column in COLUMNS if column in chosen]


def cells_of(row: Row, columns: Sequence[tuple[Column, int]]) -> Iterator[tuple[Column, str]]:
    """The text of each, as wide as its column."""
    for column, width in columns:
        text = row.cell(column)
        if len(text) > width and column.title == "NAME" and row.kind != "server":
            # Better its name than what it is.
            text = row.of.name
        text = cut(text, width)
        yield column, f"{text:<{width}}" if column.is_left else f"{text:>{width}}"


def drawn(row: Row, columns: Sequence[tuple[Column, int]], paint: Paint) -> str:
    """A line, without spaces at its end."""
    cells = []
    for column, padded in cells_of(row, columns):
        text = padded.rstrip()
        if column.title == "STATE":
            # The spaces behind it have no colour to lose.
            padded = paint.tone(text, row.tone) + padded[len(text) :]
        elif row.kind != "server" and column.title == "NAME":
            padded = paint.strong(padded)
        cells.append(padded)
    return (" " * _GAP).join(cells).rstrip()


def header(columns: Sequence[tuple[Column, int]]) -> str:
    """The columns' titles."""
    cells = [f"{column.title:<{width}}" if column.is_left else f"{column.title:>{width}}" for column, width in columns]
    return (" " * _GAP).join(cells).rstrip()


def top_lines(seen: Picture, paint: Paint, *, with_routers: bool = True) -> Iterator[str]:
    """What is to be said of the daemon, and of its virtual routers."""
    name = f"{seen.node} ({seen.description})" if seen.description else seen.node
    parts = [
        f"pybalancer {seen.version}{', which is stopping' if seen.is_stopping else ''}",
        f"up {duration(seen.uptime)}",
        f"{short(seen.connections)} of {short(seen.connections_max)} connections",
        f"{short(seen.connection_rate)} new/s",
        f"{short(seen.request_rate)} requests/s",
    ]
    yield cut(f"{name}: {', '.join(parts)}", paint.width)
    if with_routers and seen.routers is not None:
        for line in routers.table(seen.routers, seen.at).splitlines():
            yield cut(line, paint.width)


def lines(seen: Picture, paint: Paint, *, with_routers: bool = True) -> Iterator[str]:
    """All of it, for a person."""
    yield from top_lines(seen, paint, with_routers=with_routers)
    all_ = [*rows(seen)]
    columns = fitting(all_, paint.width)
    yield ""
    yield paint.faint(header(columns))
    for row in all_:
        yield drawn(row, columns, paint)
