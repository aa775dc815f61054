"""The coarse clock and the sweep over deadlines."""

from __future__ import annotations

import time

from balancer.proxy.sweep import NEVER, Clock, Sweeper


class Member:
    def __init__(self, sweeper, deadline):
        self.sweeper = sweeper
        self.deadline = deadline
        self.expired = []
        sweeper.members.add(self)

    def expire(self, now):
        self.expired.append(now)
        self.deadline = NEVER

    def report(self):
        pass

    def finish_up(self):
        pass

    def kill(self, termination):
        pass


def test_the_clock_stands_between_two_sweeps():
    clock = Clock()
    before = clock.now, clock.wall
    assert time.monotonic() >= clock.now
    assert (clock.now, clock.wall) == before
    Sweeper(clock).sweep()
    assert clock.now > before[0]
    assert abs(clock.wall - time.time()) < 1


def test_what_is_due_expires_once_and_is_told_the_time():
    clock = Clock()
    sweeper = Sweeper(clock)
    due = Member(sweeper, clock.now)
    waiting = Member(sweeper, clock.now + 1000)
    never = Member(sweeper, NEVER)
    sweeper.sweep()
    assert due.expired == [clock.now]
    sweeper.sweep()
    assert len(due.expired) == 1
    assert waiting.expired == never.expired == []


def test_who_gets_more_time_from_another_that_expires_does_not():
    clock = Clock()
    sweeper = Sweeper(clock)

    class Giving(Member):
        def expire(self, now):
            super().expire(now)
            for each in members:
                each.deadline = NEVER

    members = [Giving(sweeper, clock.now) for _ in range(5)]
    sweeper.sweep()
    assert sum(len(member.expired) for member in members) == 1


def test_a_member_may_leave_and_others_may_come_as_it_expires():
    clock = Clock()
    sweeper = Sweeper(clock)

    class Leaving(Member):
        def expire(self, now):
            super().expire(now)
            self.sweeper.members.discard(self)
            Member(self.sweeper, now - 1)

    for _ in range(10):
        Leaving(sweeper, clock.now)
    sweeper.sweep()
    assert len(sweeper.members) == 10
    # The new ones are looked at in the next sweep.
    assert not any(member.expired for member in sweeper.members)
    sweeper.sweep()
    assert all(len(member.expired) == 1 for member in sweeper.members)
