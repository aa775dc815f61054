from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from types import SimpleNamespace

import pytest

from balancer.config.vrrp import Vrrp
from balancer.daemon import speaking
from balancer.daemon.speaking import Speaking
from balancer.errors import StartError
from balancer.pool import routers
from balancer.pool.routers import Standing
from balancer.vrrp import speaker as rooms
from tests.daemon.whole import alone, is_control
from tests.e2e.bed.process import until

VRRP = {"instances": {"VI": {"interface": "eth0", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.200"}}}


class Clock:
    """Monotonic time that goes when the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Mute:
    """A speaker that has news when the test says, and does as it is told."""

    due = float("inf")
    is_notifying = False

    def __init__(self, *_: object, **__: object) -> None:
        self.has_news = False
        self.told = self.held = self.stopped = 0
        self.ends: list[tuple[int, int]] = []
        self.prepared: list[Vrrp] = []
        self.given_up: list[Vrrp] = []
        self.changed: list[Vrrp] = []
        self.has_started = False
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def start(self) -> None:
        self.has_started = True

    def turn(self) -> None:
        """Nobody has said anything."""

    def prepare(self, vrrp: Vrrp, **_: object) -> SimpleNamespace:
        if vrrp.notify_fifo is not None:
            raise StartError("no")
        self.prepared.append(vrrp)
        return SimpleNamespace(vrrp=vrrp, close=lambda: self.given_up.append(vrrp))

    def change(self, coming: SimpleNamespace) -> None:
        self.changed.append(coming.vrrp)

    def standing(self) -> Standing:
        self.has_news = False
        self.told += 1
        return Standing(at=float(self.told))

    def hold(self, name: str | None) -> list[str]:
        self.held += 1
        return []

    def stop(self) -> None:
        self.stopped += 1

    def ended(self, pid: int, status: int) -> bool:
        self.ends.append((pid, status))
        return True

    def close(self) -> None:
        for end in self._pipe:
            os.close(end)


@pytest.fixture
def generation(plan, memory):
    """One whose control may order."""
    return lambda: SimpleNamespace(memory=memory(plan({"vrrp": VRRP})))


@pytest.fixture
def beside(monkeypatch, plan, generation):
    """With a speaker of that kind, and its clock."""
    clock = Clock()
    monkeypatch.setattr(speaking, "time", clock)
    monkeypatch.setattr(rooms, "Speaker", Mute)
    with selectors.DefaultSelector() as selector:
        monkeypatch.setattr(speaking.privileges, "be_on_time", lambda: None)
        it = Speaking(generation(), selector, log=lambda *_: None)
        it.prepare(plan({"vrrp": VRRP}).config.vrrp, None)
        it.change()
        it._speaker.told = 0
        clock.now += 1
        yield it, clock, it._speaker
        it.close()


def test_news_are_told_at_most_five_times_a_second(beside):
    it, clock, speaker = beside
    told = []
    for _ in range(100):
        clock.now += 0.01
        speaker.has_news = True
        it.turn()
        told.append(speaker.told)
    assert speaker.told == 5
    assert told[0] == 1, "the first at once"
    assert it.due == pytest.approx(it._told_at + 0.2)
    clock.now += 0.2
    it.turn()
    assert routers.look(it._generation.memory.notice) == Standing(at=6.0)
    assert it.due == float("inf"), "no news is no reason to wake up"


def test_the_end_is_told_whatever_was_told_just_before_and_comes_once(beside):
    it, _, speaker = beside
    speaker.has_news = True
    it.turn()
    for _ in range(2):
        it.fall_silent()
    assert (speaker.stopped, speaker.told) == (1, 2)
    assert routers.look(it._generation.memory.notice) == Standing(at=2.0)
    speaker.has_news = True
    it.turn()
    assert speaker.told == 2


def test_who_is_told_of_the_end_gets_some_time(beside):
    it, clock, speaker = beside
    speaker.is_notifying = True
    assert not it.has_more_to_tell()
    it.fall_silent()
    assert it.has_more_to_tell()
    assert it.waits_until == clock.now + 5
    clock.now += 5
    assert not it.has_more_to_tell()


@pytest.mark.parametrize("is_flooded", [False, True])
def test_after_the_end_an_order_wakes_nobody(beside, is_flooded):
    it, _, _ = beside
    line = it._generation.memory.line
    if is_flooded:
        line.control.send(b"{}")
        it.turn()
    it.fall_silent()
    line.control.send(b"{}")
    assert it._selector.select(0) == []


@pytest.mark.parametrize("is_flooded", [False, True])
def test_after_a_reload_another_control_is_told_and_orders(beside, generation, is_flooded):
    it, _, speaker = beside
    before, after = it._generation, generation()
    if is_flooded:
        before.memory.line.control.send(b"{}")
        it.turn()
    it.follow(after)
    assert routers.look(after.memory.notice) == Standing(at=1.0)
    before.memory.line.control.send(b"{}")
    assert it._selector.select(0) == []
    packet = {"id": 1, "order": "hold", "name": None, "until": time.monotonic() + 4.0}
    after.memory.line.control.send(json.dumps(packet).encode())
    assert it._selector.select(0)
    it.turn()
    assert speaker.held == 1


def test_control_cannot_keep_it_from_speaking(beside):
    """However much it asks for."""
    it, clock, speaker = beside
    line = it._generation.memory.line
    packet = json.dumps({"id": 1, "order": "hold", "name": None, "until": time.monotonic() + 4.0}).encode()
    turns = 0
    end = clock.now + 1
    while clock.now < end:
        with contextlib.suppress(BlockingIOError):
            while True:
                line.control.send(packet)
        wakes = bool(it._selector.select(0))
        if wakes:
            it.turn()
            turns += 1
        else:
            clock.now += max(min(it.due, end) - clock.now, 0.001)
            it.turn()
    assert turns <= 20 and 0 < speaker.held <= 100


def test_programs_that_end_are_the_speakers(beside):
    it, _, speaker = beside
    it.ended(8, 3 << 8)
    it.fall_silent()
    # Started as we stopped.
    it.ended(9, 0)
    assert speaker.ends == [(8, 3 << 8), (9, 0)]


# What is to be otherwise


@pytest.fixture
def others(plan):
    """Two other configurations of virtual routers, none, and one that cannot be."""
    known = VRRP["instances"]["VI"]
    texts = [{"instances": {"VI": known | {"priority": priority}}} for priority in (90, 80)]
    made = [plan({"vrrp": text}).config.vrrp for text in texts]
    return *made, Vrrp(), made[0].model_copy(update={"notify_fifo": "/nowhere"})


def test_what_was_prepared_comes_when_it_is_told_to(beside, others):
    it, _, speaker = beside
    lower, *_ = others
    it.prepare(lower, None)
    assert (speaker.prepared, speaker.changed) == ([lower], [])
    for _ in range(2):
        it.change()
    assert speaker.changed == [lower]
    it.prepare(lower, None)
    it.change()
    assert speaker.prepared == speaker.changed == [lower], "nothing is another"


def test_what_was_prepared_may_never_come(beside, others):
    it, _, speaker = beside
    lower, lowest, _, impossible = others
    it.prepare(lower, None)
    it.give_up()
    it.change()
    it.prepare(lower, None)
    it.prepare(lowest, None)
    with pytest.raises(StartError):
        it.prepare(impossible, None)
    it.change()
    assert speaker.given_up == [lower, lower, lowest]
    assert speaker.changed == []
    it.prepare(lower, None)
    it.fall_silent()
    it.change()
    assert speaker.given_up[3:] == [lower] and speaker.changed == []


def test_virtual_routers_come_and_go_with_reloads(monkeypatch, plan, memory, generation, others):
    monkeypatch.setattr(speaking, "time", Clock())
    monkeypatch.setattr(rooms, "Speaker", Mute)
    monkeypatch.setattr(speaking.privileges, "be_on_time", lambda: None)
    without = lambda: SimpleNamespace(memory=memory(plan({})))  # noqa: E731
    lower, _, none, _ = others
    with selectors.DefaultSelector() as selector:
        it = Speaking(without(), selector, log=lambda *_: None)
        it.prepare(none, None)
        it.change()
        assert it._speaker is None
        it.prepare(lower, None)
        it.give_up()
        assert it._speaker is None and it.due == float("inf")
        it.prepare(lower, None)
        # Nobody hears of it yet.
        it.turn()
        it.follow(generation())
        assert it._speaker.told == 0
        it.change()
        speaker = it._speaker
        assert speaker.has_started
        it.turn()
        it.prepare(none, None)
        it.follow(without())
        it.change()
        it.turn()
        assert speaker.changed == [none]
        it.fall_silent()
        assert selector.get_map() == {} or not list(selector.get_map())
        it.close()


# With control and workers


@alone
def test_it_tells_why_and_takes_orders(speaking):
    it = speaking()
    why = it.ask("why", "VI")
    assert (why.returncode, why.stderr) == (0, "")
    assert [line.split() for line in why.stdout.splitlines()[1:4]] == [
        ["100", "priority"], ["----"], ["100", "effective", "priority"],
    ]  # fmt: skip
    state = {"iname": "VI", "ip_address": "192.0.2.200"}
    assert it.metric("keepalived_vrrp_state", **state) == 2
    assert it.metric("keepalived_advertisements_sent_total", iname="VI") > 0
    seen = len(it.process.out)
    done = it.ask("vrrp", "release", "VI", "--for", "30s")
    assert (done.returncode, done.stderr) == (0, "") and "VI" in done.stdout
    it.process.wait_for_line("(VI) Entering BACKUP STATE: released", after=seen)
    assert it.ask("vrrp", "hold").returncode == 0
    until(lambda: it.says("VI  MASTER", "why") and it.metric("keepalived_vrrp_state", **state) == 2, "it is back")
    unknown = it.ask("vrrp", "release", "VX")
    assert (unknown.returncode, unknown.stdout) == (1, "") and "VX" in unknown.stderr
    # Who takes the place of a dead control finds it all.
    (control,) = [pid for pid in it.process.children if is_control(pid)]
    os.kill(control, signal.SIGKILL)
    until(lambda: it.says("VI  MASTER", "why") and it.ask("vrrp", "hold").returncode == 0, "the next one knows too")


@alone
def test_a_frozen_supervisor_is_not_taken_at_its_word_and_does_no_order_later(speaking):
    it = speaking()
    os.kill(it.process.pid, signal.SIGSTOP)
    try:
        told = it.ask("vrrp", "release", "VI", "--for", "1h")
        assert (told.returncode, told.stdout) == (1, "")
        assert "The supervisor does not answer; the order has expired." in told.stderr
        until(lambda: it.says("The supervisor has been silent for", "why"), "it is noticed")
        assert it.says("The supervisor has been silent for", "vrrp", "show")
        metrics = it.metrics()
        assert "\nkeepalived_up 0\n" in metrics and "keepalived_vrrp_state" not in metrics
    finally:
        os.kill(it.process.pid, signal.SIGCONT)
    # Orders are taken in their turn.
    assert it.ask("vrrp", "hold").returncode == 0
    until(lambda: it.says("VI  MASTER", "why") and "\nkeepalived_up 1\n" in it.metrics(), "it goes on")
    assert not it.says("silent", "why")
    assert "released" not in it.process.said()


@alone
def test_workers_that_hang_cost_the_priority(speaking):
    it = speaking()
    workers = [pid for pid in it.process.children if not is_control(pid)]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 1, "it would leave the addresses")
    assert it.says("-254  workers: no worker serves here", "why")
    # On a busy machine it may have been found to hang, and another there.
    with contextlib.suppress(ProcessLookupError):
        os.kill(workers[0], signal.SIGCONT)
    until(lambda: it.metric("pybalancer_vrrp_priority", iname="VI") == 100, "one is enough")
    with contextlib.suppress(ProcessLookupError):
        os.kill(workers[1], signal.SIGCONT)
