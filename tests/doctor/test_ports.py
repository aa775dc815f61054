from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.doctor import ports
from balancer.doctor.ports import binds, files, ipvs, rivals
from tests.e2e.bed.process import until
from tests.vrrp.conftest import Host, Net, as_root

from .conftest import OK, PROBLEM, UNKNOWN, Patient, here, put, tcp, vrrp

STATS = "stats: {bind: %s}\n"


@contextlib.contextmanager
def running(net: Net, *command: str) -> Iterator[subprocess.Popen[str]]:
    """It says a line when it is ready."""
    with net:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdout.readline()
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def listening(net: Net, address: str, port: int, kind: str = "SOCK_STREAM", family: str = "AF_INET"):
    code = (
        f"import socket; s = socket.socket(socket.{family}, socket.{kind}); s.bind(({address!r}, {port}))\n"
        f"if s.type == socket.SOCK_STREAM: s.listen()\nprint(flush=True); input()"
    )
    return running(net, sys.executable, "-c", code)


@as_root
def test_a_free_port(net: Net) -> None:
    (found,) = Patient(net, tcp("*:80")).says_all(binds)
    assert (found.verdict, found.what) == (OK, "1 of 1 addresses to listen at are free")


@as_root
@pytest.mark.parametrize(
    ("bind", "address", "family"),
    [("*:80", "127.0.0.1", "AF_INET"), ("127.0.0.1:80", "0.0.0.0", "AF_INET"), ("*:80", "::", "AF_INET6"),
     ("[::]:80", "::1", "AF_INET6")],
)  # fmt: skip
def test_a_port_that_is_taken(net: Net, bind: str, address: str, family: str) -> None:
    patient = Patient(net, tcp(bind))
    with listening(net, address, 80, family=family) as child:
        name = Path(sys.executable).name
        (found,) = patient.says(binds)
        assert found.verdict is PROBLEM and f"is taken by {name} (process {child.pid}" in found.what
        if found.now == (f"kill {child.pid}",):
            patient.types(found)
            child.wait()
            assert patient.says(binds) == []


@as_root
def test_another_address_or_protocol_is_no_clash(net: Net) -> None:
    with listening(net, "127.0.0.2", 80), listening(net, "127.0.0.1", 80, "SOCK_DGRAM"):
        assert Patient(net, tcp("127.0.0.1:80")).says(binds) == []


@as_root
def test_udp(net: Net) -> None:
    text = tcp("127.0.0.1:53").replace("mode: tcp", "mode: udp")
    with listening(net, "0.0.0.0", 53, "SOCK_DGRAM"):
        (found,) = Patient(net, text).says(binds)
        assert "udp 127.0.0.1:53 is taken by" in found.what
    assert Patient(net, text).says(binds) == []


@as_root
def test_an_address_of_a_director_to_be(net: Net) -> None:
    """It is not here yet, which does not matter."""
    assert Patient(net, tcp("192.0.2.200:80")).says(binds) == []


@as_root
def test_the_daemon_s_own(net: Net, tmp_path: Path) -> None:
    with running(net, sys.executable, "-c", _DAEMON, "x") as child:
        assert "is taken by" in Patient(net, tcp("*:80")).says(binds)[0].what
        assert child.poll() is None
    pybalancer = tmp_path / "pybalancer"
    pybalancer.write_text(_DAEMON)
    with running(net, sys.executable, str(pybalancer), "-c", "/b.yaml") as child:
        (found,) = Patient(net, tcp("*:80")).says_all(binds)
        assert (found.verdict, found.what) == (
            OK, f"1 of 1 addresses to listen at are the daemon's own (process {child.pid}, /b.yaml)"
        )  # fmt: skip


_DAEMON = (
    "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('', 80))\n"
    "s.listen(); print(flush=True); input()"
)


def test_systemd_resolved_is_not_to_be_killed() -> None:
    from balancer.doctor.processes import Process

    now, _ = ports._end(Process(7, ("systemd-resolved",), "systemd-resolve", "systemd-resolved.service"), 53)
    assert "DNSStubListener=no" in now[0] and now[-1] == "systemctl restart systemd-resolved"
    assert ports._end(Process(7, ("nginx",), "nginx", "nginx.service"), 80) == (
        ("systemctl stop nginx.service",), ("systemctl disable nginx.service",),
    )  # fmt: skip


