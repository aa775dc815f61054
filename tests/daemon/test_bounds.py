from __future__ import annotations

import asyncio

import pytest

from balancer.daemon import bounds
from balancer.daemon.bounds import Bounds
from balancer.daemon.logbook import Logbook
from balancer.daemon.remembered import Remembered
from balancer.observe.bounds import Bound, Door, Move
from balancer.observe.snapshot import Process, Roster
from balancer.observe.steering import SteeringError

CONFIG = {
    "frontends": {
        "f": {"mode": "tcp", "bind": "127.0.0.1:9999", "default_backend": "b", "maxconn": 50},
        "u": {"mode": "udp", "bind": "127.0.0.1:9999", "udp": {"protocol": "generic"}, "default_backend": "b"},
    },
    "backends": {
        "b": {"servers": {"s": {"address": "127.0.0.1:9", "maxconn": 5}, "free": {"address": "127.0.0.1:10"}}},
    },
}


class Scene:
    """Control, without a supervisor that would make limits so."""

    def __init__(self, plan, memory) -> None:
        self.said: list[str] = []
        self.rings = 0
        self.logbook = Logbook()
        self.remembered = Remembered(plan.written, self.logbook, self)  # type: ignore[arg-type]
        process = Process("", "", "", 1, 0.0, 1, plan.maxconn, hard_maxconn=plan.maxconn)
        roster = Roster.of(plan.config)
        self.bounds = Bounds(plan, memory, self.remembered, self, tell=self.ring, roster=roster, process=process)  # type: ignore[arg-type]

    def ring(self) -> None:
        self.rings += 1

    def event(self, level, text: str) -> None:
        self.said.append(text)

    def set(self, *target: str, to: int) -> None:
        async def main() -> None:
            self.remembered.start(asyncio.get_running_loop(), lambda each: None)
            try:
                await self.bounds.set(Bound(target, to), "somebody")
            finally:
                await self.remembered.close()

        asyncio.run(main())

    @property
    def limits(self) -> dict[str, int]:
        """As they are shown."""
        found = {entry.name: entry.limit for entry in self.bounds.roster.frontends}
        return found | {server.name: server.maxconn for each in self.bounds.roster.backends for server in each.servers}


@pytest.fixture
def scene(plan, memory, monkeypatch):
    monkeypatch.setattr(bounds, "_PATIENCE", 0.0)
    made = plan(CONFIG)
    it = Scene(made, memory(made))
    yield it
    it.logbook.close()


def test_a_limit_is_set_shown_told_and_remembered(scene: Scene) -> None:
    scene.set("f", to=3)
    scene.set("b", "s", to=2)
    scene.set(to=100)
    assert (scene.limits["f"], scene.limits["s"], scene.bounds.process.maxconn) == (3, 2, 100)
    assert [line for line in scene.said if "set maxconn" in line] == [
        "somebody: set maxconn frontend f 3", "somebody: set maxconn server b/s 2", "somebody: set maxconn global 100"
    ]  # fmt: skip
    assert scene.rings == 3
    assert {(each.target, each.value) for each in scene.remembered.all} == {(("f",), 3), (("b", "s"), 2), ((), 100)}


def test_the_configured_limit_again_is_no_override(scene: Scene) -> None:
    scene.set("f", to=3)
    scene.set("f", to=50)
    assert scene.limits["f"] == 50
    assert not scene.remembered.all


def test_an_override_that_is_forgotten_leaves_the_configured_limit(scene: Scene) -> None:
    scene.set("f", to=3)
    (override,) = scene.remembered.all
    scene.bounds.revert(override)
    assert scene.limits["f"] == 50


@pytest.mark.parametrize(
    ("target", "why"), [(("u",), "is not of mode tcp or http"), (("b", "free"), "has no maxconn in the configuration")]
)
def test_what_nobody_counts_cannot_be_limited(scene: Scene, target: tuple[str, ...], why: str) -> None:
    with pytest.raises(SteeringError, match=why):
        scene.set(*target, to=3)
    assert not scene.remembered.all


def test_a_door_is_closed_and_opened_and_shut_for_good(scene: Scene) -> None:
    bounds_ = scene.bounds
    with pytest.raises(SteeringError, match="already enabled"):
        bounds_.move(Move("f", Door.OPEN), "somebody")
    bounds_.move(Move("f", Door.PAUSED), "somebody")
    assert bounds_.doors == {"f": Door.PAUSED}
    with pytest.raises(SteeringError, match="already disabled"):
        bounds_.move(Move("f", Door.PAUSED), "somebody")
    bounds_.move(Move("f", Door.OPEN), "somebody")
    assert not bounds_.doors
    bounds_.move(Move("f", Door.SHUT), "somebody")
    for to, why in ((Door.OPEN, "cannot enable"), (Door.PAUSED, "cannot disable"), (Door.SHUT, "already shut down")):
        with pytest.raises(SteeringError, match=why):
            bounds_.move(Move("f", to), "somebody")
    assert scene.said[-1] == "somebody: shutdown frontend f"


def test_the_door_of_datagrams_is_not_left_to_others(scene: Scene) -> None:
    with pytest.raises(SteeringError, match=r"of mode udp: 'disable frontend' has it refuse .* take it out"):
        scene.bounds.move(Move("u", Door.SHUT), "somebody")
    scene.bounds.move(Move("u", Door.PAUSED), "somebody")
    assert scene.bounds.doors == {"u": Door.PAUSED}
