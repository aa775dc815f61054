from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.journal import Event, Journal

EVENT = Event(1_795_392_514.125, 5, "control", "Server web/web1 is UP")


@pytest.fixture
def journal():
    it = Journal()
    yield it
    it.close()


def test_what_was_written_is_read_and_then_what_came_since(journal: Journal) -> None:
    assert journal.read() == ([], f"{journal.read().cursor}", True)
    journal.write(EVENT)
    events, cursor, is_whole = journal.read()
    assert (events, is_whole) == ([EVENT], True)
    assert journal.read(cursor) == ([], cursor, True)
    journal.writer("worker 0")(EVENT.at, 4, "more")
    assert journal.read(cursor).events == [Event(EVENT.at, 4, "worker 0", "more")]
    assert [event.text for event in journal.read().events] == [EVENT.text, "more"]


@given(st.text(max_size=300))
def test_any_text_comes_back(text: str) -> None:
    journal = Journal()
    try:
        journal.write(EVENT._replace(text=text))
        assert journal.read().events == [EVENT._replace(text=text)]
    finally:
        journal.close()


@pytest.mark.parametrize("cursor", ["x", "00000000.0", "NAME.99999999", "NAME.-1", "NAME.", "NAME.x", "NAME.\u0661"])
def test_a_cursor_of_others_begins_anew_and_says_so(journal: Journal, cursor: str) -> None:
    journal.write(EVENT)
    name = journal.read().cursor.partition(".")[0]
    events, _, is_whole = journal.read(cursor.replace("NAME", name))
    assert (events, is_whole) == ([EVENT], False)


def test_many_write_at_once_and_no_line_gets_into_another(journal: Journal) -> None:
    """Each of four processes has its lines in order, whatever the others do."""
    writers = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            write = journal.writer(f"worker {number}")
            for i in range(400):
                write(EVENT.at, 5, f"{i} {'x' * (i % 97)}")
            os._exit(0)
        writers.append(pid)
    for pid in writers:
        assert os.waitpid(pid, 0)[1] == 0
    events = journal.read().events
    for number in range(4):
        said = [event.text for event in events if event.source == f"worker {number}"]
        assert said == [f"{i} {'x' * (i % 97)}" for i in range(400)]


def test_it_forgets_what_is_old_and_takes_no_more_memory(journal: Journal) -> None:
    first = journal.read().cursor
    early = None
    for i in range(30_000):
        journal.write(EVENT._replace(text=f"{i} {'x' * 100}"))
        if i == 29_990:
            early = journal.read().cursor
    whole = journal.read()
    numbers = [int(event.text.split()[0]) for event in whole.events]
    assert numbers == [*range(numbers[0], 30_000)] and 1000 < len(numbers) < 10_000
    assert whole.is_whole, "who asks for what there is gets it"
    late = journal.read(first)
    assert late.events == whole.events and not late.is_whole, "who comes late is told so"
    assert early is not None and [event.text.split()[0] for event in journal.read(early).events] == [
        str(i) for i in range(29_991, 30_000)
    ]
    assert os.fstat(journal._fd).st_blocks * 512 < 1024 * 1024


def test_half_a_line_is_not_read_and_nonsense_is_passed_over(journal: Journal) -> None:
    os.write(
        journal._fd, b'not json\n[]\n[1,9,"a","b"]\n["x",5,"a","b"]\n[1,5,2,"b"]\n{"a":1}\n\xff\n' + b"[" * 3000 + b"\n"
    )
    journal.write(EVENT)
    os.write(journal._fd, b'[1,5,"a",')
    events, cursor, _ = journal.read()
    assert events == [EVENT]
    os.write(journal._fd, b'"b"]\n')
    assert journal.read(cursor).events == [Event(1.0, 5, "a", "b")]


def test_what_is_too_long_is_no_event(journal: Journal) -> None:
    journal.write(EVENT._replace(text="x" * 10_000))
    assert journal.read().events == []


def test_the_last_who_has_it_closes_it() -> None:
    journal = Journal()
    assert journal.share() is journal
    journal.close()
    journal.write(EVENT)
    assert journal.read().events == [EVENT]
    journal.close()
    journal.write(EVENT)
    assert journal.read("x") == ([], "x", True), "it is nobody's any more, and no other file takes its place"
