"""What has to be had before virtual routers can be others: what of it is refused leaves those of now as they are."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from balancer.addr import Address
from balancer.config import effective
from balancer.config.vrrp import Vrrp, VrrpInstance
from balancer.errors import StartError
from balancer.vrrp.peers import Peers

__all__ = ["Claim", "Coming", "beat_interval", "claim_of"]


class Claim(NamedTuple):
    """What one process of a host alone may be."""

    interface: str
    vrid: int
    ip_version: int


def claim_of(instance: VrrpInstance) -> Claim:
    """That of a virtual router."""
    return Claim(instance.interface, instance.virtual_router_id, 6 if effective.is_ipv6(instance) else 4)


class Coming:
    """`vrrp` beside what is there: the `claims` that are held, and the socket that the heartbeat is `bound` to.
    StartError: then nothing is left."""

    def __init__(
        self,
        vrrp: Vrrp,
        claims: Collection[Claim] = (),
        bound: Address | None = None,
        *,
        node: str,
        log: Callable[[str, bool], None],
        spawn: Callable[[Sequence[str]], int],
    ) -> None:
        self.vrrp = vrrp
        self.spawn = spawn
        self.claims: dict[Claim, socket.socket] = {}
        """The new ones."""
        self.peers: Peers | None = None
        """With a new socket."""
        try:
            for name, instance in vrrp.instances.items():
                claim = claim_of(instance)
                if claim not in claims:
                    self.claims[claim] = _claimed(claim, name)
            if vrrp.heartbeat is not None and vrrp.instances and vrrp.heartbeat.bind != bound:
                self.peers = _peers(vrrp, node, log)
        except StartError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all of it; in a child too."""
        for lock in self.claims.values():
            lock.close()
        if self.peers is not None:
            self.peers.close()


def _claimed(claim: Claim, name: str) -> socket.socket:
    """A second copy on one host would not hear the first: both would be master. StartError where there is one.

    The name of a socket, which goes with the process that has it, and is known in one network namespace alone.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0pybalancer/vrrp/{claim.interface}/{claim.vrid}/{claim.ip_version}".encode())
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise StartError(f"vrrp.instances.{name}: {error}") from error
        raise StartError(
            f"vrrp.instances.{name}: another pybalancer on this host is virtual router {claim.vrid} "
            f"on {claim.interface} already"
        ) from None
    return lock


def beat_interval(vrrp: Vrrp) -> float:
    """Seconds between two heartbeats, where there are any."""
    assert vrrp.heartbeat is not None
    return vrrp.heartbeat.interval or min(instance.advert_int for instance in vrrp.instances.values())


def _peers(vrrp: Vrrp, node: str, log: Callable[[str, bool], None]) -> Peers:
    assert vrrp.heartbeat is not None
    try:
        return Peers(vrrp.heartbeat, node=node, interval=beat_interval(vrrp), log=log)
    except OSError as error:
        raise StartError(f"vrrp.heartbeat.bind: {vrrp.heartbeat.bind}: {error.strerror}") from error
