"""Bells of other processes: each ring is heard by everybody, also by those who come late."""

from __future__ import annotations

import asyncio
import os

from balancer.proxy.wake import Bells
from tests.proxy.rig import run, turns, until


def test_everybody_hears_each_ring():
    async def main():
        loop = asyncio.get_running_loop()
        bell, other = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        heard = []
        one, two = Bells(loop), Bells(loop)
        one.listen(bell, lambda: heard.append("one"))
        two.listen(bell, lambda: heard.append("two"))
        two.listen(other, lambda: heard.append("other"))
        await turns()
        assert heard == []
        os.eventfd_write(bell, 1)
        await until(lambda: sorted(heard) == ["one", "two"])
        await turns(20)
        assert len(heard) == 2, "once"
        heard.clear()
        os.eventfd_write(bell, 1)
        os.eventfd_write(other, 1)
        await until(lambda: sorted(heard) == ["one", "other", "two"], "the next ring, though nobody answered the first")
        heard.clear()
        two.ignore(bell)
        os.eventfd_write(bell, 1)
        await until(lambda: heard == ["one"])
        late = Bells(loop)
        late.listen(bell, lambda: heard.append("late"))
        await until(lambda: heard == ["one", "late"], "it has rung before")
        for each in (one, two, late):
            each.close()
        os.close(bell)
        os.close(other)

    run(main)
