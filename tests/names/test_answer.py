"""What is read of answers, well-made and not."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.names.answer import Answer, Query, Service, Status, read

NAME = "www.example.org"


def query(kind="A", name=NAME, payload=1232) -> Query:
    return Query.of(name, kind, 4711, payload=payload)


def answer(asked: Query, *records: tuple[str, int, str, str], rcode=dns.rcode.NOERROR, flags: int = 0) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(asked.octets))
    message.set_rcode(rcode)
    message.flags |= flags
    for name, ttl, kind, value in records:
        section = message.authority if kind == "SOA" else message.answer
        section.append(dns.rrset.from_text(f"{name}.", ttl, "IN", kind, value))
    return message.to_wire()


def test_addresses_come_with_the_shortest_ttl_of_the_chain() -> None:
    asked = query()
    said = read(answer(asked, (NAME, 30, "CNAME", "a.example.org."), ("a.example.org", 90, "A", "10.0.0.1")), asked)
    assert said == Answer(Status.VALID, ("10.0.0.1",), ttl=30.0, alias="a.example.org", has_alias=True)._replace(
        alias=""
    )


def test_each_address_counts_once() -> None:
    asked = query()
    values = [(NAME, 5, "A", address) for address in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    said = read(answer(asked, *values), asked)
    assert said is not None
    assert sorted(said.addresses) == ["10.0.0.1", "10.0.0.2"]


def test_services_have_priority_weight_port_and_target() -> None:
    asked = query("SRV", "_http._tcp.example.org")
    said = read(answer(asked, ("_http._tcp.example.org", 5, "SRV", "10 20 8080 A.example.org.")), asked)
    assert said == Answer(Status.VALID, services=(Service(10, 20, 8080, "A.example.org"),), ttl=5.0)


def test_a_service_that_is_decidedly_not_there_is_none() -> None:
    """RFC 2782: a target of "."."""
    asked = query("SRV", "_http._tcp.example.org")
    said = read(answer(asked, ("_http._tcp.example.org", 5, "SRV", "0 0 0 .")), asked)
    assert said is not None
    assert said.status is Status.NX


@pytest.mark.parametrize(
    ("rcode", "flags", "status"),
    [
        (dns.rcode.NXDOMAIN, 0, Status.NX),
        (dns.rcode.NOERROR, 0, Status.NX),
        (dns.rcode.SERVFAIL, 0, Status.OTHER),
        (dns.rcode.REFUSED, 0, Status.REFUSED),
        (dns.rcode.FORMERR, 0, Status.NO_EDNS),
        (dns.rcode.NOERROR, dns.flags.TC, Status.TRUNCATED),
    ],
)
def test_what_is_no_answer_says_why(rcode, flags, status) -> None:
    asked = query()
    said = read(answer(asked, rcode=rcode, flags=flags), asked)
    assert said is not None
    assert said.status is status


def test_how_long_there_is_nothing_is_what_the_zone_says() -> None:
    asked = query()
    soa = ("example.org", 600, "SOA", "ns. host. 1 2 3 4 45")
    assert read(answer(asked, soa, rcode=dns.rcode.NXDOMAIN), asked) == Answer(Status.NX, ttl=45.0)


def test_an_alias_with_nothing_behind_it_is_to_be_asked_for() -> None:
    asked = query()
    said = read(answer(asked, (NAME, 30, "CNAME", "far.example.net.")), asked)
    assert said is not None
    assert (said.status, said.alias) == (Status.NX, "far.example.net")


def test_aliases_in_a_circle_make_no_sense() -> None:
    asked = query()
    said = read(answer(asked, (NAME, 1, "CNAME", "b.org."), ("b.org", 1, "CNAME", f"{NAME}.")), asked)
    assert said == Answer(Status.INVALID)


def test_who_answers_something_else_is_not_heard() -> None:
    asked = query()
    octets = answer(asked, (NAME, 5, "A", "10.0.0.1"))
    assert read(b"\0\0" + octets[2:], asked) is None
    assert read(asked.octets, asked) is None
    other = query(name="www.example.com")
    assert read(answer(other, ("www.example.com", 5, "A", "10.6.6.6")), asked) is None
    assert read(answer(query("AAAA")), asked) is None


def test_a_name_that_points_at_itself_makes_no_sense() -> None:
    asked = query(payload=None)
    octets = bytearray(asked.octets)
    octets[2] |= 0x80
    octets[6:8] = b"\0\1"
    at = len(octets)
    octets += bytes((0xC0, at)) + b"\0\1\0\1\0\0\0\5\0\4\n\0\0\1"
    assert read(bytes(octets), asked) == Answer(Status.INVALID)


@given(st.binary(max_size=600))
def test_no_octets_do_harm(octets) -> None:
    asked = query()
    said = read(octets, asked)
    assert said is None or isinstance(said, Answer)


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 0xFFFF))
def test_nor_do_those_behind_the_question(rest, section, count) -> None:
    asked = query(payload=None)
    octets = bytearray(asked.octets)
    octets[2] |= 0x80
    octets[4 + 2 * section : 6 + 2 * section] = count.to_bytes(2)
    octets[4:6] = b"\0\1"
    said = read(bytes(octets) + rest, asked)
    assert said is not None
    assert said.status in (Status.VALID, Status.NX, Status.INVALID)


@pytest.mark.parametrize("name", ["a" * 64 + ".org", ".".join(["a" * 60] * 5), "a..b", "\u00e4" * 70])
def test_what_is_no_name_is_refused(name) -> None:
    with pytest.raises(ValueError):
        Query.of(name, "A", 1, payload=None)
