"""What the process `kernel` answers when control asks: the rules, the services with their servers, the connections."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from balancer.config.model import Config
from balancer.daemon.kernelnumbers import Numbers
from balancer.daemon.questions import LONGEST_ANSWER
from balancer.kernel import render
from balancer.kernel.conntrack import Conntrack
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Service
from balancer.observe.services import CONNECTIONS, connection
from balancer.pool.services import ServiceFacts, TargetFacts

__all__ = ["connections", "rules", "service_facts"]

# For what is said of the rest.
_ROOM = 256


def rules(trouble: str) -> bytes:
    """As nft(8) lists them, behind what is wrong with them. KernelError. In a process of its own, which must have its
    own line to the kernel."""
    said = f"# not as they should be: {trouble}\n" if trouble else ""
    nft = Nft()
    try:
        listed = nft.run(f"list table {render.TABLE}")
    finally:
        nft.close()
    # An empty line would end the answer.
    octets = (said + "".join(f"{line}\n" for line in listed.splitlines() if line.strip())).encode()
    if len(octets) > LONGEST_ANSWER:
        octets = octets[: octets.rindex(b"\n", 0, LONGEST_ANSWER - _ROOM) + 1]
        octets += f"# cut here, there are more: nft list table {render.TABLE}\n".encode()
    return octets


def service_facts(service: Service, config: Config, numbers: Numbers, down: Collection[int]) -> ServiceFacts:
    """`down`: rows of the servers that get nothing, and are not listed."""
    targets = []
    for target in service.targets:
        if target.index not in down:
            load, totals, rate = numbers.of(service, target)
            targets.append(TargetFacts(target.server, target.address, target.port, target.weight, *load, totals, rate))
    everywhere = "::" if service.family == 6 else "0.0.0.0"
    return ServiceFacts(
        protocol=service.protocol,
        address=service.address or everywhere,
        port=service.port,
        balance=str(service.balance),
        is_consistent=config.backends[service.backend].hash_type == "consistent",
        persistence=service.persistence,
        is_per_query=service.is_per_query,
        forwarding="Masq",
        targets=tuple(targets),
    )


def connections(conntrack: Conntrack, services: Iterable[Service], *, is_numeric: bool) -> bytes:
    """A line each, as `ipvsadm -Lc` has them. OSError."""
    services = tuple(services)
    names = {
        (service.protocol, target.address, target.port): target.server
        for service in services
        for target in service.targets
    }
    octets = bytearray(CONNECTIONS.encode())
    for flow in conntrack.flows(services):
        host, port = flow.server
        server = host if is_numeric else names.get((flow.protocol, *flow.server), host)
        ends = flow.client, flow.service, (server, port)
        octets += connection(flow.protocol, flow.timeout, flow.state, ends, is_numeric=is_numeric).encode()
        if len(octets) > LONGEST_ANSWER - _ROOM:
            octets += b"There are more.\n"
            break
    return bytes(octets)
