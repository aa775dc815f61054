from __future__ import annotations

import pytest

from balancer.addr import Address, parse_address
from balancer.config.model import Balance, Config
from balancer.kernel.plan import Planner, Service, Target, remarks, services
from balancer.pool.orders import Admin, Condition, ServerState

from .conftest import VIP, load, pairs_of, text

UP, DOWN, NEW = ServerState(Condition.UP), ServerState(Condition.DOWN), ServerState()
STAY = "frontends.f0: a client's queries stay with one server while they go on:"
BOTH = "w: {address: '10.0.0.1:80'}, x: {address: '[fd00::1]:80'}"


def addresses(config: Config) -> dict[tuple[str, str], Address | None]:
    found = {(of, server): config.backends[of].servers[server].address for of, server in pairs_of(config)}
    return {pair: None if address.is_name else address for pair, address in found.items()}


def made(config: Config | str, *states: ServerState, **more: object) -> tuple[Service, ...]:
    config = load(config) if isinstance(config, str) else config
    rows = pairs_of(config)
    given = states or (UP,) * len(rows)
    return services(config, addresses(config), given.__getitem__, lambda *pair: rows.index(pair), **more)  # type: ignore[arg-type]


def said(config: str, **more: object) -> list[str]:
    loaded = load(config)
    return remarks(loaded, addresses(loaded), **more)  # type: ignore[arg-type]


def test_one_service() -> None:
    (service,) = made(text(servers="w: {address: '10.0.0.1:8080', weight: 3}"), UP._replace(weight=3))
    assert service == Service(
        frontend="f", backend="b", protocol="tcp", address="192.168.1.200", family=4, port=80, interface=None,
        balance=Balance.ROUNDROBIN, forwarding="nat", is_per_query=False, persistence=None,
        targets=(Target("w", 0, "10.0.0.1", 8080, 3),), slots=(0,), is_hashed=False, sticky=(), returns=(0,), shared=(),
        contested=(),
    )  # fmt: skip
    assert service.key == ("tcp", "192.168.1.200", 4, 80, "")


def test_frontends_of_the_proxy_are_not_ours() -> None:
    assert made(text().replace("engine: kernel", "engine: proxy")) == ()


def test_each_bind_is_a_service() -> None:
    binds = "['10.0.0.9:1', '*:2', {address: '[::]:3', v4v6: true}, {address: '10.0.0.9:4', interface: eth0}]"
    found = [(s.address, s.family, s.port, s.interface) for s in made(text(bind=binds, servers=BOTH))]
    assert found == [
        ("10.0.0.9", 4, 1, None), ("", 4, 2, None), ("", 6, 3, None), ("", 4, 3, None), ("10.0.0.9", 4, 4, "eth0")
    ]  # fmt: skip


def test_addresses_are_written_as_the_kernel_does() -> None:
    (service,) = made(text(bind="'[2001:DB8:0::C8]:80'", servers="x: {address: '[FD00:0::1]:80'}"))
    assert (service.address, service.targets[0].address) == ("2001:db8::c8", "fd00::1")


def test_a_link_local_bind_is_on_its_interface() -> None:
    (service,) = made(text(bind="'[fe80::1%lo]:80'", servers=BOTH))
    assert (service.address, service.interface) == ("fe80::1", "lo")


def test_a_family_has_its_own_servers() -> None:
    four, six = made(text(bind="['10.0.0.9:1', '[fd00::9]:1']", servers=BOTH))
    assert [target.server for target in four.targets] == ["w"]
    assert [target.server for target in six.targets] == ["x"]


def test_names_are_resolved_by_others() -> None:
    config = load(text(bind="'vip.example:80'", servers="w: {address: 'w.example:80'}, x: {address: '10.0.0.2:80'}"))
    assert made(config) == ()
    (service,) = made(config, bound={"vip.example": "10.0.0.9"})
    assert service.address == "10.0.0.9"
    assert [target.server for target in service.targets] == ["x"]


@pytest.mark.parametrize(
    ("states", "slots"),
    [
        ((UP, UP, UP), (0, 1)),
        ((UP, DOWN, UP), (0,)),
        ((DOWN, DOWN, UP), (2,)),
        ((DOWN, DOWN, DOWN), ()),
        ((UP._replace(admin=Admin.DRAIN), UP, UP), (1,)),
        ((UP._replace(weight=0), UP, UP), (1,)),
        ((UP._replace(admin=Admin.MAINT), DOWN, DOWN), ()),
        ((NEW, NEW, NEW), (0, 1)),
        ((NEW, UP, NEW), (1,)),
        ((NEW, DOWN, NEW), (0,)),
    ],
)
def test_who_gets_something_new(states: tuple[ServerState, ...], slots: tuple[int, ...]) -> None:
    servers = "w: {address: '10.0.0.1:80'}, x: {address: '10.0.0.2:80'}, y: {address: '10.0.0.3:80', backup: true}"
    (service,) = made(text(servers=servers), *states)
    assert service.slots == slots
    assert [target.weight > 0 for target in service.targets] == [i in slots for i in range(3)]


