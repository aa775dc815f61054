from __future__ import annotations

import io
import json
import time

import pytest

from balancer.errors import BalancerError
from balancer.pool.orders import Condition, ServerState
from balancer.terminal import status
from balancer.terminal.picture import Pattern
from balancer.terminal.status import DEGRADED, DOWN, OK, Form, Wish
from tests.observe.conftest import House
from tests.terminal.conftest import Daemon

GOOD = ServerState(Condition.UP, health=4)


def shown(daemon: Daemon, form: str, *names: str, **more: object) -> tuple[int, str]:
    out = io.StringIO()
    wish = Wish(Form(form), tuple(map(Pattern.of, names)), **more)  # type: ignore[arg-type]
    return status.show(daemon.path, wish, out=out, err=out), out.getvalue()


def test_the_exit_status_is_for_scripts(daemon: Daemon, house: House) -> None:
    assert shown(daemon, "quiet") == (DOWN, "")
    assert shown(daemon, "quiet", "app") == (DEGRADED, "")
    assert shown(daemon, "quiet", "app/up", "raw") == (OK, "")
    house.set("names", "ns", GOOD)
    house.set("app", "down", GOOD)
    assert shown(daemon, "quiet") == (OK, "")
    for form in ("haproxy", "json"):
        found, said = shown(daemon, form)
        assert found == OK and "director" in said


def test_the_layout_of_ipvsadm_is_the_daemons(daemon: Daemon) -> None:
    found, said = shown(daemon, "ipvsadm", words=("show", "kernel", "status", "numeric"))
    assert found == OK and said.startswith("IP Virtual Server version ") and "-> 10.0.0.1:80 " in said
    with pytest.raises(BalancerError, match="has no argument"):
        shown(daemon, "ipvsadm", words=("show", "kernel", "x"))


def test_json_is_one_line(daemon: Daemon) -> None:
    found, said = shown(daemon, "json", "app/up", "web")
    assert found == OK and said.count("\n") == 1
    document = json.loads(said)
    assert [each["name"] for each in document["frontends"]] == ["web"]
    assert [[each["name"] for each in backend["servers"]] for backend in document["backends"]] == [["up"]]


def test_a_name_that_nobody_has_is_told(daemon: Daemon) -> None:
    with pytest.raises(BalancerError, match=r"no frontend, backend or server is nobody/\* or x"):
        shown(daemon, "haproxy", "nobody/*", "x")


class Enough(Exception):
    pass


def watched(daemon: Daemon, wish: Wish, monkeypatch, *, rounds, is_terminal: bool) -> tuple[str, str]:
    """What is written while somebody watches; before each further look one of `rounds` is done."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: is_terminal, raising=False)
    left = iter(rounds)

    def sleep(seconds: float) -> None:
        assert 0 < seconds <= 1.5
        step = next(left, None)
        if step is None:
            raise Enough
        step()

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Enough):
        status.show(daemon.path, wish, out=out, err=err)
    return out.getvalue(), err.getvalue()


def test_who_watches_as_json_has_a_line_for_each_look(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(Form.JSON, every=1.5)
    out, err = watched(daemon, wish, monkeypatch, rounds=(daemon.close, daemon.open), is_terminal=True)
    assert [json.loads(line)["node"] for line in out.splitlines()] == ["director", "director"]
    assert err.startswith("pybalancer does not run here (") and err.count("\n") == 1


def test_a_screen_is_drawn_over(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "10")
    wish = Wish(Form.HAPROXY, every=1.0)
    out, err = watched(daemon, wish, monkeypatch, rounds=(daemon.close, daemon.open), is_terminal=True)
    first, *frames = out.split("\x1b[H")
    assert first == "\x1b[2J" and err == ""
    assert [frame.endswith("\x1b[J") for frame in frames] == [True] * 3
    assert all(frame.count("\n") <= 9 for frame in frames), "it never rolls"
    assert "director" in frames[0] and "does not run here" in frames[1] and "director" in frames[2]


def test_elsewhere_one_follows_the_other(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(Form.IPVSADM, words=("show", "kernel", "status"), every=1.0)
    out, err = watched(daemon, wish, monkeypatch, rounds=(lambda: None, daemon.close), is_terminal=False)
    assert out.count("IP Virtual Server version ") == 2 and "\x1b" not in out
    assert err.startswith("pybalancer does not run here (")
