"""Cases that a wire is not needed for; the others are in test_wire."""

from __future__ import annotations

from ipaddress import ip_address

from balancer.doctor.neighbours import judge
from tests.vrrp.conftest import Host, as_root

from .conftest import OK, PROBLEM, Patient, vrrp

pytestmark = as_root
VIP = ip_address("192.0.2.200")


def test_nobody_was_asked_for(host: Host) -> None:
    assert list(judge(Patient(host, vrrp()).case(), {}, [], has_listened=True)) == []


def test_one_of_two_addresses_is_taken(host: Host) -> None:
    case = Patient(host, vrrp(vips="[192.0.2.200, 192.0.2.201]")).case()
    claims = {("eth0", VIP): {b"\2\0\0\0\0\7"}, ("eth0", VIP + 1): set()}
    (found,) = judge(case, claims, [], has_listened=True)
    assert found.verdict is PROBLEM and "192.0.2.200 on eth0 is at 02:00:00:00:00:07" in found.what


def test_all_are_free(host: Host) -> None:
    (found,) = judge(Patient(host, vrrp()).case(), {("eth0", VIP): set()}, [], has_listened=True)
    assert (found.verdict, found.what) == (OK, "vi: nobody else on eth0 has its addresses")
