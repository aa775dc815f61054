"""A configuration read again: by a process of its own, whether it may follow the one before, and what it changes.

The file may be large, its file system may hang, and a resolver may not answer: none of that is to keep the supervisor,
which speaks VRRP, from what it does each second.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Generic, NamedTuple, NoReturn, TypeVar

from balancer.config import engines
from balancer.config.check import check, warnings
from balancer.config.model import Config
from balancer.config.secret import key_path
from balancer.daemon import privileges
from balancer.daemon.changes import Sessions
from balancer.daemon.changes import changes as of_plans
from balancer.daemon.faults import described
from balancer.daemon.plan import Plan
from balancer.daemon.privileges import Identity
from balancer.daemon.sockets import Sockets, try_to_bind
from balancer.daemon.speaking import script_identity
from balancer.errors import BalancerError, StartError
from balancer.observe import reloading
from balancer.observe.reloading import Change
from balancer.pool import overlay, overrides
from balancer.pool.overrides import Override, Overrides

__all__ = ["Draft", "Look", "Reading", "Source", "affordable", "differences", "draft", "look", "refusal"]

_Made = TypeVar("_Made")

# Seconds. Fifty thousand servers take a few.
_PATIENCE = 30.0
_PIECE = 1 << 20
# Lines in the log of what is different; mistakes listed of what operators have changed.
_MOST_LINES, _MOST_NAMES = 20, 5


class Source(NamedTuple):
    """What the daemon was started from."""

    name: str
    """For the log."""
    load: Callable[[], Config]
    """Reads it anew. ConfigError."""


class Draft(NamedTuple):
    """What was made of a configuration, and what is to be said of it."""

    plan: Plan
    warnings: list[str]
    choices: list[str]
    changes: str = ""
    """Against the plan before it."""
    lines: tuple[str, ...] = ()
    """The same object by object, as far as a log has room for it."""
    body: bytes = reloading.EMPTY
    """All of it, for whoever has asked."""
    scripts: Identity | None = None
    """Who the programs of `vrrp` run as; None: as the daemon was started."""


class Look(NamedTuple):
    """What would come of a configuration."""

    body: bytes = reloading.EMPTY
    why: str = ""
    """Why it would not be loaded."""


def affordable(plan: Plan) -> tuple[Plan, str]:
    """As many connections as our descriptors carry, and what is to be said where these are fewer: serve with less
    rather than run out of them, or not serve at all. StartError."""
    wanted = plan.open_files
    allowed = privileges.raise_open_files(wanted)
    if allowed >= wanted:
        return plan, ""
    within = plan.within(allowed)
    if within.maxconn >= plan.maxconn:
        return within, ""
    return within, (
        f"global.maxconn {plan.maxconn} needs {wanted} open files per worker, {allowed} are allowed: "
        f"{within.maxconn} connections are served; raise the limit (LimitNOFILE=, ulimit -n) or lower maxconn"
    )


def look(made: Draft, before: Sockets) -> Look:
    """What would come of a draft on this machine, where those `before` it listen already."""
    plan = made.plan
    try:
        affordable(plan)
        try_to_bind(plan.config, before, plan.found)
    except StartError as error:
        return Look(made.body, str(error))
    return Look(made.body)


def draft(
    config: Config,
    before: Plan | None = None,
    kept: Iterable[Override] = (),
    *,
    is_strict: bool = False,
    sessions: Sessions = lambda _: 0,
    masters: Collection[str] = (),
) -> Draft:
    """What comes of a configuration and what operators have changed (`kept`), after a reload one that follows `before`.
    StartError where it cannot follow it, or this machine will not do. A name that does not resolve now keeps the
    address that it had. Servers that were added, deleted or moved are left out where nothing would come of them, but
    for `is_strict`: then that is an error. `sessions` and `masters` of `before` as daemon.changes has them."""
    if before is not None and (why := refusal(before.written, config)):
        raise StartError(why)
    changes, _ = overrides.reconciled(kept, config, time.time())
    try:
        return _draft(config, before, changes, sessions, masters, is_strict=is_strict)
    except StartError as error:
        if is_strict or not (left_out := overlay.structural(changes.values())):
            raise
        changes = {key: each for key, each in changes.items() if key not in left_out}
        made = _draft(config, before, changes, sessions, masters, is_strict=False)
        text = f"servers are as the configuration says, not as they were changed while running: {error}"
        return made._replace(warnings=[text, *made.warnings])


def _draft(
    written: Config,
    before: Plan | None,
    changes: Overrides,
    sessions: Sessions,
    masters: Collection[str],
    *,
    is_strict: bool,
) -> Draft:
    config = overlay.laid(written, changes.values())
    laid = overlay.structural(changes.values())
    # HAProxy's backends may be without a server; ours, where an operator has deleted the last.
    emptied = {target[0] for target, kind in laid if kind == "deleted"}
    if laid and (wrong := check(config, emptied=emptied)):
        raise StartError("; ".join(f"{key_path(each.loc)}: {each.text}" for each in wrong[:_MOST_NAMES]))
    config, choices = engines.settle(config, _hindrance)
    known = before.found if before is not None else None
    plan = Plan.of(config, cores=len(os.sched_getaffinity(0)), known=known)
    plan = dataclasses.replace(plan, written=written, laid=laid)
    if is_strict:
        for target in {target for target, _ in laid}:
            seat = plan.seats.get((target[0], target[1]))
            if seat is not None and seat.address is None and not seat.name:
                raise StartError(f"no address found for {config.backends[target[0]].servers[target[1]].address.host}")
    scripts = script_identity(config.vrrp.script_user) if config.vrrp.instances else None
    if before is not None and config.vrrp != before.config.vrrp and config.vrrp.instances:
        from balancer.vrrp.trial import trial

        trial(before.config.vrrp, config.vrrp)
    said = warnings(config)
    if plan.unresolved:
        said.append(f"no address found for {', '.join(plan.unresolved)}: not used until the next start or reload")
    if plan.has_kernel and not (before is not None and before.has_kernel) and (why := _hindrance()):
        raise StartError(why)
    if before is None:
        return Draft(plan, said, choices, scripts=scripts)
    found = of_plans(before, plan, sessions, masters)
    lines = list(islice(reloading.lines(found[1:]), _MOST_LINES + 1))
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"and {len(found) - 1 - _MOST_LINES} more changes"]
    return Draft(plan, said, choices, _short(found), tuple(lines), reloading.body(found, said, choices), scripts)


def _hindrance() -> str:
    from balancer.daemon import kerneld

    return kerneld.hindrance()


class Reading(Generic[_Made]):
    """A process that reads. Ask `turn` whenever `fileno` is readable, and once `deadline` has come."""

    def __init__(self, make: Callable[[], _Made], become: Callable[[], None]) -> None:
        """`become` makes an ordinary process of the child. OSError where there can be none."""
        self.deadline = time.monotonic() + _PATIENCE
        self._octets = bytearray()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            self.pid = os.fork()
            if not self.pid:
                _answer(make, become, writer)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def fileno(self) -> int:
        return self._reader

    def turn(self) -> _Made | str | None:
        """What came of it; a text where nothing did; None while it is not done."""
        while True:
            try:
                piece = os.read(self._reader, _PIECE)
            except BlockingIOError:
                late = time.monotonic() >= self.deadline
                return f"it could not be read within {_PATIENCE:.0f} s" if late else None
            if not piece:
                break
            self._octets += piece
        if not self._octets:
            return "the process that was to read it has died"
        try:
            # Our own child's, with all of our rights.
            found: _Made | str = pickle.loads(self._octets)  # noqa: S301 (our own child's)
        except Exception as error:
            return f"what came of it cannot be understood: {described(error)}"
        return found

    def close(self) -> None:
        """The process may still run; it is whoever has `pid`'s to end it."""
        os.close(self._reader)


