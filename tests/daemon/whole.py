"""The whole daemon, as the tests of the supervisor's parts have it: what its processes hold, and a host with a card."""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from balancer.daemon.generation import Child
from balancer.daemon.limits import Book
from tests.e2e.bed.process import Process, is_bound, members, until
from tests.e2e.bed.pybalancer import COMMAND, run
from tests.lab.space import why_not

alone = pytest.mark.skipif(why_not() != "", reason=why_not())

CONFIG = """
global: {workers: 2, hard_stop_after: 20s}
frontends:
  f: {mode: tcp, bind: ["127.0.0.1:${port}", "${path}"], default_backend: b}
  u: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: b}
backends:
  b: {check: {type: tcp, interval: 200ms}, servers: {s: {address: "127.0.0.1:${server}"}}}
"""
SPEAKING = """
global: {workers: 2, hard_stop_after: 5s, log: {target: stdout}, runtime_socket: {path: FOLDER/run/admin.sock}}
frontends:
  f: {mode: tcp, bind: "127.0.0.1:8000", default_backend: b}
backends:
  b: {servers: {s: {address: "127.0.0.1:9"}}}
stats: {bind: FOLDER/stats.sock, metrics: /metrics}
vrrp:
  instances:
    VI:
      interface: eth0
      virtual_router_id: 51
      version: 3
      advert_int: 100ms
      priority: 100
      virtual_ipaddress: 192.0.2.200
      notify: FOLDER/notify
"""
WIRE = """\
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip link set eth0 up
ip address add 192.0.2.1/24 dev eth0
exec "$@"
"""


def descriptors(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return sorted(found)


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def zombies(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state == "Z" and int(ppid) == parent:
            found.append(int(stat.parent.name))
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_up(running) -> bool:
    return running.metric("haproxy_server_status", proxy="b", server="s", state="UP") == 1


def ends_well(running, within: float = 15) -> None:
    assert running.process.wait(within=within) == 0
    until(lambda: not members(running.process.pid), "no process is left")
    assert not is_bound(running.ports["port"]) and not is_bound(running.ports["udp"], udp=True)


class Director:
    """The daemon on a host of its own, with one network card."""

    def __init__(self, folder: Path, text: str, command: Sequence[object] = (COMMAND,)) -> None:
        self.folder = folder
        self.file = folder / "balancer.yaml"
        self.file.write_text(text.replace("FOLDER", str(folder)))
        notify = folder / "notify"
        # Late on purpose: nobody may wait for it.
        notify.write_text(f'#!/bin/sh\n[ "$3" = STOP ] && sleep 1\necho "$@" >>{folder}/notified\n')
        notify.chmod(0o755)
        self.process = Process(["unshare", "--net", "sh", "-ec", WIRE, "sh", *command, "-c", self.file], cwd=folder)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, "-c", self.file)

    def says(self, text: str, *words: str) -> bool:
        return text in self.ask(*words).stdout

    def metrics(self) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.folder / "stats.sock"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer.decode()

    def metric(self, name: str, **labels: str) -> float:
        wanted = [
            line for line in self.metrics().splitlines()
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]  # fmt: skip
        return float(wanted[0].rpartition(" ")[2])

    @property
    def held(self) -> list[str]:
        """Its virtual addresses."""
        words = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "ip", "-json", "address", "show", "dev", "eth0"]
        (card,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        return [each["local"] for each in card["addr_info"] if each["local"].startswith("192.0.2.2")]

    @property
    def notified(self) -> list[str]:
        try:
            return (self.folder / "notified").read_text().splitlines()
        except FileNotFoundError:
            return []


def reload(it, change=lambda text: text) -> str:
    """What was said of it."""
    it.file.write_text(change(it.file.read_text()))
    seen = len(it.process.out)
    it.process.signal(signal.SIGHUP)
    return it.process.wait_for_line("reloaded: ", after=seen)


def socket_in(pid: int, *kind: int) -> socket.socket:
    """A socket in the network namespace of a process."""
    with Path("/proc/self/ns/net").open() as own, Path(f"/proc/{pid}/ns/net").open() as its:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(its.fileno(), 0x40000000) == 0
        try:
            return socket.socket(kind[0], kind[1], socket.htons(kind[2]))
        finally:
            assert libc.setns(own.fileno(), 0x40000000) == 0


def is_control(pid: int) -> bool:
    """It listens where commands come."""
    listening = unix_sockets(pid, kind="0001")
    return bool(listening & set(descriptors(pid)))


def unix_sockets(pid: int, *, kind: str) -> set[str]:
    """Those of a type that are bound to a path, or the ends of a pair (proc(5): SOCK_STREAM is 0001)."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return {
        f"socket:[{row[6]}]" for row in rows
        if row[4] == kind and (row[7:] and row[7].endswith("admin.sock") if kind == "0001" else not row[7:])
    }  # fmt: skip


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 0.0


def runs(*children: Child) -> SimpleNamespace:
    """A generation of these."""
    return SimpleNamespace(memory=SimpleNamespace(beat=[0], book=Book(4)), children=list(children))
