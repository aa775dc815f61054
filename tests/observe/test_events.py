from __future__ import annotations

import asyncio
import json

import pytest

from balancer.observe.command import Desk, Level, Session, obey
from balancer.observe.events import Question, answer, question
from balancer.pool.journal import Batch, Event
from tests.observe.conftest import NOW

EVENTS = [
    Event(NOW - 7200, 5, "supervisor", "pybalancer starts, 2 workers"),
    Event(NOW - 60, 1, "control", "Server web/web1 is DOWN"),
    Event(NOW - 61, 4, "worker 0", "frontend web is \x1b[31mfull"),
]


def asked(words: str, batch: Batch | None = None) -> str:
    batch = batch or Batch(EVENTS, "0a1b2c3d.99", True)
    heard: list[str] = []

    def read(cursor: str) -> Batch:
        heard.append(cursor)
        return batch

    desk = Desk(now=lambda: NOW, events=read)
    said = asyncio.run(obey(["show", "events", *words.split()], Session(Level.USER), desk))
    asked.cursors = heard  # type: ignore[attr-defined]
    return said


def test_they_are_told_in_order_and_in_the_logs_form() -> None:
    lines = asked("").splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "NOTICE supervisor: pybalancer starts, 2 workers",
        "WARNING worker 0: frontend web is #1B[31mfull",
        "ALERT control: Server web/web1 is DOWN",
    ]
    assert all(line.startswith("[") for line in lines)


@pytest.mark.parametrize(
    ("words", "sources"),
    [
        ("last 1", ["control"]), ("last 0", []), ("last 9", ["supervisor", "worker 0", "control"]),
        ("since 1h", ["worker 0", "control"]), (f"since {NOW - 60.5}", ["control"]),
        ("level warning", ["worker 0", "control"]), ("level ALERT last 5", ["control"]),
        ("since 1h level notice last 1", ["control"]),
    ],
)  # fmt: skip
def test_which_of_them(words: str, sources: list[str]) -> None:
    assert [line.partition("] ")[2].split(" ", 1)[1].partition(":")[0] for line in asked(words).splitlines()] == sources


def test_as_json_they_have_the_keys_of_the_log_and_where_to_go_on() -> None:
    *events, end = map(json.loads, asked("json level err").splitlines())
    assert events == [
        {"time": "2026-11-23T00:07:34.000Z", "type": "event", "level": "alert", "source": "control",
         "message": "Server web/web1 is DOWN", "at": NOW - 60},
    ]  # fmt: skip
    assert end == {"cursor": "0a1b2c3d.99", "whole": True}
    assert asked("after 0a1b2c3d.99 json", Batch([], "0a1b2c3d.120", False)) == (
        '{"cursor": "0a1b2c3d.120", "whole": false}\n'
    )
    assert asked.cursors == ["0a1b2c3d.99"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words", ["x", "last", "last x", "last -1", "last 9999999", "since", "since x", "since 5", "level", "level loud",
              "after", "after x", "after 0a1b2c3d", "json json x"]
)  # fmt: skip
def test_what_makes_no_sense_is_told_how_it_is_said(words: str) -> None:
    assert asked(words).startswith("usage: show events ")


def test_a_question_has_parts() -> None:
    assert question([], NOW) == Question()
    assert question(["since", "30m", "json"], NOW) == Question(is_json=True, since=NOW - 1800)
    assert answer(Question(), lambda _: Batch([], "", True)) == ""
