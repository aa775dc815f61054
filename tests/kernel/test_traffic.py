"""What packets do under the rules: clients, a director and three servers in namespaces."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from balancer.addr import Address
from balancer.kernel import render
from balancer.kernel.counters import read
from balancer.pool.orders import Admin, Condition

from .conftest import (
    ADDRESSES,
    ADDRESSES_V6,
    CLIENT,
    CLIENT_V6,
    INSIDE,
    INSIDE_V6,
    MANY_NETWORKS,
    NETWORKS,
    OUTSIDE,
    SERVERS,
    VIP,
    VIP_2,
    VIP_V6,
    Bed,
    Kernel,
    Server,
    as_root,
    asking,
    query,
    seen_as,
    tcp,
    text,
    tried,
    until,
    who,
)

pytestmark = as_root

EACH_TWICE = {"web1": 2, "web2": 2, "web3": 2}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MAGLEV = "balance: maglev"
GENERIC = "udp: {protocol: generic}"


def place(family: int) -> str:
    return VIP if family == 4 else VIP_V6


def tcp_text(family: int = 4, **more: str) -> str:
    bind = f"'{VIP}:80'" if family == 4 else f"'[{VIP_V6}]:80'"
    return text(bind=bind, family=family, **more)  # type: ignore[arg-type]


def udp_text(family: int = 4, port: int = 53, **more: str) -> str:
    bind = f"'{VIP}:53'" if family == 4 else f"'[{VIP_V6}]:53'"
    return text(bind=bind, family=family, mode="udp", port=port, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def clients(bed: Bed, count: int) -> Iterator[list[str]]:
    """Many addresses of the client."""
    own = [f"192.168.1.{20 + i}" for i in range(count)]
    for address in own:
        bed.client.ip(f"address add {address}/24 dev eth0")
    try:
        yield own
    finally:
        for address in own:
            bed.client.ip(f"address del {address}/24 dev eth0")


def echoed(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        part = sock.recv(65536)
        assert part, "closed"
        got += part
    return got


def refused(bed: Bed, to: str = VIP, port: int = 80) -> bool:
    begin = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        tcp(bed.client, to, port)
    return time.monotonic() - begin < 0.5


# --- Who gets what, and whom the server sees ---


@FAMILIES
@pytest.mark.parametrize("forwarding", ["nat", "masquerade"])
def test_tcp(bed: Bed, family: int, forwarding: str) -> None:
    Kernel(bed, tcp_text(family, frontend=f"forwarding: {forwarding}"))
    assert tried(6, lambda: who(bed.client, place(family))) == EACH_TWICE
    client = CLIENT if family == 4 else CLIENT_V6
    inside = INSIDE if family == 4 else INSIDE_V6
    assert seen_as(bed.client, place(family)) == (client if forwarding == "nat" else inside)
    sock, _, _ = tcp(bed.client, place(family))
    assert echoed(sock, bytes(range(256)) * 4000) == bytes(range(256)) * 4000
    sock.close()


@FAMILIES
@pytest.mark.parametrize("forwarding", ["nat", "masquerade"])
def test_udp_by_flow(bed: Bed, family: int, forwarding: str) -> None:
    Kernel(bed, udp_text(family, frontend=f"{GENERIC}, forwarding: {forwarding}"))
    client = CLIENT if family == 4 else CLIENT_V6
    expected = client if forwarding == "nat" else INSIDE if family == 4 else INSIDE_V6
    names = Counter[str]()
    for _ in range(6):
        with asking(bed.client, place(family)) as asker:
            answers = {asker.ask() for _ in range(3)}
            ((name, seen),) = answers
            names[name] += 1
            assert seen == expected
    assert names == EACH_TWICE


@FAMILIES
@pytest.mark.parametrize("port", [53, 8080])
def test_udp_by_query(bed: Bed, family: int, port: int) -> None:
    """One client port, three servers, no state; a connected socket takes answers of the VIP alone."""
    Kernel(bed, udp_text(family, port=port))
    client = CLIENT if family == 4 else CLIENT_V6
    with asking(bed.client, place(family)) as asker:
        assert [asker.ask() for _ in range(6)] == [(name, client) for name in (*SERVERS, *SERVERS)]
    assert bed.flows() == 0


def test_udp_by_query_to_servers_of_different_ports(bed: Bed) -> None:
    Kernel(bed, udp_text(servers="w: {address: '10.0.100.2:53'}, x: {address: '10.0.100.3:8080', weight: 2}"))
    with asking(bed.client, VIP) as asker:
        assert tried(6, lambda: asker.ask()[0]) == {"web1": 2, "web2": 4}
    assert bed.flows() == 0


def test_udp_by_query_in_fragments(bed: Bed) -> None:
    Kernel(bed, udp_text())
    with asking(bed.client, VIP) as asker:
        asker.sock.send(query("big 4000") + b" " * 3000)
        assert len(asker.sock.recv(65536)) > 4000
    assert bed.flows() == 0


def test_udp_by_query_by_the_clients_address(bed: Bed) -> None:
    kernel = Kernel(bed, udp_text(backend=MAGLEV))
    with clients(bed, 20) as addresses:
        names = {}
        for source in addresses:
            with asking(bed.client, VIP, source=source) as asker:
                (names[source],) = {asker.ask()[0] for _ in range(3)}
        assert set(names.values()) == set(SERVERS)
        gone = names[addresses[0]]
        kernel.down(gone)
        for source, name in names.items():
            with asking(bed.client, VIP, source=source) as asker:
                answers = {asker.ask()[0] for _ in range(3)}
                assert len(answers) == 1 and gone not in answers
                assert name == gone or answers == {name}


def test_weights(bed: Bed) -> None:
    servers = "web1: {address: '10.0.100.2:80', weight: 3}, web2: {address: '10.0.100.3:80', weight: 1}"
    Kernel(bed, tcp_text(servers=servers))
    assert tried(8, lambda: who(bed.client, VIP)) == {"web1": 6, "web2": 2}


def test_random(bed: Bed) -> None:
    Kernel(bed, tcp_text(backend="balance: random"))
    shares = tried(120, lambda: who(bed.client, VIP))
    # Each outside of this less than once in a million runs.
    assert set(shares) == set(SERVERS) and min(shares.values()) > 12


def test_first(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text(backend="balance: first"))
    assert tried(3, lambda: who(bed.client, VIP)) == {"web1": 3}
    kernel.down("web1")
    assert tried(3, lambda: who(bed.client, VIP)) == {"web2": 3}


@pytest.mark.parametrize("balance", ["source", "maglev"])
def test_the_clients_address_decides(bed: Bed, balance: str) -> None:
    kernel = Kernel(bed, tcp_text(backend=f"balance: {balance}"))
    with clients(bed, 24) as addresses:
        names = {source: who(bed.client, VIP, source=source) for source in addresses}
        assert set(names.values()) == set(SERVERS)
        assert {source: who(bed.client, VIP, source=source) for source in addresses} == names
        # Another director chooses alike.
        bed.reset()
        kernel = Kernel(bed, tcp_text(backend=f"balance: {balance}"))
        assert {source: who(bed.client, VIP, source=source) for source in addresses} == names
        kernel.down("web2")
        moved = {s: n for s in addresses if (n := who(bed.client, VIP, source=s)) != names[s]}
        assert "web2" not in moved.values()
        if balance == "maglev":
            assert set(moved) == {source for source, name in names.items() if name == "web2"}


def test_leastconn(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text(backend="balance: leastconn"))
    kernel.loads = {0: 4, 1: 0, 2: 2}
    kernel.apply()
    assert [who(bed.client, VIP) for _ in range(7)] == ["web2", "web2", "web3", "web2", "web3", "web2", "web1"]


# --- Servers come and go ---


@FAMILIES
def test_drain_keeps_what_it_has(bed: Bed, family: int) -> None:
    kernel = Kernel(bed, tcp_text(family))
    sock, name, _ = tcp(bed.client, place(family))
    kernel.put(name, weight=0)
    assert name not in tried(6, lambda: who(bed.client, place(family)))
    assert echoed(sock, b"still here") == b"still here"
    sock.close()


def test_backups_step_in_and_back(bed: Bed) -> None:
    servers = ", ".join(
        f"{name}: {{address: '{ADDRESSES[name]}:80', backup: {'false' if name == 'web1' else 'true'}}}"
        for name in SERVERS
    )
    kernel = Kernel(bed, tcp_text(servers=servers))
    assert tried(2, lambda: who(bed.client, VIP)) == {"web1": 2}
    kernel.down("web1")
    assert tried(2, lambda: who(bed.client, VIP)) == {"web2": 2}
    kernel.up("web1")
    assert tried(2, lambda: who(bed.client, VIP)) == {"web1": 2}


@FAMILIES
@pytest.mark.parametrize("persistence", ["", "persistence_timeout: 60s"])
def test_no_server_is_a_reset_at_once(bed: Bed, family: int, persistence: str) -> None:
    kernel = Kernel(bed, tcp_text(family, backend=persistence))
    kernel.down(*SERVERS)
    assert refused(bed, place(family))
    with pytest.raises(ConnectionRefusedError):
        tcp(bed.director, place(family))
    kernel.up("web2")
    assert who(bed.client, place(family)) == "web2"


@FAMILIES
@pytest.mark.parametrize("protocol", ["dns", "generic"])
def test_no_server_is_port_unreachable(bed: Bed, family: int, protocol: str) -> None:
    kernel = Kernel(bed, udp_text(family, frontend=f"udp: {{protocol: {protocol}}}"))
    kernel.down(*SERVERS)
    with asking(bed.client, place(family)) as asker:
        asker.sock.send(query())
        with pytest.raises(ConnectionRefusedError):
            asker.sock.recv(100)
        kernel.up("web3")
        assert asker.ask()[0] == "web3"


def test_a_connection_of_a_dead_server_is_reset_once_its_flow_is_forgotten(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text())
    sock, _, _ = tcp(bed.client, VIP)
    kernel.down(*SERVERS)
    bed.forget_flows()
    sock.sendall(b"anybody there?")
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    sock.close()


def test_services_come_and_go_while_others_go_on(bed: Bed) -> None:
    kernel = Kernel(bed, text(bind=f"['{VIP}:80', '{VIP_2}:80']"))
    sock, _, _ = tcp(bed.client, VIP)
    both = kernel.desired
    one = both._replace(services=both.services[:1])
    bed.nft.run(render.change(both, one))
    assert refused(bed, VIP_2)
    assert echoed(sock, b"one") == b"one" and who(bed.client, VIP) in SERVERS
    bed.nft.run(render.change(one, both))
    assert who(bed.client, VIP_2) in SERVERS
    assert echoed(sock, b"two") == b"two"
    sock.close()


def test_nothing_is_refused_while_servers_change(bed: Bed) -> None:
    """Two clients, one at TCP and one at queries, meet no moment without rules in 100 changes."""
    kernel = Kernel(
        bed,
        f"frontends:\n  f: {{mode: tcp, engine: kernel, bind: '{VIP}:80', default_backend: b}}\n"
        f"  g: {{mode: udp, engine: kernel, bind: '{VIP}:53', default_backend: c}}\nbackends:\n"
        "  b: {servers: {web1: {address: '10.0.100.2:80'}, web2: {address: '10.0.100.3:80'}}}\n"
        "  c: {servers: {web1: {address: '10.0.100.2:53'}, web2: {address: '10.0.100.3:53'}}}\n",
    )
    failures: list[BaseException] = []
    done = Counter[str]()
    is_over = threading.Event()

    def connect() -> None:
        while not is_over.is_set():
            who(bed.client, VIP)
            done["tcp"] += 1

    def ask() -> None:
        with asking(bed.client, VIP) as asker:
            while not is_over.is_set():
                asker.ask()
                done["udp"] += 1

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (connect, ask)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        up, down = ("web1", "web2") if turn % 2 else ("web2", "web1")
        for backend in "bc":
            kernel.up(up, backend=backend)
            kernel.down(down, backend=backend)
        seen = done.copy()
        until(lambda seen=seen: failures or all(done[of] > seen[of] for of in ("tcp", "udp")))  # type: ignore[misc]
    is_over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(done["tcp"], done["udp"]) >= 100


# --- Persistence ---


def test_clients_stay(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text(backend="persistence_timeout: 60s"))
    with clients(bed, 3) as addresses:
        names = {source: who(bed.client, VIP, source=source) for source in addresses}
        assert set(names.values()) == set(SERVERS)
        for _ in range(3):
            assert {source: who(bed.client, VIP, source=source) for source in addresses} == names
        gone = names[addresses[0]]
        # A drained server keeps its own and gets nobody new.
        kernel.put(gone, admin=Admin.DRAIN)
        assert who(bed.client, VIP, source=addresses[0]) == gone
        assert gone not in tried(4, lambda: who(bed.client, VIP))
        # One that is down keeps nobody; who has moved stays where he is.
        kernel.put(gone, admin=Admin.READY, condition=Condition.DOWN)
        now = who(bed.client, VIP, source=addresses[0])
        assert now != gone
        kernel.up(gone)
        assert tried(3, lambda: who(bed.client, VIP, source=addresses[0])) == {now: 3}


@FAMILIES
@pytest.mark.parametrize("make", [tcp_text, udp_text])
def test_a_client_stays_while_others_take_turns(bed: Bed, make: object, family: int) -> None:
    frontend = {} if make is tcp_text else {"frontend": GENERIC}
    kernel = Kernel(bed, make(family, backend="persistence_timeout: 60s", **frontend))  # type: ignore[operator]

    def name() -> str:
        if make is tcp_text:
            return who(bed.client, place(family))
        with asking(bed.client, place(family)) as asker:
            return asker.ask()[0]

    assert tried(3, name) == {"web1": 3}
    kernel.down("web1")
    assert tried(3, name) == {"web2": 3}
    kernel.up("web1")
    assert tried(3, name) == {"web2": 3}
    kernel.put("web2", weight=0)
    assert tried(3, name) == {"web2": 3}


def test_who_stays_takes_no_turn(bed: Bed) -> None:
    Kernel(bed, tcp_text(backend="persistence_timeout: 60s"))
    with clients(bed, 3) as addresses:
        names = [tried(3, lambda source=source: who(bed.client, VIP, source=source)) for source in addresses]  # type: ignore[misc]
    assert names == [{"web1": 3}, {"web2": 3}, {"web3": 3}]


def test_where_there_is_no_room_for_a_stay_a_client_is_served_without(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_PERSISTENT_SIZE", 1)
    Kernel(bed, tcp_text(backend="persistence_timeout: 60s"))
    with clients(bed, 2) as (first, second):
        assert tried(4, lambda: who(bed.client, VIP, source=first)) == {"web1": 4}
        assert tried(4, lambda: who(bed.client, VIP, source=second)).keys() == set(SERVERS)
        assert tried(4, lambda: who(bed.client, VIP, source=first)) == {"web1": 4}


def test_who_stayed_with_a_server_that_is_configured_no_more(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text(backend="persistence_timeout: 60s"))
    with clients(bed, 3) as addresses:
        names = {source: who(bed.client, VIP, source=source) for source in addresses}
        servers = ", ".join(f"{name}: {{address: '{ADDRESSES[name]}:80'}}" for name in ("web3", "web1"))
        fewer = Kernel(bed, tcp_text(backend="persistence_timeout: 60s", servers=servers), is_there=True).desired
        bed.nft.run(render.change(kernel.desired, fewer))
        for source, name in names.items():
            (now,) = tried(3, lambda source=source: who(bed.client, VIP, source=source))  # type: ignore[misc]
            assert now == name or name == "web2"


@FAMILIES
def test_a_client_stays_with_a_server_that_moves(bed: Bed, family: int) -> None:
    hosts = ADDRESSES if family == 4 else ADDRESSES_V6
    at = {name: Address(host, 80) for name, host in hosts.items()}
    servers = ", ".join(f"{name}: {{address: '{at[name]}'}}" for name in ("web1", "web2"))
    kernel = Kernel(bed, tcp_text(family, backend="persistence_timeout: 60s", servers=servers))
    assert tried(3, lambda: who(bed.client, place(family))) == {"web1": 3}
    kernel.move("web1", at["web3"])
    assert tried(3, lambda: who(bed.client, place(family))) == {"web3": 3}
    kernel.move("web2", at["web1"])
    assert tried(3, lambda: who(bed.client, place(family))) == {"web3": 3}


def test_a_stay_ends(bed: Bed) -> None:
    Kernel(bed, tcp_text(backend="persistence_timeout: 1s"))
    first = who(bed.client, VIP)
    begin = time.monotonic()
    while time.monotonic() - begin < 1.5:
        # Each new flow begins the time anew.
        assert who(bed.client, VIP) == first
        time.sleep(0.05)
    time.sleep(1.2)
    assert who(bed.client, VIP) != first


# --- Who asks whom ---


def test_every_address_of_this_host(bed: Bed) -> None:
    kernel = Kernel(bed, text(bind="'*:80'"))
    for to in (VIP, OUTSIDE, VIP_2):
        assert who(bed.client, to) in SERVERS
    assert who(bed.director, INSIDE) in SERVERS
    # Somebody else's address is no affair of ours.
    assert who(bed.client, ADDRESSES["web2"]) == "web2"
    assert sum(tally.flows for tally in read(bed.nft, kernel.services).values()) == 4
    # What listens at loopback goes on being reached there.
    with bed.director, socket.create_server(("127.0.0.1", 80)) as own, socket.create_connection(own.getsockname()):
        own.accept()[0].close()
    kernel.down(*SERVERS)
    assert refused(bed, OUTSIDE)


def test_one_interface_alone(bed: Bed) -> None:
    Kernel(bed, text(bind=f"{{address: '{VIP}:80', interface: eth0}}"))
    assert who(bed.client, VIP) in SERVERS
    with pytest.raises(ConnectionRefusedError):
        tcp(bed.hosts["web1"], VIP)


@pytest.mark.parametrize("make", [tcp_text, udp_text])
@FAMILIES
def test_clients_on_the_director_itself(bed: Bed, make: object, family: int) -> None:
    Kernel(bed, make(family))  # type: ignore[operator]
    inside = INSIDE if family == 4 else INSIDE_V6
    if make is tcp_text:
        assert tried(6, lambda: who(bed.director, place(family))) == EACH_TWICE
        assert seen_as(bed.director, place(family)) == inside
    else:
        with asking(bed.director, place(family)) as asker:
            assert {seen for _, seen in (asker.ask(), asker.ask())} == {inside}


@pytest.mark.parametrize("make", [tcp_text, udp_text])
@pytest.mark.parametrize("networks", [NETWORKS, MANY_NETWORKS], ids=["few", "many"])
@FAMILIES
def test_a_server_is_a_client_too(bed: Bed, make: object, family: int, networks: tuple[Any, ...]) -> None:
    """Even when it comes to be its own server: the answer must come back through the director."""
    Kernel(bed, make(family), networks=networks)  # type: ignore[operator]
    inside, names = INSIDE if family == 4 else INSIDE_V6, set()
    for _ in range(3):
        if make is tcp_text:
            sock, name, seen = tcp(bed.hosts["web1"], place(family))
            sock.close()
        else:
            with asking(bed.hosts["web1"], place(family)) as asker:
                name, seen = asker.ask()
        names.add(name)
        assert seen == inside
    assert names == set(SERVERS)


@pytest.mark.parametrize("make", [tcp_text, udp_text])
def test_straight_to_a_server(bed: Bed, make: object) -> None:
    """Through the director, past the service: answered by the server's own address, before and after."""
    Kernel(bed, make())  # type: ignore[operator]
    for net, seen in ((bed.client, CLIENT), (bed.director, INSIDE)):
        if make is tcp_text:
            assert who(net, ADDRESSES["web2"]) == "web2"
            assert seen_as(net, ADDRESSES["web2"]) == seen
        else:
            with asking(net, ADDRESSES["web2"]) as straight, asking(net, VIP) as through:
                for _ in range(3):
                    assert straight.ask() == ("web2", seen)
                    assert through.ask()[0] in SERVERS


