from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import model
from balancer.observe import columns, info
from balancer.terminal import picture
from balancer.terminal.picture import Picture
from balancer.terminal.top import Order, Top
from tests.observe.conftest import NOW, House, config, two_routers


def seen(house: House) -> Picture:
    snapshot = house.look()
    return picture.read(info.plain(snapshot, 100), "".join(columns.csv(columns.selected(snapshot))), None, now=NOW)


class Desk:
    """Somebody at the screen."""

    def __init__(self, shown: Picture, width: int = 100, height: int = 24) -> None:
        self.top = Top()
        self.size = width, height
        self.top.show(shown)

    def press(self, *keys: str) -> Order | None:
        orders = [self.top.press(key) for key in keys]
        assert not any(orders[:-1])
        return orders[-1]

    def type(self, text: str) -> Order | None:
        return self.press(*text, "enter")

    @property
    def lines(self) -> list[str]:
        return ["".join(piece.text for piece in line).rstrip() for line in self.top.draw(*self.size, 0.0)]

    @property
    def table(self) -> list[str]:
        """The first two columns of each row."""
        first = next(i for i, line in enumerate(self.lines) if line.startswith("  NAME"))
        rows = [line for line in self.lines[first + 1 : -2] if line]
        return [" ".join(line[2:].split()[:3]) for line in rows]

    @property
    def selected(self) -> str:
        (line,) = (line for line in self.lines if line.startswith(">"))
        return line[2:].split()[0]

    @property
    def message(self) -> str:
        return self.lines[-2]


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(seen(house))


def drain(*names: str) -> Order:
    told = names[0] if len(names) == 1 else f"{len(names)} servers"
    return Order(("set", "server", "{}", "state", "drain"), names, f"drain {told}")


def test_everybody_stands_there_and_the_first_server_is_selected(desk: Desk) -> None:
    assert desk.lines[0] == (
        "director (Nodo Master): pybalancer 0.1.0, up 1h, 7 of 100 connections, 900 new/s, 5050 requests/s"
    )
    assert desk.lines[1] == "5 servers: 3 UP  1 DOWN  1 DRAIN  3 errors"
    assert [row.split()[:2] for row in desk.table] == [
        ["frontend", "web"], ["frontend", "tls"], ["frontend", "dns"], ["backend", "app"], ["up", "UP"],
        ["down", "DOWN"], ["spare", "(backup)"], ["backend", "raw"], ["one", "UP"], ["backend", "names"],
        ["ns", "DRAIN"],
    ]  # fmt: skip
    assert desk.selected == "up"


def test_a_state_has_a_colour_beside_its_word(desk: Desk) -> None:
    found = {piece.text.strip(): piece.style for line in desk.top.draw(100, 24, 0.0) for piece in line}
    assert found["DOWN"] == "bad" and found["DRAIN"] == "aside" and found["UP 1/3"] == "warning"
    assert found["UP 2 of 3"] == "good"


def test_virtual_routers_and_directors_have_a_line(house: House) -> None:
    desk = Desk(replace(seen(house), routers=two_routers()))
    assert desk.lines[1] == "VI_E MASTER  VI_I FAULT (released)  peer standby alive  peer 10.9.0.4:694 silent"


def test_a_server_is_drained_and_comes_back(desk: Desk) -> None:
    assert desk.press("d") == drain("app/up")
    assert desk.press("r") == Order(("set", "server", "{}", "state", "ready"), ("app/up",), "ready app/up")
    assert desk.press("down", "down", "m") == Order(
        ("set", "server", "{}", "state", "maint"), ("app/spare",), "maint app/spare"
    )


def test_what_leaves_nobody_is_asked_for_twice(desk: Desk) -> None:
    desk.press("end", "up", "up")
    assert desk.selected == "one" and desk.press("d") is None
    assert desk.message == "drain raw/one? Nobody is left in raw. (y/n)"
    assert desk.press("n") is None and desk.message == "nothing was done"
    assert desk.press("m") is None and desk.press("y") == Order(
        ("set", "server", "{}", "state", "maint"), ("raw/one",), "maint raw/one"
    )


def test_what_ends_sessions_is_asked_for_twice(desk: Desk) -> None:
    assert desk.press("K") is None
    assert desk.message == "end the sessions of app/up? It ends 5 sessions. (y/n)"
    assert desk.press("y") == Order(("shutdown", "sessions", "server", "{}"), ("app/up",), "end the sessions of app/up")


def test_several_are_marked_and_asked_for_twice(desk: Desk) -> None:
    assert desk.press(" ", " ", "d") is None
    assert desk.message == "drain 2 servers? app/up, app/down. (y/n)"
    assert desk.press("y") == drain("app/up", "app/down")
    assert "2 marked" in desk.lines[-1]
    assert desk.press("u", "home", "down", "down", "down", "d") is None, "all of a backend"
    assert desk.message == "drain 3 servers? Nobody is left in app. (y/n)"
    desk.press("n")
    assert desk.press("home", "d") is None and desk.message == "select a server or a backend first"


@pytest.mark.parametrize(("text", "asks"), [("5", False), ("50%", False), ("0", True), ("x", False)])
def test_a_weight_is_typed(house: House, text: str, asks: bool) -> None:
    desk = Desk(seen(house))
    desk.press("end", "up", "up", "w")
    assert desk.message == "weight (0 to 256, or 50%): _"
    order = desk.type(text)
    if asks:
        assert order is None and "Nobody is left in raw" in desk.message
        order = desk.press("y")
    assert order == Order(("set", "server", "{}", "weight", text), ("raw/one",), f"weight {text} raw/one")
    assert desk.press("w", "5", "esc") is None and desk.press("w", "enter") is None, "nothing typed, nothing done"
    assert desk.press("w", "7", "backspace", "8") is None and "8_" in desk.message


