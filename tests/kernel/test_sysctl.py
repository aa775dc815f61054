"""Settings of a namespace, with the kernel's own ways to change some when others are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.kernel.conntrack import Usage
from balancer.kernel.sysctl import Sysctl, _strays, timeouts
from tests.vrrp.conftest import Net, Stage, as_root

pytestmark = as_root

SYS = Path("/proc/sys/net")
FORWARD_V4, FORWARD_V6 = SYS / "ipv4/ip_forward", SYS / "ipv6/conf/all/forwarding"
LIBERAL = SYS / "netfilter/nf_conntrack_tcp_be_liberal"


@pytest.fixture
def net() -> Iterator[Net]:
    """With bridges `in` and `out.5`, and this thread in it."""
    net = Net()
    for name in ("in", "out.5"):
        net.ip(f"link add name {name} type bridge")
        net.ip(f"link set dev {name} up")
    with net:
        yield net
    net.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "sysctl.json"


def settings() -> dict[str, str]:
    """All that can be of interest."""
    found = {}
    for pattern in (
        *("ipv?/conf/*/forwarding", "ipv6/conf/*/accept_ra", "netfilter/nf_conntrack_*"),
        *("ipv4/ip_forward", "ipv4/ip_early_demux"),
    ):
        found |= {str(path.relative_to(SYS)): path.read_text().strip() for path in SYS.glob(pattern)}
    return found


def differences(before: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings().items() if before[name] != value}


def test_what_is_needed_is_set_and_put_back(net: Net, state: Path) -> None:
    before = settings()
    sysctl = Sysctl(state)
    assert sysctl.apply([4], is_liberal=False) == [
        "net.ipv4.ip_forward set from 0 to 1",
    ]
    assert set(differences(before)) == {
        "ipv4/ip_forward",
        *(f"ipv4/conf/{name}/forwarding" for name in ("all", "default", "in", "lo", "out.5")),
    }
    assert sysctl.findings() == []
    assert sysctl.apply([4], is_liberal=False) == []
    assert sysctl.apply([4, 6], is_liberal=True) == [
        "net.ipv6.conf.all.forwarding set from 0 to 1",
        "net.netfilter.nf_conntrack_tcp_be_liberal set from 0 to 1",
    ]
    assert LIBERAL.read_text() == "1\n"
    assert sorted(sysctl.restore()) == [
        "net.ipv4.ip_forward put back to 0",
        "net.ipv6.conf.all.forwarding put back to 0",
        "net.ipv6.conf.default.accept_ra put back to 1",
        "net.ipv6.conf.in.accept_ra put back to 1",
        "net.netfilter.nf_conntrack_tcp_be_liberal put back to 0",
        "net/ipv6/conf/out.5/accept_ra put back to 1",
    ]
    assert differences(before) == {}
    assert not state.exists()


def test_what_was_so_already_stays(net: Net, state: Path) -> None:
    FORWARD_V4.write_text("1")
    before = settings()
    sysctl = Sysctl(state)
    assert sysctl.apply([4], is_liberal=False) == []
    sysctl.restore()
    assert differences(before) == {}


def test_an_interface_that_forwarded_alone_does_so_again(net: Net, state: Path) -> None:
    """To switch all of them off is what the kernel makes of a 0."""
    for family in ("ipv4", "ipv6"):
        (SYS / family / "conf/out.5/forwarding").write_text("1")
    before = settings()
    sysctl = Sysctl(state)
    sysctl.apply([4, 6], is_liberal=False)
    sysctl.restore()
    assert differences(before) == {}
    assert before["ipv4/conf/out.5/forwarding"] == before["ipv6/conf/out.5/forwarding"] == "1"


def test_a_route_that_a_router_advertised_survives(net: Net, state: Path) -> None:
    """A host that forwards throws such routes away, if it is not told to keep them."""
    net.ip("-6 address add 2001:db8::2/64 dev in")
    net.ip("-6 route add default via fe80::1 dev in proto ra expires 600")
    sysctl = Sysctl(state)
    sysctl.apply([6], is_liberal=False)
    assert FORWARD_V6.read_text() == "1\n"
    assert "default via fe80::1" in net.ip("-6 route show")
    assert (SYS / "ipv6/conf/in/accept_ra").read_text() == "2\n"
    sysctl.restore()
    assert (SYS / "ipv6/conf/in/accept_ra").read_text() == "1\n"


def test_a_crash_forgets_nothing(net: Net, state: Path) -> None:
    before = settings()
    Sysctl(state).apply([4], is_liberal=True)
    second = Sysctl(state)
    second.apply([4, 6], is_liberal=True)
    third = Sysctl(state)
    third.restore()
    assert differences(before) == {}


def test_what_somebody_else_changed_meanwhile_is_theirs(net: Net, state: Path) -> None:
    sysctl = Sysctl(state)
    sysctl.apply([4], is_liberal=True)
    LIBERAL.write_text("0")
    assert sysctl.findings() == [
        "net.netfilter.nf_conntrack_tcp_be_liberal was set to 0 by somebody else, and must be 1"
    ]
    said = sysctl.restore()
    assert "net.ipv4.ip_forward put back to 0" in said
    assert not any("liberal" in line for line in said)


def test_an_interface_may_go_meanwhile(net: Net, state: Path) -> None:
    sysctl = Sysctl(state)
    sysctl.apply([4, 6], is_liberal=False)
    net.ip("link del dev out.5")
    sysctl.restore()
    assert (FORWARD_V4.read_text(), FORWARD_V6.read_text()) == ("0\n", "0\n")


def test_a_state_of_elsewhere_or_without_sense_is_none(net: Net, state: Path, tmp_path: Path) -> None:
    Sysctl(state).apply([4], is_liberal=False)
    kept = json.loads(state.read_text())
    elsewhere = kept | {"of": ["another boot", kept["of"][1]]}
    outside = kept | {"changes": [["kernel/hostname", "evil", "x"], ["net/../kernel/hostname", "evil", "x"]]}
    for text in (json.dumps(elsewhere), json.dumps(outside), "", "[]", "{", json.dumps(kept | {"changes": [["a"]]})):
        state.write_text(text)
        assert Sysctl(state).restore() == []
    assert FORWARD_V4.read_text() == "1\n"
    real = tmp_path / "real"
    real.write_text(json.dumps(kept))
    state.symlink_to(real)
    assert Sysctl(state).restore() == []
    state.write_text(json.dumps(kept))
    assert Sysctl(state).restore()
    assert FORWARD_V4.read_text() == "0\n"


def test_where_nothing_can_be_written_it_is_said(net: Net, tmp_path: Path) -> None:
    sysctl = Sysctl(tmp_path / "missing" / "sysctl.json")
    sysctl.apply([4], is_liberal=False)
    assert FORWARD_V4.read_text() == "1\n"
    (finding,) = sysctl.findings()
    assert "cannot be written (No such file or directory)" in finding
    sysctl.restore()
    assert FORWARD_V4.read_text() == "0\n"


def test_a_setting_that_is_not_there_is_a_finding(net: Net, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.kernel.sysctl._LIBERAL", {"net/netfilter/nf_conntrack_of_tomorrow": "1"})
    sysctl = Sysctl(state)
    sysctl.apply([4], is_liberal=True)
    assert sysctl.findings() == ["there is no net.netfilter.nf_conntrack_of_tomorrow: is the kernel's module loaded?"]


def test_an_interface_that_does_not_forward_is_a_finding(net: Net, state: Path) -> None:
    FORWARD_V4.write_text("1")
    (SYS / "ipv4/conf/out.5/forwarding").write_text("0")
    sysctl = Sysctl(state)
    sysctl.apply([4], is_liberal=False)
    assert sysctl.findings() == ["out.5 does not forward IPv4: its setting `forwarding` is 0"]


def test_a_table_that_fills_is_a_finding(net: Net, state: Path) -> None:
    sysctl = Sysctl(state)
    assert sysctl.findings(Usage(79, 100, 0, 0)) == []
    (full,) = sysctl.findings(Usage(80, 100, 0, 0))
    assert full == "the table of connections is 80 % full (80 of 100): raise net.netfilter.nf_conntrack_max"
    (was_full,) = sysctl.findings(Usage(10, 100, 3, 4))
    assert "3 connections were forgotten and 4 packets dropped" in was_full
    assert sysctl.findings(Usage(10, 100, 3, 4)) == []


def test_packets_that_a_strict_filter_drops_are_a_finding(state: Path) -> None:
    """They come in where no way leads back to their source."""
    stage = Stage()
    switch = stage.switch()
    here, there = stage.hosts(switch, 2)
    there.ip(f"neigh add 192.0.2.1 lladdr {here.mac().hex(':')} dev eth0")
    there.ip("address add 198.51.100.1/32 dev eth0")
    with here:
        (SYS / "ipv4/conf/eth0/rp_filter").write_text("1")
        sysctl = Sysctl(state)
        assert sysctl.findings() == []
    with there, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("198.51.100.1", 0))
        sender.sendto(b"x", ("192.0.2.1", 9))
    with here:
        stage.until(_strays)
        (finding,) = sysctl.findings()
        assert finding.startswith("1 packets were dropped")
        assert "strict (eth0)" in finding
        assert sysctl.findings() == []
    stage.close()


STAMPS, EVENTS = SYS / "netfilter/nf_conntrack_timestamp", SYS / "netfilter/nf_conntrack_events"


def test_what_a_log_of_flows_needs_is_set_for_it_only(net: Net, state: Path) -> None:
    before = settings()
    sysctl = Sysctl(state)
    said = sysctl.apply([4], is_liberal=False, is_logged=True)
    found = before["netfilter/nf_conntrack_events"]
    assert said[2:] == [
        "net.netfilter.nf_conntrack_timestamp set from 0 to 1",
        *([f"net.netfilter.nf_conntrack_events set from {found} to 1"] if found != "1" else []),
    ]
    assert (STAMPS.read_text(), EVENTS.read_text()) == ("1\n", "1\n")
    assert sysctl.apply([4], is_liberal=False, is_logged=True) == []
    sysctl.restore()
    assert differences(before) == {}


def test_what_a_run_that_logged_has_left_is_put_back_by_one_that_does_not(net: Net, state: Path) -> None:
    before = settings()
    Sysctl(state).apply([4], is_liberal=False, is_logged=True)
    after = Sysctl(state)
    assert "net.netfilter.nf_conntrack_timestamp put back to 0" in after.apply([4], is_liberal=False)
    assert set(differences(before)) & {"netfilter/nf_conntrack_timestamp", "netfilter/nf_conntrack_events"} == set()
    assert after.apply([4], is_liberal=False) == []
    assert "timestamp" not in state.read_text()
    after.restore()
    assert differences(before) == {}


def test_what_somebody_has_changed_since_is_his(net: Net, state: Path) -> None:
    Sysctl(state).apply([4], is_liberal=False, is_logged=True)
    EVENTS.write_text("0")
    after = Sysctl(state)
    after.apply([4], is_liberal=False)
    assert EVENTS.read_text() == "0\n"
    after.restore()


DEMUX = SYS / "ipv4/ip_early_demux"


def test_own_sockets_come_second_only_where_all_passes_through(net: Net, state: Path) -> None:
    before = settings()
    sysctl = Sysctl(state)
    assert sysctl.apply([4], is_liberal=False, is_passing=True)[1:] == ["net.ipv4.ip_early_demux set from 1 to 0"]
    assert sysctl.apply([4], is_liberal=False, is_passing=True) == []
    # A reload brings a frontend that the proxy serves; a crash comes before that.
    after = Sysctl(state)
    assert after.apply([4], is_liberal=False) == ["net.ipv4.ip_early_demux put back to 1"]
    assert DEMUX.read_text() == "1\n"
    assert after.apply([4], is_liberal=False, is_passing=True) == ["net.ipv4.ip_early_demux set from 1 to 0"]
    after.restore()
    assert differences(before) == {}


def test_timeouts_are_those_of_the_namespace(net: Net) -> None:
    Path(SYS / "netfilter/nf_conntrack_tcp_timeout_time_wait").write_text("7")
    Path(SYS / "netfilter/nf_conntrack_udp_timeout_stream").write_text("8")
    found = timeouts()
    assert (found["TIME_WAIT"], found["UDP_STREAM"]) == (7, 8)
    assert set(found) == {
        *("SYN_SENT", "SYN_SENT2", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"),
        *("CLOSE", "UNACKNOWLEDGED", "UDP", "UDP_STREAM"),
    }


def test_timeouts_that_the_kernel_does_not_tell_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("balancer.kernel.sysctl._SYS", tmp_path)
    assert timeouts() == {}
