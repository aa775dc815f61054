from __future__ import annotations

import os
import time

from balancer.daemon.effort import Effort, Idleness

SECOND = 1_000_000


def test_idle_is_the_time_in_which_there_was_nothing_to_do() -> None:
    it = Idleness()
    assert it.percent == 100
    it.feed({0: (5 * SECOND, 100 * SECOND), 1: (0, 100 * SECOND)})
    assert it.percent == 100, "nobody knows yet"
    it.feed({0: (6 * SECOND, 101 * SECOND), 1: (0, 101 * SECOND)})
    assert it.percent == 50, "of two workers one had all to do"
    it.feed({0: (6 * SECOND + SECOND // 4, 102 * SECOND), 1: (SECOND // 4, 102 * SECOND)})
    assert it.percent == 75
    it.feed({0: (6 * SECOND + SECOND // 4, 102 * SECOND), 1: (SECOND // 4, 102 * SECOND)})
    assert it.percent == 75, "they have told nothing new"
    it.feed({0: (0, 0), 1: (SECOND // 2, 103 * SECOND)})
    assert it.percent == 75, "one has ended"
    it.feed({0: (SECOND, 104 * SECOND), 1: (3 * SECOND, 104 * SECOND)})
    assert 0 <= it.percent <= 100


def test_what_is_spent_is_what_a_process_wants_of_a_processor() -> None:
    it = Effort()
    try:
        began, before = time.monotonic(), it.spent
        while time.monotonic() - began < 0.1:
            pass
        busy = it.spent - before
        # It ran, or would have: whatever else this machine had to do.
        assert 90_000 <= busy <= (time.monotonic() - began) * 1.2e6 + 20_000
        before = it.spent
        time.sleep(0.2)
        assert it.spent - before < 150_000
    finally:
        it.close()


def test_where_the_kernel_does_not_tell_it_is_what_it_ran(monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", refuse)
    it = Effort()
    before = it.spent
    sum(range(2_000_000))
    assert it.spent > before
    it.close()
