from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.notice import Notice
from balancer.pool.routers import (
    COUNTERS,
    PeerFacts,
    RouterFacts,
    ScriptFacts,
    Standing,
    Term,
    Trouble,
    decode,
    encode,
    look,
    post,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-1000, 1000)
times = st.floats(0, 2e9)
routers = st.builds(
    RouterFacts,
    name=texts,
    interface=texts,
    vrid=st.integers(1, 255),
    version=st.sampled_from((2, 3)),
    state=st.sampled_from(("INIT", "BACKUP", "MASTER", "FAULT", "STOPPED")),
    since=times,
    why=texts,
    base_priority=numbers,
    priority=numbers,
    addresses=st.lists(texts, max_size=3).map(tuple),
    source=texts,
    master=texts,
    master_priority=numbers,
    interval=times,
    heard_from=texts,
    heard_priority=numbers,
    heard=st.none() | times,
    group=texts,
    released_until=st.none() | times,
    terms=st.lists(st.builds(Term, texts, numbers, texts, st.booleans()), max_size=3).map(tuple),
    counters=st.dictionaries(st.sampled_from(COUNTERS), st.integers(0, 1 << 60)),
    troubles=st.lists(st.builds(Trouble, texts, times, times, st.integers(1, 99)), max_size=3).map(tuple),
)
scripts = st.builds(ScriptFacts, name=texts, is_good=st.none() | st.booleans(), text=texts)
peers = st.builds(
    PeerFacts,
    address=texts,
    is_alive=st.booleans(),
    node=texts,
    last=st.none() | times,
    states=st.dictionaries(texts, texts, max_size=3),
    servers=st.dictionaries(texts, st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3),
)
standings = st.builds(
    Standing,
    at=times,
    routers=st.lists(routers, max_size=3).map(tuple),
    scripts=st.lists(scripts, max_size=3).map(tuple),
    peers=st.lists(peers, max_size=3).map(tuple),
)


@pytest.fixture
def router() -> RouterFacts:
    return RouterFacts(
        name="VI", interface="eth0", vrid=51, version=2, state="MASTER", since=1.0, why="no master is heard",
        base_priority=150, priority=130, addresses=("192.0.2.200/32",) * 20, source="192.0.2.1", master="",
        master_priority=0, interval=1.0, heard_from="", heard_priority=0, heard=None, group="", released_until=None,
        terms=tuple(Term("backend web", -1, "x" * 50) for _ in range(50)),
        troubles=tuple(Trouble("y" * 50, 1.0, 2.0, 3) for _ in range(50)),
    )  # fmt: skip


def posted(standing: Standing, longest: int) -> Standing | None:
    notice = Notice(memoryview(bytearray(Notice.size(longest))))
    post(standing, notice)
    return look(notice)


@given(standings)
def test_what_was_encoded_comes_back(standing: Standing) -> None:
    assert decode(encode(standing)) == standing


@given(
    st.binary(max_size=200) | st.recursive(st.none() | numbers | texts, st.lists).map(lambda v: json.dumps(v).encode())
)
def test_anything_else_is_an_error_of_its_kind(octets: bytes) -> None:
    try:
        decode(octets)
    except (ValueError, KeyError, TypeError):
        pass
    else:
        raise AssertionError("that is no standing")


def test_what_is_too_long_loses_its_sums_first_then_what_peers_say_then_all_that_others_wrote(router) -> None:
    peer = PeerFacts(
        address="10.9.0.3:694", is_alive=True, node="b", last=1.0, servers={f"backend{i}": (1, 2) for i in range(200)}
    )
    whole = Standing(at=5.0, routers=(router,), peers=(peer,))
    short = replace(router, terms=(), troubles=())
    assert posted(whole, 100_000) == whole
    assert posted(whole, 8_000) == replace(whole, routers=(short,))
    assert posted(whole, 2_000) == replace(whole, routers=(short,), peers=(replace(peer, servers={}),))
    assert posted(whole, 600) == Standing(at=5.0, routers=(replace(short, addresses=(), why=""),))
    assert posted(whole, 100) is None


def test_before_anything_was_posted_there_is_nothing() -> None:
    notice = Notice(memoryview(bytearray(Notice.size(100))))
    assert look(notice) is None
    notice.write(b'{"at": 1}')
    assert look(notice) is None
