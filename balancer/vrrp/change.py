"""What becomes of the virtual routers when their configuration is another: which go on, and what changes of them.

A virtual router is what the network knows it by (`Key`): an instance with the key of one before goes on where that
stood, under whatever name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any, NamedTuple

from balancer.config import effective
from balancer.config.values import Model
from balancer.config.vrrp import Vrrp, VrrpInstance
from balancer.vrrp import machine

__all__ = ["Change", "Fate", "Key", "changes", "effect", "heirlooms", "heirs"]

# Their values are nobody's business.
_SECRET = ("password", "key")
# Kept in keepalived's name, and without effect.
_IDLE = ("state",)
# Priority of the owner of the addresses (RFC 9568 section 5.2.4).
_OWNER = 255
# Addresses listed in a line.
_MOST_ADDRESSES = 5


class Key(NamedTuple):
    """What cannot change of a virtual router: another is another one, to all who hear it."""

    interface: str
    vrid: int
    version: int
    is_ipv6: bool

    @staticmethod
    def of(instance: VrrpInstance) -> Key:
        return Key(
            instance.interface,
            instance.virtual_router_id,
            effective.vrrp_version(instance),
            effective.is_ipv6(instance),
        )


class Fate(StrEnum):
    """What happens to it."""

    STAYS = "in place"
    ANEW = "ends and starts anew"
    BEGINS = "added"
    ENDS = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """`str` of it is a line for an operator."""

    what: str
    """An instance's name, or one such as `sync group G` or `heartbeat`."""
    fate: Fate
    details: tuple[str, ...] = ()
    """Such as `priority 150 -> 100`."""
    is_instance: bool = False

    @property
    def told(self) -> str:
        """Without its name."""
        details = "; ".join(self.details)
        if self.fate in (Fate.BEGINS, Fate.ENDS):
            return f"{self.fate}: {details}" if details else str(self.fate)
        return f"{details}{': ' if self.fate is Fate.ANEW else ', '}{self.fate}"

    def __str__(self) -> str:
        return f"{self.what}: {self.told}"


def heirs(before: Vrrp, after: Vrrp) -> dict[str, str]:
    """The names in `after` of the virtual routers that go on, and what they are called in `before`."""
    known = {Key.of(instance): name for name, instance in before.instances.items()}
    keys = {name: Key.of(instance) for name, instance in after.instances.items()}
    return {name: known[key] for name, key in keys.items() if key in known}


def heirlooms(
    after: Vrrp, goes_on: Mapping[str, str], masters: Collection[str]
) -> dict[str, set[IPv4Interface | IPv6Interface]]:
    """By interface, the addresses that `masters`, as they are called before, have in `after`: whoever else had one of
    them leaves it where it is."""
    found: dict[str, set[IPv4Interface | IPv6Interface]] = {}
    for name, called in goes_on.items():
        if called in masters:
            own = after.instances[name]
            found.setdefault(own.interface, set()).update(ip_interface(vip.address) for vip in own.virtual_ipaddress)
    return found


def changes(before: Vrrp, after: Vrrp) -> list[Change]:
    """All of them, those of instances first; none where nothing is another."""
    if before == after:
        return []
    return [
        *_instances(before, after),
        *_named("sync group", before.sync_groups, after.sync_groups),
        *_named("script", before.scripts, after.scripts),
        *_named("file", before.files, after.files),
        *_heartbeat(before, after),
        *(
            Change(key, Fate.STAYS, (_moved(getattr(before, key), getattr(after, key)),))
            for key in ("script_user", "notify_fifo")
            if getattr(before, key) != getattr(after, key)
        ),
    ]


def effect(change: Change, before: Vrrp, after: Vrrp, masters: Collection[str]) -> str:
    """What becomes of the addresses of an instance that ends, begins, or does both; empty for all else. `masters` are
    those `before` that hold theirs now."""
    if not change.is_instance:
        return ""
    parts = []
    if change.fate in (Fate.ENDS, Fate.ANEW):
        parts.append(_end(change.what, before, after, masters))
    if change.fate in (Fate.BEGINS, Fate.ANEW):
        parts.append(_beginning(change.what, after))
    return "; ".join(parts)


def _end(name: str, before: Vrrp, after: Vrrp, masters: Collection[str]) -> str:
    old = before.instances[name]
    if name not in masters:
        return f"is not master on {old.interface}, so nobody has to take its addresses"
    stay = heirlooms(after, heirs(before, after), masters).get(old.interface, set())
    own = [ip_interface(vip.address) for vip in old.virtual_ipaddress]
    gone, kept = [each for each in own if each not in stay], [each for each in own if each in stay]
    parts = [f"is master on {old.interface}, and advertises priority 0"]
    if gone:
        parts.append(f"gives up {_listed(gone)}, which the best of its backups takes at once, if there is any")
    if kept:
        parts.append(f"leaves {_listed(kept)} to another virtual router here")
    return "; ".join(parts)


