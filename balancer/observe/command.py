"""The words of the runtime socket: HAProxy's grammar (management manual, section 9.3), as far as it goes, and ours.

A table says which words are which command, and who may give it. What a command says is text for a person; whoever
wants to know whether it was an error asks for `set severity-output number` first, as with HAProxy.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from balancer.config import units
from balancer.observe import (
    cli,
    columns,
    events,
    info,
    overrides,
    reloading,
    resolvers,
    routers,
    servers,
    services,
    sources,
    states,
    steering,
    traffic,
)
from balancer.observe.answer import ERROR as _ERROR
from balancer.observe.answer import INFO as _INFO
from balancer.observe.answer import Said as _Said
from balancer.observe.bounds import Bound, Door, Move
from balancer.observe.columns import Selection
from balancer.observe.servers import SuccessionError
from balancer.observe.services import View
from balancer.observe.sessions import Asked
from balancer.observe.snapshot import Snapshot
from balancer.observe.steering import Steering, SteeringError
from balancer.pool.journal import Batch
from balancer.pool.overrides import Kind, Override, Target, named
from balancer.pool.routers import RouterFacts, Standing, encode
from balancer.pool.services import Listing, decode
from balancer.pool.sources import Block

__all__ = ["Desk", "KernelAsking", "Level", "Session", "commands", "obey", "told"]

_MOST_LONG = 2
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
    started: float = 0.0
    """When the daemon was: Unix time."""
    sockets: Sequence[tuple[str, str]] = ()
    """Where commands are taken: path and level."""
    standing: Callable[[], Standing | None] | None = None
    """Where the virtual routers stand, None when that is not known; None: there are none."""
    ask: Callable[[str, str | None, float | None], Awaitable[tuple[bool, Sequence[str]]]] | None = None
    """Gives an order (`release`, `hold`) to whoever speaks VRRP: name or all, seconds. Whether it was done, and lines
    that say what came of it."""
    snapshot: Callable[[], Snapshot] | None = None
    """Everything at this moment."""
    picture: Callable[[], Awaitable[Snapshot]] | None = None
    """The same; others have their turn in between."""
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_LONG))
    """Held while a long answer is made: so many at a time, whoever asks little is not kept waiting by them."""
    glance: Callable[[str, str], Snapshot] | None = None
    """The same of one server, by its backend's name and its own; who is not there is left out."""
    ask_kernel: KernelAsking | None = None
    """None: the kernel has no rules of ours."""
    steer: Steering | None = None
    """Changes servers."""
    build: Callable[[servers.Order, str], Awaitable[None]] | None = None
    """Adds, deletes and moves servers. SteeringError, SuccessionError."""
    settle: Callable[[], Awaitable[None]] | None = None
    """Until that has been done."""
    reload: reloading.Asking | None = None
    """Has the configuration read again, or looked at."""
    forget: Callable[[Target, Collection[Kind] | None, str], Sequence[Override]] | None = None
    """Makes it as the configuration says again: of whom, what (None: all), and by whom. What was not."""
    overrides: Callable[[], Sequence[Override]] | None = None
    """What is not as the configuration says."""
    bound: Callable[[Bound, str], Awaitable[None]] | None = None
    """Sets a limit; by whom."""
    move: Callable[[Move, str], None] | None = None
    """Opens or closes a frontend; by whom."""
    sessions: Callable[[Asked], AsyncIterator[str]] | None = None
    """What goes on at the moment, over all workers."""
    shut: Callable[[int, str], Awaitable[bool]] | None = None
    """Ends a session; by whom. Whether there was one."""
    errors: Callable[[str | None, str | None], AsyncIterator[str]] | None = None
    """The last messages that were refused: of a proxy (a name, or its number), of a side (`request`, `response`)."""
    clear: Callable[[bool, str], None] | None = None
    """Forgets maxima, or everything that was counted; by whom."""
    descriptors: int = 0
    """How many file descriptors a process may have."""
    events: Callable[[str], Batch] | None = None
    """What happened since a cursor."""
    note: Callable[[str], None] | None = None
    """Has the log say what was done, and by whom."""
    tables: Mapping[str, Sequence[Block]] = field(default_factory=dict)
    """What clients have taken, by the name of the frontend that limits it."""

    async def look(self) -> Snapshot:
        """Everything at this moment. SteeringError where nothing is known."""
        return await self.picture() if self.picture is not None else self.look_at_once()

    def look_at_once(self) -> Snapshot:
        """As `look`; nobody has their turn in between."""
        if self.snapshot is None:
            raise SteeringError("Nothing is known of servers here.")
        return self.snapshot()

    @property
    def has_servers(self) -> bool:
        """Whether anything is known."""
        return self.picture is not None or self.snapshot is not None


