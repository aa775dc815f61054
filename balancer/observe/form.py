"""What the statistics page's form asks for, in HAProxy's words (src/stats.c, stats_process_http_post).

`s` is a server, and stands there once for each; `b` its backend, by name or `#` and number; `action` what is to become
of them. Of `b` and `action` the last one counts. Our own page sends `s=backend/server` instead, and no `b`, so that
servers of several backends can be meant, the action `weight` with `weight=5` or `50%`, and `token`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import parse_qsl

from balancer.observe import steering
from balancer.observe.columns import FIRST_ID
from balancer.observe.snapshot import BackendRow, ServerRow, Snapshot
from balancer.observe.steering import Change, SteeringError
from balancer.pool.orders import Admin

__all__ = ["ACTIONS", "SAID", "Form", "Found", "code", "found", "warnings"]

# Of each server of a large page, and some more.
_MOST_FIELDS = 20_000
# HAProxy's actions, ours, and what they are at the runtime socket; None: what we have not, and nothing alters.
_COMMANDS: dict[str, str | None] = {
    "ready": "set server {} state ready",
    "drain": "set server {} state drain",
    "maint": "set server {} state maint",
    "enable": "enable server {}",
    "disable": "disable server {}",
    "stop": "set server {} state drain",
    "start": "set server {} state ready",
    "weight": "set weight {} {weight}",
    "ehlth": "enable health {}",
    "dhlth": "disable health {}",
    "hrunn": "set server {} health up",
    "hdown": "set server {} health down",
    "shutdown": "shutdown sessions server {}",
    "hnolb": None,
    "dagent": None,
    "eagent": None,
    "arunn": None,
    "adown": None,
}
ACTIONS = {
    "ready": "ready",
    "drain": "drain: nothing new but clients that hold its cookie",
    "maint": "maintenance: nothing new, no checks",
    "weight": "weight …",
    "hrunn": "health: up",
    "hdown": "health: down",
    "ehlth": "checks: on",
    "dhlth": "checks: off",
    "shutdown": "kill sessions",
}
"""What the page offers, and its words for it."""
SAID = {
    "DONE": (True, "Done."),
    "PART": (False, "Done for some of the servers only: the others are not there, or it makes no sense for them."),
    "NONE": (False, "No server was chosen."),
    "ERRP": (False, "Nothing was changed: there is no such action or server, or a value makes no sense."),
    "DENY": (False, "You may not change servers here, or the page was too old: try again."),
}
"""By the code behind `;st=`: whether all is well, and what is to be said."""


class Form(NamedTuple):
    """What was sent."""

    action: str
    servers: tuple[str, ...]
    backend: str | None
    weight: str
    token: str | None
    is_confirmed: bool

    @staticmethod
    def of(body: bytes) -> Form:
        """ValueError where it has too many fields."""
        fields = parse_qsl(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="replace"
        )
        last = dict(fields)
        return Form(
            action=last.get("action", "").strip().lower(),
            servers=tuple(dict.fromkeys(value for name, value in fields if name == "s")),
            backend=last.get("b"),
            weight=last.get("weight", "").strip(),
            token=last.get("token"),
            is_confirmed="confirm" in last,
        )


class Found(NamedTuple):
    """A server that was named, and what is to become of it."""

    backend: BackendRow
    server: ServerRow
    change: Change


def found(form: Form, snapshot: Snapshot) -> Iterator[Found]:
    """Whom it is about. Left out are those who are not there, and those for whom it makes no sense."""
    command = _COMMANDS.get(form.action)
    if command is None:
        return
    for backend, server in _servers(form, snapshot):
        if form.action == "start" and server.state.admin is not Admin.DRAIN:
            continue
        # The grammar looks for a name in all that it is given.
        alone = snapshot._replace(backends=(backend._replace(servers=(server,)),))
        words = [word.format(f"{backend.name}/{server.name}", weight=form.weight) for word in command.split()]
        try:
            yield Found(backend, server, steering.parse(words, alone))
        except SteeringError:
            continue


def _servers(form: Form, snapshot: Snapshot) -> Iterator[tuple[BackendRow, ServerRow]]:
    backends = {backend.name: backend for backend in snapshot.backends}
    if form.backend is not None:
        backend = _backend(form.backend, snapshot, backends)
        if backend is not None:
            named = {server.name: server for server in backend.servers}
            yield from ((backend, named[name]) for name in form.servers if name in named)
        return
    servers: dict[str, dict[str, ServerRow]] = {}
    for full in form.servers:
        name, _, own = full.partition("/")
        backend = backends.get(name)
        if backend is None:
            continue
        if name not in servers:
            servers[name] = {server.name: server for server in backend.servers}
        if own in servers[name]:
            yield backend, servers[name][own]


def _backend(text: str, snapshot: Snapshot, backends: dict[str, BackendRow]) -> BackendRow | None:
    if text.startswith("#"):
        number = text[1:]
        place = int(number) - FIRST_ID - len(snapshot.frontends) if number.isascii() and number.isdigit() else -1
        return snapshot.backends[place] if 0 <= place < len(snapshot.backends) else None
    return backends.get(text)


def code(form: Form, changed: int) -> str:
    """What `;st=` says when so many servers were changed."""
    if not form.servers:
        return "NONE"
    return "ERRP" if not changed else "DONE" if changed == len(form.servers) else "PART"


def warnings(form: Form, targets: Iterable[Found]) -> list[str]:
    """Why this had better be asked for twice: it ends connections, or leaves a backend without a server."""
    sessions = 0
    named: dict[str, tuple[BackendRow, set[str]]] = {}
    says = []
    for backend, server, change in targets:
        is_out = change.admin in (Admin.DRAIN, Admin.MAINT) or change.weight == 0 or form.action == "hdown"
        if change.shuts:
            sessions += server.counters["scur"]
        if is_out:
            named.setdefault(backend.name, (backend, set()))[1].add(server.name)
    if form.action == "shutdown":
        says.append(f"This ends {sessions} session{' that goes' if sessions == 1 else 's that go'} on now.")
    for name, (backend, gone) in named.items():
        if backend.status == "UP" and not any(_serves(row) for row in backend.servers if row.name not in gone):
            says.append(f"This leaves the backend {name} without a server for new clients.")
    return says


def _serves(row: ServerRow) -> bool:
    return row.state.is_usable or row.state.is_unchecked
