from __future__ import annotations

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from tests.vrrp.conftest import (
    GROUP_MAC_V4,
    GROUP_MAC_V6,
    VIP,
    VIP_2,
    VIP_V6,
    VRID,
    Host,
    Stage,
    Switch,
    advertisement,
    as_root,
    descriptors,
    instance,
    ipv4_frame,
    many,
    one,
)
from tests.vrrp.frames import Advert, Advertised, Arp

pytestmark = as_root

LEASE = 2
# How the names of the counters of what was not believed end.
REFUSED = ("_err", "invalid_type_rcvd", "invalid_authtype", "authtype_mismatch", "auth_failure")
# So many advertisements of a master are long enough for whoever would be master in its place.
A_WHILE = 12


@pytest.fixture
def pair(stage: Stage, switch: Switch) -> list[Host]:
    return stage.hosts(switch, 2)


@pytest.fixture
def elected(stage: Stage, pair: list[Host]) -> list[Host]:
    """The first is master with priority 150, the other stands by with 100."""
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: best.role() == "MASTER")
    return pair


def a_while(stage: Stage, switch: Switch, source: str, count: int = A_WHILE) -> None:
    """So many advertisements of one."""
    known = len(switch.tap.adverts(source))
    stage.until(lambda: len(switch.tap.adverts(source)) >= known + count)


# Alone, and two


