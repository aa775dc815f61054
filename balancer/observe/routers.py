"""The virtual routers in words: where each stands, and the sum that gives its priority."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from balancer.observe.lines import printable
from balancer.pool.routers import PeerFacts, RouterFacts, ScriptFacts, Standing, Term, Trouble

__all__ = [
    "chosen",
    "duration",
    "is_stale",
    "master",
    "other",
    "peer",
    "script",
    "silence",
    "sum_lines",
    "table",
    "trouble",
    "why",
]

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
# The supervisor tells at least once a second (seconds).
_SILENT = 5.0
# The column of amounts.
_WIDTH = 12


def duration(seconds: float) -> str:
    """The two largest units, as HAProxy's page has it: `3d4h`, `7m`, `0s`."""
    left = max(int(seconds), 0)
    for i, (size, unit) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            smaller, name = _UNITS[i + 1] if unit != "s" else (1, "")
            return f"{whole}{unit}{rest // smaller}{name}" if rest // smaller else f"{whole}{unit}"
    return "0s"


def chosen(standing: Standing, name: str | None) -> tuple[RouterFacts, ...]:
    """The instance of that name, or those of the sync group, or (None) all."""
    if name is None:
        return standing.routers
    return tuple(each for each in standing.routers if name in (each.name, each.group))


def is_stale(standing: Standing, now: float) -> bool:
    """Whether the supervisor, which should have told of a change, has been silent too long for this to be true still.
    `now` is Unix time. Those that were stopped stay so: that is its last word."""
    has_stopped = all(each.state == "STOPPED" for each in standing.routers)
    return not has_stopped and now - standing.at > _SILENT


def silence(standing: Standing, now: float) -> str:
    """What is to be said before all else when it is stale; empty when it is not."""
    if not is_stale(standing, now):
        return ""
    return f"the supervisor has been silent for {duration(now - standing.at)}; this is what it said last"


def table(standing: Standing, now: float) -> str:
    """All of it, a line each. `now` is Unix time."""
    rows = [("# instance", "state", "since", "priority", "master", "group", "addresses")]
    rows += [
        (
            each.name,
            each.state + (" (released)" if each.released_until is not None else ""),
            duration(now - each.since),
            _priority(each),
            each.master or ("itself" if each.state == "MASTER" else "-"),
            each.group or "-",
            ", ".join(each.addresses) or "-",
        )
        for each in standing.routers
    ]
    lines = [*_warning(standing, now), *_aligned(rows)]
    for each in standing.routers:
        lines += [f"{each.name}: {trouble(facts, now)}" for facts in each.troubles]
    lines += [f"script {script(each)}" for each in standing.scripts]
    lines += [f"peer {peer(each, now)}" for each in standing.peers]
    return _joined(lines)


def why(standing: Standing, routers: Sequence[RouterFacts], now: float) -> str:
    """The sums of these routers, and what is behind them."""
    lines = _warning(standing, now)
    for each in routers:
        lines.append(f"{each.name}  {each.state} since {duration(now - each.since)}: {each.why}")
        lines += sum_lines(each)
        if each.state != "MASTER" or each.master:
            lines.append(_line("master", master(each)))
        lines.append(_line("others", other(each, standing, now)))
        if each.group:
            lines.append(_line("sync group", each.group))
        if each.released_until is not None:
            lines.append(_line("released", f"by hand for another {duration(each.released_until - now)}"))
        lines += [_line("trouble", trouble(facts, now)) for facts in each.troubles]
    lines += [_line("script", script(each)) for each in standing.scripts]
    lines += [_line("peer", peer(each, now)) for each in standing.peers]
    return _joined(lines)


def sum_lines(router: RouterFacts) -> list[str]:
    """The sum that gives a priority, in aligned columns."""
    lines = [_line(*_term(term, is_first=not i)) for i, term in enumerate(router.terms)]
    if not router.terms:
        lines = [_line(str(router.base_priority), "priority"), _line("…", "what is added was too long to be told")]
    return [*lines, "----".rjust(_WIDTH), _line(str(router.priority), "effective priority")]


def master(router: RouterFacts) -> str:
    """Which master a router follows."""
    if not router.master:
        return "itself" if router.state == "MASTER" else "none is heard"
    return f"{router.master}, priority {router.master_priority}, every {router.interval:g}s"


def other(router: RouterFacts, standing: Standing, now: float) -> str:
    """What is known of this virtual router on the other directors: what they say of it, and whose advertisement came
    last. A BACKUP sends none."""
    parts = [
        f"{each.node or each.address} {each.states[router.name] if each.is_alive else 'is silent'}"
        for each in standing.peers
        if router.name in each.states
    ]
    if router.heard is not None:
        said = f"priority {router.heard_priority}" if router.heard_priority else "leaving (priority 0)"
        parts.append(f"{router.heard_from}, {said}, heard {duration(now - router.heard)} ago")
    return "; ".join(parts) or "none was heard"


def script(facts: ScriptFacts) -> str:
    """A check script's result."""
    result = {True: "good", False: "bad", None: "not known yet"}[facts.is_good]
    return f"{facts.name}: {result}, {facts.text}" if facts.text else f"{facts.name}: {result}"


def peer(facts: PeerFacts, now: float) -> str:
    """What another director tells."""
    name = f"{facts.address} ({facts.node})" if facts.node else facts.address
    if facts.last is None:
        return f"{name}: was never heard"
    parts = ["alive" if facts.is_alive else "silent", f"heard {duration(now - facts.last)} ago"]
    parts += [f"{router} {state}" for router, state in facts.states.items()]
    parts += [f"{backend} {up} of {all_} up" for backend, (up, all_) in facts.servers.items()]
    return f"{name}: {', '.join(parts)}"


def trouble(facts: Trouble, now: float) -> str:
    """Something in the network that should not be."""
    text, first, last, times = facts
    if times == 1:
        return f"{text} ({duration(now - last)} ago)"
    return f"{text} ({times} times, first {duration(now - first)} ago, last {duration(now - last)} ago)"


def _warning(standing: Standing, now: float) -> list[str]:
    text = silence(standing, now)
    return [f"{text[0].upper()}{text[1:]}:"] if text else []


def _term(term: Term, *, is_first: bool) -> tuple[str, str]:
    amount = "FAULT" if term.is_fault else str(term.amount) if is_first else f"{term.amount:+}" if term.amount else "0"
    return amount, f"{term.what}: {term.text}" if term.text else term.what


def _line(left: str, right: str) -> str:
    return f"{left:>{_WIDTH}}  {right}"


def _priority(router: RouterFacts) -> str:
    if router.priority == router.base_priority:
        return str(router.priority)
    return f"{router.priority} ({router.base_priority})"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _joined(lines: Iterable[str]) -> str:
    """Others on the network have a part in some texts: no control character of theirs reaches a terminal."""
    return "".join(f"{printable(line)}\n" for line in lines)
