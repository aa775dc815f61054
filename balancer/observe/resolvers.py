"""Name servers of servers' names: what came of asking them (management manual, section 9.3, `show resolvers`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from balancer.observe.families import Family, escape, gauge
from balancer.observe.snapshot import Resolvers

__all__ = ["FAMILIES", "rows", "told"]

_HELP = {
    "sent": "Queries sent.",
    "snd_error": "Queries that could not be sent.",
    "valid": "Answers with a record that was asked for.",
    "update": "Servers that moved for an answer.",
    "cname": "Answers with an alias.",
    "cname_error": "Aliases with nothing behind them.",
    "any_err": "Answers without a record, of any type.",
    "nx": "Names that do not exist, or have no such record.",
    "timeout": "Queries without an answer.",
    "refused": "Queries refused.",
    "other": "Other errors.",
    "invalid": "Answers that made no sense.",
    "too_big": "Answers that were too big.",
    "truncated": "Answers asked for again over TCP.",
    "outdated": "Datagrams that answered no query.",
}
_METRICS = {"snd_error": "send_error", "outdated": "outdate"}


def _family(name: str) -> Family:
    # As HAProxy's exporter has them.
    return gauge(f"haproxy_resolver_{_METRICS.get(name, name)}", lambda row: row[name], _HELP[name])


FAMILIES = [_family(name) for name in _HELP]


def rows(resolvers: Resolvers) -> list[tuple[str, Mapping[str, int]]]:
    """For the metrics."""
    return [
        (f'{{resolver="{escape(section)}",nameserver="{escape(name)}"', counts)
        for section, servers in resolvers.items()
        for name, counts in servers
    ]


def told(resolvers: Resolvers) -> Iterator[str]:
    """A line each."""
    for section, servers in resolvers.items():
        yield f"Resolvers section {section}\n"
        for name, counts in servers:
            yield f" nameserver {name}:\n"
            for key in _HELP:
                yield f"  {key + ':':<13}{counts[key]}\n"