def test_backups_all_or_the_first() -> None:
    servers = ", ".join(f"w{i}: {{address: '10.0.0.{i}:80', backup: true}}" for i in (1, 2))
    assert made(text(servers=servers))[0].slots == (0,)
    assert made(text(servers=servers, backend="allbackups: true"))[0].slots == (0, 1)


def test_clients_stay_with_a_server_that_drains_but_not_with_one_that_is_down() -> None:
    config = load(text(backend="persistence_timeout: 60s"))
    (service,) = made(config, UP._replace(admin=Admin.DRAIN), DOWN, UP)
    assert (service.persistence, service.sticky, service.slots) == (60, (0, 2), (2,))
    assert made(text(), UP, UP, UP)[0].sticky == ()


def test_what_did_not_change_is_the_same_object() -> None:
    config = load(
        "frontends:\n  f: {mode: tcp, engine: kernel, bind: '10.0.0.1:1', default_backend: b}\n"
        "  g: {mode: tcp, engine: kernel, bind: '10.0.0.1:2', default_backend: c}\n"
        "backends:\n  b: {servers: {w: {address: '10.0.1.1:80'}, x: {address: '10.0.1.2:80'}}}\n"
        "  c: {balance: leastconn, servers: {w: {address: '10.0.1.1:81'}, x: {address: '10.0.1.2:81'}}}\n"
    )
    rows = pairs_of(config)
    planner = Planner(config, addresses(config), lambda *pair: rows.index(pair))
    states = [UP] * 4
    first = planner.services(states.__getitem__)
    states[0] = DOWN
    second = planner.services(states.__getitem__)
    assert second[0].slots == (1,) and second[1] is first[1]
    states[1] = UP._replace(last_change=9, health=3)
    assert planner.services(states.__getitem__)[0] is second[0]
    third = planner.services(states.__getitem__, {2: 5, 3: 0})
    assert third[0] is second[0]
    assert third[1].slots[:5] == (1,) * 5


def dns(*frontends: str) -> str:
    lines = "".join(f"  f{i}: {{mode: udp, engine: kernel, {of}}}\n" for i, of in enumerate(frontends))
    return f"frontends:\n{lines}backends:\n  b: {{servers: {{w: {{address: '10.0.1.1:53'}}}}}}\n"


@pytest.mark.parametrize(
    ("frontend", "is_per_query", "why"),
    [
        ("bind: '10.0.0.1:53'", True, ""),
        ("bind: '10.0.0.1:5353'", False, ""),
        ("bind: '10.0.0.1:5353', udp: {protocol: dns}", True, ""),
        ("bind: '10.0.0.1:53', udp: {protocol: generic}", False, ""),
        ("bind: '10.0.0.1:53', forwarding: masquerade", False,
         "forwarding masquerade has to remember whom an answer is for"),
        ("bind: '*:53'", False,
         "an answer must come from the address that was asked, which with a bind to every address is remembered"),
        ("bind: {address: '10.0.0.1:53', interface: eth0}", False, "the bind is to one interface"),
    ],
)  # fmt: skip
def test_what_is_balanced_query_by_query(frontend: str, is_per_query: bool, why: str) -> None:
    config = dns(f"{frontend}, default_backend: b")
    assert [service.is_per_query for service in made(config)] == [is_per_query]
    assert said(config) == ([f"{STAY} {why}"] if why else [])


def test_a_dns_check_makes_it_dns() -> None:
    config = dns("bind: '10.0.0.1:5353', default_backend: b").replace("b: {", "b: {check: {type: dns}, ")
    assert [service.is_per_query for service in made(config)] == [True]


def test_persistence_is_a_reason_too() -> None:
    config = dns("bind: '10.0.0.1:53', default_backend: b").replace("b: {s", "b: {persistence_timeout: 9s, s")
    assert [service.is_per_query for service in made(config)] == [False]
    assert said(config) == [f"{STAY} backends.b.persistence_timeout wants it so"]


def test_a_server_that_answers_for_two_addresses_needs_state() -> None:
    config = dns("bind: '10.0.0.1:53', default_backend: b", "bind: '10.0.0.2:53', default_backend: b")
    assert [service.is_per_query for service in made(config)] == [False, False]
    assert said(config) == [
        f"frontends.f{i}: a client's queries stay with one server while they go on: a server of b has another udp "
        "frontend too, and its answers could not be told apart"
        for i in (0, 1)
    ]
    # The answers to a masqueraded flow come to this host, and to nobody else.
    assert [s.is_per_query for s in made(config.replace("'10.0.0.2:53'", "'10.0.0.2:53', forwarding: masquerade"))] == [
        True, False
    ]  # fmt: skip


