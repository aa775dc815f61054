"""What no single key of a rule can know: acls that are not there, rules that nobody applies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter

from balancer.config.model import Config, Frontend
from balancer.config.rules import Condition
from balancer.config.tree import Finding, Loc
from balancer.config.words import did_you_mean, printable

__all__ = ["check_acls", "check_rules"]

# Nobody can follow more, and each is a call within a call.
_DEEPEST = 32


def check_acls(config: Config, known: Collection[str]) -> Iterator[Finding]:
    """All that is wrong between acls; `known` has the names of those too that are not in `config`."""
    for name, condition in config.acls.items():
        yield from _condition(("acls", name), condition, known)
    yield from _nesting(config.acls)


def check_rules(loc: Loc, frontend: Frontend, acls: Collection[str]) -> Iterator[Finding]:
    """All that is wrong with a frontend's rules, but for the backends that they name."""
    if frontend.use_backend and frontend.mode != "http":
        yield Finding((*loc, "use_backend"), f"is for mode http only, this is mode {frontend.mode}", "key")
    for i, rule in enumerate(frontend.use_backend):
        if rule.if_ is not None:
            yield from _condition((*loc, "use_backend", i, "if"), rule.if_, acls)
    if not frontend.default_backend:
        if frontend.mode != "http" or not frontend.use_backend:
            yield Finding((*loc, "default_backend"), "is missing; it has no default", "missing")
        elif all(rule.if_ is not None for rule in frontend.use_backend):
            text = "is missing: a request that no rule of use_backend is for would go nowhere; name a backend here"
            yield Finding((*loc, "default_backend"), text, "missing")


def _condition(loc: Loc, condition: Condition, known: Collection[str]) -> Iterator[Finding]:
    for way, inner in condition.within:
        for i, name in enumerate(inner.acl or ()):
            if name not in known:
                some = ", ".join(map(printable, list(known)[:10])) + (", …" if len(known) > 10 else "")
                there = f"there are {some}{did_you_mean(name, known)}" if known else "define it under `acls:`"
                yield Finding((*loc, *way, "acl", i), f"there is no acl {name!r}; {there}")


def _references(condition: Condition) -> set[str]:
    return {name for _, inner in condition.within for name in inner.acl or ()}


def _nesting(acls: dict[str, Condition]) -> Iterator[Finding]:
    """Acls that lead back to themselves, or through too many others."""
    named = {name: _references(condition) & acls.keys() for name, condition in acls.items()}
    try:
        order = list(TopologicalSorter(named).static_order())
    except CycleError as error:
        circle = error.args[1][::-1]
        first = min(range(len(circle) - 1), key=lambda i: list(acls).index(circle[i]))
        circle = [*circle[first:-1], *circle[: first + 1]]
        yield Finding(("acls", circle[0]), f"leads back to itself: {' → '.join(map(printable, circle))}", "key")
        return
    depths: dict[str, int] = {}
    for name in order:
        depths[name] = 1 + max((depths[other] for other in named[name]), default=0)
        if depths[name] == _DEEPEST + 1:
            yield Finding(("acls", name), f"leads through more than {_DEEPEST} acls", "key")
