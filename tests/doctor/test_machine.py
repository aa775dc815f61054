from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.doctor import machine
from balancer.doctor.case import Wish
from balancer.doctor.processes import Process
from tests.certificates import make
from tests.vrrp.conftest import Host, as_root

from .conftest import OK, PROBLEM, UNKNOWN, WARNING, Patient, here, put, tcp, vrrp
from .test_capacity import KERNEL, bad
from .test_units import systemd


def test_who_we_are() -> None:
    (found,) = machine.version(here(tcp()))
    assert found.verdict is OK and os.uname().nodename in found.what and "no daemon runs with this file" in found.what


@as_root
def test_rights_and_rules(host: Host) -> None:
    assert [each.verdict for each in Patient(host, KERNEL).says_all(machine.rights)] == [OK]
    assert Patient(host, tcp()).says_all(machine.rights) == []


@as_root
def test_root_without_rights_as_in_a_container() -> None:
    case = here(vrrp())
    case.is_root = False
    (found,) = machine.rights(case)
    assert found.verdict is PROBLEM and "--cap-add NET_ADMIN" in found.now[0]


def test_somebody_else_than_root(monkeypatch: pytest.MonkeyPatch) -> None:
    case = here(vrrp())
    case.is_root = False
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (found,) = machine.rights(case)
    assert found.verdict is UNKNOWN and found.now == ("sudo pybalancer doctor",)


def test_users(tmp_path: Path) -> None:
    (found,) = bad(machine.places(here(tcp() + "global: {user: nosuchuser, log: {target: none}}\n", tmp_path)))
    assert found.verdict is PROBLEM and found.now[0].startswith("useradd --system")
    assert bad(machine.places(here(tcp() + "global: {user: nobody, log: {target: none}}\n", tmp_path))) == []


def test_places_to_write(tmp_path: Path) -> None:
    text = tcp() + "global: {state_directory: /var/lib/x, log: {target: /var/log/x/web.log}}\n"
    found = bad(machine.places(here(text, tmp_path)))
    assert [each.what for each in found] == ["there is no directory /var/lib/x", "there is no directory /var/log/x"]
    for each in found:
        subprocess.run(["sh", "-c", each.now[0].replace(" /var", f" {tmp_path}/var")], check=True)
    assert bad(machine.places(here(text, tmp_path))) == []