@dataclass(slots=True)
class Session:
    """One who is connected."""

    level: Level
    who: str = "the runtime socket"
    """For the log."""
    timeout: float | None = None
    """Seconds that the one at the prompt may take for a line, if that was set."""
    is_interactive: bool = False
    """Does it go on after a line?"""
    has_prompt: bool = False
    tells_time: bool = False
    """In the prompt: for how long it has been running."""
    severity: str = "none"
    """How it is told that something is an error: none, number or string."""
    is_over: bool = False
    is_gone: Callable[[], bool] = bool
    """Is nobody there any more who would hear the answer?"""


_WARNING = 4
_SEVERITIES = {_ERROR: "err", _WARNING: "warning", _INFO: "info"}
_Run = Callable[[Session, Desk, list[str]], Awaitable[_Said]]


class _Command(NamedTuple):
    usage: str
    """The words of the command, then what may follow in brackets."""
    help: str
    level: Level
    run: _Run

    @property
    def words(self) -> list[str]:
        return re.split(r" [<\[{]", self.usage)[0].split()


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
    return "".join([piece async for piece in told(words, session, desk)])


async def told(words: Sequence[str], session: Session, desk: Desk) -> AsyncGenerator[str, None]:
    """The same, piece by piece. SuccessionError where another process is to say what it has for an argument."""
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
    yield _labelled(said, session)
    if said.more is not None:
        async for piece in said.more:
            yield piece


def _labelled(said: _Said, session: Session) -> str:
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
    better = _matching(words[:1], level)
    if better:
        hint = ", but maybe one of the following ones is a better match:\n"
        return f"Unknown command: '{' '.join(words)}'{hint}" + _lines([*better, *_always(better)])
    return f"Unknown command: '{words[0]}'. Please enter one of the following commands only:\n{_listed([], level)}"


def _listed(words: Sequence[str], level: Level) -> str:
    """A line for each command of that level whose words begin so, and those that always help; all where none does."""
    found = _matching(words, level) or _matching([], level)
    return _lines([*found, *_always(found)])


def _matching(words: Sequence[str], level: Level) -> list[_Command]:
    """Those of which each word begins as the one given; words beyond them are arguments."""
    return [
        command
        for command in _TABLE
        if command.level <= level
        and all(word.startswith(given) for word, given in zip(command.words, words, strict=False))
    ]


def _always(found: Sequence[_Command]) -> list[_Command]:
    return [command for command in _TABLE[-_ALWAYS:] if command not in found]


def _lines(found: Sequence[_Command]) -> str:
    return "".join(f"  {command.usage:<39} : {command.help}\n" for command in found)


# At the end of the table: help, prompt, quit.
_ALWAYS = 3


async def _help(session: Session, _: Desk, rest: list[str]) -> _Said:
    return _Said("The following commands are valid at this level:\n" + _listed(rest, session.level))


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
    backends = (await desk.look()).backends if desk.has_servers else ()
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


async def _show_resolvers(_: Session, desk: Desk, rest: list[str]) -> _Said:
    found = (await desk.look()).resolvers if desk.has_servers else {}
    if rest[:1] and rest[0] not in found:
        return _Said("Can't find that resolvers section", _ERROR)
    lines = resolvers.told({name: found[name] for name in rest[:1] or found})
    return _Said("".join(lines) or "no resolvers\n")


