"""Who asks for an upgrade, of a daemon that is not there, or is not what it seems."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer import cli
from balancer.errors import BalancerError
from balancer.observe.client import Answer
from balancer.observe.upgrades import DRY_RUN, NEEDS_RESTART, UPGRADE
from balancer.terminal import upgrade as asking


class Daemon:
    """Answers as a child of this process would, who listens at a socket that both have."""

    def __init__(self, *events: dict[str, str]) -> None:
        self._events = [json.dumps({"at": 1.0, "source": "supervisor", **each}) + "\n" for each in events]
        self.heard: list[int] = []

    def __call__(self, path: str, *words: str) -> Answer:
        lines = "".join(self._events) if "after" in words and self.heard else ""
        return Answer(f'{lines}{{"cursor": "a.1", "whole": true}}\n', False)


@contextlib.contextmanager
def child(listening: socket.socket | None, path: str) -> Iterator[int]:
    """Who is the last to listen at the socket, or at one of its own."""
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(UPGRADE, signal.SIG_DFL)
        if listening is None:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
        listening.listen()
        os.write(done, b"x")
        signal.pause()
    try:
        os.read(ready, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(done)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "admin.sock")


@pytest.fixture
def listening(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        yield sock


@pytest.fixture
def ask(monkeypatch, path):
    def run(daemon: Daemon, *, is_dry: bool = False) -> tuple[int, str, str]:
        monkeypatch.setattr("balancer.observe.client.ask", daemon)
        out, err = io.StringIO(), io.StringIO()
        before = signal.signal(UPGRADE, lambda number, _: daemon.heard.append(number))
        try:
            return asking.upgrade(path, is_dry=is_dry, out=out, err=err), out.getvalue(), err.getvalue()
        finally:
            signal.signal(UPGRADE, before)

    return run


@pytest.mark.parametrize("has_control", [True, False])
def test_it_is_told_and_says_what_came_of_it(ask, listening, path, has_control):
    daemon = Daemon(
        {"level": "notice", "message": "upgrade: trying what it is now"},
        {"level": "notice", "message": "upgraded from 1 to 2", "source": "worker 0"},
        {"level": "notice", "message": "upgraded from 1 to 2 in 3.0 s"},
    )
    with child(listening, path) if has_control else contextlib.nullcontext():
        assert ask(daemon) == (0, "upgraded from 1 to 2 in 3.0 s\n", "")
    assert daemon.heard == [UPGRADE]


def test_control_that_ends_as_it_is_asked_costs_a_moment(ask, listening):
    class Ends(Daemon):
        has_ended = False

        def __call__(self, path: str, *words: str) -> Answer:
            if not self.has_ended:
                self.has_ended = True
                raise BalancerError("it has ended")
            return super().__call__(path, *words)

    daemon = Ends({"level": "notice", "message": "upgraded from 1.0 to 2.0 in 0.5 s"})
    assert ask(daemon) == (0, "upgraded from 1.0 to 2.0 in 0.5 s\n", "")
    assert daemon.has_ended and daemon.heard == [UPGRADE]


def test_why_nothing_came_of_it(ask, listening):
    daemon = Daemon({"level": "err", "message": "a.yaml:1: no"}, {"level": "alert", "message": "not upgraded: no\x1b"})
    status, out, err = ask(daemon)
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == "a.yaml:1: no"
    assert "\x1b" not in err


def test_one_that_shares_nothing_with_the_new_version_is_to_be_restarted(ask, listening):
    daemon = Daemon({"level": "alert", "message": f"not upgraded: {NEEDS_RESTART}: it counts otherwise; 1 goes on"})
    assert ask(daemon)[0] == asking.RESTART == 3


def test_who_listens_is_gone(ask, listening, path, monkeypatch):
    """Control has died, and the next one does not come."""
    monkeypatch.setattr(asking, "_BRIEF", 0.2)
    with child(listening, path):
        pass
    status, _, err = ask(Daemon())
    assert status == asking.RESTART and "who listens is no process here" in err


def test_a_daemon_that_does_not_answer(capsys, tmp_path):
    assert cli.main(["upgrade", "--socket", str(tmp_path / "none.sock")]) == asking.RESTART
    assert "pybalancer does not run here" in capsys.readouterr().err


def test_somebody_elses_is_no_reason_to_restart_it(ask, listening, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    with pytest.raises(BalancerError, match="somebody else's"):
        ask(Daemon())


def test_one_that_ends_meanwhile(ask, listening, monkeypatch):
    def gone(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    status, _, err = ask(Daemon())
    assert (status, err) == (asking.RESTART, f"the daemon (process {os.getpid()}) has ended; the log says why\n")


def test_a_process_that_would_die_of_the_signal_does_not_get_it(ask, listening, path):
    with child(listening, path) as pid:
        status, _, err = ask(Daemon(), is_dry=True)
        assert status == asking.RESTART and f"process {os.getpid()}) cannot be upgraded: restart it" in err
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_a_parent_that_has_nothing_to_do_with_the_socket_does_not_get_it(ask, path):
    """Whoever wants another process to have the signal has to be its child, and that is not all."""
    daemon = Daemon()
    with child(None, path):
        status, _, err = ask(daemon)
    assert status == asking.RESTART and "which listens to it, is no child of a pybalancer" in err
    assert not daemon.heard


class Service:
    """systemd's, of this process: what it is asked in turn, the last for ever."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.heard: list[int] = []
        command = folder / "systemctl"
        # One answer each time, while there is more than one.
        command.write_text(
            f"""#!/bin/sh
            cd {folder}
            set -- answer.*
            cat "$1"
            [ $# = 1 ] || rm "$1"
            """
        )
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def answers(self, *answers: tuple[str, str], pid: int | None = None) -> None:
        """ActiveState and StatusText of each."""
        for number, (state, text) in enumerate(answers):
            told = f"MainPID={os.getpid() if pid is None else pid}\nActiveState={state}\nStatusText={text}\n"
            (self._folder / f"answer.{number}").write_text(told)


