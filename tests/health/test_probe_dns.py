from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.addr import Address
from balancer.config import model
from balancer.health.probe_dns import DnsProbe
from balancer.health.result import Code


@contextlib.asynccontextmanager
async def dns_server(respond, host="127.0.0.1"):
    """`respond(query)` gives the datagrams to send back."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, client):
            for answer in respond(data):
                self.transport.sendto(answer, client)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, (host, 0))
    try:
        yield Address(host, transport.get_extra_info("sockname")[1])
    finally:
        transport.close()
        await asyncio.sleep(0)


def answer(query, rcode=dns.rcode.NOERROR, **changes):
    message = dns.message.make_response(dns.message.from_wire(query))
    message.set_rcode(rcode)
    for name, value in changes.items():
        setattr(message, name, value)
    return message.to_wire()


@pytest.fixture
def outcome(run):
    def outcome(respond, host="127.0.0.1", **keys):
        async def main():
            async with dns_server(respond, host) as address:
                check = model.DnsCheck.model_validate({"type": "dns", "timeout": "10s", **keys})
                return await DnsProbe(check)(address)

        return run(main())

    return outcome


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_by_default_the_soa_of_the_root(outcome, host):
    queries = []

    def respond(data):
        queries.append(dns.message.from_wire(data))
        return [answer(data)]

    result = outcome(respond, host)
    assert (result.code, result.status, result.info) == (Code.L7OK, 0, "NOERROR")
    assert str(queries[0].question[0]) == ". IN SOA"
    assert queries[0].flags == dns.flags.RD


def test_name_and_type_as_configured(outcome):
    queries = []

    def respond(data):
        queries.append(dns.message.from_wire(data))
        return [answer(data)]

    assert outcome(respond, query="Cluster.example.org", qtype="AAAA").ok
    assert str(queries[0].question[0]) == "Cluster.example.org. IN AAAA"


def test_ids_are_random(run):
    ids = set()

    def respond(data):
        ids.add(data[:2])
        return [answer(data)]

    async def main():
        probe = DnsProbe(model.DnsCheck(type="dns", timeout="10s"))
        async with dns_server(respond) as address:
            for _ in range(50):
                assert (await probe(address)).ok

    run(main())
    # 50 of 65536: more than two pairs alike happen once in 10**6 runs.
    assert len(ids) > 45


@pytest.mark.parametrize(
    ("rcode", "accepted", "code"),
    [
        (dns.rcode.NXDOMAIN, None, Code.L7OK),
        (dns.rcode.SERVFAIL, None, Code.L7STS),
        (dns.rcode.REFUSED, None, Code.L7STS),
        (dns.rcode.REFUSED, ("REFUSED",), Code.L7OK),
        (dns.rcode.NOERROR, ("REFUSED", "SERVFAIL"), Code.L7STS),
        (dns.rcode.NXDOMAIN, "NOERROR", Code.L7STS),
    ],
)
def test_response_codes(outcome, rcode, accepted, code):
    result = outcome(lambda query: [answer(query, rcode)], **({"rcodes": accepted} if accepted else {}))
    assert (result.code, result.status, result.info) == (code, int(rcode), dns.rcode.to_text(rcode))


def wrong_question(query):
    other = dns.message.make_query("example.net", "SOA", id=dns.message.from_wire(query).id)
    return answer(other.to_wire())


def stray(query):
    """What no resolver would take for an answer."""
    wrong_id = bytes([query[0] ^ 1]) + query[1:]
    return [b"x", query, answer(wrong_id), wrong_question(query), query[:2] + b"\x80\0" + b"\0" * 8, b"\xff" * 600]


def test_what_is_no_answer_is_passed_over(outcome):
    assert outcome(lambda query: [*stray(query), answer(query)]).code is Code.L7OK


def test_a_flood_of_forged_answers_does_not_hide_the_real_one(outcome):
    assert outcome(lambda query: [*stray(query) * 30, answer(query)]).code is Code.L7OK


def test_nothing_but_strays(outcome):
    result = outcome(stray, timeout="200ms")
    assert (result.code, result.info) == (Code.L7RSP, "6 datagrams, none of them the answer")


def test_silence(outcome):
    result = outcome(lambda query: [], timeout="100ms")
    assert (result.code, result.info) == (Code.L7TOUT, "")
    assert result.duration > 0.09


def test_a_refusal_without_the_question_is_an_answer(outcome):
    result = outcome(lambda query: [query[:2] + b"\x80\x01" + b"\0" * 8])
    assert (result.code, result.info) == (Code.L7STS, "FORMERR")


def test_the_right_head_with_nonsense_behind_it(outcome):
    result = outcome(lambda query: [answer(query)[:6] + b"\xff\xff" + answer(query)[8:]])
    assert result.code is Code.L7RSP
    assert result.info.startswith("malformed answer")


def test_a_truncated_answer_is_a_sign_of_life(outcome):
    assert outcome(lambda query: [answer(query, flags=dns.flags.QR | dns.flags.TC)]).ok


def test_an_answer_in_other_letters(outcome):
    def respond(query):
        message = dns.message.make_response(dns.message.from_wire(query))
        message.question = dns.message.make_query("EXAMPLE.org", "SOA").question
        return [message.to_wire()]

    assert outcome(respond, query="example.org").ok


def test_a_closed_port_is_told_by_icmp(run):
    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            # Nobody else gets the port, and being connected it takes nothing from us.
            sock.bind(("127.0.0.1", 0))
            sock.connect(("127.0.0.2", 9))
            result = await DnsProbe(model.DnsCheck(type="dns", timeout="10s"))(Address(*sock.getsockname()))
        assert (result.code, result.info) == (Code.L4CON, "Connection refused")

    run(main())


def test_without_descriptors_it_is_our_fault(run, monkeypatch):
    def exhausted(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("balancer.health.probe_dns.open_socket", exhausted)
    result = run(DnsProbe(model.DnsCheck(type="dns"))(Address("127.0.0.1", 53)))
    assert (result.code, result.is_conclusive) == (Code.SOCKERR, False)


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_are_an_answer_or_none(data, ours):
    probe = DnsProbe(model.DnsCheck(type="dns"))
    if ours:
        data = b"\x12\x34" + data[2:]
    if probe._answers(data, b"\x12\x34"):
        assert probe._judge(data, 0.0).code in (Code.L7OK, Code.L7STS, Code.L7RSP)
