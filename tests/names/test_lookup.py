"""How long what is known of a name holds."""

from __future__ import annotations

import pytest

from balancer.config.resolvers import Hold
from balancer.names.answer import Answer, Service, Status
from balancer.names.lookup import Lookup

NX = Answer(Status.NX)
TIMEOUT = Answer(Status.TIMEOUT)


def valid(*addresses: str, ttl: float = 10.0) -> Answer:
    return Answer(Status.VALID, addresses, ttl=ttl)


def lookup(**hold: float) -> Lookup:
    return Lookup("www.example.org", is_service=False, hold=Hold().model_copy(update=hold), shortest=1.0, now=0.0)


@pytest.mark.parametrize(("ttl", "due"), [(10.0, 110.0), (0.0, 101.0), (0.2, 101.0), (86400.0, 400.0)])
def test_it_is_asked_for_again_when_its_ttl_is_over_within_bounds(ttl, due) -> None:
    one = lookup()
    one.take({"A": valid("10.0.0.1", ttl=ttl), "AAAA": NX}, 100.0)
    assert one.due == due


def test_a_name_that_fails_is_asked_for_ever_less_often() -> None:
    one, gaps = lookup(), []
    for _ in range(10):
        one.take({"A": TIMEOUT, "AAAA": TIMEOUT}, 100.0)
        gaps.append(one.due - 100.0)
    assert gaps == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    one.take({"A": valid("10.0.0.1", ttl=0.0), "AAAA": NX}, 100.0)
    assert one.due == 101.0


def test_the_last_good_answer_holds_while_nobody_answers() -> None:
    one = lookup()
    one.take({"A": valid("10.0.0.1"), "AAAA": NX}, 0.0)
    for now in (10.0, 1e6):
        one.take({"A": TIMEOUT, "AAAA": Answer(Status.OTHER)}, now)
        assert one.found(now).v4 == ("10.0.0.1",)
        assert not one.is_over(now)


def test_a_name_that_is_no_more_loses_its_addresses_after_a_while() -> None:
    one = lookup(nx=30.0)
    one.take({"A": valid("10.0.0.1"), "AAAA": NX}, 0.0)
    one.take({"A": NX, "AAAA": NX}, 10.0)
    assert one.next_change == 40.0
    assert (one.found(39.0).v4, one.is_over(39.0)) == (("10.0.0.1",), False)
    one.take({"A": NX, "AAAA": NX}, 39.0)
    assert (one.found(40.0).is_empty, one.is_over(40.0), one.cause) == (True, True, "DNS NX status")


def test_one_family_that_fails_keeps_what_it_had() -> None:
    one = lookup()
    one.take({"A": valid("10.0.0.1"), "AAAA": valid("2001:db8::1")}, 0.0)
    one.take({"A": valid("10.0.0.2"), "AAAA": TIMEOUT}, 10.0)
    assert one.found(10.0) == (("10.0.0.2",), ("2001:db8::1",), ())
    assert one.status is Status.VALID


def test_a_record_that_is_left_out_goes_at_once_or_is_held() -> None:
    for obsolete, kept in ((0.0, ("10.0.0.2",)), (30.0, ("10.0.0.1", "10.0.0.2"))):
        one = lookup(obsolete=obsolete)
        one.take({"A": valid("10.0.0.1"), "AAAA": NX}, 0.0)
        one.take({"A": valid("10.0.0.2"), "AAAA": NX}, 10.0)
        assert one.found(10.0).v4 == kept
        one.take({"A": valid("10.0.0.2"), "AAAA": NX}, 29.0)
        assert one.next_change == (30.0 if obsolete else None)
        assert one.found(30.0).v4 == ("10.0.0.2",)


def test_services_are_one_kind() -> None:
    one = Lookup("_http._tcp.example.org", is_service=True, hold=Hold(), shortest=1.0, now=0.0)
    service = Service(0, 1, 80, "a.example.org")
    one.take({"SRV": Answer(Status.VALID, services=(service,), ttl=5.0)}, 0.0)
    assert one.found(0.0).services == (service,)
    assert one.kinds == ("SRV",)


def test_nothing_is_certain_before_the_first_answer() -> None:
    one = lookup(nx=0.0)
    assert not one.is_over(1e9)
    assert one.found(1e9).is_empty
    assert one.next_change is None
