from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.doctor.passage import bridges, passed
from tests.e2e.bed.process import until
from tests.vrrp.conftest import Host, Net, Stage, as_root

from .conftest import OK, WARNING, Patient, here, put, tcp, vrrp

pytestmark = as_root

VIP, SERVER, OTHER = "192.0.2.200", "192.0.2.9", "192.0.2.2"
KERNEL = tcp(f"{VIP}:80", f"{SERVER}:80").replace("mode: tcp", "mode: tcp, engine: kernel")
KERNEL_6 = tcp("[2001:db8::c8]:80", "[2001:db8::9]:80").replace("mode: tcp", "mode: tcp, engine: kernel")
AT_BR0 = vrrp().replace("eth0", "br0")
CALL = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.fixture
def bridged(host: Net) -> Iterator[list[Net]]:
    """A client and another director, who has the virtual address, at a bridge of `host`, br0."""
    host.ip("link add name br0 type bridge forward_delay 0 mcast_snooping 0")
    host.ip("address flush dev eth0")
    host.ip("address add 192.0.2.1/24 dev br0")
    host.ip("link set dev br0 up")
    host.ip("route add 198.51.100.0/24 dev eth0")
    nets = []
    for name, address in (("client", "192.0.2.7"), ("other", OTHER)):
        net = Net()
        nets.append(net)
        host.ip(f"link add name {name} type veth peer name eth0 netns {net.path}")
        host.ip(f"link set dev {name} master br0 up")
        net.ip(f"address add {address}/24 dev eth0")
        net.ip("link set dev eth0 up")
    nets[1].ip(f"address add {VIP}/32 dev eth0")
    yield nets
    for net in nets:
        net.close()


def test_by_which_interfaces_it_passes(stage: Stage, host: Host) -> None:
    stage.switch().plug(host, "198.51.100.1/24", "2001:db8::1/64", name="eth1")
    stage.switch().plug(host, "203.0.113.1/24", name="eth2")

    def names(text: str, family: int = 4) -> set[str]:
        patient = Patient(host, text)
        case = patient.case()
        with host:
            return set(passed(case, family))

    inner = KERNEL.replace(SERVER, "198.51.100.9")
    assert names(inner) == {"eth1"}
    assert names(inner + vrrp()) == {"eth0", "eth1"}
    assert names(inner, 6) == set()
    assert names(inner.replace(VIP, "203.0.113.1")) == {"eth1", "eth2"}
    assert names(inner.replace(VIP, "0.0.0.0")) == {"eth0", "eth1", "eth2"}
    assert names(KERNEL_6, 6) == {"eth1"}
    assert names("gateway: {masquerade: [{source: 198.51.100.0/24, interface: eth0}]}\n" + tcp()) == {"eth0", "eth1"}
    assert names(tcp(f"{VIP}:80")) == set()


def _answers(client: Net) -> bool:
    with client, socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((VIP, 80)) == 0


@pytest.mark.skipif(not CALL.exists(), reason="br_netfilter is not loaded")
@pytest.mark.parametrize("is_everywhere", [True, False])
def test_what_crosses_a_bridge_is_for_others(host: Host, bridged: list[Net], is_everywhere: bool) -> None:
    client, other = bridged
    with host:
        CALL.write_text(str(int(is_everywhere)))
    if not is_everywhere:
        host.ip("link set dev br0 type bridge nf_call_iptables 1")
    with other:
        listening = socket.create_server((VIP, 80))
    with listening:
        # As the rules of a standby are there.
        rules = (
            f"table ip t {{ chain c {{ type nat hook prerouting priority -100; ip daddr {VIP} dnat to {SERVER}; }}; }}"
        )
        with host:
            subprocess.run(["nft", rules], check=True)
        assert not _answers(client)
        what = Patient(host, KERNEL + AT_BR0).is_cured(bridges)
        assert what.startswith("what only crosses br0, a bridge of 2 ports, meets the rules of IPv4 (")
        assert ("net.bridge.bridge-nf-call-iptables is 1" in what) == is_everywhere
        until(lambda: _answers(client), "the other is reached")
    (found,) = Patient(host, KERNEL + AT_BR0).says_all(bridges)
    assert found.verdict is OK
    host.ip("link set dev other nomaster")
    with host:
        CALL.write_text("1")
    assert Patient(host, KERNEL + AT_BR0).says_all(bridges) == []


def test_a_bridge_that_is_none_of_ours(host: Host, bridged: list[Net], tmp_path: Path) -> None:
    """And settings as they would be."""
    on = {"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n", "proc/sys/net/bridge/bridge-nf-call-ip6tables": "1\n"}
    root = put(tmp_path, on)
    (found,) = Patient(host, KERNEL + AT_BR0, root).says(bridges)
    assert found.verdict is WARNING and found.now == ("sysctl -w net.bridge.bridge-nf-call-iptables=0",)
    host.ip("-6 address add 2001:db8::1/64 dev br0")
    (found,) = Patient(host, KERNEL_6, root).says(bridges)
    assert found.now == ("sysctl -w net.bridge.bridge-nf-call-ip6tables=0",)
    assert Patient(host, AT_BR0 + tcp(f"{VIP}:80", f"{SERVER}:80"), root).says_all(bridges) == []
    elsewhere = KERNEL.replace(SERVER, "198.51.100.9")
    assert Patient(host, elsewhere + vrrp(), root).says_all(bridges) == []
    assert list(bridges(here(KERNEL, tmp_path / "missing"))) == []
