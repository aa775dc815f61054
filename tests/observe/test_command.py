from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe import command
from balancer.observe.command import Desk, Level, Session, commands, obey
from balancer.pool.routers import decode
from balancer.pool.services import Listing, encode
from tests.observe.conftest import NOW, House, two_routers

NONE = "There are no virtual routers (vrrp.instances).\n"


class Room:
    """A session at a desk that remembers what it was asked to have done."""

    def __init__(self, level: Level = Level.ADMIN) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.answer = (True, ["VI_E: released for 1h"])
        self.session = Session(level)
        self.desk = Desk(now=lambda: NOW, standing=two_routers, ask=self._ask)

    async def _ask(self, *order: object) -> tuple[bool, list[str]]:
        self.asked.append(order)
        return self.answer

    def say(self, line: str) -> str:
        (words,) = commands(line) or [[]]
        return asyncio.run(obey(words, self.session, self.desk))


@pytest.fixture
def room() -> Room:
    return Room()


# Words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show vrrp", [["show", "vrrp"]]),
        ("  show\tvrrp  \r", [["show", "vrrp"]]),
        ("show vrrp;vrrp hold ; help", [["show", "vrrp"], ["vrrp", "hold"], ["help"]]),
        (";;", []), ("", []),
        (r"show a\;b", [["show", "a;b"]]),
        (r"show a\ b\\", [["show", "a b\\"]]),
        ("show \\", [["show"]]),
    ],
)  # fmt: skip
def test_a_line_holds_commands(line: str, words: list[list[str]]) -> None:
    assert commands(line) == words


@given(st.text(max_size=200))
def test_any_line_is_some_words(line: str) -> None:
    for words in commands(line):
        assert words and all(words)


@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=5))
def test_words_come_back_as_they_were_when_they_are_escaped(words: list[str]) -> None:
    line = " ".join("".join(f"\\{letter}" for letter in word) for word in words)
    assert commands(line) == [words]


# What is shown


def test_where_they_stand_is_shown(room: Room) -> None:
    said = room.say("show vrrp")
    assert said.startswith("# instance  state") and said.endswith("\n")
    assert len(said.splitlines()) == 8


def test_all_of_it_is_there_as_json_in_a_line(room: Room) -> None:
    said = room.say("show vrrp json")
    assert said.count("\n") == 1
    assert decode(said.encode()) == two_routers()
    assert json.loads(said)["routers"][0]["name"] == "VI_E"


@pytest.mark.parametrize(
    ("line", "found"),
    [("show vrrp why", ["VI_E", "VI_I"]), ("show vrrp why VI_I", ["VI_I"]), ("show vrrp why VG1", ["VI_E"]),
     ("show vrrp why VI_E VG1 VI_I", ["VI_E", "VI_I"])],
)  # fmt: skip
def test_why_of_some_or_all(room: Room, line: str, found: list[str]) -> None:
    lines = room.say(line).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == found


def test_why_of_one_that_is_not_there_says_who_is(room: Room) -> None:
    assert room.say("show vrrp why VI") == "No such virtual router: 'VI'; there are VI_E, VI_I, VG1.\n"


@pytest.mark.parametrize("line", ["show vrrp", "show vrrp why", "show vrrp json"])
def test_before_the_supervisor_has_spoken_nothing_is_known(room: Room, line: str) -> None:
    room.desk = Desk(now=lambda: NOW, standing=lambda: None)
    assert room.say(line) == "Nothing is known of the virtual routers yet.\n"


@pytest.mark.parametrize("line", ["show vrrp", "show vrrp why", "show vrrp json", "vrrp release", "vrrp hold"])
def test_where_there_are_none_that_is_said(room: Room, line: str) -> None:
    room.desk = Desk(now=lambda: NOW)
    assert room.say(line) == NONE


# What is done


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("vrrp release", ("release", None, 3600.0)),
        ("vrrp release VI_E", ("release", "VI_E", 3600.0)),
        ("vrrp release VI_E for 90s", ("release", "VI_E", 90.0)),
        ("vrrp release for 30m", ("release", None, 1800.0)),
        ("vrrp hold", ("hold", None, None)),
        ("vrrp hold VG1", ("hold", "VG1", None)),
    ],
)
def test_orders_go_to_whoever_speaks(room: Room, line: str, order: tuple[object, ...]) -> None:
    assert room.say(line) == "VI_E: released for 1h\n"
    assert room.asked == [order]


@pytest.mark.parametrize(
    "line", ["vrrp release VI for", "vrrp release for 30", "vrrp release VI for 1h please", "vrrp release a b",
             "vrrp hold a b", "vrrp release VI for -1s", "vrrp release a for b for 1h"]
)  # fmt: skip
def test_what_is_not_understood_is_not_done(room: Room, line: str) -> None:
    assert room.say(line).startswith("'")
    assert room.asked == []


def test_an_empty_line_of_an_answer_is_left_out(room: Room) -> None:
    room.answer = (True, ["one", "", "two"])
    assert room.say("vrrp hold") == "one\ntwo\n"


