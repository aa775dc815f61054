"""What is to be in the kernel: each address that clients come to, and which servers it is spread over now.

Planner     of one configuration; asked again whenever a server's state changed, and then as cheap as the change
services    the same for one time
remarks     what is not done as it was asked for, and why
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from balancer.addr import Address
from balancer.config.model import Backend, Balance, Bind, Config, DnsCheck, Frontend
from balancer.kernel.slots import Choice, is_hashed, slots
from balancer.pool.orders import ServerState

__all__ = ["Planner", "Service", "Target", "remarks", "services"]

Addresses = Mapping[tuple[str, str], Address | None]
_DNS = 53


@dataclass(frozen=True, slots=True)
class Target:
    """A server as one service reaches it."""

    server: str
    index: int
    """Its row on the board."""
    address: str
    """An IP address of the service's family."""
    port: int
    weight: int
    """0: it gets nothing new."""


@dataclass(frozen=True, slots=True)
class Service:
    """An address and port that clients come to. Its identity is protocol, address, family, port and interface."""

    frontend: str
    backend: str
    protocol: Literal["tcp", "udp"]
    address: str
    """Empty: every address of `family` that this host has."""
    family: Literal[4, 6]
    port: int
    interface: str | None
    """Only what arrives there."""
    balance: Balance
    forwarding: Literal["nat", "masquerade"]
    is_per_query: bool
    """Each datagram is balanced on its own, without state."""
    persistence: float | None
    """Seconds that a client stays with its server after its last new flow."""
    targets: tuple[Target, ...]
    """All servers that it can reach, in configuration order, whatever their states."""
    slots: tuple[int, ...]
    """For each slot a position in `targets`; none: new flows are refused."""
    is_hashed: bool
    """The client's address alone decides which slot."""
    sticky: tuple[int, ...]
    """Positions of the targets that clients may stay with (only with `persistence`)."""
    returns: tuple[int, ...]
    """Positions of the targets whose packets of an unknown flow are taken for this service's."""
    shared: tuple[int, ...]
    """Positions of the targets that are another service's too."""
    contested: tuple[int, ...]
    """Positions of the targets whose packets of an unknown flow may be this service's or another's (TCP alone)."""

    @property
    def goes_on(self) -> bool:
        """Do its connections, after another director has taken over?"""
        return self.is_hashed and self.forwarding == "nat"

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """What it is, whatever becomes of it."""
        return (self.protocol, self.address, self.family, self.port, self.interface or "")


class _Place(NamedTuple):
    """Where a frontend listens."""

    frontend: str
    backend: str
    protocol: Literal["tcp", "udp"]
    address: str
    family: Literal[4, 6]
    port: int
    interface: str | None


@dataclass(frozen=True, slots=True)
class _Seat:
    """A server that can be reached in one family."""

    server: str
    index: int
    address: str
    port: int
    is_backup: bool


class _View(NamedTuple):
    """What a backend's states come to, for the services of one family."""

    targets: tuple[Target, ...]
    slots: tuple[int, ...]
    sticky: tuple[int, ...]


