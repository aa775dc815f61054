from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from balancer.observe import live as live_module
from balancer.observe.live import Listener, Live
from balancer.observe.log import Level, Recent
from balancer.observe.snapshot import LastCheck
from balancer.observe.trends import Trends
from balancer.pool.orders import Condition, ServerState
from tests.observe.conftest import two_routers

NOW = 1_795_392_514.0


class Stage:
    """A house whose news are told, as fast as they can be."""

    def __init__(self, house) -> None:
        self.house = house
        self.recent: deque[Recent] = deque(maxlen=100)
        self.pictures = 0
        self.live = Live(
            house.roster,
            self._picture,
            trends=Trends(house.roster),
            recent=self.recent,
            drains=list,
            period=0.01,
        )

    def _picture(self):
        self.pictures += 1
        yield
        return self.house.look()


def events(octets: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in octets.decode().split("\n\n")[:-1]:
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def until_tick(listener: Listener) -> dict[str, Any]:
    """What is told to the end of the second."""
    told: dict[str, Any] = {"rows": {}}
    async for message in listener.news():
        for kind, data in events(message):
            if kind == "tick":
                return told | {"tick": data}
            told["rows"] |= data
    raise AssertionError("it is over")


def play(house, talk: Callable[[Stage], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            stage = Stage(house)
            await talk(stage)
            while stage.live._listeners:
                stage.live.leave(stage.live._listeners[0])

    asyncio.run(run())


def test_all_is_told_once_and_then_what_changes(house) -> None:
    sums = house.sums()
    house.sums = lambda: sums

    async def talk(stage: Stage) -> None:
        stage.recent.append(Recent(1, NOW, Level.ALERT, "old"))
        listener = stage.live.join()
        (hello,) = [data for kind, data in events(b"".join(stage.live.greeting())) if kind == "hello"]
        assert hello["events"] == [[1, NOW, "ALERT", "old"]]
        first = await until_tick(listener)
        assert set(first["rows"]) == {
            "f/web", "f/tls", "f/dns", "s/0", "s/1", "s/2", "b/app", "s/3", "b/raw", "s/4", "b/names",
        }  # fmt: skip
        for key, values in first["rows"].items():
            assert len(values) == len(hello["fields"][key[0]])
        up = dict(zip(hello["fields"]["s"], first["rows"]["s/0"], strict=True))
        assert (up["stot"], up["status"], up["weight"], up["check"]) == (5000, "UP", 3, "L7OK/200 in 3ms")
        assert up["since"] == NOW - 90
        assert first["tick"]["top"] == [7, 100, 900, 900, 5050, 5050, 10_300, 2_000_400, 10_300, 2_000_400, 3, 5, 1, 3]
        assert (await until_tick(listener))["rows"] == {}
        sums.update(house.__class__.sums(house))
        house.set("app", "down", ServerState(Condition.UP, health=4))
        stage.recent.append(Recent(2, NOW, Level.NOTICE, "new"))
        later = await until_tick(listener)
        while not later["rows"]:
            later = await until_tick(listener)
        assert later["rows"]["s/1"][hello["fields"]["s"].index("status")] == "UP"
        assert "events" in later["tick"] or "events" in (await until_tick(listener))["tick"]
        greeting = dict(events(b"".join(stage.live.greeting())))
        assert greeting["rows"]["s/1"] == later["rows"]["s/1"], "who comes later is told what is"

    play(house, talk)


def test_a_check_with_the_same_result_is_told_now_and_then(house, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = house.sums()
    house.sums = lambda: sums
    passed = LastCheck("L7OK", "Layer7 check passed", 200, "OK", 0.0031, NOW - 1)

    async def talk(stage: Stage) -> None:
        listener = stage.live.join()
        await until_tick(listener)
        for result, is_news in ((passed._replace(duration=0.5), False), (passed._replace(status=503), True)):
            house.set("app", "up", house.board[0], result)
            told = [await until_tick(listener) for _ in range(3)]
            assert any(each["rows"] for each in told) is is_news

    monkeypatch.setattr(live_module, "_CHECKS", 1_000_000)
    play(house, talk)


def test_nobody_listens_and_nothing_is_done(house) -> None:
    async def talk(stage: Stage) -> None:
        assert stage.pictures == 0
        listener = stage.live.join()
        await until_tick(listener)
        stage.live.leave(listener)
        before = stage.pictures
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert stage.pictures == before
        await until_tick(stage.live.join())

    play(house, talk)


def test_only_so_many_listen_and_who_does_not_read_is_let_go(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_MOST_WAITING", 20_000)

    async def talk(stage: Stage) -> None:
        listeners = [stage.live.join() for _ in range(32)]
        assert None not in listeners and stage.live.join() is None
        slow, fast = listeners[:2]
        while not slow.is_over:
            await until_tick(fast)
        assert [each async for each in slow.news()] == []
        assert not fast.is_over
        stage.live.close()
        assert fast.is_over

    play(house, talk)


def test_virtual_routers_are_told_when_they_change(house) -> None:
    house.routers = two_routers()

    async def talk(stage: Stage) -> None:
        listener = stage.live.join()
        assert "VI_E" in (await until_tick(listener))["tick"]["vrrp"]
        assert "vrrp" not in (await until_tick(listener))["tick"]
        house.routers = replace(house.routers, routers=house.routers.routers[:1])
        told = [await until_tick(listener) for _ in range(3)]
        assert [each["tick"]["vrrp"] for each in told if "vrrp" in each["tick"]]

    play(house, talk)


def test_the_epoch_is_that_of_the_rows(house, make_house) -> None:
    assert Stage(house).live.epoch == Stage(house).live.epoch
    smaller = house.roster._replace(backends=house.roster.backends[1:])
    one, other = Stage(house), Stage(house)
    house.roster = smaller
    assert one.live.epoch == other.live.epoch != Stage(house).live.epoch
