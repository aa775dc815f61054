"""What operators change."""

from __future__ import annotations

import pytest

from balancer.daemon.control import initialise
from balancer.daemon.decisions import Decisions
from balancer.daemon.helm import Helm
from balancer.health.runner import Runner, Target
from balancer.observe.log import Level
from balancer.observe.steering import Change
from balancer.pool.orders import Admin, Condition

SERVERS = {"s1": "127.0.0.1:1", "s2": {"address": "127.0.0.1:2", "check": {"enabled": False}}}


class Bridge:
    """A helm, and what was said."""

    def __init__(self, plan, memory) -> None:
        self.plan = plan
        self.decisions = Decisions(plan, memory, ())
        self.said: list[tuple[Level, str]] = []
        check = plan.config.backends["b"].check
        seat = plan.seats["b", "s1"]
        self.runner = Runner(
            [Target(seat.index, "b", "s1", seat.address, check)],
            state_of=self.decisions.__getitem__,
            on_change=lambda event: None,
        )
        self.helm = Helm(plan, self.decisions, self.runner, {seat.index}, self)

    def event(self, level: Level, text: str) -> None:
        """The log."""
        self.said.append((level, text))

    def __call__(self, server: str, **what) -> list[str]:
        """Change a server; what was said of it, by whom left out."""
        self.said.clear()
        self.helm(Change(backend="b", server=server, **what), "somebody")
        assert self.said[0][1].startswith("somebody: ")
        return [text for _, text in self.said[1:]]

    def state(self, server: str):
        return self.decisions[self.plan.seats["b", server].index]


@pytest.fixture
def bridge(plan, memory) -> Bridge:
    made = plan({"backends": {"b": {"check": {"type": "tcp"}, "servers": SERVERS}}})
    shared = memory(made)
    initialise(made, shared)
    bridge = Bridge(made, shared)
    for server in SERVERS:
        seat = made.seats["b", server]
        bridge.decisions.take(seat, bridge.state(server)._replace(condition=Condition.UP, health=4), tell=False)
    return bridge


def test_a_drain_and_its_end(bridge: Bridge) -> None:
    assert bridge("s1", admin=Admin.DRAIN) == [
        "Server b/s1 enters drain state. 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]
    assert bridge.said[0] == (Level.NOTICE, "somebody: set server b/s1 state drain")
    assert bridge("s1", admin=Admin.DRAIN) == [], "it is already"
    assert bridge("s2", admin=Admin.DRAIN)[-1] == "backend b has no server available!"
    assert bridge("s1", admin=Admin.READY) == ["Server b/s1 is UP (leaving forced drain)."]


def test_maintenance_and_its_end(bridge: Bridge) -> None:
    (line,) = bridge("s1", admin=Admin.MAINT)
    assert line.startswith("Server b/s1 is going DOWN for maintenance. 1 active and 0 backup servers left. 0 sessions")
    assert bridge.said[1][0] is Level.ALERT
    # One failure is enough to take it down then, as with HAProxy.
    assert bridge("s1", admin=Admin.READY) == ["Server b/s1 is UP/READY (leaving forced maintenance)."]
    assert bridge.state("s1").health == 2
    bridge("s1", admin=Admin.MAINT)
    assert bridge("s1", admin=Admin.DRAIN) == [
        "Server b/s1 is UP/DRAIN (leaving forced maintenance).",
        "Server b/s1 remains in forced drain mode.",
    ]
    assert bridge("s1", admin=Admin.MAINT)[0].startswith("Server b/s1 is going DOWN for maintenance.")
    assert bridge.said[1][0] is Level.NOTICE, "nothing new came to it anyway"


def test_a_server_that_is_down_goes_into_maintenance_quietly(bridge: Bridge) -> None:
    (line,) = bridge("s1", condition=Condition.DOWN)
    assert line.startswith("Server b/s1 is DOWN, changed from CLI. 1 active and 0 backup servers left.")
    downs = bridge.state("s1").downs
    assert bridge("s1", admin=Admin.MAINT) == ["Server b/s1 was DOWN and now enters maintenance."]
    assert bridge("s1", admin=Admin.READY) == ["Server b/s1 is UP/READY (leaving forced maintenance)."]
    assert bridge.state("s1").condition is Condition.UP and bridge.state("s1").downs == downs


def test_a_server_without_checks_stays_what_was_said(bridge: Bridge) -> None:
    bridge("s2", condition=Condition.DOWN)
    assert bridge.state("s2").condition is Condition.DOWN and bridge.state("s2").health == 0
    (line,) = bridge("s2", condition=Condition.UP)
    assert line == (
        "Server b/s2 is UP, changed from CLI. 2 active and 0 backup servers online. "
        "0 sessions requeued, 0 total in queue."
    )


def test_up_is_fully_up(bridge: Bridge) -> None:
    bridge("s1", condition=Condition.DOWN)
    bridge("s1", condition=Condition.UP)
    assert bridge.state("s1").health == 4


def test_weight_and_sessions(bridge: Bridge) -> None:
    assert bridge("s1", weight=0) == [] and bridge.state("s1").weight == 0
    before = bridge.state("s1").shutdowns
    assert bridge("s1", shuts=True) == [] and bridge.state("s1").shutdowns == before + 1
    assert bridge.said == [(Level.NOTICE, "somebody: shutdown sessions server b/s1")]
    assert bridge("s2", weight=0) == ["backend b has no server available!"]


def test_checks_are_stopped_and_go_on(bridge: Bridge) -> None:
    bridge("s1", is_checked=False)
    assert bridge.state("s1").is_unwatched
    # Nor does maintenance in between bring them back.
    bridge("s1", admin=Admin.MAINT)
    bridge("s1", admin=Admin.READY)
    _, member = bridge.runner._of[bridge.plan.seats["b", "s1"].index]
    assert member.is_paused
    bridge("s1", is_checked=True)
    assert not bridge.state("s1").is_unwatched and not member.is_paused
