"""From one speaker to the next, of another version in the same process: nobody on the network is to notice.

What it leaves are its sockets, with what waits in them (`heirloom`), and what it knows (`known`). Times are those of
the machine's monotonic clock. The addresses stay on their interfaces by their leases meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balancer.vrrp.speaker import Heirloom, Speaker

__all__ = ["heirloom", "known", "restore"]

_OF_ROUTER = (
    "state", "why", "announce_at", "announce_all", "fresh_at", "put_at", "missing_since", "terms", "wrong", "fault",
    "counted", "last_heard", "_troubles", "_told",
)  # fmt: skip
_OF_PEERS = ("due", "counted", "_session", "_number", "_began", "_sent_at")
_OF_PEER = ("beat", "heard_at", "numbers", "retired", "unheard", "told", "told_heard_at")
_OF_SCRIPT = ("outcome", "said", "pid", "started", "deadline", "is_killed", "start_at", "_streak")


def heirloom(speaker: Speaker) -> Heirloom:
    """Its sockets. It goes on to have them."""
    return Heirloom(
        dict(speaker._claims),
        speaker._peers._socket if speaker._peers is not None else None,
        list(speaker._links.values()),
    )


def known(speaker: Speaker) -> dict[str, Any]:
    """What is true of its virtual routers, of other directors, and of what is tracked: values by name."""
    peers = speaker._peers
    return {
        "routers": {name: _taken(router, _OF_ROUTER) for name, router in speaker._routers.items()},
        "groups": dict(speaker._group_roles),
        "up": dict(speaker._up),
        "scripts": {check.name: _taken(check, _OF_SCRIPT) for check in speaker._scripts._checks},
        "peers": _taken(peers, _OF_PEERS) if peers is not None else {},
        "peer": {str(peer.address): _taken(peer, _OF_PEER) for peer in peers.peers} if peers is not None else {},
    }


def restore(speaker: Speaker, known: Mapping[str, Any]) -> None:
    """Go on where another one was, before `start`. What is not known is as at a start."""
    for name, router in speaker._routers.items():
        _give(router, known["routers"].get(name, {}))
    speaker._group_roles.update(known["groups"])
    speaker._up.update({name: is_up for name, is_up in known["up"].items() if name in speaker._up})
    if speaker._peers is not None:
        _give(speaker._peers, known["peers"])
        for peer in speaker._peers.peers:
            _give(peer, known["peer"].get(str(peer.address), {}))
    scripts = speaker._scripts
    for check in scripts._checks:
        if check.name in known["scripts"]:
            _give(check, known["scripts"][check.name])
            scripts.outcomes[check.name] = check.outcome
            scripts._has_begun = True
            if check.pid:
                scripts._by_pid[check.pid] = check
    scripts._set_due()


def _taken(it: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(it, name) for name in names}


def _give(it: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if hasattr(it, name):
            setattr(it, name, value)
