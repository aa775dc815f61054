from __future__ import annotations

import asyncio
import json
import os
import socket
import time

import pytest
import uvloop

from balancer.daemon import questions
from balancer.daemon.questions import Answer, Answering, Asking
from balancer.errors import KernelError


@pytest.fixture
def line():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


class Kernel:
    """Answers what the test wants."""

    def __init__(self, end: socket.socket) -> None:
        self.heard: list[tuple[str, bool]] = []
        self.said: bytes | Exception = b"rules\n"
        self.it = Answering(end, self._answer)

    def _answer(self, asked: str, is_numeric: bool) -> bytes:
        self.heard.append((asked, is_numeric))
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def wait(self) -> None:
        """Until it takes questions again."""
        time.sleep(max(0.0, self.it.due - time.monotonic()))


@pytest.fixture
def kernel(line):
    return Kernel(line[0])


def talk(end: socket.socket, kernel: Kernel | None, *asked: str) -> list[Answer]:
    """Ask all at once, with `kernel` at the other end."""

    async def main() -> list[Answer]:
        asking = Asking(end)
        loop = asyncio.get_running_loop()
        asking.attach(loop)

        async def serve() -> None:
            while kernel is not None:
                kernel.it.turn()
                await asyncio.sleep(0)

        serving = asyncio.create_task(serve())
        try:
            answers = await asyncio.gather(*(asking.ask(what, is_numeric=what == "connections") for what in asked))
        finally:
            serving.cancel()
        assert not asking._waiting
        return list(answers)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_a_question_has_its_answer(line, kernel):
    assert talk(line[1], kernel, "rules", "connections") == [Answer(True, b"rules\n")] * 2
    assert kernel.heard == [("rules", False), ("connections", True)]


@pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 8_000_000])
def test_long_answers_come_in_pieces(line, kernel, size):
    kernel.said = os.urandom(size)
    assert talk(line[1], kernel, "rules") == [Answer(True, kernel.said)]


def test_what_is_too_long_is_cut_off(line, kernel, monkeypatch):
    monkeypatch.setattr(questions, "LONGEST_ANSWER", 100_000)
    kernel.said = b"x" * 200_000
    assert talk(line[1], kernel, "rules") == [Answer(True, b"x" * 100_000)]


@pytest.mark.parametrize("error", [KernelError("the kernel says no"), OSError("the kernel says no")])
def test_why_there_is_none(line, kernel, error):
    kernel.said = error
    assert talk(line[1], kernel, "rules") == [Answer(False, b"the kernel says no")]


def test_who_does_not_answer_is_not_waited_for(line, monkeypatch):
    monkeypatch.setattr(questions, "_PATIENCE", 0.05)
    assert talk(line[1], None, "rules") == [Answer(False, b"The kernel process does not answer.")]


def test_what_a_dead_control_has_asked_is_nothing_to_the_next(line, kernel):
    line[1].send(json.dumps({"id": 5, "ask": "rules"}).encode())
    kernel.said = b"x" * 300_000
    assert talk(line[1], kernel, "services") == [Answer(True, kernel.said)]
    assert [what for what, _ in kernel.heard] == ["rules", "services"]


@pytest.mark.parametrize(
    "packet",
    [b"", b"x", b"[]", b"{}", b"7", b'{"id": 1}', b'{"ask": "rules"}', b'{"id": -1, "ask": "rules"}',
     b'{"id": 1e999, "ask": "rules"}', b'{"id": 99999999999999999999999, "ask": ""}', b"[" * 1000, b"\xff\xfe"],
)  # fmt: skip
def test_what_is_no_question_is_not_answered(line, kernel, packet):
    if packet:
        line[1].send(packet)
    kernel.it.turn()
    assert kernel.heard == []
    with pytest.raises(BlockingIOError):
        line[1].recv(100)


def test_answers_that_nobody_takes_hold_nobody_up(line, kernel):
    kernel.said = b"x" * 5_000_000
    line[1].send(b'{"id": 1, "ask": "rules"}')
    kernel.it.turn()
    assert kernel.it.is_sending
    began = time.monotonic()
    for _ in range(100):
        kernel.it.turn()
    assert time.monotonic() - began < 1 and len(kernel.heard) == 1


