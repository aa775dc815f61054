from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from balancer.doctor.cards import Network
from balancer.doctor.ear import Advert, Claims, Ear
from tests.vrrp.conftest import Host, Switch, advertisement, as_root, ipv4_frame

pytestmark = as_root


@pytest.fixture
def ear(host: Host) -> Iterator[Ear]:
    with host:
        ear = Ear(Network().cards["eth0"], 4)
        yield ear
        ear.close()


def until(ear: Ear, count: int) -> list[Advert]:
    end = time.monotonic() + 5
    while len([each for each in ear.heard if each.passed]) < count:
        assert time.monotonic() < end, ear.heard
        ear.hear()
    return ear.heard


def test_what_comes_to_the_card_and_to_a_daemon(ear: Ear, switch: Switch) -> None:
    message = advertisement("192.0.2.9", priority=150)
    switch.tap.send(ipv4_frame(message, "192.0.2.9"))
    (heard,) = until(ear, 1)
    assert heard == Advert(
        "eth0", message, ip_address("192.0.2.9").packed, ip_address("224.0.0.18").packed, 255,
        bytes.fromhex("020000000099"), is_own=False, passed=True,
    )  # fmt: skip
    assert heard.family == 4


def test_other_packets_are_not_heard(ear: Ear, switch: Switch) -> None:
    frame = ipv4_frame(advertisement("192.0.2.9", priority=150), "192.0.2.9")
    switch.tap.send(frame[:23] + b"\x11" + frame[24:])
    switch.tap.send(frame[:12] + b"\x86\xdd" + frame[14:])
    switch.tap.send(frame)
    assert len(until(ear, 1)) == 1


def test_claims(host: Host, switch: Switch, stage) -> None:
    other = stage.host()
    switch.plug(other, "192.0.2.7/24", "2001:db8::7/64")
    with host:
        claims = Claims(Network().cards["eth0"])
    try:
        wanted = {ip_address("192.0.2.7"), ip_address("2001:db8::7")}
        found: set[tuple[bytes, bytes]] = set()
        end = time.monotonic() + 5
        while len(found) < 2:
            assert time.monotonic() < end, found
            # The other host's kernel takes a moment to answer for what it was given.
            claims.ask([*wanted, ip_address("192.0.2.8")])
            time.sleep(0.02)
            found |= set(claims.hear())
        assert found == {(ip.packed, other.mac()) for ip in wanted}
    finally:
        claims.close()
