from __future__ import annotations

from ipaddress import ip_address

from balancer.algorithms.source import Source


def test_a_client_stays_with_its_server(servers):
    algorithm = Source()
    algorithm.rebuild(servers("abc"))
    for client in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        key = ip_address(client).packed
        assert len({algorithm.pick(key) for _ in range(5)}) == 1


def test_it_wants_the_clients_address():
    assert Source.needs == "source"
    assert not Source.tracks_load
