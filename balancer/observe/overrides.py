"""The overrides as they are shown: `show overrides`, `pybalancer overrides`, the page."""

from __future__ import annotations

import json
from collections.abc import Iterable

from balancer.observe.lines import rfc3339_date
from balancer.observe.routers import duration
from balancer.observe.snapshot import ServerRow, Snapshot
from balancer.pool.orders import Admin
from balancer.pool.overrides import Kind, Override, named

__all__ = ["json_", "sentence", "table"]

_HEADS = ("what", "override", "configured", "live", "by", "since", "ends in", "why")


def table(overrides: Iterable[Override], snapshot: Snapshot | None, now: float) -> str:
    """A line for each: what the operator wants, what the configuration says, and what is."""
    live = _Live(snapshot)
    rows = [_HEADS]
    for each in overrides:
        left = "-" if each.until is None else duration(round(each.until - now))
        configured = _configured(each)
        since = duration(now - each.at)
        rows.append((named(each.target), each.told, configured, live.of(each), each.by, since, left, each.why or "-"))
    if len(rows) == 1:
        return "There are no runtime changes: all is as the configuration says.\n"
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def json_(overrides: Iterable[Override], snapshot: Snapshot | None) -> str:
    """A list of objects. Times are Unix time in seconds; `until` may be null."""
    live = _Live(snapshot)
    found = []
    for each in overrides:
        row = each._asdict()
        row["target"] = named(each.target)
        row["live"] = live.of(each)
        found.append(row)
    return json.dumps(found) + "\n"


def sentence(each: Override) -> str:
    """For the page: `weight 5 instead of 10, by root at the runtime socket since DATE, until DATE: new disk`."""
    instead = "" if each.kind in ("added", "deleted") else f" instead of {_configured(each)}"
    until = "" if each.until is None else f", until {rfc3339_date(each.until)}"
    why = f": {each.why}" if each.why else ""
    return f"{each.told}{instead}, by {each.by} since {rfc3339_date(each.at)}{until}{why}"


def _configured(each: Override) -> str:
    if each.kind in ("added", "deleted"):
        return "-" if each.kind == "added" else "there"
    return "-" if each.configured is None else str(each.configured)


def _state(row: ServerRow) -> str:
    """`DRAIN`, `DRAIN, DOWN`"""
    admin = row.state.admin
    return row.status if admin is Admin.READY or row.status.startswith(admin.name) else f"{admin.name}, {row.status}"


class _Live:
    """What is now."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        rows = snapshot.servers if snapshot is not None else ()
        self._rows = {(row.entry.backend, row.name): row for row in rows}

    def of(self, each: Override) -> str:
        row = self._rows.get(each.target) if len(each.target) == 2 else None
        if row is None:
            return "gone" if each.kind == "deleted" else "-"
        facts: dict[Kind, str] = {
            "state": _state(row),
            "weight": str(row.state.weight),
            "checks": "off" if row.state.is_unwatched else "on",
            "health": row.state.condition.name.lower(),
            "maxconn": str(row.entry.maxconn or "-"),
            "address": str(row.address),
            "added": row.status,
        }
        return facts.get(each.kind, "-")
