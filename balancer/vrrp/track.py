"""What the trackers make of a priority: a sum, each term of which can be shown.

keepalived's rule for interfaces and scripts: a weight of 0 means FAULT while it is bad; a positive one is added while
it is good, a negative one while it is bad. Ours is what compares us with the peer: a server that is down for both
directors, or no worker anywhere, is no reason to move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from balancer.config.vrrp import Vrrp
from balancer.pool.routers import Term

__all__ = ["Said", "Service", "Trackers", "View", "fault", "terms"]

_OWNER = 255
_LOWEST, _HIGHEST = 1, 254
# keepalived: a file's number times its weight means FAULT from here on down.
_FILE_FAULT = -254


class Service(NamedTuple):
    """What this host can do for clients."""

    is_serving: bool
    """Whether clients are served: a worker process takes connections, the kernel has its rules."""
    servers: Mapping[str, tuple[int, int]]
    """How many servers of a backend are up, and of how many."""
    trouble: str = "no worker serves"
    """Why not, where it does not."""


class Said(NamedTuple):
    """What another director said last of what it can do."""

    who: str
    is_serving: bool
    servers: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to see at one moment."""

    interfaces: Mapping[str, bool]
    """Whether an interface is up; one that is not there is not up."""
    scripts: Mapping[str, tuple[bool | None, str]]
    """Whether a script is good (None: not known yet), and how it ended."""
    numbers: Mapping[str, int]
    """What is written in the files."""
    service: Service
    peers: Sequence[Said]
    """One that has fallen silent is still here: until it says otherwise, its last word holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trackers:
    """What counts for a virtual router, with its weight."""

    interfaces: Mapping[str, int]
    scripts: Mapping[str, int]
    files: Mapping[str, int]
    backends: Mapping[str, int]
    workers: int
    must_fall: bool = False
    """Whether only FAULT makes another master: without preemption a low priority moves nothing."""

    @staticmethod
    def of(vrrp: Vrrp, names: Iterable[str]) -> Trackers:
        """Those of the instances `names` together: in a sync group they stand or fall as one."""
        members = [vrrp.instances[name] for name in names]
        return Trackers(
            interfaces=_heaviest((each.interface, each.weight) for own in members for each in own.track_interface),
            scripts=_heaviest(
                (each.script, vrrp.scripts[each.script].weight if each.weight is None else each.weight)
                for own in members
                for each in own.track_script
            ),
            files=_heaviest(
                (each.file, vrrp.files[each.file].weight if each.weight is None else each.weight)
                for own in members
                for each in own.track_file
            ),
            backends=_heaviest((each.backend, each.weight) for own in members for each in own.track_backend),
            workers=min(own.track_workers for own in members),
            must_fall=not all(own.preempt for own in members),
        )


def _heaviest(weights: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Where members differ: 0, which is a matter of FAULT, before all others, then what moves the priority most."""
    heaviest: dict[str, int] = {}
    for name, weight in weights:
        known = heaviest.get(name, weight)
        heaviest[name] = 0 if 0 in (known, weight) else max(known, weight, key=abs)
    return heaviest


def terms(base: int, trackers: Trackers, view: View) -> tuple[Term, ...]:
    """The sum that gives the priority, `base` first."""
    if base == _OWNER:
        found = [term for term in _found(trackers, view) if term.is_fault]
        return Term("priority", base, "owner of the addresses: nothing is added"), *found
    found = list(_found(trackers, view))
    total = base + sum(term.amount for term in found)
    allowed = min(max(total, _LOWEST), _HIGHEST)
    limit = [Term("limit", allowed - total, f"a priority is from {_LOWEST} to {_HIGHEST}")] if allowed != total else []
    return Term("priority", base, ""), *found, *limit


def fault(found: Iterable[Term]) -> str:
    """Why there may be no priority at all; empty where there may."""
    return "; ".join(f"{term.what} {term.text}" for term in found if term.is_fault)


def _found(trackers: Trackers, view: View) -> Iterator[Term]:
    for name, weight in trackers.interfaces.items():
        is_up = view.interfaces[name]
        yield _good_or_bad(f"interface {name}", weight, is_up, "is up" if is_up else "is down")
    for name, weight in trackers.scripts.items():
        is_good, text = view.scripts[name]
        yield _good_or_bad(f"script {name}", weight, is_good, text)
    for name, weight in trackers.files.items():
        amount = view.numbers[name] * weight
        text = f"{view.numbers[name]} times {weight}"
        yield Term(f"file {name}", max(amount, _FILE_FAULT), text, amount <= _FILE_FAULT)
    for name, weight in trackers.backends.items():
        yield _backend(name, weight, view)
    if trackers.workers and not view.service.is_serving:
        helpless = bool(view.peers) and not any(peer.is_serving for peer in view.peers)
        text = f"{view.service.trouble}{', here or elsewhere' if helpless else ' here'}"
        falls = trackers.must_fall and not helpless
        yield Term("workers", 0 if helpless or falls else trackers.workers, text, falls)


def _good_or_bad(what: str, weight: int, is_good: bool | None, text: str) -> Term:
    if not weight:
        return Term(what, 0, text, is_good is False)
    counts = is_good is (weight > 0)
    return Term(what, weight if counts else 0, f"{text} (weight {weight:+})")


def _backend(name: str, weight: int, view: View) -> Term:
    """In proportion to the share of servers that the best peer has up and we have not."""
    up, servers = view.service.servers[name]
    here = f"{up} of {servers} servers up here"
    # One that has just started knows of none yet.
    others = [peer for peer in view.peers if peer.servers.get(name, (0, 0))[1]]
    if not others:
        return Term(f"backend {name}", 0, f"{here}, no peer was heard (weight {weight})")
    best = max(others, key=lambda peer: peer.servers[name][0] / peer.servers[name][1])
    theirs, of = best.servers[name]
    # Where the operator took all of ours out there is nothing that we fail to reach.
    missing = theirs / of - up / servers if servers else 0.0
    amount = round(weight * missing) if missing > 0 else 0
    return Term(f"backend {name}", amount, f"{here}, {theirs} of {of} at {best.who} (weight {weight})")
