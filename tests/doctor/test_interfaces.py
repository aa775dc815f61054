from __future__ import annotations

from pathlib import Path

from balancer.doctor.interfaces import addresses, cards
from tests.vrrp.conftest import Host, Switch, as_root, one

from .conftest import OK, PROBLEM, UNKNOWN, WARNING, Patient, tcp, vrrp

pytestmark = as_root


def test_all_is_well(host: Host) -> None:
    patient = Patient(host, vrrp())
    assert [(each.verdict, each.what) for each in patient.says_all(cards)] == [(OK, "eth0 is up, MTU 1500")]
    assert [each.what for each in patient.says_all(addresses)] == ["vi: eth0 has none of its addresses"]


def test_nothing_is_asked_of_interfaces_that_nobody_names(host: Host) -> None:
    assert Patient(host, tcp()).says_all(cards) == [] and Patient(host, tcp()).says_all(addresses) == []


def test_one_that_is_not_there(host: Host) -> None:
    (found,) = Patient(host, vrrp(more="track_interface: eth7")).says(cards)
    assert found.verdict is PROBLEM and found.what == "there is no interface eth7 (there are: eth0)"
    assert found.why.startswith("vrrp.instances.vi.track_interface ")


def test_one_that_is_off(host: Host) -> None:
    host.ip("link set dev eth0 down")
    assert Patient(host, vrrp()).is_cured(cards) == "eth0 is switched off"


def test_one_without_a_carrier(host: Host, switch: Switch) -> None:
    switch.cut(host)
    (found,) = Patient(host, vrrp()).says(cards)
    assert (found.verdict, found.what) == (PROBLEM, "eth0 is on, but has no carrier")
    assert "stays in FAULT" in found.why
    switch.mend(host)
    assert Patient(host, vrrp()).says(cards) == []


def test_one_without_multicast(host: Host) -> None:
    host.ip("link set dev eth0 multicast off")
    assert Patient(host, vrrp(more="unicast_peer: [192.0.2.9]")).says(cards) == []
    assert Patient(host, vrrp()).is_cured(cards) == "eth0 is not marked for multicast"


def test_an_mtu_that_ipv6_does_not_work_with(host: Host) -> None:
    host.ip("link set dev eth0 mtu 1000")
    assert Patient(host, vrrp()).says(cards) == []
    assert "mtu" in [each.check for each in Patient(host, vrrp(vips="['2001:db8::c8/64']")).says(cards)]


def test_ipv6_switched_off(host: Host) -> None:
    with host:
        Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("1")
    assert Patient(host, vrrp()).says(cards) == []
    assert Patient(host, vrrp(vips="['2001:db8::c8/64']")).is_cured(cards, "ipv6") == "IPv6 is switched off on eth0"


def test_no_address_to_speak_from(host: Host) -> None:
    host.ip("address flush dev eth0")
    (found,) = [each for each in Patient(host, vrrp()).says(addresses) if each.check == "source"]
    assert (found.verdict, found.what) == (PROBLEM, "eth0 has no IPv4 address of its own")
    host.ip("address add 192.0.2.1/24 dev eth0")
    assert Patient(host, vrrp()).says(addresses) == []


def test_its_own_virtual_address_is_none_to_speak_from(host: Host) -> None:
    host.ip("address flush dev eth0")
    host.ip("address add 192.0.2.200/24 dev eth0 valid_lft 60 preferred_lft 60")
    assert "source" in [each.check for each in Patient(host, vrrp()).says(addresses)]


def test_no_link_local_address(host: Host) -> None:
    patient = Patient(host, vrrp(vips="['2001:db8::c8/64']"))
    host.ip("-6 address flush dev eth0")
    host.ip("address add 2001:db8::1/64 dev eth0")
    (found,) = patient.says(addresses)
    assert found.what == "eth0 has no link-local IPv6 address of its own"
    host.ip("address add fe80::1/64 dev eth0")
    assert patient.says(addresses) == []


def test_a_source_that_is_not_there(host: Host) -> None:
    for key in ("mcast_src_ip: 192.0.2.5", "unicast_src_ip: 192.0.2.5, unicast_peer: [192.0.2.9]"):
        patient = Patient(host, vrrp(more=key))
        what = patient.is_cured(addresses)
        assert what == "eth0 has no address 192.0.2.5 (it has: 192.0.2.1)"
        host.ip("address del 192.0.2.5/24 dev eth0")


def test_an_address_of_no_network_here(host: Host) -> None:
    (found,) = Patient(host, vrrp(vips="[203.0.113.1]")).says(addresses)
    assert (found.verdict, found.check) == (WARNING, "subnet")
    # It brings its network along, or is of ours.
    for vips in ("[203.0.113.1/24]", "[192.0.2.200]", "[192.0.2.200/24]"):
        assert Patient(host, vrrp(vips=vips)).says(addresses) == []


def test_an_address_that_somebody_put_there_for_good(host: Host) -> None:
    patient = Patient(host, vrrp())
    host.ip("address add 192.0.2.200/24 dev eth0")
    assert Patient(host, vrrp(more="priority: 255").replace("priority: 100, ", "")).says(addresses) == []
    assert patient.is_cured(addresses).startswith("192.0.2.200 is on eth0 for good")


def test_an_address_on_another_interface(host: Host) -> None:
    host.ip("address add 192.0.2.200/32 dev lo")
    assert Patient(host, vrrp()).is_cured(addresses) == "192.0.2.200 is on lo, but belongs on eth0"


def test_an_address_of_which_nobody_knows_whose_it_is(host: Host) -> None:
    host.ip("address add 192.0.2.200/24 dev eth0 valid_lft 60 preferred_lft 60")
    (found,) = Patient(host, vrrp()).says(addresses)
    assert found.verdict is UNKNOWN


def test_a_daemon_that_is_master(stage, host: Host) -> None:
    host.start(one(virtual_ipaddress="192.0.2.200/24"))
    stage.until(host.holds)
    assert [each.what for each in Patient(host, vrrp()).says_all(addresses)] == ["vi: eth0 has 192.0.2.200, as master"]


def test_an_address_that_duplicate_detection_refused(stage, switch: Switch, host: Host) -> None:
    other = stage.host()
    switch.plug(other, "2001:db8::7/64")
    with host:
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("1")
    host.ip("address add 2001:db8::7/64 dev eth0")
    stage.until(lambda: "dadfailed" in host.ip("-6 address show dev eth0"))
    patient = Patient(host, vrrp(vips="['2001:db8::c8/64']"))
    assert patient.is_cured(cards, "duplicate").startswith("eth0: 2001:db8::7 is not used")
