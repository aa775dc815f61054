"""What every process derives from the configuration alike: which row counts for whom, and where servers are."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from balancer.addr import Address
from balancer.config import effective
from balancer.config.model import Config
from balancer.pool.facts import Layout

__all__ = ["Plan", "Seat"]

# A resolver that does not answer must not keep the daemon from starting.
_RESOLVE_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A server's place: its row on the board and the address it has now."""

    index: int
    backend: str
    server: str
    address: Address | None
    """None while its name has no address."""


@dataclass(frozen=True)
class Plan:
    """The configuration as all processes of one start see it."""

    config: Config
    workers: int
    layout: Layout
    seats: Mapping[tuple[str, str], Seat]
    pages: Mapping[str, bytes]
    """Contents of the error files by path, read while we may still read them."""

    @staticmethod
    def of(config: Config, *, cores: int) -> Plan:
        """Resolve names, read files, number the servers."""
        names = [(backend, server) for backend, of in config.backends.items() for server in of.servers]
        addresses = _resolve({pair: config.backends[pair[0]].servers[pair[1]].address for pair in names})
        seats = {pair: Seat(index, *pair, addresses[pair]) for index, pair in enumerate(names)}
        layout = Layout.of(config.frontends, [(name, backend.servers) for name, backend in config.backends.items()])
        files = [effective.frontend(config, name).error_files for name in config.frontends]
        files += [effective.backend(config, name).error_files for name in config.backends]
        paths = {path for of_one in files for path in of_one.values()}
        workers = config.global_.workers
        return Plan(
            config=config,
            workers=cores if workers == "auto" else workers,
            layout=layout,
            seats=seats,
            pages={path: Path(path).read_bytes() for path in paths},
        )

    @property
    def unresolved(self) -> list[str]:
        """Servers whose names have no address."""
        return [f"{seat.backend}/{seat.server}" for seat in self.seats.values() if seat.address is None]


def _resolve(addresses: Mapping[tuple[str, str], Address]) -> dict[tuple[str, str], Address | None]:
    found: dict[tuple[str, str], Address | None] = {
        pair: None if address.is_name else address for pair, address in addresses.items()
    }
    wanted = {address.host for address in addresses.values() if address.is_name}
    if not wanted:
        return found
    pool = ThreadPoolExecutor(max_workers=8)
    lookups = {host: pool.submit(_first_address, host) for host in wanted}
    wait(lookups.values(), timeout=_RESOLVE_TIMEOUT)
    pool.shutdown(wait=False, cancel_futures=True)
    for pair, address in addresses.items():
        lookup = lookups.get(address.host)
        if lookup is not None and lookup.done() and not lookup.cancelled() and (host := lookup.result()):
            found[pair] = address.with_host(host)
    return found


def _first_address(host: str) -> str | None:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None
