from __future__ import annotations

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.demo.nameserver import respond, zone

RECORDS = zone("dns2")


def ask(name, rdtype, **options):
    query = dns.message.make_query(name, rdtype, **options)
    response = dns.message.from_wire(respond(query.to_wire(), RECORDS))
    assert query.is_response(response)
    return response


def test_it_says_who_it_is():
    response = ask("server.lab.local", "TXT")
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert [rdata.to_text() for rdata in response.answer[0]] == ['"dns2"']


def test_names_have_no_case():
    assert ask("SERVER.Lab.Local", "TXT").answer


def test_the_checks_question_is_answered():
    assert ask("lab.local", "SOA").answer


def test_an_unknown_name_and_an_unknown_type_differ_by_the_code_alone():
    unknown, other = ask("nothing.lab.local", "A"), ask("server.lab.local", "A")
    assert (unknown.rcode(), other.rcode()) == (dns.rcode.NXDOMAIN, dns.rcode.NOERROR)
    assert not unknown.answer and not other.answer
    assert unknown.authority == other.authority == [RECORDS[next(k for k in RECORDS if k[1].name == "SOA")]]


def test_another_zone_is_refused():
    assert ask("example.com", "A").rcode() == dns.rcode.REFUSED


def test_edns_is_answered_with_edns():
    assert ask("lab.local", "SOA", use_edns=True, payload=4096).edns == 0
    assert ask("lab.local", "SOA", use_edns=False).edns == -1


def test_what_is_no_query_gets_the_right_refusal_or_silence():
    query = dns.message.make_query("lab.local", "SOA")
    query.set_opcode(dns.opcode.STATUS)
    assert dns.message.from_wire(respond(query.to_wire(), RECORDS)).rcode() == dns.rcode.NOTIMP
    assert dns.message.from_wire(respond(dns.message.Message(1).to_wire(), RECORDS)).rcode() == dns.rcode.FORMERR

    answer = dns.message.make_response(dns.message.make_query("lab.local", "SOA"))
    assert respond(answer.to_wire(), RECORDS) is None


@given(st.binary(max_size=64) | st.binary(min_size=10, max_size=64).map(lambda tail: b"\x12\x34" + tail))
def test_garbage_never_raises(data):
    reply = respond(data, RECORDS)
    assert reply is None or reply[:2] == data[:2]


@pytest.mark.parametrize("cut", range(0, 27, 3))
def test_a_truncated_query_is_dropped(cut):
    wire = dns.message.make_query("lab.local", "SOA", use_edns=False).to_wire()
    assert respond(wire[:cut], RECORDS) is None
