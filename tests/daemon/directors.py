"""The real daemon as a director between a client and three servers, in network namespaces."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.bed.process import Process
from tests.e2e.bed.pybalancer import COMMAND, run
from tests.kernel import conftest
from tests.kernel.conftest import VIP, VIP_2, Bed
from tests.lab.space import why_not

CONFIG = """
global:
  user: nobody
  workers: 1
  hard_stop_after: 5s
  log: {target: stdout}
  runtime_socket: {path: FOLDER/admin.sock}
frontends:
  web: {mode: tcp, engine: kernel, bind: "VIP:80", default_backend: web}
  dns: {mode: udp, engine: kernel, bind: "VIP_2:53", default_backend: dns}
  proxied: {mode: tcp, bind: "VIP:8000", default_backend: others}
backends:
  web:
    check: {type: tcp, interval: 100ms, timeout: 500ms, rise: 1, fall: 1}
    servers:
      web1: {address: "10.0.100.2:80", on_marked_down: shutdown-sessions}
      web2: {address: "10.0.100.3:80"}
      web3: {address: "10.0.100.4:80"}
  dns:
    servers:
      dns1: {address: "10.0.100.2:53"}
      dns2: {address: "10.0.100.3:53"}
  others: {servers: {web3: {address: "10.0.100.4:8080"}}}
stats: {bind: FOLDER/stats.sock, metrics: /metrics}
"""
# What is written to /run is in this directory of the daemon's folder.
ALONE = 'mount --bind "$RUN" /run; exec "$@"'
IP_FORWARD = "net/ipv4/ip_forward"
CAPABILITIES = 1 << 12 | 1 << 13


class Director:
    """The daemon in the director's namespace."""

    def __init__(self, bed: Bed, folder: Path, text: str, run: Path | None = None, command: Path = COMMAND) -> None:
        self.bed = bed
        self.command = command
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.run = folder / "run" if run is None else run
        self.run.mkdir(exist_ok=True)
        self.file = folder / "balancer.yaml"
        for word, value in (("FOLDER", str(folder)), ("VIP_2", VIP_2), ("VIP", VIP)):
            text = text.replace(word, value)
        self.file.write_text(text)
        self.process = self.begin()

    def begin(self) -> Process:
        return Process(
            [
                *("nsenter", f"--net={self.bed.director.path}", "unshare", "--mount"),
                *("env", f"RUN={self.run}", "sh", "-ec", ALONE, "sh"),
                *(self.command, "-c", self.file),
            ],
            cwd=self.folder,
        )

    def ask(self, *words: str) -> str:
        done = run(*words, "-c", self.file)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def metric(self, name: str, **labels: str) -> float:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.folder / "stats.sock"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return sum(
            float(line.rpartition(" ")[2]) for line in answer.decode().splitlines()
            if line.startswith((name + "{", name + " "))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )  # fmt: skip

    def wait_until_up(self, *servers: str) -> None:
        self.process.wait_for_line("the kernel's rules are in place")
        self.process.wait_until(
            lambda: all(
                self.metric("haproxy_server_status", proxy="web", server=server, state="UP") for server in servers
            ),
            f"{servers} are up",
        )

    @property
    def kernel(self) -> int:
        """The process that holds rights of the network."""
        found = []
        for pid in self.process.children:
            # One that only reads a file has gone meanwhile.
            with contextlib.suppress(OSError):
                if re.search(
                    rf"^CapPrm:\s*{CAPABILITIES:016x}$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
                ):
                    found.append(pid)
        (pid,) = found
        return pid

    def setting(self, name: str) -> str:
        with self.bed.director:
            return Path("/proc/sys", name).read_text().strip()

    @property
    def tables(self) -> str:
        return self.bed.nft.run("list tables")


class Server(conftest.Server):
    """One that does not mind the checks, which go as soon as they have come."""

    def _turn(self, sock):
        with contextlib.suppress(OSError):
            super()._turn(sock)


@pytest.fixture(scope="module")
def _bed():
    if why_not():
        pytest.skip(why_not())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "Server", Server)
        bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def bed(_bed):
    _bed.reset()
    with _bed.director:
        Path("/proc/sys", IP_FORWARD).write_text("0")
    yield _bed
    for host in _bed.hosts.values():
        _bed.inner.mend(host)
    _bed.reset()


@pytest.fixture
def director(bed, tmp_path):
    """director(change…): the daemon with CONFIG, serving, unless `wait` is false. At the end it stops as it should."""
    made = []

    def start(*changes, wait=True, text=CONFIG, run=None, command=COMMAND):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        tmp_path.chmod(0o755)
        it = Director(bed, tmp_path / f"director{len(made)}", text, run, command)
        made.append(it)
        if wait:
            it.wait_until_up("web1", "web2", "web3")
        return it

    yield start
    # What is being closed needs the rules to the end.
    with contextlib.suppress(AssertionError):
        conftest.until(bed.is_quiet, within=1)
    for it in made:
        if it.process.status is None:
            it.process.signal(signal.SIGTERM)
            assert it.process.wait() == 0, it.process.said()
        it.process.end()
        assert "Traceback" not in it.process.said()


def reload(it: Director, *changes: tuple[str, str]) -> str:
    """Change the file, have it loaded; what was said of it."""
    text = it.file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    it.file.write_text(text)
    seen = len(it.process.out)
    it.process.signal(signal.SIGHUP)
    return it.process.wait_for_line("reloaded: ", after=seen)
