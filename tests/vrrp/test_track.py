from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.vrrp import Vrrp
from balancer.pool.routers import Term
from balancer.vrrp.track import Said, Service, Trackers, View, fault, terms

NOBODY: tuple[Said, ...] = ()


def trackers(**weights: Any) -> Trackers:
    nothing: dict[str, Any] = {"interfaces": {}, "scripts": {}, "files": {}, "backends": {}, "workers": 0}
    return Trackers(**nothing | weights)


def view(*, serving: bool = True, servers: Any = None, peers: tuple[Said, ...] = NOBODY, **seen: Any) -> View:
    nothing: dict[str, Any] = {"interfaces": {}, "scripts": {}, "numbers": {}}
    return View(**nothing | seen, service=Service(serving, servers or {}), peers=peers)


def peer(servers: Any = None, *, serving: bool = True) -> Said:
    return Said("10.9.0.3", serving, servers or {})


def total(found: tuple[Term, ...]) -> int:
    return sum(term.amount for term in found)


def test_without_trackers_it_is_what_was_configured() -> None:
    assert terms(150, trackers(workers=-254), view()) == (Term("priority", 150, ""),)


@pytest.mark.parametrize(
    ("weight", "is_good", "amount", "is_fault"),
    [
        (0, True, 0, False),
        (0, False, 0, True),
        (0, None, 0, False),
        (20, True, 20, False),
        (20, False, 0, False),
        (20, None, 0, False),
        (-20, True, 0, False),
        (-20, False, -20, False),
        (-20, None, 0, False),
    ],
)
def test_a_script_counts_as_in_keepalived(weight: int, is_good: bool | None, amount: int, is_fault: bool) -> None:
    found = terms(100, trackers(scripts={"site": weight}), view(scripts={"site": (is_good, "exit status 0")}))
    assert total(found) == 100 + amount
    assert bool(fault(found)) == is_fault


@pytest.mark.parametrize(
    ("weight", "is_up", "amount", "why"),
    [(0, False, 0, "interface eth1 is down"), (0, True, 0, ""), (-30, False, -30, ""), (30, True, 30, "")],
)
def test_an_interface(weight: int, is_up: bool, amount: int, why: str) -> None:
    found = terms(100, trackers(interfaces={"eth1": weight}), view(interfaces={"eth1": is_up}))
    assert (total(found), fault(found)) == (100 + amount, why)


@pytest.mark.parametrize(
    ("number", "weight", "amount", "is_fault"),
    [(0, 1, 0, False), (7, 2, 14, False), (-5, 1, -5, False), (-254, 1, -99, True), (127, -2, -99, True)],
)
def test_a_file(number: int, weight: int, amount: int, is_fault: bool) -> None:
    found = terms(100, trackers(files={"load": weight}), view(numbers={"load": number}))
    assert total(found) == 100 + amount
    assert bool(fault(found)) == is_fault


@pytest.mark.parametrize(
    ("here", "there", "amount"),
    [
        ((3, 3), (3, 3), 0),
        ((2, 3), (3, 3), -20),
        ((0, 3), (3, 3), -60),
        ((0, 3), (0, 3), 0),
        ((0, 3), (1, 3), -20),
        ((3, 3), (0, 3), 0),
        ((0, 0), (0, 0), 0),
        ((0, 0), (3, 3), 0),
        ((1, 3), (0, 0), 0),
    ],
)
def test_a_backend_counts_only_where_the_peer_could_do_better(
    here: tuple[int, int], there: tuple[int, int], amount: int
) -> None:
    found = terms(150, trackers(backends={"web": -60}), view(servers={"web": here}, peers=(peer({"web": there}),)))
    assert total(found) == 150 + amount


def test_of_several_peers_the_best_is_compared_with() -> None:
    peers = peer({"web": (1, 3)}), Said("10.9.0.4", True, {"web": (3, 3)}), peer({})
    found = terms(150, trackers(backends={"web": -60}), view(servers={"web": (2, 3)}, peers=peers))
    assert found[1] == Term("backend web", -20, "2 of 3 servers up here, 3 of 3 at 10.9.0.4 (weight -60)")


def test_whom_nobody_can_replace_keeps_its_priority() -> None:
    """Nobody was heard: to give the addresses up helps no one."""
    found = terms(150, trackers(backends={"web": -60}), view(servers={"web": (0, 3)}))
    assert found[1] == Term("backend web", 0, "0 of 3 servers up here, no peer was heard (weight -60)")


@pytest.mark.parametrize(
    ("serving", "peers", "priority"),
    [
        (True, NOBODY, 150),
        (False, NOBODY, 1),
        (False, (peer(),), 1),
        (False, (peer(serving=False),), 150),
        (False, (peer(serving=False), peer()), 1),
    ],
)
def test_who_has_no_worker_leaves_the_addresses_to_who_has(
    serving: bool, peers: tuple[Said, ...], priority: int
) -> None:
    assert total(terms(150, trackers(workers=-254), view(serving=serving, peers=peers))) == priority


def test_why_nobody_is_served_is_told() -> None:
    seen = dataclasses.replace(view(), service=Service(False, {}, "the kernel's rules are not in place"))
    assert [term.text for term in terms(150, trackers(workers=-254), seen)[1:2]] == [
        "the kernel's rules are not in place here"
    ]


def test_the_owner_is_moved_by_faults_alone() -> None:
    of = trackers(interfaces={"eth1": 0}, scripts={"site": -50}, workers=-254)
    seen = view(interfaces={"eth1": False}, scripts={"site": (False, "exit status 1")}, serving=False)
    found = terms(255, of, seen)
    assert total(found) == 255
    assert fault(found) == "interface eth1 is down"


def test_what_members_of_a_group_track_counts_for_all() -> None:
    one = {"interface": "eth0", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.1", "track_workers": -50}
    two = one | {"virtual_router_id": 2, "virtual_ipaddress": "192.0.2.2", "track_workers": 0}
    vrrp = Vrrp.model_validate(
        {
            "instances": {
                "one": one | {"track_script": ("a", {"script": "b", "weight": -30}), "track_interface": "eth2"},
                "two": two | {"track_script": "b", "track_interface": {"interface": "eth2", "weight": -9}},
                "three": two | {"virtual_router_id": 3, "virtual_ipaddress": "192.0.2.3"},
            },
            "scripts": {"a": {"script": "/bin/true", "weight": 5}, "b": {"script": "/bin/true", "weight": -40}},
        }
    )
    assert Trackers.of(vrrp, ("one", "two")) == trackers(
        interfaces={"eth2": 0}, scripts={"a": 5, "b": -40}, workers=-50
    )
    assert Trackers.of(vrrp, ("three",)) == trackers()


WEIGHTS = st.integers(-253, 253)


@given(
    st.integers(1, 254),
    st.lists(st.tuples(WEIGHTS, st.sampled_from([True, False, None])), max_size=5),
    st.lists(st.tuples(st.integers(-254, 254), st.integers(-(10**9), 10**9)), max_size=3),
)
def test_the_terms_add_up_to_a_priority(
    base: int, scripts: list[tuple[int, bool | None]], files: list[tuple[int, int]]
) -> None:
    found = terms(
        base,
        trackers(
            scripts={f"s{i}": weight for i, (weight, _) in enumerate(scripts)},
            files={f"f{i}": weight for i, (weight, _) in enumerate(files)},
        ),
        view(
            scripts={f"s{i}": (is_good, "") for i, (_, is_good) in enumerate(scripts)},
            numbers={f"f{i}": number for i, (_, number) in enumerate(files)},
        ),
    )
    assert 1 <= total(found) <= 254