def _beginning(name: str, after: Vrrp) -> str:
    new = after.instances[name]
    rules = machine.Router(
        name=name,
        version=effective.vrrp_version(new),
        vrid=new.virtual_router_id,
        priority=new.priority,
        interval=new.advert_int,
        down_timer_adverts=new.down_timer_adverts,
    )
    what = f"takes {_listed([ip_interface(vip.address) for vip in new.virtual_ipaddress])} on {new.interface}"
    group = next((group for group, own in after.sync_groups.items() if name in own.group), "")
    together = f", with its sync group {group}" if group else ""
    if new.priority == _OWNER:
        return f"{what} at once, as their owner (priority {new.priority}){together}"
    wait = machine.master_down(rules, machine.initial(rules, 0.0))
    better = f"of priority {new.priority} or more " if new.preempt else ""
    return f"listens first, and {what} after {wait:.1f} s in which no master {better}is heard{together}"


def _listed(addresses: Sequence[IPv4Interface | IPv6Interface]) -> str:
    told = [str(each.ip) for each in addresses[:_MOST_ADDRESSES]]
    more = f" and {len(addresses) - _MOST_ADDRESSES} more" if len(addresses) > _MOST_ADDRESSES else ""
    return ", ".join(told) + more


def _instances(before: Vrrp, after: Vrrp) -> Iterator[Change]:
    goes_on = heirs(before, after)
    stay = set(goes_on.values())
    for name, new in after.instances.items():
        called = goes_on.get(name)
        if called is not None:
            was = (f"called {called} until now",) if called != name else ()
            if details := (*was, *_details(before.instances[called], new)):
                yield Change(name, Fate.STAYS, details, is_instance=True)
        elif name in before.instances and name not in stay:
            old = before.instances[name]
            yield Change(name, Fate.ANEW, (*_others(old, new), *_details(old, new)), is_instance=True)
        else:
            yield Change(name, Fate.BEGINS, is_instance=True)
    for name in before.instances:
        if name not in stay and name not in after.instances:
            yield Change(name, Fate.ENDS, is_instance=True)
        elif name not in stay and name in goes_on:
            yield Change(name, Fate.ENDS, ("its name is another's from now on",), is_instance=True)


def _others(old: VrrpInstance, new: VrrpInstance) -> Iterator[str]:
    """What of the key is another without being written."""
    kept = effective.vrrp_version(old), effective.vrrp_version(new)
    if kept[0] != kept[1] and old.version == new.version:
        yield f"version {kept[0]} -> {kept[1]}"


def _named(what: str, before: Mapping[str, Model], after: Mapping[str, Model]) -> Iterator[Change]:
    for name, new in after.items():
        if name not in before:
            yield Change(f"{what} {name}", Fate.BEGINS)
        elif before[name] != new and (details := tuple(_details(before[name], new))):
            yield Change(f"{what} {name}", Fate.STAYS, details)
    yield from (Change(f"{what} {name}", Fate.ENDS) for name in before if name not in after)


def _heartbeat(before: Vrrp, after: Vrrp) -> Iterator[Change]:
    old, new = before.heartbeat, after.heartbeat
    if old is None or new is None:
        if old != new:
            yield Change("heartbeat", Fate.BEGINS if old is None else Fate.ENDS)
    elif old != new:
        yield Change("heartbeat", Fate.STAYS if old.bind == new.bind else Fate.ANEW, tuple(_details(old, new)))


def _details(old: Model, new: Model) -> Iterator[str]:
    for key in type(new).model_fields:
        was, now = getattr(old, key), getattr(new, key)
        if was == now or key in _IDLE:
            continue
        if key in _SECRET or isinstance(was, Model) or isinstance(now, Model):
            yield f"{key} changed"
        elif key.startswith("notify") or key == "script":
            # A command: it may be long, and tell a password.
            yield f"{key} {'added' if was is None else 'removed' if now is None else 'changed'}"
        elif isinstance(now, tuple):
            yield f"{key} {' '.join(_gone_and_come(was, now)) or 'in another order'}"
        else:
            yield f"{key} {_moved(was, now)}"


def _gone_and_come(old: Iterable[Any], new: Iterable[Any]) -> Iterator[str]:
    before, after = [_short(each) for each in old], [_short(each) for each in new]
    yield from (f"+{each}" for each in after if each not in before)
    yield from (f"-{each}" for each in before if each not in after)


def _moved(old: object, new: object) -> str:
    return f"{_text(old)} -> {_text(new)}"


_TEXTS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (bool, lambda value: "true" if value else "false"),
    (float, lambda value: f"{value:g}s"),
)


def _text(value: object) -> str:
    if value is None:
        return "default"
    return next((text(value) for kind, text in _TEXTS if isinstance(value, kind)), str(value))


def _short(value: object) -> str:
    """An element of a list: its first key says which it is, the others are told where they are not the default."""
    if not isinstance(value, Model):
        return str(value)
    first, *rest = type(value).model_fields
    more = [
        f"{key} {_text(getattr(value, key))}"
        for key in rest
        if getattr(value, key) != type(value).model_fields[key].default
    ]
    return str(getattr(value, first)) + (f" ({', '.join(more)})" if more else "")
