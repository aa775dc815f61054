"""Clients of connections that were deleted learn it at once, not when they next have something to say, if ever.

A reset that a client believes has the one sequence number that it expects next (RFC 5961 section 3.2), which only the
two ends know. So it is made to tell: a SYN-ACK out of nowhere, from the address that it is connected to, changes
nothing for it, but it must answer with an ACK (section 4.2). That ACK comes to the rules as the beginning of a new
connection, in its middle (nf_conntrack_tcp_loose); the server that they choose, or the rule that rejects, knows of none
and answers with a reset that has the right number (RFC 9293 section 3.5.2).

A SYN-ACK to a client that needs none does no harm: the answer goes where its connection goes, to a server that knows
it. And the kernel begins no connection with a SYN-ACK, as it would with an ACK: that one would be in the wrong
direction, and the client's answer, being a part of it, would not come to the rules.
"""

from __future__ import annotations

import random
from collections import deque
from math import inf

from balancer.kernel.ctnetlink import End, Flow
from balancer.kernel.segments import ACK, SYN, Segment, Sender

__all__ = ["Resets", "syn_ack"]

# A client that is in none of these has closed, or sends again by itself.
_WORTH = {"SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"}
# Packets in one go, and seconds between: 5 000 a second, a twentieth of a core.
_AT_ONCE = 250
_PAUSE = 0.05
# Seconds after which each client is told once more: packets get lost, and Linux answers one each half second at most
# (tcp_invalid_ratelimit).
_AGAIN = 0.6
# Clients that wait, some 40 MB of them. Those beyond learn it when they send.
_LONGEST_QUEUE = 100_000


class Resets:
    """Makes clients reset their connections, a bounded number a second. StartError without CAP_NET_RAW."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        """Packets that the kernel did not take, and clients that there was no room for."""
        self._waiting: deque[tuple[End, End]] = deque()
        self._again: deque[tuple[float, End, End]] = deque()
        self._next = 0.0
        self._sender = Sender()

    def add(self, flow: Flow) -> None:
        """Its entry was deleted: tell the client, where it is TCP and thinks that it is connected."""
        if flow.protocol != "tcp" or flow.state not in _WORTH:
            return
        if len(self._waiting) < _LONGEST_QUEUE:
            self._waiting.append((flow.client, flow.service))
        else:
            self.failed += 1

    @property
    def due(self) -> float:
        """When `turn` is wanted, on its clock; inf: not before the next `add`."""
        if self._waiting:
            return self._next
        return max(self._next, self._again[0][0]) if self._again else inf

    def turn(self, now: float) -> None:
        """Send what is due, as much as may be sent at once."""
        if now < self._next:
            return
        for _ in range(_AT_ONCE):
            if self._waiting:
                client, service = self._waiting.popleft()
                if len(self._again) < _LONGEST_QUEUE:
                    self._again.append((now + _AGAIN, client, service))
            elif self._again and self._again[0][0] <= now:
                _, client, service = self._again.popleft()
            else:
                break
            self._send(client, service)
            self._next = now + _PAUSE

    def _send(self, client: End, service: End) -> None:
        if self._sender.send(syn_ack(service, client)):
            self.sent += 1
        else:
            self.failed += 1

    def close(self) -> None:
        self._sender.close()


def syn_ack(source: End, destination: End) -> Segment:
    """Its numbers are anybody's guess, as an attacker's would be."""
    return Segment(source, destination, random.getrandbits(32), random.getrandbits(32), SYN | ACK)
