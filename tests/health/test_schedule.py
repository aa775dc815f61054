from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.health.schedule import Schedule, Slot


class World:
    """Checks that take as long as told, on a clock of its own."""

    def __init__(self, places=1000, interval=2.0, takes=0.001):
        self.schedule: Schedule[Slot] = Schedule(places)
        self.now = 0.0
        self.interval = interval
        self.takes = takes
        self.starts = {}
        self.most = 0
        self._ends = []
        self._order = itertools.count()

    def add(self, count):
        slots = [Slot() for _ in range(count)]
        for slot in slots:
            self.starts[slot] = []
            self.schedule.add(slot, self.now, self.interval)
        return slots

    def duration(self, slot):
        return self.takes[slot] if isinstance(self.takes, dict) else self.takes

    def until(self, end):
        """Let time pass; True if nothing remains to be done before `end`."""
        while True:
            for slot in self.schedule.take(self.now, 10**6):
                self.starts[slot].append(self.now)
                heapq.heappush(self._ends, (self.now + self.duration(slot), next(self._order), slot))
            self.most = max(self.most, len(self._ends))
            wake = self.schedule.wake_at()
            moments = [moment for moment in (wake, self._ends[0][0] if self._ends else None) if moment is not None]
            if not moments or min(moments) > end:
                self.now = end
                return
            self.now = max(self.now, min(moments))
            while self._ends and self._ends[0][0] <= self.now:
                _, _, slot = heapq.heappop(self._ends)
                if slot.is_running:
                    self.schedule.finish(slot, self.interval, is_prompt=self.duration(slot) < self.interval / 2)


def gaps(starts):
    return [after - before for before, after in itertools.pairwise(starts)]


def test_the_first_checks_start_at_once_and_then_spread_over_the_interval():
    world = World()
    slots = world.add(5000)
    world.until(0.0)
    assert all(world.starts[slot] == [0.0] for slot in slots[:500])
    world.until(10.0)
    in_each_tenth = [0] * 100
    for starts in world.starts.values():
        for start in starts:
            in_each_tenth[min(int(start * 10), 99)] += 1
    # From the second interval on: 5000 checks in 2 s are 250 in each tenth of a second.
    assert all(225 <= count <= 275 for count in in_each_tenth[40:])


def test_three_servers_are_spread_as_well():
    world = World(interval=3.0)
    slots = world.add(3)
    world.until(9.0)
    moments = sorted(world.starts[slot][-1] % 3.0 for slot in slots)
    assert min(gaps([*moments, moments[0] + 3.0])) > 0.5


def test_checks_do_not_drift():
    world = World(interval=2.0, takes=0.7)
    (slot,) = world.add(1)
    world.until(2000.0)
    assert all(gap == pytest.approx(2.0, abs=0.006) for gap in gaps(world.starts[slot])[1:])
    assert len(world.starts[slot]) == pytest.approx(1000, abs=2)


def test_a_check_that_takes_the_whole_interval_is_followed_by_the_next():
    world = World(interval=2.0, takes=2.0)
    (slot,) = world.add(1)
    world.until(100.0)
    assert all(gap == pytest.approx(2.0, abs=0.01) for gap in gaps(world.starts[slot])[1:])


def test_a_check_that_takes_longer_than_its_interval_never_runs_twice_at_once():
    world = World(interval=1.0, takes=3.5)
    (slot,) = world.add(1)
    world.until(100.0)
    assert min(gaps(world.starts[slot])) >= 3.5
    assert max(gaps(world.starts[slot])) <= 4.0


def test_after_a_stall_each_slot_checks_once_and_returns_to_its_own_moment():
    world = World(interval=2.0)
    slots = world.add(200)
    world.until(10.0)
    moments = {slot: world.starts[slot][-1] % 2.0 for slot in slots}
    counts = {slot: len(world.starts[slot]) for slot in slots}
    world.now = 17.3
    world.until(17.3)
    assert all(len(world.starts[slot]) == counts[slot] + 1 for slot in slots)
    world.until(40.0)
    for slot in slots:
        away = abs(world.starts[slot][-1] % 2.0 - moments[slot])
        assert min(away, 2.0 - away) < 0.02


