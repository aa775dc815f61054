from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

import pytest

from balancer.errors import StartError
from balancer.vrrp.address import Addresses, Change, Vip
from tests.vrrp.conftest import VIP, VIP_V6, Host, Stage, Switch, as_root, one

pytestmark = as_root

Address = IPv4Interface | IPv6Interface

OWN = "192.0.2.1"
ADDRESSES = [ip_interface(VIP), ip_interface(VIP_V6), ip_interface(f"{VIP}/24")]
_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13
# linux/capability.h: version 3, which has two words of each set.
_CAPABILITY_VERSION_3 = 0x20080522


@pytest.fixture
def host(stage: Stage, switch: Switch) -> Host:
    (host,) = stage.hosts(switch, 1)
    return host


@pytest.fixture
def addresses(host: Host) -> Iterator[Addresses]:
    with host:
        addresses = Addresses()
    yield addresses
    addresses.close()


def is_readable(addresses: Addresses, wait: float = 0.0) -> bool:
    return bool(select.select([addresses], [], [], wait)[0])


def test_no_card_of_a_name_that_there_is_not(addresses: Addresses) -> None:
    assert addresses.card("eth9") is None


def test_a_card(host: Host, switch: Switch, addresses: Addresses) -> None:
    host.ip(f"address add {VIP}/32 dev eth0")
    card = addresses.card("eth0")
    assert card is not None
    assert card.mac == host.mac()
    assert card.is_up
    assert [str(address) for address in card.addresses if address.version == 4] == [f"{OWN}/24", f"{VIP}/32"]
    assert [address.is_link_local for address in card.addresses if address.version == 6] == [True]
    lo = addresses.card("lo")
    assert lo is not None
    assert (lo.index, lo.is_up, lo.addresses) == (1, False, ())


def test_a_card_without_carrier_or_switched_off_is_not_up(host: Host, switch: Switch, addresses: Addresses) -> None:
    def is_up() -> bool:
        card = addresses.card("eth0")
        assert card is not None
        return card.is_up

    switch.cut(host)
    assert not is_up()
    switch.mend(host)
    assert is_up()
    host.ip("link set dev eth0 down")
    assert not is_up()


def test_an_address_that_cannot_be_used_yet_is_not_there(host: Host, addresses: Addresses) -> None:
    # Nobody answers the probes, so it stays tentative for a second each.
    with host:
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("1")
    host.ip("address add 2001:db8::1/64 dev eth0")
    card = addresses.card("eth0")
    assert card is not None
    assert host.addresses()["2001:db8::1"].get("tentative")
    assert ip_interface("2001:db8::1/64") not in card.addresses


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_an_address_is_put_and_put_again_and_taken(host: Host, addresses: Addresses, address: Address) -> None:
    card = addresses.card("eth0")
    assert card is not None
    addresses.put(card.index, Vip(address), lifetime=30)
    held = host.addresses()[str(address.ip)]
    assert held["prefixlen"] == address.network.prefixlen
    assert 28 <= held["valid_life_time"] <= 30
    assert "tentative" not in held
    addresses.put(card.index, Vip(address), lifetime=60)
    assert 58 <= host.addresses()[str(address.ip)]["valid_life_time"] <= 60, "the lease is longer, and it is the same"
    addresses.take(card.index, Vip(address))
    assert not host.holds(str(address.ip))
    assert host.holds(OWN)


