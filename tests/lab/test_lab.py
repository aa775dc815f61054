"""The machines stand as the cluster is described, behave like machines, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.bed.process import is_alive, until
from tests.lab.lab import Lab, Node
from tests.lab.services import all_are_up
from tests.lab.space import LabError, Space, inits, why_not
from tests.lab.topology import MACHINES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())


def pings(node: Node, address: str, *options: str) -> bool:
    return node.outcome("busybox", "ping", "-c", "1", "-W", "1", *options, address).returncode == 0


def page(node: Node, url: str) -> dict[str, str]:
    text = node.run("curl", "-sk", "--max-time", "5", url)
    return dict(re.findall(r"^([a-z-]+): (.*)$", text, re.MULTILINE))


# As described


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_has_its_name_and_its_cards(lab: Lab, name: str) -> None:
    node = lab[name]
    assert node.run("hostname").strip() == name
    links = {link["ifname"]: link for link in json.loads(node.run("ip", "-json", "address"))}
    assert links.keys() == {"lo", *(card.name for card in node.machine.cards)}
    for card in node.machine.cards:
        link = links[card.name]
        assert (link["address"], link["mtu"], link["operstate"]) == (card.mac, card.network.mtu, "UP")
        assert (card.address, 24) in [(entry["local"], entry["prefixlen"]) for entry in link["addr_info"]]


@pytest.mark.parametrize("name", ["web1", "web2", "web3", "dns1", "dns2", "dns3"])
def test_an_inner_machine_has_what_the_lease_says(lab: Lab, name: str) -> None:
    node = lab[name]
    assert node.run("ip", "route", "show", "default").startswith("default via 10.0.100.200 dev eth0")
    assert (node.disk / "etc/resolv.conf").read_text() == "search lab.local\nnameserver 10.0.100.200\n"
    leases = "".join((lab[director].disk / "lib/dnsmasq.leases").read_text() for director in ("master", "standby"))
    assert f"{node.machine.cards[0].mac} {node.machine.address} " in leases


def test_a_frame_of_9000_octets_passes_inside_only(lab: Lab) -> None:
    # 28 octets are the headers of IP and ICMP.
    assert pings(lab["web1"], "10.0.100.50", "-s", str(9000 - 28))
    assert pings(lab["client"], "192.168.1.101", "-s", "1400")
    assert (
        "too long, mtu=1500" in lab["client"].outcome("ping", "-M", "do", "-c1", "-s", "1473", "192.168.1.101").stderr
    )


def test_the_client_reaches_the_directors_and_nobody_inside(lab: Lab) -> None:
    for address in ("192.168.1.101", "192.168.1.102"):
        assert pings(lab["client"], address)
    assert "unreachable" in lab["client"].outcome("ping", "-c1", "10.0.100.2").stderr


@pytest.mark.parametrize("name", ["web1", "web2", "web3"])
def test_web_servers_say_who_asks_whom(lab: Lab, name: str) -> None:
    address = lab[name].machine.address
    for url in (f"http://{address}/", f"https://{address}/index.php"):
        told = page(lab["standby"], url)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", told.pop("date"))
        assert told == {"server": address, "client": "10.0.100.50", "forwarded-for": "unknown", "cookies": "none"}
    assert page(lab["standby"], f"http://{address}/pi.php?n=100000")["pi"].startswith("3.14159265")
    asked = f"http://{address}/"
    text = lab["standby"].run("curl", "-s", "-H", "X-Forwarded-For: 1.2.3.4", "-b", "a=b; c=d", asked)
    assert "forwarded-for: 1.2.3.4\n" in text
    assert "cookies: a=b; c=d\n" in text


def test_all_web_servers_serve_what_lies_on_the_nas(lab: Lab) -> None:
    (lab["nas"].disk / "www" / "new.txt").write_text("from the nas")
    for name in ("web1", "web2", "web3"):
        assert lab["master"].run("curl", "-s", f"http://{lab[name].machine.address}/new.txt") == "from the nas"
    (lab["nas"].disk / "www" / "new.txt").unlink()


@pytest.mark.parametrize("name", ["dns1", "dns2", "dns3"])
def test_name_servers_know_the_cluster_forwards_and_backwards(lab: Lab, name: str) -> None:
    server = lab[name].machine.address

    def ask(*question: str) -> list[str]:
        return lab["standby"].run("dig", "+short", f"@{server}", *question).split()

    for machine in MACHINES.values():
        address = machine.cards[-1].address
        if machine.name != "client":
            assert ask(f"{machine.name}.lab.local") == [address]
            assert ask("-x", address) == [f"{machine.name}.lab.local."]
        if machine.alias:
            assert ask(f"{machine.alias}.lab.local") == [f"{machine.name}.lab.local.", address]
    assert sorted(ask("lab.local", "NS")) == [f"dns{i}.lab.local." for i in (1, 2, 3)]


def test_inner_machines_resolve_names_through_the_active_director(lab: Lab) -> None:
    assert "10.0.100.6" in lab["web1"].run("getent", "hosts", "dns2.lab.local")


def test_both_directors_balance_and_show_it(lab: Lab) -> None:
    for name, description in (("master", "Nodo Master"), ("standby", "Nodo Standby")):
        url = f"http://{lab[name].machine.address}:7000/haproxy?stats"
        assert description in lab["client"].run("curl", "-s", "-u", "admin:123", url)
    assert "pybalancer" in (lab["master"].disk / "log" / "syslog").read_text()


# No way out


def test_nobody_reaches_the_real_machine(lab: Lab) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ours = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} | {"127.0.0.1"}
        links = json.loads(subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True).stdout)
        ours |= {entry["local"] for link in links for entry in link["addr_info"]}
        for name in ("client", "master", "web1"):
            for address in ours:
                done = lab[name].outcome("curl", "-s", "--max-time", "0.3", f"http://{address}:{port}/")
                # 7: refused or no route; 28: no answer.
                assert done.returncode in (7, 28), (name, address)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_link_that_leads_out_is_found(lab: Lab) -> None:
    elsewhere = Space("elsewhere", within=lab._switch)
    try:
        lab._make_sure_of_no_way_out()
        assert lab._switch is not None
        out = f"link add out type veth peer name in netns {elsewhere.pid_within}"
        lab._switch.run(["ip", "-batch", "-"], text=out)
        with pytest.raises(LabError, match="the switch has links that lead out of the lab: out"):
            lab._make_sure_of_no_way_out()
        lab._switch.run(["ip", "link", "delete", "out"])
        into = f"link add out netns {lab['web1'].space.pid_within} type veth peer name in netns {elsewhere.pid_within}"
        lab._switch.run(["ip", "-batch", "-"], text=into)
        with pytest.raises(LabError, match="web1: out leads out of the lab"):
            lab._make_sure_of_no_way_out()
        lab["web1"].run("ip", "link", "delete", "out")
    finally:
        elsewhere.kill()
    lab._make_sure_of_no_way_out()


# Switches and cables


def test_a_cable_is_cut_and_mended(lab: Lab) -> None:
    client, master = lab["client"], lab["master"]
    for node, card, far in ((client, "eth0", "192.168.1.101"), (master, "eth1", "10.0.100.50")):
        assert pings(node, far)
        node.cut(card)
        assert "NO-CARRIER" in node.run("ip", "link", "show", card)
        assert not pings(node, far)
        node.mend(card)
        lab.until(lambda n=node, f=far: pings(n, f), "it is back")  # type: ignore[misc]


def test_a_power_cut_kills_everything_and_ends_the_link(lab: Lab) -> None:
    web = lab["web2"]
    init = web.space.pid
    web.start("setsid", "sleep", "4713", log="sleep.log")
    (web.disk / "etc" / "kept").write_text("on disk")
    addresses = ("sh", "-c", "hostname -I")
    lease = web.run(*addresses)
    web.power_off()
    assert not web.is_on
    assert not is_alive(init)
    assert not pings(lab["web1"], web.machine.address)
    with pytest.raises(LabError, match="web2 is switched off"):
        web.run("true")
    web.power_off()
    web.power_on()
    web.power_on()
    assert web.run(*addresses) == lease == "10.0.100.3 \n"
    assert web.run("cat", "/etc/kept") == "on disk"
    assert web.outcome("pgrep", "-x", "sleep").returncode == 1
    assert page(lab["master"], f"http://{web.machine.address}/")["server"] == web.machine.address


def test_a_machine_that_does_not_come_up_says_why(lab: Lab) -> None:
    lab["dns3"].power_off()
    for director in ("master", "standby"):
        lab[director].cut("eth1")
    try:
        with pytest.raises(LabError, match=r"(?s)dns3: udhcpc .*status 1: .*no lease, failing"):
            lab["dns3"].power_on()
    finally:
        lab["dns3"].power_off()
        for director in ("master", "standby"):
            lab[director].mend("eth1")
        lab["dns3"].power_on()


def test_a_condition_is_waited_for_with_a_deadline_and_a_message(lab: Lab) -> None:
    assert lab.until(lambda: "answer", "there is one") == "answer"
    with pytest.raises(LabError, match="not within 0 s: pigs fly"):
        lab.until(lambda: False, "pigs fly", within=0.05)


def metrics(status: str, check: str | None) -> str:
    """What a director tells of one server."""
    lines = [f'haproxy_server_status{{proxy="b",server="s",state="{at}"}} {int(at == status)}' for at in ("DOWN", "UP")]
    if check is not None:
        lines += [
            f'haproxy_server_check_status{{proxy="b",server="s",state="{at}"}} {int(at == check)}'
            for at in ("L4OK", "L4TOUT", "L7OK")
        ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "is_up"),
    [
        (metrics("UP", "L7OK"), True),
        (metrics("UP", None), True),
        # Not checked yet.
        (metrics("UP", ""), False),
        (metrics("UP", "L4TOUT"), False),
        (metrics("DOWN", "L4TOUT"), False),
        (metrics("DOWN", "L4OK"), False),
        (metrics("UP", "L4OK") + "\n" + metrics("DOWN", "L4OK").replace('"b"', '"c"'), False),
        ("", False),
    ],
)
def test_a_server_is_up_when_a_check_has_said_so(text: str, is_up: bool) -> None:
    assert all_are_up(text, {"s"}) is is_up
    assert not all_are_up(text, {"t"})


# Coming and going


# What a lab writes on its machines' disks, and must not on the real one.
WRITTEN = (
    *("/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hosts", "/etc/ethers", "/etc/dnsmasq.conf", "/dev/log"),
    *("/etc/apache2/lab.key", "/etc/apache2/apache.conf", "/etc/bind/rd.lab.local", "/etc/bind/named.conf"),
    *("/run/disks", "/run/named", "/run/apache2", "/var/log/syslog", "/var/log/dnsmasq.log", "/var/lib/misc"),
)


def real_machine() -> dict[str, object]:
    """What a lab could change of it."""
    said = [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
        for words in (["netns", "list"], ["-brief", "link"], ["-brief", "address"], ["route"])
    ]
    stamps = {path: Path(path).stat().st_mtime_ns if Path(path).exists() else None for path in WRITTEN}
    return {"network": said, "files": stamps, "mounts": Path("/proc/self/mounts").read_text()}


def inits_of(lab: int) -> list[int]:
    """The inits of the spaces that the process `lab` made."""
    return [pid for pid, maker, _ in inits() if maker == lab]


def dwellers(networks: set[str]) -> list[int]:
    """The processes that live in these network namespaces."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((entry / "ns/net").readlink()) in networks:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_when_it_goes_down(number: signal.Signals) -> None:
    before = real_machine()
    command = [sys.executable, "-m", "tests.lab"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None and lab.stderr is not None
        while not (line := lab.stdout.readline()).startswith("Ctrl-C"):
            assert line, lab.stderr.read()
        made = inits_of(lab.pid)
        assert len(made) == 1 + len(MACHINES)
        networks = {str(Path(f"/proc/{init}/ns/net").readlink()) for init in made}
        assert len(networks) == len(made)
        assert len(dwellers(networks)) > 2 * len(made)
        lab.send_signal(number)
        assert lab.wait(20) == {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        assert lab.stderr.read() == ""
    until(lambda: not dwellers(networks) and not inits_of(lab.pid), "everything has ended", within=5)
    assert real_machine() == before


def test_two_labs_do_not_meet(lab: Lab) -> None:
    with Lab() as other:
        other["web1"].power_off()
        other["client"].run("ip", "address", "add", "192.168.1.77/24", "dev", "eth0")
        assert page(lab["master"], "http://10.0.100.2/")["server"] == "10.0.100.2"
        assert pings(other["master"], "192.168.1.77")
        assert not pings(lab["master"], "192.168.1.77")
        assert not pings(other["master"], "10.0.100.2")


@pytest.mark.parametrize("words", [[], ["verify"]], ids=["cluster", "verify"])
def test_who_may_not_make_namespaces_is_told_in_a_line(words: list[str]) -> None:
    drop = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    done = subprocess.run(
        [*drop, sys.executable, "-m", "tests.lab", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("the lab needs root and CAP_SYS_ADMIN to make namespaces: unshare: ")
