from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.observer import Cells, Errors, Observer, Seen


@dataclass(eq=False)
class Session:
    answered: int = -1
    is_connected: bool = True


@pytest.fixture
def watched(server):
    def make(observe: str, limit: int = 3, **keys):
        made = server("s", observe=observe, error_limit=limit, **keys)
        alarms: list[int] = []
        cells = Cells([0], [0], [0])
        return made, Observer(made, lambda: 7.0, cells, lambda: alarms.append(made.counters.obs_run)), alarms

    return make


@pytest.mark.parametrize(
    ("status", "run"),
    [(500, 3), (502, 3), (503, 3), (599, 3), (501, 0), (505, 0), (200, 0), (404, 0), (101, 0), (-1, 2)],
)
def test_what_is_an_error_of_a_response(watched, status: int, run: int) -> None:
    made, _, _ = watched("layer7", 10)
    for answered in (503, 503, status):
        made.sessions.discard(Session(answered))
    assert made.counters.obs_run == run


def test_a_response_that_cannot_be_used_is_an_error(watched) -> None:
    made, _, alarms = watched("layer7")
    for _ in range(3):
        made.counters.eresp += 1
        made.sessions.discard(Session())
    assert (made.counters.obs_run, made.counters.obs_peak, alarms) == (3, 7_000_000, [3])


def test_layer4_looks_at_connections_alone(watched) -> None:
    made, observer, alarms = watched("layer4")
    made.sessions.discard(Session(500))
    observer.failed(Session(), is_connected=True)
    assert (made.counters.obs_run, made.counters.obs_ok) == (0, 7_000_000)
    for _ in range(3):
        session = Session(is_connected=False)
        observer.failed(session)
        made.sessions.discard(session)
    assert (made.counters.obs_run, made.counters.obs_peak, alarms) == (3, 7_000_000, [3])
    # Who left before there was a connection says nothing.
    made.sessions.discard(Session(is_connected=False))
    assert made.counters.obs_run == 3
    made.sessions.discard(Session())
    assert made.counters.obs_run == 0


def test_what_it_counts_is_told_at_once(server) -> None:
    """Others' errors and successes stand beside it, and what is told late would seem to have come late."""
    made = server("s", observe="layer7", error_limit=2)
    cells = Cells([0], [0], [0])
    Observer(made, lambda: 7.0, cells, lambda: None)
    for status, told in ((503, (1, 0, 0)), (503, (2, 0, 7_000_000)), (200, (0, 7_000_000, 7_000_000))):
        made.sessions.discard(Session(status))
        assert tuple(cell[0] for cell in cells) == told


def test_sessions_are_kept_only_where_they_are_to_be_closed(watched) -> None:
    for marked, kept in (("none", 0), ("shutdown-sessions", 1)):
        made, _, _ = watched("layer7", on_marked_down=marked)
        session = Session(200)
        made.sessions.add(session)
        assert len(made.sessions) == kept
        made.sessions.discard(session)
        assert not made.sessions
        assert made.counters.obs_ok == 7_000_000


def test_errors_of_several_workers_in_a_row() -> None:
    errors = Errors(10, [Seen(0, 5, 0), Seen(0, 5, 0)])
    assert not errors.are_too_many([Seen(4, 5, 0), Seen(5, 5, 0)])
    assert errors.are_too_many([Seen(5, 5, 0), Seen(5, 5, 0)])
    # They count anew.
    assert not errors.are_too_many([Seen(14, 5, 0), Seen(5, 5, 0)])
    # Of those before a success nobody knows which came later.
    assert not errors.are_too_many([Seen(20, 5, 0), Seen(2, 6, 0)])
    assert not errors.are_too_many([Seen(27, 5, 0), Seen(2, 6, 0)])
    assert errors.are_too_many([Seen(28, 5, 0), Seen(2, 6, 0)])


def test_what_one_worker_has_found_to_be_too_many_is() -> None:
    errors = Errors(10, [Seen(0, 5, 0), Seen(0, 5, 0)])
    assert errors.are_too_many([Seen(1, 40, 31), Seen(0, 30, 0)]) is False
    assert errors.are_too_many([Seen(11, 40, 41), Seen(0, 39, 0)])
    assert not errors.are_too_many([Seen(12, 40, 41), Seen(0, 42, 0)])
    # Another has seen a success meanwhile.
    assert not errors.are_too_many([Seen(20, 40, 50), Seen(0, 51, 0)])


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=80), st.integers(1, 12))
def test_never_is_a_server_blamed_for_fewer(events, limit: int) -> None:
    """However many workers there are and whenever control looks."""
    for workers in (1, 3):
        seen = [Seen(0, 0, 0)] * workers
        began = [0] * workers
        errors = Errors(limit, seen)
        run = most = 0
        for now, (worker, is_error, looks) in enumerate(events, 1):
            number = worker % workers
            count, success, peak = seen[number]
            if is_error:
                run += 1
                began[number] = now if count % limit == 0 else began[number]
                seen[number] = Seen(count + 1, success, began[number] if (count + 1) % limit == 0 else peak)
            else:
                run = 0
                seen[number] = Seen(0, now, peak)
            most = max(most, run)
            if looks:
                if errors.are_too_many(seen):
                    assert most >= limit
                most = run
