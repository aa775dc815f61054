from __future__ import annotations

import asyncio
import json
import socket

import pytest
import uvloop

from balancer.daemon import questions
from balancer.daemon.inquiries import Answering, Inquiries
from balancer.daemon.questions import Answer, Asking


@pytest.fixture
def line():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def on_loop(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_an_answer_comes_in_pieces_with_others_turn_in_between(line) -> None:
    made = []

    def long(asked):
        for number in range(asked["pieces"]):
            made.append(number)
            yield b"%d\n" % number * 5000

    async def main() -> Answer:
        loop = asyncio.get_running_loop()
        answering = Answering(loop, line[0], {"long": long})
        asking = Asking(line[1])
        asking.attach(loop)
        seen = set()

        def turn() -> None:
            seen.add(len(made))
            loop.call_soon(turn)

        turn()
        answer = await asking.ask("long", pieces=50)
        assert len(seen) > 40, "not one turn for all"
        assert (await asking.ask("long", pieces=0)) == Answer(True, b""), "and then it takes the next"
        answering.close()
        return answer

    answer = on_loop(main)
    assert answer.is_good and answer.octets == b"".join(b"%d\n" % number * 5000 for number in range(50))


def test_questions_wait_for_each_other(line) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        answering = Answering(loop, line[0], {"say": lambda asked: iter([asked["text"].encode()] * 3)})
        asking = Asking(line[1])
        asking.attach(loop)
        said = await asyncio.gather(*(asking.ask("say", text=str(number)) for number in range(20)))
        assert [answer.octets for answer in said] == [str(number).encode() * 3 for number in range(20)]
        answering.close()

    on_loop(main)


@pytest.mark.parametrize(
    "packet", [b"", b"\xff", b"[]", b"{}", b'{"id": 1}', b'{"id": "x", "ask": "say"}', b'{"id": 1, "ask": ["say"]}',
               b"[" * 100000, json.dumps({"id": 1, "ask": "say", "x": "y" * 200_000}).encode()]
)  # fmt: skip
def test_what_is_no_question_is_passed_over(line, packet: bytes) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        answering = Answering(loop, line[0], {"say": lambda _: iter([b"here"])})
        asking = Asking(line[1])
        asking.attach(loop)
        line[1].send(packet)
        assert (await asking.ask("say")).octets == b"here"
        answering.close()

    on_loop(main)


def test_an_answer_that_cannot_be_made_ends(line) -> None:
    def fail(asked):
        yield b"so far"
        raise KeyError(asked["x"])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answering = Answering(loop, line[0], {"fail": fail})
        asking = Asking(line[1])
        asking.attach(loop)
        for _ in range(2):
            assert (await asking.ask("fail")).octets == b"so far"
        answering.close()

    on_loop(main)


def test_who_asks_and_goes_is_no_fault(line, monkeypatch) -> None:
    """And a worker that says nothing is not waited for without end."""
    monkeypatch.setattr(questions, "_PATIENCE", 0.1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        asking = Asking(line[1], who="A worker")
        asking.attach(loop)
        assert await asking.ask("long") == Answer(False, b"A worker does not answer.")
        loop.remove_reader(line[1].fileno())
        line[1].close()
        ended = asyncio.Event()

        def long(_):
            for _ in range(100):
                yield b"x" * 100_000
            ended.set()

        answering = Answering(loop, line[0], {"long": long})
        async with asyncio.timeout(10):
            while answering._number == 0:
                await asyncio.sleep(0)
        answering.close()
        assert not ended.is_set()

    on_loop(main)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_of_thousands_of_servers_is_asked_in_portions(line, count: int) -> None:
    """Each is a question that a worker takes as a whole."""
    servers = [(f"a-backend-{number}-" + "é" * 20, f"server-{number}") for number in range(count)]
    taken: list[list[str]] = []

    def oldest(asked):
        taken.extend(asked["servers"])
        yield json.dumps([[*each, 1.5] for each in asked["servers"]]).encode()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answering = Answering(loop, line[0], {"oldest": oldest})
        asking = Asking(line[1])
        asking.attach(loop)
        it = object.__new__(Inquiries)
        it._living = lambda: [asking]  # type: ignore[method-assign]
        assert await it.oldest(servers) == dict.fromkeys(servers, 1.5)
        answering.close()

    on_loop(main)
    assert taken == [list(each) for each in servers]
