"""The configuration with what operators have changed of it laid over: servers added, deleted, elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from balancer.addr import parse_address
from balancer.config.model import Config, Server
from balancer.pool.overrides import Kind, Override, Overrides

__all__ = ["STRUCTURAL", "laid", "structural"]

STRUCTURAL: tuple[Kind, ...] = ("deleted", "added", "address")
"""What takes other workers, as a reload of another configuration does."""


def structural(overrides: Iterable[Override]) -> Overrides:
    """Those that do."""
    return {each.key: each for each in overrides if each.kind in STRUCTURAL}


def laid(config: Config, overrides: Iterable[Override]) -> Config:
    """The same with these changes. They are such as hold with it (overrides.reconciled); whether it still makes sense
    is to be checked."""
    servers: dict[str, dict[str, Server]] = {}
    # In the order of their making: servers that were added keep theirs. First what goes, then what comes.
    those = structural(overrides).values()
    for each in sorted(those, key=lambda each: (STRUCTURAL.index(each.kind), each.at)):
        backend, name = each.target
        of_backend = servers.setdefault(backend, dict(config.backends[backend].servers))
        _change(of_backend, name, each)
    if not servers:
        return config
    changed = {name: config.backends[name].model_copy(update={"servers": of}) for name, of in servers.items()}
    return config.model_copy(update={"backends": config.backends | changed})


def _change(servers: dict[str, Server], name: str, each: Override) -> None:
    match each.kind:
        case "deleted":
            servers.pop(name, None)
        case "added":
            servers[name] = Server.model_validate(each.value)
        case "address" if name in servers:
            servers[name] = servers[name].model_copy(update={"address": parse_address(each.value)})
