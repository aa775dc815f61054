"""Are the servers there? Asked only where that is wished for."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

from balancer.addr import Address
from balancer.doctor.case import Case
from balancer.doctor.finding import Finding, ok, problem

__all__ = ["connects"]

_PATIENCE = 2.0
_AT_ONCE = 500
_MOST_TOLD = 20


def connects(case: Case) -> Iterator[Finding]:
    """One TCP connection each, to those of modes tcp and http."""
    if not case.wish.asks_servers:
        return
    used = {name for frontend in case.config.frontends.values() if frontend.mode != "udp" for name in frontend.backends}
    wanted: dict[Address, list[str]] = {}
    for name, address in case.servers.items():
        resolved = case.resolved(address)
        if name.partition("/")[0] in used and resolved is not None:
            wanted.setdefault(resolved, []).append(name)
    failed = asyncio.run(_all(list(wanted)))
    for address, why in list(failed.items())[:_MOST_TOLD]:
        host = f"[{address.host}]" if ":" in address.host else address.host
        more = f" (and {len(failed) - _MOST_TOLD} more)" if len(failed) > _MOST_TOLD else ""
        yield problem(
            "server",
            f"{address} cannot be connected to: {why}{more}",
            f"backends: {', '.join(wanted[address][:3])}",
            f"curl -v telnet://{host}:{address.port}",
        )
    if wanted and not failed:
        yield ok("server", f"each of {len(wanted)} servers takes connections")


async def _all(addresses: list[Address]) -> dict[Address, str]:
    turn = asyncio.Semaphore(_AT_ONCE)
    answers = await asyncio.gather(*(_one(address, turn) for address in addresses))
    return {address: why for address, why in zip(addresses, answers, strict=True) if why}


async def _one(address: Address, turn: asyncio.Semaphore) -> str:
    async with turn:
        own = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.get_running_loop().sock_connect(own, address.sockaddr)
        except TimeoutError:
            return f"no answer in {_PATIENCE:g} s"
        except OSError as error:
            # asyncio's own text says where, not why.
            return os.strerror(error.errno) if error.errno else str(error)
        finally:
            own.close()
    return ""
