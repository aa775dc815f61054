from __future__ import annotations

from balancer.pool import captures
from balancer.pool.captures import Captures


def test_the_last_of_each_proxy_and_side_is_kept() -> None:
    it = Captures(1, 4)
    it.request("web", ("192.0.2.1", 4242), b"one", "odd")
    it.request("web", None, b"two", "odder", body_at=2)
    it.response(("web", "app", "app1"), ("2001:db8::1", 1), b"three", "bad", method=b"HEAD")
    first, second = it.kept.values()
    assert (first.octets, first.why, first.source, first.number, first.body_at) == (b"two", "odder", "unix:0", 5, 2)
    assert (second.proxy, second.server, second.method, second.source) == ("app", "app1", "HEAD", "2001:db8::1:1")
    assert second.number == 9 and it.count == 3


def test_what_is_kept_is_bounded() -> None:
    it = Captures()
    for number in range(1000):
        it.request(f"f{number}", None, b"x" * 100_000, "long")
    assert len(it.kept) == captures._MOST and it.count == 1000
    assert ("request", "f999") in it.kept and ("request", "f0") not in it.kept
    assert {len(each.octets) for each in it.kept.values()} == {captures.LONGEST}
