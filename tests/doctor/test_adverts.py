"""Cases that a wire is not needed for; the others are in test_wire."""

from __future__ import annotations

import functools
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from balancer.doctor.adverts import judge
from balancer.doctor.case import Router
from balancer.doctor.ear import Advert
from balancer.doctor.finding import Finding
from tests.vrrp.conftest import advertisement

from .conftest import OK, PROBLEM, here, vrrp


def routers(text: str) -> list[Router]:
    return here(text).routers


def advert(source: str, *, is_own: bool = False, priority: int = 150) -> Advert:
    message = advertisement(source, priority=priority)
    group = ip_address("224.0.0.18").packed
    return Advert("eth0", message, ip_address(source).packed, group, 255, b"\2\0\0\0\0\1", is_own, not is_own)


def judged(*heard: Advert, text: str = vrrp(), running: tuple[str, ...] = ()) -> list[Finding]:
    return judge(routers(text), heard, running=running, seconds=1.0, allowing=lambda _: ((), ()))


A, B = advert("192.0.2.8"), advert("192.0.2.9")


def test_a_change_of_masters_is_no_two_masters() -> None:
    for heard in ((A, A, B, B), (A, B, A), (A, A)):
        assert [each.verdict for each in judged(*heard)] == [OK], heard
    assert [each.check for each in judged(A, B, A, B)] == ["vrrp_masters"]
    resigned = advert("192.0.2.8", priority=0)
    assert [each.verdict for each in judged(A, B, resigned, B, resigned)] == [OK]


def test_this_host_and_another() -> None:
    own = advert("192.0.2.1", is_own=True)
    (found,) = judged(own, A, own, A, running=("vi",))
    assert found.verdict is PROBLEM and "192.0.2.1 (this host)" in found.what


def test_who_is_no_peer() -> None:
    text = vrrp(more="unicast_peer: [192.0.2.7]")
    unicast = A._replace(destination=b"\xc0\x00\x02\x01")
    message = advertisement("192.0.2.8", priority=150, destination="192.0.2.1")
    (found,) = judged(unicast._replace(message=message), text=text)
    assert found.verdict is PROBLEM and "192.0.2.8 is none of unicast_peer" in found.what


@functools.cache
def ours() -> list[Router]:
    return routers(vrrp())


@given(st.binary(max_size=80), st.booleans())
def test_whatever_comes_is_judged(octets: bytes, is_for_us: bool) -> None:
    heard = A._replace(message=(b"\x31\x33" if is_for_us else b"") + octets)
    for each in judge(ours(), [heard], running=(), seconds=1.0, allowing=lambda _: ((), ())):
        assert each.what and "\n" not in each.what