def test_straight_to_a_server_from_the_services_own_address(bed: Bed) -> None:
    """The director's own answers are told by the servers' network; this one is not of it."""
    kernel = Kernel(bed, udp_text())
    with asking(bed.director, ADDRESSES["web2"], source=VIP) as straight, asking(bed.client, VIP) as through:
        for _ in range(3):
            assert straight.ask() == ("web2", VIP)
            assert through.ask()[0] in SERVERS
        port = straight.sock.getsockname()[1]
    # Its answers keep the state that a firewall of this host may go by.
    assert f"{VIP} . {port} . {ADDRESSES['web2']} . 53" in bed.nft.run(f"list set {render.TABLE} direct4")
    rules = render.whole(kernel.desired).splitlines()
    # Else it would prove nothing.
    assert not any(" raw " in rule and "fib" in rule for rule in rules)


@FAMILIES
def test_a_server_on_the_director_itself(bed: Bed, family: int) -> None:
    address, client = (INSIDE, CLIENT) if family == 4 else (INSIDE_V6, CLIENT_V6)
    own = Server(bed.director, "own")
    own.listen(8080, address)
    own.start()
    try:
        at = address if family == 4 else f"[{address}]"
        servers = f"own: {{address: '{at}:8080'}}"
        kernel = Kernel(bed, tcp_text(family, servers=servers))
        assert seen_as(bed.client, place(family)) == client
        assert who(bed.director, place(family)) == "own"
        assert read(bed.nft, kernel.services)["f", "own"].flows == 2
        kernel = Kernel(bed, udp_text(family, servers=servers))
        bed.forget_flows()
        with asking(bed.client, place(family)) as asker:
            assert [asker.ask() for _ in range(3)] == [("own", client)] * 3
        assert bed.flows() == 0
        tally = read(bed.nft, kernel.services)["f", "own"]
        assert (tally.packets_in, tally.packets_out) == (3, 3)
        with asking(bed.director, place(family)) as asker:
            assert asker.ask()[0] == "own"
        with asking(bed.director, address, 8080) as asker:
            assert asker.ask()[0] == "own"
    finally:
        own.stop()


