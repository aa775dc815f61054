"""A DNS server for the zone lab.local that gives its own name as the text of server.lab.local."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ["respond", "serve", "zone"]

_ZONE = dns.name.from_text("lab.local.")
_TTL = 60
Records = dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset]


def serve(name: str, sock: socket.socket) -> int:
    """Answer on the bound UDP socket until killed."""
    asyncio.run(_serve(name, sock))
    return 0


async def _serve(name: str, sock: socket.socket) -> None:
    records = zone(name)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Server(records), sock=sock)
    await asyncio.Event().wait()


class _Server(asyncio.DatagramProtocol):
    _transport: asyncio.DatagramTransport

    def __init__(self, records: Records) -> None:
        self._records = records

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        reply = respond(data, self._records)
        if reply is not None:
            self._transport.sendto(reply, addr)


def respond(data: bytes, records: Records) -> bytes | None:
    """The answer to a query; None for what is no query."""
    try:
        query = dns.message.from_wire(data)
    except dns.exception.DNSException:
        return None
    if query.flags & dns.flags.QR:
        return None
    response = dns.message.make_response(query)
    if query.opcode() != dns.opcode.QUERY:
        response.set_rcode(dns.rcode.NOTIMP)
    elif len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
    elif not query.question[0].name.is_subdomain(_ZONE):
        response.set_rcode(dns.rcode.REFUSED)
    else:
        _look_up(response, records)
    return response.to_wire()


def _look_up(response: dns.message.Message, records: Records) -> None:
    response.flags |= dns.flags.AA
    question = response.question[0]
    answer = records.get((question.name, question.rdtype))
    if answer is not None:
        response.answer.append(answer)
        return
    # RFC 2308: a negative answer carries the zone's SOA, whether the name is unknown or only has no such record.
    response.authority.append(records[_ZONE, dns.rdatatype.SOA])
    if not any(name == question.name for name, _ in records):
        response.set_rcode(dns.rcode.NXDOMAIN)


def zone(server: str) -> Records:
    """The records of lab.local as `server` knows them."""
    lines = (
        ("lab.local.", "SOA", "ns.lab.local. hostmaster.lab.local. 1 3600 600 86400 60"),
        ("lab.local.", "NS", "ns.lab.local."),
        ("ns.lab.local.", "A", "127.0.0.1"),
        ("web1.lab.local.", "A", "127.0.0.2"),
        ("web2.lab.local.", "A", "127.0.0.3"),
        ("web3.lab.local.", "A", "127.0.0.4"),
        ("server.lab.local.", "TXT", f'"{server}"'),
    )
    sets = (dns.rrset.from_text(name, _TTL, "IN", rdtype, value) for name, rdtype, value in lines)
    return {(rrset.name, rrset.rdtype): rrset for rrset in sets}
