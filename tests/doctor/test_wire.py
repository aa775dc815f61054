"""What others say on a wire of the kernel's own making; a keepalived too, where there is one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from balancer.doctor import wire
from balancer.doctor.case import Wish
from balancer.doctor.finding import Finding
from balancer.doctor.wire import Listening
from tests.vrrp.conftest import VIP, Host, Stage, Switch, advertisement, as_root, ipv4_frame, one

from .conftest import OK, PROBLEM, UNKNOWN, WARNING, Patient, vrrp

pytestmark = as_root

# What speaks does so every 20 ms.
_LISTEN, _DEADLINE = 0.1, 10.0
_OTHER = bytes.fromhex("020000000099")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has an address says so at once here."""
    monkeypatch.setattr(wire, "_PROBE_AGAIN", 0.05)
    monkeypatch.setattr(wire, "_PROBED", 0.15)


@contextlib.contextmanager
def meanwhile(*frames: tuple[Switch, bytes]) -> Iterator[None]:
    """Frames are sent, again and again."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.02):
            for switch, frame in frames:
                switch.tap.send(frame)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()


def heard(host: Host, text: str, wish: Wish | None = None, *, count: int = 0) -> list[Finding]:
    """Once so many advertisements have come."""
    case = Patient(host, text).case(wish or Wish(listen=_LISTEN))
    with host:
        listening = Listening(case)
        try:
            end = time.monotonic() + _DEADLINE
            while sum(len(ear.heard) for ear in listening._ears.values()) < count:
                assert time.monotonic() < end
                time.sleep(0.01)
                listening.turn()
            return list(listening.finish())
        finally:
            listening.close()


def said(host: Host, text: str, *frames: bytes, switch: Switch) -> list[Finding]:
    """With others' frames on the wire; but for what is in order."""
    with meanwhile(*((switch, frame) for frame in frames)):
        return [each for each in heard(host, text, count=6) if each.verdict is not OK]


def advert(source: str = "192.0.2.9", **changes: Any) -> bytes:
    return ipv4_frame(advertisement(source, **{"priority": 150} | changes), source)


def test_nobody_speaks(host: Host) -> None:
    speech, address = heard(host, vrrp())
    assert (speech.verdict, speech.check) == (UNKNOWN, "vrrp") and "nobody was heard in 0.1 s" in speech.what
    assert (address.verdict, address.what) == (OK, "vi: nobody else on eth0 has its addresses")


def test_a_master_that_is_understood(host: Host, switch: Switch) -> None:
    with meanwhile((switch, advert())):
        (found, _) = heard(host, vrrp(), count=2)
    assert found.verdict is OK
    assert found.what == "vi (virtual router 51 on eth0): 192.0.2.9 is master, priority 150, and is understood here"


@pytest.mark.parametrize(
    ("text", "change", "what"),
    [
        (vrrp(2, "1s"), {}, "is not understood: VRRP version 3, 2 expected"),
        (vrrp(), {"version": 2, "interval": 1}, "is not understood: VRRP version 2, 3 expected"),
        (vrrp(2, "1s", more="authentication: {type: pass, password: one}"), {"version": 2, "interval": 1},
         "is not understood: authentication type 0, 1 expected"),
        (vrrp(2, "1s", more="authentication: {type: pass, password: one}"),
         {"version": 2, "interval": 1, "password": b"two"}, "is not understood: wrong password"),
        (vrrp(2, "2s"), {"version": 2, "interval": 1}, "advertises every 1 s, we every 2 s"),
        (vrrp(vips="[192.0.2.201]"), {}, "says to be master of 192.0.2.200; ours are 192.0.2.201"),
        (vrrp(more="unicast_peer: [192.0.2.9]"), {}, "is not understood: sent by multicast, unicast expected"),
    ],
)  # fmt: skip
def test_a_master_that_does_not_agree_with_us(
    host: Host, switch: Switch, text: str, change: dict[str, Any], what: str
) -> None:
    (found, *_) = said(host, text, advert(**change), switch=switch)
    assert (found.verdict, found.what) == (PROBLEM, f"vi (virtual router 51 on eth0): 192.0.2.9 {what}")
    assert found.why and found.now[0].startswith("# on all directors")


def test_a_wrong_password_is_not_told(host: Host, switch: Switch) -> None:
    text = vrrp(2, "1s", more="authentication: {type: pass, password: onesecret}")
    frame = advert(version=2, interval=1, password=b"twosecre")
    assert "secre" not in str(said(host, text, frame, switch=switch))


def test_another_interval_or_the_same_priority_may_be(host: Host, switch: Switch) -> None:
    (found,) = said(host, vrrp(), advert(interval=0.2), switch=switch)
    assert found.verdict is WARNING and "advertises every 0.2 s, we every 0.1 s" in found.what
    (found,) = said(host, vrrp(), advert(priority=100), switch=switch)
    assert found.verdict is WARNING and "has priority 100, as this host has" in found.what


