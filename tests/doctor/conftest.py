"""Configurations, hosts as namespaces or as a directory of files, and commands that are typed as they are told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from balancer.config import read
from balancer.config.model import Config
from balancer.doctor.case import Case, Wish
from balancer.doctor.finding import Finding, Verdict
from balancer.doctor.settings import Settings
from tests.vrrp.conftest import Host, Net, Stage, Switch

_LOOKING = Wish()
OK, UNKNOWN, WARNING, PROBLEM = Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.PROBLEM

VRRP = """\
vrrp:
  instances:
    vi: {interface: eth0, virtual_router_id: 51, version: %s, advert_int: %s, virtual_ipaddress: %s, priority: 100%s}
"""


def vrrp(version: int = 3, interval: str = "100ms", vips: str = "[192.0.2.200/24]", more: str = "") -> str:
    return VRRP % (version, interval, vips, f", {more}" if more else "")


def load(text: str) -> Config:
    return read.loads(text, file="b.yaml", node="this", environ={})


def tcp(bind: str = "127.0.0.1:8000", server: str = "127.0.0.1:8001", more: str = "") -> str:
    return (
        f"frontends:\n  web: {{mode: tcp, bind: '{bind}', default_backend: web{more}}}\n"
        f"backends:\n  web: {{servers: {{one: {{address: '{server}'}}}}}}\n"
    )


class Patient:
    """A host, with a configuration."""

    def __init__(self, net: Net, text: str, root: Path = Path("/")) -> None:
        self.net, self.text, self.root = net, text, root

    def case(self, wish: Wish = _LOOKING) -> Case:
        with self.net:
            return Case(load(self.text), wish, settings=Settings(self.root))

    def says(self, check: Callable[[Case], Iterable[Finding]], wish: Wish = _LOOKING) -> list[Finding]:
        """What a check finds, but for what is in order."""
        return [each for each in self.says_all(check, wish) if each.verdict is not OK]

    def says_all(self, check: Callable[[Case], Iterable[Finding]], wish: Wish = _LOOKING) -> list[Finding]:
        case = self.case(wish)
        with self.net:
            return list(check(case))

    def types(self, finding: Finding) -> None:
        """What it says is to be typed."""
        assert finding.now
        for command in finding.now:
            assert not command.startswith("#"), command
            with self.net:
                done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
            assert not done.returncode, f"{command}: {done.stderr}"

    def is_cured(self, check: Callable[[Case], Iterable[Finding]], name: str = "") -> str:
        """There is one trouble (of that name), which is gone once its remedy was typed; what was found."""
        (finding,) = [each for each in self.says(check) if name in ("", each.check)]
        assert finding.verdict in (WARNING, PROBLEM) and finding.why
        self.types(finding)
        assert [each for each in self.says(check) if name in ("", each.check)] == []
        return finding.what


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def switch(stage: Stage) -> Switch:
    return stage.switch()


@pytest.fixture
def host(stage: Stage, switch: Switch) -> Host:
    """192.0.2.1 on eth0."""
    (host,) = stage.hosts(switch, 1)
    return host


@pytest.fixture
def net() -> Iterator[Net]:
    """With nothing but loopback."""
    net = Net()
    net.ip("link set dev lo up")
    yield net
    net.close()


def here(text: str, root: Path = Path("/"), wish: Wish = _LOOKING) -> Case:
    """A case of this machine, with files from elsewhere."""
    return Case(load(text), wish, settings=Settings(root))


def put(root: Path, files: dict[str, str]) -> Path:
    """Files of a host."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