def test_alone_it_becomes_master_and_holds_its_addresses_by_a_lease(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    begin = time.monotonic()
    host.start(one(100, virtual_ipaddress=(VIP, f"{VIP_2}/24")))
    assert host.role() == "BACKUP"
    assert not host.holds()
    stage.until(lambda: host.role() == "MASTER")
    assert time.monotonic() - begin >= 3 * 0.1 + 156 / 256 * 0.1, "three intervals and the skew"
    held = host.addresses()
    assert (held[VIP]["prefixlen"], held[VIP_2]["prefixlen"]) == (32, 24)
    assert all(held[vip]["valid_life_time"] <= LEASE for vip in (VIP, VIP_2))
    assert host.said == ["(vi) Entering BACKUP STATE: started", "(vi) Entering MASTER STATE: no master is heard"]


def test_the_lease_is_renewed(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one())
    stage.until(lambda: host.role() == "MASTER")
    end = time.monotonic() + LEASE + 1
    while time.monotonic() < end:
        assert host.holds()
        a_while(stage, switch, "192.0.2.1", 1)
    assert not host.warned


def test_the_higher_priority_wins_and_the_lower_holds_nothing(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    a_while(stage, switch, "192.0.2.1")
    assert best.holds()
    assert not other.holds()
    assert other.roles() == ["BACKUP"]
    assert not switch.tap.adverts("192.0.2.2")
    assert not best.warned
    assert not other.warned


def test_of_equal_priorities_the_higher_address_wins(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    for host in pair:
        host.start(one(100))
    stage.until(lambda: sorted(host.role() for host in pair) == ["BACKUP", "MASTER"])
    a_while(stage, switch, "192.0.2.2" if pair[1].role() == "MASTER" else "192.0.2.1")
    assert [host.holds() for host in pair] == [host.role() == "MASTER" for host in pair]


def test_the_owner_is_master_at_once(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one(255))
    assert host.roles() == ["MASTER"]
    assert host.holds()
    stage.until(switch.tap.adverts)
    assert switch.tap.adverts()[0].priority == 255


def test_three(stage: Stage, switch: Switch) -> None:
    hosts = stage.hosts(switch, 3)
    for host, priority in zip(hosts, (50, 100, 150), strict=True):
        host.start(one(priority))
    for left in (3, 2, 1):
        # One that was held up may be master for a moment, until it hears the best.
        expected = [False] * (left - 1) + [True]
        stage.until(lambda left=left, expected=expected: [one.holds() for one in hosts[:left]] == expected)  # type: ignore[misc]
        assert hosts[left - 1].role() == "MASTER"
        hosts[left - 1].stop()


def test_version_2_with_its_whole_seconds(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(254, version=2, advert_int="1s"))
    other.start(one(100, version=2, advert_int="1s"))
    stage.until(lambda: best.role() == "MASTER")
    stage.until(lambda: len(switch.tap.adverts()) == 3)
    assert {(each.message[:6], len(each.message)) for each in switch.tap.adverts()} == {
        (bytes([0x21, VRID, 254, 1, 0, 1]), 20)
    }
    best.stop()
    took = stage.until(lambda: other.role() == "MASTER")
    assert took >= 0.5, "the skew: 156/256 s"
    assert other.roles() == ["BACKUP", "MASTER"]


# Hand over, return


def test_stop_hands_over_at_once(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    switch.tap.forget()
    best.stop()
    assert not best.holds()
    assert best.role() == "STOPPED"
    stage.until(lambda: other.role() == "MASTER")
    assert other.holds()
    assert [each.priority for each in switch.tap.adverts()][:2] == [0, 100]
    assert "192.0.2.1 has resigned" in other.said[-1]


def test_who_returns_takes_over(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    best.stop()
    stage.until(lambda: other.role() == "MASTER")
    best.start(one(150))
    assert best.role() == "BACKUP", "it listens first"
    stage.until(lambda: other.role() == "BACKUP")
    assert best.role() == "MASTER"
    assert best.holds()
    assert not other.holds()
    a_while(stage, switch, "192.0.2.1")
    assert other.roles() == ["BACKUP", "MASTER", "BACKUP"]


def test_without_preempt_who_returns_waits_for_the_other_to_go(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    best.stop()
    stage.until(lambda: other.role() == "MASTER")
    best.said.clear()
    best.start(one(150, preempt=False))
    a_while(stage, switch, "192.0.2.2")
    assert best.roles() == ["BACKUP"]
    assert other.holds()
    assert not best.holds()
    other.stop()
    stage.until(lambda: best.role() == "MASTER")


def test_with_a_preempt_delay_it_waits_so_long(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    best.stop()
    stage.until(lambda: other.role() == "MASTER")
    best.start(one(150, preempt_delay="1s"))
    assert stage.until(lambda: best.role() == "MASTER") >= 0.9
    stage.until(lambda: other.role() == "BACKUP")


# The worst


def test_after_a_crash_the_other_takes_over_and_the_lease_of_the_dead_one_ends(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    best.crash()
    stage.until(lambda: other.role() == "MASTER")
    assert other.holds()
    assert "192.0.2.1 is silent" in other.said[-1]
    stage.until(lambda: not best.holds())
    assert other.holds()
    assert all(each.priority for each in switch.tap.adverts("192.0.2.1")), "it did not say good-bye"


def test_frozen_and_woken_there_is_one_master_in_the_end(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    best.is_frozen = True
    stage.until(lambda: other.role() == "MASTER")
    stage.until(lambda: not best.holds())
    best.is_frozen = False
    stage.until(lambda: other.role() == "BACKUP")
    a_while(stage, switch, "192.0.2.1")
    assert [host.role() for host in elected] == ["MASTER", "BACKUP"]
    assert best.holds()
    assert not other.holds()
    assert not any("taken off" in line for line in best.said), "nobody did: its lease was over"


def test_a_standby_that_was_frozen_does_not_take_over(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    other.is_frozen = True
    a_while(stage, switch, "192.0.2.1")
    other.is_frozen = False
    a_while(stage, switch, "192.0.2.1")
    assert other.roles() == ["BACKUP"]
    assert best.roles() == ["BACKUP", "MASTER"]


def test_a_healed_split_is_announced_again(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    # The cables are whole, but nothing goes through between the two.
    for port in ("port0", "port1"):
        switch.ip(f"link set dev {port} type bridge_slave isolated on")
    stage.until(lambda: other.role() == "MASTER")
    a_while(stage, switch, "192.0.2.2")
    for port in ("port0", "port1"):
        switch.ip(f"link set dev {port} type bridge_slave isolated off")
    # That the lower one is heard first.
    best.is_frozen = True
    a_while(stage, switch, "192.0.2.2", 1)
    best.is_frozen = False
    switch.tap.forget()
    stage.until(lambda: other.role() == "BACKUP")
    stage.until(lambda: [each.sender_mac for each in switch.tap.arps()].count(best.mac()) >= 5)
    assert not other.holds()


# Somebody meddles


def test_an_address_that_somebody_deletes_is_back_at_once(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, _ = elected
    took = []
    for count in (1, 2, 3):
        switch.tap.forget()
        best.ip(f"address del {VIP}/32 dev eth0")
        took.append(stage.until(lambda count=count: best.counted("address_lost") == count))  # type: ignore[misc]
        assert best.holds()
        stage.until(lambda: switch.tap.arps())
        a_while(stage, switch, "192.0.2.1", 3)
        assert len(switch.tap.arps()) == 5
    assert min(took) < 0.1
    assert set(best.warned) == {f"(vi) {VIP} taken off eth0 by somebody, put back"}
    assert best.roles() == ["BACKUP", "MASTER"]


@pytest.mark.parametrize("is_cut", [False, True], ids=["plugged in", "cable cut"])
def test_what_a_predecessor_left_is_removed(stage: Stage, switch: Switch, pair: list[Host], is_cut: bool) -> None:
    best, other = pair
    best.start(one(150))
    stage.until(lambda: best.role() == "MASTER")
    other.ip(f"address add {VIP}/32 dev eth0")
    if is_cut:
        switch.cut(other)
    other.start(one(100))
    assert other.role() == ("FAULT" if is_cut else "BACKUP")
    assert not other.holds()


# The interface


def test_with_the_cable_cut_the_addresses_move_and_come_back(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    switch.cut(best)
    stage.until(lambda: best.role() == "FAULT")
    assert "(vi) Entering FAULT STATE: eth0 is down" in best.said
    assert not best.holds()
    stage.until(lambda: other.role() == "MASTER")
    switch.mend(best)
    stage.until(lambda: best.role() == "MASTER")
    stage.until(lambda: other.role() == "BACKUP")
    assert best.holds()
    assert not other.holds()
    assert best.roles() == ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]


def test_an_interface_deleted_and_made_again(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    before = best.ip("-o link show dev eth0").partition(":")[0]
    best.ip("link del dev eth0")
    stage.until(lambda: best.role() == "FAULT")
    stage.until(lambda: other.role() == "MASTER")
    switch.plug(best, "192.0.2.1/24")
    assert best.ip("-o link show dev eth0").partition(":")[0] != before, "another one of the same name"
    stage.until(lambda: best.role() == "MASTER")
    stage.until(lambda: other.role() == "BACKUP")
    assert best.holds()


def test_an_interface_deleted_and_made_again_while_nobody_looked(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    best.ip("link del dev eth0")
    switch.plug(best, "192.0.2.1/24")
    stage.until(best.holds)
    a_while(stage, switch, "192.0.2.1")
    stage.until(lambda: [host.role() for host in elected] == ["MASTER", "BACKUP"])
    assert not other.holds()


def test_an_interface_that_comes_later(stage: Stage, switch: Switch) -> None:
    host = stage.host()
    host.start(one())
    assert host.roles() == ["FAULT"]
    assert "there is no interface eth0" in host.said[0]
    switch.plug(host)
    stage.until(lambda: host.addresses())
    assert host.role() == "FAULT", "it has no address to send from"
    host.ip("address add 192.0.2.1/24 dev eth0")
    stage.until(lambda: host.role() == "MASTER")


def test_after_its_own_address_changed_it_sends_from_the_new_one(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    best.readdress("192.0.2.1", "192.0.2.77")
    a_while(stage, switch, "192.0.2.77")
    assert best.roles() == ["BACKUP", "MASTER"]
    assert other.roles() == ["BACKUP"]


def test_the_address_of_another_virtual_router_is_none_to_send_from(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(many(vi=instance(), other=instance(virtual_router_id=52, virtual_ipaddress=VIP_2)))
    stage.until(lambda: host.role() == host.role("other") == "MASTER")
    # Now both virtual addresses stand before our own.
    host.readdress("192.0.2.1", "192.0.2.77")
    stage.until(lambda: {each.source for each in switch.tap.adverts()[-4:]} == {"192.0.2.77"})
    a_while(stage, switch, "192.0.2.77")
    assert {each.source for each in switch.tap.adverts()} == {"192.0.2.1", "192.0.2.77"}


def test_a_sync_group_moves_as_one(stage: Stage, switch: Switch) -> None:
    back = stage.switch()
    hosts = stage.hosts(switch, 2)
    for number, host in enumerate(hosts, 1):
        back.plug(host, f"198.51.100.{number}/24", name="eth1")
        inner = instance(
            interface="eth1", virtual_router_id=52, virtual_ipaddress="198.51.100.200", priority=200 - 50 * number
        )
        host.start(many({"both": ("vi", "inner")}, vi=instance(priority=200 - 50 * number), inner=inner))
    best, other = hosts

    def is_master(host: Host, rest: Host) -> bool:
        return all(host.role(name) == "MASTER" != rest.role(name) for name in ("vi", "inner"))

    def held(host: Host) -> list[bool]:
        return [host.holds(), host.holds("198.51.100.200", name="eth1")]

    stage.until(lambda: is_master(best, other))
    assert (held(best), held(other)) == ([True, True], [False, False])
    switch.tap.forget()
    back.tap.forget()
    back.cut(best, "eth1")
    stage.until(lambda: is_master(other, best))
    assert [best.role(), best.role("inner")] == ["FAULT", "FAULT"]
    assert (held(best), held(other)) == ([False, False], [True, True])
    assert switch.tap.adverts("192.0.2.1")[-1].priority == 0, "where it still can it says good-bye"
    back.mend(best, "eth1")
    stage.until(lambda: is_master(best, other))
    stage.until(lambda: (held(best), held(other)) == ([True, True], [False, False]))


def test_two_virtual_routers_on_one_interface(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    for host, priorities in zip(pair, ((150, 100), (100, 150)), strict=True):
        first = instance(priority=priorities[0])
        second = instance(priority=priorities[1], virtual_router_id=52, virtual_ipaddress=VIP_2)
        host.start(many(vi=first, other=second))
    one, two = pair
    # Whoever is started first may be master of both for a moment.
    expected = [("MASTER", "BACKUP"), ("BACKUP", "MASTER")]
    stage.until(lambda: [(host.role(), host.role("other")) for host in pair] == expected)
    a_while(stage, switch, "192.0.2.1")
    assert [[host.holds(vip) for vip in (VIP, VIP_2)] for host in pair] == [[True, False], [False, True]]
    one.crash()
    stage.until(lambda: two.role() == "MASTER")
    assert two.holds(VIP)
    assert two.holds(VIP_2)
    assert not any("cannot" in line for line in (*one.warned, *two.warned))


# On the wire


def test_what_a_new_master_says(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(
        one(
            virtual_ipaddress=(VIP, VIP_2),
            advert_int="50ms",
            garp_master_delay="300ms",
            garp_master_refresh="200ms",
        )
    )
    stage.until(lambda: len(switch.tap.arps()) >= 24)
    mac, everybody = host.mac(), b"\xff" * 6
    said = [each for each in switch.tap.said if isinstance(each, Advert | Arp) and each.frame.source == mac]
    sets = [list(group) for kind, group in groupby(said, type) if kind is Arp]
    assert isinstance(said[0], Advert), "the old master is to hear of it first"
    assert said[1:11] == sets[0]
    assert [[each.target for each in group if isinstance(each, Arp)] for group in sets][:4] == [
        [VIP] * 5 + [VIP_2] * 5,
        [VIP] * 5 + [VIP_2] * 5,
        [VIP, VIP_2],
        [VIP, VIP_2],
    ]
    for each in said:
        if isinstance(each, Arp):
            assert each.frame.destination == everybody
            assert each == Arp(each.frame, 1, mac, each.target, everybody, each.target)
        elif isinstance(each, Advert):
            assert each.frame.destination == GROUP_MAC_V4
            assert (each.source, each.destination, each.ttl, each.tos) == ("192.0.2.1", "224.0.0.18", 255, 0xC0)
            both: dict[str, Any] = {"addresses": (bytes([192, 0, 2, 200]), bytes([192, 0, 2, 201])), "interval": 0.05}
            assert each.message == advertisement("192.0.2.1", priority=100, **both)


def test_ipv6(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    vrrp: dict[str, Any] = {"virtual_ipaddress": ("fe80::c8", VIP_V6), "garp_master_delay": "300ms"}
    best.start(one(150, **vrrp))
    other.start(one(100, **vrrp))
    stage.until(lambda: best.role() == "MASTER")
    held = best.addresses()
    assert all(held[vip]["valid_life_time"] <= LEASE and "tentative" not in held[vip] for vip in ("fe80::c8", VIP_V6))

    def told() -> list[Advertised]:
        return [each for each in switch.tap.said if isinstance(each, Advertised) and each.frame.source == best.mac()]

    stage.until(lambda: len(told()) >= 20)
    a_while(stage, switch, switch.tap.adverts()[0].source)
    # Each time that it has become master, and once more each time that it hears the other be master: a machine may be
    # too busy to advertise.
    times, others = (sum("Entering MASTER STATE" in line for line in each.said) for each in pair)
    rounds = len(told()) // 10
    assert [each.target for each in told()] == (["fe80::c8"] * 5 + [VIP_V6] * 5) * rounds
    assert rounds >= 2 * times if others else rounds == 2 * times
    for each in told():
        assert each.frame.destination == bytes.fromhex("333300000001")
        assert each == Advertised(each.frame, 255, each.target, "ff02::1", 0xA0, each.target, best.mac())
    for advert in switch.tap.adverts():
        assert advert.frame.destination == GROUP_MAC_V6
        assert (advert.destination, advert.ttl, advert.tos) == ("ff02::12", 255, 0xC0)
        assert advert.source.startswith("fe80::")
        assert advert.source != "fe80::c8"
    assert other.roles() == ["BACKUP"]
    assert not other.holds(VIP_V6)
    best.crash()
    stage.until(lambda: other.role() == "MASTER")
    assert other.holds(VIP_V6)
    stage.until(lambda: not best.holds(VIP_V6))


def test_the_same_id_in_both_families_is_two_virtual_routers(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(many(four=instance(), six=instance(virtual_ipaddress=VIP_V6)))
    stage.until(lambda: host.role("four") == host.role("six") == "MASTER")
    assert host.holds(VIP)
    assert host.holds(VIP_V6)


def password(text: str) -> dict[str, Any]:
    return {"version": 2, "advert_int": "1s", "authentication": {"type": "pass", "password": text}}


def test_with_the_same_password_they_elect_one(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(254, **password("longer than it may be")))
    other.start(one(200, **password("longer tail, same head")))
    stage.until(lambda: best.role() == "MASTER")
    stage.until(lambda: other.counted("advert_rcvd") >= 2)
    assert switch.tap.adverts()[0].message[-8:] == b"longer t"
    assert other.roles() == ["BACKUP"]
    assert not other.counted("auth_failure")


def test_with_another_password_nobody_is_believed(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(254, **password("right")))
    other.start(one(200, **password("wrong")))
    stage.until(lambda: [host.role() for host in pair] == ["MASTER", "MASTER"])
    stage.until(lambda: best.counted("auth_failure") and other.counted("auth_failure") > 1)
    assert not best.counted("advert_rcvd") + other.counted("advert_rcvd")
    assert [host.warned for host in pair] == [["(vi) advertisement not believed: wrong password"]] * 2


# What others send


@pytest.fixture
def steady(elected: list[Host], stage: Stage, switch: Switch) -> Iterator[list[Host]]:
    """A master and a standby whose roles and addresses are the same at the end."""
    before = [host.roles() for host in elected]
    yield elected
    a_while(stage, switch, "192.0.2.1")
    assert [host.roles() for host in elected] == before
    assert [host.holds() for host in elected] == [True, False]


def test_other_virtual_routers_are_not_ours(stage: Stage, switch: Switch, steady: list[Host]) -> None:
    for vrid in (VRID - 1, VRID + 1, 255):
        for priority in (0, 255):
            said = advertisement("192.0.2.99", priority=priority, vrid=vrid)
            switch.tap.send(ipv4_frame(said, "192.0.2.99"))
    heard = steady[1].counted("advert_rcvd")
    stage.until(lambda: steady[1].counted("advert_rcvd") >= heard + 3)
    assert not steady[0].counted("advert_rcvd")
    assert not any(host.warned for host in steady)


def forged(draw: random.Random, source: str) -> list[tuple[str, bytes]]:
    """What each is counted as, and the frame; all of them would be master."""
    good = advertisement(source, priority=254)
    broken = bytearray(good)
    broken[2] = 255
    return [
        ("ip_ttl_err", ipv4_frame(good, source, ttl=254)),
        ("ip_ttl_err", ipv4_frame(good, source, ttl=draw.randrange(254))),
        ("checksum_err", ipv4_frame(bytes(broken), source)),
        ("version_err", ipv4_frame(advertisement(source, priority=254, version=2, interval=1), source)),
        ("packet_len_err", ipv4_frame(good[:-4], source)),
        ("packet_len_err", ipv4_frame(good + bytes(draw.randrange(1, 40)), source)),
        ("packet_len_err", ipv4_frame(good[:5], source)),
        ("vrid_err", ipv4_frame(good[:1] + b"\0" + good[2:], source)),
        ("source_err", ipv4_frame(advertisement("0.0.0.0", priority=254), "0.0.0.0")),
        ("source_err", ipv4_frame(good, source)),
    ]


def test_two_thousand_forged_packets_change_nothing(stage: Stage, switch: Switch, steady: list[Host]) -> None:
    draw = random.Random(4)
    expected: Counter[str] = Counter()
    for _ in range(200):
        # Of a network that is not this one.
        source = f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
        for cause, frame in forged(draw, source):
            switch.tap.send(frame)
            expected[cause] += 1
        # Before there is no more room for them.
        stage.until(lambda: all(host.counted("source_err") >= expected["source_err"] for host in steady))
    assert expected.total() == 2000
    for host in steady:
        assert {cause: host.counted(cause) for cause in expected} == expected
        assert len(host.warned) < 20


def test_two_thousand_of_pure_noise_change_nothing(stage: Stage, switch: Switch, steady: list[Host]) -> None:
    draw = random.Random(4)
    for round_ in range(1, 41):
        for _ in range(50):
            noise = bytearray(draw.randbytes(draw.randrange(64)))
            if len(noise) > 1:
                noise[1] = VRID
            switch.tap.send(ipv4_frame(bytes(noise), "192.0.2.99", ttl=draw.choice((1, 254, 255))))

        def refused(host: Host) -> int:
            assert host.speaker is not None
            counted = host.speaker._routers["vi"].counted
            return sum(number for cause, number in counted.items() if cause.endswith(REFUSED))

        stage.until(lambda round_=round_: all(refused(host) == 50 * round_ for host in steady))  # type: ignore[misc]
    assert not steady[0].counted("advert_rcvd")
    assert all(len(host.warned) < 20 for host in steady)


def test_a_master_with_other_addresses_is_followed_and_said_once(
    stage: Stage, switch: Switch, elected: list[Host]
) -> None:
    best, other = elected
    foreign = advertisement("192.0.2.99", priority=200, addresses=(bytes([192, 0, 2, 222]),))
    for count in range(1, 5):
        switch.tap.send(ipv4_frame(foreign, "192.0.2.99"))
        stage.until(lambda count=count: other.counted("addr_list_err") == count)  # type: ignore[misc]
    assert best.role() == "BACKUP"
    assert sum("other addresses" in line for line in other.warned) == 1
    stage.until(lambda: best.role() == "MASTER")


# Descriptors


def test_nothing_is_left_open(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    before = descriptors()
    host.start(many(four=instance(), six=instance(virtual_ipaddress=VIP_V6)))
    stage.until(lambda: host.role("four") == host.role("six") == "MASTER")
    switch.cut(host)
    stage.until(lambda: host.role("four") == "FAULT")
    switch.mend(host)
    host.readdress("192.0.2.1", "192.0.2.77")
    stage.until(lambda: host.role("four") == "MASTER")
    assert len(descriptors()) > len(before)
    host.stop()
    assert descriptors() == before


def test_a_child_that_forgets_leaves_the_parent_working(stage: Stage, switch: Switch, elected: list[Host]) -> None:
    best, other = elected
    pid = os.fork()
    if not pid:
        status = 1
        try:
            assert best.speaker is not None
            before = len(descriptors())
            best.speaker.forget()
            status = 0 if len(descriptors()) < before else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    a_while(stage, switch, "192.0.2.1")
    assert best.roles() == ["BACKUP", "MASTER"]
    best.ip(f"address del {VIP}/32 dev eth0")
    stage.until(lambda: best.warned)
    assert best.holds()
    other.stop()
    switch.cut(best)
    stage.until(lambda: best.role() == "FAULT")


def test_a_kernel_that_does_not_say_changes_nothing(
    stage: Stage, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: str) -> None:
        raise OSError(errno.EBUSY, "busy")

    (host,) = stage.hosts(switch, 1)
    host.start(one(100))
    stage.until(lambda: host.role() == "MASTER")
    assert host.speaker is not None
    with monkeypatch.context() as kernel:
        kernel.setattr(host.speaker._addresses, "card", refuses)
        stage.until(lambda: host.warned)
    assert len(host.warned) == 1
    assert "busy" in host.warned[0]
    a_while(stage, switch, "192.0.2.1")
    assert host.holds()
    assert host.roles() == ["BACKUP", "MASTER"]
