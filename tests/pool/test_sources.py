from __future__ import annotations

import ipaddress
import math
import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.pool.sources import CONNECTIONS, ERRORS, REQUESTS, Block, Geometry, Row, Table, key_of, rows

PERIODS = (10.0, 7.0, 60.0)
SECRET = b"sixteen octets.."


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def tables(count: int, size: int = 1024, prefix: int = 64) -> list[Table]:
    """Of as many workers."""
    blocks = [Block(Geometry(size, prefix, PERIODS)) for _ in range(count)]
    return [Table(SECRET, own, [block for block in blocks if block is not own]) for own in blocks]


def listed(*of: Table, now: float) -> dict[str, Row]:
    blocks = [Block.__new__(Block) for _ in of]
    for block, table in zip(blocks, of, strict=True):
        block.geometry, block.octets = table.geometry, table._octets
    found = [each[0] for each in rows(blocks, now) if each is not None]
    assert len({row.source for row in found}) == len(found)
    return {row.source: row for row in found}


SOURCES = [packed(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::1")]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(SOURCES), st.sampled_from([CONNECTIONS, REQUESTS, ERRORS]),
        st.floats(0, 9, allow_nan=False),
    ),
    max_size=60,
)  # fmt: skip


@given(EVENTS)
def test_a_rate_is_what_all_workers_have_counted_in_two_windows(events) -> None:
    workers = tables(3)
    counted: Counter[tuple[bytes, int, int]] = Counter()
    now = 1000.0
    for worker, source, which, passed in events:
        now += passed
        table, period = workers[worker], PERIODS[which]
        window = math.floor(now / period)
        counted[source, which, window] += 1
        rate = table.hit(table.place(source, now), which, now)
        left = 1 - (now / period - window)
        assert rate == pytest.approx(counted[source, which, window] + counted[source, which, window - 1] * left)
        for other in workers:
            assert other.rate(other.place(source, now), which, now) == pytest.approx(rate)
        row = next(row for row in listed(*workers, now=now).values() if row.rates[which] == int(rate))
        assert row.connections == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(SOURCES), st.booleans()), max_size=60))
def test_connections_are_counted_over_all_workers(moves) -> None:
    workers = tables(3)
    open_ones: list[tuple[int, bytes, tuple[bytes, int, int]]] = []
    for worker, source, leaves in moves:
        if leaves and open_ones:
            number, source, place = open_ones.pop()
            workers[number].leave(place, 5.0)
        else:
            place = workers[worker].place(source, 5.0)
            workers[worker].enter(place)
            open_ones.append((worker, source, place))
        expected = Counter(source for _, source, _ in open_ones)
        for table in workers:
            assert table.connections(table.place(source, 5.0)) == expected[source]


@settings(max_examples=30)
@given(st.lists(st.binary(min_size=4, max_size=4), max_size=400, unique=True), st.integers(1, 64))
def test_a_full_table_forgets_and_keeps_who_is_connected(addresses, size) -> None:
    (table,) = tables(1, size)
    kept = [(address, table.place(address, 1.0)) for address in addresses[:10]]
    for _, place in kept:
        table.enter(place)
    for number, address in enumerate(addresses[10:]):
        now = 2.0 + number
        place = table.place(address, now)
        # Whoever cannot be counted is not refused for it.
        assert table.hit(place, REQUESTS, now) <= 1
    for address, place in kept:
        assert place[2] < 0 or table.connections(table.place(address, 500.0)) == 1
    assert len(listed(table, now=500.0)) <= table.geometry.slots


def test_the_one_of_longest_ago_makes_room() -> None:
    (table,) = tables(1, 16)
    for number in range(16):
        table.hit(table.place(bytes([10, 0, 0, number]), 100.0 + number), ERRORS, 100.0 + number)
    table.place(bytes([10, 0, 0, 0]), 117.0)
    table.hit(table.place(bytes([10, 0, 1, 0]), 118.0), ERRORS, 118.0)
    left = listed(table, now=118.0)
    assert "10.0.0.1" not in left
    assert {"10.0.0.0", "10.0.0.2", "10.0.1.0"} < left.keys()
    # What it had counted still.
    assert table.forgotten == 1
    table.place(bytes([10, 0, 2, 0]), 1000.0)
    assert table.forgotten == 1
    # An entry is taken over without what stood there.
    assert table.rate(table.place(bytes([10, 0, 3, 0]), 1000.0), ERRORS, 1000.0) == 0


@pytest.mark.parametrize(
    ("prefix", "one", "other", "are_same"),
    [
        (64, "2001:db8::1", "2001:db8::ffff:0:0:1", True),
        (64, "2001:db8::1", "2001:db8:0:1::1", False),
        (56, "2001:db8::1", "2001:db8:0:ff::1", True),
        (56, "2001:db8::1", "2001:db8:0:100::1", False),
        (128, "2001:db8::1", "2001:db8::2", False),
        (1, "::1", "7fff::", True),
        (1, "::1", "8000::", False),
        (64, "192.0.2.1", "192.0.2.2", False),
        (64, "::1", "0.0.0.1", False),
    ],
)
def test_what_is_one_source(prefix: int, one: str, other: str, are_same: bool) -> None:
    keys = [key_of(packed(address), prefix) for address in (one, other)]
    assert (keys[0] == keys[1]) is are_same
    assert all(any(key) and len(key) == 16 for key in keys)
    (table,) = tables(1, prefix=prefix)
    table.enter(table.place(packed(one), 1.0))
    (shown,) = listed(table, now=1.0)
    assert ipaddress.ip_address(one) in ipaddress.ip_network(shown)


def test_a_worker_that_dies_leaves_rates_and_no_connections() -> None:
    first, second = tables(2)
    source = SOURCES[0]
    place = first.place(source, 50.0)
    first.enter(place)
    first.hit(place, REQUESTS, 50.0)
    (block,) = second.others
    block.end(51.0, for_good=False)
    seen = second.place(source, 51.0)
    assert (second.connections(seen), second.rate(seen, REQUESTS, 51.0)) == (0, 1)
    second.tidy(10_000.0)
    assert second.others
    # Nobody takes its place: once nothing of it counts any more it is not looked at.
    block.end(60.0, for_good=True)
    second.tidy(60.0 + 119)
    assert second.others
    second.tidy(60.0 + 121)
    assert not second.others
    # The one that leaves late takes away from nobody.
    first.leave(place, 61.0)
    assert first.connections(place) == 0


def test_blocks_of_another_geometry_are_not_looked_at() -> None:
    own, other = Block(Geometry(64, 64, PERIODS)), Block(Geometry(64, 56, PERIODS))
    assert Table(SECRET, own, [other]).others == []


def test_where_sources_are_cannot_be_told_without_the_key() -> None:
    places = [
        {Table(os.urandom(16), Block(Geometry(4096, 64, PERIODS)), []).place(source, 1.0)[:2] for source in SOURCES}
        for _ in range(2)
    ]
    assert places[0].isdisjoint(places[1])
