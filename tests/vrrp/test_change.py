from __future__ import annotations

from typing import Any

import pytest

from balancer.config.vrrp import Vrrp
from balancer.vrrp.change import Fate, changes, effect, heirlooms, heirs

ONE = {"interface": "eth0", "virtual_router_id": 51, "virtual_ipaddress": "192.0.2.200/24"}
TWO = ONE | {"virtual_router_id": 52, "virtual_ipaddress": "192.0.2.201"}
HEARTBEAT = {"bind": "10.9.0.1:3112", "peers": "10.9.0.2:3112", "key": "first secret"}


def vrrp(*, keys: dict[str, Any] | None = None, **instances: dict[str, Any]) -> Vrrp:
    return Vrrp.model_validate({"instances": instances} | (keys or {}))


def lines(before: Vrrp, after: Vrrp) -> list[str]:
    return [str(each) for each in changes(before, after)]


def of_one(**keys: Any) -> list[str]:
    """What becomes of VI with these keys, from a VI without."""
    return lines(vrrp(VI=ONE), vrrp(VI=ONE | keys))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"priority": 150}, "VI: priority 100 -> 150, in place"),
        ({"advert_int": "3s", "preempt": False}, "VI: advert_int 1s -> 3s; preempt true -> false, in place"),
        ({"preempt_delay": "90s"}, "VI: preempt_delay default -> 90s, in place"),
        ({"garp_master_refresh": "0s"}, "VI: garp_master_refresh 60s -> 0s, in place"),
        ({"virtual_ipaddress": ("192.0.2.200/24", "192.0.2.7")}, "VI: virtual_ipaddress +192.0.2.7, in place"),
        (
            {"virtual_ipaddress": ({"address": "192.0.2.200/24", "label": "eth0:vip"},)},
            "VI: virtual_ipaddress +192.0.2.200/24 (label eth0:vip) -192.0.2.200/24, in place",
        ),
        ({"unicast_peer": ("192.0.2.2",)}, "VI: unicast_peer +192.0.2.2, in place"),
        ({"track_script": ({"script": "s", "weight": -5},)}, "VI: track_script +s (weight -5), in place"),
        ({"authentication": {"type": "pass", "password": "hush"}}, "VI: authentication changed, in place"),
        ({"notify_master": ("/bin/true", "hush")}, "VI: notify_master added, in place"),
        ({"interface": "eth1"}, "VI: interface eth0 -> eth1: ends and starts anew"),
        ({"virtual_router_id": 7}, "VI: virtual_router_id 51 -> 7: ends and starts anew"),
        ({"version": 3}, "VI: version default -> 3: ends and starts anew"),
        (
            {"virtual_ipaddress": "2001:db8::1"},
            "VI: version 2 -> 3; virtual_ipaddress +2001:db8::1 -192.0.2.200/24: ends and starts anew",
        ),
    ],
)
def test_what_becomes_of_one(keys: dict[str, Any], line: str) -> None:
    assert of_one(**keys) == [line]
    assert "hush" not in line


@pytest.mark.parametrize("keys", [{}, {"state": "MASTER"}, {"version": 2, "state": "MASTER"}])
def test_what_has_no_effect_is_no_end(keys: dict[str, Any]) -> None:
    assert all(each.fate is Fate.STAYS for each in changes(vrrp(VI=ONE), vrrp(VI=ONE | keys)))


def test_they_come_and_go() -> None:
    assert lines(vrrp(A=ONE), vrrp(A=ONE, B=TWO)) == ["B: added"]
    assert lines(vrrp(A=ONE, B=TWO), vrrp(A=ONE)) == ["B: removed"]
    assert lines(Vrrp(), Vrrp()) == []


def test_a_name_is_a_name() -> None:
    """A virtual router goes on under another one; so nothing is lost where two change theirs."""
    assert lines(vrrp(A=ONE), vrrp(B=ONE)) == ["B: called A until now, in place"]
    swapped = vrrp(A=ONE | {"virtual_router_id": 52}, B=TWO | {"virtual_router_id": 51})
    assert heirs(vrrp(A=ONE, B=TWO), swapped) == {"A": "B", "B": "A"}
    assert lines(vrrp(A=ONE, B=TWO), swapped) == [
        "A: called B until now; virtual_ipaddress +192.0.2.200/24 -192.0.2.201, in place",
        "B: called A until now; virtual_ipaddress +192.0.2.201 -192.0.2.200/24, in place",
    ]
    assert lines(vrrp(A=ONE, B=TWO), vrrp(A=TWO)) == [
        "A: called B until now, in place",
        "A: removed: its name is another's from now on",
    ]
    assert lines(vrrp(A=ONE), vrrp(A=TWO, B=ONE)) == ["A: added", "B: called A until now, in place"]


