"""The command under test, as its users run it."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.bed.process import PATIENCE, Process, free_port, holders, is_bound, members

__all__ = ["COMMAND", "Balancer", "run"]

COMMAND = Path(sys.executable).with_name("pybalancer")
_PASSWORD = "a password of the tests"


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, env=env
    )


class Balancer:
    """`pybalancer -c FILE`, with a stats page added where the configuration has none.

    `${name}` in the text is a port: one of those given, or a free one, found in `ports` afterwards.
    """

    def __init__(self, text: str, folder: Path, given: dict[str, Any]) -> None:
        self.ports: dict[str, int] = {}

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name not in given:
                given[name] = self.ports[name] = free_port()
            return str(given[name])

        config = yaml.safe_load(re.sub(r"\$\{(\w+)\}", fill, text))
        self._stats = config.setdefault("stats", {"bind": f"127.0.0.1:{free_port()}", "users": {"tests": _PASSWORD}})
        self.config = config
        self.expected_status = 0
        folder.mkdir()
        self.file = folder / "balancer.yaml"
        self.file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.process = Process([COMMAND, "-c", self.file], cwd=folder)

    def wait_until_serving(self) -> None:
        """Every bind is open. Asks the kernel: no connection is made that would move a balancing algorithm on."""
        wanted = list(_binds(self.config))
        self.process.wait_until(
            lambda: all(Path(at).is_socket() if isinstance(at, str) else is_bound(at, udp=udp) for at, udp in wanted),
            f"listens on {wanted}",
        )

    # What an operator sees.

    def stats(self, path: str = "/metrics") -> str:
        """A page of the stats address."""
        request = urllib.request.Request(f"http://127.0.0.1:{_port(self._stats['bind'])}{path}")
        for user, password in self._stats.get("users", {}).items():
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.stats())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_until_up(self, *servers: str) -> None:
        """The checks have found each `backend/server` up."""

        def are_up() -> bool:
            return all(
                self.metric("haproxy_server_status", proxy=backend, server=server, state="UP") == 1
                for backend, server in (name.split("/") for name in servers)
            )

        self.process.wait_until(are_up, f"{servers} are up")

    @property
    def log(self) -> list[str]:
        """Log lines so far."""
        return list(self.process.out)

    def wait_for_line(self, text: str, *, after: int = 0) -> str:
        return self.process.wait_for_line(text, after=after)

    # Its processes.

    @property
    def control(self) -> list[int]:
        """Who serves the stats page."""
        return sorted(holders(_port(self._stats["bind"])) & self.process.children.keys())

    @property
    def workers(self) -> list[int]:
        """Who takes connections of the first TCP port."""
        port = next(at for at, udp in _binds(self.config) if isinstance(at, int) and not udp)
        return sorted(holders(port) & self.process.children.keys())

    def pss(self) -> dict[str, int]:
        """Memory of each of its processes in KiB, what they share counted once (proc(5), Pss)."""
        return {
            f"{pid} {command}": int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0])
            for pid, command in members(self.process.pid).items()
            if (rollup := Path(f"/proc/{pid}/smaps_rollup").read_text())
        }

    def end(self) -> None:
        """SIGTERM: exit 0 (or as the test expects), not a word about an exception, and no process left."""
        if self.process.status is None:
            self.process.signal(signal.SIGTERM)
        status = self.process.wait()
        left = members(self.process.pid)
        said = self.process.said()
        self.process.end()
        assert status == self.expected_status, f"exit status {status}\n{said}"
        assert not any("Traceback" in line for line in (*self.process.err, *self.process.out)), said
        assert not left, f"left behind: {left}"


def _binds(config: dict[str, Any]) -> Iterator[tuple[int | str, bool]]:
    """(port or path of a Unix socket, whether it is UDP) of each bind."""
    for section in (*config.get("frontends", {}).values(), config["stats"]):
        binds = section["bind"] if isinstance(section["bind"], list) else [section["bind"]]
        for bind in binds:
            address = bind["address"] if isinstance(bind, dict) else bind
            udp = section.get("mode") == "udp"
            yield (address, udp) if address.startswith("/") else (_port(address), udp)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
