"""Servers that are to be others: what is asked of the supervisor, and what comes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from balancer.daemon import shipyard
from balancer.daemon.logbook import Logbook, Refusal
from balancer.daemon.remembered import Remembered
from balancer.daemon.shipyard import Shipyard
from balancer.observe.log import Level
from balancer.observe.reason import Reason
from balancer.observe.servers import Order, SuccessionError
from balancer.observe.steering import SteeringError
from balancer.pool import overlay
from balancer.pool.overrides import Override

ADD = Order("b", "new", added={"address": "127.0.0.1:3", "check": False})
MOVE = Order("b", "s1", address="127.0.0.1:4")


class Yard:
    """Control and a supervisor, in one."""

    def __init__(self, plan) -> None:
        self.logbook = Logbook()
        self.said: list[str] = []
        self.remembered = Remembered(plan.written, self.logbook, self)  # type: ignore[arg-type]
        self.plan = plan
        self.yard = Shipyard(plan, self.remembered, self.logbook, self)  # type: ignore[arg-type]

    def event(self, level: Level, text: str) -> None:
        self.said.append(text)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.remembered.start(loop, lambda each: None)
        self.yard.start(loop)

    async def asked(self) -> int:
        while not self.logbook.is_asked():
            await asyncio.sleep(0)
        return self.logbook.wish

    @property
    def kept(self) -> list[str]:
        return [f"{each.target[1]} {each.told}" for each in self.remembered.all]


@pytest.fixture
def yard(plan):
    servers = {"s1": "127.0.0.1:1", "s2": "127.0.0.1:2"}
    made = Yard(plan({"backends": {"b": {"servers": servers}}}))
    yield made
    made.logbook.close()


def test_another_process_answers(yard: Yard) -> None:
    async def run() -> None:
        await yard.start()
        order = asyncio.create_task(yard.yard(ADD, "somebody"))
        assert await yard.asked() == 1
        assert yard.logbook.read().keys() == {(("b", "new"), "added"), (("b", "new"), "state")}, "for the supervisor"
        yard.yard.leave()
        with pytest.raises(SuccessionError):
            await order
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.said == ["somebody: add server b/new 127.0.0.1:3"]
    assert yard.kept == ["new added at 127.0.0.1:3", "new state maint"]


def test_what_is_refused_is_as_it_was_before(yard: Yard) -> None:
    async def run() -> None:
        await yard.start()
        yard.remembered.keep(("b", "s2"), "state", "maint", by="x")
        orders = [asyncio.create_task(yard.yard(each, "x")) for each in (ADD, MOVE, Order("b", "s2", is_deleted=True))]
        await asyncio.sleep(0)
        wish = await yard.asked()
        assert wish == 3
        yard.logbook.refuse(Refusal(1, "too early to be about all"))
        await asyncio.sleep(0.05)
        assert not any(order.done() for order in orders)
        yard.logbook.refuse(Refusal(wish, "no such interface"))
        for order in orders:
            with pytest.raises(SteeringError, match="no such interface"):
                await order
        await yard.yard.settle()
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.kept == ["s2 state maint"]
    assert sorted(yard.said[-3:]) == [f"b/{name} stays as it is: no such interface" for name in ("new", "s1", "s2")]


def test_why_and_until_when_one_is_deleted_is_remembered(yard: Yard) -> None:
    until = time.time() + 1000

    async def run() -> None:
        await yard.start()
        yard.remembered.keep(("b", "new"), "added", ADD.added, by="x", configured=None)
        with pytest.raises(SteeringError, match="It is not in the configuration"):
            await yard.yard(Order("b", "new", is_deleted=True, reason=Reason("new disk", until)), "x")
        order = asyncio.create_task(yard.yard(Order("b", "s2", is_deleted=True, reason=Reason("new disk", until)), "x"))
        yard.logbook.refuse(Refusal(await yard.asked(), ""))
        await order
        deleted = yard.remembered.get(("b", "s2"), "deleted")
        assert deleted is not None and (deleted.why, deleted.until) == ("new disk", until)
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.said == ["x: del server b/s2 (new disk)"]


def test_what_was_done_meanwhile_needs_no_other_process(yard: Yard) -> None:
    async def run() -> None:
        await yard.start()
        order = asyncio.create_task(yard.yard(MOVE, "x"))
        yard.logbook.refuse(Refusal(await yard.asked(), ""))
        await order
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.kept == ["s1 address 127.0.0.1:4"]


def test_whoever_comes_after_goes_on(yard: Yard) -> None:
    """What was wished when its predecessor died is wished again, and forgotten where it cannot be."""

    async def run() -> None:
        yard.remembered.keep(("b", "s1"), "address", "[fe80::1%nowhere]:1", by="x")
        await yard.start()
        wish = await yard.asked()
        yard.logbook.refuse(Refusal(wish, "no such interface"))
        with pytest.raises(SteeringError):
            await yard.yard.settle()
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.kept == []


def test_whoever_comes_again_as_others_did_not_come_up_does_not_ask_again(yard: Yard, monkeypatch) -> None:
    """Who has asked is handed over to it, and told."""
    monkeypatch.setattr(shipyard, "_A_MOMENT", 0.05)

    async def run() -> None:
        await yard.start()
        yard.remembered.keep(("b", "new"), "added", ADD.added, by="x", configured=None)
        yard.logbook.ask()
        yard.logbook.is_asked()
        yard.yard.leave()
        yard.logbook.refuse(Refusal(1, "control died"))
        asyncio.get_running_loop().remove_reader(yard.logbook.refusals)
        yard.yard = Shipyard(yard.plan, yard.remembered, yard.logbook, yard)  # type: ignore[arg-type]
        yard.yard.start(asyncio.get_running_loop())
        with pytest.raises(SteeringError, match="control died"):
            await yard.yard.settle()
        assert not yard.logbook.is_asked()
        await yard.yard.settle()
        await yard.remembered.close()

    asyncio.run(run())
    assert yard.kept == [] and yard.said == ["b/new stays as it is: control died"]


def test_what_is_as_wished_needs_nothing(yard: Yard) -> None:
    async def run() -> None:
        move = Override(("b", "s1"), "address", "127.0.0.1:4", "127.0.0.1:1", "x", 1.0)
        yard.remembered.put([move])
        plan = dataclasses.replace(yard.plan, laid=overlay.structural([move]))
        again = Shipyard(plan, yard.remembered, yard.logbook, yard)  # type: ignore[arg-type]
        again.start(asyncio.get_running_loop())
        await again.settle()
        assert not yard.logbook.is_asked()

    asyncio.run(run())


def test_whoever_comes_after_answers_when_those_of_before_are_told(yard: Yard) -> None:
    async def run() -> None:
        wish = yard.logbook.ask()
        assert yard.logbook.is_asked()
        await yard.start()
        settled = asyncio.create_task(yard.yard.settle())
        await asyncio.sleep(0.02)
        assert not settled.done()
        yard.logbook.refuse(Refusal(wish, ""))
        await settled

    asyncio.run(run())


def test_a_server_that_was_added_is_forgotten_with_all_of_it(yard: Yard) -> None:
    async def run() -> None:
        await yard.start()
        orders = [asyncio.create_task(yard.yard(ADD, "x"))]
        await yard.asked()
        (added,) = yard.remembered.drop(("b", "new"), ("added",))
        yard.yard.undo(added)
        assert yard.kept == [] and await yard.asked() == 2
        orders.append(asyncio.create_task(yard.yard(Order("b", "s2", is_deleted=True), "x")))
        assert await yard.asked() == 3
        orders.append(asyncio.create_task(yard.yard(dataclasses.replace(ADD, server="s2"), "x")))
        assert await yard.asked() == 4 and yard.kept[0] == "s2 deleted"
        orders.append(asyncio.create_task(yard.yard(Order("b", "s2", is_deleted=True), "x")))
        assert await yard.asked() == 5 and yard.kept == ["s2 deleted"]
        yard.yard.leave()
        await asyncio.gather(*orders, return_exceptions=True)
        await yard.remembered.close()

    asyncio.run(run())


def test_a_supervisor_that_says_nothing_is_not_waited_for_for_ever(yard: Yard, monkeypatch) -> None:
    monkeypatch.setattr(shipyard, "_PATIENCE", 0.01)

    async def run() -> None:
        await yard.start()
        with pytest.raises(SteeringError, match="It takes long"):
            await yard.yard(MOVE, "x")
        await yard.remembered.close()

    asyncio.run(run())
