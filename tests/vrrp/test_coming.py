"""Other virtual routers from now on: what it needs, and that those which stay as they are do not notice."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from balancer.config.vrrp import Vrrp
from balancer.errors import StartError
from balancer.vrrp.address import Vip
from tests.vrrp.conftest import (
    VIP,
    VIP_2,
    VRID,
    Host,
    Stage,
    Switch,
    as_root,
    descriptors,
    file,
    instance,
    many,
    one,
)

pytestmark = as_root

OTHER = {"virtual_router_id": 52, "virtual_ipaddress": VIP_2}


@pytest.fixture
def pair(stage: Stage, switch: Switch) -> list[Host]:
    return stage.hosts(switch, 2)


@pytest.fixture
def elected(stage: Stage, switch: Switch, pair: list[Host]) -> Callable[..., tuple[Host, Host]]:
    """Both with `vi` and `other`; the first is master of both."""

    def elect(**changes: Any) -> tuple[Host, Host]:
        best, second = pair
        for host, priority in ((best, 150), (second, 100)):
            host.start(both(priority, **changes))
        stage.until(lambda: best.role() == best.role("other") == "MASTER")
        # The loser of a race, if there was one, has heard.
        stage.until(lambda: second.role() == second.role("other") == "BACKUP")
        return best, second

    return elect


def both(priority: int, *, other: dict[str, Any] | None = None, **changes: Any) -> Vrrp:
    of_other = {"priority": priority} | OTHER | (other or {})
    return many(vi=instance(priority=priority, **changes), other=instance(**of_other))


def a_while(stage: Stage, seconds: float) -> None:
    end = time.monotonic() + seconds
    stage.until(lambda: time.monotonic() > end)


def of(switch: Switch, vrid: int) -> list[int]:
    return [each.priority for each in switch.tap.adverts() if each.vrid == vrid]


# Unchanged


def test_what_is_unchanged_does_not_notice(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    switch.tap.forget()
    moments: list[float] = []
    seen = 0

    def watch() -> bool:
        nonlocal seen
        found = len(of(switch, VRID))
        moments.extend([time.monotonic()] * (found - seen))
        seen = found
        return seen >= 20

    begun, said = time.monotonic(), [list(best.said), list(second.said)]
    most_missed = itertools.cycle(range(3, 50))

    def reloads() -> bool:
        # Of the other one, time and again: what a script of an operator may do.
        for host in (best, second):
            host.reload(both(150 if host is best else 100, other={"down_timer_adverts": next(most_missed)}))
        return watch()

    stage.until(reloads)
    passed = time.monotonic() - begun
    assert len(moments) == pytest.approx(passed / 0.1, abs=2), "not one more, not one less"
    assert all(after - before < 0.25 for before, after in pairwise(moments))
    assert not switch.tap.arps()
    assert set(of(switch, VRID)) == {150} and set(of(switch, 52)) == {150}
    for host, before in zip((best, second), said, strict=True):
        assert [line for line in host.said[len(before) :] if "in place" not in line] == []


def test_others_that_take_long_do_not_keep_it_from_speaking(
    stage: Stage, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host,) = stage.hosts(switch, 1)

    def routers(count: int) -> dict[str, Any]:
        vips = [tuple(f"10.0.{number}.{each}" for each in range(count)) for number in range(20)]
        return {
            f"r{number}": instance(virtual_router_id=60 + number, virtual_ipaddress=own)
            for number, own in enumerate(vips)
        }

    host.start(many(vi=instance(), **routers(1)))
    assert host.speaker is not None
    stage.until(lambda: all(router.state == "MASTER" for router in host.speaker.standing().routers))  # type: ignore[union-attr]
    put, known = host.speaker._addresses.put, set()

    def slowly(index: int, vip: Vip, **how: Any) -> None:
        if vip not in known and vip.ip.packed[-1] != 0:
            time.sleep(0.02)
            known.add(vip)
        put(index, vip, **how)

    switch.tap.forget()
    with monkeypatch.context() as kernel:
        kernel.setattr(host.speaker._addresses, "put", slowly)
        begun = time.monotonic()
        host.reload(many(vi=instance(), **routers(3)))
        passed = time.monotonic() - begun
    assert passed > 0.8
    # It would be none. Ten a second are too many to ask of a machine that does other things.
    assert len(of(switch, VRID)) >= 3


# Changed


def test_a_lower_priority_is_taken_over_from_without_a_gap(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    best.reload(both(50, other={"priority": 150}))
    assert "(vi) priority 150 -> 50, in place" in best.said
    assert "(vi) Changing effective priority from 150 to 50" in best.said
    assert best.role() == "MASTER" and best.holds()
    took = stage.until(lambda: second.role() == "MASTER" and best.role() == "BACKUP")
    # Three intervals and its skew.
    assert took < 1.0
    assert second.holds() and not best.holds()
    assert best.roles("other") == ["BACKUP", "MASTER"] and second.roles("other") == ["BACKUP"]
    # And back.
    best.reload(both(150))
    stage.until(lambda: best.role() == "MASTER" and second.role() == "BACKUP")


def test_without_preemption_it_stays_where_it_is(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    second.reload(both(100, preempt=False))
    best.reload(both(50))
    a_while(stage, 0.8)
    assert best.roles() == ["BACKUP", "MASTER"] and second.roles() == ["BACKUP"]


def test_another_interval_comes_with_the_next_advertisement(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    best.reload(both(150, advert_int="300ms"))
    a_while(stage, 1.5)
    assert second.roles() == ["BACKUP"]
    best.reload(both(150, advert_int="50ms"))
    switch.tap.forget()
    stage.until(lambda: len(of(switch, VRID)) >= 5, within=1.0)
    assert second.roles() == ["BACKUP"]


def test_what_cannot_go_on_ends_and_starts_anew(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    switch.tap.forget()
    best.reload(many(vi=instance(priority=150, virtual_router_id=53), other=instance(priority=150, **OTHER)))
    assert not best.holds() and best.holds(VIP_2)
    assert best.roles() == ["BACKUP", "MASTER", "STOPPED", "BACKUP"]
    assert f"(vi) virtual_router_id {VRID} -> 53: ends and starts anew" in best.said
    took = stage.until(lambda: second.role() == "MASTER")
    assert took < 0.2, "the skew"
    assert of(switch, VRID)[0] == 0
    # Two virtual routers with one address is what was written.
    stage.until(lambda: best.role() == "MASTER")
    assert best.roles("other") == ["BACKUP", "MASTER"]


def test_one_that_is_removed_is_taken_over_at_once(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    switch.tap.forget()
    best.reload(many(other=instance(priority=150, **OTHER)))
    assert not best.holds() and best.holds(VIP_2)
    assert "(vi) removed" in best.said
    assert stage.until(lambda: second.role() == "MASTER") < 0.2
    assert second.holds() and second.roles("other") == ["BACKUP"]
    assert best.speaker is not None and [each.name for each in best.speaker.standing().routers] == ["other"]
    # And none at all; then again.
    best.reload(Vrrp())
    stage.until(lambda: second.role("other") == "MASTER")
    assert not best.holds(VIP_2) and best.speaker.standing().routers == ()
    a_while(stage, 0.3)
    best.reload(both(150))
    assert best.role() == "BACKUP", "it listens first"
    stage.until(lambda: best.role() == best.role("other") == "MASTER")


def test_ids_that_are_swapped_lose_no_address(
    stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]
) -> None:
    best, second = elected()
    for host, priority in ((best, 150), (second, 100)):
        host.reload(
            many(
                vi=instance(priority=priority, virtual_router_id=52),
                other=instance(priority=priority, virtual_router_id=VRID, virtual_ipaddress=VIP_2),
            )
        )
        assert [best.holds(), best.holds(VIP_2)] == [True, True]
    a_while(stage, 1.0)
    assert best.holds() and best.holds(VIP_2)
    assert second.roles() == second.roles("other") == ["BACKUP"]
    assert best.roles() == best.roles("other") == ["BACKUP", "MASTER"]


def test_what_was_done_by_hand_stays(stage: Stage, switch: Switch, elected: Callable[..., tuple[Host, Host]]) -> None:
    best, second = elected()
    assert best.speaker is not None
    with best:
        best.speaker.release("vi", 600.0)
    stage.until(lambda: second.role() == "MASTER")
    best.reload(both(200))
    a_while(stage, 0.8)
    assert best.role() == "BACKUP" and second.role() == "MASTER"
    with best:
        best.speaker.hold("vi")
    stage.until(lambda: best.role() == "MASTER")


def test_with_version_2_who_changes_his_addresses_first_believes_the_others(
    stage: Stage, switch: Switch, pair: list[Host]
) -> None:
    """Its list is compared (RFC 3768), and both cannot change theirs at one moment: first who is not master."""
    best, second = pair
    old, new = (
        [one(p, version=2, advert_int="1s", down_timer_adverts=1, virtual_ipaddress=vips) for p in (254, 1)]
        for vips in (VIP, (VIP, VIP_2))
    )
    best.start(old[0])
    second.start(old[1])
    stage.until(lambda: best.role() == "MASTER")
    stage.until(lambda: second.counted("advert_rcvd") == len(switch.tap.adverts()))
    second.reload(new[1])
    # Longer than a silent master is waited for, which is two seconds.
    switch.tap.forget()
    before = second.counted("addr_list_err")
    stage.until(lambda: second.counted("addr_list_err") - before == len(switch.tap.adverts("192.0.2.1")) == 3)
    assert second.roles() == ["BACKUP"]
    others = second.counted("addr_list_err")
    best.reload(new[0])
    believed = second.counted("advert_rcvd")
    stage.until(lambda: second.counted("advert_rcvd") > believed)
    assert second.roles() == ["BACKUP"] and second.counted("addr_list_err") == others


# Groups, trackers, programs


def group(*members: str, **keys: Any) -> dict[str, Any]:
    return {"sync_groups": {"G": {"group": members} | keys}}


def test_a_new_member_of_a_group_that_is_master_is_master(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, second = pair
    routers = [{"vi": instance(priority=priority)} for priority in (150, 100)]
    more = [{"other": instance(priority=priority, **OTHER)} for priority in (150, 100)]
    for host, own in zip(pair, routers, strict=True):
        host.start(file(own, **group("vi")))
    stage.until(lambda: best.role() == "MASTER")
    # In the order in which it is done: first who is not master.
    for host, own, also in ((second, routers[1], more[1]), (best, routers[0], more[0])):
        host.reload(file(own | also, **group("vi", "other")))
        a_while(stage, 0.6)
    assert best.holds() and best.holds(VIP_2)
    assert best.roles() == ["BACKUP", "MASTER"] and best.roles("other") == ["MASTER"]
    assert second.roles() == second.roles("other") == ["BACKUP"]
    # One leaves the group, and has its own life.
    best.reload(file(routers[0] | {"other": instance(priority=50, **OTHER)}, **group("vi")))
    second.reload(file(routers[1] | more[1], **group("vi")))
    stage.until(lambda: second.role("other") == "MASTER" and best.role("other") == "BACKUP")
    assert best.role() == "MASTER"


def test_a_fault_is_that_of_the_group_as_long_as_it_is_in_it(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    host, _ = pair
    routers = {"vi": instance(), "other": instance(interface="eth9", **OTHER)}
    host.start(file(routers))
    stage.until(lambda: host.role() == "MASTER")
    host.reload(file(routers, **group("vi", "other")))
    assert host.role() == "FAULT" and not host.holds()
    host.reload(file(routers))
    assert host.role() == "BACKUP"
    stage.until(lambda: host.role() == "MASTER")


def test_scripts_come_and_go(stage: Stage, switch: Switch, tmp_path: Path) -> None:
    (host,) = stage.hosts(switch, 1)

    def tracking(words: str, **keys: Any) -> Vrrp:
        script = {"script": tuple(words.split()), "interval": "100ms"} | keys
        return file({"vi": instance(track_script=({"script": "s"},))}, scripts={"s": script})

    host.start(one(100))
    stage.until(lambda: host.role() == "MASTER")
    # Nothing counts before its first result.
    host.reload(tracking("/bin/false"))
    assert host.role() == "MASTER"
    stage.until(lambda: host.role() == "FAULT")
    # What is known counts until another is.
    host.reload(tracking("/bin/true", fall=3))
    assert host.role() == "FAULT"
    stage.until(lambda: host.role() == "MASTER")
    host.reload(tracking("/bin/true", interval="1s"))
    host.reload(one(100))
    assert host.role() == "MASTER" and host.speaker is not None
    assert host.speaker.standing().scripts == ()


def test_programs_hear_of_transitions_alone(stage: Stage, switch: Switch, tmp_path: Path) -> None:
    (host,) = stage.hosts(switch, 1)
    log = tmp_path / "log"
    told = {}
    for name in ("old", "new"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
        program.chmod(0o755)
        told[name] = {"notify": (str(program),)}
    host.start(one(100, **told["old"]))
    stage.until(lambda: log.exists() and "MASTER" in log.read_text())
    host.reload(one(90, **told["new"]))
    host.reload(many(more=instance(**OTHER, **told["new"])))
    stage.until(lambda: "INSTANCE more MASTER" in log.read_text())
    assert sorted(log.read_text().splitlines()) == [
        "new INSTANCE more BACKUP 100",
        "new INSTANCE more MASTER 100",
        "new INSTANCE vi STOP 90",
        "old INSTANCE vi BACKUP 100",
        "old INSTANCE vi MASTER 100",
    ]


def test_a_pipe_for_those_to_come(stage: Stage, switch: Switch, tmp_path: Path) -> None:
    (host,) = stage.hosts(switch, 1)
    host.start(one(100))
    stage.until(lambda: host.role() == "MASTER")
    host.reload(file({"vi": instance()}, notify_fifo=str(tmp_path / "fifo")))
    assert (tmp_path / "fifo").is_fifo()
    with os.fdopen(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        host.reload(many())
        host.reload(file({}, notify_fifo=str(tmp_path / "fifo")))
        assert reader.read() == b'INSTANCE "vi" STOP 100\n'


# What it needs


def test_what_cannot_be_had_leaves_all_as_it_was(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    host, _ = pair
    host.start(one(100))
    stage.until(lambda: host.role() == "MASTER")
    second = host.make(many(other=instance(**OTHER)))
    before = descriptors()
    assert host.speaker is not None
    try:
        with host, pytest.raises(StartError, match="another pybalancer on this host is virtual router 52 on eth0"):
            host.speaker.prepare(both(100), spawn=host._spawn)
        beating = {"heartbeat": {"bind": "192.0.2.77:3112", "peers": ("192.0.2.2:3112",), "key": "secret"}}
        coming = None
        with host:
            coming = host.speaker.prepare(file({"vi": instance()}, **beating), spawn=host._spawn)
        coming.close()
    finally:
        second.close()
    assert {*descriptors().values()} <= {*before.values()}
    assert host.role() == "MASTER"
    # What was released is free.
    with host:
        host.speaker.change(host.speaker.prepare(both(100), spawn=host._spawn))
        host.speaker.change(host.speaker.prepare(one(100), spawn=host._spawn))
    host.make(many(other=instance(**OTHER))).close()


def test_a_heartbeat_comes_changes_and_goes(stage: Stage, switch: Switch, pair: list[Host]) -> None:
    best, second = pair

    def beating(priority: int, number: int, **keys: Any) -> Vrrp:
        ends = [f"192.0.2.{each}:3112" for each in (number, 3 - number)]
        heartbeat = {"bind": ends[0], "peers": (ends[1],), "key": "secret"} | keys
        return file({"vi": instance(priority=priority)}, heartbeat=heartbeat)

    best.start(one(150))
    second.start(one(100))
    stage.until(lambda: best.role() == "MASTER")

    def alive(host: Host) -> list[bool]:
        assert host.speaker is not None
        return [peer.is_alive for peer in host.speaker.standing().peers]

    best.reload(beating(150, 1))
    second.reload(beating(100, 2))
    stage.until(lambda: alive(best) == alive(second) == [True])
    # The same socket, faster.
    best.reload(beating(150, 1, interval="50ms"))
    assert alive(best) == [True]
    second.reload(beating(100, 2, interval="50ms", key="another"))
    stage.until(lambda: alive(best) == [False])
    best.reload(beating(150, 1, interval="50ms", key="another"))
    stage.until(lambda: alive(best) == alive(second) == [True])
    second.reload(one(100))
    assert alive(second) == []
    stage.until(lambda: alive(best) == [False])
    assert best.roles() == ["BACKUP", "MASTER"] and second.roles() == ["BACKUP"]


# Whatever it is


def written_at_random(chance: random.Random) -> Vrrp:
    """Up to four virtual routers on two interfaces, with addresses that come and go between them."""
    names = chance.sample(["a", "b", "c", "d"], chance.randrange(5))
    vips = [f"192.0.2.{200 + number}" for number in range(8)]
    chance.shuffle(vips)
    ids = chance.sample(range(51, 55), 4) if chance.random() < 0.2 else list(range(51, 55))
    instances = {}
    for name in names:
        own = instance(
            interface="eth1" if name == "d" or chance.random() < 0.1 else "eth0",
            virtual_router_id=ids["abcd".index(name)],
            priority=chance.choice([50, 150, 255]),
            preempt=chance.random() < 0.8,
            virtual_ipaddress=tuple(vips.pop() + chance.choice(["", "", "/24"]) for _ in range(chance.choice([1, 2]))),
        )
        own |= {"version": 2, "advert_int": "1s"} if chance.random() < 0.1 else {"advert_int": "10ms"}
        if own["interface"] == "eth0" and chance.random() < 0.1:
            own["track_interface"] = ({"interface": "eth1", "weight": chance.choice([0, -20])},)
        instances[name] = own
    members = chance.sample(names, chance.randrange(len(names) + 1))
    return file(instances, sync_groups={"G": {"group": tuple(members)}} if members else {})


def check(host: Host, vrrp: Vrrp) -> int:
    """Only masters hold addresses, and all of theirs; a group is one. How many masters there are."""
    assert host.speaker is not None
    routers = host.speaker.standing().routers
    roles = {router.name: router.state for router in routers}
    masters = [router for router in routers if router.state == "MASTER"]
    wanted = {(address, router.interface) for router in masters for address in router.addresses}
    held = {
        (f"{local}/{each['prefixlen']}", name)
        for name in ("eth0", "eth1")
        for local, each in host.addresses(name).items()
        if local.startswith("192.0.2.20")
    }
    assert held == wanted, (vrrp, host.said[-20:])
    for group in vrrp.sync_groups.values():
        assert len({roles[name] for name in group.group}) == 1, (vrrp, roles, host.said[-20:])
    return len(masters)


@pytest.mark.parametrize("seed", [1])
def test_whatever_comes_only_masters_hold_addresses_and_all_of_theirs(stage: Stage, switch: Switch, seed: int) -> None:
    chance = random.Random(seed)
    host, _ = stage.hosts(switch, 2)
    switch.plug(host, "192.0.2.101/24", name="eth1")
    host.start(one(100))
    assert host.speaker is not None
    vrrp, masters = one(100), 0
    for _ in range(30):
        if chance.random() < 0.2:
            (switch.cut if chance.random() < 0.2 else switch.mend)(host, "eth1")
        # Half of them as they were, and the rest otherwise.
        other = written_at_random(chance)
        vrrp = other if chance.random() < 0.5 else _mixed(vrrp, other)
        host.reload(vrrp)
        masters += check(host, vrrp)
        for router in host.speaker.standing().routers[:1]:
            if chance.random() < 0.2:
                with host:
                    host.speaker.release(router.name, 5.0)
        a_while(stage, 0.06)
        check(host, vrrp)
    assert masters > 5


def _mixed(before: Vrrp, after: Vrrp) -> Vrrp:
    """Instances of before with the addresses of others: ids and interfaces stay."""
    instances = dict(before.instances)
    for name, own in instances.items():
        if name in after.instances:
            other = after.instances[name]
            instances[name] = own.model_copy(
                update={"virtual_ipaddress": other.virtual_ipaddress, "priority": other.priority}
            )
        else:
            return after
    return before.model_copy(update={"instances": instances})
