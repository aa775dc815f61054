"""What operators have changed, kept: over the death of control, over a restart, over a disk that is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from balancer.config.model import Config
from balancer.daemon import remembered as room
from balancer.daemon.logbook import Logbook, LogbookError, Storage
from balancer.daemon.remembered import Remembered, holding, imposed
from balancer.observe.log import Level
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.overrides import Override, decode, encode

WEB1, WEB2 = ("web", "web1"), ("web", "web2")


def config(weight: int = 10) -> Config:
    servers = {name: {"address": "127.0.0.1:1", "weight": weight} for name in ("web1", "web2")}
    return Config.model_validate(
        {
            "frontends": {"ft": {"mode": "tcp", "bind": ":80", "default_backend": "web"}},
            "backends": {"web": {"servers": servers}},
        },
        strict=False,
    )


class Disk(Storage):
    """One that may be full."""

    def __init__(self, path: str) -> None:
        super().__init__(path, None)
        self.saves = 0
        self.is_full = False

    def save(self, octets: bytes) -> None:
        self.saves += 1
        if self.is_full:
            raise LogbookError("no space left")
        super().save(octets)


class Ship:
    """A logbook, and what is said."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.logbook = Logbook(disk)
        self.old: list[Logbook] = []
        self.said: list[tuple[Level, str]] = []
        self.reverted: list[Override] = []

    def event(self, level: Level, text: str) -> None:
        self.said.append((level, text))

    def __call__(self, do: Callable[[Remembered], object], config: Config = config()) -> None:  # noqa: B008
        """Control begins, `do`es something, and ends in good order."""

        async def run() -> None:
            kept = Remembered(config, self.logbook, self)  # type: ignore[arg-type]
            kept.start(asyncio.get_running_loop(), self.reverted.append)
            do(kept)
            await kept.close()

        self.said.clear()
        asyncio.run(run())

    def restart(self) -> None:
        self.old.append(self.logbook)
        self.logbook = Logbook(self.disk)

    def close(self) -> None:
        for each in (*self.old, self.logbook):
            each.close()


@pytest.fixture
def ship(tmp_path):
    disk = Disk(str(tmp_path / "state"))
    ship = Ship(disk)
    yield ship
    ship.close()
    disk.close()


def drain(kept: Remembered, target: tuple[str, ...] = WEB1, until: float | None = None) -> None:
    kept.keep(target, "state", "drain", by="root", why="disk", until=until)


def test_it_is_kept_and_said(ship: Ship) -> None:
    ship(drain)
    ship.restart()
    found: list[Override] = []
    ship(lambda kept: found.extend(kept.all))
    (each,) = found
    assert (each.target, each.told, each.configured) == (WEB1, "state drain", "ready")
    assert (each.by, each.why) == ("root", "disk")
    assert abs(each.at - time.time()) < 60
    assert ship.said == [(Level.NOTICE, "1 runtime change holds besides the configuration (show overrides)")]


def test_what_the_configuration_says_anyway_is_no_override(ship: Ship) -> None:
    def change(kept: Remembered) -> None:
        kept.keep(WEB1, "weight", 5, by="root")
        drain(kept)
        kept.keep(WEB1, "weight", 10, by="root")

    ship(change)
    assert [each.kind for each in ship.logbook.read().values()] == ["state"]


def test_whoever_takes_the_place_of_a_control_that_died_finds_it(ship: Ship) -> None:
    async def dies() -> None:
        kept = Remembered(config(), ship.logbook, ship)  # type: ignore[arg-type]
        kept.start(asyncio.get_running_loop(), ship.reverted.append)
        drain(kept)

    ship.disk.is_full = True
    asyncio.run(dies())
    ship.disk.is_full = False
    ship(lambda kept: None)
    assert ship.said[0][1].startswith("1 runtime change holds")
    ship.restart()
    assert ship.logbook.read().keys() == {(WEB1, "state")}, "it was written for it"