def test_a_hint_brings_the_check_forward_once_and_leaves_the_grid_alone():
    world = World(interval=10.0)
    (slot,) = world.add(1)
    world.until(32.0)
    assert world.starts[slot][-1] == 30.0
    world.schedule.hurry(slot, 32.0, 1.0)
    world.schedule.hurry(slot, 32.0, 1.0)
    world.until(60.0)
    assert world.starts[slot][-4:] == [30.0, 32.0, 40.0, 50.0] or world.starts[slot][-5:] == [
        30.0,
        32.0,
        40.0,
        50.0,
        60.0,
    ]


def test_hints_in_masses_check_no_more_often_than_the_gap():
    world = World(interval=10.0)
    (slot,) = world.add(1)
    for tenth in range(300):
        world.schedule.hurry(slot, world.now, 1.0)
        world.until(tenth / 10)
    assert min(gaps(world.starts[slot])) >= 0.99
    assert len(world.starts[slot]) <= 31


def test_a_hint_never_delays_a_check():
    world = World(interval=2.0)
    (slot,) = world.add(1)
    world.until(3.9)
    due = slot.due
    world.schedule.hurry(slot, 3.9, 100.0)
    assert slot.due == due


def test_places_are_never_exceeded_and_everyone_gets_a_turn():
    world = World(places=10, interval=2.0, takes=0.05)
    slots = world.add(100)
    world.until(10.0)
    assert world.most <= 10
    assert all(len(world.starts[slot]) >= 3 for slot in slots)


def test_servers_that_vanished_do_not_delay_the_checks_of_others():
    world = World(places=20, interval=2.0, takes={})
    slots = world.add(200)
    alive, gone = slots[:20], slots[20:]
    world.takes = dict.fromkeys(slots, 0.01)
    world.until(10.0)
    # 180 servers fall silent: their checks run into the timeout of two seconds.
    world.takes |= dict.fromkeys(gone, 2.0)
    # Until each of them is known to be silent they hold all 20 places: 180 * 2 s / 20.
    world.until(10.0 + 18.0 + 4.0)
    begin = world.now
    world.until(begin + 50.0)
    for slot in alive:
        recent = [start for start in world.starts[slot] if start > begin]
        assert max(gaps(recent)) < 2.1
    assert all(world.starts[slot][-1] > begin for slot in gone)


def test_a_removed_slot_frees_its_place_and_never_comes_back_by_itself():
    world = World(places=1, interval=1.0, takes=0.1)
    first, second = world.add(2)
    (running,) = world.schedule.take(0.0, 9)
    assert running is first
    world.schedule.remove(first)
    assert world.schedule.take(0.0, 9) == [second]
    world.schedule.finish(second, 1.0, is_prompt=True)
    world.schedule.remove(second)
    assert world.schedule.wake_at() is None
    world.schedule.at_once(first, 5.0)
    assert world.schedule.take(5.0, 9) == [first]


def test_a_slot_removed_while_it_waits_for_a_place_is_passed_over():
    world = World(places=2)
    first, second, third = world.add(3)
    assert world.schedule.take(0.0, 1) == [first]
    world.schedule.remove(second)
    world.schedule.finish(first, 1.0, is_prompt=True)
    assert world.schedule.take(0.0, 9) == [third]


def test_most_bounds_what_starts_in_one_turn_and_the_rest_is_due_at_once():
    world = World()
    world.add(30)
    assert len(world.schedule.take(0.0, 20)) == 20
    assert world.schedule.wake_at() == float("-inf")
    assert len(world.schedule.take(0.0, 20)) == 10


@given(
    st.lists(st.tuples(st.sampled_from(["pass", "hint", "remove", "again"]), st.floats(0, 5)), max_size=60),
    st.integers(1, 5),
    st.floats(0.05, 3),
)
def test_whatever_happens_places_hold_and_no_slot_is_lost(steps, places, takes):
    world = World(places=places, interval=1.0, takes=takes)
    slots = world.add(6)
    removed = False
    for step, time in steps:
        if step == "pass":
            world.until(world.now + time)
        elif step == "hint":
            world.schedule.hurry(slots[0], world.now, 0.3)
        elif step == "remove":
            world.schedule.remove(slots[0])
            removed = True
        else:
            world.schedule.at_once(slots[0], world.now)
            removed = False
        assert sum(slot.is_running for slot in slots) <= places
    begin = world.now
    world.until(begin + 60.0)
    for slot in slots[removed:]:
        assert world.starts[slot][-1] > begin
