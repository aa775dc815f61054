"""The answers pybalancer makes itself, in HAProxy's words (its errorfiles), ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import Protocol

__all__ = ["REASONS", "Compose", "Replies", "composed"]

REASONS = {
    400: ("Bad Request", "Your browser sent an invalid request."),
    401: ("Unauthorized", "You need a valid user and password to access this content."),
    403: ("Forbidden", "Request forbidden by administrative rules."),
    404: ("Not Found", "The resource could not be found."),
    408: ("Request Time-out", "Your browser didn't send a complete request in time."),
    413: ("Content Too Large", "The request entity exceeds the maximum allowed."),
    414: ("URI Too Long", "The request's target is longer than this server takes."),
    417: ("Expectation Failed", "The request's expectation cannot be met."),
    429: ("Too Many Requests", "You have sent too many requests in a given amount of time."),
    431: ("Request Header Fields Too Large", "The request's header fields are larger than this server takes."),
    500: ("Internal Server Error", "An internal server error occurred."),
    501: ("Not Implemented", "The server does not support the functionality required to fulfill the request."),
    502: ("Bad Gateway", "The server returned an invalid or incomplete response."),
    503: ("Service Unavailable", "No server is available to handle this request."),
    504: ("Gateway Time-out", "The server didn't respond in time."),
    505: ("HTTP Version Not Supported", "The request's HTTP version is not supported."),
}


class Compose(Protocol):
    """Makes the response for a status, without its body where the request was HEAD."""

    def __call__(self, status: int, *, keep_alive: bool, head_only: bool) -> bytes: ...


def composed(fields: bytes, body: bytes = b"") -> Compose:
    """Responses with these field lines and this body."""

    def compose(status: int, *, keep_alive: bool, head_only: bool) -> bytes:
        # RFC 9110 section 8.6: no length with 204; 304 would have to give that of another response.
        length = b"" if status in (204, 304) else b"content-length: %d\r\n" % len(body)
        head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
            status,
            responses.get(status, "").encode(),
            length,
            fields,
            b"" if keep_alive else b"connection: close\r\n",
        )
        return head if head_only else head + body

    return compose


class Replies:
    """Complete responses by status. `bodies` holds the operator's own pages (HTML) where there are any."""

    def __init__(self, bodies: Mapping[int, bytes]) -> None:
        self._heads: dict[tuple[int, bool], bytes] = {}
        self._bodies: dict[int, bytes] = {}
        for status, (reason, text) in REASONS.items():
            page = f"<html><body><h1>{status} {reason}</h1>\n{text}\n</body></html>\n".encode()
            body = self._bodies[status] = bodies.get(status, page)
            for keep_alive in (True, False):
                self._heads[status, keep_alive] = (
                    f"HTTP/1.1 {status} {reason}\r\n"
                    f"content-length: {len(body)}\r\n"
                    "cache-control: no-cache\r\n"
                    "content-type: text/html\r\n"
                    f"{'' if keep_alive else 'connection: close' + chr(13) + chr(10)}\r\n"
                ).encode()

    def reply(self, status: int, *, keep_alive: bool = False, head_only: bool = False, added: bytes = b"") -> bytes:
        """The response for `status`, without its body where the request was HEAD; `added` are further field lines."""
        head = self._heads[status, keep_alive]
        if added:
            head = b"%b%b\r\n" % (head[:-2], added)
        return head if head_only else head + self._bodies[status]
