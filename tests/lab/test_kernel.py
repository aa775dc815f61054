"""Balancing in the kernel as clients see it: dig, dnsperf, ab and curl on the client's machine, while servers and
directors fail."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.lab import services
from tests.lab.lab import Lab, Node
from tests.lab.space import why_not
from tests.lab.topology import VIPS

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

ALL = set(VIPS)
DIRECTORS = ("master", "standby")
CLIENT = "192.168.1.10"
DNS, WEB = "192.168.1.200", "192.168.1.202"
# Three checks that take as long as they may are 1.5 s; more for a machine with other things to do.
NOTICED = 10.0
FORWARDING = "/proc/sys/net/ipv4/ip_forward"


def changed() -> str:
    """The shipped configuration with checks four times a second, resets for those whose web server is down, and more
    services balanced by maglev: :443, whose servers the kernel has for nobody else, :8080, whose servers are those of
    :80 too, and :8081 and :8082, whose servers are the same."""
    content: dict[str, Any] = yaml.safe_load(services.CONFIGURATION.read_text())
    frontends, backends = content["frontends"], content["backends"]
    calm = copy.deepcopy(backends["kernel-web"])
    for name in ("kernel-web", "dns-servers"):
        backends[name] = copy.deepcopy(backends[name])
        backends[name]["check"] |= {"interval": "250ms", "timeout": "250ms"}
    for server in backends["kernel-web"]["servers"].values():
        server["on_marked_down"] = "shutdown-sessions"
    for ports, at in (((443,), 443), ((8080,), 80), ((8081, 8082), 8000)):
        name = f"maglev-{ports[0]}"
        backends[name] = copy.deepcopy(calm) | {"balance": "maglev"}
        for server in backends[name]["servers"].values():
            server["address"] = server["address"].replace(":80", f":{at}")
        frontends[name] = frontends["ipvs-http"] | {
            "bind": [f"{WEB}:{port}" for port in ports], "default_backend": name,
        }  # fmt: skip
    return yaml.dump(content, Dumper=yaml.SafeDumper)


def replace_balancers(lab: Lab, configuration: str) -> None:
    """Both directors' pybalancers with others of that configuration, settled."""
    for name in reversed(DIRECTORS):
        lab[name].program("pybalancer").end()
    for name in DIRECTORS:
        node = lab[name]
        node.balancer = services.balancer(node, configuration)
        services.start_balancer(node)
    lab.settle()


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Lab]:
    """With the changed configuration on both directors, and more addresses of the client."""
    for name in DIRECTORS:
        lab[name].write("/etc/changed.yaml", changed())
    replace_balancers(lab, "/etc/changed.yaml")
    yield lab
    replace_balancers(lab, str(services.CONFIGURATION))


@dataclass
class Line:
    """What a program has printed, and when (monotonic seconds)."""

    at: float
    text: str