def test_two_services_of_one_server(bed: Bed) -> None:
    kernel = Kernel(
        bed,
        "frontends:\n"
        f"  f: {{mode: tcp, engine: kernel, bind: '{VIP}:80', default_backend: b}}\n"
        f"  g: {{mode: tcp, engine: kernel, bind: '{VIP_2}:81', forwarding: masquerade, default_backend: b}}\n"
        f"  d: {{mode: udp, engine: kernel, bind: ['{VIP}:53', '{VIP_2}:53'], default_backend: c}}\n"
        "backends:\n  b: {servers: {web1: {address: '10.0.100.2:80'}}}\n"
        "  c: {servers: {web1: {address: '10.0.100.2:53'}, web2: {address: '10.0.100.3:53'}}}\n",
    )
    assert seen_as(bed.client, VIP) == CLIENT
    assert seen_as(bed.client, VIP_2, 81) == INSIDE
    with asking(bed.client, VIP) as one, asking(bed.client, VIP_2) as other:
        for _ in range(3):
            assert one.ask()[1] == other.ask()[1] == CLIENT
    tallies = read(bed.nft, kernel.services)
    assert (tallies["f", "web1"].flows, tallies["g", "web1"].flows) == (1, 1)
    assert tallies["d", "web1"].flows + tallies["d", "web2"].flows == 2


