from __future__ import annotations

from typing import Any

import pytest

from balancer.config.vrrp import Vrrp
from balancer.errors import StartError
from balancer.vrrp.trial import trial
from tests.vrrp.conftest import VIP, VIP_V6, Host, Stage, Switch, as_root, descriptors, instance, many, one

pytestmark = as_root


@pytest.fixture
def host(stage: Stage, switch: Switch) -> Host:
    """With two network cards; the second has no cable."""
    (host,) = stage.hosts(switch, 1)
    switch.plug(host, "198.51.100.1/24", name="eth1")
    switch.cut(host, "eth1")
    return host


def tried(host: Host, before: Vrrp, after: Vrrp) -> str:
    """Why it cannot be."""
    open_before, why = len(descriptors()), ""
    with host:
        try:
            trial(before, after)
        except StartError as error:
            why = str(error)
    assert len(descriptors()) == open_before
    return why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"priority": 150, "virtual_ipaddress": (VIP, "192.0.2.7/24")}, ""),
        # A cable comes back.
        ({"interface": "eth1"}, ""),
        ({"interface": "eth7"}, "vrrp.instances.vi: there is no interface eth7"),
        ({"mcast_src_ip": "192.0.2.99"}, "vrrp.instances.vi: eth0 has no address 192.0.2.99"),
        ({"virtual_ipaddress": VIP_V6}, ""),
        (
            {"virtual_ipaddress": "192.0.2.1"},
            "vrrp.instances.vi.virtual_ipaddress: 192.0.2.1 is the only address of eth0: "
            "a virtual address moves, so give the interface another one of its own",
        ),
        (
            {"track_interface": ({"interface": "eth7"},)},
            "vrrp.instances.vi.track_interface: there is no interface eth7",
        ),
    ],
)
def test_what_cannot_work_is_found_before(host: Host, changes: dict[str, Any], why: str) -> None:
    assert tried(host, one(), one(**changes)) == why


def test_what_is_new_is_tried_too(host: Host) -> None:
    more = instance(virtual_router_id=52, virtual_ipaddress="192.0.2.9", interface="eth7")
    assert tried(host, one(100), many(vi=instance(), more=more)) == "vrrp.instances.more: there is no interface eth7"
    assert tried(host, Vrrp(), many(more=more)) == "vrrp.instances.more: there is no interface eth7"


def test_what_was_wrong_before_is_no_reason(host: Host) -> None:
    """It waits for its interface; somebody may have gone to fetch it."""
    before, after = one(100, interface="eth7"), one(90, interface="eth7")
    assert tried(host, before, after) == ""
    assert tried(host, before, many(vi=instance(interface="eth7"), b=instance(virtual_router_id=5,
                 virtual_ipaddress="192.0.2.9"))) == ""  # fmt: skip


def test_the_addresses_of_a_master_are_none_of_its_own(stage: Stage, host: Host) -> None:
    """One that a reload takes away is still there when it is tried."""
    host.start(one(100, virtual_ipaddress=(VIP, "192.0.2.201/24")))
    stage.until(lambda: host.role() == "MASTER")
    host.ip("address del 192.0.2.1/24 dev eth0")
    stage.until(lambda: host.role() == "FAULT" or not host.holds("192.0.2.1"))
    assert tried(host, one(100, virtual_ipaddress=(VIP, "192.0.2.201/24")), one(100)) == ""
    assert "own" in tried(host, Vrrp(), one(100))