def test_a_name_to_bind_to_that_has_no_address() -> None:
    (found,) = [each for each in binds(here(tcp("no.such.name.invalid:80"))) if each.check == "name"]
    assert found.verdict is PROBLEM and found.why.startswith("frontends.web.bind")


def test_files_of_sockets(tmp_path: Path) -> None:
    path = tmp_path / "a" / "page.sock"
    case = here(STATS % path)
    (found,) = files(case)
    assert found.verdict is PROBLEM and found.what == f"there is no directory {tmp_path / 'a'}"
    subprocess.run(["sh", "-c", *found.now], check=True)
    assert list(files(case)) == []
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))
        own.listen()
        (found,) = files(case)
        assert found.verdict in (PROBLEM, OK)  # another copy may run on this machine
    (found,) = files(case)
    assert found.verdict is OK and "was left behind" in found.what
    path.unlink()
    path.write_text("mine")
    (found,) = files(case)
    assert found.what == f"{path} is there, and is no socket" and found.now[-1] == f"rm {path}"


def test_the_directory_of_the_runtime_socket_is_made_by_the_daemon(tmp_path: Path) -> None:
    text = STATS % "'127.0.0.1:7000'" + f"global: {{runtime_socket: {{path: {tmp_path}/a/b.sock}}}}\n"
    assert list(files(here(text))) == []
    assert len(list(files(here(text.replace("/a/", "/a/b/"))))) == 1


KEEPALIVED = "vrrp_instance A {\n interface eth0\n virtual_router_id %d\n virtual_ipaddress {\n %s/24\n }\n}\n"


@as_root
@pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed")
def test_a_keepalived_beside_us(host: Host, tmp_path: Path) -> None:
    file, said = tmp_path / "keepalived.conf", tmp_path / "said"
    patient = Patient(host, vrrp())
    assert patient.says_all(rivals) == []
    file.write_text(KEEPALIVED % (60, "192.0.2.100"))
    with host, said.open("w") as log:
        keepalived = subprocess.Popen(
            ["keepalived", "-n", "-l", "-D", "-f", str(file), *(f"-{key}{tmp_path}/{key}" for key in "prc")],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        # By then each of its processes has read the file.
        until(lambda: "Entering BACKUP STATE" in said.read_text(), f"it runs; {said.read_text()}")
        found = [each for each in patient.says_all(rivals) if "keepalived" in each.check]
        assert [each.verdict for each in found] == [OK]
        for other in (KEEPALIVED % (51, "192.0.2.100"), KEEPALIVED % (60, "192.0.2.200")):
            file.write_text(other)
            assert PROBLEM in [each.verdict for each in patient.says(rivals)]
        file.unlink()
        assert UNKNOWN in [each.verdict for each in patient.says(rivals)]
    finally:
        keepalived.terminate()
        keepalived.wait()


def test_services_of_ipvs(tmp_path: Path) -> None:
    table = (
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        "TCP  C00002C8:0050 rr  \n  -> 0A000064:0050      Masq    1      0          0         \n"
        "UDP  [2001:0db8:0000:0000:0000:0000:0000:00c8]:0035 rr\nFWM  00000001 rr\nTCP nonsense\n"
    )
    root = put(tmp_path, {"proc/thread-self/net/ip_vs": table})
    (found,) = ipvs(here(tcp("192.0.2.200:80"), root))
    assert found.verdict is PROBLEM and found.now == ("ipvsadm -D -t 192.0.2.200:80",)
    assert len(list(ipvs(here(tcp("*:80"), root)))) == 1
    assert list(ipvs(here(tcp("192.0.2.200:81"), root))) == []
    dns = tcp("[2001:db8::c8]:53", "[2001:db8::1]:53").replace("mode: tcp", "mode: udp, engine: kernel")
    (found,) = ipvs(here(dns, root))
    assert found.now == ("ipvsadm -D -u [2001:db8::c8]:53",)