def test_a_filter_takes_effect_while_it_is_typed(desk: Desk) -> None:
    desk.press("/", "s", "p")
    assert [row.split()[0] for row in desk.table] == ["backend", "spare"] and desk.message == "filter: sp_"
    desk.press("enter")
    assert "filter sp" in desk.lines[-1]
    desk.press("/", "backspace", "backspace", *"down", "enter")
    assert [row.split()[1] for row in desk.table] == ["app", "DOWN", "names"]
    desk.press("/", *"x" * 20, "enter")
    assert desk.table == ["nothing is like"] and desk.press("d") is None and desk.press("w") is None
    desk.press("esc")
    assert len(desk.table) == 11
    desk.press("/", "s", "esc")
    assert len(desk.table) == 11, "given up"


def test_only_trouble(desk: Desk) -> None:
    desk.press("t")
    assert [row.split()[0] for row in desk.table] == ["frontend", "backend", "down", "backend", "one", "backend", "ns"]
    desk.press("t")
    assert len(desk.table) == 11


def test_servers_are_sorted_and_keep_their_backends_name(desk: Desk) -> None:
    desk.press("s", "s")
    assert desk.table[0].split()[0] == "app/up" and "vSESS" in "".join(desk.lines), "who has most sessions"
    desk.press("S")
    assert desk.table[-1].split()[0] == "app/up" and "^SESS" in "".join(desk.lines)
    desk.press("esc")
    assert desk.table[0].startswith("frontend web")


def test_who_is_selected_is_so_wherever_they_move(desk: Desk, house: House) -> None:
    desk.press("down")
    assert desk.selected == "down"
    desk.press("s", "s")
    assert desk.selected == "app/down"
    desk.top.show(seen(house))
    assert desk.selected == "app/down"
    less = seen(house)
    less = replace(less, backends=less.backends[1:])
    desk.press(" ")
    desk.top.show(less)
    assert "marked" not in desk.lines[-1], "who is gone is not marked"
    assert desk.selected in ("raw/one", "names/ns")
    desk.top.show(replace(less, backends=(), frontends=()))
    assert desk.table == [] and desk.press("d") is None


def test_a_daemon_that_is_away_is_said_to_be_so(desk: Desk, house: House) -> None:
    desk.top.is_away("pybalancer does not run here", 0.0)
    desk.top.is_away("pybalancer does not run here", 5.0)
    said = "".join(piece.text for piece in desk.top.draw(100, 24, 7.0)[0])
    assert said == "as it was 7s ago: pybalancer does not run here"
    desk.top.show(seen(house))
    assert desk.lines[0].startswith("director")


def test_help_and_the_end(desk: Desk) -> None:
    desk.press("?")
    assert any("drain: nothing new" in line for line in desk.lines)
    assert desk.press("d") is None and desk.selected == "up", "any key goes on, and does nothing else"
    desk.press("q")
    assert desk.top.is_over


@pytest.mark.parametrize("size", [(80, 24), (40, 8), (200, 60), (41, 9), (39, 24), (80, 7), (1, 1)])
def test_it_fits(house: House, size: tuple[int, int]) -> None:
    desk = Desk(replace(seen(house), routers=two_routers()), *size)
    for keys in ((), ("end",), ("pgup",), ("?",), ("x", "K"), ("n", "w"), ("esc", "/"), ("esc", " ", "s")):
        desk.press(*keys) if keys else None
        assert len(desk.lines) <= size[1] and max(map(len, desk.lines)) <= size[0]


KEYS = st.sampled_from(
    ["up", "down", "pgup", "pgdn", "home", "end", "enter", "esc", "backspace", "", *"dmrwKutsSqyn/? ?jkgGh0%x\u00e9"]
)


@given(st.lists(KEYS, max_size=40), st.integers(1, 120), st.integers(1, 40))
def test_no_key_breaks_it(keys: list[str], width: int, height: int) -> None:
    desk = Desk(_SEEN, width, height)
    for key in keys:
        order = desk.top.press(key)
        if order is not None:
            assert order.servers and all(name in {each.path for each in _SEEN.servers} for name in order.servers)
        lines = desk.top.draw(width, height, 0.0)
        assert len(lines) <= height and all(sum(len(piece.text) for piece in line) <= width for line in lines)


def _house() -> House:
    house = House(config())
    house.feed(NOW)
    return house


_SEEN = seen(_house())


def test_five_thousand_servers_do_not_make_it_slow() -> None:
    backends = {
        f"backend{i}": {"servers": {f"server{j}": {"address": f"10.{i}.0.{j + 1}:80"} for j in range(100)}}
        for i in range(50)
    }
    front = {"mode": "http", "bind": ("192.0.2.1:80",), "default_backend": "backend0"}
    large = House(model.Config.model_validate({"frontends": {"web": front}, "backends": backends}))
    shown = seen(large)
    desk = Desk(shown, 120, 40)
    began = time.process_time()
    for _ in range(20):
        desk.press("pgdn")
        assert len(desk.lines) == 40
    assert (time.process_time() - began) / 20 < 0.03, "a key"
    began = time.process_time()
    desk.top.show(shown)
    desk.press("s", "s", "/", "7")
    assert time.process_time() - began < 1.0
