"""What a cache holds, within its bounds."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.outdated import Outdated, Voice
from balancer.proxy.cache import Cache, Question
from balancer.wire.caching import Wish, wish
from balancer.wire.http1 import Limits, parse_request, parse_response

LIMITS = Limits(65536, 65536, 200)
NOW = 1_000_000_000.0


def asked(path="/", *lines, is_https=False, host="t"):
    head = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", f"Host: {host}", *lines, ""))
    request = parse_request(head.encode(), LIMITS)
    section = request.section
    return Question((section.host, request.line.target), wish(section), section, section, is_https=is_https)


def answered(*lines, length=100, seconds=60):
    lines = ("HTTP/1.1 200 OK", f"Cache-Control: max-age={seconds}", f"Content-Length: {length}", *lines)
    return parse_response(("\r\n".join(lines) + "\r\n\r\n").encode(), LIMITS, b"GET")


def cache(workers=1, voice=None, **config):
    config = model.Cache.model_validate({"total_max_size": 100_000, "max_object_size": 5000} | config, strict=False)
    return Cache(config, workers=workers, counters=Counters(), voice=voice)


def put(it, question, body=b"x" * 100, *lines, now=NOW, seconds=60):
    """Whether it is kept."""
    response = answered(*lines, length=len(body), seconds=seconds)
    capture = it.begin(question, response, untold=b"x-forwarded-for", now=now, delay=0.0)
    if capture is None or not capture.add(body):
        return False
    it.store(capture)
    return it.find(question, now) is not None


def body_of(it, question, now=NOW):
    entry = it.find(question, now)
    return entry and entry.body


def test_what_is_put_in_is_found_as_long_as_it_is_fresh():
    it = cache(max_age="30s")
    assert body_of(it, asked()) is None
    assert put(it, asked(), b"one")
    assert body_of(it, asked(), NOW + 29.9) == b"one"
    assert body_of(it, asked("/?x")) is body_of(it, asked("/", host="u")) is None
    assert body_of(it, asked("/", is_https=True)) is None
    assert body_of(it, asked("/", "X-Forwarded-Host: evil")) is None
    assert body_of(it, asked(), NOW + 30) is None
    # What is stale is let go.
    assert len(it) == it.used == 0


def test_what_does_not_suit_one_stays_for_others():
    it = cache()
    assert put(it, asked())
    assert it.find(asked("/", "Cache-Control: max-age=3"), NOW + 5) is None
    assert it.find(asked("/", "Authorization: x"), NOW + 5) is None
    assert body_of(it, asked(), NOW + 5)


def test_a_new_one_takes_the_place_of_the_old():
    it = cache()
    for body in (b"one", b"two"):
        assert put(it, asked(), body)
    assert body_of(it, asked()) == b"two"
    assert len(it) == 1


def test_vary():
    it = cache()
    assert not put(it, asked(), b"x", "Vary: Accept-Language")
    it = cache(process_vary=True, max_secondary_entries=3)
    for language in ("de", "en", "fr"):
        assert put(it, asked("/", f"Accept-Language: {language}"), language.encode(), "Vary: Accept-Language")
    assert body_of(it, asked("/", "Accept-Language: de")) == b"de"
    assert body_of(it, asked("/", "Accept-Language: it")) is None
    assert body_of(it, asked()) is None
    # No more than three: the one that was not asked for the longest goes.
    assert put(it, asked("/", "Accept-Language: it"), b"it", "Vary: Accept-Language")
    assert len(it) == 3
    assert body_of(it, asked("/", "Accept-Language: en")) is None
    assert body_of(it, asked("/", "Accept-Language: de")) == b"de"
    assert not put(it, asked(), b"x", "Vary: X-Forwarded-For")


def test_the_least_used_goes_first():
    it = cache()
    for number in range(40):
        assert put(it, asked(f"/{number}"), b"x" * 4000)
        assert number == 0 or body_of(it, asked("/1"))
        assert it.used <= 100_000
    assert 15 < len(it) < 25
    assert body_of(it, asked("/0")) is None
    assert body_of(it, asked("/39"))


@pytest.mark.parametrize("length", [5000, 5001])
def test_what_is_too_large(length):
    it = cache()
    assert put(it, asked(), b"x" * length) is (length == 5000)
    capture = it.begin(asked("/chunks"), _chunked(), untold=b"", now=NOW, delay=0.0)
    assert [capture.add(b"x" * 2500) for _ in range(2)] == [True, True]
    assert capture.add(b"x") is False
    assert it.coming == 0


def _chunked():
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
    return parse_response(head, LIMITS, b"GET")


def test_each_worker_has_its_share():
    it = cache(workers=10)
    assert not put(it, asked(), b"x" * 5001)
    assert not put(it, asked(), b"x" * 5000)
    assert put(it, asked(), b"x" * 3000)
    for number in range(50):
        put(it, asked(f"/{number}"), b"x" * 3000)
        assert it.used <= 10_000


def test_what_is_on_its_way_counts():
    it = cache()
    captures = [it.begin(asked(f"/{n}"), _chunked(), untold=b"", now=NOW, delay=0.0) for n in range(20)]
    assert sum(capture.add(b"x" * 5000) for capture in captures) == 10
    assert it.used == it.coming == 50_000
    for capture in captures:
        capture.drop()
        capture.drop()
    assert it.used == 0


def test_what_was_changed_is_forgotten():
    it = cache(process_vary=True)
    assert put(it, asked("/a", "Accept: x"), b"x", "Vary: Accept")
    assert put(it, asked("/a", "Accept: y"), b"x", "Vary: Accept")
    assert put(it, asked("/a", "X-Forwarded-Host: z"))
    assert put(it, asked("/b"))
    it.invalidate((b"t", b"/a"))
    it.invalidate((b"t", b"/c"))
    assert len(it) == 1
    assert body_of(it, asked("/b"))


def test_other_codings_count_too():
    it = cache()
    assert put(it, asked())
    entry = it.find(asked(), NOW)
    before = it.used
    it.keep_encoded(entry, b"gzip", b"z" * 50)
    it.keep_encoded(entry, b"gzip", b"y" * 50)
    assert before + 50 < it.used < before + 2000
    assert entry.encoded == {b"gzip": b"z" * 50}
    it.invalidate(entry.key)
    it.keep_encoded(entry, b"br", b"z" * 50)
    assert it.used == 0


def test_what_it_tells_of_itself():
    counters = Counters()
    it = Cache(model.Cache(), workers=1, counters=counters)
    assert put(it, asked())
    assert (counters.cache_objects, counters.cache_octets) == (1, it.used)
    it.find(asked(), NOW + 100)
    assert (counters.cache_objects, counters.cache_octets) == (0, 0)


def test_whatever_is_done_it_stays_within_its_bounds():
    chance = random.Random(7)
    it = cache(process_vary=True, total_max_size=60_000, max_object_size=8000, max_secondary_entries=2)
    now, captures = NOW, []
    for _ in range(5000):
        now += chance.random()
        question = asked(f"/{chance.randrange(20)}", f"Accept: {chance.randrange(4)}")
        act = chance.randrange(6)
        if act < 3:
            vary = ("Vary: Accept",) if chance.random() < 0.5 else ()
            put(it, question, b"x" * chance.randrange(9000), *vary, now=now, seconds=chance.randrange(1, 30))
        elif act == 3:
            captures.append(it.begin(question, _chunked(), untold=b"", now=now, delay=0.0))
            captures[-1].add(b"x" * 3000)
        elif act == 4 and captures:
            capture = captures.pop(chance.randrange(len(captures)))
            it.store(capture) if chance.random() < 0.5 else capture.drop()
        else:
            it.invalidate(question.key)
        entry = it.find(question, now)
        if entry is not None:
            it.keep_encoded(entry, b"br", b"x" * chance.randrange(3000))
            assert entry.fresh.suits(Wish(), now, 1e9)
        assert it.used <= 60_000
        entries = [entry for entries in it._entries.values() for entry in entries]
        assert set(entries) == set(it._order)
        assert len(entries) == len(it)
        assert all(it._entries.values())
        assert all(len(of_key) <= 2 for of_key in it._entries.values())
        assert it._used == sum(entry.size for entry in entries)
    for capture in captures:
        capture.drop()
    assert it.coming == 0


class Somebody:
    """Who waits."""

    def __init__(self):
        self.told = []

    def go_on(self, *, leads):
        self.told.append(leads)


def test_who_asks_and_who_waits():
    it = cache()
    one, two, three = Somebody(), Somebody(), Somebody()
    assert it.is_asked(asked(), one, leads=False) is None
    assert it.is_asked(asked(), one, leads=True) is False
    assert it.is_asked(asked("/", "Authorization: x"), two, leads=True) is None
    assert it.is_asked(asked("/", "X-Forwarded-Host: x"), two, leads=True) is False
    assert it.is_asked(asked(), two, leads=False) is True
    assert it.is_asked(asked(), three, leads=True) is True
    it.give_up(asked())
    assert (two.told, three.told) == ([True], [])
    it.leave(asked(), three)
    it.leave(asked(), three)
    it.give_up(asked())
    assert it.is_asked(asked(), one, leads=True) is False
    assert it.is_asked(asked(), three, leads=True) is True
    it.let_in(asked())
    assert three.told == [False]


def test_what_was_asked_in_vain_takes_little_memory_however_long_it_is():
    it = cache()
    tracemalloc.start()
    try:
        for number in range(3000):
            it.pass_by(asked(f"/{number}" + "x" * 8000, "X-Forwarded-Host: " + "y" * 8000))
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(it._passed) == 3000
    assert size < 2 << 20


def test_what_was_asked_in_vain_is_remembered_within_bounds():
    it = cache()
    for number in range(5000):
        it.pass_by(asked(f"/{number}"))
    assert it.is_asked(asked("/4999"), Somebody(), leads=True) is None
    assert it.is_asked(asked("/0"), Somebody(), leads=True) is False
    assert len(it._passed) <= 4096
    # An answer for everybody makes up for it.
    assert put(it, asked("/4999"))
    it.invalidate((b"t", b"/4999"))
    assert it.is_asked(asked("/4999"), Somebody(), leads=True) is False


def two_workers():
    outdated = Outdated(4)
    return [cache(voice=Voice(outdated, slot)) for slot in range(2)]


def test_what_one_worker_has_changed_no_other_has_any_more():
    one, two = two_workers()
    for it in (one, two):
        assert put(it, asked("/a"), b"old")
        assert put(it, asked("/a", is_https=True), b"old")
        assert put(it, asked("/b"), b"other")
    one.invalidate((b"t", b"/a"))
    for it in (one, two):
        assert body_of(it, asked("/a")) is body_of(it, asked("/a", is_https=True)) is None
        assert body_of(it, asked("/b")) == b"other"
        assert (len(it), it._counters.cache_objects) == (1, 1)
    assert put(two, asked("/a"), b"new")
    assert body_of(two, asked("/a")) == b"new"


def test_what_was_asked_before_the_change_is_not_kept_after_it():
    one, two = two_workers()
    captures = [it.begin(asked("/a"), answered(length=3), untold=b"", now=NOW, delay=0.0) for it in (one, two)]
    assert all(capture.add(b"ol") for capture in captures)
    one.invalidate((b"t", b"/a"))
    for it, capture in zip((one, two), captures, strict=True):
        assert capture.add(b"d")
        it.store(capture)
        assert (len(it), it.coming, it._captures) == (0, 0, {})
    assert put(two, asked("/a"), b"new")


def test_a_worker_that_missed_too_much_forgets_everything():
    one, two = two_workers()
    assert put(two, asked("/a"))
    assert put(two, asked("/b"))
    capture = two.begin(asked("/c"), answered(length=1), untold=b"", now=NOW, delay=0.0)
    for number in range(1000):
        one.invalidate((b"t", b"/%d" % number))
    assert body_of(two, asked("/a")) is body_of(two, asked("/b")) is None
    assert capture.add(b"x")
    two.store(capture)
    assert len(two) == 0 and not two._keys and not two._captures


def test_no_key_outlives_what_is_kept_under_it():
    it = cache()
    for number in range(500):
        put(it, asked(f"/{number}"), b"x" * 3000)
        capture = it.begin(asked(f"/{number}/left"), answered(length=9), untold=b"", now=NOW, delay=0.0)
        if number % 2:
            capture.drop()
            capture.drop()
        else:
            capture.add(b"x" * 9000)
    assert len(it._keys) == len(it._entries) < 50
    assert not it._captures