def test_the_inner_networks_way_out(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text() + "gateway: {masquerade: [{source: 10.0.100.0/24, interface: eth0}]}\n")
    with bed.client, socket.create_server((CLIENT, 9000)) as listener:
        listener.settimeout(5)
        with bed.hosts["web1"]:
            sock = socket.create_connection((CLIENT, 9000), timeout=5)
        connection, peer = listener.accept()
        assert peer[0] == OUTSIDE
        sock.close()
        connection.close()
    # And it does not meddle with answers.
    assert seen_as(bed.client, VIP) == CLIENT
    assert kernel.desired.gateway.masquerade


# --- A director takes over ---


def took_over(bed: Bed, config: str) -> Kernel:
    """As on another director: the same rules made anew, and no flow known."""
    bed.nft.run(render.nothing())
    bed.forget_flows()
    return Kernel(bed, config)


@FAMILIES
@pytest.mark.parametrize("first", ["client", "server"])
def test_connections_go_on_whoever_is_heard_first(bed: Bed, family: int, first: str) -> None:
    config = tcp_text(family, backend=MAGLEV)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, place(family))
    assert echoed(sock, b"before") == b"before"
    server = bed.servers[name].connections[sock.getsockname()[:2]]
    for _ in range(3):
        kernel = took_over(bed, config)
        if first == "client":
            assert echoed(sock, b"from the client") == b"from the client"
        server.sendall(b"from the server")
        assert sock.recv(100) == b"from the server"
        assert echoed(sock, b"and back") == b"and back"
        tally = read(bed.nft, kernel.services)["f", name]
        assert tally.packets_in > 1 and tally.packets_out > 1
    sock.close()


