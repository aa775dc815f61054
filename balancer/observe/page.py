"""The statistics page: HAProxy's table as HTML that loads nothing from anywhere, and its form.

It works without its script, which keeps it up to date (live), draws the last minutes, filters and sorts.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Generator, Sequence
from decimal import ROUND_HALF_UP, Context
from importlib import resources
from itertools import islice
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from balancer.observe import overrides, routers
from balancer.observe.form import ACTIONS, SAID, Form
from balancer.observe.lines import rfc3339_date
from balancer.observe.log import Recent
from balancer.observe.routers import duration
from balancer.observe.snapshot import BackendRow, FrontendRow, ServerRow, Snapshot, Tone
from balancer.observe.trends import Drain

__all__ = [
    "CONTENT_TYPE",
    "POLICY",
    "View",
    "check_words",
    "overruled",
    "pieces",
    "question",
    "render",
    "routers_of",
    "tone_of",
    "top",
]

CONTENT_TYPE = "text/html; charset=utf-8"

_FOLDER = resources.files("balancer.observe").joinpath("templates")
_STYLE = _FOLDER.joinpath("stats.css").read_text("utf-8")
_SCRIPT = _FOLDER.joinpath("stats.js").read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing runs or is loaded but what stands here."""

# Parts of the template put together before they are handed on: some 15 KiB, a few milliseconds of work.
_PARTS = 512
_TWO_DIGITS = Context(prec=2, rounding=ROUND_HALF_UP)
_TONES: dict[str, Tone] = {"OPEN": "up", "FULL": "going-down", "STOP": "down"}


class View(NamedTuple):
    """Who looks at the page, and how."""

    realm: str
    refresh: float | None = None
    """After so many seconds the page asks for itself again, where nothing keeps it up to date."""
    user: str = ""
    token: str | None = None
    """What the form brings along; None: this user may only look."""
    here: str = ""
    """The address of this view."""
    said: str = ""
    """What came of the form before (form.SAID)."""
    source: str | None = None
    """Where news are told (live); None: nowhere, and the page has no script."""
    epoch: str = ""
    """What the page's rows are (live)."""
    drains: Sequence[Drain] = ()
    recent: Sequence[Recent] = ()


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


def _milliseconds(milliseconds: float) -> str:
    """Two digits at least. Halves go up, as the page's script has it (ECMA-262, toFixed and toPrecision)."""
    if milliseconds >= 10:
        return str(math.floor(milliseconds + 0.5))
    return f"{float(_TWO_DIGITS.create_decimal(milliseconds)):g}"


def check_words(row: ServerRow) -> tuple[str, str]:
    """What is said of the last check (`L7OK/200 in 3ms`), and what it means."""
    if not row.entry.is_checked:
        return "", ""
    check = row.check
    if check is None:
        return "INI", "Initializing"
    code = check.code if check.status is None else f"{check.code}/{check.status}"
    return f"{code} in {check.duration * 1000:.0f}ms", ": ".join(filter(None, (check.description, check.info)))


def _last_check(row: ServerRow) -> tuple[str, str]:
    """The cell and its title."""
    cell, words = check_words(row)
    return cell, f"{words} ({duration(row.now - row.check.at)} ago)" if row.check is not None and words else words


def overruled(row: ServerRow) -> str:
    """What operators have made of it, in sentences; empty where it is as the configuration says."""
    return "; ".join(overrides.sentence(each) for each in row.overrides)


def tone_of(row: FrontendRow) -> Tone:
    """What its colour says."""
    return _TONES[row.status]


def top(snapshot: Snapshot) -> list[int]:
    """The numbers on top of the page, in their order."""
    tones = _tones(snapshot)
    down = tones["down"] + tones["going-up"]
    return [
        snapshot.counters["scur"],
        snapshot.process.maxconn,
        snapshot.rate.connections,
        snapshot.rate.connections_max,
        snapshot.request_rate,
        snapshot.requests,
        snapshot.bytes_in_rate,
        snapshot.bytes_out_rate,
        snapshot.bytes_in,
        snapshot.bytes_out,
        sum(tones[tone] for tone in ("up", "going-down", "unchecked")),
        tones.total(),
        down,
        snapshot.counters["log_dropped"],
    ]


def _tones(snapshot: Snapshot) -> Counter[str]:
    return Counter(server.tone for server in snapshot.servers)


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
        f"{name} {_milliseconds(round(average * 1000, 4))}/{_milliseconds(c[key] / 1000)}"
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
    environment.filters.update(duration=duration, octets=_octets, number=_number, date=rfc3339_date)
    environment.globals.update(
        style=Markup(_STYLE),  # noqa: S704  # our own file
        javascript=Markup(_SCRIPT),  # noqa: S704  # our own file
        tone_of=tone_of,
        actions=ACTIONS,
        said=SAID,
        last_check=_last_check,
        last_session=_last_session,
        overruled=overruled,
        sessions=_sessions,
        sum_lines=routers.sum_lines,
        master=routers.master,
        other=routers.other,
        silence=routers.silence,
        peer=routers.peer,
        script=routers.script,
        trouble=routers.trouble,
    )
    return environment


_ENVIRONMENT = _environment()
_TEMPLATE = _ENVIRONMENT.get_template("stats.html")
_ROUTERS = _ENVIRONMENT.get_template("routers.html")
_QUESTION = _ENVIRONMENT.get_template("question.html")


def pieces(snapshot: Snapshot, view: View) -> Generator[str, None, None]:
    """The page in pieces of some 30 KiB, so that a caller can do other things in between."""
    parts = _TEMPLATE.generate(
        snapshot=snapshot,
        process=snapshot.process,
        view=view,
        refresh=max(round(view.refresh), 1) if view.refresh is not None else None,
        top=top(snapshot),
    )
    while piece := "".join(islice(parts, _PARTS)):
        yield piece


def render(snapshot: Snapshot, view: View) -> str:
    """The whole page."""
    return "".join(pieces(snapshot, view))


def routers_of(snapshot: Snapshot) -> str:
    """The part of the page that is about virtual routers."""
    return _ROUTERS.render(snapshot=snapshot)


def question(form: Form, servers: Sequence[tuple[BackendRow, ServerRow]], says: Sequence[str], *, here: str) -> str:
    """A page that asks whether this is meant: `says` tells what comes of it, `here` is the way back."""
    words = ACTIONS.get(form.action, form.action)
    return _QUESTION.render(form=form, servers=servers, says=says, here=here, words=words)
