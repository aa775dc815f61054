"""The server answers a DNS query over UDP."""

from __future__ import annotations

import asyncio
import secrets
import socket
from time import monotonic

import dns.exception
import dns.message
import dns.rcode

from balancer.addr import Address
from balancer.config import model
from balancer.health import verdict
from balancer.health.result import CheckResult, Code
from balancer.health.stream import failure, open_socket, wait_readable

__all__ = ["DnsProbe"]

_HEADER = 12
_QR = 0x80
# Any datagram: the query has no EDNS, but a server that answers with more than 512 octets is alive as well.
_LARGEST = 65535
# Datagrams that are no answer, read in one go before other checks get their turn.
_IN_ONE_GO = 16


class DnsProbe:
    """Carries out one check; the same object serves every server with that check."""

    __slots__ = ("_name", "_query", "_rcodes", "_timeout", "_type_and_class")

    def __init__(self, check: model.DnsCheck) -> None:
        self._timeout = verdict.timeout(check)
        self._query = dns.message.make_query(check.query, check.qtype).to_wire()
        self._name = self._query[_HEADER:-4].lower()
        self._type_and_class = self._query[-4:]
        self._rcodes = frozenset(dns.rcode.from_text(name) for name in check.rcodes)

    async def __call__(self, address: Address) -> CheckResult:
        """L7OK, L7STS, L7RSP, L7TOUT, L4CON (refused) or SOCKERR; raises nothing but CancelledError."""
        began = monotonic()
        strays = 0
        sock: socket.socket | None = None
        try:
            # Connected: the kernel drops what comes from elsewhere and reports what ICMP says.
            sock = open_socket(address.family, socket.SOCK_DGRAM)
            sock.connect(address.sockaddr)
            id_ = secrets.token_bytes(2)
            async with asyncio.timeout(self._timeout):
                sock.send(id_ + self._query[2:])
                while True:
                    try:
                        answer = sock.recv(_LARGEST)
                    except BlockingIOError:
                        await wait_readable(sock.fileno())
                        continue
                    if self._answers(answer, id_):
                        return self._judge(answer, monotonic() - began)
                    strays += 1
                    if strays % _IN_ONE_GO == 0:
                        await asyncio.sleep(0)
        except TimeoutError:
            if strays:
                return CheckResult(Code.L7RSP, monotonic() - began, f"{strays} datagrams, none of them the answer")
            return CheckResult(Code.L7TOUT, monotonic() - began)
        except OSError as error:
            return failure(error, 4, duration=monotonic() - began)
        finally:
            if sock is not None:
                sock.close()

    def _answers(self, data: bytes, id_: bytes) -> bool:
        """Whether `data` is the answer to our query (RFC 5452 section 9.1): its id and its question.

        A server that could make nothing of the query may leave the question out (RFC 1035 section 4.1.1).
        """
        if len(data) < _HEADER or data[:2] != id_ or not data[2] & _QR:
            return False
        if data[4:6] == b"\0\0":
            return data[3] & 0x0F != dns.rcode.NOERROR
        end = _HEADER + len(self._name)
        return (
            data[4:6] == b"\0\1"
            and data[_HEADER:end].lower() == self._name
            and data[end : end + 4] == self._type_and_class
        )

    def _judge(self, answer: bytes, duration: float) -> CheckResult:
        try:
            rcode = dns.message.from_wire(answer, ignore_trailing=True).rcode()
        except (dns.exception.DNSException, ValueError) as error:
            return CheckResult(Code.L7RSP, duration, f"malformed answer: {error}")
        code = Code.L7OK if rcode in self._rcodes else Code.L7STS
        return CheckResult(code, duration, dns.rcode.to_text(rcode), int(rcode))