@FAMILIES
def test_a_servers_last_word_comes_through(bed: Bed, family: int) -> None:
    """Data and FIN in one segment that the new director never heard of before: conntrack calls it invalid."""
    config = tcp_text(family, backend=MAGLEV)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, place(family))
    server = bed.servers[name].connections[sock.getsockname()[:2]]
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    took_over(bed, config)
    server.sendall(b"farewell")
    server.shutdown(socket.SHUT_WR)
    assert sock.recv(100) == b"farewell"
    assert sock.recv(100) == b""
    sock.close()


def test_all_of_many_downloads_go_on(bed: Bed) -> None:
    config = tcp_text(backend=MAGLEV)
    Kernel(bed, config)
    with clients(bed, 12) as addresses:
        socks = [tcp(bed.client, VIP, source=source) for source in addresses]
        assert len({name for _, name, _ in socks}) == 3
        for turn in range(4):
            took_over(bed, config)
            for sock, name, _ in socks:
                bed.servers[name].connections[sock.getsockname()].sendall(b"part %d" % turn)
            for sock, _, _ in socks:
                assert sock.recv(100) == b"part %d" % turn
        for sock, _, _ in socks:
            sock.close()


@FAMILIES
def test_udp_flows_go_on(bed: Bed, family: int) -> None:
    config = udp_text(family, frontend=GENERIC, backend=MAGLEV)
    Kernel(bed, config)
    with asking(bed.client, place(family)) as asker:
        name, _ = asker.ask()
        took_over(bed, config)
        assert asker.ask()[0] == name
        took_over(bed, config)
        host, port = asker.sock.getsockname()[:2]
        to = f"::ffff:{host}" if family == 4 else host
        bed.servers[name].datagrams[53].sendto(b"unasked", (to, port))
        assert asker.sock.recv(100) == b"unasked"
        assert asker.ask()[0] == name


