from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.facts import (
    BUCKETS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Counters,
    Elder,
    Entity,
    Layout,
    Ledger,
    Sums,
    Totals,
    fold,
    forget_peaks,
    let_go,
)

LAYOUT = Layout.of(["fe"], [("be", ["s1", "s2"]), ("empty", []), ("other", ["s1"])])
PROCESS, FRONTEND, BACKEND = Entity("process", ""), Entity("frontend", "fe"), Entity("backend", "be")
S1, S2 = Entity("server", "be", "s1"), Entity("server", "be", "s2")


def block(layout: Layout = LAYOUT) -> memoryview:
    return memoryview(bytearray(layout.size))


def touch(ledger: Ledger, counters: Counters) -> None:
    """What `Backend.take` does beside counting."""
    if not counters.dirty:
        counters.dirty = True
        ledger.touched.append(counters)


def test_every_entity_has_its_row():
    assert LAYOUT.rows == (
        PROCESS,
        FRONTEND,
        BACKEND,
        S1,
        S2,
        Entity("backend", "empty"),
        Entity("backend", "other"),
        Entity("server", "other", "s1"),
    )


@pytest.mark.parametrize(
    "layout",
    [LAYOUT, Layout.of([], []), Layout.of([], [("be", [])]), Layout.of(["a", "b"], [("be", ["s"])])],
)
def test_rows_neither_overlap_nor_leave_the_block(layout):
    row, histograms = 8 * len(COUNTERS), 8 * BUCKETS * len(HISTOGRAMS)
    ends = [*layout.offsets[1:], layout.size]
    for entity, start, end in zip(layout.rows, layout.offsets, ends, strict=True):
        assert end - start == row + (histograms if entity.kind == "backend" else 0)


def test_a_reload_takes_it_from_the_process_that_has_made_it():
    assert LAYOUT.places
    again = pickle.loads(pickle.dumps(LAYOUT))
    assert again == LAYOUT and again.places == LAYOUT.places


def test_rows_are_aligned_so_that_no_number_is_read_half_written():
    assert all(offset % 8 == 0 for offset in LAYOUT.offsets)


def test_counters_begin_at_zero():
    counters = Counters()
    assert {getattr(counters, name) for name in COUNTERS} == {0}


def test_what_a_worker_counts_is_read_once_it_is_flushed():
    memory = block()
    ledger = Ledger(memory, LAYOUT)
    ledger[FRONTEND].conn_tot = 5
    ledger[PROCESS].heartbeat = 99
    ledger[S2].stot = 3
    touch(ledger, ledger[S2])
    assert Sums.read([memory], LAYOUT)[FRONTEND].counters["conn_tot"] == 0
    ledger.flush()
    sums = Sums.read([memory], LAYOUT)
    assert sums[FRONTEND].counters["conn_tot"] == 5
    assert sums[PROCESS].counters["heartbeat"] == 99
    assert sums[S2].counters["stot"] == 3
    assert sums[S1].counters["stot"] == 0
    assert set(sums) == set(LAYOUT.rows)


def test_every_number_has_its_own_place():
    memory = block()
    ledger = Ledger(memory, LAYOUT)
    for place, entity in enumerate(LAYOUT.rows):
        for column, name in enumerate(COUNTERS):
            setattr(ledger[entity], name, 1000 * (place + 1) + column)
        for times in (ledger[entity].connect_times, ledger[entity].response_times, ledger[entity].total_times):
            for bucket in range(len(times)):
                times[bucket] = 10**6 * (place + 1) + bucket
        if entity.kind == "server":
            ledger[entity].idle = range(ledger[entity].srv_icur)
            touch(ledger, ledger[entity])
    ledger.flush()
    for place, entity in enumerate(LAYOUT.rows):
        sums = Sums.of(entity, [memory], LAYOUT)
        assert list(sums.counters.values()) == [1000 * (place + 1) + column for column in range(len(COUNTERS))]
        expected = tuple(10**6 * (place + 1) + bucket for bucket in range(BUCKETS))
        assert sums.histograms == (dict.fromkeys(HISTOGRAMS, expected) if entity.kind == "backend" else {})


