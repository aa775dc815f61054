"""`pybalancer upgrade`, seen from clients and from whoever types it: another version in the same process, and nobody
loses anything; and versions that do not work."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

import balancer as package
from tests.e2e.bed import pybalancer as bed
from tests.e2e.bed.clients import Load, get
from tests.e2e.bed.process import PATIENCE, is_alive, until
from tests.e2e.bed.pybalancer import Balancer
from tests.e2e.test_reload import Datagrams, Echo, old_ones_have_ended, talking

SOURCE = Path(package.__file__).parent
CONFIG = """
global:
  workers: 2
  hard_stop_after: 60s
  log: {target: stdout, level: notice}
  runtime_socket: {path: "${socket}", level: admin}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: web, limits: {connections: 99}}
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: echo}
  udp: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: datagrams}
  ws: {mode: http, bind: "127.0.0.1:${ws}", default_backend: ws}
backends:
  web:
    check: {type: http, path: /health, interval: 500ms}
    servers: {web1: {address: "127.0.0.1:${web1}"}, web2: {address: "127.0.0.1:${web2}"}}
  echo: {servers: {e: {address: "127.0.0.1:${echo}"}}}
  ws: {servers: {s: {address: "127.0.0.1:${wss}"}}}
  datagrams: {servers: {d1: {address: "127.0.0.1:${d1}"}, d2: {address: "127.0.0.1:${d2}"}}}
"""
# In a version that passes its trial.
CANNOT_RESUME = """
def _broken(self, *_):
    raise RuntimeError("broken on purpose")
Supervisor._resume = _broken
"""
WORKERS_DIE = """
def _broken(self):
    raise RuntimeError("broken on purpose")
Worker.run = _broken
"""


class Versions:
    """Source trees, and a link to the one that is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.command = folder / "current" / "pybalancer"
        self.install("1.0")

    def install(self, version: str, **more: str) -> Path:
        """From now on it is that one; `more` text behind modules, by name, with __ for a dot."""
        tree = self._folder / version
        changed = {name.replace("__", "/") + ".py": text for name, text in more.items()}
        _link(SOURCE, tree / "balancer", {"__init__.py", *changed})
        text = (SOURCE / "__init__.py").read_text().replace(f'"{package.__version__}"', f'"{version}"')
        (tree / "balancer" / "__init__.py").write_text(text)
        for name, addition in changed.items():
            (tree / "balancer" / name).write_text((SOURCE / name).read_text() + addition)
        command = tree / "pybalancer"
        command.write_text(
            f"#!{sys.executable}\nimport pathlib, sys\n"
            "sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))\n"
            "from balancer.cli import main\nraise SystemExit(main())\n"
        )
        command.chmod(0o755)
        self.command.parent.unlink(missing_ok=True)
        self.command.parent.symlink_to(tree)
        return tree


def _link(source: Path, target: Path, but: set[str]) -> None:
    target.mkdir(parents=True)
    for each in source.iterdir():
        inner = {name.partition("/")[2] for name in but if name.startswith(f"{each.name}/")}
        if inner:
            _link(each, target / each.name, inner)
        elif each.name not in but and each.name != "__pycache__":
            (target / each.name).symlink_to(each)


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    made = Versions(tmp_path / "versions")
    monkeypatch.setattr(bed, "COMMAND", made.command)
    # Each start would compile everything.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return made


@pytest.fixture
def running(versions, balancer, web, tmp_path: Path) -> Iterator[Balancer]:
    def answer(connection) -> None:
        for message in connection:
            connection.send(f"you said {message}")

    echo, first, second = Echo(), Datagrams("d1"), Datagrams("d2")
    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        it = balancer(
            CONFIG, web1=web[0].port, web2=web[1].port, echo=echo.port, d1=first.port, d2=second.port,
            wss=server.socket.getsockname()[1], socket=tmp_path / "admin.sock",
        )  # fmt: skip
        it.socket = tmp_path / "admin.sock"
        it.wait_until_up("web/web1", "web/web2")
        yield it
        server.shutdown()
    for each in (echo, first, second):
        each.close()