def test_what_stands_beside_the_instances() -> None:
    before = vrrp(
        VI=ONE,
        keys={
            "scripts": {"s": {"script": "/bin/true"}, "gone": {"script": "/bin/true"}},
            "files": {"f": {"file": "/f"}},
            "heartbeat": HEARTBEAT,
        },
    )
    after = vrrp(
        VI=ONE,
        keys={
            "scripts": {"s": {"script": "/bin/false", "fall": 3}},
            "files": {"f": {"file": "/g", "weight": 2}, "more": {"file": "/f"}},
            "heartbeat": HEARTBEAT | {"key": "second secret", "interval": "500ms"},
            "sync_groups": {"G": "VI"},
            "script_user": "nobody",
        },
    )
    assert lines(before, after) == [
        "sync group G: added",
        "script s: script changed; fall 1 -> 3, in place",
        "script gone: removed",
        "file f: file /f -> /g; weight 1 -> 2, in place",
        "file more: added",
        "heartbeat: interval default -> 0.5s; key changed, in place",
        "script_user: default -> nobody, in place",
    ]
    assert not any(each.is_instance for each in changes(before, after))
    moved = vrrp(VI=ONE, keys={"heartbeat": HEARTBEAT | {"bind": "10.9.0.3:3112"}})
    alone = vrrp(VI=ONE, keys={"heartbeat": HEARTBEAT})
    assert lines(alone, moved) == ["heartbeat: bind 10.9.0.1:3112 -> 10.9.0.3:3112: ends and starts anew"]
    assert lines(alone, vrrp(VI=ONE)) == ["heartbeat: removed"]
    group = vrrp(A=ONE, B=TWO, keys={"sync_groups": {"G": ("A",)}})
    grown = vrrp(A=ONE, B=TWO, keys={"sync_groups": {"G": ("A", "B")}})
    assert lines(group, grown) == ["sync group G: group +B, in place"]


def test_an_address_that_goes_to_another_master_is_left_where_it_is() -> None:
    before = vrrp(A=ONE, B=TWO, C=TWO | {"virtual_router_id": 53, "interface": "eth1", "virtual_ipaddress": "10.0.0.1"})
    after = vrrp(A=ONE | {"virtual_ipaddress": ("192.0.2.200/24", "192.0.2.201")}, D=TWO | {"virtual_router_id": 9})
    goes_on = heirs(before, after)
    assert goes_on == {"A": "A"}
    found = {name: sorted(map(str, vips)) for name, vips in heirlooms(after, goes_on, ["A", "B"]).items()}
    assert found == {"eth0": ["192.0.2.200/24", "192.0.2.201/32"]}
    assert heirlooms(after, goes_on, ["B"]) == {}


def effects(before: Vrrp, after: Vrrp, *masters: str) -> list[str]:
    return [effect(each, before, after, masters) for each in changes(before, after)]


def test_what_becomes_of_the_addresses_of_one_that_ends() -> None:
    gone = (
        "is master on eth0, and advertises priority 0; gives up 192.0.2.200, which the best of its backups takes "
        "at once, if there is any"
    )
    assert effects(vrrp(VI=ONE), vrrp(), "VI") == [gone]
    assert effects(vrrp(VI=ONE), vrrp()) == ["is not master on eth0, so nobody has to take its addresses"]
    both = ONE | {"virtual_ipaddress": ("192.0.2.200/24", "192.0.2.201")}
    found = effects(vrrp(A=both, B=TWO), vrrp(B=TWO), "A", "B")
    assert found == [f"{gone}; leaves 192.0.2.201 to another virtual router here"]
    many = ONE | {"virtual_ipaddress": tuple(f"192.0.2.{n}" for n in range(1, 8))}
    assert "192.0.2.4, 192.0.2.5 and 2 more, which" in effects(vrrp(VI=many), vrrp(), "VI")[0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"priority": 99},
            "listens first, and takes 192.0.2.200 on eth0 after 3.6 s in which no master of priority 99 or more "
            "is heard",
        ),
        (
            {"preempt": False, "advert_int": "100ms", "version": 3},
            "listens first, and takes 192.0.2.200 on eth0 after 0.4 s in which no master is heard",
        ),
        ({"priority": 255}, "takes 192.0.2.200 on eth0 at once, as their owner (priority 255)"),
    ],
)
def test_what_becomes_of_the_addresses_of_one_that_begins(keys: dict[str, Any], said: str) -> None:
    assert effects(vrrp(), vrrp(VI=ONE | keys)) == [said]
    group = vrrp(VI=ONE | keys, keys={"sync_groups": {"G": "VI"}})
    assert effects(vrrp(), group) == [f"{said}, with its sync group G", ""]


def test_what_becomes_of_the_addresses_of_one_that_moves() -> None:
    (moved,) = effects(vrrp(VI=ONE), vrrp(VI=ONE | {"interface": "eth1"}), "VI")
    assert moved.startswith("is master on eth0, and advertises priority 0; gives up 192.0.2.200, ")
    assert "; listens first, and takes 192.0.2.200 on eth1 after 3.6 s in which" in moved
    assert effects(vrrp(VI=ONE), vrrp(VI=ONE | {"priority": 7}), "VI") == [""]


def test_a_name_that_is_another_s_from_now_on() -> None:
    """The one that ends is not the one that has its name."""
    found = effects(vrrp(A=ONE, B=TWO), vrrp(A=TWO), "A")
    assert found[0] == ""
    assert "gives up 192.0.2.200, " in found[1]
