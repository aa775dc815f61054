"""The statistics page: HAProxy's table as HTML that needs no script and loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice

from jinja2 import Environment, PackageLoader, StrictUndefined

from balancer.observe import routers
from balancer.observe.routers import duration
from balancer.observe.snapshot import BackendRow, FrontendRow, ServerRow, Snapshot

__all__ = ["CONTENT_TYPE", "pieces", "render"]

CONTENT_TYPE = "text/html; charset=utf-8"

# Parts of the template put together before they are handed on: some 30 KiB, a few milliseconds of work.
_PARTS = 1024


def _octets(number: int) -> str:
    """`512`, `1.4 K`, `23.9 M`: powers of 1024."""
    size = float(number)
    for unit in ("", " K", " M", " G", " T", " P"):
        if size < 1000 or unit == " P":
            break
        size /= 1024
    return f"{size:.1f}{unit}" if unit and size < 100 else f"{size:.0f}{unit}"


def _number(number: int) -> str:
    # U+202F groups without being taken for a decimal point.
    return f"{number:,}".replace(",", "\u202f")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.2g}"


def _last_check(row: ServerRow) -> tuple[str, str]:
    """The cell (`L7OK/200 in 3ms`) and what it means."""
    if not row.entry.is_checked:
        return "", ""
    check = row.check
    if check is None:
        return "INI", "Initializing"
    code = check.code if check.status is None else f"{check.code}/{check.status}"
    ago = f"{duration(row.now - check.at)} ago"
    words = ": ".join(filter(None, (check.description, check.info)))
    return f"{code} in {check.duration * 1000:.0f}ms", f"{words} ({ago})"


def _last_session(row: BackendRow | ServerRow, now: float) -> str:
    last = row.counters["lastsess"]
    return duration(now - last) if last else "?"


def _sessions(row: FrontendRow | BackendRow | ServerRow, is_http: bool) -> str:
    """What hides behind the total of sessions."""
    c = row.counters
    text = ""
    if is_http:
        codes = ", ".join(
            f"{code} {_number(c[f'hrsp_{code}'])}" for code in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
        )
        text = f"HTTP requests {_number(c['req_tot'])}; responses {codes}"
    if isinstance(row, FrontendRow):
        return text
    rate = row.rate
    times = ", ".join(
        f"{name} {_milliseconds(average)}/{_milliseconds(c[key] * 1e-6)}"
        for name, average, key in (
            ("queue", rate.queue_time, "qtime_max"),
            ("connect", rate.connect_time, "ctime_max"),
            ("response", rate.response_time, "rtime_max"),
            ("total", rate.total_time, "ttime_max"),
        )
    )
    connections = f"server connections {_number(c['connect'])} new, {_number(c['reuse'])} reused"
    return "; ".join(filter(None, (text, connections, f"average/max ms: {times}")))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("balancer.observe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, octets=_octets, number=_number)
    environment.globals.update(
        last_check=_last_check,
        last_session=_last_session,
        sessions=_sessions,
        sum_lines=routers.sum_lines,
        master=routers.master,
        silence=routers.silence,
        peer=routers.peer,
        script=routers.script,
        trouble=routers.trouble,
    )
    return environment


_TEMPLATE = _environment().get_template("stats.html")


def pieces(snapshot: Snapshot, *, realm: str, refresh: float | None = None) -> Generator[str, None, None]:
    """The page in pieces of some 30 KiB, so that a caller can do other things in between. `refresh` is the period
    of the Refresh header that goes with it, in seconds."""
    states = [server.tone for server in snapshot.servers]
    parts = _TEMPLATE.generate(
        snapshot=snapshot,
        process=snapshot.process,
        realm=realm,
        refresh=max(round(refresh), 1) if refresh is not None else None,
        tones={tone: states.count(tone) for tone in dict.fromkeys(states)},
    )
    while piece := "".join(islice(parts, _PARTS)):
        yield piece


def render(snapshot: Snapshot, *, realm: str, refresh: float | None = None) -> str:
    """The whole page."""
    return "".join(pieces(snapshot, realm=realm, refresh=refresh))
