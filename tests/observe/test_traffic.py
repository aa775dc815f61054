from __future__ import annotations

import asyncio

import pytest

from balancer.observe.bounds import Bound, Door, Move
from balancer.observe.command import Desk, Level, Session, commands, obey
from balancer.observe.snapshot import Snapshot
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, House

ATTACHED = "Server still has connections attached to it, cannot remove it.\n"


class Room:
    def __init__(self, house: House) -> None:
        self.house = house
        self.done: list[object] = []
        self.session = Session(Level.ADMIN, "root")
        self.desk = Desk(now=lambda: NOW, snapshot=house.look, bound=self._bound, move=self._move)

    async def _bound(self, bound: Bound, by: str) -> None:
        self.done.append((bound, by))

    def _move(self, move: Move, by: str) -> None:
        self.done.append((move, by))

    def say(self, line: str) -> str:
        (words,) = commands(line)
        return asyncio.run(obey(words, self.session, self.desk))

    def maintain(self, **counters: int) -> None:
        """Server `up`, with only these connections."""
        self.house.set("app", "up", ServerState(Condition.UP, Admin.MAINT))
        self.house.count("server", "app", "up", **{"scur": 0, "qcur": 0, "srv_icur": 0} | counters)


@pytest.fixture
def room(house: House) -> Room:
    return Room(house)


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("set maxconn frontend web 7", Bound(("web",), 7)),
        ("set maxconn server app/up 0", Bound(("app", "up"), 0)),
        ("set maxconn global 0", Bound((), 0)),
        ("disable frontend tls", Move("tls", Door.PAUSED)),
        ("enable frontend tls", Move("tls", Door.OPEN)),
        ("shutdown frontend tls", Move("tls", Door.SHUT)),
    ],
)
def test_what_is_asked_for_is_done(room: Room, line: str, done: object) -> None:
    assert room.say(line) == ""
    assert room.done == [(done, "root")]
    room.session.level = Level.OPERATOR
    assert room.say(line) == "Permission denied\n" and len(room.done) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("set maxconn frontend web x", "Integer value expected."),
        ("set maxconn frontend web 1x", "Integer value expected."),
        ("set maxconn frontend app 1", "No such frontend."),
        ("set maxconn server app/up -1", "Value out of range."),
        ("set maxconn global 101", "Value out of range."),
        ("set maxconn global -1", "Value out of range."),
        ("disable frontend app", "No such frontend."),
    ],
)
def test_what_makes_no_sense_is_not_done(room: Room, line: str, why: str) -> None:
    room.house.process = room.house.process._replace(hard_maxconn=100)
    assert room.say(line) == f"{why}\n" and room.done == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("wait", "Expects a duration in milliseconds."), ("wait 0", "Invalid duration."),
        ("wait x", "Invalid duration."),
        ("wait 1 srv-removable", "Missing server name (<backend>/<server>)."),
        ("wait 1 srv-removable app", "Failed. Require 'backend/server'."),
        ("wait 1 srv-removable app/nobody", "Failed. No such server."),
        ("wait 1 srv-removable nobody/up", "Failed. No such backend."),
        ("wait 1 srv-removable app/up", "Failed. Only servers in maintenance mode can be deleted."),
        ("wait 1", "Done."), ("wait 5ms", "Done."),
    ],
)  # fmt: skip
def test_what_is_waited_for(room: Room, line: str, why: str) -> None:
    assert room.say(line) == f"{why}\n"


def test_how_to_wait_is_told(room: Room) -> None:
    for line in ("wait -h", "wait 1 -h", "wait 1 sunshine"):
        assert room.say(line).startswith("Usage: wait {-h|<duration>}")
    room.session.level = Level.OPERATOR
    assert room.say("wait 1") == "Permission denied\n"


def test_a_server_can_be_removed_when_nobody_is_there(room: Room) -> None:
    for counters in ({"scur": 1}, {"qcur": 1}, {"srv_icur": 1}):
        room.maintain(**counters)
        assert room.say("wait 2 srv-removable app/up") == f"Wait delay expired. {ATTACHED}"
    room.maintain(scur=1)

    async def main() -> str:
        asyncio.get_running_loop().call_later(0.1, room.maintain)
        async with asyncio.timeout(10):
            return await obey(["wait", "1m", "srv-removable", "app/up"], room.session, room.desk)

    assert asyncio.run(main()) == "Done.\n"


def test_nobody_waits_for_whoever_has_gone(room: Room) -> None:
    room.maintain(scur=1)
    room.session.is_gone = lambda: True
    assert room.say("wait 1h srv-removable app/up") == f"Interrupted. {ATTACHED}"
    assert room.say("wait 1h") == "Interrupted.\n"


def test_what_is_long_is_made_for_two_at_a_time_and_others_come_in_between(house: House) -> None:
    going, most = 0, 0

    async def picture() -> Snapshot:
        nonlocal going, most
        going += 1
        most = max(most, going)
        for _ in range(50):
            await asyncio.sleep(0)
        going -= 1
        return house.look()

    async def main() -> None:
        desk = Desk(now=lambda: NOW, snapshot=house.look, picture=picture)

        async def ask(line: str) -> str:
            return await obey(line.split(), Session(Level.USER), desk)

        long = [asyncio.create_task(ask("show stat")) for _ in range(20)]
        await asyncio.sleep(0)
        assert await ask("show cli level") == "user\n"
        assert not any(task.done() for task in long)
        said = set(await asyncio.gather(*long))
        assert len(said) == 1 and said.pop().startswith("# pxname,")
        assert await ask("get weight app/up") == "3 (initial 3)\n"

    asyncio.run(main())
    assert most == 2
