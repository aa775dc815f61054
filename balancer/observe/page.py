"""The statistics page: HAProxy's table as HTML that needs no script and loads nothing from anywhere, and its form."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Sequence
from importlib import resources
from itertools import islice
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from balancer.observe import routers
from balancer.observe.form import ACTIONS, SAID, Form
from balancer.observe.routers import duration
from balancer.observe.snapshot import BackendRow, FrontendRow, ServerRow, Snapshot

__all__ = ["CONTENT_TYPE", "POLICY", "View", "pieces", "question", "render"]

CONTENT_TYPE = "text/html; charset=utf-8"

_STYLE = resources.files("balancer.observe").joinpath("templates/stats.css").read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing runs or is loaded but what stands here."""

# Parts of the template put together before they are handed on: some 30 KiB, a few milliseconds of work.
_PARTS = 1024


class View(NamedTuple):
    """Who looks at the page, and how."""

    realm: str
    refresh: float | None = None
    """The period in seconds of the Refresh header that goes with it."""
    user: str = ""
    token: str | None = None
    """What the form brings along; None: this user may only look."""
    here: str = ""
    """The address of this view."""
    said: str = ""
    """What came of the form before (form.SAID)."""


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
        style=Markup(_STYLE),  # noqa: S704  # our own file
        actions=ACTIONS,
        said=SAID,
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


_ENVIRONMENT = _environment()
_TEMPLATE = _ENVIRONMENT.get_template("stats.html")
_QUESTION = _ENVIRONMENT.get_template("question.html")


def pieces(snapshot: Snapshot, view: View) -> Generator[str, None, None]:
    """The page in pieces of some 30 KiB, so that a caller can do other things in between."""
    states = [server.tone for server in snapshot.servers]
    parts = _TEMPLATE.generate(
        snapshot=snapshot,
        process=snapshot.process,
        view=view,
        refresh=max(round(view.refresh), 1) if view.refresh is not None else None,
        tones={tone: states.count(tone) for tone in dict.fromkeys(states)},
    )
    while piece := "".join(islice(parts, _PARTS)):
        yield piece


def render(snapshot: Snapshot, view: View) -> str:
    """The whole page."""
    return "".join(pieces(snapshot, view))


def question(form: Form, servers: Sequence[tuple[BackendRow, ServerRow]], says: Sequence[str], *, here: str) -> str:
    """A page that asks whether this is meant: `says` tells what comes of it, `here` is the way back."""
    words = ACTIONS.get(form.action, form.action)
    return _QUESTION.render(form=form, servers=servers, says=says, here=here, words=words)
