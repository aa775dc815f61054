from __future__ import annotations

import itertools
import mmap
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.notice import Notice


def notice(longest: int = 64) -> Notice:
    return Notice(memoryview(bytearray(Notice.size(longest))))


def test_before_anything_was_written_there_is_nothing():
    assert notice().read() is None


def test_the_last_message_counts():
    it = notice()
    for message in (b"a long one to begin with", b"short", b""):
        it.write(message)
        assert it.read() == message


@given(st.lists(st.binary(max_size=64), min_size=1))
def test_any_octets_come_back(messages: list[bytes]):
    it = notice()
    for message in messages:
        it.write(message)
        assert it.read() == message


def test_what_does_not_fit_is_refused_and_the_last_one_stays():
    it = notice(16)
    it.write(b"x" * it.longest)
    with pytest.raises(ValueError, match=r"17 octets do not fit into 16"):
        it.write(b"y" * 17)
    assert it.read() == b"x" * 16


def test_one_that_is_being_written_is_no_message_until_it_is_whole():
    """The writer died half way, or the memory of another processor shows it half."""
    block = memoryview(bytearray(Notice.size(64)))
    it = Notice(block)
    it.write(b"whole")
    numbers = block[:24].cast("q")
    numbers[0] += 1
    assert it.read() is None, "a writer at work"
    it.write(b"again whole")
    assert it.read() == b"again whole"
    block[24:25] = b"X"
    assert it.read() is None, "not what the checksum is of"
    numbers[1] = -1
    assert it.read() is None
    numbers[1] = 1 << 60
    assert it.read() is None


def test_no_reader_ever_sees_a_mixture():
    with mmap.mmap(-1, Notice.size(100_000)) as memory:
        it = Notice(view := memoryview(memory))
        pid = os.fork()
        if not pid:
            # It ends by itself if nobody ends it.
            signal.alarm(60)
            for number in itertools.count(1):
                it.write(bytes([number % 251]) * (number * 31 % 90_000 + 1))
        seen = set()
        try:
            while len(seen) < 100:
                message = it.read()
                if message is not None:
                    assert message == message[:1] * len(message)
                    seen.add(message[0])
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        it._head.release()
        it._room.release()
        view.release()
