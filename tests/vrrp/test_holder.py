"""What a master's addresses are after a reload that has changed them, and who hears of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from balancer.vrrp.address import _RTM_DELADDR, _address, _messages
from tests.vrrp.conftest import VIP, VIP_2, Host, Stage, Switch, as_root, instance, many, one
from tests.vrrp.frames import Advertised

pytestmark = as_root
# linux/rtnetlink.h: of IPv4 and IPv6 addresses.
_GROUPS = 0x10 | 0x100
V6, V6_2 = "2001:db8::c8", "2001:db8::c9"


@pytest.fixture
def master(stage: Stage, switch: Switch) -> Callable[..., Host]:
    """A host that is master of these."""

    def begin(**changes: object) -> Host:
        (host,) = stage.hosts(switch, 1)
        host.start(one(100, **changes))
        stage.until(lambda: host.role() == "MASTER")
        # Its announcements, too.
        stage.until(lambda: len(switch.tap.adverts()) > 2)
        switch.tap.forget()
        return host

    return begin


def listed(switch: Switch) -> int:
    """How many addresses the last advertisement had."""
    return int(switch.tap.adverts()[-1].message[3])


def announced(switch: Switch) -> list[str]:
    switch.tap.read()
    found = [each.target for each in switch.tap.said if isinstance(each, Advertised)]
    return [each.target for each in switch.tap.arps()] + found


def changes_of_addresses(host: Host, do: Callable[[], None]) -> list[str]:
    """What the kernel told of addresses while something was done: `Deleted 192.0.2.1/32`, or `192.0.2.1/32`."""
    with host:
        monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        monitor.bind((0, _GROUPS))
    said = []
    with monitor:
        do()
        with contextlib.suppress(BlockingIOError):
            while True:
                for kind, body, _ in _messages(monitor.recv(65536)):
                    said.append(f"{'Deleted ' if kind == _RTM_DELADDR else ''}{_address(body)[0]}")
    return said


def test_an_address_more_is_put_and_announced_alone(stage: Stage, switch: Switch, master: Callable[..., Host]) -> None:
    host = master(garp_master_delay="300ms")
    stage.until(lambda: not host.speaker or host.speaker._routers["vi"].announce_all is False)
    switch.tap.forget()
    after = one(100, virtual_ipaddress=(VIP, f"{VIP_2}/24"), garp_master_delay="300ms")
    assert changes_of_addresses(host, lambda: host.reload(after)) == [f"{VIP_2}/24"]
    assert announced(switch) == [VIP_2] * 5
    stage.until(lambda: len(switch.tap.adverts()) >= 2)
    assert listed(switch) == 2
    # As for all addresses of a new master, once more.
    stage.until(lambda: announced(switch) == [VIP_2] * 10)
    stage.until(lambda: len(switch.tap.adverts()) >= 12)
    assert announced(switch) == [VIP_2] * 10
    assert host.holds(VIP) and host.holds(VIP_2)
    assert host.roles() == ["BACKUP", "MASTER"] and not host.warned


def test_an_address_less_is_taken_and_no_other(stage: Stage, switch: Switch, master: Callable[..., Host]) -> None:
    host = master(virtual_ipaddress=(VIP, VIP_2))
    said = changes_of_addresses(host, lambda: host.reload(one(100)))
    # What stays is renewed, as ever.
    assert [each for each in said if VIP not in each] == [f"Deleted {VIP_2}/32"]
    stage.until(lambda: len(switch.tap.adverts()) >= 2)
    assert listed(switch) == 1
    assert announced(switch) == [] and not host.warned


@pytest.mark.parametrize("version", [4, 6])
def test_all_of_a_subnet_stay_when_its_first_goes(
    stage: Stage, switch: Switch, master: Callable[..., Host], version: int
) -> None:
    """With that the kernel takes the others away, unless it is told otherwise."""
    vips = ("198.51.100.1/24", "198.51.100.2/24", "198.51.100.3/24")
    if version == 6:
        vips = ("2001:db8:1::1/64", "2001:db8:1::2/64", "2001:db8:1::3/64")
    host = master(virtual_ipaddress=vips)
    host.reload(one(100, virtual_ipaddress=vips[1:]))
    assert [host.holds(vip.partition("/")[0]) for vip in vips] == [False, True, True]
    stage.until(lambda: len(switch.tap.adverts()) >= 2)
    assert announced(switch) == [] and not host.warned


def test_another_prefix_or_label_is_no_other_address(stage: Stage, switch: Switch, master: Callable[..., Host]) -> None:
    host = master()
    host.reload(one(100, virtual_ipaddress=f"{VIP}/24"))
    assert host.prefixes() == {24}
    host.reload(one(100, virtual_ipaddress=({"address": f"{VIP}/24", "label": "eth0:vip"},)))
    assert host.addresses()[VIP]["label"] == "eth0:vip"
    stage.until(lambda: len(switch.tap.adverts()) >= 2)
    assert announced(switch) == [] and not host.warned


def test_an_address_goes_from_one_to_the_other(stage: Stage, switch: Switch) -> None:
    """Both are master here: nobody can tell a difference."""
    (host,) = stage.hosts(switch, 1)
    one_of = instance(virtual_ipaddress=(VIP, VIP_2))
    other = instance(virtual_router_id=52, virtual_ipaddress="192.0.2.202")
    host.start(many(a=one_of, b=other))
    stage.until(lambda: host.role("a") == host.role("b") == "MASTER")
    moved = many(a=instance(), b=other | {"virtual_ipaddress": ("192.0.2.202", VIP_2)})
    said = changes_of_addresses(host, lambda: host.reload(moved))
    assert not [each for each in said if each.startswith("Deleted")]
    # The other one is none any more.
    said = changes_of_addresses(host, lambda: host.reload(many(a=instance(virtual_ipaddress=(VIP, VIP_2)))))
    assert [each for each in said if each.startswith("Deleted")] == ["Deleted 192.0.2.202/32"]
    assert host.holds(VIP) and host.holds(VIP_2)
    begun = time.monotonic()
    stage.until(lambda: time.monotonic() > begun + 0.5)
    assert not host.warned


def test_a_backup_just_takes_it(stage: Stage, switch: Switch) -> None:
    best, other = stage.hosts(switch, 2)
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: best.role() == "MASTER")
    other.reload(one(100, virtual_ipaddress=(VIP_2, VIP)))
    assert not other.holds(VIP_2)
    best.stop()
    stage.until(lambda: other.role() == "MASTER")
    assert other.holds(VIP) and other.holds(VIP_2)


def test_of_the_other_family(stage: Stage, switch: Switch) -> None:
    host = stage.host()
    switch.plug(host, "2001:db8::1/64")
    host.start(one(100, virtual_ipaddress=V6))
    stage.until(lambda: host.role() == "MASTER")
    switch.tap.forget()
    said = changes_of_addresses(host, lambda: host.reload(one(100, virtual_ipaddress=(V6, V6_2))))
    # Of those that it puts the kernel tells when it comes to it.
    assert not [each for each in said if each.startswith("Deleted")]
    assert announced(switch) == [V6_2] * 5
    assert host.holds(V6) and not host.warned
