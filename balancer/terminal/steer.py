"""`pybalancer drain`, `maint`, `ready` and `weight`: of several servers at once, each with what became of it.

`--wait` stays until what it took clients from is empty. The daemon may be reloaded or its control process replaced in
the meantime.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.observe.lines import printable
from balancer.observe.routers import duration
from balancer.terminal import picture
from balancer.terminal.picture import Pattern, Picture, Server

__all__ = ["DONE", "FAILED", "LATE", "chosen", "steer"]

DONE, FAILED, LATE = 0, 1, 3
"""Exit statuses: LATE, where something was still there when the time was over."""

# Seconds between two looks at servers that become empty, and how much of the daemon's time they may take.
_EVERY = 0.5
_SHARE = 10
# Seconds until all workers know, and have told what they had taken before that.
_SETTLES = 1.0
# Seconds that the daemon may be away while somebody waits: a control process that died is back in less.
_AWAY = 30.0


def steer(
    path: str,
    words: Sequence[str],
    names: Sequence[str],
    *,
    waits: bool = False,
    timeout: float | None = None,
    out: TextIO,
    err: TextIO,
) -> int:
    """Give the order `words` (`state drain`, `weight 5`, …) for all servers that `names` are for, and say what each is
    then; the exit status. `waits` until they have no sessions, `timeout` seconds at most. BalancerError where the
    daemon cannot be asked."""
    before = picture.fetch(path)
    status = DONE
    found: list[str] = []
    for name in names:
        more = chosen(before, name)
        if not more:
            print(f"{name}: {_nobody(before, name)}", file=err)
            status = FAILED
        found += [each for each in more if each not in found]
    answers = client.ask_all(path, [("set", "server", name, *words) for name in found])
    # What it says of a server is put together once a second; sessions and states are as they are now.
    after = picture.fetch(path) if found else before
    was, is_ = _by_path(before), _by_path(after)
    done = []
    for name, answer in zip(found, answers, strict=True):
        if answer.is_error:
            print(f"{name}: {answer.text.strip()}", file=err)
            status = FAILED
        elif name not in is_:
            print(f"{name}: is no longer there", file=err)
            status = FAILED
        else:
            print(f"{name}: {_told(was.get(name), is_[name], words)}", file=out)
            done.append(name)
    out.flush()
    if waits and done:
        status = max(status, _wait(path, done, timeout, out=out, err=err), key=(DONE, LATE, FAILED).index)
    return status


def chosen(seen: Picture, name: str) -> list[str]:
    """The servers, as `backend/server`, that a name or a pattern such as `web/*` is for."""
    pattern = Pattern.of(name)
    if "/" not in name:
        return []
    return [each.path for each in seen.servers if each.path == name or pattern.is_for(each.backend, each.name)]


def _nobody(seen: Picture, name: str) -> str:
    pattern = Pattern.of(name)
    if "/" not in name:
        return f"write BACKEND/SERVER, or {name}/* for all of a backend."
    if not pattern.is_plain:
        return "no server has such a name."
    return "No such server." if any(each.name == pattern.backend for each in seen.backends) else "No such backend."


def _by_path(seen: Picture) -> dict[str, Server]:
    return {each.path: each for each in seen.servers}


def _told(before: Server | None, after: Server, words: Sequence[str]) -> str:
    if words[0] == "weight":
        old = "" if before is None else f" (was {before.weight})" if before.weight != after.weight else " already"
        # As HAProxy reckons: of the usual weight, 1, nothing is left.
        is_less = after.weight == 0 and words[1].endswith("%") and words[1].strip("0") != "%"
        less = f": {words[1]} of its weight is less than 1, so it gets nothing new" if is_less else ""
        return f"weight {after.weight}{old}{less}"
    if after.is_down and words[:2] == ["state", "drain"]:
        return f"{after.status}, to drain once it is up{_left(after)}"
    old = "" if before is None else f" (was {before.status})" if before.status != after.status else " already"
    return f"{after.status}{old}{_left(after)}"


def _left(server: Server) -> str:
    """What a server that gets nothing new still has."""
    if server.takes_clients:
        return ""
    return f", {_sessions(server.traffic.sessions)} left"


def _sessions(number: int) -> str:
    return f"{number or 'no'} session{'' if number == 1 else 's'}"


def _wait(path: str, names: Sequence[str], timeout: float | None, *, out: TextIO, err: TextIO) -> int:
    """Until they are empty. Times are monotonic seconds."""
    began = time.monotonic()
    end = began + timeout if timeout is not None else float("inf")
    waiting = dict.fromkeys(names)
    status = DONE
    servers: dict[str, Server] = {}
    time.sleep(_SETTLES)
    for seen in _looks(path, end):
        servers = _by_path(seen)
        for name in [*waiting]:
            server = servers.get(name)
            word = _over(server)
            if word is None:
                continue
            del waiting[name]
            is_good = word == "empty"
            print(
                f"{name}: {word} after {duration(time.monotonic() - began)}" if is_good else f"{name}: {word}",
                file=out if is_good else err,
                flush=True,
            )
            status = status if is_good else FAILED
        if not waiting:
            return status
    for name in waiting:
        server = servers.get(name)
        left = _sessions(server.traffic.sessions) if server is not None else "not known what"
        print(f"{name}: {left} left after {duration(time.monotonic() - began)}", file=err)
    return LATE if status == DONE else status


def _over(server: Server | None) -> str | None:
    """Why there is nothing more to wait for; None: there is."""
    if server is None:
        return "is no longer there"
    if server.takes_clients:
        return f"is {printable(server.status)} again"
    return None if server.traffic.sessions else "empty"


def _looks(path: str, end: float) -> Iterator[Picture]:
    """The picture again and again until `end`, the last of them then. BalancerError when nobody answers for long."""
    heard = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            seen = picture.fetch(path)
        except BalancerError:
            if time.monotonic() - heard > _AWAY:
                raise
        else:
            heard = time.monotonic()
            yield seen
        now = time.monotonic()
        if now >= end:
            return
        time.sleep(min(max(_EVERY, (now - began) * _SHARE), max(end - now, 0.0)))
