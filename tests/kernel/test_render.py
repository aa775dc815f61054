"""The text, and that the kernel makes the same of a change as of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config.model import Gateway, Masquerade
from balancer.kernel import render
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Planner, Service
from balancer.kernel.render import Desired
from balancer.pool.orders import Admin, Condition, ServerState
from tests.vrrp.conftest import Net

from .conftest import MANY_NETWORKS, NETWORKS, VIP_V6, as_root, load, pairs_of, text

GOLDEN = Path(__file__).parent / "golden"
GATEWAY = Gateway(masquerade=(Masquerade(source="10.0.100.0/24", interface="eth0"),))
UP = ServerState(Condition.UP)

MIXED = """\
frontends:
  all: {mode: tcp, engine: kernel, bind: ['*:80', '[::]:80'], default_backend: web}
  nic: {mode: tcp, engine: kernel, bind: {address: '10.0.0.1:81', interface: eth0.7}, default_backend: web}
  nics: {mode: udp, engine: kernel, bind: {address: '*:81', interface: eth1}, default_backend: web}
  masked: {mode: tcp, engine: kernel, forwarding: masquerade, bind: '10.0.0.1:82', default_backend: hashed}
  kept: {mode: tcp, engine: kernel, bind: '10.0.0.1:83', default_backend: kept}
  dns: {mode: udp, engine: kernel, bind: ['10.0.0.1:53', '[fd00::1]:53'], default_backend: dns}
  empty: {mode: tcp, engine: kernel, bind: '10.0.0.1:84', default_backend: empty}
  twins: {mode: tcp, engine: kernel, bind: ['10.0.0.1:85', '10.0.0.1:86', '*:87'], default_backend: hashed}
backends:
  web: {servers: {a: {address: '10.1.0.1:80', weight: 2}, b: {address: '10.1.0.2:80'}, c: {address: '[fd01::1]:80'}}}
  hashed: {balance: source, servers: {a: {address: '10.1.0.1:8', weight: 9}, b: {address: '10.1.0.2:8', weight: 3}}}
  kept: {balance: random, persistence_timeout: 90s, servers: {a: {address: '10.1.0.1:9'}, b: {address: '10.1.0.2:9'}}}
  dns: {servers: {a: {address: '10.1.0.1:53'}, b: {address: '10.1.0.2:5353'}, c: {address: '[fd01::1]:5353'}}}
  empty: {servers: {a: {address: '10.1.0.1:99', weight: 0}}}
"""


HASHED = """\
frontends:
  own: {mode: tcp, engine: kernel, bind: ['10.0.0.1:80', '*:81', '[fd00::1]:80'], default_backend: own}
  twins: {mode: tcp, engine: kernel, bind: ['10.0.0.1:82', '10.0.0.1:83', '[fd00::1]:83'], default_backend: both}
backends:
  own: {balance: source, servers: {a: {address: '10.1.0.1:80'}, c: {address: '[fd01::1]:80'}}}
  both: {balance: source, servers: {a: {address: '10.1.0.1:83'}, c: {address: '[fd01::1]:83'}}}
