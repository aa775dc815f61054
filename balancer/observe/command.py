"""The words of the runtime socket: HAProxy's grammar (management manual, section 9.3), as far as it goes, and ours.

A table says which words are which command, and who may give it. What a command says is text for a person; whoever
wants to know whether it was an error asks for `set severity-output number` first, as with HAProxy.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from balancer.config import units
from balancer.observe import columns, info, routers, services, sources, states, steering
from balancer.observe.columns import Selection
from balancer.observe.services import View
from balancer.observe.snapshot import Snapshot
from balancer.observe.steering import Steering, SteeringError
from balancer.pool.routers import RouterFacts, Standing, encode
from balancer.pool.services import Listing, decode
from balancer.pool.sources import Block

__all__ = ["Desk", "KernelAsking", "Level", "Session", "commands", "obey"]

# Seconds that virtual addresses are released for where nothing is said of it.
_RELEASE = 3600.0
# A character that is taken as it is; words of a command; commands of a line.
_SEPARATOR = re.compile(r"((?:\\.|[^\\;])*);?", re.DOTALL)
_WORD = re.compile(r"(?:\\.|[^\\\s])+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Level(IntEnum):
    """What somebody may do. Its names are the configuration's."""

    USER = 1
    OPERATOR = 2
    ADMIN = 3