async def _show_events(_: Session, desk: Desk, rest: list[str]) -> _Said:
    try:
        asked = events.question(rest, desk.now())
    except ValueError as error:
        return _Said(str(error), _ERROR)
    return _Said(events.answer(asked, desk.events) if desk.events is not None else "")


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
        return _no_table(desk, rest[0])
    try:
        wanted = sources.wanted(rest[1:])
    except ValueError as error:
        return _Said(str(error), _ERROR)
    found = [await sources.table(name, desk.tables[name], wanted, with_rows=bool(rest)) for name in names]
    return _Said("".join(found))


async def _clear_table(session: Session, desk: Desk, rest: list[str]) -> _Said:
    if not rest:
        return _Said("'clear table' wants the name of a table, and maybe a filter.", _ERROR)
    if rest[0] not in desk.tables:
        return _no_table(desk, rest[0])
    try:
        wanted = sources.wanted(rest[1:])
    except ValueError as error:
        return _Said(str(error), _ERROR)
    count = await sources.clear(desk.tables[rest[0]], wanted)
    if desk.note is not None:
        desk.note(f"{session.who}: clear table {' '.join(rest)}: {count} forgotten")
    return _Said("")


def _no_table(desk: Desk, name: str) -> _Said:
    known = ", ".join(desk.tables) or "none: no frontend has `limits`"
    return _Said(f"No such table: '{name}'; there are {known}.", _ERROR)


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
        if desk.has_servers:
            listing = listing._replace(services=listing.services + services.proxied(await desk.look()))
        return _Said(services.table(listing, view=view, is_numeric=bool(rest)))

    return run


# Servers and statistics


def _glance(desk: Desk, rest: Sequence[str]) -> Snapshot:
    """With the server that is named, if that is enough: somebody may name thousands, one after the other."""
    backend, _, server = (rest[0] if rest else "").partition("/")
    return desk.glance(backend, server) if desk.glance is not None else desk.look_at_once()


async def _show_info(_: Session, desk: Desk, rest: list[str]) -> _Said:
    write = info.typed if "typed" in rest else info.json_ if "json" in rest else info.plain
    return _Said(write(await desk.look(), desk.descriptors))


async def _show_stat(_: Session, desk: Desk, rest: list[str]) -> _Said:
    async with desk.turn:
        return await _stat(desk, rest)


async def _stat(desk: Desk, rest: list[str]) -> _Said:
    if rest[:1] == ["domain"]:
        rest = rest[2:]
    snapshot = await desk.look()
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
        snapshot = await desk.look()
        if rest and all(row.name != rest[0] for row in snapshot.backends):
            return _Said("Can't find backend.", _ERROR)
        return _Said(write(snapshot, rest[0] if rest else None))

    return run


async def _show_backend(_: Session, desk: Desk, __: list[str]) -> _Said:
    return _Said(states.backends(await desk.look()))


async def _show_version(_: Session, desk: Desk, __: list[str]) -> _Said:
    return _Said((await desk.look()).process.version)


async def _get_weight(_: Session, desk: Desk, rest: list[str]) -> _Said:
    return _Said(steering.weight_of(steering.found(rest, _glance(desk, rest))))


def _steers(*words: str) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        if rest[1:2] in (["addr"], ["fqdn"]):
            return await _build([*words, *rest], session, desk)
        if desk.steer is None:
            return _Said("Nobody here changes servers.", _ERROR)
        desk.steer(steering.parse([*words, *rest], _glance(desk, rest)), session.who)
        return _Said("")

    return run


def _builds(*words: str) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        return await _build([*words, *rest], session, desk)

    return run