def test_a_stray_segment_is_dropped_and_not_answered(bed: Bed) -> None:
    """A SYN-ACK for no flow, to the service. With a reset in answer to such, a flow could be killed."""
    Kernel(bed, tcp_text())
    with bed.client:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.settimeout(0.3)
    raw.connect((VIP, 0))
    for flags in (0x12, 0x11, 0x04):
        raw.send(segment(CLIENT, VIP, 4242, 80, flags))
    # What is answered is answered in turn; to another port it is, as ever.
    raw.send(segment(CLIENT, VIP, 4242, 81, 0x12))
    ports = []
    while not ports or ports[-1] != 81:
        answer = raw.recv(100)
        ports += [int.from_bytes(answer[20:22])] * (int.from_bytes(answer[22:24]) == 4242)
    assert ports == [81]
    assert not any(server.seen for server in bed.servers.values())
    raw.close()


@FAMILIES
def test_a_connection_of_a_process_here_goes_on_when_rules_come(bed: Bed, family: int) -> None:
    """As those that were proxied until then. New ones are balanced at once, although the old socket still listens."""
    own = Server(bed.director, "own")
    own.listen(80, place(family))
    own.start()
    try:
        sock, name, _ = tcp(bed.client, place(family))
        assert name == "own"
        bed.forget_flows()
        Kernel(bed, tcp_text(family, backend="balance: source"))
        assert echoed(sock, b"to whom?" * 1000) == b"to whom?" * 1000
        assert who(bed.client, place(family)) in SERVERS
        sock.close()
    finally:
        own.stop()