def test_workers_add_up_but_latest_and_longest_do_not():
    memory = [block() for _ in range(3)]
    for i, part in enumerate(memory):
        ledger = Ledger(part, LAYOUT)
        backend = ledger[BACKEND]
        backend.stot, backend.scur, backend.lastsess, backend.ttime_max = 10 + i, i, 1000 + i, 50 - i
        backend.total_times[3] = i
        ledger.flush()
    counters, histograms = Sums.read(memory, LAYOUT)[BACKEND]
    assert (counters["stot"], counters["scur"]) == (33, 3)
    assert (counters["lastsess"], counters["ttime_max"]) == (1002, 50)
    assert histograms["total"][3] == 3
    assert sum(histograms["connect"]) == 0


def test_what_servers_served_their_backend_served_too():
    memory = [block() for _ in range(2)]
    for i, part in enumerate(memory):
        ledger = Ledger(part, LAYOUT)
        for place, entity in enumerate((S1, S2, Entity("server", "other", "s1"))):
            counters = ledger[entity]
            counters.stot, counters.bout, counters.scur, counters.ttime_max = 1, 10**place, 1, 10 * i + place
            touch(ledger, counters)
        ledger[BACKEND].stot, ledger[BACKEND].scur, ledger[BACKEND].smax = 5, 2, 3
        ledger.flush()
    sums = Sums.read(memory, LAYOUT)
    be, empty, other = (sums[Entity("backend", name)].counters for name in ("be", "empty", "other"))
    # No server got 5 in each worker.
    assert (be["stot"], be["bout"], be["ttime_max"]) == (14, 22, 11)
    assert (other["stot"], other["bout"], other["ttime_max"]) == (2, 200, 12)
    assert (empty["stot"], empty["bout"]) == (0, 0)
    # Sessions at one time are the backend's own count.
    assert (be["scur"], be["smax"], sums[S1].counters["scur"]) == (4, 6, 2)


@given(st.lists(st.integers(0, 2**40), min_size=len(COUNTERS), max_size=len(COUNTERS)), st.data())
def test_a_worker_in_a_dead_ones_place_goes_on_with_its_totals_and_none_of_its_sessions(values, data):
    memory = block()
    ledger = Ledger(memory, LAYOUT)
    entity = data.draw(st.sampled_from([PROCESS, FRONTEND, BACKEND, S1]))
    for name, value in zip(COUNTERS, values, strict=True):
        setattr(ledger[entity], name, value)
    # A server has had a session if anything was counted for it.
    ledger[entity].smax = max(ledger[entity].smax, 1)
    ledger[BACKEND].response_times[7] = 4
    touch(ledger, ledger[entity])
    ledger.flush()
    before = Sums.read([memory], LAYOUT)

    heir = Ledger(memory, LAYOUT)
    after = Sums.read([memory], LAYOUT)
    for name in COUNTERS:
        assert after[entity].counters[name] == (0 if name in GAUGES else before[entity].counters[name])
        assert getattr(heir[entity], name) == after[entity].counters[name]
    assert after[BACKEND].histograms == before[BACKEND].histograms

    heir[BACKEND].response_times[7] += 1
    heir[entity].stot += 1
    touch(heir, heir[entity])
    heir.flush()
    assert Sums.read([memory], LAYOUT)[entity].counters["stot"] == before[entity].counters["stot"] + 1
    assert Sums.read([memory], LAYOUT)[BACKEND].histograms["response"][7] == 5


def test_totals_never_run_backwards_however_often_a_worker_dies():
    memory = block()
    seen = []
    for life in range(5):
        ledger = Ledger(memory, LAYOUT)
        seen.append(Sums.read([memory], LAYOUT)[S1].counters["stot"])
        for _ in range(life):
            counters = ledger[S1]
            counters.stot += 1
            counters.scur += 1
            counters.smax = max(counters.smax, counters.scur)
            touch(ledger, counters)
            ledger.flush()
            seen.append(Sums.read([memory], LAYOUT)[S1].counters["stot"])
    assert all(one <= other for one, other in pairwise(seen))
    assert seen[-1] == 0 + 1 + 2 + 3 + 4


def test_a_servers_row_is_copied_as_long_as_something_of_it_goes_on():
    memory = block()
    ledger = Ledger(memory, LAYOUT)
    counters = ledger[S1]
    counters.scur = counters.smax = 1
    touch(ledger, counters)
    ledger.flush()
    for octets in (100, 200):
        counters.bout = octets
        ledger.flush()
        assert Sums.read([memory], LAYOUT)[S1].counters["bout"] == octets
    counters.idle = [object()]
    counters.scur = 0
    ledger.flush()
    assert Sums.read([memory], LAYOUT)[S1].counters["srv_icur"] == 1
    counters.idle, counters.bout = [], 300
    ledger.flush()
    last = Sums.read([memory], LAYOUT)[S1].counters
    assert (last["scur"], last["srv_icur"], last["bout"]) == (0, 0, 300)


