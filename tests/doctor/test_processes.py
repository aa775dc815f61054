from __future__ import annotations

import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

from balancer.doctor.processes import Process, Processes
from tests.vrrp.conftest import Net, as_root


def process(*command: str) -> Process:
    return Process(7, command, "name", "")


def test_what_is_a_daemon_of_ours() -> None:
    for words in (
        ("/usr/bin/pybalancer",),
        ("/opt/x/bin/python3", "/usr/bin/pybalancer", "-c", "/etc/b.yaml"),
        ("python3", "-m", "balancer", "-c", "b.yaml"),
        ("python3", "-X", "dev", "/usr/bin/pybalancer")[::3],
    ):
        assert process(*words).is_ours, words
    for words in (
        ("/usr/bin/pybalancer", "doctor"),
        ("python3", "/usr/bin/pybalancer", "status", "-c", "b.yaml"),
        ("vi", "pybalancer.yaml"),
        ("grep", "pybalancer-x"),
        (),
    ):
        assert not process(*words).is_ours, words


def test_the_file_that_one_was_given() -> None:
    assert process("pybalancer", "-c", "b.yaml").file == process("pybalancer", "--config=b.yaml").file == "b.yaml"
    assert process("pybalancer").file == ""


def test_who_has_a_socket() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        processes = Processes()
        (found,) = [each for each in processes.sockets() if each.is_listening and each.port == own.getsockname()[1]]
        assert (found.protocol, found.address) == ("tcp", ip_address("127.0.0.1"))
        assert [each.pid for each in processes.having(found.inode)] == [os.getpid()]
        assert processes.having(0) == []


def test_sockets_of_ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
        own.bind(("::1", 0))
        (found,) = [
            each for each in Processes().sockets() if each.protocol == "udp" and each.port == own.getsockname()[1]
        ]
        assert found.address == ip_address("::1") and found.is_listening


def test_abstract_names() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("\0pybalancer test name")
        assert "pybalancer test name" in Processes().abstract_names()
    assert "pybalancer test name" not in Processes().abstract_names()


def test_by_the_name_of_the_program() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = Processes().named(Path(sys.executable).name)
        assert child.pid in [each.pid for each in found]
        assert str(Processes().all[child.pid]).startswith(f"{Path(sys.executable).name} (process {child.pid}")


@as_root
def test_processes_of_other_networks_are_none_of_ours(net: Net) -> None:
    with net:
        child = subprocess.Popen(["sleep", "60"])
        try:
            assert [each.pid for each in Processes().named("sleep")] == [child.pid]
        finally:
            child.kill()
            child.wait()
    assert child.pid not in Processes().all


def test_a_daemon_by_its_file(tmp_path: Path) -> None:
    """The place that it was started in counts."""
    processes = Processes()
    link = tmp_path / "7" / "cwd"
    link.parent.mkdir()
    link.symlink_to("/srv")
    processes._proc = tmp_path
    processes.all = {
        7: Process(7, ("pybalancer", "-c", "b.yaml"), "pybalancer", ""),
        8: Process(8, ("pybalancer", "-c", "/srv/b.yaml"), "pybalancer", ""),
        9: Process(9, ("pybalancer",), "pybalancer", ""),
    }
    for file, pid in (("/srv/b.yaml", 7), ("/etc/pybalancer/balancer.yaml", 9)):
        found = processes.serving(file)
        assert found is not None and found.pid == pid
    assert processes.serving("/srv/c.yaml") is None
