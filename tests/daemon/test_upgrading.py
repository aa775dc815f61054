"""The steps of an upgrade, as the supervisor takes them. tests/e2e/test_upgrade.py has the whole."""

from __future__ import annotations

import json
import selectors
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from balancer import __version__
from balancer.daemon import estate, upgrade
from balancer.daemon.upgrade import Inheritance
from balancer.daemon.upgrading import Upgrading
from balancer.observe.log import Level
from tests.e2e.bed.process import until


class Boss:
    """What a supervisor has that is to become another version."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.speaking: Any = SimpleNamespace(speaker=None, turn=lambda: None)
        self.is_stopping = False
        self.said: list[tuple[Level, str]] = []

    def upgrading(self, found: Inheritance | None = None) -> Upgrading:
        return Upgrading(
            SimpleNamespace(all=[], children=[]),  # type: ignore[arg-type]
            self.speaking,
            self.selector,
            left=lambda: {"some": "thing"},
            is_stopping=lambda: self.is_stopping,
            say=lambda level, text: self.said.append((level, text)),
            found=found,
        )


@pytest.fixture
def boss():
    made = Boss()
    yield made
    made.selector.close()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The new version: what it says."""
    path = tmp_path / "it"
    monkeypatch.setattr(upgrade, "successor", lambda: [str(path)])

    def says(**verdict: str) -> None:
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(verdict)}\nEND\n")
        path.chmod(0o755)

    return says


def tried(boss: Boss, upgrading: Upgrading) -> list[tuple[Level, str]]:
    upgrading.begin()
    assert upgrading.is_under_way

    def is_over() -> bool:
        upgrading.turn()
        return not upgrading.is_under_way

    until(is_over, "the trial is over")
    return boss.said[1:]


def test_a_dry_run_says_what_would_be_and_does_nothing(boss, command, monkeypatch):
    monkeypatch.setattr(upgrade, "become", lambda *_: pytest.fail("it is executed"))
    command(version="9.9", why="")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=True)
    ((level, text),) = tried(boss, upgrading)
    assert level == Level.NOTICE
    assert text.startswith(f"an upgrade is possible: from {__version__} to 9.9, tried in ")
    assert not boss.selector.get_map()


def test_a_wish_is_not_made_a_dry_run_by_another(boss):
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    upgrading.want(is_dry=True)
    assert upgrading.is_wanted and not upgrading._is_dry
    upgrading.stop()
    assert not upgrading.is_wanted
    upgrading.want(is_dry=True)
    upgrading.want(is_dry=False)
    assert not upgrading._is_dry


def test_each_line_of_a_reason_is_one(boss, command):
    command(version="9.9", why="balancer.yaml:1:1: one\nbalancer.yaml:2:1: two")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    assert tried(boss, upgrading) == [
        (Level.ERR, "balancer.yaml:2:1: two"),
        (Level.ALERT, f"not upgraded: balancer.yaml:1:1: one; {__version__} goes on"),
    ]


def test_what_cannot_be_executed_in_the_end_changes_nothing(boss, command, monkeypatch):
    """It was there for the trial."""
    given = []

    def refuse(words, octets, back):
        given.append((words, estate.head(octets), back))
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(upgrade, "become", refuse)
    command(version="9.9", why="")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    ((level, text),) = tried(boss, upgrading)
    assert (level, text.partition(" cannot be executed: ")[2]) == (
        Level.ALERT,
        f"No such file or directory; {__version__} goes on",
    )
    ((_, head, back),) = given
    assert (back, head["version"], head["children"], head["listening"]) == ("", __version__, [], [])


def test_who_is_told_to_end_at_the_last_moment_ends(boss, command, monkeypatch):
    """What was heard before it is executed nobody would know of afterwards."""
    monkeypatch.setattr(upgrade, "become", lambda *_: pytest.fail("it is executed"))
    boss.is_stopping = True
    command(version="9.9", why="")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    assert tried(boss, upgrading) == []


def test_what_comes_from_then_on_waits_for_the_new_version(boss, command, monkeypatch):
    at_first = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    seen = []

    def refuse(*_):
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(upgrade, "become", refuse)
    command(version="9.9", why="")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    tried(boss, upgrading)
    assert {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD} <= seen[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == at_first


def test_programs_that_are_told_of_virtual_routers_end_first(boss, command, monkeypatch):
    done = []
    monkeypatch.setattr(Upgrading, "_hand_over", lambda *_: done.append(1))
    boss.speaking = SimpleNamespace(speaker=SimpleNamespace(is_notifying=True))
    command(version="9.9", why="")
    upgrading = boss.upgrading()
    upgrading.want(is_dry=False)
    upgrading.begin()
    until(lambda: upgrading.turn() or upgrading._hand_over_until, "the trial is over")
    assert not done and upgrading.due < time.monotonic() + 1
    boss.speaking.speaker.is_notifying = False
    upgrading.turn()
    assert done and not upgrading.is_under_way


def found(**head: Any) -> Inheritance:
    told = {"format": 1, "shape": "", "files": [], "version": "0.0.1", "since": 0.0, "command": ["x"], **head}
    return Inheritance(json.dumps(told).encode() + b"\n", "")


def test_in_the_new_version_it_is_told_once(boss):
    upgrading = boss.upgrading(found(back=["/gone"]))
    upgrading.done()
    upgrading.done()
    assert not upgrading.refused("a later reload"), "it is none of an upgrade"
    ((level, text),) = boss.said
    assert level == Level.NOTICE and text.startswith(f"upgraded from 0.0.1 to {__version__} in ")


def test_virtual_routers_speak_while_the_one_before_is_tried(boss, tmp_path):
    """It is an interpreter that starts from a disk."""
    path = tmp_path / "old"
    path.write_text("#!/bin/sh\nsleep 0.2\nexit 1\n")
    path.chmod(0o755)
    turns = []
    boss.speaking = SimpleNamespace(turn=lambda: turns.append(1))
    upgrading = boss.upgrading(found(back=[str(path)]))
    upgrading.refused("worker 0 died")
    upgrading.give_way()
    assert len(turns) > 3


def test_where_the_one_before_is_not_there_any_more_its_workers_go_on(boss):
    upgrading = boss.upgrading(found(back=["/gone"]))
    assert upgrading.refused("worker 0 died")
    assert upgrading.failure and not boss.said, "what is under way is finished first"
    upgrading.give_way()
    assert boss.said == [
        (Level.ALERT, "not upgraded: worker 0 died; 0.0.1 is not there any more, its workers go on"),
    ]
