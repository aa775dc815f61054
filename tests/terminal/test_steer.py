from __future__ import annotations

import io
import threading

import pytest

from balancer.errors import BalancerError
from balancer.observe.command import Level
from balancer.pool.orders import Admin
from balancer.terminal import steer
from balancer.terminal.steer import DONE, FAILED, LATE
from tests.observe.conftest import House
from tests.terminal.conftest import Daemon


class Seat:
    """Gives orders, and keeps what was said."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.out, self.err = io.StringIO(), io.StringIO()

    def say(self, words: str, *names: str, **more: float | bool | None) -> int:
        return steer.steer(self.daemon.path, words.split(), names, out=self.out, err=self.err, **more)  # type: ignore[arg-type]

    @property
    def said(self) -> tuple[list[str], list[str]]:
        return self.out.getvalue().splitlines(), self.err.getvalue().splitlines()


@pytest.fixture
def seat(daemon: Daemon) -> Seat:
    return Seat(daemon)


def test_each_says_what_became_of_it(seat: Seat) -> None:
    assert seat.say("state drain", "app/up", "names/ns") == DONE
    assert seat.said == (["app/up: DRAIN (was UP), 5 sessions left", "names/ns: DRAIN already, no sessions left"], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("state drain", ["app/up: DRAIN (was UP), 5 sessions left",
                         "app/down: DOWN, to drain once it is up, no sessions left",
                         "app/spare: DRAIN (was UP), no sessions left"]),
        ("state ready", ["app/up: UP already", "app/down: DOWN already, no sessions left", "app/spare: UP already"]),
        ("weight 50%", ["app/up: weight 1 (was 3)",
                        "app/down: weight 0 (was 1): 50% of its weight is less than 1, so it gets nothing new",
                        "app/spare: weight 0 (was 1): 50% of its weight is less than 1, so it gets nothing new"]),
        ("weight 0%", ["app/up: weight 0 (was 3)", "app/down: weight 0 (was 1)", "app/spare: weight 0 (was 1)"]),
        ("weight 1", ["app/up: weight 1 (was 3)", "app/down: weight 1 already", "app/spare: weight 1 already"]),
    ],
)  # fmt: skip
def test_all_of_a_backend_at_once(seat: Seat, words: str, said: list[str]) -> None:
    assert seat.say(words, "app/*") == DONE
    assert seat.said == (said, [])
    assert [change.server for change in seat.daemon.changes] == ["up", "down", "spare"]


def test_one_named_twice_is_changed_once(seat: Seat) -> None:
    assert seat.say("state maint", "app/u?", "*/up", "app/up") == DONE
    assert [(change.server, change.admin) for change in seat.daemon.changes] == [("up", Admin.MAINT)]


def test_who_is_not_there_is_told_and_the_others_are_changed(seat: Seat) -> None:
    assert seat.say("state drain", "app/nobody", "app", "nobody/x", "x*/*", "app/up", "", "/", "a/b/c") == FAILED
    out, err = seat.said
    assert out == ["app/up: DRAIN (was UP), 5 sessions left"]
    assert err[:4] == [
        "app/nobody: No such server.",
        "app: write BACKEND/SERVER, or app/* for all of a backend.",
        "nobody/x: No such backend.",
        "x*/*: no server has such a name.",
    ]
    assert len(err) == 7


def test_what_is_refused_is_told_in_the_daemons_words(seat: Seat) -> None:
    assert seat.say("weight 257", "app/up", "raw/one") == FAILED
    refusal = "Absolute weight can only be between 0 and 256 inclusive."
    assert seat.said == ([], [f"app/up: {refusal}", f"raw/one: {refusal}"])


def test_it_waits_until_they_are_empty(seat: Seat, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_SETTLES", 0.0)
    monkeypatch.setattr(steer, "_EVERY", 0.05)
    waited = threading.Thread(target=lambda: seat.say("state drain", "app/up", "app/spare", waits=True, timeout=20))
    waited.start()
    while "empty" not in seat.out.getvalue():
        assert waited.is_alive()
    assert seat.said[0][-1] == "app/spare: empty after 0s"
    # A control process that dies is another one soon.
    seat.daemon.close()
    house.count("server", "app", "up", scur=0)
    seat.daemon.open()
    waited.join(20)
    assert seat.said[0][-1].startswith("app/up: empty after ") and seat.said[1] == []


def test_when_the_time_is_over_it_says_what_is_left(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_SETTLES", 0.0)
    assert seat.say("state drain", "app/up", "app/spare", waits=True, timeout=0.2) == LATE
    out, err = seat.said
    assert out[-1] == "app/spare: empty after 0s" and err == ["app/up: 5 sessions left after 0s"]
    assert seat.say("state maint", "app/up", "app/nobody", waits=True, timeout=0.1) == FAILED, "the worse of both"


def test_nobody_waits_for_a_server_that_is_back(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_SETTLES", 0.0)
    monkeypatch.setattr(seat.daemon, "_steer", lambda change, by: None)
    seat.daemon.close()
    seat.daemon.open()
    assert seat.say("state drain", "app/up", waits=True, timeout=20) == FAILED
    assert seat.said[1] == ["app/up: is UP again"]


def test_who_may_only_look_is_told_so(house: House, tmp_path) -> None:
    daemon = Daemon(house, tmp_path / "user.sock", Level.OPERATOR)
    try:
        seat = Seat(daemon)
        assert seat.say("state drain", "app/up") == FAILED
        assert seat.said == ([], ["app/up: Permission denied"])
    finally:
        daemon.close()


def test_without_a_daemon_it_says_so(seat: Seat) -> None:
    seat.daemon.close()
    with pytest.raises(BalancerError, match="does not run here"):
        seat.say("state drain", "app/up")
