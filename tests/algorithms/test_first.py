from __future__ import annotations

from balancer.algorithms.first import First


def test_the_first_usable_server_takes_everything(servers):
    a, b, c = servers("abc")
    algorithm = First()
    algorithm.rebuild([a, b, c])
    assert {algorithm.pick() for _ in range(5)} == {a}
    algorithm.rebuild([b, c])
    assert algorithm.pick() is b


def test_the_failed_server_is_avoided_while_there_is_another(servers):
    a, b = servers("ab")
    algorithm = First()
    algorithm.rebuild([a, b])
    assert algorithm.pick(avoid=a) is b
    assert algorithm.pick(avoid=b) is a
    algorithm.rebuild([a])
    assert algorithm.pick(avoid=a) is a


def test_no_servers_no_choice(servers):
    algorithm = First()
    assert algorithm.pick() is None
    algorithm.rebuild([])
    assert algorithm.pick(avoid=servers("a")[0]) is None
