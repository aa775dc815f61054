"""Do the name servers of `resolvers` know the names of servers?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from balancer.config import effective
from balancer.doctor.case import Case
from balancer.doctor.finding import Finding, ok, problem
from balancer.names.answer import Kind, Status
from balancer.names.asking import Asking

__all__ = ["resolved_again"]

_PATIENCE = 3.0
_MOST_ASKED, _MOST_TOLD = 100, 8


def resolved_again(case: Case) -> Iterator[Finding]:
    """Each name once, at the name servers that the daemon asks; the host's own resolver is another."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for seat, address in case.servers.items():
        backend, _, server = seat.partition("/")
        settings = effective.resolution(case.config, backend, server)
        if settings is not None:
            wanted.setdefault((settings.section, address.host), []).append(seat)
    names = list(wanted)[:_MOST_ASKED]
    services = {key for key in names if case.servers[wanted[key][0]].is_service}
    found = asyncio.run(_all(case, names, services))
    failed = [key for key in names if found[key] is not Status.VALID]
    for section, name in failed[:_MOST_TOLD]:
        status = found[section, name]
        servers = effective.resolvers(case.config, section).written.values()
        at = [f"@{each.address.host} -p {each.address.port}{' +tcp' * each.is_tcp}" for each in servers] or [""]
        kind = " SRV" if (section, name) in services else ""
        yield problem(
            "resolvers",
            f"{name}: {_WHY.get(status, _OTHERWISE).format(section, status)}"
            f"{f' (and {len(failed) - _MOST_TOLD} names more)' if len(failed) > _MOST_TOLD else ''}",
            f"backends: {', '.join(wanted[section, name][:3])} is where it was last, or down",
            *(" ".join(f"dig {one} {name}{kind}".split()) for one in at),
        )
    if names and not failed:
        yield ok("resolvers", f"the name servers know each of {len(names)} names")


_WHY = {
    Status.NX: "the name servers of resolvers {} know no such name, or no address of it",
    Status.TIMEOUT: "no name server of resolvers {} answers",
}
_OTHERWISE = "no name server of resolvers {} answers well ({})"


async def _all(
    case: Case, names: Sequence[tuple[str, str]], services: set[tuple[str, str]]
) -> dict[tuple[str, str], Status]:
    asking = {
        section: Asking(section, effective.resolvers(case.config, section), clock=time.monotonic)
        for section, _ in names
    }
    answers = await asyncio.gather(*(_one(asking[key[0]], key[1], key in services) for key in names))
    return dict(zip(names, answers, strict=True))


async def _one(asking: Asking, name: str, is_service: bool) -> Status:
    kinds: tuple[Kind, ...] = ("SRV",) if is_service else ("A", "AAAA")
    status = Status.TIMEOUT
    try:
        async with asyncio.timeout(_PATIENCE):
            for kind in kinds:
                status = (await asking.ask(name, kind))[0].status
                if status is Status.VALID:
                    break
    except TimeoutError:
        pass
    return status
