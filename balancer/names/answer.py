"""What a name server's answer says of a name. Pure, but for the randomness of ids, which is an argument."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from balancer.wire.dns import HEADER, is_answer, question_end

__all__ = ["Answer", "Kind", "Query", "Service", "Status", "read"]

Kind = Literal["A", "AAAA", "SRV"]

# Records of one answer that are looked at: more than any template has servers.
_MOST = 10_000


class Status(StrEnum):
    """How it ended, as HAProxy counts it (`show resolvers`)."""

    VALID = "valid"
    NX = "nx"
    """There is no such name, or no such record of it."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    OTHER = "other"
    INVALID = "invalid"
    """It makes no sense."""
    TRUNCATED = "truncated"
    """It did not fit; TCP carries it whole."""
    NO_EDNS = "no-edns"
    """It does not understand a query that says how much is understood."""


class Service(NamedTuple):
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str
    """Host name, without the dot at the end."""


class Answer(NamedTuple):
    """What there is: addresses as text, or services; each once, in the order of the answer."""

    status: Status
    addresses: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()
    ttl: float = 0.0
    """Seconds, of the record that lives shortest, its aliases with it."""
    alias: str = ""
    """The name it stands for, of which the answer says nothing."""
    has_alias: bool = False


class Query(NamedTuple):
    """A question, and the octets that ask it."""

    octets: bytes
    end: int
    """Where the question ends."""

    @staticmethod
    def of(name: str, kind: Kind, number: int, *, payload: int | None) -> Query:
        """`number` is its id; `payload`: octets of an answer over UDP, None without EDNS. ValueError where that is no
        name."""
        try:
            message = dns.message.make_query(dns.name.from_text(name), kind, use_edns=payload is not None)
            if payload is not None:
                message.use_edns(0, payload=payload)
            message.id = number
            octets = message.to_wire()
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ValueError(str(error)) from None
        return Query(octets, question_end(octets))


def read(octets: bytes, query: Query) -> Answer | None:
    """None: it is no answer to that query (RFC 5452 section 9.1)."""
    if octets[:2] != query.octets[:2] or not is_answer(octets, query.octets, query.end):
        return None
    rcode = octets[3] & 0x0F
    if rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and query.octets[HEADER - 2 : HEADER] != b"\0\0":
        return Answer(Status.NO_EDNS)
    if rcode == dns.rcode.REFUSED:
        return Answer(Status.REFUSED)
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(Status.OTHER)
    if octets[2] & 0x02:
        return Answer(Status.TRUNCATED)
    try:
        message = dns.message.from_wire(octets, ignore_trailing=True)
        return _said(message) if isinstance(message, dns.message.QueryMessage) else Answer(Status.INVALID)
    except (dns.exception.DNSException, ValueError, RecursionError):
        return Answer(Status.INVALID)


def _said(message: dns.message.QueryMessage) -> Answer:
    chain = message.resolve_chaining()
    alias = chain.canonical_name.to_text(omit_final_dot=True) if chain.cnames else ""
    ttl = float(chain.minimum_ttl) if chain.answer is not None else _negative_ttl(message)
    if message.rcode() == dns.rcode.NXDOMAIN:
        return Answer(Status.NX, ttl=ttl, has_alias=bool(alias))
    addresses: dict[str, None] = {}
    services: dict[Service, None] = {}
    for record in list(chain.answer or ())[:_MOST]:
        if record.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            addresses[record.address] = None
        elif record.rdtype == dns.rdatatype.SRV and record.target != dns.name.root:
            target = record.target.to_text(omit_final_dot=True)
            services[Service(record.priority, record.weight, record.port, target)] = None
    if not addresses and not services:
        # Of an alias with nothing behind it, whoever was asked may not be who knows.
        return Answer(Status.NX, ttl=ttl, alias=alias if chain.answer is None else "", has_alias=bool(alias))
    return Answer(Status.VALID, tuple(addresses), tuple(services), ttl, has_alias=bool(alias))


def _negative_ttl(message: dns.message.QueryMessage) -> float:
    """How long it holds that there is nothing (RFC 2308 section 5); 0 where it does not say."""
    for records in message.authority:
        if records.rdtype == dns.rdatatype.SOA and len(records):
            return float(min(records.ttl, records[0].minimum))
    return 0.0
