"""A name server that says what it is told to, misbehaviour included: UDP and TCP on one port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

__all__ = ["NameServer"]

SOA = "ns.example. hostmaster.example. 1 3600 600 86400 1"
_Mend = Callable[[bytes], Sequence[bytes]]


class NameServer(threading.Thread):
    """`records`: what there is, (name, type) to values. Change it while it runs."""

    def __init__(self, ttl: int = 0) -> None:
        super().__init__(daemon=True)
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = ttl
        self.rcode: dns.rcode.Rcode | None = None
        """What it answers in place of all else."""
        self.is_silent = False
        self.over_udp: _Mend = lambda answer: [answer]
        """What becomes of an answer over UDP."""
        self.over_tcp: _Mend = lambda answer: [len(answer).to_bytes(2) + answer]
        self.asked: list[tuple[str, str]] = []
        """Name and type of each query that came, and `tcp` for one over TCP."""
        while True:
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind(("127.0.0.1", 0))
            self.port: int = self._udp.getsockname()[1]
            self._tcp = socket.socket()
            try:
                self._tcp.bind(("127.0.0.1", self.port))
                break
            except OSError:
                self._udp.close()
                self._tcp.close()
        self._tcp.listen()
        self._end, self._ending = socket.socketpair()
        self.start()

    def set(self, name: str, kind: str, *values: str) -> None:
        """All of its records of that type."""
        self.records[name, kind] = list(values)

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([self._udp, self._tcp, self._end], [], [])
            if self._end in ready:
                return
            if self._udp in ready:
                octets, client = self._udp.recvfrom(65535)
                for answer in self._answers(octets, self.over_udp):
                    self._udp.sendto(answer, client)
            if self._tcp in ready:
                connection, _ = self._tcp.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    size = int.from_bytes(connection.recv(2, socket.MSG_WAITALL))
                    octets = connection.recv(size, socket.MSG_WAITALL)
                    self.asked.append(("", "tcp"))
                    for answer in self._answers(octets, self.over_tcp):
                        connection.sendall(answer)

    def _answers(self, octets: bytes, mend: _Mend) -> Sequence[bytes]:
        query = dns.message.from_wire(octets)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if self.is_silent:
            return ()
        answer = dns.message.make_response(query)
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
            return mend(answer.to_wire())
        while (name, "CNAME") in self.records:
            (target,) = self.records[name, "CNAME"]
            answer.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", "CNAME", f"{target}."))
            name = target
        if values := self.records.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", kind, *values))
        else:
            answer.authority.append(dns.rrset.from_text("example.", 1, "IN", "SOA", SOA))
            if not any(known == name and found for (known, _), found in list(self.records.items())):
                answer.set_rcode(dns.rcode.NXDOMAIN)
        return mend(answer.to_wire(max_size=65535))

    def close(self) -> None:
        """Nobody is there any more."""
        self._ending.close()
        self.join()
        for each in (self._udp, self._tcp, self._end):
            each.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
