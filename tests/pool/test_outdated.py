"""What caches tell each other."""

from __future__ import annotations

import os
from random import Random

import pytest

from balancer.pool.outdated import Outdated, Voice

SLOTS = 4


def test_each_hears_the_others_and_not_itself() -> None:
    outdated = Outdated(SLOTS)
    one, two, three = (Voice(outdated, slot) for slot in range(3))
    assert one.heard() == two.heard() == ()
    one.tell(5)
    one.tell(-(1 << 63))
    three.tell((1 << 63) - 1)
    assert two.heard() == (5, -(1 << 63), (1 << 63) - 1)
    assert two.heard() == ()
    assert one.heard() == ((1 << 63) - 1,)
    assert three.heard() == (5, -(1 << 63))
    # Who comes later has an empty cache.
    assert Voice(outdated, 3).heard() == ()
    # Also in the place of one that has gone.
    again = Voice(outdated, 0)
    again.tell(9)
    assert two.heard() == (9,)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_who_has_missed_some_forgets_everything(count: int) -> None:
    outdated = Outdated(SLOTS)
    one, two = Voice(outdated, 0), Voice(outdated, 1)
    for number in range(count):
        one.tell(number)
    assert two.heard() == (tuple(range(count)) if count < 256 else None)
    one.tell(7)
    assert two.heard() == (7,)


def test_nothing_is_missed_between_processes() -> None:
    outdated = Outdated(SLOTS)
    two = Voice(outdated, 1)
    pid = os.fork()
    if not pid:
        one = Voice(outdated, 0)
        for number in range(1, 20_001):
            one.tell(number)
        os._exit(0)
    last, dice = 0, Random(1)
    while last < 20_000:
        news = two.heard()
        if news is None:
            # Whatever it was has been told before now.
            last = outdated.told[0] if outdated.told[0] == 20_000 else -1
            continue
        if last >= 0 and news:
            assert news == tuple(range(last + 1, last + 1 + len(news)))
        if news:
            last = news[-1]
        for _ in range(dice.randrange(50)):
            pass
    os.waitpid(pid, 0)