@pytest.fixture
def service(tmp_path, monkeypatch) -> Iterator[Service]:
    made = Service(tmp_path, monkeypatch)
    before = {number: signal.signal(number, lambda heard, _: made.heard.append(heard)) for number in (UPGRADE, DRY_RUN)}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def ask_service(*, is_dry: bool = False) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return asking.upgrade_service("no socket", is_dry=is_dry, out=out, err=err), out.getvalue(), err.getvalue()


def test_where_there_is_no_runtime_socket_systemd_is_asked(service):
    """What came of the last upgrade, or of a reload, is not taken for what comes of this one."""
    service.answers(
        ("active", "upgraded from 1 to 2 in 3.0 s"),
        ("active", "upgraded from 1 to 2 in 3.0 s"),
        ("reloading", "upgrade: trying what /usr/bin/pybalancer is now"),
        ("active", "upgrade: trying what /usr/bin/pybalancer is now"),
        ("reloading", "upgraded from 2 to 3 in 1.0 s"),
        ("active", "upgraded from 2 to 3 in 1.0 s"),
    )
    assert ask_service() == (0, "upgraded from 2 to 3 in 1.0 s\n", "")
    assert service.heard == [UPGRADE]


@pytest.mark.parametrize(("why", "status"), [("a.yaml:1: no", 1), (f"{NEEDS_RESTART}: it counts otherwise", 3)])
def test_what_systemd_is_told_of_a_failure(service, why, status):
    service.answers(("active", ""), ("active", f"not upgraded: {why}; 1 goes on"))
    assert ask_service(is_dry=True) == (status, "", f"not upgraded: {why}; 1 goes on\n")
    assert service.heard == [DRY_RUN]


def test_where_nothing_runs_it_says_why_nobody_was_asked(service, monkeypatch):
    service.answers(("inactive", ""), pid=0)
    assert ask_service() == (asking.RESTART, "", "no socket\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask_service() == (asking.RESTART, "", "no socket\n")
    assert service.heard == []


def test_a_service_that_is_another_process_meanwhile_has_ended(service):
    service.answers(("active", ""))
    # The next one is another's.
    told = (service._folder / "answer.0").read_text().replace(str(os.getpid()), "1")
    (service._folder / "answer.1").write_text(told)
    status, _, err = ask_service()
    assert status == asking.RESTART and "has ended" in err


def test_only_who_names_no_other_file_means_the_service(service, tmp_path, capsys):
    service.answers(("active", "upgraded"))
    file = tmp_path / "other.yaml"
    file.write_text("frontends: {}\n")
    assert cli.main(["upgrade", "-c", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert service.heard == []
