"""At a real terminal, in tmux."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balancer.observe.command import Level
from balancer.pool.orders import Admin
from tests.e2e.bed.process import until
from tests.e2e.bed.pybalancer import COMMAND, run
from tests.observe.conftest import House
from tests.terminal.conftest import Daemon, Terminal


@pytest.fixture
def screen(daemon: Daemon, terminal: Callable[..., Terminal]) -> Callable[..., Terminal]:
    """screen(…): one in front of the daemon."""

    def start(path: str = daemon.path, *, env: str = "", **more: Any) -> Terminal:
        command = f"{env} {COMMAND} top --every 0.1 --socket {shlex.quote(path)}; echo left by $?; exec sleep 60"
        return terminal(command, **more)

    return start


def test_a_server_is_drained_and_brought_back_by_keys(screen, daemon: Daemon) -> None:
    it = screen()
    said = it.shows("director (Nodo Master)", "? help")
    assert re.search(r"^>   up +UP ", said, re.MULTILINE) and re.search(r"^    down +DOWN ", said, re.MULTILINE)
    it.keys("d")
    it.shows("drain app/up: done", "DRAIN")
    it.keys("r")
    it.shows("ready app/up: done")
    assert [change.admin for change in daemon.changes] == [Admin.DRAIN, Admin.READY]
    it.keys("K")
    it.shows("It ends 5 sessions. (y/n)")
    it.keys("y")
    it.shows("end the sessions of app/up: done")
    assert daemon.changes[-1].shuts
    it.keys("w", "7", "Enter")
    it.shows("weight 7 app/up: done")
    it.keys("q")
    it.shows("left by 0")


def test_it_is_as_large_as_the_terminal(screen) -> None:
    it = screen()
    assert "QUEUE" not in it.shows("? help", "STATE")
    it.resize(140, 30)
    said = it.shows("QUEUE", "Connection refused")
    assert len(said.splitlines()) == 30
    it.resize(40, 10)
    until(lambda: "WGHT" not in it.seen() and "STATE" in it.seen(), "less is shown")
    it.keys("End")
    it.shows("names", "11/11")


def test_a_daemon_that_is_away_is_asked_again(screen, daemon: Daemon) -> None:
    it = screen()
    it.shows("director (Nodo Master)")
    daemon.close()
    it.shows("as it was ", " ago: pybalancer does not run here", "DOWN")
    it.keys("d")
    it.shows("drain app/up: pybalancer does not run here")
    daemon.open()
    it.shows("director (Nodo Master)")
    it.keys("d")
    it.shows("drain app/up: done")


def test_who_may_only_look_is_told_so(screen, house: House, tmp_path: Path) -> None:
    other = Daemon(house, tmp_path / "user.sock", Level.USER)
    try:
        it = screen(other.path)
        it.shows("director")
        it.keys("d")
        it.shows("drain app/up: Permission denied")
    finally:
        other.close()


@pytest.mark.parametrize(("signal", "status"), [("C-c", 0), ("TERM", 143)])
def test_it_leaves_the_terminal_as_it_was(screen, signal: str, status: int) -> None:
    it = screen()
    it.shows("director")
    if signal == "C-c":
        it.keys("C-c")
    else:
        os.kill(it.pid, 15)
    said = it.shows(f"left by {status}")
    assert "director" not in said


def test_colours_are_for_who_wants_them(screen) -> None:
    coloured, plain = screen(), screen(env="NO_COLOR=1")
    for each in (coloured, plain):
        each.shows("DOWN")
    assert re.search(r"\x1b\[[0-9;]*31m", coloured.seen("-e"))
    assert not re.search(r"\x1b\[[0-9;]*3[1-6]m", plain.seen("-e"))


def test_a_terminal_of_no_known_kind_is_told(screen) -> None:
    it = screen(env="TERM=nonsense")
    it.shows("this terminal (TERM=nonsense) is not known", "left by 1")


def test_without_a_terminal_it_says_what_there_is_instead(daemon: Daemon) -> None:
    done = run("top", "--socket", daemon.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "top wants a terminal; without one there is: pybalancer status --watch\n"


def test_without_a_daemon_nothing_is_drawn(screen, daemon: Daemon) -> None:
    daemon.close()
    it = screen()
    it.shows("pybalancer does not run here", "left by 1")


def test_it_rests_while_nobody_presses_a_key(screen) -> None:
    """What it takes of a processor, the daemon asked ten times a second."""
    it = screen()
    it.shows("director")

    def spent() -> float:
        fields = Path(f"/proc/{it.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    began, before = time.monotonic(), spent()
    until(lambda: time.monotonic() - began > 1.0, "a second")
    assert (spent() - before) / (time.monotonic() - began) < 0.5
