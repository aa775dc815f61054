"""The server accepts a TCP connection (or one to its Unix socket)."""

from __future__ import annotations

import asyncio
from time import monotonic

from balancer.addr import Address
from balancer.config import model
from balancer.health import verdict
from balancer.health.result import CheckResult, Code
from balancer.health.stream import Stream, failure

__all__ = ["PROXY_UNKNOWN", "TcpProbe"]

# The PROXY protocol, section 2.1: what a proxy sends on a connection of its own, such as a check.
PROXY_UNKNOWN = b"PROXY UNKNOWN\r\n"


class TcpProbe:
    """Carries out one check; the same object serves every server with that check."""

    __slots__ = ("_send_proxy", "_timeout")

    def __init__(self, check: model.TcpCheck) -> None:
        self._timeout = verdict.timeout(check)
        self._send_proxy = check.send_proxy

    async def __call__(self, address: Address) -> CheckResult:
        """L4OK, L4CON, L4TOUT or SOCKERR; raises nothing but CancelledError. `address` needs no resolving."""
        began = monotonic()
        stream = Stream(address)
        try:
            async with asyncio.timeout(self._timeout):
                await stream.connect()
                if self._send_proxy:
                    await stream.send(PROXY_UNKNOWN)
                else:
                    stream.reset_on_close()
        except OSError as error:
            return failure(error, 4, duration=monotonic() - began)
        finally:
            stream.close()
        return CheckResult(Code.L4OK, monotonic() - began)
