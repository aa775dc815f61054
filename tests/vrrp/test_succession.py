"""A speaker in the place of another: with its sockets, and what it knew; nobody on the network notices."""

from __future__ import annotations

from typing import Any

import pytest

from balancer.vrrp import succession
from balancer.vrrp.speaker import Speaker
from tests.vrrp.conftest import Host, Stage, Switch, as_root, one

pytestmark = as_root


@pytest.fixture
def elected(stage: Stage, switch: Switch) -> list[Host]:
    pair = stage.hosts(switch, 2)
    pair[0].start(one(150))
    pair[1].start(one(100))
    stage.until(lambda: pair[0].role() == "MASTER")
    return pair


def succeed(host: Host, vrrp: Any) -> Speaker:
    """The one before is executed anew: its sockets stay, all else of it goes."""
    before = host.speaker
    assert before is not None
    known, sockets = succession.known(before), succession.heirloom(before)
    with host:
        after = Speaker(
            vrrp,
            node="here",
            log=host._log,
            spawn=host._spawn,
            service=lambda: host.service,
            heirloom=sockets,
        )
        before._addresses.close()
        before._selector.close()
        succession.restore(after, known)
        after.start()
    host.speaker = after
    return after


@pytest.mark.parametrize("who", [0, 1], ids=["master", "backup"])
def test_nobody_notices(stage: Stage, switch: Switch, elected: list[Host], who: int) -> None:
    before = [host.roles() for host in elected]
    facts = [host.speaker.standing().routers[0] for host in elected]
    said = [list(host.said) for host in elected]
    announced = len(switch.tap.arps())
    succeed(elected[who], one((150, 100)[who]))
    heard = len(switch.tap.adverts("192.0.2.1"))
    stage.until(lambda: len(switch.tap.adverts("192.0.2.1")) >= heard + 3)
    assert [host.roles() for host in elected] == before
    assert [host.holds() for host in elected] == [True, False]
    assert [host.said for host in elected] == said, "no state has changed"
    now = [host.speaker.standing().routers[0] for host in elected]
    assert [each.why for each in now] == [each.why for each in facts]
    assert all(abs(one.since - other.since) < 0.5 for one, other in zip(now, facts, strict=True))
    assert now[who].counters["become_master"] == facts[who].counters["become_master"]
    assert len(switch.tap.arps()) == announced, "nobody is told again where the addresses are"


def test_it_stands_in_for_a_dead_one_no_longer_than_it_knows(stage: Stage, elected: list[Host]) -> None:
    """A standby that has taken over waits for the master as the one before would have."""
    succeed(elected[1], one(100))
    elected[0].crash()
    stage.until(lambda: elected[1].role() == "MASTER")
    assert elected[1].holds()