class KernelAsking(Protocol):
    """Asks the process that writes the kernel's rules for `rules`, `services` or `connections`. Whether there is an
    answer, and it, or why not."""

    async def __call__(self, what: str, *, is_numeric: bool = False) -> tuple[bool, bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What commands know, and can have done."""

    now: Callable[[], float]
    """Unix time."""
    standing: Callable[[], Standing | None] | None = None
    """Where the virtual routers stand, None when that is not known; None: there are none."""
    ask: Callable[[str, str | None, float | None], Awaitable[tuple[bool, Sequence[str]]]] | None = None
    """Gives an order (`release`, `hold`) to whoever speaks VRRP: name or all, seconds. Whether it was done, and lines
    that say what came of it."""
    snapshot: Callable[[], Snapshot] | None = None
    """Everything at this moment."""
    ask_kernel: KernelAsking | None = None
    """None: the kernel has no rules of ours."""
    steer: Steering | None = None
    """Changes servers."""
    clear: Callable[[bool, str], None] | None = None
    """Forgets maxima, or everything that was counted; by whom."""
    descriptors: int = 0
    """How many file descriptors a process may have."""
    tables: Mapping[str, Sequence[Block]] = field(default_factory=dict)
    """What clients have taken, by the name of the frontend that limits it."""


@dataclass(slots=True)
class Session:
    """One who is connected."""

    level: Level
    who: str = "the runtime socket"
    """For the log."""
    timeout: float | None = None
    """Seconds that the one at the prompt may take for a line, if that was set."""
    is_interactive: bool = False
    """Is there a prompt?"""
    severity: str = "none"
    """How it is told that something is an error: none, number or string."""
    is_over: bool = False


class _Said(NamedTuple):
    text: str
    severity: int | None = None
    """syslog's; None for what was asked to be shown."""


_ERROR, _INFO = 3, 6
_SEVERITIES = {_ERROR: "err", _INFO: "info"}
_Run = Callable[[Session, Desk, list[str]], Awaitable[_Said]]


class _Command(NamedTuple):
    usage: str
    """The words of the command, then what may follow in brackets."""
    help: str
    level: Level
    run: _Run

    @property
    def words(self) -> list[str]:
        return re.split(r" [<\[]", self.usage)[0].split()


def commands(line: str) -> list[list[str]]:
    """The words of each command of a line. A backslash takes its special meaning from what follows it."""
    found = []
    for part in _SEPARATOR.findall(line):
        words = [_ESCAPED.sub(r"\1", word) for word in _WORD.findall(part)]
        if words:
            found.append(words)
    return found


async def obey(words: Sequence[str], session: Session, desk: Desk) -> str:
    """Do one command; the answer, in whole lines. It never fails for what was said."""
    command = _find(words)
    if command is None:
        said = _Said(_unknown(words, session.level), _ERROR)
    elif command.level > session.level:
        said = _Said("Permission denied", _ERROR)
    else:
        try:
            said = await command.run(session, desk, list(words[len(command.words) :]))
        except SteeringError as error:
            said = _Said(str(error), _ERROR)
    text = said.text if said.text.endswith("\n") or not said.text else f"{said.text}\n"
    if said.severity is None or session.severity == "none":
        return text
    is_number = session.severity == "number"
    return f"[{said.severity if is_number else _SEVERITIES[said.severity]}]: {text}"


def _find(words: Sequence[str]) -> _Command | None:
    """The one with the most words in common."""
    found = [command for command in _TABLE if list(words[: len(command.words)]) == command.words]
    return max(found, key=lambda command: len(command.words), default=None)


def _unknown(words: Sequence[str], level: Level) -> str:
    if not words:
        return "Unknown command. Please enter one of the following commands only:\n" + _listed([], level)
    better = _listed(words[:1], level)
    if better:
        hint = ", but maybe one of the following ones is a better match:\n"
        return f"Unknown command: '{' '.join(words)}'{hint}{better}"
    return f"Unknown command: '{words[0]}'. Please enter one of the following commands only:\n{_listed([], level)}"


def _listed(words: Sequence[str], level: Level) -> str:
    """A line for each command of that level that begins with these words."""
    return "".join(
        f"  {command.usage:<39} : {command.help}\n"
        for command in _TABLE
        if command.level <= level and command.words[: len(words)] == list(words)
    )


async def _help(session: Session, _: Desk, rest: list[str]) -> _Said:
    found = _listed(rest, session.level) or _listed([], session.level)
    return _Said("The following commands are valid at this level:\n" + found)


async def _prompt(session: Session, _: Desk, __: list[str]) -> _Said:
    session.is_interactive = not session.is_interactive
    return _Said("")


async def _quit(session: Session, _: Desk, __: list[str]) -> _Said:
    session.is_over = True
    return _Said("")


async def _set_severity(session: Session, _: Desk, rest: list[str]) -> _Said:
    if len(rest) != 1 or rest[0] not in ("none", "number", "string"):
        return _Said("one of 'none', 'number', 'string' is a required argument", _ERROR)
    session.severity = rest[0]
    return _Said("")


async def _show_vrrp(_: Session, desk: Desk, rest: list[str]) -> _Said:
    standing = _standing(desk)
    if rest:
        return _Said(f"'show vrrp' has no argument '{rest[0]}'.", _ERROR)
    return standing if isinstance(standing, _Said) else _Said(routers.table(standing, desk.now()))


async def _show_vrrp_json(_: Session, desk: Desk, __: list[str]) -> _Said:
    standing = _standing(desk)
    return standing if isinstance(standing, _Said) else _Said(encode(standing).decode())


async def _show_vrrp_why(_: Session, desk: Desk, rest: list[str]) -> _Said:
    standing = _standing(desk)
    if isinstance(standing, _Said):
        return standing
    found: list[RouterFacts] = []
    names: Sequence[str | None] = rest or [None]
    for name in names:
        more = routers.chosen(standing, name)
        if not more:
            known = ", ".join(_known(standing)) or "none"
            return _Said(f"No such virtual router: '{name}'; there are {known}.", _ERROR)
        found += [each for each in more if each not in found]
    return _Said(routers.why(standing, found, desk.now()))


def _standing(desk: Desk) -> Standing | _Said:
    if desk.standing is None:
        return _Said("There are no virtual routers (vrrp.instances).", _ERROR)
    return desk.standing() or _Said("Nothing is known of the virtual routers yet.", _ERROR)


def _known(standing: Standing) -> Iterator[str]:
    yield from (each.name for each in standing.routers)
    yield from dict.fromkeys(each.group for each in standing.routers if each.group)


async def _release(_: Session, desk: Desk, rest: list[str]) -> _Said:
    seconds = _RELEASE
    if "for" in rest[:2]:
        at = rest.index("for")
        try:
            (text,) = rest[at + 1 :]
            seconds = units.duration(text)
        except ValueError:
            return _Said("'for' wants a duration, such as 30m or 1h.", _ERROR)
        rest = rest[:at]
    return await _order(desk, "release", rest, seconds)


async def _hold(_: Session, desk: Desk, rest: list[str]) -> _Said:
    return await _order(desk, "hold", rest, None)


async def _order(desk: Desk, order: str, rest: list[str], seconds: float | None) -> _Said:
    if desk.ask is None:
        return _Said("There are no virtual routers (vrrp.instances).", _ERROR)
    if len(rest) > 1:
        return _Said(f"'vrrp {order}' wants one name, or none.", _ERROR)
    is_done, lines = await desk.ask(order, rest[0] if rest else None, seconds)
    # Several lines under one severity; an empty one would end the answer.
    return _Said("\n".join(filter(None, lines)), _INFO if is_done else _ERROR)


async def _show_cache(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if rest:
        return _Said(f"'show cache' has no argument '{rest[0]}'.", _ERROR)
    backends = desk.snapshot().backends if desk.snapshot is not None else ()
    lines = []
    for row in backends:
        if row.entry.cache_size:
            have = row.counters
            lines.append(
                f"{row.name}: {have['cache_objects']} objects, "
                f"{have['cache_octets']} of {row.entry.cache_size} octets, "
                f"{have['cache_lookups']} lookups, {have['cache_hits']} hits\n"
            )
    return _Said("".join(lines)) if lines else _Said("No backend has a cache.", _ERROR)


_NO_RULES = "The kernel has no rules of ours: there is no frontend of engine kernel, and no gateway.masquerade."


async def _show_kernel(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if rest:
        return _Said(f"'show kernel' has no argument '{rest[0]}'.", _ERROR)
    return await _of_kernel(desk, "rules")


async def _show_connections(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if rest not in ([], ["numeric"]):
        return _Said("'show kernel connections' has no argument but 'numeric'.", _ERROR)
    return await _of_kernel(desk, "connections", is_numeric=bool(rest))


async def _of_kernel(desk: Desk, what: str, *, is_numeric: bool = False) -> _Said:
    if desk.ask_kernel is None:
        return _Said(_NO_RULES, _ERROR)
    is_good, octets = await desk.ask_kernel(what, is_numeric=is_numeric)
    return _Said(octets.decode("utf-8", "replace"), None if is_good else _ERROR)


async def _show_table(_: Session, desk: Desk, rest: list[str]) -> _Said:
    names = rest[:1] or list(desk.tables)
    if rest and rest[0] not in desk.tables:
        known = ", ".join(desk.tables) or "none: no frontend has `limits`"
        return _Said(f"No such table: '{rest[0]}'; there are {known}.", _ERROR)
    try:
        wanted = sources.wanted(rest[1:])
    except ValueError as error:
        return _Said(str(error), _ERROR)
    found = [await sources.table(name, desk.tables[name], wanted, with_rows=bool(rest)) for name in names]
    return _Said("".join(found))


def _table_of(view: View) -> _Run:
    async def run(_: Session, desk: Desk, rest: list[str]) -> _Said:
        if rest not in ([], ["numeric"]):
            return _Said(f"'show kernel {view}' has no argument but 'numeric'.", _ERROR)
        listing = Listing()
        if desk.ask_kernel is not None:
            is_good, octets = await desk.ask_kernel("services")
            try:
                listing = decode(octets) if is_good else listing
            except ValueError:
                is_good, octets = False, b"The kernel process cannot be understood."
            if not is_good:
                return _Said(octets.decode("utf-8", "replace"), _ERROR)
        if desk.snapshot is not None:
            listing = listing._replace(services=listing.services + services.proxied(desk.snapshot()))
        return _Said(services.table(listing, view=view, is_numeric=bool(rest)))

    return run


# Servers and statistics


def _snapshot(desk: Desk) -> Snapshot:
    if desk.snapshot is None:
        raise SteeringError("Nothing is known of servers here.")
    return desk.snapshot()


async def _show_info(_: Session, desk: Desk, rest: list[str]) -> _Said:
    write = info.typed if "typed" in rest else info.json_ if "json" in rest else info.plain
    return _Said(write(_snapshot(desk), desk.descriptors))


async def _show_stat(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if rest[:1] == ["domain"]:
        rest = rest[2:]
    snapshot = _snapshot(desk)
    selection = Selection(hides_down="up" in rest, hides_maint="no-maint" in rest)
    if len(rest) >= 3 and rest[0] not in _FORMATS:
        try:
            kinds, sid = int(rest[1]), int(rest[2])
        except ValueError:
            return _Said("'show stat' wants a proxy, the sum of 1, 2 and 4 for kinds of rows, and a server.", _ERROR)
        selection = selection._replace(kinds=kinds, sid=sid)
        if rest[0] in {row.name for rows in (snapshot.frontends, snapshot.backends) for row in rows}:
            selection = selection._replace(proxy=rest[0])
        elif re.fullmatch("-1|[0-9]{1,9}", rest[0]):
            selection = selection._replace(iid=int(rest[0]))
        else:
            return _Said("No such proxy.", _ERROR)
    write = columns.typed if "typed" in rest else columns.json_ if "json" in rest else columns.csv
    # Thousands of rows take a while; others have their turn in between.
    said = []
    for piece in write(columns.selected(snapshot, selection)):
        said.append(piece)
        if len(said) % _ROWS == 0:
            await asyncio.sleep(0)
    return _Said("".join(said))


_FORMATS = frozenset(("typed", "json", "desc", "up", "no-maint"))
# Rows between two turns of the loop: a few milliseconds.
_ROWS = 64


def _of_servers(write: Callable[[Snapshot, str | None], str]) -> _Run:
    async def run(_: Session, desk: Desk, rest: list[str]) -> _Said:
        snapshot = _snapshot(desk)
        if rest and all(row.name != rest[0] for row in snapshot.backends):
            return _Said("Can't find backend.", _ERROR)
        return _Said(write(snapshot, rest[0] if rest else None))

    return run


async def _show_backend(_: Session, desk: Desk, __: list[str]) -> _Said:
    return _Said(states.backends(_snapshot(desk)))


async def _show_version(_: Session, desk: Desk, __: list[str]) -> _Said:
    return _Said(_snapshot(desk).process.version)


async def _get_weight(_: Session, desk: Desk, rest: list[str]) -> _Said:
    return _Said(steering.weight_of(steering.found(rest, _snapshot(desk))))


def _steers(*words: str) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        if desk.steer is None:
            return _Said("Nobody here changes servers.", _ERROR)
        desk.steer(steering.parse([*words, *rest], _snapshot(desk)), session.who)
        return _Said("")

    return run


def _clears(*, everything: bool) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        if desk.clear is None or rest:
            return _Said("'clear counters' has no argument but 'all'.", _ERROR)
        desk.clear(everything, session.who)
        return _Said("")

    return run


async def _set_timeout(session: Session, _: Desk, rest: list[str]) -> _Said:
    if rest[:1] != ["cli"]:
        return _Said("'set timeout' only supports 'cli'.", _ERROR)
    try:
        (text,) = rest[1:]
        seconds = float(text) if text.isdecimal() else units.duration(text)
    except ValueError:
        return _Said("Expects an integer value.", _ERROR)
    session.timeout = min(max(seconds, 1.0), _LONGEST_TIMEOUT)
    return _Said("")


_LONGEST_TIMEOUT = 86400.0

_TABLE = (
    _Command("show info [typed|json]", "report information about the running process", Level.USER, _show_info),
    _Command("show stat [<filter>]*", "report counters for each proxy and server", Level.USER, _show_stat),
    _Command(
        "show servers state [<backend>]", "dump volatile server information", Level.USER, _of_servers(states.state)
    ),
    _Command(
        "show servers conn [<backend>]", "dump server connections status", Level.USER, _of_servers(states.connections)
    ),
    _Command("show backend", "list backends in the current running config", Level.USER, _show_backend),
    _Command("show version", "show version of the current process", Level.USER, _show_version),
    _Command("clear counters", "clear max statistics counters", Level.OPERATOR, _clears(everything=False)),
    _Command("clear counters all", "clear all counters", Level.ADMIN, _clears(everything=True)),
    _Command("get weight <bk>/<srv>", "report a server's current weight", Level.USER, _get_weight),
    _Command(
        "set server <bk>/<srv> [opts]",
        "change a server's state, health or weight",
        Level.ADMIN,
        _steers("set", "server"),
    ),
    _Command("set weight <bk>/<srv>", "change a server's weight", Level.ADMIN, _steers("set", "weight")),
    _Command("set timeout [cli] <delay>", "change a timeout setting", Level.USER, _set_timeout),
    _Command("enable server <bk>/<srv>", "end a server's maintenance", Level.ADMIN, _steers("enable", "server")),
    _Command("disable server <bk>/<srv>", "put a server into maintenance", Level.ADMIN, _steers("disable", "server")),
    _Command("enable health <bk>/<srv>", "enable health checks", Level.ADMIN, _steers("enable", "health")),
    _Command("disable health <bk>/<srv>", "disable health checks", Level.ADMIN, _steers("disable", "health")),
    _Command(
        "shutdown sessions server <bk>/<srv>",
        "kill sessions on a server",
        Level.ADMIN,
        _steers("shutdown", "sessions", "server"),
    ),
    _Command("show vrrp", "where the virtual routers stand", Level.USER, _show_vrrp),
    _Command("show vrrp json", "the same, with all that is known, as JSON", Level.USER, _show_vrrp_json),
    _Command("show vrrp why [<name>]*", "the sum that gives each priority", Level.USER, _show_vrrp_why),
    _Command("show cache", "what the caches hold, and how often that was of use", Level.USER, _show_cache),
    _Command("show kernel", "the rules as the kernel has them", Level.USER, _show_kernel),
    _Command("show kernel status [numeric]", "services and servers, as of ipvsadm -L", Level.USER, _table_of("status")),
    _Command("show kernel stats [numeric]", "what they have carried, as of ipvsadm", Level.USER, _table_of("stats")),
    _Command("show kernel rate [numeric]", "what they carry a second, as of ipvsadm", Level.USER, _table_of("rate")),
    _Command("show kernel connections [numeric]", "the connections, as of ipvsadm -Lc", Level.USER, _show_connections),
    _Command(
        "show table [<name> [<filter>]]",
        "what clients take of frontends with limits (filter: key <address> | data.<type> <op> <number>)",
        Level.USER,
        _show_table,
    ),
    _Command(
        "vrrp release [<name>] [for <duration>]", "leave addresses to other directors, for 1h", Level.OPERATOR, _release
    ),
    _Command("vrrp hold [<name>]", "take part again after a release", Level.OPERATOR, _hold),
    _Command(
        "set severity-output [none|number|string]",
        "set presence of severity level in feedback",
        Level.USER,
        _set_severity,
    ),
    _Command("help [<command>]", "list matching or all commands", Level.USER, _help),
    _Command("prompt", "toggle interactive mode with prompt", Level.USER, _prompt),
    _Command("quit", "disconnect", Level.USER, _quit),
)
