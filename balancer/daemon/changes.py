"""What a reload changes, object by object, and what becomes of the connections of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from balancer.config import diff, model
from balancer.config.diff import Key
from balancer.config.model import Config
from balancer.daemon.plan import Plan, Seat
from balancer.observe.reloading import Action, Change, Subject
from balancer.pool.facts import Entity
from balancer.vrrp import change as vrrp
from balancer.vrrp.change import Fate

__all__ = ["Sessions", "changes"]

Sessions = Callable[[Entity], int]
"""How many it has at the moment."""

_OTHERS: tuple[tuple[Subject, str], ...] = (
    ("global", "global_"), ("defaults", "defaults"), ("gateway", "gateway"), ("stats", "stats"),
)  # fmt: skip
_EFFECTS: Mapping[str, str] = {
    "global": "holds for the new processes",
    "defaults": "holds for new connections and requests",
    "gateway": "the kernel's rules follow; what is established goes on",
    "acl": "holds for new requests",
}
_FATES: Mapping[Fate, Action] = {Fate.BEGINS: "added", Fate.ENDS: "removed"}


def changes(before: Plan, after: Plan, sessions: Sessions, masters: Collection[str] = ()) -> list[Change]:
    """All of it; what becomes of all connections first, as all workers are new. `sessions` of `before`, and the
    `masters` among its virtual routers."""
    return [_all(before, after, sessions), *_Changes(before, after, sessions, masters)]


def _all(before: Plan, after: Plan, sessions: Sessions) -> Change:
    """In place of what is said of each object that keeps its connections."""
    proxied = [name for name, each in before.config.frontends.items() if each.engine == "proxy" and each.mode != "udp"]
    number = sum(sessions(Entity("frontend", name)) for name in proxied)
    new, s = after.workers, "s" if after.workers > 1 else ""
    effect = f"new connections go to {new} new worker{s}; {_finish(before, number)}"
    is_changed = before.workers != new
    if is_changed and before.has_flows:
        effect += "; datagram flows begin anew"
    name = f"{new} workers instead of {before.workers}" if is_changed else "all workers are new"
    return Change("workers", name, "changed" if is_changed else "added", effect=effect)


def _finish(before: Plan, number: int) -> str:
    within = diff.written(before.config.global_.hard_stop_after)
    if not number:
        return "none is open now"
    return f"{number} open now end{'' if number > 1 else 's'} in the old ones, within {within} (hard_stop_after)"


class _Changes:
    """Iterable once."""

    def __init__(self, before: Plan, after: Plan, sessions: Sessions, masters: Collection[str]) -> None:
        self._before, self._after, self._sessions, self._masters = before, after, sessions, masters

    def __iter__(self) -> Iterator[Change]:
        old, new = self._before.config, self._after.config
        yield from self._listeners()
        yield from self._compared("frontend", old.frontends, new.frontends, self._of_frontend)
        yield from self._compared("acl", old.acls, new.acls, lambda *_: _EFFECTS["acl"])
        yield from self._compared("backend", old.backends, new.backends, self._of_backend, but=("servers",))
        yield from self._servers()
        told = "its answers hold from the next one on"
        yield from self._compared("resolvers", old.resolvers, new.resolvers, lambda *_: told)
        yield from self._users()
        yield from self._vrrp()
        for what, name in _OTHERS:
            yield from self._other(what, getattr(old, name), getattr(new, name))
        if self._before.pages != self._after.pages:
            pages = self._before.pages, self._after.pages
            names = [path for path in pages[1] if pages[0].get(path, pages[1][path]) != pages[1][path]]
            for path in names:
                yield Change("files", path, "changed", effect="is read again")

    def _compared(
        self,
        what: Subject,
        old: Mapping[str, BaseModel],
        new: Mapping[str, BaseModel],
        effect: Callable[[str, Action, tuple[Key, ...]], str],
        *,
        but: tuple[str, ...] = (),
        label: str = "",
    ) -> Iterator[Change]:
        for name in new:
            if name not in old:
                yield Change(what, label + name, "added", effect=effect(name, "added", ()))
        for name in old:
            if name not in new:
                yield Change(what, label + name, "removed", effect=effect(name, "removed", ()))
        for name, each in new.items():
            if name in old and old[name] != each and (keys := tuple(diff.keys(old[name], each, but=but))):
                yield Change(what, label + name, "changed", keys, effect(name, "changed", keys))

    # Frontends

    def _listeners(self) -> Iterator[Change]:
        old, new = (dict(_binds(plan.config)) for plan in (self._before, self._after))
        for place, (where, _) in new.items():
            if place not in old:
                yield Change(
                    "listener", f"{place} of {where}", "added", effect="listens once the new workers are ready"
                )
        for place, (where, frontend) in old.items():
            if place in new:
                continue
            effect = "closed"
            if frontend:
                number = self._sessions(Entity("frontend", frontend))
                effect = f"closed, but for who waits in its queue; {_finish(self._before, number)}"
            yield Change("listener", f"{place} of {where}", "removed", effect=effect)

    def _of_frontend(self, name: str, action: Action, keys: tuple[Key, ...]) -> str:
        if action == "added":
            if self._after.config.frontends[name].engine == "kernel":
                return "the kernel takes new connections by its rules"
            return "takes new connections"
        was = self._before.config.frontends[name]
        if any(key.key == "engine" for key in keys):
            return "what is established goes on by its old way, what is new takes the new one"
        if was.engine == "kernel":
            return "the rules are taken away" if action == "removed" else "new connections go by the new rules"
        if was.mode == "udp":
            return "its flows end" if action == "removed" else "flows go on in the new workers"
        number = self._sessions(Entity("frontend", name))
        what = "takes nobody any more" if action == "removed" else "holds for new connections"
        return f"{what}; {_finish(self._before, number)}"

    # Backends

    def _of_backend(self, name: str, action: Action, keys: tuple[Key, ...]) -> str:
        if action == "added":
            return ""
        if action == "removed":
            return f"takes nothing any more; {_finish(self._before, self._sessions(Entity('backend', name)))}"
        of_checks = [key for key in keys if key.key == "check" or key.key.startswith("check.")]
        told = ["no connection is touched; servers stay as the checks before found them"] if of_checks else []
        if len(of_checks) < len(keys):
            told.append("holds for new connections and requests")
        if any(key.key == "cache" or key.key.startswith("cache.") for key in keys):
            told.append("the cache begins anew")
        return "; ".join(told)

    def _servers(self) -> Iterator[Change]:
        before, after = self._before, self._after
        for pair, seat in after.seats.items():
            if pair not in before.seats:
                yield Change("server", "/".join(pair), "added", effect=self._of_new_server(seat))
        for pair in before.seats:
            if pair not in after.seats:
                number = self._sessions(Entity("server", *pair))
                yield Change(
                    "server", "/".join(pair), "removed", effect=f"gets nothing new; {self._leave(pair, number)}"
                )
        for pair, seat in after.seats.items():
            was = before.seats.get(pair)
            if was is None:
                continue
            old, new = before.config.backends[pair[0]].servers[pair[1]], _server(after, pair)
            # Where its name is now is found out while it runs, and is no part of the plan.
            is_elsewhere = was.address != seat.address and not (was.name and was.name == seat.name)
            if old is new and not is_elsewhere:
                continue
            keys = tuple(diff.keys(old, new)) if old != new else ()
            if is_elsewhere and not any(key.key == "address" for key in keys):
                keys += (Key("address", *(str(each.address or "unresolved") for each in (was, seat))),)
            if keys:
                yield Change("server", "/".join(pair), "changed", keys, self._of_changed_server(pair, seat, keys))

    def _leave(self, pair: tuple[str, str], number: int) -> str:
        in_kernel = [
            name
            for name, each in self._before.config.frontends.items()
            if each.engine == "kernel" and each.default_backend == pair[0]
        ]
        told = [_finish(self._before, number)] if number or not in_kernel else []
        return "; ".join([*told, *(["its flows in the kernel are forgotten"] if in_kernel else [])])

    def _of_new_server(self, seat: Seat) -> str:
        if seat.address is None and not seat.name:
            return "its name has no address: not used"
        check = self._after.config.backends[seat.backend].check
        is_checked = _server(self._after, (seat.backend, seat.server)).check.enabled
        if isinstance(check, model.NoCheck) or not is_checked:
            return "takes clients at once"
        return "takes clients once a check finds it well"

    def _of_changed_server(self, pair: tuple[str, str], seat: Seat, keys: tuple[Key, ...]) -> str:
        names = {key.key for key in keys}
        if "address" in names:
            number = self._sessions(Entity("server", *pair))
            return f"{self._of_new_server(seat)}; at the old address: {self._leave(pair, number)}"
        if names <= {"weight"}:
            if _server(self._after, pair).weight == 0:
                return "drains: nothing new but clients that hold its cookie; no connection is touched"
            return "no connection is touched"
        if all(name.startswith("check.") for name in names):
            return "no connection is touched"
        return "holds for new connections and requests"

    # The rest

    def _users(self) -> Iterator[Change]:
        old, new = (
            plan.config.stats.users if plan.config.stats is not None else {} for plan in (self._before, self._after)
        )
        told = {"added": "may log in", "removed": "may not log in any more", "changed": "from now on"}
        yield from self._compared("user", old, new, lambda _, action, __: told[action])

    def _vrrp(self) -> Iterator[Change]:
        old, new = self._before.config.vrrp, self._after.config.vrrp
        for each in vrrp.changes(old, new):
            what: Subject = "virtual router" if each.is_instance else "vrrp"
            action = _FATES.get(each.fate, "changed")
            told = [each.told] if action == "changed" else list(each.details)
            told.append(vrrp.effect(each, old, new, self._masters))
            yield Change(what, each.what, action, effect="; ".join(filter(None, told)))

    def _other(self, what: Subject, old: BaseModel | None, new: BaseModel | None) -> Iterator[Change]:
        if old == new:
            return
        if old is None or new is None:
            effect = "pages are there once the new processes are" if old is None else "open pages are cut off"
            yield Change(what, "", "added" if old is None else "removed", effect=effect)
            return
        keys = tuple(diff.keys(old, new, but=("users",)))
        if keys:
            effect = "open pages are cut off, and may be loaded again" if what == "stats" else _EFFECTS[what]
            if what == "global" and all(key.key.startswith("log") for key in keys):
                effect = "lines from now on"
            yield Change(what, "", "changed", keys, effect)


def _server(plan: Plan, pair: tuple[str, str]) -> model.Server:
    return plan.config.backends[pair[0]].servers[pair[1]]


def _binds(config: Config) -> Iterator[tuple[str, tuple[str, str]]]:
    """What is listened to: its address, of what, and the frontend's name where it is one."""
    given: list[tuple[str, str, Any]] = [
        (f"frontend {name}", name, bind)
        for name, frontend in config.frontends.items()
        if frontend.engine == "proxy"
        for bind in frontend.bind
    ]
    given += [("stats", "", bind) for bind in (config.stats.bind if config.stats is not None else ())]
    for where, name, bind in given:
        udp = name and config.frontends[name].mode == "udp"
        interface = f"%{bind.interface}" if bind.interface is not None else ""
        yield f"{bind.address}{interface}{'/udp' if udp else ''}", (where, name)
    if config.global_.runtime_socket is not None:
        yield config.global_.runtime_socket.path, ("global.runtime_socket", "")
