"""What a virtual router does that its file or its operator asks for, and what moves its priority."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from balancer.errors import NoSuchRouterError, StartError
from balancer.pool.routers import decode, encode
from balancer.vrrp.track import Service
from balancer.wire import vrrp as wire
from tests.vrrp.conftest import (
    VIP,
    VIP_2,
    VIP_V6,
    Host,
    Stage,
    Switch,
    advertisement,
    as_root,
    file,
    instance,
    ipv4_frame,
    one,
)

pytestmark = as_root

KEY = "a key of both"


@pytest.fixture
def pair(stage: Stage, switch: Switch) -> list[Host]:
    return stage.hosts(switch, 2)


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_master(best: Host, other: Host) -> bool:
    return (best.role(), other.role()) == ("MASTER", "BACKUP") and best.holds() and not other.holds()


def priority(host: Host, name: str = "vi") -> int:
    assert host.speaker is not None
    return next(router.priority for router in host.speaker.standing().routers if router.name == name)


# Where advertisements come from and go to


def test_unicast_peers_elect(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150, unicast_peer="192.0.2.2"))
    other.start(one(100, unicast_peer=("192.0.2.1", "192.0.2.3"), unicast_src_ip="192.0.2.2"))
    stage.until(lambda: is_master(best, other))
    heard = other.counted("advert_rcvd")
    stage.until(lambda: other.counted("advert_rcvd") > heard + 10)
    assert not switch.tap.adverts(), "nobody else hears them"
    best.crash()
    stage.until(lambda: other.role() == "MASTER")
    assert not other.counted("addr_list_err")


def test_unicast_peers_of_ipv6(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    for number, host in enumerate(pair, 1):
        host.ip(f"address add 2001:db8::{number}/64 dev eth0 nodad")
    best, other = pair
    best.start(one(150, virtual_ipaddress=VIP_V6, unicast_peer="2001:db8::2"))
    other.start(one(100, virtual_ipaddress=VIP_V6, unicast_peer="2001:db8::1"))
    stage.until(lambda: (best.role(), other.role()) == ("MASTER", "BACKUP"))
    heard = other.counted("advert_rcvd")
    stage.until(lambda: other.counted("advert_rcvd") > heard + 5)
    assert best.holds(VIP_V6)


def test_only_peers_are_believed_and_only_by_unicast(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    _, other = pair
    other.start(one(100, unicast_peer="192.0.2.1"))
    stage.until(lambda: other.role() == "MASTER")
    mac = other.mac()
    for source, destination, cause in (
        ("192.0.2.1", "224.0.0.18", "addr_list_err"),
        ("192.0.2.7", "192.0.2.2", "source_err"),
    ):
        frame = ipv4_frame(
            advertisement(source, priority=200, destination=destination), source, destination=destination
        )
        switch.tap.send(frame if cause == "addr_list_err" else mac + frame[6:])
        stage.until(lambda cause=cause: other.counted(cause) == 1)  # type: ignore[misc]
    assert other.roles() == ["BACKUP", "MASTER"]
    # And the peer's own, from the same wire, is.
    frame = ipv4_frame(
        advertisement("192.0.2.1", priority=200, destination="192.0.2.2"), "192.0.2.1", destination="192.0.2.2"
    )
    switch.tap.send(mac + frame[6:])
    stage.until(lambda: other.role() == "BACKUP")


def test_the_source_can_be_chosen(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.ip("address add 192.0.2.77/24 dev eth0")
    host.start(one(mcast_src_ip="192.0.2.77"))
    stage.until(switch.tap.adverts)
    assert switch.tap.adverts()[0].source == "192.0.2.77"
    host.ip("address del 192.0.2.77/24 dev eth0")
    stage.until(lambda: host.role() == "FAULT")
    assert "has no address 192.0.2.77" in host.said[-1]


@pytest.mark.parametrize("as_v2", [True, False])
def test_the_checksum_of_the_rfc_or_of_keepalived(stage: Stage, switch: Switch, as_v2: bool) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one(v3_checksum_as_v2=as_v2))
    stage.until(switch.tap.adverts)
    message = switch.tap.adverts()[0].message
    assert (wire.checksum(message) == 0) == as_v2


def test_label_and_scope(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one(virtual_ipaddress=({"address": VIP, "label": "eth0:vip", "scope": "link"}, VIP_2)))
    stage.until(lambda: host.role() == "MASTER")
    held = host.addresses()
    assert (held[VIP]["label"], held[VIP]["scope"], held[VIP_2]["scope"]) == ("eth0:vip", "link", "global")
    host.stop()
    assert not host.holds()


def test_announcements_that_are_switched_off(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one(garp_master_delay="0s", garp_master_refresh="0s", garp_master_repeat=2))
    stage.until(lambda: host.counted("advert_sent") > 5)
    assert host.counted("garp_sent") == 2


def test_another_address_list_counts_in_version_3_alone(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    two = instance(version=2, advert_int="1s", virtual_router_id=52, virtual_ipaddress=VIP_2, priority=255)
    host.start(file({"vi": instance(), "two": two}))
    stage.until(lambda: host.role("two") == "MASTER")
    foreign: dict[str, Any] = {"version": 2, "vrid": 52, "interval": 1.0, "addresses": (bytes([192, 0, 2, 222]),)}
    switch.tap.send(ipv4_frame(advertisement("192.0.2.99", priority=254, **foreign), "192.0.2.99"))
    stage.until(lambda: host.counted("addr_list_err", "two") == 1)
    assert host.role("two") == "MASTER"
    assert not host.counted("advert_rcvd", "two")
    assert host.warned[-1].endswith("; not believed")
    # RFC 3768 section 7.1: but their owner's.
    switch.tap.send(ipv4_frame(advertisement("192.0.2.99", priority=255, **foreign), "192.0.2.99"))
    stage.until(lambda: host.role("two") == "BACKUP")


# What is tracked


def test_a_tracked_interface(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    back = stage.switch()
    best, other = pair
    for number, host in enumerate(pair, 1):
        back.plug(host, f"198.51.100.{number}/24", name="eth1")
    best.start(one(150, track_interface="eth1"))
    other.start(one(100, track_interface={"interface": "eth1", "weight": -30}))
    stage.until(lambda: is_master(best, other))
    back.cut(best, "eth1")
    stage.until(lambda: other.role() == "MASTER")
    assert best.said[-1] == "(vi) Entering FAULT STATE: interface eth1 is down"
    back.cut(other, "eth1")
    stage.until(lambda: priority(other) == 70)
    assert other.role() == "MASTER"
    back.mend(best, "eth1")
    stage.until(lambda: is_master(best, other))
    assert "(vi) Changing effective priority from 100 to 70" in other.said


def test_an_interface_that_is_not_there_yet(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    (host, _) = pair
    host.start(one(track_interface="eth1"))
    assert host.roles() == ["FAULT"]
    stage.switch().plug(host, "198.51.100.1/24", name="eth1")
    stage.until(lambda: host.role() == "MASTER")


def test_a_script_moves_the_addresses_and_its_recovery_moves_them_back(
    stage: Stage, switch: Switch, pair: list[Host], tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.touch()
    scripts = {"site": {"script": f"/usr/bin/test -e {good}", "interval": "50ms", "timeout": "5s", "weight": -60}}
    best, other = pair
    best.start(file({"vi": instance(priority=150, track_script="site")}, scripts=scripts))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    good.unlink()
    stage.until(lambda: is_master(other, best))
    assert priority(best) == 90
    assert best.speaker is not None
    (script,) = best.speaker.standing().scripts
    assert (script.name, script.is_good, script.text) == ("site", False, "exit status 1")
    good.touch()
    stage.until(lambda: is_master(best, other))


def test_a_script_without_a_weight_means_fault(stage: Stage, switch: Switch, pair: list[Host], tmp_path: Path) -> None:
    good = tmp_path / "good"
    scripts = {"site": {"script": f"/usr/bin/test -e {good}", "interval": "50ms", "timeout": "5s", "rise": 2}}
    best, other = pair
    best.start(file({"vi": instance(priority=150, track_script="site")}, scripts=scripts))
    other.start(one(100))
    stage.until(lambda: (best.role(), other.role()) == ("FAULT", "MASTER"))
    assert best.said[-1] == "(vi) Entering FAULT STATE: script site exit status 1"
    good.touch()
    stage.until(lambda: is_master(best, other))


def test_a_file(stage: Stage, switch: Switch, pair: list[Host], tmp_path: Path) -> None:
    manual = tmp_path / "manual"
    best, other = pair
    best.start(
        file({"vi": instance(priority=150, track_file="manual")}, files={"manual": {"file": str(manual), "weight": 2}})
    )
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    manual.write_text("-30\n")
    stage.until(lambda: is_master(other, best))
    assert priority(best) == 90
    manual.write_text("-127")
    stage.until(lambda: best.role() == "FAULT")
    manual.unlink()
    stage.until(lambda: is_master(best, other))


def test_who_has_no_worker_gives_the_addresses_away(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    best.service = Service(False, {})
    stage.until(lambda: is_master(other, best))
    assert priority(best) == 1
    # Nobody has one: the one stays that is.
    other.service = Service(False, {})
    stage.until(lambda: priority(other) == 1)
    assert is_master(other, best)
    best.service = Service(True, {})
    stage.until(lambda: is_master(best, other))


# The heartbeat


def cabled(stage: Stage, pair: list[Host]) -> Switch:
    """A second network between both."""
    other_way = stage.switch()
    for number, host in enumerate(pair, 1):
        other_way.plug(host, f"10.9.0.{number}/24", name="eth9")
    return other_way


def beating(number: int, **changes: Any) -> Any:
    heartbeat = {"bind": f"10.9.0.{number}:3112", "peers": f"10.9.0.{3 - number}:3112", "key": KEY}
    return file({"vi": instance(**changes)}, heartbeat=heartbeat)


@pytest.fixture
def beaten(stage: Stage, switch: Switch, pair: list[Host]) -> Switch:
    """The first is master, and both know of each other by another way, which is given."""
    other_way = cabled(stage, pair)
    best, other = pair
    tracked = {"backend": "web", "weight": -60}
    for number, host in enumerate(pair, 1):
        host.service = Service(True, {"web": (3, 3)})
        host.start(beating(number, priority=200 - 50 * number, track_backend=tracked))
    stage.until(lambda: is_master(best, other))
    stage.until(lambda: all(standing(host).peers[0].is_alive for host in pair))
    return other_way


def standing(host: Host) -> Any:
    assert host.speaker is not None
    return host.speaker.standing()


def test_silence_on_one_network_makes_no_second_master(
    stage: Stage, switch: Switch, pair: list[Host], beaten: Switch
) -> None:
    best, other = pair
    # Both links stay up, and nothing goes through.
    for host in pair:
        switch.isolate(host)
    stage.until(lambda: any("by the heartbeat" in line for line in other.warned))
    begin = time.monotonic()
    stage.until(lambda: time.monotonic() - begin > 1.0)
    assert is_master(best, other), "ten intervals of silence"
    # Now it is silent there too: dead.
    beaten.cut(best, "eth9")
    stage.until(lambda: other.role() == "MASTER")


def test_a_dead_director_is_replaced_as_soon_with_a_heartbeat(
    stage: Stage, switch: Switch, pair: list[Host], beaten: Switch
) -> None:
    best, other = pair
    begin = time.monotonic()
    best.crash()
    stage.until(lambda: other.role() == "MASTER")
    assert time.monotonic() - begin < 1.0, "0.36 s, and what a busy machine adds"


def test_who_cannot_be_master_is_not_waited_for(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    cabled(stage, pair)
    best, other = pair
    for number, host in enumerate(pair, 1):
        host.start(beating(number, priority=200 - 50 * number, version=2, advert_int="1s"))
    stage.until(lambda: is_master(best, other))
    stage.until(lambda: all(standing(host).peers[0].is_alive for host in pair))
    begin = time.monotonic()
    switch.cut(best)
    stage.until(lambda: other.role() == "MASTER")
    assert time.monotonic() - begin < 3.0, "by silence it would be 3 intervals and more"


def test_a_backend_that_only_the_peer_reaches_moves_the_addresses(
    stage: Stage, switch: Switch, pair: list[Host], beaten: Switch
) -> None:
    best, other = pair
    best.service = Service(True, {"web": (0, 3)})
    stage.until(lambda: is_master(other, best))
    (router,) = standing(best).routers
    assert router.terms[1].text == "0 of 3 servers up here, 3 of 3 at 10.9.0.2 (weight -60)"
    assert router.priority == 90
    best.service = Service(True, {"web": (3, 3)})
    stage.until(lambda: is_master(best, other))


def test_a_backend_that_is_dead_for_both_moves_nothing(
    stage: Stage, switch: Switch, pair: list[Host], beaten: Switch
) -> None:
    best, other = pair
    other.service = Service(True, {"web": (0, 3)})
    stage.until(lambda: standing(best).peers[0].servers == {"web": (0, 3)})
    best.service = Service(True, {"web": (0, 3)})
    stage.until(lambda: standing(other).peers[0].servers == {"web": (0, 3)})
    assert (priority(best), priority(other)) == (150, 100)
    assert (best.roles(), other.roles()) == (["BACKUP", "MASTER"], ["BACKUP"])


def test_no_worker_at_either_moves_nothing(stage: Stage, switch: Switch, pair: list[Host], beaten: Switch) -> None:
    best, other = pair
    other.service = Service(False, {"web": (3, 3)})
    stage.until(lambda: priority(other) == 1)
    best.service = Service(False, {"web": (3, 3)})
    stage.until(lambda: priority(other) == 100)
    assert priority(best) == 150
    assert (best.roles(), other.roles()) == (["BACKUP", "MASTER"], ["BACKUP"])


# By hand


def test_release_and_hold(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    assert best.speaker is not None
    with best:
        assert best.speaker.release(None, 600.0) == [
            "vi: its addresses are left for 600 s, unless no other director is master"
        ]
    assert best.roles()[-1] == "BACKUP"
    assert standing(best).routers[0].heard is None, "the other never was master"
    stage.until(lambda: is_master(other, best))
    (router,) = standing(best).routers
    assert 595 < router.released_until - time.time() < 601
    stage.until(lambda: standing(best).routers[0].master == "192.0.2.2")
    with best:
        assert best.speaker.hold("vi") == ["vi: MASTER"]
    stage.until(lambda: is_master(best, other))
    # What the other said last is remembered.
    (router,) = standing(best).routers
    assert router.released_until is None
    assert (router.master, router.heard_from, router.heard_priority) == ("", "192.0.2.2", 100)
    assert 0 <= time.time() - router.heard < 10
    assert other.speaker is not None
    with other:
        (line,) = other.speaker.hold("vi")
    assert line == "vi: BACKUP, for 192.0.2.1 has priority 150, ours is 100: release it there"


def test_addresses_that_nobody_else_takes_come_back(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one())
    stage.until(lambda: host.role() == "MASTER")
    assert host.speaker is not None
    with host:
        host.speaker.release("vi", 600.0)
    stage.until(lambda: host.roles() == ["BACKUP", "MASTER", "BACKUP", "MASTER"])


def test_a_group_is_released_whole(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    for number, host in enumerate(pair, 1):
        members = {
            name: instance(priority=200 - 50 * number, virtual_router_id=vrid, virtual_ipaddress=vip)
            for name, vrid, vip in (("vi", 51, VIP), ("too", 52, VIP_2))
        }
        host.start(file(members, sync_groups={"both": ("vi", "too")}))
    names = "vi", "too"
    stage.until(lambda: all(best.role(name) == "MASTER" != other.role(name) for name in names))
    assert best.speaker is not None
    with best:
        assert len(best.speaker.release("too", 600.0)) == 2
    stage.until(lambda: all(other.role(name) == "MASTER" != best.role(name) for name in names))
    with best:
        best.speaker.hold("both")
    stage.until(lambda: all(best.role(name) == "MASTER" != other.role(name) for name in names))
    with pytest.raises(NoSuchRouterError, match="there is no instance or sync group x; there are vi, too, both"):
        best.speaker.hold("x")


# Who wants to know


def test_programs_and_the_fifo_are_told(stage: Stage, switch: Switch, pair: list[Host], tmp_path: Path) -> None:
    told, fifo = tmp_path / "told", tmp_path / "fifo"
    note = program(tmp_path / "note", f'echo "$@" >>{told}')
    best, _ = pair
    members = {
        name: instance(
            virtual_router_id=vrid, virtual_ipaddress=vip, notify=note, notify_master=f"{note} {name} is master"
        )
        for name, vrid, vip in (("vi", 51, VIP), ("too", 52, VIP_2))
    }
    groups = {"both": {"group": ("vi", "too"), "notify": note, "notify_stop": f"{note} both stop"}}
    vrrp = file(members, sync_groups=groups, notify_fifo=str(fifo))
    best.make(vrrp).close()
    assert stat.S_ISFIFO(fifo.stat().st_mode), "made where there was none"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    best.start(vrrp)

    def lines() -> list[str]:
        return told.read_text().splitlines() if told.exists() else []

    stage.until(lambda: "GROUP both MASTER 0" in lines())
    stage.until(lambda: {"INSTANCE vi MASTER 100", "INSTANCE too MASTER 100"} <= set(lines()))
    assert {"vi is master", "too is master"} <= set(lines())
    assert best.speaker is not None
    with best:
        best.speaker.stop()
    stage.until(lambda: {"GROUP both STOP 0", "INSTANCE vi STOP 100", "both stop"} <= set(lines()))
    written = os.read(reader, 4096).decode().splitlines()
    os.close(reader)
    for state in ("BACKUP", "MASTER", "STOP"):
        assert {f'INSTANCE "vi" {state} 100', f'GROUP "both" {state} 0'} <= set(written)


def test_all_that_is_known_can_be_handed_on(stage: Stage, switch: Switch, pair: list[Host], beaten: Switch) -> None:
    # At the very beginning it would be the last word of one that steps down.
    stage.until(lambda: pair[0].counted("advert_sent") > 3)
    switch.tap.send(ipv4_frame(advertisement("192.0.2.99", priority=1), "192.0.2.99"))
    stage.until(lambda: pair[0].counted("lower_priority_rcvd") == 1)
    known = standing(pair[0])
    assert decode(encode(known)) == known
    (router,) = known.routers
    assert (router.state, router.vrid, router.addresses, router.source) == ("MASTER", 51, (f"{VIP}/32",), "192.0.2.1")
    assert router.counters["become_master"] == 1
    assert router.counters["advert_sent"] > 0
    assert [trouble.text for trouble in router.troubles] == ["192.0.2.99 is master too with priority 1, ours is 150"]
    (peer,) = known.peers
    assert (peer.states, peer.servers) == ({"vi": "BACKUP"}, {"web": (3, 3)})


# What the machine around it does


def test_thousands_of_addresses_elsewhere_cost_nothing(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.ip("link set dev lo up")
    host.start(one())
    stage.until(lambda: host.role() == "MASTER")

    def turns() -> float:
        """Processor seconds that a second of its life takes."""
        end, used = time.monotonic() + 1.0, time.process_time()
        stage.until(lambda: time.monotonic() > end)
        return time.process_time() - used

    before = turns()
    host.batch("".join(f"address add 10.200.{i // 250}.{i % 250 + 1}/32 dev lo\n" for i in range(3000)))
    stage.until(lambda: host.counted("advert_sent") > 15)
    # To read them took a tenth of a second, each time.
    assert turns() < before + 0.1
    assert host.roles() == ["BACKUP", "MASTER"]


def test_of_two_subnets_it_speaks_from_that_of_its_addresses(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.ip("address del 192.0.2.1/24 dev eth0")
    best.ip("address add 172.16.5.1/24 dev eth0")
    best.ip("address add 192.0.2.1/24 dev eth0")
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    assert {each.source for each in switch.tap.adverts()} == {"192.0.2.1"}


def test_who_loses_its_own_address_says_good_bye(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    best.ip("address del 192.0.2.1/24 dev eth0")
    stage.until(lambda: other.role() == "MASTER")
    assert other.said[-1].endswith("192.0.2.1 has resigned")
    last = switch.tap.adverts("192.0.2.1")[-1]
    assert (last.priority, last.ttl, last.tos, last.destination) == (0, 255, 0xC0, "224.0.0.18")


def test_it_does_not_take_the_only_address_of_an_interface(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    with pytest.raises(StartError, match=r"192\.0\.2\.1 is the only address of eth0"):
        host.start(one(255, virtual_ipaddress="192.0.2.1/24"))
    assert host.holds("192.0.2.1")


def test_a_second_copy_does_not_start(stage: Stage, switch: Switch) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one())
    with pytest.raises(StartError, match="another pybalancer on this host is virtual router 51 on eth0 already"):
        host.make(one())
    stage.until(lambda: host.role() == "MASTER")
    host.stop()
    host.make(one()).close()


def test_an_address_put_by_hand_is_taken_off_where_it_does_not_belong(
    stage: Stage, switch: Switch, pair: list[Host]
) -> None:
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))
    other.ip(f"address add {VIP}/24 dev eth0")
    stage.until(lambda: not other.holds() and other.warned)
    assert other.warned[-1] == f"(vi) {VIP} was put on eth0 by somebody, taken off: this host is BACKUP"
    # With another prefix length it has no lease.
    best.ip(f"address add {VIP}/25 dev eth0")
    stage.until(lambda: list(best.prefixes()) == [32])
    assert best.role() == "MASTER"


def test_an_address_that_failed_duplicate_detection_is_put_anew(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    vip = f"{VIP_V6}/64"
    best.start(one(150, virtual_ipaddress=vip))
    stage.until(lambda: best.role() == "MASTER")
    with other:
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("1")
    other.ip(f"address add {vip} dev eth0")
    stage.until(lambda: other.addresses()[VIP_V6].get("dadfailed"))
    other.start(one(100, virtual_ipaddress=vip))
    best.stop()
    stage.until(lambda: other.role() == "MASTER" and "dadfailed" not in other.addresses().get(VIP_V6, {"dadfailed": 1}))


def test_without_preemption_who_serves_nobody_falls(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150, preempt=False))
    other.start(one(100, preempt=False))
    stage.until(lambda: is_master(best, other))
    best.service = Service(False, {})
    stage.until(lambda: (best.role(), other.role()) == ("FAULT", "MASTER"))
    best.service = Service(True, {})
    stage.until(lambda: best.role() == "BACKUP")
    assert other.role() == "MASTER"


def test_addresses_that_cannot_be_kept_are_left_to_another(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, other = pair
    best.start(one(150))
    other.start(one(100))
    stage.until(lambda: is_master(best, other))

    def is_taken_off() -> bool:
        """As a program does that does not want it there."""
        if best.role() == "MASTER" and best.holds():
            best.ip(f"address del {VIP}/32 dev eth0")
        return is_master(other, best)

    stage.until(is_taken_off)
    assert best.said[-1].endswith("192.0.2.200 cannot be kept on eth0")