async def _build(words: list[str], session: Session, desk: Desk) -> _Said:
    if desk.build is None:
        return _Said("Nobody here changes servers.", _ERROR)
    order = servers.parse(words, await desk.look())
    severity = _WARNING if order.address is not None else _INFO
    try:
        if not order.is_nothing:
            await desk.build(order, session.who)
    except SuccessionError:
        raise SuccessionError(_labelled(_Said(order.said, severity), session)) from None
    return _Said(order.said, severity)


async def _show_overrides(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if rest not in ([], ["json"]):
        return _Said("'show overrides' has no argument but 'json'.", _ERROR)
    found = desk.overrides() if desk.overrides is not None else ()
    snapshot = await desk.look() if desk.has_servers else None
    return _Said(overrides.json_(found, snapshot) if rest else overrides.table(found, snapshot, desk.now()))


async def _clear_override(session: Session, desk: Desk, rest: list[str]) -> _Said:
    if desk.forget is None or desk.overrides is None or not rest:
        return _Said("'clear override' wants <backend>/<server>, and one of its overrides or none.", _ERROR)
    words = 2 if rest[0] == "frontend" else 1
    what, kinds = " ".join(rest[:words]), rest[words:]
    # Of a server that is not in the configuration any more, too.
    its = [each for each in desk.overrides() if named(each.target) == what and (not kinds or each.kind in kinds)]
    if not its:
        if "/" in what and not kinds:
            steering.found([what], await desk.look())
        return _Said(f"There is no such override of {what}; 'show overrides' lists them.", _ERROR)
    desk.forget(its[0].target, tuple(each.kind for each in its), session.who)
    if desk.settle is not None:
        await desk.settle()
    return _Said("")


def _clears(*, everything: bool) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        if desk.clear is None or rest:
            return _Said("'clear counters' has no argument but 'all'.", _ERROR)
        desk.clear(everything, session.who)
        return _Said("")

    return run


_TABLE = (
    _Command("show info [typed|json]", "report information about the running process", Level.USER, _show_info),
    _Command("show stat [<filter>]*", "report counters for each proxy and server", Level.USER, _show_stat),
    _Command(
        "show servers state [<backend>]", "dump volatile server information", Level.USER, _of_servers(states.state)
    ),
    _Command(
        "show servers conn [<backend>]", "dump server connections status", Level.USER, _of_servers(states.connections)
    ),
    _Command(
        "show resolvers [id]",
        "dumps counters from all resolvers section and associated name servers",
        Level.USER,
        _show_resolvers,
    ),
    _Command("show backend", "list backends in the current running config", Level.USER, _show_backend),
    _Command("show version", "show version of the current process", Level.USER, _show_version),
    _Command("clear counters", "clear max statistics counters", Level.OPERATOR, _clears(everything=False)),
    _Command("clear counters all", "clear all counters", Level.ADMIN, _clears(everything=True)),
    _Command(
        "show overrides [json]", "what operators have changed, by whom, why, until when", Level.USER, _show_overrides
    ),
    _Command("clear override <bk>/<srv> [<what>]*", "make it as the configuration says", Level.ADMIN, _clear_override),
    _Command("get weight <bk>/<srv>", "report a server's current weight", Level.USER, _get_weight),
    _Command(
        "set server <bk>/<srv> [opts]",
        "change a server's state, health, weight or address",
        Level.ADMIN,
        _steers("set", "server"),
    ),
    _Command(
        "add server <bk>/<srv> <addr>", "create a new server, in maintenance", Level.ADMIN, _builds("add", "server")
    ),
    _Command("del server <bk>/<srv>", "remove a server in maintenance", Level.ADMIN, _builds("del", "server")),
    _Command("set weight <bk>/<srv>", "change a server's weight", Level.ADMIN, _steers("set", "weight")),
    _Command("set timeout [cli] <delay>", "change a timeout setting", Level.USER, cli.set_timeout),
    _Command("enable server <bk>/<srv>", "end a server's maintenance", Level.ADMIN, _steers("enable", "server")),
    _Command("disable server <bk>/<srv>", "put a server into maintenance", Level.ADMIN, _steers("disable", "server")),
    _Command("enable health <bk>/<srv>", "enable health checks", Level.ADMIN, _steers("enable", "health")),
    _Command("disable health <bk>/<srv>", "disable health checks", Level.ADMIN, _steers("disable", "health")),
    _Command(
        "show errors [<px>] [request|response]",
        "report last request and/or response errors for each proxy",
        Level.OPERATOR,
        traffic.show_errors,
    ),
    _Command(
        "set maxconn frontend <frontend> <value>",
        "change a frontend's maxconn setting",
        Level.ADMIN,
        traffic.sets_maxconn("frontend"),
    ),
    _Command(
        "set maxconn global <value>", "change the maxconn of all together", Level.ADMIN, traffic.sets_maxconn("global")
    ),
    _Command(
        "set maxconn server <bk>/<srv>",
        "change a server's maxconn setting",
        Level.ADMIN,
        traffic.sets_maxconn("server"),
    ),
    _Command("enable frontend <frontend>", "re-enable specific frontend", Level.ADMIN, traffic.moves(Door.OPEN)),
    _Command(
        "disable frontend <frontend>", "temporarily disable specific frontend", Level.ADMIN, traffic.moves(Door.PAUSED)
    ),
    _Command("shutdown frontend <frontend>", "stop a specific frontend", Level.ADMIN, traffic.moves(Door.SHUT)),
    _Command("show sess [<id>|all] [<filter>]*", "report current sessions, or one", Level.OPERATOR, traffic.show_sess),
    _Command("shutdown session [id]", "kill a specific session", Level.ADMIN, traffic.shutdown_session),
    _Command(
        "shutdown sessions server <bk>/<srv>",
        "kill sessions on a server",
        Level.ADMIN,
        _steers("shutdown", "sessions", "server"),
    ),
    _Command(
        "reload [dry-run] [json]",
        "read the configuration again, or say what would change",
        Level.ADMIN,
        reloading.reload,
    ),
    _Command("show reload [json]", "what the last reload has changed", Level.USER, reloading.show_reload),
    _Command("show vrrp", "where the virtual routers stand", Level.USER, _show_vrrp),
    _Command("show vrrp json", "the same, with all that is known, as JSON", Level.USER, _show_vrrp_json),
    _Command("show vrrp why [<name>]*", "the sum that gives each priority", Level.USER, _show_vrrp_why),
    _Command("show cache", "what the caches hold, and how often that was of use", Level.USER, _show_cache),
    _Command("show events [<filter>]*", "what happened to servers and addresses", Level.USER, _show_events),
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
        "clear table <name> [<filter>]",
        "forget what clients have lately taken (filter: as of show table)",
        Level.OPERATOR,
        _clear_table,
    ),
    _Command(
        "vrrp release [<name>] [for <duration>]", "leave addresses to other directors, for 1h", Level.OPERATOR, _release
    ),
    _Command("vrrp hold [<name>]", "take part again after a release", Level.OPERATOR, _hold),
    _Command(
        "set severity-output [none|number|string]",
        "set presence of severity level in feedback",
        Level.USER,
        cli.set_severity,
    ),
    _Command(
        "wait {-h|<delay_ms>} [cond [args...]]",
        "wait the specified delay or condition (-h to see list)",
        Level.ADMIN,
        traffic.wait,
    ),
    _Command("show cli sockets", "dump list of cli sockets", Level.USER, cli.show_sockets),
    _Command("show cli level", "display the level of the current CLI session", Level.USER, cli.show_level),
    _Command(
        "operator", "lower the level of the current CLI session to operator", Level.USER, cli.lowers(Level.OPERATOR)
    ),
    _Command("user", "lower the level of the current CLI session to user", Level.USER, cli.lowers(Level.USER)),
    _Command("help [<command>]", "list matching or all commands", Level.USER, _help),
    _Command("prompt [help|n|i|p|timed]*", "toggle interactive mode with prompt", Level.USER, cli.prompt),
    _Command("quit", "disconnect", Level.USER, cli.quit_),
)
