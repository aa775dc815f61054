"""A configuration read again: by a process of its own, whether it may follow the one before, and what it changes.

The file may be large, its file system may hang, and a resolver may not answer: none of that is to keep the supervisor,
which speaks VRRP, from what it does each second.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from balancer.config import engines
from balancer.config.check import warnings
from balancer.config.model import Config
from balancer.daemon.faults import described
from balancer.daemon.plan import Plan
from balancer.errors import BalancerError, StartError

__all__ = ["Draft", "Reading", "Source", "differences", "draft", "refusal"]

# Seconds. Fifty thousand servers take a few.
_PATIENCE = 30.0
_PIECE = 1 << 20
# Names listed of what is added, removed or changed; the rest is a number.
_MOST_NAMES = 5
_OTHERS = ("global_", "defaults", "acls", "stats", "gateway")


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


def draft(config: Config, before: Plan | None = None) -> Draft:
    """What comes of a configuration, after a reload one that follows `before`. StartError where it cannot follow it, or
    this machine will not do. A name that does not resolve now keeps the address that it had."""
    if before is not None and (why := refusal(before.config, config)):
        raise StartError(why)
    config, choices = engines.settle(config, _hindrance)
    known = before.found if before is not None else None
    plan = Plan.of(config, cores=len(os.sched_getaffinity(0)), known=known)
    said = warnings(config)
    if plan.unresolved:
        said.append(f"no address found for {', '.join(plan.unresolved)}: not used until the next start or reload")
    if plan.has_kernel and not (before is not None and before.has_kernel) and (why := _hindrance()):
        raise StartError(why)
    return Draft(plan, said, choices, differences(before, plan) if before is not None else "")


def _hindrance() -> str:
    from balancer.daemon import kerneld

    return kerneld.hindrance()


class Reading:
    """A process that reads. Ask `turn` whenever `fileno` is readable, and once `deadline` has come."""

    def __init__(self, make: Callable[[], Draft], become: Callable[[], None]) -> None:
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

    def turn(self) -> Draft | str | None:
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
            found: Draft | str = pickle.loads(self._octets)  # noqa: S301
        except Exception as error:
            return f"what came of it cannot be understood: {described(error)}"
        return found

    def close(self) -> None:
        """The process may still run; it is whoever has `pid`'s to end it."""
        os.close(self._reader)


def _answer(make: Callable[[], Draft], become: Callable[[], None], writer: int) -> NoReturn:
    status = 1
    try:
        answer: Draft | str
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
    for key in ("user", "group"):
        old, new = (getattr(one, key) for one in of_all)
        if old != new:
            return f"global.{key}: {old} is to become {new}, which needs a restart"
    if before.vrrp != after.vrrp:
        return "vrrp: what is changed there needs a restart"
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
    old, new = before.config, after.config
    servers = [{"/".join(pair): _server(plan, pair) for pair in plan.seats} for plan in (before, after)]
    parts = [
        *_compared("frontend", old.frontends, new.frontends),
        *_compared(
            "backend",
            {name: each.model_copy(update={"servers": {}}) for name, each in old.backends.items()},
            {name: each.model_copy(update={"servers": {}}) for name, each in new.backends.items()},
        ),
        *_compared("server", *servers),
    ]
    if before.workers != after.workers:
        parts.append(f"{after.workers} workers instead of {before.workers}")
    others = [name for name in _OTHERS if getattr(old, name) != getattr(new, name)]
    if others:
        parts.append(f"changed: {', '.join(others).replace('global_', 'global')}")
    if not parts and before.pages != after.pages:
        parts.append("changed: files that it names")
    return "; ".join(parts) or "nothing has changed, all workers are new"


def _server(plan: Plan, pair: tuple[str, str]) -> object:
    return plan.config.backends[pair[0]].servers[pair[1]], plan.seats[pair].address


def _compared(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for names, done in (
        ([name for name in new if name not in old], "added"),
        ([name for name in old if name not in new], "removed"),
        ([name for name in new if name in old and old[name] != new[name]], "changed"),
    ):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            plural = "s" if len(names) > 1 else ""
            yield f"{len(names)} {what}{plural} {done} ({', '.join(names[:_MOST_NAMES])}{more})"