@pytest.mark.parametrize(
    ("level", "may"), [(Level.USER, False), (Level.OPERATOR, True), (Level.ADMIN, True)], ids=lambda value: str(value)
)
def test_users_may_look_and_operators_may_do(level: Level, may: bool) -> None:
    room = Room(level)
    assert room.say("show vrrp") != "Permission denied\n"
    assert (room.say("vrrp hold") != "Permission denied\n") is may
    assert bool(room.asked) is may
    assert ("vrrp hold" in room.say("help")) is may


def test_who_may_much_may_less_from_now_on_but_not_more_again(room: Room) -> None:
    said = [(line, room.say(line)) for line in ("show cli level", "operator", "show cli level", "clear counters all")]
    assert [answer for _, answer in said] == ["admin\n", "", "operator\n", "Permission denied\n"]
    assert [room.say(line) for line in ("user", "operator", "show cli level", "user")] == [
        "", "Permission denied\n", "user\n", ""
    ]  # fmt: skip
    assert room.say("vrrp hold") == "Permission denied\n"


def test_what_caches_hold_is_shown(room: Room, house: House) -> None:
    assert room.say("show cache") == "No backend has a cache.\n"
    house.count("backend", "app", cache_objects=3, cache_octets=4000, cache_lookups=20, cache_hits=9)
    look = house.look()
    (app,) = [row for row in look.backends if row.name == "app"]
    kept = app._replace(entry=app.entry._replace(cache_size=65536))
    room.desk = Desk(now=lambda: NOW, snapshot=lambda: look._replace(backends=(kept, *look.backends)))
    assert room.say("show cache") == "app: 3 objects, 4000 of 65536 octets, 20 lookups, 9 hits\n"
    assert room.say("show cache x") == "'show cache' has no argument 'x'.\n"


# HAProxy's manners


def test_help_lists_what_there_is_or_what_begins_so(room: Room) -> None:
    said = room.say("help").splitlines()
    assert said[0] == "The following commands are valid at this level:"
    assert "  show vrrp                               : where the virtual routers stand" in said
    assert all(" : " in line for line in said[1:])

    def begins(line: str) -> list[str]:
        return [" ".join(listed.split()[:2]) for listed in room.say(line).splitlines()[1:]]

    always = ["help [<command>]", "prompt [help|n|i|p|timed]*", "quit :"]
    assert begins("help vrrp") == ["vrrp release", "vrrp hold", *always]
    assert begins("help sh serv") == ["show servers", "show servers", *always]
    assert begins("help get weight web/web1") == ["get weight", *always]
    assert begins("help quit") == ["quit :", *always[:2]]
    assert room.say("help nosuch") == room.say("help")


def test_an_unknown_command_is_told_which_there_are(room: Room) -> None:
    listed = room.say("help").partition("\n")[2]
    assert room.say("nosuch thing") == (
        f"Unknown command: 'nosuch'. Please enter one of the following commands only:\n{listed}"
    )
    assert room.say("") == f"Unknown command. Please enter one of the following commands only:\n{listed}"
    first, *rest = room.say("show nosuch").splitlines()
    assert first == "Unknown command: 'show nosuch', but maybe one of the following ones is a better match:"
    assert {line.split()[0] for line in rest} == {"show", "help", "prompt", "quit"}


def test_a_command_that_is_more_words_than_another_is_meant(room: Room) -> None:
    assert room.say("show vrrp whyever") == "'show vrrp' has no argument 'whyever'.\n"


def test_who_asks_for_it_is_told_what_is_an_error(room: Room) -> None:
    assert room.say("set severity-output number") == ""
    assert room.say("vrrp hold") == "[6]: VI_E: released for 1h\n"
    room.answer = (False, ["there is no VI_E"])
    assert room.say("vrrp hold") == "[3]: there is no VI_E\n"
    assert room.say("nosuch").startswith("[3]: Unknown command")
    assert not room.say("show vrrp").startswith("[")
    room.say("set severity-output string")
    assert room.say("vrrp hold") == "[err]: there is no VI_E\n"
    room.say("set severity-output none")
    assert room.say("vrrp hold") == "there is no VI_E\n"
    assert room.say("set severity-output loud") == "one of 'none', 'number', 'string' is a required argument\n"


def test_the_prompt_comes_and_goes(room: Room) -> None:
    session = room.session
    for line, goes_on, has_prompt in (
        ("prompt", True, True), ("prompt", False, False), ("prompt i", True, False), ("prompt", True, True),
        ("prompt n", False, False), ("prompt p", True, True), ("prompt n p i", True, False),
    ):  # fmt: skip
        assert room.say(line) == ""
        assert (session.is_interactive, session.has_prompt) == (goes_on, has_prompt), line
    assert room.say("prompt timed") == "" and session.tells_time and session.has_prompt
    for line in ("prompt help", "prompt x"):
        assert room.say(line).startswith("Usage: prompt [help | n | i | p | timed]*\n")
    assert session.has_prompt
    assert room.say("quit") == ""
    assert room.session.is_over


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["show", "vrrp", "why", "json", "release", "hold", "for", "help", "set"])).map(" ".join)
)
def test_whatever_is_said_is_answered_in_whole_lines_without_an_empty_one(line: str) -> None:
    room = Room()
    for words in commands(line.replace("\n", " ")):
        said = asyncio.run(obey(words, room.session, room.desk))
        assert said == "" or said.endswith("\n")
        assert "\n\n" not in said and not said.startswith("\n")