def test_the_configuration_wins_and_says_so(ship: Ship) -> None:
    ship(lambda kept: kept.keep(WEB1, "weight", 5, by="root"))
    ship(lambda kept: None, config(weight=20))
    text = "web/web1: weight 5 (by root) is forgotten: the configuration has changed it from 10 to 20"
    assert ship.said == [(Level.NOTICE, text)]
    assert [each.kind for each in ship.reverted] == ["weight"]
    assert ship.logbook.read() == {} == decode((ship.disk._path / "overrides.json").read_bytes())


def test_time_ends_it(ship: Ship) -> None:
    now = time.time()
    over: list[Override] = []

    def change(kept: Remembered) -> None:
        drain(kept, until=now + 60)
        drain(kept, WEB2)
        assert kept.turn(now + 59) == []
        over.extend(kept.turn(now + 60))
        assert kept.turn(now + 61) == []

    ship(change)
    assert [each.target for each in over] == [WEB1]
    assert ship.logbook.read().keys() == {(WEB2, "state")}


def test_time_that_passed_while_nobody_was_there_ended_it_too(ship: Ship) -> None:
    ship.logbook.write(encode([Override(WEB1, "state", "drain", "ready", "root", 1.0, "", time.time() - 1)]))
    assert holding(config(), ship.logbook) == {}
    ship(lambda kept: None)
    assert ship.said[0][1] == "web/web1: state drain (by root) is forgotten: its time is over"


def test_many_changes_are_few_writes(ship: Ship) -> None:
    def change(kept: Remembered) -> None:
        for number in range(2000):
            kept.keep(WEB1, "weight", number % 9, by="root")

    ship(change)
    assert ship.disk.saves <= 2


def test_a_full_disk_is_said_once_and_tried_again(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_AGAIN", 0.0)
    monkeypatch.setattr(room, "_TOGETHER", 0.0)

    async def run() -> None:
        kept = Remembered(config(), ship.logbook, ship)  # type: ignore[arg-type]
        kept.start(asyncio.get_running_loop(), ship.reverted.append)
        ship.disk.is_full = True
        for target in (WEB1, WEB2):
            drain(kept, target)
            await kept.close()
        assert ship.logbook.read().keys() == {(WEB1, "state"), (WEB2, "state")}, "those of now know"
        ship.disk.is_full = False
        kept.turn(time.time())
        await kept.close()

    asyncio.run(run())
    assert ship.said == [
        (Level.WARNING, "runtime changes are not kept for after a restart: no space left"),
        (Level.NOTICE, "runtime changes are kept for after a restart again"),
    ]
    ship.restart()
    assert len(ship.logbook.read()) == 2


def test_what_is_dropped_is_of_the_kinds_that_were_named(ship: Ship) -> None:
    def change(kept: Remembered) -> None:
        drain(kept)
        kept.keep(WEB1, "weight", 5, by="root")
        kept.keep((), "maxconn", 7, by="root")
        assert [each.kind for each in kept.drop(WEB1, ("state",))] == ["state"]
        assert [each.kind for each in kept.of_server(*WEB1)] == ["weight"]
        assert [each.kind for each in kept.drop(WEB1)] == ["weight"]
        assert kept.drop(WEB1) == [] == list(kept.of_server(*WEB1))
        assert [each.told for each in kept.all] == ["maxconn 7"]

    ship(change)


def test_a_row_as_operators_want_it() -> None:
    def of(**kinds: object):
        return {kind: Override(WEB1, kind, value, None, "root", 1.0) for kind, value in kinds.items()}  # type: ignore

    up = ServerState(Condition.UP, weight=10, health=3)
    assert imposed(up, {}) is up
    assert imposed(up, of(state="maint", weight=0)) == up._replace(admin=Admin.MAINT, weight=0)
    assert imposed(up, of(checks="off", health="down")) == up._replace(is_unwatched=True, condition=Condition.DOWN)
    assert imposed(ServerState(), of(checks="off")).condition is Condition.UP, "no check will ever tell"
    assert imposed(ServerState(), of(state="drain")).condition is Condition.UNKNOWN
