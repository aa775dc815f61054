"""`pybalancer demo`, as a new user meets it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.clients import get
from tests.e2e.bed.process import Process, descendants, free_port, is_alive, until
from tests.e2e.bed.pybalancer import COMMAND, run

# `top` wants a terminal.
_COMMANDS = r"(?:curl|dig|kill|\S*pybalancer (?:status|drain|ready)) [^\n]*?(?=  |\n|$)"


class Demo(Process):
    """A demonstration, with the lines that it tells its user to try."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__([COMMAND, "demo", *arguments], cwd=folder)
        self.wait_for_line("Each access is logged below")
        self.banner = "\n".join(self.out)
        self.commands = [line.strip() for line in re.findall(_COMMANDS, self.banner)]
        self.family = descendants(self.pid)

    def command(self, start: str) -> str:
        return next(command for command in self.commands if command.startswith(start))

    def port(self, start: str) -> int:
        return int(re.findall(r":(\d+)/|-p (\d+)", self.command(start))[0][0])

    def is_gone(self) -> bool:
        return not any(is_alive(pid) for pid in self.family)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running = Demo(tmp_path, "--ports", str(free_port()))
    try:
        yield running
    finally:
        running.end()
        until(running.is_gone, "all of the demonstration is gone")


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_every_line_of_the_banner_works(demo, tmp_path):
    assert len(demo.commands) == 10
    for command in demo.commands:
        said = shell(command, tmp_path)
        if command.startswith("curl") and "metrics" not in command:
            assert re.search(r"server: +web[123]\n", said), (command, said)
        elif command.startswith("dig"):
            assert re.fullmatch(r'"dns[123]"\n', said), said


def test_commands_are_taken(demo, tmp_path):
    look, drain, ready = (command for command in demo.commands if "pybalancer " in command)
    socket = Path(look.rpartition(" ")[2])
    assert socket.stat().st_mode & 0o777 == 0o600
    assert f"top --socket {socket}" in demo.banner
    assert "TCP" in shell(look, tmp_path) and "UDP" in shell(look, tmp_path)
    assert "web-http/web1: DRAIN (was UP)" in shell(drain, tmp_path)

    def served() -> set[str]:
        pages = [shell(demo.command("curl http"), tmp_path) for _ in range(3)]
        return {re.findall(r"server: +(\w+)", page)[0] for page in pages}

    until(lambda: served() == {"web2", "web3"}, "it gets nothing new")
    assert shell(ready, tmp_path).startswith("web-http/web1: ")
    # It has no file: what wants one says so.
    for words, why in (("reload", "there is no file to read again"), ("upgrade", "there is no file that another")):
        done = run(words, "--socket", socket)
        assert done.returncode == 1 and why in done.stderr, done
    demo.end()
    assert not socket.exists()


def test_servers_take_turns(demo, tmp_path):
    first, *others = (c for c in demo.commands if c.startswith("curl http"))
    for command in (first, *others):
        served = [re.findall(r"server: +(\w+)", shell(command, tmp_path))[0] for _ in range(6)]
        assert served[:3] == served[3:] and len(set(served)) == 3
    answers = [shell(demo.command("dig"), tmp_path) for _ in range(6)]
    assert len(set(answers)) == 3


def test_the_cookie_keeps_a_client_on_its_server(demo, tmp_path):
    pages = [shell(demo.command("curl -c"), tmp_path) for _ in range(4)]
    (server,) = {re.findall(r"server: +(\w+)", page)[0] for page in pages}
    assert f"SERVERID={server}" in pages[1]
    assert re.search(r"X-Forwarded-For: +127\.0\.0\.1\n", pages[0])


def test_each_access_is_logged(demo, tmp_path):
    shell(demo.command("curl http"), tmp_path)
    assert " web-http/web" in demo.wait_for_line('"GET / HTTP/1.1"')
    shell(demo.command("dig"), tmp_path)
    assert demo.wait_for_line("server.lab.local")


def test_a_stopped_server_leaves_and_comes_back(demo, tmp_path):
    shell(demo.command("kill -STOP"), tmp_path)
    demo.wait_for_line("Server web-http/web2 is DOWN")
    served = {re.findall(r"server: +(\w+)", shell(demo.command("curl http"), tmp_path))[0] for _ in range(6)}
    assert served == {"web1", "web3"}
    shell(demo.command("kill -CONT"), tmp_path)
    demo.wait_for_line("Server web-http/web2 is UP")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_and_leaves_nothing(demo, number):
    assert len(demo.family) == 9, "six servers, a supervisor, control and a worker"
    get(demo.port("curl http"))
    demo.signal(number)
    assert demo.wait(within=10) == 0
    assert demo.is_gone()
    assert "Traceback" not in demo.said()


def test_ctrl_c_reaches_the_whole_process_group(demo):
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(within=10) == 0
    assert demo.is_gone()


def test_killed_it_leaves_nothing_either(demo):
    demo.signal(signal.SIGKILL)
    demo.wait()
    until(demo.is_gone, "its children are gone")


def test_a_second_demonstration_takes_other_ports(demo, tmp_path):
    taken = demo.port("curl http")
    second = Demo(tmp_path, "--ports", str(taken))
    try:
        assert taken < second.port("curl http") < taken + 20
    finally:
        second.end()


def test_its_configuration_can_be_kept(tmp_path):
    shown = run("demo", "--show-config")
    assert shown.returncode == 0 and "${" not in shown.stdout
    (tmp_path / "balancer.yaml").write_text(shown.stdout)
    checked = run("check", "-c", tmp_path / "balancer.yaml")
    assert (checked.returncode, checked.stdout) == (0, "OK\n"), checked.stderr
