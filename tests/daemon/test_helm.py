"""What operators change."""

from __future__ import annotations

import pytest

from balancer.daemon.control import initialise
from balancer.daemon.decisions import Decisions
from balancer.daemon.helm import Helm
from balancer.daemon.remembered import Remembered
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
        self.remembered = Remembered(plan.config, memory.logbook, self)
        self.helm = Helm(plan, self.decisions, self.runner, {seat.index}, self, self.remembered)

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


# What is remembered of it


def told(bridge: Bridge) -> list[str]:
    return [f"{'/'.join(each.target)} {each.told}" for each in bridge.remembered.all]


def test_what_is_not_as_configured_is_remembered(bridge: Bridge) -> None:
    bridge("s1", admin=Admin.DRAIN, why="disk", until=5.0)
    bridge("s1", weight=7)
    bridge("s2", condition=Condition.DOWN)
    assert told(bridge) == ["b/s1 state drain", "b/s1 weight 7", "b/s2 health down"]
    state = bridge.remembered.get(("b", "s1"), "state")
    assert state is not None and (state.by, state.why, state.until) == ("somebody", "disk", 5.0)
    assert bridge.remembered.get(("b", "s1"), "weight").why == ""
    bridge("s1", admin=Admin.READY)
    bridge("s1", weight=1)
    bridge("s2", condition=Condition.UP)
    bridge("s1", shuts=True)
    assert told(bridge) == []


def test_what_checks_will_say_otherwise_is_not(bridge: Bridge) -> None:
    bridge("s1", condition=Condition.DOWN)
    assert told(bridge) == []
    bridge("s1", is_checked=False)
    bridge("s1", condition=Condition.UP)
    assert told(bridge) == ["b/s1 checks off", "b/s1 health up"]
    bridge("s1", is_checked=True)
    assert told(bridge) == []


def test_the_log_says_why_and_until(bridge: Bridge) -> None:
    bridge("s1", admin=Admin.DRAIN, why="new disk", until=0.0)
    assert bridge.said[0][1] == "somebody: set server b/s1 state drain until 1970-01-01T00:00:00.000Z (new disk)"


def test_what_is_forgotten_is_as_configured_again(bridge: Bridge) -> None:
    bridge("s1", admin=Admin.MAINT)
    bridge("s1", weight=7)
    bridge("s1", is_checked=False)
    bridge("s2", condition=Condition.DOWN)
    gone = bridge.helm.forget(("b", "s1"), None, "somebody")
    assert [each.kind for each in gone] == ["state", "weight", "checks"]
    bridge.helm.forget(("b", "s2"), ("health",), "somebody")
    s1, s2 = bridge.state("s1"), bridge.state("s2")
    assert (s1.admin, s1.weight, s1.is_unwatched, s2.condition) == (Admin.READY, 1, False, Condition.UP)
    _, member = bridge.runner._of[bridge.plan.seats["b", "s1"].index]
    assert not member.is_paused and told(bridge) == []


def test_time_ends_it(bridge: Bridge) -> None:
    bridge("s1", admin=Admin.DRAIN, until=100.0, why="disk")
    bridge.helm.turn(99.0)
    assert bridge.state("s1").admin is Admin.DRAIN
    bridge.helm.turn(100.0)
    assert bridge.state("s1").admin is Admin.READY
    assert "b/s1: state drain, by somebody (disk), is over" in [text for _, text in bridge.said]


def test_others_undo_what_they_did(bridge: Bridge) -> None:
    undone: list[object] = []
    bridge.helm.undo["maxconn"] = undone.append
    bridge.remembered.keep((), "maxconn", 7, by="somebody", until=100.0)
    bridge.helm.turn(100.0)
    assert [each.value for each in undone] == [7]


def test_whoever_takes_the_place_of_one_that_died_makes_it_so(bridge: Bridge, memory) -> None:
    """It had written down what it did not come to do."""
    bridge.remembered.keep(("b", "s1"), "state", "maint", by="somebody")
    Helm(bridge.plan, bridge.decisions, bridge.runner, set(), bridge, bridge.remembered)
    assert bridge.state("s1").admin is Admin.MAINT