class Printing:
    """A program on a machine whose lines bear the time; a context manager."""

    def __init__(self, node: Node, *command: str) -> None:
        self._process = subprocess.Popen(
            [*node.space.entering, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[Line] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(Line(time.monotonic(), line.rstrip("\n")))

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    def ended(self, within: float) -> str:
        """Wait for its end; what it printed."""
        assert self._process.wait(within) == 0, self.text
        self._reader.join()
        return self.text

    def __enter__(self) -> Printing:
        return self

    def __exit__(self, *_: object) -> None:
        # nsenter's child, which alone is in there, ends when nobody reads it.
        if self._process.poll() is None:
            self._process.kill()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def without_cable(node: Node) -> Iterator[None]:
    """It falls silent: no FIN, no reset, as nothing but a cut leaves it."""
    node.cut()
    try:
        yield
    finally:
        node.mend()


def down_at(lab: Lab, backend: str, server: str) -> float:
    """When the master has found the server to be down (monotonic)."""
    wanted = f'haproxy_server_status{{proxy="{backend}",server="{server}",state="DOWN"}} 1'
    url = "http://127.0.0.1:7000/metrics"
    ask = ("curl", "-s", "--max-time", "3", "-u", "admin:123", url)
    lab.until(lambda: wanted in lab["master"].outcome(*ask).stdout, f"{server} is down", within=NOTICED)
    return time.monotonic()


# DNS


def dig(lab: Lab, *options: str) -> str:
    """Which name server answers; dig takes an answer from the address and port alone that it asked."""
    question = ("+tries=1", "+timeout=2", "+short", f"@{DNS}", "CH", "TXT", "hostname.bind")
    return lab["client"].run("dig", *options, *question).strip().strip('"')


@pytest.mark.parametrize(
    "options", [("-b", f"{CLIENT}#4053"), ("+tcp",)], ids=["UDP, one port", "TCP, a connection each"]
)
def test_dns_queries_are_spread_evenly_and_answered_by_the_virtual_address(
    cluster: Lab, options: tuple[str, ...]
) -> None:
    answered = Counter(dig(cluster, *options) for _ in range(6))
    assert answered == {"dns1": 2, "dns2": 2, "dns3": 2}
    full = cluster["client"].run("dig", *options, "+tries=1", f"@{DNS}", "web1.lab.local")
    assert f";; SERVER: {DNS}#53({DNS})" in full
    assert "10.0.100.2" in full
    assert "unexpected source" not in full


def test_no_query_is_lost_once_a_name_server_is_found_dead(cluster: Lab) -> None:
    client, patience, pace, lasts = cluster["client"], 1, 500, 7
    client.write("/run/queries", "web1.lab.local A\n")
    load = ("dnsperf", "-s", DNS, "-d", "/run/queries", "-c", "4", "-t", str(patience), "-Q", str(pace), "-q", "1000")
    begin = time.monotonic()
    with Printing(client, "stdbuf", "-oL", *load, "-W", "-l", str(lasts)) as dnsperf:
        cluster.until(lambda: time.monotonic() > begin + 1, "a while")
        with without_cable(cluster["dns2"]):
            found = down_at(cluster, "dns-servers", "cluster6")
            said = dnsperf.ended(within=20)
    cluster.settle()
    lost = [line for line in dnsperf.lines if "timed out" in line.text]
    # What was sent between death and finding.
    assert lost, said
    assert max(line.at for line in lost) < found + patience + 0.6, (found - begin, lost[-1])
    # And there was load after that.
    completed = re.search(r"Queries completed:\s+(\d+)", said)
    assert completed is not None
    assert int(completed[1]) > pace * (begin + lasts - found) / 2


# HTTP


@dataclass(frozen=True)
class Visit:
    """A request of ab: when it began (whole Unix seconds), what it took (seconds)."""

    began: int
    took: float


def visits(lab: Lab) -> list[Visit]:
    """From the file that ab -g has written."""
    lines = (lab["client"].disk / "run/visits").read_text().splitlines()[1:]
    return [Visit(int(fields[1]), int(fields[4]) / 1000) for fields in (line.split("\t") for line in lines)]


def first_again(after: float) -> float:
    """When a SYN is first sent again that long after it was sent (RFC 6298: 1, 2, 4, … s after the one before)."""
    return next(moment for moment in (1, 3, 7, 15, 31) if moment >= after)


STATUS_HEAD = re.compile(
    r"""IP Virtual Server version \S+ \(size=\d+\)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
"""
)


def listed(status: str, service: str) -> dict[str, tuple[int, int]]:
    """Active and inactive connections of a service's servers, from lines as ipvsadm -L has them."""
    assert STATUS_HEAD.match(status), status
    part = re.search(rf"^TCP  {re.escape(service)} (?:rr|mh)\n((?:  -> .*\n?)*)", status, re.MULTILINE)
    assert part is not None, status
    found = {}
    for line in part[1].splitlines():
        columns = re.fullmatch(r"  -> (\S+) +Masq    1      (\d+) +(\d+) +", line)
        assert columns is not None, line
        # Where ipvsadm begins these columns.
        assert [columns.start(2), columns.start(3)] == [49, 60], line
        found[columns[1]] = int(columns[2]), int(columns[3])
    return found


def without(lab: Lab, server: str) -> dict[str, tuple[int, int]]:
    """The list that the master has of the service for the web, once this server is not in it; nothing before."""
    found = listed(lab["master"].run("pybalancer", "status", "-n"), f"{WEB}:80")
    return {} if server in found else found


@pytest.mark.parametrize("options", [(), ("-k",)], ids=["a connection a request", "keep-alive"])
def test_nothing_hangs_past_a_retransmission_when_a_web_server_dies(cluster: Lab, options: tuple[str, ...]) -> None:
    client, master = cluster["client"], cluster["master"]
    client.run("rm", "-f", "/run/visits")
    begin = time.monotonic()
    # Long enough for what hangs to be over, where all else is slow too: what is not over at the end is in no file.
    load = ("ab", "-q", "-r", *options, "-c", "12", "-t", "10", "-n", "1000000", "-s", "30", "-g", "/run/visits")
    with Printing(client, *load, f"http://{WEB}/") as ab:
        cluster.until(lambda: time.monotonic() > begin + 1, "a while")
        before = listed(master.run("pybalancer", "status"), f"{WEB}:http")
        with without_cable(cluster["web3"]):
            death = time.time()
            noticed = down_at(cluster, "kernel-web", "cluster4") - time.monotonic() + time.time()
            # What control has found, the kernel's process has heard of a moment later.
            after = cluster.until(lambda: without(cluster, "10.0.100.4:80"), "it is listed no more", within=1)
            said = ab.ended(within=40)
            afterwards = client.run("ab", "-q", "-n", "60", f"http://{WEB}/")
    cluster.settle()
    assert before.keys() == {"cluster2:http", "cluster3:http", "cluster4:http"}
    assert sum(map(sum, before.values())) > 0
    assert after.keys() == {"10.0.100.2:80", "10.0.100.3:80"}
    all_visits = visits(cluster)
    hung = [visit for visit in all_visits if visit.took > min(0.9, (noticed - death) / 2)]
    # Those on their way when it died, and those sent to it until that was noticed.
    assert hung, (death, noticed, max(all_visits, key=lambda visit: visit.took), said)
    # At the first segment that is sent again after that, another answers. `began` is cut to a second, so that it is
    # one of these later than it should at most.
    late = [visit for visit in hung if visit.took > first_again(noticed - visit.began) + 0.7]
    assert not late, (death, noticed, late)
    # After that everything went as ever.
    assert re.search(r"^Failed requests: +0$", afterwards, re.MULTILINE), afterwards
    halfway = re.search(r"^ +50% +(\d+)$", afterwards, re.MULTILINE)
    assert halfway and int(halfway[1]) < 500, afterwards
    assert not [visit for visit in hung if visit.began > noticed]


# Directors


OCTETS = 24_000_000
RATE = 1_900_000
CLIENTS = ("192.168.1.10", "192.168.1.21", "192.168.1.22", "192.168.1.23")
OWN, SHARED, TWINS = f"https://{WEB}", f"http://{WEB}:8080", f"http://{WEB}:8082"
SITES = {OWN: "servers of one service", SHARED: "of one balanced otherwise too", TWINS: "of one balanced alike too"}
# Where the kernel takes none by itself: a port that the client has, or had just now, at the same server through another
# service would be changed on the way, which the other director could not know.
PORTS = "20000-29999"
# Reads its input at a steady pace, and the last of it when there is a file: what curl --limit-rate does comes in bursts
# with pauses of seconds.
PACED = """
import hashlib, os, sys, time
digest, octets, begin = hashlib.sha256(), 0, time.monotonic()
rate, most, file = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
while chunk := sys.stdin.buffer.read1(16384):
    digest.update(chunk)
    octets += len(chunk)
    while octets > most and not os.path.exists(file):
        time.sleep(0.05)
    time.sleep(max(0.0, begin + octets / rate - time.monotonic()))
print(digest.hexdigest())
"""
CHANGED = "/run/changed"


@pytest.fixture(scope="module")
def big(cluster: Lab) -> Iterator[str]:
    """The SHA-256 of a file that all web servers have; the client has more addresses."""
    client, nas = cluster["client"], cluster["nas"]
    file = "/run/disks/nas/www/big.bin"
    nas.run("dd", "if=/dev/urandom", f"of={file}", f"bs={OCTETS}", "count=1", "iflag=fullblock", "status=none")
    for address in CLIENTS[1:]:
        client.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    yield nas.run("sha256sum", file).split()[0]
    nas.run("rm", file)
    for address in CLIENTS[1:]:
        client.run("ip", "address", "del", f"{address}/24", "dev", "eth0")


def download(client: Node, site: str, address: str) -> str:
    """All in one connection; what curl says of it, and the SHA-256."""
    told = "%{stderr}%{remote_ip} %{num_connects} %{size_download}\n"
    own = ("--interface", address, "--local-port", PORTS)
    curl = ("curl", "-sSk", "--max-time", "45", *own, "-w", told, f"{site}/big.bin")
    reader = (sys.executable, "-c", PACED, str(RATE), str(OCTETS * 3 // 4), CHANGED)
    line = f"set -o pipefail; {shlex.join(curl)} | {shlex.join(reader)}"
    done = client.outcome("bash", "-c", line, takes=60.0)
    return (done.stderr + done.stdout).strip()


@pytest.fixture(scope="module")
def downloaded(cluster: Lab, big: str) -> dict[str, list[str]]:
    """By site: what became of downloads that were under way while the director changed twice."""
    client, master, standby = (cluster[name] for name in ("client", *DIRECTORS))
    client.run("rm", "-f", CHANGED)
    with ThreadPoolExecutor(len(SITES) * len(CLIENTS)) as pool:
        began = time.monotonic()
        under_way = {site: [pool.submit(download, client, site, address) for address in CLIENTS] for site in SITES}
        cluster.until(lambda: time.monotonic() > began + 1.5, "they are under way")
        master.power_off()
        try:
            cluster.until(lambda: standby.vips == ALL, "the standby holds the addresses")
            over = time.monotonic()
            master.power_on()
            cluster.until(lambda: master.vips == ALL and not standby.vips, "the master has them back")
            back = time.monotonic()
        finally:
            master.power_on()
            client.run("touch", CHANGED)
        got = {site: [each.result() for each in of] for site, of in under_way.items()}
    took = time.monotonic() - began
    print(f"standby after {over - began:.1f} s, master after {back - began:.1f} s, done after {took:.1f} s")
    cluster.settle()
    return got


@pytest.mark.parametrize("site", SITES, ids=SITES.values())
def test_downloads_go_on_through_two_changes_of_director(
    cluster: Lab, downloaded: dict[str, list[str]], big: str, site: str
) -> None:
    """By maglev both directors send a client to the same server: nothing is shared, no connection is synchronized."""
    assert downloaded[site] == [f"{WEB} 1 {OCTETS}\n{big}"] * len(CLIENTS)
    # They came from more than one server.
    served = [name for name in ("web1", "web2", "web3") if "/big.bin" in logged(cluster[name])]
    assert len(served) > 1


def logged(node: Node) -> str:
    return (node.disk / "log/apache2/access.log").read_text()


# The way out, and what is put back


def seen_from(lab: Lab, node: Node, to: Node, port: int) -> str:
    """The address that a connection from one machine seems to come from at another."""
    listener = to.start("busybox", "nc", "-l", "-p", str(port), "-e", "cat", log="nc.log")
    lab.until(lambda: to.run("ss", "-Hnlt", f"sport = :{port}"), "it listens")
    with Printing(node, "sh", "-c", f"(echo hello; sleep 2) | busybox nc -w 3 {to.machine.address} {port}") as asking:
        lab.until(lambda: "hello" in asking.text, "it is answered", within=5)
        peers = to.run("ss", "-Hnt", f"sport = :{port}").split()
    listener.end()
    # nc listens for both families.
    return peers[-1].rpartition(":")[0].strip("[]").removeprefix("::ffff:")


def test_inner_machines_reach_the_outer_network_through_the_active_director(cluster: Lab) -> None:
    assert cluster["dns1"].run("ip", "route", "get", CLIENT).startswith(f"{CLIENT} via 10.0.100.200 ")
    assert seen_from(cluster, cluster["dns1"], cluster["client"], 4711) in ("192.168.1.101", *ALL)


@contextmanager
def stopped(lab: Lab, node: Node) -> Iterator[None]:
    """Its pybalancer does not run for a while."""
    node.program("pybalancer").end()
    try:
        yield
    finally:
        services.start_balancer(node)
        lab.settle()


def test_what_was_set_is_put_back_at_the_end(cluster: Lab) -> None:
    standby = cluster["standby"]

    def forwards() -> str:
        return standby.run("cat", FORWARDING).strip()

    def tables() -> str:
        return standby.run("nft", "list", "tables")

    with stopped(cluster, standby):
        found = forwards()
        assert "pybalancer" not in tables()
        standby.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    cluster.until(lambda: forwards() == "1", "it forwards again")
    assert "table inet pybalancer" in tables()
    with stopped(cluster, standby):
        assert forwards() == "0"
        assert "pybalancer" not in tables()
        standby.run("sysctl", "-q", "-w", f"net.ipv4.ip_forward={found}")