def _answer(make: Callable[[], _Made], become: Callable[[], None], writer: int) -> NoReturn:
    status = 1
    try:
        answer: _Made | str
        try:
            become()
            answer = make()
        except BalancerError as error:
            answer = str(error)
        except BaseException as error:
            answer = described(error)
        octets = memoryview(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        while octets:
            octets = octets[os.write(writer, octets) :]
        status = 0
    finally:
        os._exit(status)


def refusal(before: Config, after: Config) -> str:
    """Why one cannot follow the other without a restart; empty where it can."""
    of_all = before.global_, after.global_
    for key in ("user", "group", "state_directory"):
        old, new = (getattr(one, key) for one in of_all)
        if old != new:
            return f"global.{key}: {old} is to become {new}, which needs a restart"
    modes = dict(_modes(before))
    for path, mode in _modes(after):
        if path in modes and modes[path] != mode:
            return f"{path}: another mode of a Unix socket needs a restart"
    return ""


def _modes(config: Config) -> Iterator[tuple[str, int | None]]:
    binds = [bind for frontend in config.frontends.values() for bind in frontend.bind]
    for bind in (*binds, *(config.stats.bind if config.stats is not None else ())):
        if bind.address.path:
            yield bind.address.path, bind.mode
    if config.global_.runtime_socket is not None:
        yield config.global_.runtime_socket.path, config.global_.runtime_socket.mode


def differences(before: Plan, after: Plan) -> str:
    """What a reload has changed, in a line."""
    return _short(of_plans(before, after, lambda _: 0))


def _short(found: list[Change]) -> str:
    return reloading.line(found) or "nothing has changed, all workers are new"