def upgrade(running: Balancer, *more: str) -> subprocess.CompletedProcess[str]:
    words = [bed.COMMAND, "upgrade", "--socket", running.socket, *more]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_nothing_is_lost(running: Balancer, versions: Versions) -> None:
    """Two upgrades in a row, to other source trees, under load of all kinds."""
    pid = running.process.pid
    asked = answered = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal asked, answered
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", running.ports["udp"]))
            while not stop.wait(0.01):
                client.send(b"x")
                asked += 1
                flows.add(client.recv(100))
                answered += 1

    flows: set[bytes] = set()
    thread = threading.Thread(target=ask, daemon=True)
    words = [bed.COMMAND, "maint", "--socket", running.socket, "web/web2", "--why", "a new disk"]
    subprocess.run(words, check=True, capture_output=True, timeout=20)
    with (
        talking(running.ports["tcp"]) as say,
        connect(f"ws://127.0.0.1:{running.ports['ws']}/", proxy=None) as client,
        Load(running.ports["http"], clients=1) as load,
        Load(running.ports["http"], clients=1, keep_alive=False) as others,
    ):
        thread.start()
        load.wait_for(50)
        for before, after in (("1.0", "2.0"), ("2.0", "3.0")):
            versions.install(after)
            served = running.metric("haproxy_frontend_http_requests_total", proxy="http")
            done = upgrade(running)
            assert done.returncode == 0, done.stderr + running.process.said()
            assert done.stdout.startswith(f"upgraded from {before} to {after} in ")
            assert running.process.pid == pid and running.process.status is None
            assert say(b"still") == b"still", "who was connected goes on"
            client.send(after)
            assert client.recv() == f"you said {after}"
            load.wait_for(50)
            others.wait_for(20)
            assert running.metric("haproxy_frontend_http_requests_total", proxy="http") > served
        stop.set()
        thread.join(PATIENCE * 2)
    assert (load.failed, load.cut, others.failed, others.cut) == ([], [], [], [])
    assert asked == answered > 100
    assert len(flows) == 1, "a flow keeps its server, and its port there"
    assert set(load.done) == {"web1"}, "what operators have changed holds"
    assert "a new disk" in subprocess.run(
        [bed.COMMAND, "overrides", "--socket", running.socket], capture_output=True, text=True, timeout=20
    ).stdout  # fmt: skip
    old_ones_have_ended(running)
    assert all("pybalancer-estate" not in str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir())
    # Whatever kills it now, nothing is left of it.
    children = list(running.process.children)
    running.process.signal(signal.SIGKILL)
    until(lambda: not any(map(is_alive, children)), "they end with it")
    running.expected_status = -signal.SIGKILL
    running.process.wait()


def test_what_is_asked_for_during_the_trial_is_done(running: Balancer, versions: Versions) -> None:
    versions.install("2.0")
    running.process.signal(signal.SIGUSR2)
    running.wait_for_line("upgrade: trying what")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(running.socket))
        peer.sendall(b"add server web/web3 127.0.0.1:9\n")
        assert peer.recv(1000).startswith(b"New server registered.")
    running.wait_for_line("upgraded from 1.0 to 2.0")


def _goes_on(running: Balancer, versions: Versions, said: str, children: object, *, status: int = 1) -> None:
    with Load(running.ports["http"], clients=1) as load:
        done = upgrade(running)
        load.wait_for(20)
    assert done.returncode == status, done.stdout
    assert said in done.stderr, done.stderr + running.process.said()
    assert done.stderr.rstrip().endswith("1.0 goes on"), done.stderr
    assert (load.failed, load.cut) == ([], [])
    if children is not None:
        assert running.process.children.keys() == children


def test_a_version_that_does_not_work_changes_nothing(running: Balancer, versions: Versions) -> None:
    children = running.process.children.keys()
    good = running.file.read_text()
    done = upgrade(running, "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith("an upgrade is possible: from 1.0 to 1.0, tried in ")
    versions.install("2.1", daemon__worker="\nimport no_such_module\n")
    _goes_on(running, versions, "No module named 'no_such_module'", children)
    versions.install("2.2", daemon__estate="\nFORMAT += 1\n")
    _goes_on(running, versions, "only a restart brings it: it is handed over in format 1", children, status=3)
    versions.install("2.3")
    running.file.write_text(good.replace("mode: http", "mode: htpt", 1))
    _goes_on(running, versions, "frontends.http.mode", children)
    running.file.write_text(good)
    current = versions.command.parent
    tree = current.readlink()
    current.unlink()
    running.process.signal(signal.SIGUSR2)
    running.wait_for_line(f"not upgraded: {versions.command}")
    current.symlink_to(tree)
    assert running.process.children.keys() == children


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"daemon__supervisor": CANNOT_RESUME}, "RuntimeError: broken on purpose"),
        ({"daemon__worker": WORKERS_DIE}, "worker"),
    ],
    ids=["supervisor", "workers"],
)
def test_a_version_that_fails_when_it_is_there_gives_way_to_the_one_before(
    running: Balancer, versions: Versions, more: dict[str, str], said: str
) -> None:
    children = running.process.children.keys()
    versions.install("2.0", **more)
    with talking(running.ports["tcp"]) as say:
        _goes_on(running, versions, said, None)
        assert say(b"still") == b"still"
    running.wait_for_line("not upgraded: ")
    told = [line for line in running.log if "ended with status" in line or "goes on" in line]
    assert len(told) == 1, "what it failed by is told once"
    until(lambda: running.process.children.keys() == children, "its own workers are there, and no others")
    if "daemon__supervisor" in more:
        versions.install("3.0")
        assert upgrade(running).stdout.startswith("upgraded from 1.0 to 3.0"), "it knows still by which path it began"


def test_where_neither_can_go_on_the_sockets_are_kept(running: Balancer, versions: Versions) -> None:
    """The version before is not there any more, and the new one cannot read what is left to it."""
    old = versions.command.parent.resolve()
    versions.install("2.0", daemon__supervisor=CANNOT_RESUME)
    (old / "pybalancer").unlink()
    before = running.process.children.keys()
    running.process.signal(signal.SIGUSR2)
    running.wait_for_line("pybalancer starts, 2 workers", after=1 + _begun(running))
    until(lambda: get(running.ports["http"])["server"].startswith("web"), "it serves")
    assert not before & running.process.children.keys()


def _begun(running: Balancer) -> int:
    return next(i for i, line in enumerate(running.log) if "pybalancer starts" in line)