def test_answers_leave_time_for_other_work(line, kernel, monkeypatch):
    """However fast one asks."""
    clock = [1000.0]
    monkeypatch.setattr(questions.time, "monotonic", lambda: clock[0])

    def answer(asked: str, is_numeric: bool) -> bytes:
        clock[0] += 1.0
        kernel.heard.append((asked, is_numeric))
        return b"."

    kernel.it._answer = answer
    for number in range(3):
        line[1].send(json.dumps({"id": number, "ask": "rules"}).encode())
    kernel.it.turn()
    kernel.it.turn()
    assert (len(kernel.heard), kernel.it.due) == (1, 1004.0)
    clock[0] = 1004.0
    kernel.it.turn()
    assert len(kernel.heard) == 2


# What takes long


class Slow:
    """Answers `slow` by a process of its own."""

    def __init__(self, end: socket.socket) -> None:
        self.it = Answering(end, self._answer, aside=("slow",))
        self.pid = os.getpid()
        self.hears, self.tells = os.pipe()
        self.size = 0

    def _answer(self, asked: str, is_numeric: bool) -> bytes:
        assert (os.getpid() == self.pid) == (asked == "quick")
        if asked == "quick":
            return b"quick\n"
        if self.size:
            return bytes(self.size)
        # Once the test says so.
        word = os.read(self.hears, 100).decode()
        if word == "die":
            os.kill(os.getpid(), 9)
        if word == "fail":
            raise KernelError("no such table")
        if word == "eat":
            bytearray(2 << 30)
        return word.encode()


@pytest.fixture
def slow(line):
    made = Slow(line[0])
    yield made
    os.close(made.hears)
    os.close(made.tells)
    while made.it._child:
        made.it.reap()


def asked(end: socket.socket, slow: Slow, *words: str, tell: str = "") -> list[Answer]:
    """`tell` is told to the slow one once all others have been answered."""

    async def main() -> list[Answer]:
        asking = Asking(end)
        asking.attach(asyncio.get_running_loop())

        async def serve() -> None:
            while True:
                slow.it.turn()
                if slow.it.is_busy:
                    slow.it.reap()
                await asyncio.sleep(0)

        serving = asyncio.create_task(serve())
        try:
            all_asked = [asyncio.create_task(asking.ask(what)) for what in words]
            if tell:
                await asyncio.gather(*(task for task, what in zip(all_asked, words, strict=True) if what != "slow"))
                assert not any(task.done() for task, what in zip(all_asked, words, strict=True) if what == "slow")
                os.write(slow.tells, tell.encode())
            return list(await asyncio.gather(*all_asked))
        finally:
            serving.cancel()

    return asyncio.run(main())


def test_what_takes_long_keeps_nobody_waiting(line, slow, monkeypatch):
    monkeypatch.setattr(questions, "_REST", 0)
    assert asked(line[1], slow, "slow", "quick", "quick", tell="at last") == [
        Answer(True, b"at last"), Answer(True, b"quick\n"), Answer(True, b"quick\n")
    ]  # fmt: skip


def test_one_process_at_a_time_and_not_too_many(line, slow, monkeypatch):
    slow.size = 5 << 20
    monkeypatch.setattr(questions, "_MOST_WAITING", 2)
    answers = asked(line[1], slow, *["slow"] * 4)
    assert answers[:3] == [Answer(True, bytes(slow.size))] * 3
    assert answers[3] == Answer(False, b"Too much is asked of the kernel process.")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("fail", b"no such table"),
        ("die", b"It takes more time or memory to tell than is good for this host: ask nft(8) or conntrack(8)."),
        ("eat", b"It takes more time or memory to tell than is good for this host: ask nft(8) or conntrack(8)."),
    ],
)
def test_a_process_that_fails_says_so_or_it_is_said(line, slow, told, said):
    assert asked(line[1], slow, "slow", tell=told) == [Answer(False, said)]
    assert asked(line[1], slow, "slow", tell="again") == [Answer(True, b"again")]


def test_a_process_that_takes_too_long_is_ended(line, slow, monkeypatch):
    monkeypatch.setattr(questions, "_LONGEST", 1)
    (answer,) = asked(line[1], slow, "slow")
    assert not answer.is_good and answer.octets.startswith(b"It takes more time")