def test_whose_packets_of_no_known_flow_are_whose() -> None:
    config = text(bind="['10.0.0.9:80', '10.0.0.9:81', '*:82']")
    assert [service.returns for service in made(config)] == [(0, 1, 2), (), ()]
    assert made(text(frontend="forwarding: masquerade"))[0].returns == ()
    assert said(config) == [
        "frontends.f: after a change of director a connection goes on only once its client sends: "
        "of a bind to every address nobody knows which it came to",
        "frontends.f: after a change of director a connection goes on only once its client sends: "
        "a server of b has another frontend too, which gets what it sends before",
    ]


def test_what_several_services_that_go_on_have_is_contested() -> None:
    """Whose first packet after a change of director nobody can tell; of one that does not go on it is not."""
    twins = text(bind="['10.0.0.9:80', '10.0.0.9:81', '*:82']", backend="balance: maglev")
    made_of = made(twins)
    assert [service.contested for service in made_of] == [(0, 1, 2), (0, 1, 2), ()]
    assert [service.returns for service in made_of] == [(), (), ()]
    assert all(service.goes_on for service in made_of)
    assert not any("another frontend" in line for line in said(twins))
    # Of a server that only one of them has it is that one's, and of the hashed one where the other is not.
    more = twins + "  c: {servers: {web1: {address: '10.0.100.2:80'}, x: {address: '10.0.100.9:80'}}}\n"
    assert [service.contested for service in made(more)][:2] == [(0, 1, 2)] * 2
    mixed = more.replace("'10.0.0.9:81', '*:82'", "'*:82'").replace(
        "backends:", "  g: {mode: tcp, engine: kernel, bind: '10.0.0.9:90', default_backend: c}\nbackends:"
    )
    assert [(s.contested, s.returns) for s in made(mixed)] == [((), (0, 1, 2)), ((), ()), ((), (1,))]
    # What a server sends from a port at which datagrams come need not be an answer.
    assert [s.contested for s in made(twins.replace("mode: tcp", "mode: udp, udp: {protocol: generic}"))] == [()] * 3
    for other in ("balance: roundrobin", "balance: leastconn"):
        assert not any(s.contested or s.goes_on for s in made(twins.replace("balance: maglev", other)))


def test_servers_out_of_reach_are_told_of() -> None:
    servers = "w: {address: '[fd00::1]:80'}, x: {address: '127.0.0.1:80'}, y: {address: '10.0.0.1:80'}"
    assert said(text(servers=servers)) == [
        "backends.b.servers.w: fd00::1 is not of f's family IPv4; it gets nothing from there",
        "backends.b.servers.x: 127.0.0.1 is this host's loopback, where nothing that came by a network can be sent; "
        "it gets nothing",
    ]


def test_a_server_is_out_of_reach_where_no_bind_reaches_it() -> None:
    both = text(bind="['192.0.2.1:80', '[2001:db8::1]:80']", servers=BOTH)
    assert said(both) == []
    nowhere = both.replace("10.0.0.1", "127.0.0.1")
    assert [line for line in said(nowhere) if "loopback" not in line] == []
    assert len(said(nowhere)) == 1


def test_what_one_frontend_cannot_reach_another_may() -> None:
    config = (
        "frontends:\n  f: {mode: tcp, engine: kernel, bind: '192.0.2.1:80', default_backend: b}\n"
        "  g: {mode: tcp, engine: kernel, bind: '[::]:80', default_backend: b}\n"
        f"backends:\n  b: {{servers: {{{BOTH}}}}}\n"
    )
    assert [line for line in said(config) if line.startswith("backends.")] == [
        "backends.b.servers.x: fd00::1 is not of f's family IPv4; it gets nothing from there",
        "backends.b.servers.w: 10.0.0.1 is not of g's family IPv6; it gets nothing from there",
    ]


def test_further_remarks() -> None:
    named = text(bind="'vip.example:80'")
    assert said(named) == ["frontends.f.bind: vip.example has no address; nobody is served there"]
    assert said(named, bound={"vip.example": VIP}) == []
    assert said(named, bound={"vip.example": "127.0.1.1"}) == [
        "frontends.f.bind: vip.example is this host's loopback; what comes there the kernel sends nowhere else"
    ]
    assert said(text()) == []
    assert parse_address("vip.example:80").is_name


def test_a_frontend_that_is_paused_has_no_slots_and_all_else() -> None:
    config = load(text(servers="w: {address: '10.0.0.1:8080'}"))
    planner = Planner(config, addresses(config), lambda *_: 0)
    (service,) = planner.services(lambda _: UP)
    (paused,) = planner.services(lambda _: UP, paused=("f",))
    assert (paused.slots, paused.sticky, paused.targets) == ((), (), service.targets)
    assert planner.services(lambda _: UP, paused=("f",))[0] is paused
    assert planner.services(lambda _: UP, paused=("g",))[0] is service
