"""Who asks for a reload, and what is answered, over the control processes' heads."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator

import pytest

from balancer.daemon import reloads
from balancer.daemon.reloads import Docket, Reloading, Reloads
from balancer.observe import reloading
from balancer.observe.servers import SuccessionError
from balancer.observe.steering import SteeringError


class Log:
    def __init__(self) -> None:
        self.said: list[str] = []

    def event(self, _: object, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def shared() -> Iterator[Reloads]:
    made = Reloads()
    yield made
    made.close()


def control(shared: Reloads) -> Reloading:
    made = Reloading(shared, Log())  # type: ignore[arg-type]
    made.start(asyncio.get_running_loop())
    return made


def outcome(report: bytes) -> str:
    return str(json.loads(report.partition(b"\n")[0])["outcome"])


def test_asked_and_answered(shared: Reloads) -> None:
    docket = Docket(shared)

    async def run() -> None:
        asking = control(shared)
        order = asyncio.create_task(asking(False, None, "me"))
        await asyncio.sleep(0)
        docket.hear()
        assert docket.has_orders and docket.wants("reload") and not docket.wants_a_look
        docket.begin("reload")
        assert not docket.has_orders and not docket.is_looking
        docket.find(reloading.body([], ["mind"]))
        docket.end("reloaded", "x")
        number, report = await order
        assert (number, outcome(report)) == (1, "reloaded")
        assert json.loads(reloading.document(report))["warnings"] == ["mind"]
        assert asking._log.said == ["me: reload"]  # type: ignore[attr-defined]
        # Who only wants to know.
        assert await asking(False, None, "") == (0, report)
        asking.leave()

    asyncio.run(run())


def test_several_are_one_and_a_look_is_another_matter(shared: Reloads) -> None:
    docket = Docket(shared)

    async def run() -> None:
        asking = control(shared)
        orders = [asyncio.create_task(asking(False, None, "me")) for _ in range(3)]
        look = asyncio.create_task(asking(True, None, "me"))
        await asyncio.sleep(0)
        docket.begin("reload")
        late = asyncio.create_task(asking(False, None, "late"))
        await asyncio.sleep(0)
        docket.end("refused", "x", "why")
        assert {outcome((await order)[1]) for order in orders} == {"refused"}
        assert not late.done() and not look.done() and docket.wants("reload") and docket.wants_a_look
        docket.begin("dry-run")
        assert docket.is_looking
        docket.end("checked", "x")
        assert outcome((await look)[1]) == "checked"
        docket.begin("reload")
        docket.end("reloaded", "x")
        assert outcome((await late)[1]) == "reloaded"
        asking.leave()

    asyncio.run(run())


def test_the_next_control_process_answers(shared: Reloads) -> None:
    docket = Docket(shared)

    async def run() -> None:
        first = control(shared)
        order = asyncio.create_task(first(False, None, "me"))
        await asyncio.sleep(0)
        docket.begin("reload")
        first.leave()
        with pytest.raises(SuccessionError) as raised:
            await order
        (number,) = raised.value.args
        second = control(shared)
        waiting = asyncio.create_task(second(False, number, ""))
        await asyncio.sleep(0)
        assert not waiting.done()
        docket.end("reloaded", "x")
        assert outcome((await waiting)[1]) == "reloaded"
        # One that comes later still finds it.
        assert outcome((await second(False, number, ""))[1]) == "reloaded"
        # Nobody waits for what nobody has asked for.
        assert outcome((await second(False, 99, ""))[1]) == "reloaded"
        second.leave()
        assert outcome((await second(False, number, ""))[1]) == "reloaded"
        with pytest.raises(SuccessionError):
            await second(True, None, "me")

    asyncio.run(run())


def test_nobody_answers(shared: Reloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloads, "_PATIENCE", 0.05)

    async def run() -> None:
        asking = control(shared)
        with pytest.raises(SteeringError, match="It takes long"):
            await asking(False, None, "me")
        asking.leave()

    asyncio.run(run())


def test_a_look_leaves_time_for_others(shared: Reloads) -> None:
    docket = Docket(shared)
    shared.ask("dry-run")
    docket.begin("dry-run")
    docket.end("checked", "x")
    shared.ask("dry-run")
    assert docket.has_orders and not docket.wants_a_look


def test_a_bell_that_somebody_has_filled_rings(shared: Reloads) -> None:
    os.eventfd_write(shared.told, (1 << 64) - 2)
    docket = Docket(shared)
    shared.ask("reload")
    docket.begin("reload")
    docket.end("reloaded", "it.yaml")
    assert shared.done("reload") == 1


def test_a_reload_that_nobody_has_asked_for_can_be_shown(shared: Reloads) -> None:
    docket = Docket(shared)
    docket.begin("reload")
    docket.end("reloaded", "x")
    assert outcome(shared.report("reload")) == "reloaded"
    before = shared.report("reload")
    # What has not begun has no end.
    docket.end("refused", "x")
    assert shared.report("reload") == before and shared.report("dry-run") == b""


def test_what_is_too_long_to_tell_is_cut(shared: Reloads) -> None:
    docket = Docket(shared)
    docket.begin("reload")
    docket.find(b'{"changes": ["' + b"x" * (17 << 20) + b'"], "more": 0, "warnings": [], "choices": []}')
    docket.end("reloaded", "x")
    assert json.loads(reloading.document(shared.report("reload")))["changes"] == []