"""


def desired(config: str, *states: ServerState, **more: Any) -> Desired:
    loaded = load(config)
    rows = pairs_of(loaded)
    servers = {pair: loaded.backends[pair[0]].servers[pair[1]] for pair in rows}
    planner = Planner(loaded, {pair: of.address for pair, of in servers.items()}, lambda *pair: rows.index(pair))
    given = states or [UP._replace(weight=servers[pair].weight) for pair in rows]
    return Desired(planner.services(given.__getitem__), **more)


WHOLE: dict[str, Callable[[], Desired]] = {
    "nothing": Desired,
    "gateway": lambda: Desired(gateway=GATEWAY),
    "nat": lambda: desired(text(), networks=NETWORKS, gateway=GATEWAY),
    "per_query": lambda: desired(text(mode="udp", bind="'192.168.1.200:53'", port=53), networks=NETWORKS),
    "networks": lambda: desired(text(), networks=MANY_NETWORKS),
    "mixed": lambda: desired(MIXED),
    "hashed": lambda: desired(HASHED, group=28770),
}
WEB, KEPT = text(), text(backend="persistence_timeout: 300s")
DOWN, DRAIN = ServerState(Condition.DOWN), UP._replace(admin=Admin.DRAIN)
CHANGES: dict[str, Callable[[], tuple[Desired, Desired]]] = {
    "down": lambda: (desired(WEB), desired(WEB, UP, DOWN, UP)),
    "empty": lambda: (desired(WEB, UP, DOWN, DOWN), desired(WEB, DOWN, DOWN, DOWN)),
    "kept_down": lambda: (desired(KEPT), desired(KEPT, UP, DOWN, DRAIN)),
    "come": lambda: (Desired(), desired(text(bind=f"'[{VIP_V6}]:80'", family=6))),
    "gone": lambda: (desired(WEB), Desired(gateway=GATEWAY)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole(name: str) -> None:
    assert render.whole(WHOLE[name]()) == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change(name: str) -> None:
    assert render.change(*CHANGES[name]()) == (GOLDEN / f"change_{name}.nft").read_text()


def test_no_change_is_no_text() -> None:
    one = desired(MIXED, networks=NETWORKS, gateway=GATEWAY)
    assert render.change(one, one) == render.change(one, desired(MIXED, networks=NETWORKS, gateway=GATEWAY)) == ""


def test_a_change_of_one_of_many_is_about_that_one_alone() -> None:
    config = "frontends:\n" + "".join(
        f"  f{i}: {{mode: tcp, engine: kernel, bind: '10.0.0.{i}:80', default_backend: b{i}}}\n" for i in range(1, 100)
    ) + "backends:\n" + "".join(
        f"  b{i}: {{servers: {{a: {{address: '10.1.0.{i}:80'}}, b: {{address: '10.2.0.{i}:80'}}}}}}\n"
        for i in range(1, 100)
    )  # fmt: skip
    states = [UP] * 198
    old = desired(config, *states)
    states[9] = DOWN
    assert render.change(old, desired(config, *states)).splitlines() == [
        "flush chain inet pybalancer tcp_10.0.0.5_80",
        "add rule inet pybalancer tcp_10.0.0.5_80 meta l4proto tcp dnat ip to 10.1.0.5:80",
    ]


def test_names_fit_whatever_the_interface_and_the_frontend_are_called() -> None:
    (service,) = desired(text()).services
    odd = replace(service, interface="a-b@c:d.e_f", frontend="x" * 128)
    made = render.whole(Desired((odd,)))
    assert 'comment "frontend xxx' in made
    assert "chain inet pybalancer tcp_192.168.1.200_80_a_2d_b_40_c-d.e_5f_f {" in made
    assert '"a-b@c:d.e_f" . 192.168.1.200 . tcp . 80' in made


def test_marks_differ_and_are_a_servers_own_for_good() -> None:
    def kept(servers: dict[str, str]) -> dict[str, str]:
        written = ", ".join(f"{name}: {{address: '{address}'}}" for name, address in servers.items())
        (service,) = desired(text(servers=written, backend="persistence_timeout: 9s")).services
        marks = render._marks(service)
        return {name: marks[i] for i, name in enumerate(servers)}

    many = {f"s{i}": f"10.{i >> 8}.{i & 255}.1:80" for i in range(5000)}
    marks = kept(many)
    assert len(set(marks.values())) == 5000
    # They are elsewhere, and some are no more.
    fewer = kept(dict.fromkeys(reversed(list(many)[1000:]), "10.0.0.1:80"))
    # But where two hashes meet.
    assert sum(fewer[name] != marks[name] for name in fewer) <= 2
    for mark in marks.values():
        major, minor = (int(part, 16) for part in mark.split(":"))
        assert 0x4000 <= major <= 0x7FFF and 0 <= minor <= 0xFFFF and not minor & 15


# --- With the kernel ---


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


@pytest.fixture(scope="module")
def nft(net: Net) -> Iterator[Nft]:
    with net:
        nft = Nft()
    yield nft
    nft.close()


def listing(nft: Nft) -> dict[str, Any]:
    """What is in the kernel, whatever the order that it came in. An element's counter does not matter."""
    found: dict[str, Any] = {}
    for entry in nft.list_json(f"list table {render.TABLE}"):
        for kind, of in entry.items():
            of = {key: value for key, value in of.items() if key not in ("handle", "elem")}
            if kind in ("set", "map"):
                elements = [json.dumps(one.get("elem", {}).get("val", one) if isinstance(one, dict) else one)
                            for one in entry[kind].get("elem", ())]  # fmt: skip
                found[f"{kind} {of['name']}"] = (of, sorted(elements))
            elif kind == "chain":
                found[f"chain {of['name']}"] = of
            elif kind == "rule":
                found.setdefault(f"rules {of['chain']}", []).append(of["expr"])
    return found


@as_root
@pytest.mark.parametrize("name", WHOLE)
def test_the_kernel_takes_it_and_takes_it_again(nft: Nft, name: str) -> None:
    made = render.whole(WHOLE[name]())
    nft.run(made)
    first = listing(nft)
    nft.run(made)
    assert listing(nft) == first
    nft.run(render.nothing())
    assert render.TABLE.split()[1] not in nft.run("list tables")


@as_root
def test_a_trial_leaves_nothing(nft: Nft) -> None:
    nft.run(render.trial(28770))
    assert "trial" not in nft.run("list tables")


@as_root
@pytest.mark.parametrize("name", CHANGES)
def test_the_kernel_takes_a_change(nft: Nft, name: str) -> None:
    same_as_whole(nft, *CHANGES[name]())


def same_as_whole(nft: Nft, old: Desired, new: Desired) -> None:
    nft.run(render.whole(old))
    said = render.change(old, new)
    nft.run(said)
    changed = listing(nft)
    nft.run(render.whole(new))
    assert changed == listing(nft), said


ALL = desired(MIXED)
STATES = st.builds(
    ServerState,
    st.sampled_from(Condition), st.sampled_from(Admin), st.integers(0, 3),
)  # fmt: skip
SIDES = st.tuples(
    st.lists(STATES, min_size=14, max_size=14),
    st.sets(st.sampled_from([service.key for service in ALL.services])),
    st.sampled_from([Gateway(), GATEWAY]),
    st.sampled_from(
        [(), (ip_network("10.1.0.0/24"),), (ip_network("10.1.0.0/16"), ip_network("fd01::/64")), MANY_NETWORKS]
    ),
    st.booleans(),
)


def side(states: list[ServerState], keys: set[Any], gateway: Gateway, networks: Any, is_masked: bool) -> Desired:
    config = MIXED.replace("mode: udp, engine: kernel, bind: ['10", "mode: udp, engine: kernel, forwarding: "
                           f"{'masquerade' if is_masked else 'nat'}, bind: ['10")  # fmt: skip
    made = desired(config, *states, gateway=gateway, networks=networks, group=28770)
    kept: tuple[Service, ...] = tuple(service for service in made.services if service.key in keys)
    return made._replace(services=kept)


@as_root
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIDES, SIDES)
def test_a_change_and_the_whole_come_to_the_same(nft: Nft, one: Any, other: Any) -> None:
    same_as_whole(nft, side(*one), side(*other))
