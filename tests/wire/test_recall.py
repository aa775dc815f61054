"""What is kept, and for how much memory."""

from __future__ import annotations

from balancer.wire.recall import Recall


def test_what_comes_twice_is_kept():
    recall: Recall[bytes, int] = Recall(1 << 20)
    recall.keep(hash(b"a"), b"a", 1, 100)
    assert not recall.kept
    recall.keep(hash(b"a"), b"a", 1, 100)
    assert recall.kept == {b"a": 1}


def test_what_comes_once_drives_nothing_out():
    recall: Recall[bytes, int] = Recall(1 << 20)
    for _ in range(2):
        recall.keep(1, b"a", 1, 100)
    for i in range(42_000):
        recall.keep(i + 2, b"%d" % i, i, 1000)
    assert recall.kept == {b"a": 1}


def test_there_is_never_more_than_room_for():
    recall: Recall[bytes, bytes] = Recall(1 << 20)
    kept, most = recall.kept, 0
    for i in range(5000):
        for _ in range(2):
            recall.keep(i, b"%d" % i, bytes(2000), 3000)
        most = max(most, len(kept))
        assert len(kept) * 3000 < 1 << 20
    assert most > 200
    # It stays the same dictionary.
    assert recall.kept is kept


def test_what_is_kept_already_takes_room_once():
    recall: Recall[bytes, int] = Recall(1 << 20)
    for i in range(5000):
        recall.keep(7, b"a", i, 10_000)
        recall.keep(8, b"b", i, 10_000)
    assert set(recall.kept) == {b"a", b"b"}
