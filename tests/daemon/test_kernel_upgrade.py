"""Another version of the daemon takes over, or fails to, while clients are served by the rules in the kernel."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import directors
from tests.daemon.directors import CONFIG, Director
from tests.e2e.bed.process import until
from tests.e2e.test_upgrade import Versions
from tests.kernel.conftest import VIP, VIP_2, Bed, asking, tcp, who

_bed, bed, director = directors._bed, directors.bed, directors.director

KERNEL_DIES = """
def _broken(self):
    raise RuntimeError("broken on purpose")
Engine.run = _broken
"""
TABLE = "inet pybalancer"
BLOCK = 32768
TOTALS = ("haproxy_frontend_sessions_total", "haproxy_frontend_bytes_in_total", "haproxy_frontend_bytes_out_total")


class Monitor:
    """What the kernel tells of changes to rules: every one of them, in their order."""

    def __init__(self, bed: Bed) -> None:
        self._bed, self._marks = bed, 0
        self._process = subprocess.Popen(
            ["nsenter", f"--net={bed.director.path}", "stdbuf", "-oL", "nft", "monitor"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._from = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # It hears by now if it has heard of any.
        until(self._is_heard, "it listens")
        self.taken()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.strip())

    def _mark(self, word: str) -> None:
        self._marks += 1
        self._bed.nft.run(f"add table inet {word}{self._marks}")

    def _is_heard(self) -> bool:
        if any(line.startswith("add table inet begin") for line in self._lines):
            return True
        self._mark("begin")
        return False

    def taken(self) -> list[str]:
        """Of our table, what was taken away since this was asked last, but for rules that are replaced."""
        self._mark("now")
        mark = f"add table inet now{self._marks}"
        until(lambda: mark in self._lines, "it has told all")
        told = self._lines[self._from : (end := self._lines.index(mark))]
        self._from = end
        return [line for line in told if re.match(rf"delete (table|chain) {TABLE}( |$)", line)]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Busy(threading.Thread):
    """A transfer by one connection, and questions by datagrams from one port: what is sent comes back, whole."""

    def __init__(self, bed: Bed, at_the_end: contextlib.ExitStack) -> None:
        super().__init__(daemon=True)
        self._sock, self.server, _ = tcp(bed.client, VIP)
        at_the_end.callback(self._sock.close)
        self._asker = at_the_end.enter_context(asking(bed.client, VIP_2, 8080))
        self._answers = {self._asker.ask()}
        self._is_over = threading.Event()
        self.rounds = 0
        self._failed = ""
        self.start()

    def run(self) -> None:
        # Whatever else the machine has to do.
        for sock in (self._sock, self._asker.sock):
            sock.settimeout(20)
        try:
            while not self._is_over.is_set():
                block = self.rounds.to_bytes(8) * (BLOCK // 8)
                self._sock.sendall(block)
                got = b""
                while len(got) < BLOCK:
                    part = self._sock.recv(BLOCK)
                    assert part, "closed"
                    got += part
                assert got == block, "not what was sent"
                self._answers.add(self._asker.ask())
                assert len(self._answers) == 1, "a flow of datagrams keeps its server"
                self.rounds += 1
                # A server has others, too.
                self._is_over.wait(0.002)
        except (OSError, AssertionError) as error:
            self._failed = repr(error)

    def goes_on(self) -> None:
        """For some rounds from now on."""
        until_then = self.rounds + 5
        until(lambda: self._failed or self.rounds >= until_then, "they go on")
        assert not self._failed

    def end(self) -> None:
        self._is_over.set()
        self.join(20)
        assert not self._failed


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    # Each start would compile everything.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return Versions(tmp_path / "versions")


@pytest.fixture
def monitor(bed: Bed) -> Iterator[Monitor]:
    it = Monitor(bed)
    yield it
    it.close()


def listing(bed: Bed) -> str:
    """The rules, without what they have counted."""
    return re.sub(r"packets \d+ bytes \d+", "", bed.nft.run(f"list table {TABLE}"))


def upgrade(it: Director, told: str, totals: dict[str, float]) -> None:
    """Have it try what is installed until that is told; what has been counted grows meanwhile."""
    seen = len(it.process.out)
    it.process.signal(signal.SIGUSR2)

    def is_told() -> bool:
        for name, before in totals.items():
            totals[name] = it.metric(name)
            assert totals[name] >= before, f"{name} went back"
        return any(told in line for line in it.process.out[seen:])

    it.process.wait_until(is_told, told)


def test_rules_traffic_and_counts_go_on(director, bed: Bed, monitor: Monitor, versions: Versions) -> None:
    """Versions that fail each at another step, and one that does not."""
    text = CONFIG.replace("  user: nobody\n", "").replace("fall: 1", "fall: 2")
    text = text.replace('"VIP_2:53"', '"VIP_2:8080"')
    with contextlib.ExitStack() as at_the_end:
        it = director(text=text, command=versions.command)
        monitor.taken()
        busy = Busy(bed, at_the_end)
        at_the_end.callback(busy.end)
        pid, kernel, rules = it.process.pid, it.kernel, listing(bed)
        totals = dict.fromkeys(TOTALS, 0.0)
        until(lambda: it.metric(TOTALS[0]) > 0, "all are counted")

        for version, more, why in (
            ("2.1", {"daemon__kerneld": "\nimport no_such_module\n"}, "No module named 'no_such_module'"),
            ("2.2", {"daemon__kerneld": KERNEL_DIES}, "kernel"),
        ):
            versions.install(version, **more)
            upgrade(it, "not upgraded: ", totals)
            (said,) = [line for line in it.process.out if "not upgraded: " in line][-1:]
            assert why in said and said.endswith("goes on"), said
            busy.goes_on()
            it.process.wait_until(lambda: listing(bed) == rules, f"the rules are as before {version}")
            assert monitor.taken() == []
            if version != "2.2":
                assert it.kernel == kernel

        versions.install("3.0")
        upgrade(it, "upgraded from 1.0 to 3.0", totals)
        assert it.process.pid == pid and it.kernel != kernel
        busy.goes_on()
        it.process.wait_until(lambda: listing(bed) == rules, "the rules are as before")
        assert monitor.taken() == []
        counted = it.metric(TOTALS[0], proxy="web")
        assert {who(bed.client, VIP) for _ in range(6)} == {"web1", "web2", "web3"}
        until(lambda: it.metric(TOTALS[0], proxy="web") == counted + 6, "it counts on")

        # Its checks decide.
        dead = "web3" if busy.server != "web3" else "web2"
        bed.inner.cut(bed.hosts[dead])
        it.process.wait_for_line(f"Server web/{dead} is DOWN")
        until(lambda: listing(bed) != rules, "the rules follow")
        assert dead not in {who(bed.client, VIP) for _ in range(4)}
        busy.goes_on()
    it.process.signal(signal.SIGTERM)
    assert it.process.wait() == 0
    # What was looked for is told when it happens.
    assert f"delete table {TABLE}" in monitor.taken()