def test_a_servers_row_at_rest_is_not_copied_any_more():
    ledger = Ledger(block(), LAYOUT)
    counters = ledger[S1]
    touch(ledger, counters)
    ledger.flush()
    assert ledger.touched == []
    assert not counters.dirty
    touch(ledger, counters)
    assert ledger.touched == [counters]


def test_the_list_of_touched_rows_stays_the_same_object():
    """Backends hold on to it."""
    ledger = Ledger(block(), LAYOUT)
    touched = ledger.touched
    touch(ledger, ledger[S1])
    ledger.flush()
    assert ledger.touched is touched


def test_totals_are_kept_up_and_say_whose_row_changed():
    memory = [block(), block()]
    ledgers = [Ledger(part, LAYOUT) for part in memory]
    totals = Totals(memory, LAYOUT)
    assert totals.look() == []
    for ledger in ledgers:
        ledger[S2].stot += 2
        touch(ledger, ledger[S2])
        ledger[FRONTEND].conn_tot += 1
        ledger.flush()
    assert totals.look() == [FRONTEND, S2]
    assert totals.sums[S2].counters["stot"] == 4
    assert totals.sums[BACKEND].counters["stot"] == 4
    assert totals.look() == []
    ledgers[1][BACKEND].stot = 5
    ledgers[1].flush()
    assert totals.look() == [BACKEND]
    assert totals.sums[BACKEND].counters["stot"] == 9


def test_what_was_read_of_totals_stays_as_it_was():
    """A page may still be drawn from it while the next look is taken."""
    memory = block()
    ledger = Ledger(memory, LAYOUT)
    totals = Totals([memory], LAYOUT)
    before = dict(totals.sums)
    for entity in LAYOUT.rows:
        ledger[entity].stot = 7
        touch(ledger, ledger[entity])
    ledger.flush()
    totals.look()
    assert all(sums.counters["stot"] == 0 for sums in before.values())
    assert all(sums.counters["stot"] >= 7 for entity, sums in totals.sums.items() if entity.proxy != "empty")


CHANGES = st.tuples(st.integers(0, 1), st.integers(0, 299), st.sampled_from(["stot", "bout", "ttime_max", "scur"]))


@given(st.lists(st.lists(CHANGES, max_size=20), max_size=5))
def test_totals_kept_up_are_those_of_a_first_look(rounds):
    layout = Layout.of(["fe"], [("a", [f"s{i}" for i in range(150)]), ("b", [f"s{i}" for i in range(150)])])
    memory = [block(layout), block(layout)]
    ledgers = [Ledger(part, layout) for part in memory]
    totals = Totals(memory, layout)
    for changes in rounds:
        for worker, row, name in changes:
            counters = ledgers[worker][layout.rows[row]]
            setattr(counters, name, getattr(counters, name) + row + 1)
            touch(ledgers[worker], counters)
        for ledger in ledgers:
            ledger.flush()
        totals.look()
        assert totals.sums == Sums.read(memory, layout)


# After a reload


BEFORE = Layout.of(["fe", "old"], [("other", ["s1"]), ("be", ["gone", "s2", "s1"])])
GONE = Entity("server", "be", "gone")


def counted(layout: Layout, entity: Entity, **numbers: int) -> memoryview:
    """A block of a worker that has counted this and no more."""
    memory = block(layout)
    count(memory, layout, entity, **numbers)
    return memory


def count(memory: memoryview, layout: Layout, entity: Entity, **numbers: int) -> None:
    ledger = Ledger(memory, layout)
    for name, number in numbers.items():
        setattr(ledger[entity], name, number)
    touch(ledger, ledger[entity])
    ledger.flush()


def test_those_of_before_are_counted_too_wherever_their_rows_stood():
    old, now = counted(BEFORE, S1, stot=5, scur=2, smax=4, ttime_max=9), counted(LAYOUT, S1, stot=1, scur=1, smax=2)
    totals = Totals([now], LAYOUT, [Elder([old], BEFORE)])
    counters = totals.sums[S1].counters
    assert (counters["stot"], counters["scur"], counters["smax"], counters["ttime_max"]) == (6, 3, 4, 9)
    assert totals.sums[BACKEND].counters["stot"] == 6
    # They count on.
    count(old, BEFORE, S1, stot=7)
    count(old, BEFORE, Entity("frontend", "old"), stot=7)
    assert totals.look() == [S1]
    assert totals.sums[S1].counters["stot"] == 8