@as_root
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """In a process that has mounts of its own."""
    text = tcp() + "global: {state_directory: /full, log: {target: none}}\n"
    (tmp_path / "full").mkdir()
    code = f"""
import subprocess, sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent.parent.parent)!r}]
from tests.doctor.conftest import here
from balancer.doctor import machine
for options in ("size=1m", "size=1g,nr_inodes=2", "ro", "size=1g"):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "x", {str(tmp_path / "full")!r}], check=True)
    for each in machine.places(here({text!r}, Path({str(tmp_path)!r}))):
        print(each.verdict, each.what, sep=": ")
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "warning: 1 MiB are left for /full",
        "warning: 1 files more can be in /full",
        "problem: /full is on a file system that is read-only",
        "ok: 1024 MiB are left for /full",
    ], done.stderr


def test_a_log_that_nobody_reads(tmp_path: Path) -> None:
    text = tcp() + "global: {log: {target: syslog}}\n"
    (found,) = machine.places(here(text, tmp_path))
    assert found.verdict is PROBLEM and found.what == "/dev/log is not there"
    (tmp_path / "dev").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "dev/log"))
        (found,) = machine.places(here(text, tmp_path))
        assert found.verdict is OK
    (found,) = machine.places(here(text, tmp_path))
    assert found.what == "/dev/log has nobody who listens"
    put(tmp_path, {"run/systemd/journal/socket": ""})
    (found,) = machine.places(here(text.replace("syslog", "journald"), tmp_path))
    assert found.what == "/run/systemd/journal/socket is no socket"


class _Kernel:
    """adjtimex(2)."""

    status = 0x40

    def adjtimex(self, timex) -> int:
        timex._obj.status = self.status
        return 5


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda *_, **__: kernel)
    return kernel


def test_the_clock(kernel: _Kernel, tmp_path: Path) -> None:
    case = here(tcp(), tmp_path)
    case.processes.all = {}
    (found,) = machine.clock(case)
    assert found.verdict is WARNING and found.now == ("apt-get install chrony",)
    case.processes.all = {7: Process(7, ("/usr/sbin/chronyd",), "chronyd", "")}
    (found,) = machine.clock(case)
    assert found.verdict is UNKNOWN and "though chronyd runs" in found.what
    case.processes.all = {}
    put(tmp_path, {".dockerenv": ""})
    assert [each.verdict for each in machine.clock(case)] == [UNKNOWN]
    kernel.status = 0
    assert [each.verdict for each in machine.clock(case)] == [OK]


def test_the_clock_as_it_is_here() -> None:
    assert [each.check for each in machine.clock(here(tcp()))] == ["clock"]


def test_a_clock_that_ticks_slowly(tmp_path: Path) -> None:
    put(tmp_path, {"sys/devices/system/clocksource/clocksource0/current_clocksource": "jiffies\n"})
    assert "the kernel counts time by jiffies" in [each.what for each in machine.clock(here(tcp(), tmp_path))]


def test_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(machine.certificate(here(tcp()))) == []
    for days, verdict in ((100, OK), (5, WARNING)):
        page, key = make(tmp_path, days=days)
        text = f"stats: {{bind: '127.0.0.1:7000', tls: {{crt: {page}, key: {key}}}}}\n"
        (found,) = machine.certificate(here(text))
        assert found.verdict is verdict and str(page) in found.what
    monkeypatch.setattr(machine.time, "time", lambda: 1e10)
    (found,) = machine.certificate(here(text))
    assert found.verdict is PROBLEM and f"{page} expired on " in found.what


def test_names(tmp_path: Path) -> None:
    assert list(machine.names(here(tcp()))) == []
    assert [each.verdict for each in machine.names(here(tcp(server="localhost:80")))] == [OK]
    (found,) = machine.names(here(tcp(server="no.such.name.invalid:80")))
    assert found.verdict is PROBLEM and found.why == "backends: web/one is down until it has one"


def test_a_unit_that_is_killed_too_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nTimeoutStopUSec=1min\n"
    systemd(tmp_path, monkeypatch, said)
    assert [each.verdict for each in machine.service(here(tcp(), tmp_path))] == [OK]
    text = tcp() + "global: {hard_stop_after: 90s}\n"
    (found,) = bad(machine.service(here(text, tmp_path)))
    assert (
        found.what == "pybalancer.service is killed 60 s after it was told to stop"
        and "TimeoutStopSec=120" in found.now[0]
    )
    systemd(tmp_path, monkeypatch, said.replace("1min", "infinity"))
    assert bad(machine.service(here(text, tmp_path))) == []


def test_a_unit_that_is_not_started_with_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(machine.service(here(tcp(), tmp_path))) == []
    systemd(tmp_path, monkeypatch, "LoadState=loaded\nUnitFileState=disabled\n")
    (found,) = bad(machine.service(here(tcp(), tmp_path)))
    assert found.now == ("systemctl enable pybalancer.service",)


UNIT = "LoadState=loaded\nUnitFileState=enabled\nUser=nobody\nAmbientCapabilities=%s\n"


def test_a_unit_without_the_rights_that_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"proc/sys/net/ipv4/ip_unprivileged_port_start": "1024\n"})
    systemd(tmp_path, monkeypatch, UNIT % "cap_net_bind_service")
    assert list(machine.unit_rights(here(tcp("*:80"), tmp_path))) == []
    (found,) = machine.unit_rights(here(tcp("*:80") + vrrp() + "  script_user: nobody\n", tmp_path))
    assert found.what == (
        "pybalancer.service runs as nobody, without CAP_NET_ADMIN, CAP_NET_RAW, CAP_SETGID, CAP_SETUID"
    )
    file = tmp_path / "etc/systemd/system/pybalancer.service.d/rights.conf"
    subprocess.run(["sh", "-c", found.now[0].replace("/etc", f"{tmp_path}/etc")], check=True)
    lines = file.read_text().splitlines()
    assert lines[:2] == ["[Service]", "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_SETGID CAP_SETUID"]
    systemd(tmp_path, monkeypatch, UNIT.replace("nobody", "root") % "")
    assert list(machine.unit_rights(here(vrrp(), tmp_path))) == []


@as_root
def test_a_unit_that_cannot_read_what_the_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd(tmp_path, monkeypatch, UNIT % "")
    for place in (tmp_path, *list(tmp_path.parents)[:-2]):
        place.chmod(0o755)
    secret = tmp_path / "etc2"
    secret.mkdir(0o700)
    file = secret / "b.yaml"
    file.touch(0o600)
    (found,) = machine.unit_rights(here(tcp(), tmp_path, Wish(file=str(file))))
    assert found.what == f"nobody, as whom pybalancer.service runs, may not enter {secret}"
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    for _ in range(2):
        (found,) = machine.unit_rights(here(tcp(), tmp_path, Wish(file=str(file))))
        for command in found.now:
            subprocess.run(["sh", "-c", command.replace("chgrp nobody", f"chgrp {group}")], check=True)
    assert list(machine.unit_rights(here(tcp(), tmp_path, Wish(file=str(file))))) == []


@as_root
def test_an_interface_of_systemd_networkd(host: Host, tmp_path: Path) -> None:
    with host:
        index = socket.if_nametoindex("eth0")
    state = f"run/systemd/netif/links/{index}"
    network = "run/systemd/network/10-netplan-eth0.network"
    patient = Patient(host, vrrp(), put(tmp_path, {state: "# x\nADMIN_STATE=unmanaged\nNETWORK_FILE=\n"}))
    assert patient.says_all(machine.managers) == []
    put(tmp_path, {state: f"ADMIN_STATE=configured\nNETWORK_FILE=/{network}\n", network: "[Network]\nDHCP=yes\n"})
    (found,) = patient.says(machine.managers)
    assert found.verdict is WARNING and found.now[-1] == "networkctl reload"
    command = found.now[0].replace(" /etc", f" {tmp_path}/etc")
    subprocess.run(["sh", "-c", command], check=True)
    assert patient.says(machine.managers) == []


@pytest.mark.parametrize(
    ("vendor", "verdict"),
    [
        ("Amazon EC2", PROBLEM),
        ("Google", PROBLEM),
        ("OpenStack Foundation", WARNING),
        ("innotek GmbH", None),
        ("QEMU", None),
    ],
)
def test_networks_without_multicast(tmp_path: Path, vendor: str, verdict: str | None) -> None:
    put(tmp_path, {"sys/class/dmi/id/sys_vendor": f"{vendor}\n"})
    assert [each.verdict for each in machine.cloud(here(vrrp(), tmp_path))] == ([verdict] if verdict else [])
    assert list(machine.cloud(here(tcp(), tmp_path))) == []
    unicast = [each.verdict for each in machine.cloud(here(vrrp(more="unicast_peer: [192.0.2.9]"), tmp_path))]
    assert unicast == ([WARNING] if verdict else [])