def test_two_masters(host: Host, switch: Switch) -> None:
    (found,) = said(host, vrrp(), advert(), advert("192.0.2.8", priority=140), switch=switch)
    assert (found.verdict, found.check) == (PROBLEM, "vrrp_masters")
    assert "has more than one master: 192.0.2.9, 192.0.2.8" in found.what


def test_a_firewall_that_drops_advertisements(host: Host, switch: Switch) -> None:
    with host:
        subprocess.run(
            ["nft", "-f", "-"],
            input="table inet filter {\n chain input { type filter hook input priority 0; policy drop;\n"
            "  ct state established accept\n }\n}",
            text=True,
            check=True,
        )
    (found,) = said(host, vrrp(), advert(), switch=switch)
    assert (found.verdict, found.check) == (PROBLEM, "vrrp_filter")
    Patient(host, vrrp()).types(found)
    assert said(host, vrrp(), advert(), switch=switch) == []


def test_virtual_routers_of_others(host: Host, switch: Switch) -> None:
    with meanwhile((switch, advert(vrid=60, addresses=(b"\xc0\x00\x02\x64",)))):
        found = {each.check: each for each in heard(host, vrrp(), count=2)}["vrid"]
    assert found.verdict is OK
    assert found.what.startswith("192.0.2.9 on eth0 is master of virtual router 60 (192.0.2.100)")


def test_our_addresses_under_another_number(host: Host, switch: Switch) -> None:
    found = {each.check: each for each in said(host, vrrp(), advert(vrid=60), switch=switch)}["vrid"]
    assert found.verdict is PROBLEM and "with 192.0.2.200 among its addresses; ours of that address is 51" in found.what


def test_garbage_on_the_wire(host: Host, switch: Switch) -> None:
    frames = [
        ipv4_frame(each, "192.0.2.9") for each in (b"", b"\x31", b"\x31\x33\x64", b"\xff" * 40, b"\x31\x33\x64\xff" * 9)
    ]
    found = said(host, vrrp(), *frames, *(frame[:30] for frame in frames), switch=switch)
    assert {each.verdict for each in found} <= {PROBLEM, UNKNOWN}


def test_our_own_daemon_is_master(stage: Stage, host: Host) -> None:
    host.start(one(virtual_ipaddress=VIP))
    stage.until(host.holds)
    result: list[Finding] = []
    looker = threading.Thread(target=lambda: result.extend(heard(host, vrrp(vips=f"[{VIP}]"), count=2)))
    looker.start()
    stage.until(lambda: not looker.is_alive())
    assert [each.what for each in result] == [
        "vi (virtual router 51 on eth0): this host is master, and nobody else says to be",
        "vi: nobody else on eth0 has its addresses",
    ]


def test_a_daemon_that_hears_nobody_and_is_not_master(stage: Stage, host: Host) -> None:
    host.start(one(virtual_ipaddress=VIP, track_interface="eth7"))
    (found, _) = heard(host, vrrp(vips=f"[{VIP}]"))
    assert found.verdict is PROBLEM and found.now[0] == "pybalancer why vi"


def test_both_directors(stage: Stage, switch: Switch) -> None:
    """As it should be: of the backup's view, and of the master's."""
    hosts = stage.hosts(switch, 2)
    for host, priority in zip(hosts, (150, 100), strict=True):
        host.start(one(priority, virtual_ipaddress=VIP))
    stage.until(hosts[0].holds)
    results: list[list[Finding]] = [[], []]

    def look() -> None:
        for host, result in zip(hosts, results, strict=True):
            result += heard(host, vrrp(vips=f"[{VIP}]"), count=2)

    looker = threading.Thread(target=look)
    looker.start()
    stage.until(lambda: not looker.is_alive())
    master, backup = results
    assert [each.verdict for each in master + backup] == [OK] * 4
    assert "192.0.2.1 is master, priority 150" in backup[0].what
    assert backup[1].what == f"{VIP} on eth0 is at {hosts[0].mac().hex(':')} (192.0.2.1, the master)"


def test_ipv6(host: Host, switch: Switch, stage: Stage) -> None:
    other = stage.host()
    switch.plug(other)
    other.start(one(virtual_ipaddress="2001:db8::c8/64"))
    stage.until(lambda: other.holds("2001:db8::c8"))
    result: list[Finding] = []
    looker = threading.Thread(target=lambda: result.extend(heard(host, vrrp(vips="['2001:db8::c8/64']"), count=2)))
    looker.start()
    stage.until(lambda: not looker.is_alive())
    assert [each.verdict for each in result] == [WARNING, OK], "the same priority"
    assert "has priority 100" in result[0].what and "the master" in result[1].what