def test_what_a_server_served_that_is_no_more_is_its_backends():
    old = counted(BEFORE, GONE, stot=5, hrsp_2xx=3, scur=2, smax=2, lastsess=77)
    totals = Totals([block()], LAYOUT, [Elder([old], BEFORE)])
    counters = totals.sums[BACKEND].counters
    assert (counters["stot"], counters["hrsp_2xx"], counters["lastsess"]) == (5, 3, 77)
    # Its sessions are counted by the backend itself.
    assert (counters["scur"], counters["smax"]) == (0, 0)


def test_histograms_add_up():
    old = block(BEFORE)
    ledger = Ledger(old, BEFORE)
    ledger[BACKEND].response_times[4] = 3
    ledger.flush()
    totals = Totals([block()], LAYOUT, [Elder([old], BEFORE)])
    assert totals.sums[BACKEND].histograms["response"][4] == 3
    past = block()
    for _ in range(2):
        fold(past, LAYOUT, Elder([old], BEFORE))
    assert Totals([past], LAYOUT).sums[BACKEND].histograms["response"][4] == 6


@given(st.lists(st.integers(0, 2**40), min_size=len(COUNTERS), max_size=len(COUNTERS)), st.data())
def test_what_is_folded_is_what_was_counted_but_for_what_goes_on(values, data):
    entity = data.draw(st.sampled_from([PROCESS, FRONTEND, BACKEND, S1, S2, GONE]))
    old = counted(BEFORE, entity, **dict(zip(COUNTERS, values, strict=True)))
    live = Totals([block()], LAYOUT, [Elder([old], BEFORE)]).sums
    past = block()
    fold(past, LAYOUT, Elder([old], BEFORE))
    folded = Totals([block()], LAYOUT, [Elder([past], LAYOUT)]).sums
    for each in LAYOUT.rows:
        expected = live[each].counters | dict.fromkeys(GAUGES, 0)
        assert folded[each].counters == expected


def test_a_fold_of_nothing_is_nothing():
    past = block()
    fold(past, LAYOUT, Elder([block(BEFORE)], BEFORE))
    assert not any(past)


def test_of_one_that_was_killed_connections_are_gone_and_totals_are_not():
    memory = counted(LAYOUT, S1, stot=5, scur=2, qcur=1, heartbeat=9)
    count(memory, LAYOUT, PROCESS, scur=3, stot=8)
    let_go(memory, LAYOUT)
    sums = Sums.read([memory], LAYOUT)
    assert {sums[entity].counters[name] for entity in LAYOUT.rows for name in GAUGES} == {0}
    assert (sums[S1].counters["stot"], sums[PROCESS].counters["stot"]) == (5, 8)


def test_what_was_counted_can_be_cleared() -> None:
    """What was there at that moment is taken off, of histograms too; maxima are the workers' to forget."""
    layout = Layout.of(["ft"], [("be", ["s1", "s2"])])
    block, past, cleared = (memoryview(bytearray(layout.size)) for _ in range(3))
    ledger = Ledger(block, layout)
    server, backend = Entity("server", "be", "s1"), Entity("backend", "be")

    def count(requests: int) -> None:
        counters = ledger[server]
        counters.req_tot += requests
        counters.smax = max(counters.smax, requests)
        counters.scur = 1
        ledger[backend].total_times[3] += requests
        if not counters.dirty:
            counters.dirty = True
            ledger.touched.append(counters)
        ledger.flush()

    count(5)
    totals = Totals([block], layout, [Elder([past], layout)], cleared)
    assert totals.sums[backend].counters["req_tot"] == 5
    totals.clear()
    for entity in (server, backend):
        assert totals.sums[entity].counters["req_tot"] == 0
    assert totals.sums[server].counters["scur"] == 1, "what is there now is there"
    assert totals.sums[server].counters["smax"] == 5
    ledger.forget_peaks()
    count(2)
    totals.look()
    # Whoever reads the same memory sees the same.
    for each in (totals, Totals([block], layout, [Elder([past], layout)], cleared)):
        assert each.sums[server].counters["req_tot"] == each.sums[backend].counters["req_tot"] == 2
        assert each.sums[server].counters["smax"] == 2
        assert each.sums[backend].histograms["total"][3] == 2
    forget_peaks(block, layout)
    totals.look()
    assert totals.sums[server].counters["smax"] == 0 and totals.sums[server].counters["req_tot"] == 2