# The kernel


class Kernel(Room):
    """A desk in front of a process that has rules in the kernel."""

    def __init__(self, said: tuple[bool, bytes]) -> None:
        super().__init__(Level.USER)

        async def ask(what: str, *, is_numeric: bool = False) -> tuple[bool, bytes]:
            self.asked.append((what, is_numeric))
            return said

        self.desk = Desk(now=lambda: NOW, ask_kernel=ask)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("show kernel", ("rules", False)),
        ("show kernel connections", ("connections", False)),
        ("show kernel connections numeric", ("connections", True)),
    ],
)
def test_what_the_kernel_has_is_passed_on(line: str, asked: tuple[str, bool]) -> None:
    kernel = Kernel((True, b"table inet pybalancer {\n}\n"))
    assert kernel.say(line) == "table inet pybalancer {\n}\n"
    assert kernel.asked == [asked]


@pytest.mark.parametrize("line", ["show kernel", "show kernel status", "show kernel rate", "show kernel connections"])
def test_why_the_kernel_does_not_say(line: str) -> None:
    kernel = Kernel((False, b"The kernel process does not answer."))
    kernel.session.severity = "number"
    assert kernel.say(line) == "[3]: The kernel process does not answer.\n"


@pytest.mark.parametrize(("view", "title"), [("status", "Forward"), ("stats", "InBytes"), ("rate", "InBPS")])
def test_services_are_a_table(view: str, title: str) -> None:
    kernel = Kernel((True, encode(Listing(size=4096))))
    for line in (f"show kernel {view}", f"show kernel {view} numeric"):
        said = kernel.say(line)
        assert said.startswith("IP Virtual Server version ") and "(size=4096)" in said and title in said
    assert kernel.asked == [("services", False)] * 2


def test_what_cannot_be_understood_is_not_shown() -> None:
    assert Kernel((True, b"<html>")).say("show kernel status") == "The kernel process cannot be understood.\n"


@pytest.mark.parametrize(
    "line", ["show kernel all", "show kernel status exact", "show kernel connections a b", "show kernel rate numeric x"]
)
def test_arguments_that_are_none(line: str) -> None:
    kernel = Kernel((True, b""))
    assert "has no argument" in kernel.say(line)
    assert kernel.asked == []


def test_without_rules_there_are_the_proxys_frontends(house) -> None:
    room = Room(Level.USER)
    room.desk = Desk(now=lambda: NOW, snapshot=house.look)
    assert "TCP  192.0.2.1:80 rr\n  -> 10.0.0.1:80                  Proxy " in room.say("show kernel status numeric")
    assert "The kernel has no rules of ours" in room.say("show kernel")
    assert "The kernel has no rules of ours" in room.say("show kernel connections")


def test_who_is_named_is_looked_at_alone(house) -> None:
    """Thousands may be named one after the other."""
    looked = []

    def glance(backend: str, server: str):
        looked.append((backend, server))
        return house.look()

    def look():
        raise AssertionError("all are looked at")

    room = Room()
    changes = []
    room.desk = Desk(now=lambda: NOW, snapshot=look, glance=glance, steer=lambda change, by: changes.append(change))
    lines = ("set server app/up state drain", "set weight app/up 5", "disable server raw/one", "disable health app/up",
             "shutdown sessions server app/up")  # fmt: skip
    assert [room.say(line) for line in lines] == [""] * 5 and len(changes) == 5
    assert room.say("get weight app/up") == "3 (initial 3)\n"
    assert room.say("set server app state drain") == "Require 'backend/server'.\n"
    assert room.say("set server") == "Require 'backend/server'.\n"
    assert looked == [("app", "up")] * 2 + [("raw", "one")] + [("app", "up")] * 3 + [("app", ""), ("", "")]


@pytest.mark.parametrize(
    "line",
    [
        "show info",
        "show stat",
        "show servers state",
        "show servers conn app",
        "show cache",
        "show overrides",
        "show overrides json",
        "show kernel status",
    ],
)
def test_a_large_picture_is_taken_with_turns_for_others(house, line: str) -> None:
    room = Room()
    room.desk = Desk(now=lambda: NOW, snapshot=house.look)
    expected = room.say(line)
    turns = []

    async def picture():
        turns.append(line)
        return house.look()

    room.desk = Desk(now=lambda: NOW, snapshot=lambda: pytest.fail("in one go"), picture=picture)
    assert room.say(line) == expected and turns == [line]


def test_no_command_stands_twice() -> None:
    usages = [each.usage for each in command._TABLE]
    assert sorted(set(usages)) == sorted(usages)
