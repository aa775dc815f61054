"""What `capture` and `log_format` note of a request, looked up once it is over."""

from __future__ import annotations

from balancer.config import model
from balancer.pool.records import Details
from balancer.pool.server import Server
from balancer.wire.fields import field_values
from balancer.wire.http1 import Response, Section

__all__ = ["Capture"]


class Capture:
    """That of one frontend of mode http."""

    def __init__(self, frontend: model.Frontend) -> None:
        wanted = frontend.capture
        self._request = [(each.request_header.lower().encode(), each.len) for each in wanted if each.request_header]
        self._response = [(each.response_header.lower().encode(), each.len) for each in wanted if each.response_header]
        cookies = [(each.cookie.encode(), each.len) for each in wanted if each.cookie]
        self._cookie, self._cookie_size = cookies[0] if cookies else (b"", 0)

    def details(
        self,
        section: Section,
        response: Response | None,
        destination: tuple[str, int] | None,
        server: Server | None,
    ) -> Details:
        """Of a request's fields and the server's response, both as they came."""
        cookie = set_cookie = b""
        values: tuple[bytes, ...] = (b"",) * len(self._response)
        if response is not None:
            values = tuple([_last(response, name, size) for name, size in self._response])
            if self._cookie and response.sets_cookie:
                lines = field_values(response.fields, response.lower, b"set-cookie")
                set_cookie = self._first([line.partition(b";")[0] for line in lines])
        if self._cookie and section.has_cookie:
            lines = field_values(section.fields, section.lower, b"cookie")
            cookie = self._first([each for line in lines for each in line.split(b";")])
        address = server.address if server is not None else None
        return Details(
            tuple([_last(section, name, size) for name, size in self._request]),
            values,
            cookie,
            set_cookie,
            destination,
            (address.host, address.port) if address is not None else None,
        )

    def _first(self, cookies: list[bytes]) -> bytes:
        for each in cookies:
            cookie = each.strip(b" \t")
            if cookie.startswith(self._cookie):
                return cookie[: self._cookie_size]
        return b""


def _last(head: Section | Response, name: bytes, size: int) -> bytes:
    values = field_values(head.fields, head.lower, name)
    return values[-1][:size] if values else b""
