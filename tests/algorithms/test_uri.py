from __future__ import annotations

import pytest

from balancer.algorithms.uri import Uri, path


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b?c=d", b"/a/b"),
        (b"/a?b?c", b"/a"),
        (b"/?", b"/"),
        (b"//host/a", b"//host/a"),
        (b"/a?to=http://host/b", b"/a"),
        (b"http://host/a?b", b"/a"),
        (b"http://host", b"/"),
        (b"http://host?a", b"/"),
        (b"HTTPS://[2001:db8::1]:8443/a/b", b"/a/b"),
        (b"*", b"*"),
        (b"host:443", b"host:443"),
        (b"://", b"://"),
        (b"", b""),
    ],
)
def test_the_path_of_a_target(target, expected):
    assert path(target) == expected


def test_one_resource_one_server_whatever_its_query(servers):
    algorithm = Uri()
    algorithm.rebuild(servers(10))
    targets = (b"/cat.jpg", b"/cat.jpg?v=2", b"/cat.jpg?", b"http://example.org/cat.jpg")
    assert len({algorithm.pick(target) for target in targets}) == 1


def test_resources_are_spread(servers):
    pool = servers(10)
    algorithm = Uri()
    algorithm.rebuild(pool)
    assert {algorithm.pick(b"/%d.jpg" % i) for i in range(200)} == set(pool)


def test_the_failed_server_is_avoided(servers):
    algorithm = Uri()
    algorithm.rebuild(servers("ab"))
    failed = algorithm.pick(b"/a")
    assert algorithm.pick(b"/a", avoid=failed) is not failed


def test_it_wants_the_requests_target():
    assert Uri.needs == "uri"