def test_a_label_and_a_scope(host: Host, addresses: Addresses) -> None:
    card = addresses.card("eth0")
    assert card is not None
    # Within the network of another it would have to have that one's scope.
    vip = Vip(IPv4Interface(f"{VIP}/32"), "eth0:vip", "link")
    for _ in range(2):
        addresses.put(card.index, vip, lifetime=30)
        held = host.addresses()[VIP]
        assert (held["label"], held["scope"]) == ("eth0:vip", "link")
    addresses.take(card.index, vip)
    assert not host.holds()


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_an_address_goes_with_its_lease(stage: Stage, host: Host, addresses: Addresses, address: Address) -> None:
    card = addresses.card("eth0")
    assert card is not None
    addresses.put(card.index, Vip(address), lifetime=1)
    stage.until(lambda: not host.holds(str(address.ip)))


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_to_put_an_address_that_is_there_for_ever_makes_it_a_lease(
    host: Host, addresses: Addresses, address: Address
) -> None:
    host.ip(f"address add {address} dev eth0")
    card = addresses.card("eth0")
    assert card is not None
    addresses.put(card.index, Vip(address), lifetime=2)
    assert host.addresses()[str(address.ip)]["valid_life_time"] <= 2


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_to_take_what_is_not_there_is_nothing(host: Host, addresses: Addresses, address: Address) -> None:
    card = addresses.card("eth0")
    assert card is not None
    before = set(host.addresses())
    addresses.take(card.index, Vip(address))
    addresses.take(card.index + 1000, Vip(address))
    assert set(host.addresses()) == before


def test_to_put_where_there_is_no_interface_is_an_error(addresses: Addresses) -> None:
    with pytest.raises(OSError, match=VIP) as caught:
        addresses.put(1000, Vip(ip_interface(VIP)), lifetime=2)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize(
    "change",
    [
        lambda host, _: host.ip(f"address add {VIP} dev eth0"),
        lambda host, _: host.ip(f"address add {VIP_V6} dev eth0"),
        lambda host, _: host.ip("address del 192.0.2.1/24 dev eth0"),
        lambda host, _: host.ip("link set dev eth0 down"),
        lambda host, _: host.ip("link del dev eth0"),
        lambda host, switch: switch.cut(host),
        lambda host, switch: switch.plug(host, name="eth1"),
    ],
    ids=["put", "put IPv6", "taken", "down", "deleted", "cut", "a new one"],
)
def test_it_is_readable_after_a_change(
    host: Host, switch: Switch, addresses: Addresses, change: Callable[[Host, Switch], None]
) -> None:
    addresses.changes()
    # What the kernel does by itself after a cable was plugged.
    while is_readable(addresses, 0.2):
        addresses.changes()
    change(host, switch)
    assert is_readable(addresses, 5.0)
    addresses.changes()


def test_more_changes_than_there_is_room_for(host: Host, addresses: Addresses) -> None:
    card = addresses.card("eth0")
    assert card is not None
    for _ in range(600):
        addresses.put(card.index, Vip(ip_interface(VIP)), lifetime=30)
        addresses.take(card.index, Vip(ip_interface(VIP)))
    told = [change for _ in range(10) for change in addresses.changes()]
    assert Change(0) in told, "some are lost, and that is told"
    assert not is_readable(addresses)
    addresses.put(card.index, Vip(ip_interface(VIP)), lifetime=30)
    assert is_readable(addresses, 5.0)


# Without the right


def _drop(*capabilities: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, sets)
    for capability in capabilities:
        for word in range(3):
            sets[word] &= ~(1 << capability)
    assert not libc.capset(header, sets)


def _in_a_child(host: Host, capabilities: tuple[int, ...], begin: Callable[[], None]) -> str:
    """What `begin` says in its StartError."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with host:
                _drop(*capabilities)
                begin()
        except StartError as error:
            os.write(writing, str(error).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_speaker_that_may_not_change_addresses_does_not_begin(host: Host) -> None:
    said = _in_a_child(host, (_CAP_NET_ADMIN,), lambda: host.make(one()).start())
    assert "vrrp" in said
    assert "CAP_NET_ADMIN" in said
    assert "not permitted" in said


def test_a_speaker_that_may_not_send_does_not_begin(host: Host) -> None:
    said = _in_a_child(host, (_CAP_NET_RAW,), lambda: host.make(one()).start())
    assert "vrrp" in said
    assert "CAP_NET_RAW" in said
    assert "not permitted" in said