def test_somebody_has_the_address(host: Host, switch: Switch, stage: Stage) -> None:
    other = stage.host()
    switch.plug(other, "192.0.2.200/24")
    _, found = heard(host, vrrp())
    mac = other.mac().hex(":")
    assert (found.verdict, found.check) == (PROBLEM, "duplicate")
    assert found.what == f"192.0.2.200 on eth0 is at {mac}, and no advertisement comes from there"
    (found,) = heard(host, vrrp(), Wish(listen=0.0))
    assert found.verdict is WARNING and found.now == ("pybalancer doctor --listen 4",)
    # It asked as somebody without an address does: there nobody has heard of us.
    assert "192.0.2.1" not in other.ip("neighbour show")
    other.ip("address del 192.0.2.200/24 dev eth0")
    assert [each.verdict for each in heard(host, vrrp())] == [UNKNOWN, OK]


def test_somebody_has_the_address_of_ipv6(host: Host, switch: Switch, stage: Stage) -> None:
    other = stage.host()
    switch.plug(other, "2001:db8::c8/64")
    text = vrrp(vips="['2001:db8::c8/64']")
    # Its kernel takes a moment to answer for what it was given.
    stage.until(lambda: heard(host, text)[-1].verdict is PROBLEM)
    assert "2001:db8::c8 on eth0 is at" in heard(host, text)[-1].what


def test_two_hosts_have_it(host: Host, switch: Switch, stage: Stage) -> None:
    for _ in range(2):
        switch.plug(stage.host(), "192.0.2.200/24")
    assert "192.0.2.200 on eth0 is at 2 places" in "\n".join(each.what for each in heard(host, vrrp()))


def test_this_host_has_it_and_another(host: Host, switch: Switch, stage: Stage) -> None:
    switch.plug(stage.host(), "192.0.2.200/24")
    host.ip("address add 192.0.2.200/24 dev eth0")
    found = heard(host, vrrp())[-1]
    assert found.verdict is PROBLEM and found.what.startswith("192.0.2.200 on eth0 is this host's, and")


def test_the_address_of_a_virtual_router(host: Host, switch: Switch, stage: Stage) -> None:
    other = stage.host()
    switch.plug(other, "192.0.2.200/24")
    for number, verdict in ((51, OK), (52, PROBLEM)):
        other.ip(f"link set dev eth0 address 00:00:5e:00:01:{number:02x}")
        assert heard(host, vrrp())[-1].verdict is verdict


def test_a_unicast_peer_that_is_known(host: Host, switch: Switch, stage: Stage) -> None:
    other = stage.host()
    switch.plug(other, "192.0.2.9/24", "192.0.2.200/24")
    host.ip(f"neighbour add 192.0.2.9 lladdr {other.mac().hex(':')} dev eth0")
    found = heard(host, vrrp(more="unicast_peer: [192.0.2.9]"))[-1]
    assert found.verdict is OK and "192.0.2.9, a unicast_peer" in found.what


def test_nothing_is_sent_where_that_is_wished_for(host: Host, switch: Switch) -> None:
    switch.tap.forget()
    (found,) = heard(host, vrrp(), Wish(is_quiet=True))
    assert found.verdict is UNKNOWN and "--quiet-net" in found.what
    assert switch.tap.arps() == [] and not [each for each in switch.tap.said if type(each).__name__ == "Arp"]


def test_an_interface_that_is_away_or_down(host: Host) -> None:
    assert heard(host, vrrp().replace("eth0", "eth7")) == []
    host.ip("link set dev eth0 down")
    assert heard(host, vrrp()) == []


def test_no_virtual_routers_no_waiting(host: Host) -> None:
    began = time.monotonic()
    assert heard(host, "stats: {bind: '*:7000'}", Wish()) == [] and time.monotonic() - began < 1


@pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed")
def test_keepalived_with_another_number(host: Host, switch: Switch, stage: Stage, tmp_path) -> None:
    other = stage.host()
    switch.plug(other, "192.0.2.9/24")
    file = tmp_path / "keepalived.conf"
    file.write_text(
        "vrrp_instance X {\n interface eth0\n virtual_router_id 52\n priority 100\n version 3\n advert_int 0.1\n"
        " virtual_ipaddress {\n 192.0.2.200/24\n }\n}\n"
    )
    with other:
        keepalived = subprocess.Popen(
            ["keepalived", "-n", "-l", "-f", str(file), *(f"-{key}{tmp_path}/{key}" for key in "prc")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        stage.until(other.holds)
        found = {each.check: each for each in heard(host, vrrp(), count=2) if each.verdict is PROBLEM}
        assert "192.0.2.9 on eth0 is master of virtual router 52, with 192.0.2.200" in found["vrid"].what
        assert "no advertisement comes from there" in found["duplicate"].what
    finally:
        keepalived.terminate()
        keepalived.wait()
