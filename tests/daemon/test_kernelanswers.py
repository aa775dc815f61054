from __future__ import annotations

from types import SimpleNamespace

import pytest

from balancer.daemon import kernelanswers
from balancer.errors import KernelError
from balancer.kernel.conntrack import Load
from balancer.kernel.plan import Planner
from balancer.pool.orders import Condition, ServerState
from balancer.pool.services import Counts


@pytest.fixture
def rules(monkeypatch):
    """What nft lists; an error is raised."""

    def make(listed: str | Exception, trouble: str = "") -> tuple[str, bool]:
        closed = []

        def run(_: str) -> str:
            if isinstance(listed, Exception):
                raise listed
            return listed

        monkeypatch.setattr(kernelanswers, "Nft", lambda: SimpleNamespace(run=run, close=lambda: closed.append(True)))
        try:
            return kernelanswers.rules(trouble).decode(), bool(closed)
        except KernelError:
            assert closed
            raise

    return make


def test_rules_are_as_nft_lists_them(rules):
    assert rules("table inet pybalancer {\n\n  chain a\n}\n") == ("table inet pybalancer {\n  chain a\n}\n", True)
    assert rules("table\n", "no room")[0] == "# not as they should be: no room\ntable\n"
    with pytest.raises(KernelError, match="gone"):
        rules(KernelError("gone"))


def test_more_rules_than_an_answer_holds_are_cut_at_a_line(rules, monkeypatch):
    monkeypatch.setattr(kernelanswers, "LONGEST_ANSWER", 1000)
    said = rules("".join(f"line {i:4}\n" for i in range(1000)))[0]
    *lines, end, rest = said.split("\n")
    assert end == "# cut here, there are more: nft list table inet pybalancer" and rest == ""
    assert lines == [f"line {i:4}" for i in range(len(lines))] and len(said) <= 1000


@pytest.fixture
def services(plan):
    """Those of a frontend with two servers, and the configuration."""
    known = plan(
        {
            "frontends": {"f": {"mode": "tcp", "engine": "kernel", "bind": "*:80", "default_backend": "b"}},
            "backends": {"b": {"servers": {f"s{i}": f"10.0.0.{i}:80" for i in (1, 2)}}},
        }
    )
    addresses = {pair: seat.address for pair, seat in known.seats.items()}
    planner = Planner(known.config, addresses, lambda *pair: known.seats[pair].index)
    return planner.services(lambda _: ServerState(Condition.UP)), known.config


def test_servers_that_get_nothing_are_not_listed(services):
    (service, *_), config = services
    numbers = SimpleNamespace(of=lambda service, target: (Load(1, 2), Counts(3), Counts(4)))
    facts = kernelanswers.service_facts(service, config, numbers, {service.targets[0].index})
    assert (facts.protocol, facts.address, facts.port, facts.forwarding) == ("tcp", "0.0.0.0", 80, "Masq")
    (target,) = facts.targets
    assert (target.name, target.address, target.active, target.inactive) == ("s2", "10.0.0.2", 1, 2)
    assert (target.totals, target.rate) == (Counts(3), Counts(4))


def test_connections_by_name_and_by_number_and_no_more_than_an_answer_holds(services, monkeypatch):
    own, _ = services
    flow = SimpleNamespace(
        protocol="tcp", timeout=100, state="ESTABLISHED", client=("192.0.2.7", 4000), service=("192.0.2.1", 80),
        server=("10.0.0.1", 80),
    )  # fmt: skip
    conntrack = SimpleNamespace(flows=lambda services: [flow] * 100)
    for is_numeric, server in ((True, "10.0.0.1:80"), (False, "s1:http")):
        said = kernelanswers.connections(conntrack, own, is_numeric=is_numeric).decode().splitlines()
        assert len(said) == 102 and server in said[-1]
    monkeypatch.setattr(kernelanswers, "LONGEST_ANSWER", 1000)
    said = kernelanswers.connections(conntrack, own, is_numeric=True)
    assert said.endswith(b"There are more.\n") and len(said) <= 1000
