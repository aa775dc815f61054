"""How to let packets through the firewall that this host has: whose rules they are says which command is heeded."""

from __future__ import annotations

from typing import Literal, NamedTuple

from balancer.doctor.case import Case

__all__ = ["Commands", "Manager", "manager", "opening"]

Manager = Literal["firewalld", "ufw", "nft", "iptables"]


class Commands(NamedTuple):
    """What to type."""

    now: tuple[str, ...]
    always: tuple[str, ...]


def manager(case: Case) -> Manager:
    """Who makes the rules here."""
    if case.processes.named("firewalld"):
        return "firewalld"
    if any(line.strip().lower() == "enabled=yes" for line in case.settings.lines("etc/ufw/ufw.conf")):
        return "ufw"
    return "nft"


def opening(case: Case, protocol: str, port: int = 0, *, family: int = 4, chain: str = "") -> Commands:
    """For what comes in: of TCP or UDP to a port, or VRRP. `chain`: which one drops it, `FAMILY TABLE CHAIN` of nft,
    or `iptables CHAIN`."""
    of = f"{protocol} dport {port}" if port else f"{'ip6 nexthdr' if family == 6 else 'ip protocol'} {protocol}"
    who = manager(case)
    if who == "firewalld":
        what = f"--add-port={port}/{protocol}" if port else f"--add-protocol={protocol}"
        return Commands((f"firewall-cmd {what}",), (f"firewall-cmd --permanent {what}",))
    iptables = "ip6tables" if family == 6 else "iptables"
    of_xt = f"-p {protocol}" + (f" --dport {port}" if port else "")
    if who == "ufw":
        if port:
            return Commands((f"ufw allow {port}/{protocol}",), ())
        six = "6" if family == 6 else ""
        return Commands(
            (f"{iptables} -I ufw{six}-before-input {of_xt} -j ACCEPT",),
            (
                f"sed -i '/^# End required lines/a -A ufw{six}-before-input {of_xt} -j ACCEPT' "
                f"/etc/ufw/before{six}.rules",
            ),
        )
    if chain.startswith("iptables"):
        name = chain.split()[1]
        return Commands((f"{iptables} -I {name} {of_xt} -j ACCEPT",), ("netfilter-persistent save",))
    if chain:
        keep = f"# in /etc/nftables.conf, in {chain}: {of} accept"
        return Commands((f"nft insert rule {chain} {of} accept",), (keep,))
    return Commands(("nft list ruleset",), ())
