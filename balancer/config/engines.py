"""`engine: auto`: which engine serves a frontend, and why. Decided once, at start."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from balancer.config import effective
from balancer.config.model import Backend, Balance, Bind, Config, Frontend, Timeouts

__all__ = ["settle", "unreachable"]

# With the others the proxy gives all of it at once too.
_FOLLOWING = (Balance.ROUNDROBIN, Balance.LEASTCONN, Balance.RANDOM)
# What the kernel's rules have no counterpart for, of `udp`.
_OF_THE_PROXY = ("timeout", "responses", "max_flows")


def settle(config: Config, hindrance: Callable[[], str]) -> tuple[Config, list[str]]:
    """The same with an engine for each frontend that left it open, and a line for each of them.

    `hindrance` says why the kernel cannot be used here, "" if it can; asked only where that matters.
    """
    settled: dict[str, Frontend] = {}
    lines = []
    here: str | None = None
    for name, frontend in config.frontends.items():
        if frontend.engine != "auto":
            continue
        why = next(_reasons(config, name, frontend), "")
        if not why:
            here = hindrance() if here is None else here
            why = here
        settled[name] = frontend.model_copy(update={"engine": "proxy" if why else "kernel"})
        lines.append(
            f"frontends.{name}: engine proxy, for {why}" if why else f"frontends.{name}: engine kernel, which will do"
        )
    return config.model_copy(update={"frontends": config.frontends | settled}) if settled else config, lines


def _reasons(config: Config, name: str, frontend: Frontend) -> Iterator[str]:
    """What the kernel cannot do of what is asked for."""
    if frontend.mode == "http":
        yield "the kernel cannot read requests (mode http)"
        return
    backend = config.backends[frontend.default_backend]
    for bind in frontend.bind:
        yield from _of_bind(bind)
    for key in Timeouts.model_fields if frontend.mode == "tcp" else ():
        if getattr(frontend.timeout, key) is not None:
            yield f"the kernel forgets connections by its own rules (timeout.{key})"
    if effective.frontend(config, name).maxconn is not None:
        yield "the kernel counts no connections (maxconn)"
    if frontend.log_format is not None:
        yield "the kernel does not tell so much of a connection (log_format)"
    if frontend.limits is not None:
        yield "the kernel does not count what a client takes (limits)"
    if frontend.mode == "tcp":
        if (
            effective.frontend(config, name).tcp_keepalive
            or effective.backend(config, frontend.default_backend).tcp_keepalive
        ):
            yield "the connections are not the kernel's own (tcp_keepalive)"
    else:
        given = [key for key in _OF_THE_PROXY if key in frontend.udp.model_fields_set]
        if given:
            yield f"the kernel forgets flows by its own rules (udp.{given[0]})"
    yield from _of_backend(frontend, backend)


def _of_bind(bind: Bind) -> Iterator[str]:
    if bind.address.path or bind.address.is_name:
        yield f"{bind.address} is no IP address"
    elif why := unreachable(bind.address.host):
        yield f"{bind.address} {why}"
    if bind.accept_proxy:
        yield "the kernel knows no PROXY protocol (accept_proxy)"


def unreachable(host: str) -> str:
    """Why the kernel can balance nothing that comes to the IP address `host`; empty where it can."""
    ip = ipaddress.ip_address(host)
    if ip.version == 6 and ip.ipv4_mapped is not None:
        return f"is {ip.ipv4_mapped} written as IPv6, as no packet has it"
    if ip.is_loopback:
        return "is this host's loopback; what comes there the kernel sends nowhere else"
    return ""


def _of_backend(frontend: Frontend, backend: Backend) -> Iterator[str]:
    if backend.balance is Balance.URI:
        yield "the kernel cannot read requests (balance uri)"
    families = {_family(bind.address.host) for bind in frontend.bind}
    if any(bind.v4v6 for bind in frontend.bind):
        families.add(4)
    for name, server in backend.servers.items():
        at = f"servers.{name}"
        if server.maxconn is not None and frontend.mode == "tcp":
            yield f"the kernel counts no connections ({at}.maxconn)"
        if server.slowstart is not None and backend.balance in _FOLLOWING:
            yield f"the kernel gives a server that comes back all of its weight at once ({at}.slowstart)"
        if server.send_proxy is not None:
            yield f"the kernel knows no PROXY protocol ({at}.send_proxy)"
        if server.address.path or server.address.is_name:
            yield f"{at} is at no IP address ({server.address})"
        elif "%" in server.address.host or ipaddress.ip_address(server.address.host).is_loopback:
            yield f"no rule leads to {server.address.host} ({at})"
        elif {_family(server.address.host)} != families:
            yield f"the kernel does not turn IPv4 into IPv6 ({at})"


def _family(host: str) -> int:
    return 6 if ":" in host else 4
