from __future__ import annotations

import io
import json
import re
import time

import pytest

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.pool.journal import Event, Journal
from balancer.terminal import events
from balancer.terminal.events import Wish
from tests.observe.conftest import NOW
from tests.terminal.conftest import Daemon


class Enough(Exception):
    pass


@pytest.fixture
def journal(daemon: Daemon):
    daemon.close()
    daemon.journal = Journal()
    daemon.open()
    for i, (level, text) in enumerate([(5, "starts"), (1, "Server web/web1 is DOWN"), (4, "full")]):
        daemon.journal.write(Event(NOW - 100 + i, level, "control", text))
    yield daemon.journal
    daemon.journal.close()


def shown(daemon: Daemon, wish: Wish, *steps, monkeypatch=None) -> tuple[str, str]:
    """What is said; who follows looks again after each of the steps."""
    out, err = io.StringIO(), io.StringIO()
    left = iter(steps)

    def sleep(seconds: float) -> None:
        step = next(left, None)
        if step is None:
            raise Enough
        step()

    if monkeypatch is None:
        assert events.show(daemon.path, wish, out=out, err=err) == 0
    else:
        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(Enough):
            events.show(daemon.path, wish, out=out, err=err)
    return out.getvalue(), err.getvalue()


def texts(said: str) -> list[str]:
    return [re.split(r"  +", line, maxsplit=3)[3] for line in said.splitlines()]


def test_what_happened(daemon: Daemon, journal: Journal) -> None:
    said, err = shown(daemon, Wish())
    assert texts(said) == ["starts", "Server web/web1 is DOWN", "full"] and err == ""
    assert "  ALERT    control     Server web/web1 is DOWN\n" in said
    assert texts(shown(daemon, Wish(last=1))[0]) == ["full"]
    assert texts(shown(daemon, Wish(since="99s"))[0]) == ["Server web/web1 is DOWN", "full"]
    assert texts(shown(daemon, Wish(level="err"))[0]) == ["Server web/web1 is DOWN"]


def test_as_json(daemon: Daemon, journal: Journal) -> None:
    said, _ = shown(daemon, Wish(last=2, is_json=True))
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["Server web/web1 is DOWN", "full"]


def test_who_follows_is_told_each_once_and_waits_for_a_daemon_that_is_away(
    daemon: Daemon, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(text: str, level: int = 5):
        return lambda: journal.write(Event(NOW, level, "supervisor", text))

    def another() -> None:
        daemon.journal = Journal()
        daemon.journal.write(Event(NOW, 5, "supervisor", "starts anew"))
        daemon.open()

    wish = Wish(last=1, follows=True)
    said, err = shown(daemon, wish, more("one"), lambda: None, more("two"), daemon.close, lambda: None, daemon.open,
                      more("three"), daemon.close, another, monkeypatch=monkeypatch)  # fmt: skip
    daemon.journal, mine = journal, daemon.journal
    mine.close()
    assert texts(said) == ["full", "one", "two", "three", "starts anew"]
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("pybalancer does not run here (") and lines[0].endswith("; waiting for it")
    assert lines[1] == lines[0] and lines[2].startswith("between these are others")


def test_who_follows_what_is_bad_hears_nothing_else(
    daemon: Daemon, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish(level="alert", follows=True)
    said, _ = shown(daemon, wish, lambda: journal.write(Event(NOW, 5, "control", "fine")), monkeypatch=monkeypatch)
    assert texts(said) == ["Server web/web1 is DOWN"]


def test_what_is_not_understood_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BalancerError, match="usage: show events"):
        shown(daemon, Wish(since="soon"))
    monkeypatch.setattr(client, "ask", lambda *_: client.Answer("no json\n", False))
    with pytest.raises(BalancerError, match="cannot be understood"):
        shown(daemon, Wish())
