"""What each kind of machine runs, and when it is ready."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.topology import MACHINES

if TYPE_CHECKING:
    from tests.lab.lab import Node, Program

__all__ = ["CONFIGURATION", "ROOT", "all_are_up", "are_up", "balancer", "boot", "is_ready", "start_balancer"]

FILES = Path(__file__).parent / "files"
ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "config" / "cluster.yaml"
"""Of both directors, as it is shipped."""

_STATE = re.compile(
    r'^haproxy_server_(status|check_status)\{proxy="([^"]*)",server="([^"]*)",state="([^"]*)"\} (\S+)$', re.MULTILINE
)
_GOOD = {"L4OK", "L6OK", "L7OK", "L7OKC"}

_DOCUMENTS = "/run/disks/nas/www"
_NAME_SERVERS = [machine.name for machine in MACHINES.values() if machine.kind == "dns"]
_ZONE_HEAD = f"""\
$TTL 38400
@ IN SOA {_NAME_SERVERS[0]}.lab.local. admin.lab.local. (
        2014092900 ; serial
        28800      ; refresh
        3600       ; retry
        604800     ; expire
        38400 )    ; negative answers are kept so long
""" + "".join(f"@ IN NS {name}.lab.local.\n" for name in _NAME_SERVERS)


def boot(node: Node) -> None:
    """Configure what is not configured yet, and start everything."""
    _BOOT[node.machine.kind](node)


def balancer(node: Node, configuration: str = str(CONFIGURATION)) -> tuple[str, ...]:
    """The command that balances on a director; nothing on other machines."""
    return ("pybalancer", "-c", configuration, "--node", node.name) if node.machine.kind == "director" else ()


def start_balancer(node: Node) -> Program:
    """Start what `node.balancer` says; its log bears its name."""
    return node.start(*node.balancer, log=f"{node.balancer[0]}.log")


def is_ready(node: Node) -> bool:
    """Whether everything that it runs takes requests."""
    if node.machine.kind == "dns":
        # named listens before it has read its zones.
        return "ANSWER: 1," in node.outcome("dig", "+tries=1", "+timeout=1", "@127.0.0.1", "lab.local", "SOA").stdout
    ports = _PORTS[node.machine.kind]
    if node.balancer and node.balancer[0] != "pybalancer":
        ports = tuple(port for port in ports if port not in _PYBALANCER)
    return all(_listens(node, *port) for port in ports)


def _listens(node: Node, transport: str, port: int) -> bool:
    """Asks the kernel, so that no service sees a request."""
    return bool(node.run("ss", "-Hnl", f"--{transport}", f"sport = :{port}"))


def _director(node: Node) -> None:
    _copy(node, "dnsmasq.conf", "/etc")
    leases = [f"{card.mac} {card.address}" for machine in MACHINES.values() for card in machine.cards if card.dhcp]
    node.write("/etc/ethers", "\n".join(leases) + "\n")
    _add_user(node, "pybalancer")
    node.start("busybox", "syslogd", "-n", "-O", "/var/log/syslog", log="syslogd.log")
    node.start("dnsmasq", "--keep-in-foreground", "--conf-file=/etc/dnsmasq.conf", log="dnsmasq.out")
    if node.balancer:
        start_balancer(node)


def _web(node: Node) -> None:
    _take_lease(node)
    _copy(node, "apache.conf", "/etc/apache2")
    if node.outcome("test", "-e", "/etc/apache2/lab.crt").returncode:
        name = f"{node.name}.lab.local"
        node.run(
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *(
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-keyout",
                "/etc/apache2/lab.key",
                "-out",
                "/etc/apache2/lab.crt",
            ),
        )
    node.run("mkdir", "-p", "/run/apache2", "/var/log/apache2")
    # Its lock file would be in /tmp, which is the real machine's.
    node.run("sh", "-c", "for d in /etc/php/*/apache2/conf.d; do echo opcache.lockfile_path=/run >$d/99-lab.ini; done")
    node.start(
        "env", f"HOSTNAME={node.name}", "apache2", "-f", "/etc/apache2/apache.conf", "-DFOREGROUND", log="apache2.out"
    )


def _dns(node: Node) -> None:
    _take_lease(node)
    _copy(node, "named.conf", "/etc/bind")
    node.write("/etc/bind/rd.lab.local", _ZONE_HEAD + "".join(_forward_records()))
    node.write("/etc/bind/ri.lab.local", _ZONE_HEAD + "".join(_reverse_records()))
    node.run("install", "-d", "-o", "bind", "/run/named")
    node.start("named", "-f", "-u", "bind", "-c", "/etc/bind/named.conf", "-L", "/run/named/log", log="named.out")


def _nas(node: Node) -> None:
    """The document root on its disk stands for the NFS that it would export."""
    node.run("mkdir", "-p", _DOCUMENTS)
    for page in ("index.php", "pi.php"):
        _copy(node, page, _DOCUMENTS)


def _client(node: Node) -> None:
    """A person sits there."""


_BOOT = {"director": _director, "web": _web, "dns": _dns, "nas": _nas, "client": _client}
_PYBALANCER = (("tcp", 7000), ("tcp", 8000))
_PORTS: dict[str, tuple[tuple[str, int], ...]] = {
    "director": (("udp", 67), *_PYBALANCER),
    "web": (("tcp", 80), ("tcp", 443)),
    "nas": (),
    "client": (),
}


def _take_lease(node: Node) -> None:
    """Ask the directors' dnsmasq for an address; LabError when nobody answers."""
    node.run("udhcpc", "-n", "-q", "-f", "-t", "8", "-T", "1", "-O", "mtu", "-i", "eth0", "-s", str(FILES / "lease.sh"))


def _copy(node: Node, name: str, folder: str) -> None:
    node.write(f"{folder}/{name}", (FILES / name).read_text())


def _forward_records() -> Iterator[str]:
    """Names of the zone lab.local: all but the client's, who is of the Internet."""
    for machine in MACHINES.values():
        if machine.kind != "client":
            yield f"{machine.name} IN A {machine.cards[-1].address}\n"
            for alias in filter(None, (machine.alias, machine.second_alias)):
                yield f"{alias} IN CNAME {machine.name}\n"


def _reverse_records() -> Iterator[str]:
    """The zone 100.0.10.in-addr.arpa."""
    for machine in MACHINES.values():
        if machine.kind != "client":
            yield f"{machine.cards[-1].address.rpartition('.')[2]} IN PTR {machine.name}.lab.local.\n"


def _add_user(node: Node, name: str) -> None:
    """A system user with a group of the same name, as a package would make it."""
    if node.outcome("getent", "passwd", name).returncode:
        node.run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name)


def are_up(node: Node, names: set[str]) -> bool:
    """Whether a director finds all servers of these names to be up."""
    url = "http://127.0.0.1:7000/metrics"
    return all_are_up(node.outcome("curl", "-s", "--max-time", "3", "-u", "admin:123", url).stdout, names)


def all_are_up(metrics: str, names: set[str]) -> bool:
    """Whether all servers of these names are up and their last checks were good. One that was not checked yet is UP
    too, but its first check may take it down. False where there are no such servers."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for what, proxy, server, state, value in _STATE.findall(metrics):
        if server in names:
            states = found.setdefault((proxy, server), {}).setdefault(what, set())
            if float(value):
                states.add(state)
    return bool(found) and all(
        # One without checks has no check_status.
        states["status"] == {"UP"} and bool(states.get("check_status", _GOOD) & _GOOD)
        for states in found.values()
    )