class Planner:
    """The services of one configuration.

    `addresses`: of each (backend, server), None while its name has none. `index_of`: (backend, server) to its row on
    the board. `bound`: address by host name, for frontends that are bound to one; without it they have no service.
    """

    def __init__(
        self,
        config: Config,
        addresses: Addresses,
        index_of: Callable[[str, str], int],
        bound: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._places = list(_places(config, bound or {}))
        needed = dict.fromkeys((place.backend, place.family) for place in self._places)
        self._seats = {
            (backend, family): tuple(_seats(config, backend, family, addresses, index_of)) for backend, family in needed
        }
        self._are_per_query, self.ambiguous = self._per_query()
        self.goes_on = any(map(self._goes_on, self._places))
        """Has it services whose connections go on after another director has taken over?"""
        self._contested = self._claimed()
        self._returns = self._owners()
        self._shared = self._in_common()
        self._seen: dict[tuple[str, Literal[4, 6]], tuple[object, _View]] = {}
        self._made: dict[_Place, tuple[_View, Service]] = {}
        self._closed: dict[_Place, tuple[Service, Service]] = {}

    def services(
        self,
        state_of: Callable[[int], ServerState],
        loads: Mapping[int, float] | None = None,
        paused: Collection[str] = (),
    ) -> tuple[Service, ...]:
        """As the servers are now. A service that did not change is the same object as before.

        `loads`: flows by the server's row, for leastconn. `paused`: frontends that refuse whoever comes."""
        views = {of: self._view(*of, state_of, loads or {}) for of in self._seats}
        services = (self._service(place, views[place.backend, place.family]) for place in self._places)
        return tuple(
            self._refusing(place, service) if place.frontend in paused else service
            for place, service in zip(self._places, services, strict=True)
        )

    def _refusing(self, place: _Place, service: Service) -> Service:
        """As if it had no server: what goes on does."""
        known = self._closed.get(place)
        if known is None or known[0] is not service:
            known = self._closed[place] = (service, replace(service, slots=(), sticky=()))
        return known[1]

    def _view(
        self, name: str, family: Literal[4, 6], state_of: Callable[[int], ServerState], loads: Mapping[int, float]
    ) -> _View:
        backend, seats = self._config.backends[name], self._seats[name, family]
        states = [state_of(seat.index) for seat in seats]
        counts = [loads.get(seat.index, 0) for seat in seats] if backend.balance is Balance.LEASTCONN else []
        # Of a state, what matters here: the time of the last change and the like do not.
        matters = ([(state.condition, state.admin, state.weight) for state in states], counts)
        seen = self._seen.get((name, family))
        if seen is not None and seen[0] == matters:
            return seen[1]
        view = _view(backend, seats, states, counts)
        self._seen[name, family] = (matters, view)
        return view

    def _service(self, place: _Place, view: _View) -> Service:
        known = self._made.get(place)
        if known is not None and (known[0] is view or known[0] == view):
            return known[1]
        frontend, backend = self._config.frontends[place.frontend], self._config.backends[place.backend]
        service = Service(
            *place,
            balance=backend.balance,
            forwarding=frontend.forwarding,
            is_per_query=place in self._are_per_query,
            persistence=backend.persistence_timeout,
            targets=view.targets,
            slots=view.slots,
            is_hashed=is_hashed(backend.balance),
            sticky=view.sticky,
            returns=self._returns.get(place, ()),
            shared=self._shared[place],
            contested=self._contested.get(place, ()),
        )
        self._made[place] = (view, service)
        return service

    def _per_query(self) -> tuple[frozenset[_Place], tuple[str, ...]]:
        """The places whose datagrams are balanced each on its own, and the frontends that would have such
        but for a server that answers for more than one address: an answer bears no sign of which."""
        wanted = {place for place in self._places if self._wants_per_query(place)}
        users: dict[tuple[str, int], set[_Place]] = {}
        for place in self._places:
            # Of masqueraded flows the answers come to this host's own address.
            if place.protocol == "udp" and self._config.frontends[place.frontend].forwarding == "nat":
                for seat in self._seats[place.backend, place.family]:
                    users.setdefault((seat.address, seat.port), set()).add(place)
        shared = set[_Place]().union(*(places for places in users.values() if len(places) > 1))
        return frozenset(wanted - shared), tuple(dict.fromkeys(place.frontend for place in wanted if place in shared))

    def _wants_per_query(self, place: _Place) -> bool:
        frontend, backend = self._config.frontends[place.frontend], self._config.backends[place.backend]
        return _is_dns(frontend, backend, place.port) and not _why_per_flow(frontend, backend, place)

    def _is_balanced_otherwise(self, place: _Place) -> bool:
        return not is_hashed(self._config.backends[place.backend].balance)

    def _goes_on(self, place: _Place) -> bool:
        return not self._is_balanced_otherwise(place) and self._config.frontends[place.frontend].forwarding == "nat"

    def _takes_returns(self, place: _Place) -> bool:
        """Might a server's packet of an unknown flow be put back to it?"""
        is_nat = self._config.frontends[place.frontend].forwarding == "nat"
        return bool(place.address) and is_nat and place not in self._are_per_query

    def _claimed(self) -> dict[_Place, tuple[int, ...]]:
        """Those of its servers that another service has whose connections go on as well. Of datagrams the first has
        them all: what a server begins itself may bear the same port."""
        claims: dict[tuple[str, int], set[tuple[str, int]]] = {}
        places = [
            place for place in self._places
            if place.protocol == "tcp" and self._goes_on(place) and self._takes_returns(place)
        ]  # fmt: skip
        for place in places:
            for seat in self._seats[place.backend, place.family]:
                claims.setdefault((seat.address, seat.port), set()).add((place.address, place.port))
        return {
            place: tuple(
                position for position, seat in enumerate(self._seats[place.backend, place.family])
                if len(claims[seat.address, seat.port]) > 1
            )
            for place in places
        }  # fmt: skip

    def _owners(self) -> dict[_Place, tuple[int, ...]]:
        """Whose packets are put back to which service, where a server's first packet comes before the client's.
        Of two services of one server it is the first's, but for those that another director balances otherwise: they
        come after the hashed ones. What is contested nobody owns."""
        taken = {
            (place.protocol, seat.address, seat.port)
            for place, contested in self._contested.items()
            for position in contested
            for seat in [self._seats[place.backend, place.family][position]]
        }
        owned: dict[_Place, tuple[int, ...]] = {}
        for place in sorted(self._places, key=self._is_balanced_otherwise):
            if not self._takes_returns(place):
                continue
            own = []
            for position, seat in enumerate(self._seats[place.backend, place.family]):
                if (mark := (place.protocol, seat.address, seat.port)) not in taken:
                    taken.add(mark)
                    own.append(position)
            owned[place] = tuple(own)
        return owned

    def _in_common(self) -> dict[_Place, tuple[int, ...]]:
        """Binds of one address and port that differ in their interface alone count as one."""
        users: dict[tuple[str, str, int], set[tuple[str, int]]] = {}
        for place in self._places:
            for seat in self._seats[place.backend, place.family]:
                users.setdefault((place.protocol, seat.address, seat.port), set()).add((place.address, place.port))
        return {
            place: tuple(
                position for position, seat in enumerate(self._seats[place.backend, place.family])
                if len(users[place.protocol, seat.address, seat.port]) > 1
            )
            for place in self._places
        }  # fmt: skip


def services(
    config: Config,
    addresses: Addresses,
    state_of: Callable[[int], ServerState],
    index_of: Callable[[str, str], int],
    loads: Mapping[int, float] | None = None,
    *,
    bound: Mapping[str, str] | None = None,
) -> tuple[Service, ...]:
    """One for each bind of a frontend with `engine: kernel`; two for one that takes both families."""
    return Planner(config, addresses, index_of, bound).services(state_of, loads)


def remarks(
    config: Config, addresses: Addresses, bound: Mapping[str, str] | None = None, planner: Planner | None = None
) -> list[str]:
    """A line for each thing that is not done as it was asked for. `planner`: of the same, if there is one already."""
    planner = planner or Planner(config, addresses, lambda *_: 0, bound)
    lines: list[str] = []
    for name, frontend in config.frontends.items():
        if frontend.engine == "kernel":
            lines += _of_frontend(config, name, frontend, bound or {}, planner)
    families: dict[tuple[str, str], set[Literal[4, 6]]] = {}
    for place in planner._places:
        families.setdefault((place.frontend, place.backend), set()).add(place.family)
    for (name, of), own in families.items():
        reachable = {seat.server for family in own for seat in planner._seats[of, family]}
        for server in config.backends[of].servers:
            address = addresses.get((of, server))
            if server not in reachable and address is not None:
                lines.append(f"backends.{of}.servers.{server}: {address.host} {_why_out_of_reach(address, name, own)}")
    return list(dict.fromkeys(lines))


def _why_out_of_reach(address: Address, frontend: str, families: set[Literal[4, 6]]) -> str:
    if "%" in address.host:
        return "is link-local, which no rule can name; it gets nothing"
    if ipaddress.ip_address(address.host).is_loopback:
        return "is this host's loopback, where nothing that came by a network can be sent; it gets nothing"
    family, *_ = families
    return f"is not of {frontend}'s family IPv{family}; it gets nothing from there"


def _of_frontend(
    config: Config, name: str, frontend: Frontend, bound: Mapping[str, str], planner: Planner
) -> Iterator[str]:
    backend, at = config.backends[frontend.default_backend], f"frontends.{name}"
    for bind in frontend.bind:
        if bind.address.is_name and bind.address.host not in bound:
            yield f"{at}.bind: {bind.address.host} has no address; nobody is served there"
        elif bind.address.is_name and ipaddress.ip_address(bound[bind.address.host].partition("%")[0]).is_loopback:
            host = bind.address.host
            yield f"{at}.bind: {host} is this host's loopback; what comes there the kernel sends nowhere else"
    own = [place for place in planner._places if place.frontend == name]
    reasons = [_why_per_flow(frontend, backend, place) for place in own if _is_dns(frontend, backend, place.port)]
    for why in dict.fromkeys(filter(None, reasons)):
        yield f"{at}: a client's queries stay with one server while they go on: {why}"
    if name in planner.ambiguous:
        yield (
            f"{at}: a client's queries stay with one server while they go on: a server of {frontend.default_backend} "
            "has another udp frontend too, and its answers could not be told apart"
        )
    if frontend.forwarding == "nat" and frontend.mode == "tcp":
        if any(not place.address for place in own):
            yield (
                f"{at}: after a change of director a connection goes on only once its client sends: "
                "of a bind to every address nobody knows which it came to"
            )
        others = [
            place for place in own if place.address
            and len(planner._returns.get(place, ())) + len(planner._contested.get(place, ()))
            < len(planner._seats[place.backend, place.family])
        ]  # fmt: skip
        if others:
            yield (
                f"{at}: after a change of director a connection goes on only once its client sends: "
                f"a server of {frontend.default_backend} has another frontend too, which gets what it sends before"
            )


def _why_per_flow(frontend: Frontend, backend: Backend, place: _Place) -> str:
    """Why each query on its own is impossible; empty where it is not."""
    if frontend.forwarding == "masquerade":
        return "forwarding masquerade has to remember whom an answer is for"
    if backend.persistence_timeout is not None:
        return f"backends.{place.backend}.persistence_timeout wants it so"
    if not place.address:
        return "an answer must come from the address that was asked, which with a bind to every address is remembered"
    if place.interface is not None:
        return "the bind is to one interface"
    return ""


def _is_dns(frontend: Frontend, backend: Backend, port: int) -> bool:
    if frontend.mode != "udp":
        return False
    given = frontend.udp.protocol
    return given == "dns" or (given == "auto" and (port == _DNS or isinstance(backend.check, DnsCheck)))


def _places(config: Config, bound: Mapping[str, str]) -> Iterator[_Place]:
    for name, frontend in config.frontends.items():
        if frontend.engine != "kernel" or frontend.mode == "http" or frontend.default_backend not in config.backends:
            continue
        for bind in frontend.bind:
            for host, interface in _hosts(bind, bound):
                address = ipaddress.ip_address(host)
                yield _Place(
                    name, frontend.default_backend, "udp" if frontend.mode == "udp" else "tcp",
                    "" if address.is_unspecified else str(address), 6 if address.version == 6 else 4,
                    bind.address.port, interface,
                )  # fmt: skip


def _hosts(bind: Bind, bound: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """IP addresses, each with the interface that it is on, if that matters."""
    if bind.address.path:
        return
    host = bound.get(bind.address.host, "") if bind.address.is_name else bind.address.host
    if not host:
        return
    host, _, zone = host.partition("%")
    yield host, bind.interface or zone or None
    if bind.v4v6:
        yield "0.0.0.0", bind.interface


def _seats(
    config: Config, backend: str, family: int, addresses: Addresses, index_of: Callable[[str, str], int]
) -> Iterator[_Seat]:
    for name, server in config.backends[backend].servers.items():
        address = addresses.get((backend, name))
        if address is None or address.path or address.is_name or "%" in address.host:
            continue
        ip = ipaddress.ip_address(address.host)
        if ip.version == family and not ip.is_loopback:
            yield _Seat(name, index_of(backend, name), str(ip), address.port, server.backup)


def _view(backend: Backend, seats: tuple[_Seat, ...], states: list[ServerState], counts: list[float]) -> _View:
    usable = _chosen(backend, seats, [i for i, state in enumerate(states) if state.is_usable])
    # Before the first checks are through, better an unchecked server than none.
    usable = usable or _chosen(backend, seats, [i for i, state in enumerate(states) if state.is_unchecked])
    chosen = frozenset(usable)
    choices = [Choice(seats[i].server, i, states[i].weight) for i in usable]
    absent = [
        Choice(seat.server, i, weight)
        for i, seat in enumerate(seats)
        if i not in chosen and not seat.is_backup and (weight := backend.servers[seat.server].weight)
    ]
    return _View(
        targets=tuple(
            Target(seat.server, seat.index, seat.address, seat.port, states[i].weight if i in chosen else 0)
            for i, seat in enumerate(seats)
        ),
        slots=slots(
            backend.balance,
            choices,
            configured=len(backend.servers),
            absent=absent,
            loads=dict(enumerate(counts)),
            is_consistent=backend.hash_type == "consistent",
        ),
        sticky=tuple(i for i, state in enumerate(states) if state.takes_cookie)
        if backend.persistence_timeout is not None
        else (),
    )


def _chosen(backend: Backend, seats: tuple[_Seat, ...], positions: list[int]) -> list[int]:
    """Backup servers serve only where there is no other, and then the first alone or all."""
    active = [i for i in positions if not seats[i].is_backup]
    return active or (positions if backend.allbackups else positions[:1])
