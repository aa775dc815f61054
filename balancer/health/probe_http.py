"""The server answers an HTTP request as expected (HAProxy's `option httpchk`).

The origin may be hostile or broken (CVE-2018-19115: a status line that overran its reader): one deadline
holds for the whole check, and what is read and kept is bounded whatever comes.
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

from balancer.addr import Address
from balancer.config import model, units
from balancer.errors import BadResponse
from balancer.health import verdict
from balancer.health.probe_tcp import PROXY_UNKNOWN
from balancer.health.result import CheckResult, Code
from balancer.health.stream import Stream, failure
from balancer.wire import framing, http1

__all__ = ["HttpProbe"]

# What `global.max_*` have as their defaults: a head that clients could not get is no good answer.
_LIMITS = http1.Limits(head=65536, uri=16384, fields=200)
# 1xx responses in a row; a real server sends one or two.
_MOST_INTERIM = 10
# The part of a body that `expect.text` is searched in, as documented at the key.
_WINDOW = 65536
# Octets on the wire for that part: chunks of one octet each take six, and some extensions.
_MOST_RECEIVED = 16 * _WINDOW
_READ = 16384


class HttpProbe:
    """Carries out one check; the same object serves every server with that check."""

    __slots__ = ("_check", "_context", "_fields", "_method", "_names_host", "_needle", "_statuses", "_timeout")

    def __init__(self, check: model.HttpCheck) -> None:
        self._check = check
        self._timeout = verdict.timeout(check)
        self._method = check.method.encode()
        self._statuses = units.statuses(check.expect.status)
        self._needle = check.expect.text.encode() if check.expect.text is not None else b""
        self._context: ssl.SSLContext | None = None
        given = {name.lower() for name in check.headers}
        self._names_host = check.host is None and "host" in given
        fields = [
            f"{name}: {value}\r\n"
            for name, value in check.headers.items()
            if self._names_host or name.lower() != "host"
        ]
        if check.method in ("POST", "PUT") and not given & {"content-length", "transfer-encoding"}:
            # RFC 9110 section 8.6: these methods are expected to say that they bring nothing.
            fields.append("Content-Length: 0\r\n")
        if "connection" not in given:
            fields.append("Connection: close\r\n")
        self._fields = "".join(fields).encode()

    async def __call__(self, address: Address) -> CheckResult:
        """L7OK or why not; raises nothing but CancelledError. `address` needs no resolving."""
        began = monotonic()
        stream = Stream(address)
        try:
            async with asyncio.timeout(self._timeout):
                await stream.connect()
                if self._check.send_proxy:
                    await stream.send(PROXY_UNKNOWN)
                if self._check.tls is not None:
                    # From here on what fails is TLS, the files it needs included.
                    stream.layer = 6
                    await stream.start_tls(
                        self._tls_context(self._check.tls), self._server_name(self._check.tls, address)
                    )
                await stream.send(self._request(address))
                response, rest = await self._head(stream)
                matches = response.status in self._statuses
                found = not (matches and self._needle) or await self._finds_text(stream, response, rest)
        except (OSError, BadResponse) as error:
            return failure(error, stream.layer, duration=monotonic() - began)
        finally:
            stream.close()
        duration = monotonic() - began
        if not found:
            return CheckResult(Code.L7RSP, duration, "HTTP content check did not match", response.status)
        reason = response.line[13:-2].decode("latin-1")
        return CheckResult(Code.L7OK if matches else Code.L7STS, duration, reason, response.status)

    def _request(self, address: Address) -> bytes:
        host = b"" if self._names_host else f"Host: {self._check.host or _host(address)}\r\n".encode()
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (self._method, self._check.path.encode(), host, self._fields)

    async def _head(self, stream: Stream) -> tuple[http1.Response, bytes]:
        """The final response's head, and what came behind it."""
        data = b""
        searched = interim = 0
        while True:
            response = http1.parse_response(data, _LIMITS, self._method, searched)
            if response is None:
                searched = len(data)
                received = await stream.receive(_READ)
                if not received:
                    raise BadResponse("connection closed in the head" if data else "connection closed, no answer")
                data += received
            elif response.status >= 200 or response.status == 101:
                return response, data[response.size :]
            else:
                interim += 1
                if interim > _MOST_INTERIM:
                    raise BadResponse(f"more than {_MOST_INTERIM} interim responses")
                data, searched = data[response.size :], 0

    async def _finds_text(self, stream: Stream, response: http1.Response, received: bytes) -> bool:
        """Whether the text stands in the first part of the body; no more is read than it takes to tell."""
        needle = self._needle
        chunks = framing.ChunkedReader(BadResponse, payload_only=True) if response.body == http1.CHUNKED else None
        end = min(response.body, _WINDOW) if response.body >= 0 else _WINDOW
        body = bytearray()
        total = 0
        while True:
            total += len(received)
            searched = max(len(body) - len(needle) + 1, 0)
            body += chunks.feed(received) if chunks is not None else received
            if body.find(needle, searched, end) >= 0:
                return True
            if len(body) >= end or (chunks is not None and chunks.done):
                return False
            if total > _MOST_RECEIVED:
                raise BadResponse(f"more framing than body in {_MOST_RECEIVED} octets")
            received = await stream.receive(_READ)
            if not received:
                if response.body == http1.UNTIL_CLOSE:
                    return False
                raise BadResponse("connection closed in the body")

    def _tls_context(self, tls: model.HttpTls) -> ssl.SSLContext:
        """Made at the first check that gets so far, so that a file that is missing fails checks and no more."""
        if self._context is None:
            if tls.verify:
                try:
                    context = ssl.create_default_context(cafile=tls.ca_file)
                except OSError as error:
                    error.filename = tls.ca_file
                    raise
            else:
                # Without the system's certificates: they take 30 ms and a megabyte to load.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context

    def _server_name(self, tls: model.HttpTls, address: Address) -> str | None:
        """For SNI and the verification. An address is verified but never sent (RFC 6066 section 3)."""
        if tls.sni is not None:
            return tls.sni
        if self._check.host is not None:
            return _without_port(self._check.host)
        return _without_port(_host(address)) if tls.verify else None


def _host(address: Address) -> str:
    """The value of Host for a server that is known by its address alone; a zone never leaves this host."""
    if address.path:
        return "localhost"
    return str(address.with_host(address.host.partition("%")[0]))


def _without_port(host: str) -> str:
    name, bracket, _ = host.partition("]")
    if bracket:
        return name.removeprefix("[")
    return host.partition(":")[0]