def segment(source: str, to: str, sport: int, dport: int, flags: int) -> bytes:
    header = sport.to_bytes(2) + dport.to_bytes(2) + bytes(8) + bytes([0x50, flags]) + (1024).to_bytes(2) + bytes(4)
    pseudo = socket.inet_aton(source) + socket.inet_aton(to) + bytes([0, 6]) + len(header).to_bytes(2)
    data = pseudo + header
    total = sum(int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + (total ^ 0xFFFF).to_bytes(2) + header[18:]


# --- Others' rules ---

FOREIGN = """\
table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		tcp dport 81 drop
	}
}
table inet firewall {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
"""


def test_others_rules_are_as_they_were(bed: Bed) -> None:
    bed.nft.run(FOREIGN)
    foreign = bed.nft.run("list ruleset")
    kernel = Kernel(bed, tcp_text())
    kernel.down("web1")
    assert bed.nft.run("list ruleset").startswith(foreign)
    assert who(bed.client, VIP) in SERVERS
    bed.nft.run(render.nothing())
    assert bed.nft.run("list ruleset") == foreign


@pytest.mark.parametrize(
    "left", ["", "add chain inet pybalancer x { type filter hook forward priority 0; policy drop; }"]
)
def test_what_was_left_is_replaced(bed: Bed, left: str) -> None:
    bed.nft.run(f"add table inet pybalancer\nadd set inet pybalancer services4 {{ type mark; }}\n{left}")
    Kernel(bed, tcp_text())
    once = bed.nft.run("list chains")
    sock, _, _ = tcp(bed.client, VIP)
    Kernel(bed, tcp_text())
    assert bed.nft.run("list chains") == once
    assert echoed(sock, b"through a new start") == b"through a new start"
    sock.close()


def test_a_firewall_sees_servers_on_the_way_and_what_it_drops_is_not_counted(bed: Bed) -> None:
    kernel = Kernel(bed, tcp_text())
    bed.nft.run("add table ip filter\nadd chain ip filter f { type filter hook forward priority 0; }\n"
                f"add rule ip filter f ip daddr {ADDRESSES['web1']} tcp dport 80 drop")  # fmt: skip
    with bed.client:
        sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex((VIP, 80)) == errno.EINPROGRESS
    time.sleep(0.1)
    tallies = read(bed.nft, kernel.services)
    assert {name: tally.packets_in for (_, name), tally in tallies.items()} == dict.fromkeys(SERVERS, 0)
    sock.close()
