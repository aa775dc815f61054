"""What each kind of machine runs, as chapter 3 of the thesis sets it up."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.topology import MACHINES, VIPS

if TYPE_CHECKING:
    from tests.lab.lab import Node

__all__ = ["boot", "is_ready"]

FILES = Path(__file__).parent / "files"
CONFIGURATION = Path(__file__).parents[2] / "config" / "cluster.yaml"
"""Of both directors, as it is shipped."""


def boot(node: Node) -> None:
    """Configure what is not configured yet, and start everything."""
    _BOOT[node.machine.kind](node)


def is_ready(node: Node) -> bool:
    """Whether everything that it runs takes requests."""
    if node.machine.kind == "dns":
        # named listens before it has read its zones.
        return "ANSWER: 1," in node.outcome("dig", "+tries=1", "+timeout=1", "@127.0.0.1", "lab.local", "SOA").stdout
    return all(_listens(node, *port) for port in _PORTS[node.machine.kind])


def _listens(node: Node, transport: str, port: int) -> bool:
    """Asks the kernel, so that no service sees a request."""
    return bool(node.run("ss", "-Hnl", f"--{transport}", f"sport = :{port}"))


def _director(node: Node) -> None:
    etc = node.disk / "etc"
    _copy(etc, "dnsmasq.conf")
    leases = [f"{card.mac} {card.address}" for machine in MACHINES.values() for card in machine.cards if card.dhcp]
    (etc / "ethers").write_text("\n".join(leases) + "\n")
    _add_user(etc, "pybalancer")
    node.start("busybox", "syslogd", "-n", "-O", "/var/log/syslog", log="syslogd.log")
    node.start("dnsmasq", "--keep-in-foreground", "--conf-file=/etc/dnsmasq.conf", log="dnsmasq.out")
    if node.name == "master":
        _hold_vips(node)
    node.start("pybalancer", "-c", str(CONFIGURATION), "--node", node.name, log="pybalancer.log")


def _hold_vips(node: Node) -> None:
    """Stands in for VRRP, which the daemon does not speak yet."""
    for card, addresses in VIPS.items():
        for address in addresses:
            node.run("ip", "address", "add", f"{address}/32", "dev", card)


def _web(node: Node) -> None:
    _take_lease(node)
    apache = node.disk / "etc" / "apache2"
    _copy(apache, "apache.conf")
    if not (apache / "lab.crt").exists():
        name = f"{node.name}.lab.local"
        node.run(
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", "/etc/apache2/lab.key", "-out", "/etc/apache2/lab.crt"),
        )
    node.run("mkdir", "-p", "/run/apache2", "/var/log/apache2")
    node.start(
        "env", f"HOSTNAME={node.name}", "apache2", "-f", "/etc/apache2/apache.conf", "-DFOREGROUND", log="apache2.out"
    )


def _dns(node: Node) -> None:
    _take_lease(node)
    for name in ("named.conf", "rd.lab.local", "ri.lab.local"):
        _copy(node.disk / "etc" / "bind", name)
    node.run("install", "-d", "-o", "bind", "/run/named")
    node.start("named", "-f", "-u", "bind", "-c", "/etc/bind/named.conf", "-L", "/run/named/log", log="named.out")


def _nas(node: Node) -> None:
    """The document root on its disk stands for the NFS that it would export."""
    documents = node.disk / "www"
    documents.mkdir(exist_ok=True)
    for page in ("index.php", "pi.php"):
        _copy(documents, page)


def _client(node: Node) -> None:
    """A person sits there."""


_BOOT = {"director": _director, "web": _web, "dns": _dns, "nas": _nas, "client": _client}
_PORTS: dict[str, tuple[tuple[str, int], ...]] = {
    "director": (("udp", 67), ("tcp", 7000), ("tcp", 8000)),
    "web": (("tcp", 80), ("tcp", 443)),
    "nas": (),
    "client": (),
}


def _take_lease(node: Node) -> None:
    """Ask the directors' dnsmasq for an address; LabError when nobody answers."""
    node.run("udhcpc", "-n", "-q", "-f", "-t", "8", "-T", "1", "-O", "mtu", "-i", "eth0", "-s", str(FILES / "lease.sh"))


def _copy(folder: Path, name: str) -> None:
    (folder / name).write_bytes((FILES / name).read_bytes())


def _add_user(etc: Path, name: str) -> None:
    """A system user with a group of the same name, as a package would make it."""
    passwd, group = etc / "passwd", etc / "group"
    if f"\n{name}:" in passwd.read_text():
        return
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    number = next(uid for uid in range(990, 100, -1) if uid not in taken)
    with passwd.open("a") as file:
        file.write(f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n")
    with group.open("a") as file:
        file.write(f"{name}:x:{number}:\n")
