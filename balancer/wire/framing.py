"""Where a chunked body ends (RFC 9112 section 7.1), and what of it may go on.

Chunk extensions are dropped, since each hop reads them in its own way, and with them what pads a size; trailers are
kept, without the fields that would frame, route or authenticate if the next one merged them into the head.
"""

from __future__ import annotations

import re
from typing import Final

from balancer.errors import BadRequest, ProtocolError
from balancer.wire.http1 import TOKEN, VALUE

__all__ = ["NO_BOUND", "ChunkedReader"]

NO_BOUND = 1 << 60
"""More octets of content than anybody sends."""

# 16**15 octets are sent in no lifetime; one digit more may overflow a signed 64-bit integer behind us.
_MOST_SIZE_DIGITS: Final = 15
# One chunk's line with its extensions. Signed chunks (AWS) need about 90 octets.
_LONGEST_SIZE_LINE: Final = 1024
# Extensions of a whole body may be this plus its content: a peer shall not make us work for nothing.
_EXTENSION_ALLOWANCE: Final = 16384
# As the trailer section of HAProxy and nginx fits their buffers, ours fits this.
_LONGEST_TRAILERS: Final = 8192

_BWS: Final = rb"[ \t]*+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
# White space before CRLF is not in the grammar, but servers pad the size with it; it is dropped.
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]++)((?:"
    + _BWS + rb";" + _BWS + TOKEN + rb"++(?:" + _BWS + rb"=" + _BWS + rb"(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?)*"
    + _BWS + rb")\r\n"
)  # fmt: skip
_PLAIN_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15}+)\r\n")
_PARTIAL_SIZE_LINE: Final = re.compile(rb"0*+[0-9A-Fa-f]{0,15}+(?:(?<=[0-9A-Fa-f])(?:[ \t;]" + VALUE + rb"*+)?\r?)?")
_TRAILERS: Final = re.compile(rb"(?:" + TOKEN + rb"++:" + VALUE + rb"*+\r\n)*")
_PARTIAL_TRAILERS: Final = re.compile(_TRAILERS.pattern + rb"(?:\r|" + TOKEN + rb"++(?::" + VALUE + rb"*+\r?)?)?")

# RFC 9110 section 6.5.1: framing, routing, request modifiers, authentication, content format; and what names a client.
_NOT_IN_TRAILERS: Final = frozenset((
    b"authorization", b"cache-control", b"connection", b"content-encoding", b"content-length", b"content-range",
    b"content-type", b"cookie", b"expect", b"forwarded", b"host", b"keep-alive", b"max-forwards",
    b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"set-cookie", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"www-authenticate", b"x-forwarded-for", b"x-forwarded-host",
    b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
))  # fmt: skip

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3
_DONE: Final = 4


class ChunkedReader:
    """Follows a chunked body from one piece of data to the next."""

    __slots__ = (
        "_error", "_extensions", "_held", "_left", "_payload_only", "_room", "_state", "done", "rest", "trailers"
    )  # fmt: skip

    def __init__(self, error: type[ProtocolError], *, payload_only: bool = False, most: int = NO_BOUND) -> None:
        """`error` is raised on invalid data; `payload_only` gives the content alone, not in chunks. More than `most`
        octets of content are a BadRequest (413), as soon as the size of a chunk says that they will come."""
        self._error = error
        self._payload_only = payload_only
        self._room = most
        self._state = _SIZE
        # Octets of the current chunk's content still to come.
        self._left = 0
        # The beginning of a line, or of the trailers, that is not complete yet.
        self._held = b""
        # Octets of extensions beyond the content seen so far.
        self._extensions = 0
        self.done = False
        """Whether the body has ended."""
        self.rest = b""
        """What came after its end."""
        self.trailers = b""
        """The trailer lines that may go on, known at its end."""

    def feed(self, data: bytes) -> bytes:
        """What of `data`, and of what was held before, may go on.

        Mostly `data` itself. Raises `error` where the body breaks RFC 9112 section 7.1.
        """
        if self._state == _DATA and len(data) <= self._left:
            self._left -= len(data)
            if not self._left:
                self._state = _DATA_END
            if self._extensions:
                self._extensions = max(0, self._extensions - len(data))
            return data
        if self._state == _DONE:
            self.rest += data
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        return self._walk(data)

    def _walk(self, data: bytes) -> bytes:
        state = self._state
        payload_only = self._payload_only
        size = len(data)
        at = 0
        # From here on to `at`, data goes on untouched.
        since = 0
        pieces: list[bytes] = []
        while at < size:
            if state == _SIZE:
                match = _PLAIN_SIZE_LINE.match(data, at)
                if match is not None:
                    left = int(match[1], 16)
                    at = match.end()
                else:
                    match = self._size_line(data, at)
                    if match is None:
                        self._held = data[at:]
                        size = at
                        break
                    left = int(match[1], 16)
                    if not payload_only:
                        size_end = match.end(1)
                        if size_end - at <= _MOST_SIZE_DIGITS:
                            pieces += (data[since:size_end], b"\r\n")
                        else:
                            pieces += (data[since:at], b"%x\r\n" % left)
                    since = at = match.end()
                if payload_only:
                    since = at
                self._room -= left
                if self._room < 0:
                    raise BadRequest("more content than a request may have", 413)
                if not left:
                    state = _TRAILER
                    continue
                if at + left < size - 1 and data[at + left] == 13 and data[at + left + 1] == 10:
                    # The whole chunk is here.
                    at += left
                    if payload_only:
                        pieces.append(data[since:at])
                    at += 2
                    if self._extensions:
                        self._extensions = max(0, self._extensions - left)
                    continue
                self._left = left
                state = _DATA
            elif state == _DATA:
                left = min(self._left, size - at)
                at += left
                self._left -= left
                if self._extensions:
                    self._extensions = max(0, self._extensions - left)
                if payload_only:
                    pieces.append(data[since:at])
                if not self._left:
                    state = _DATA_END
            elif state == _DATA_END:
                if data[at] != 13 or (at + 1 < size and data[at + 1] != 10):
                    raise self._error("chunk: no CRLF after its content")
                if at + 1 == size:
                    self._held = b"\r"
                    size = at
                    break
                at += 2
                state = _SIZE
            else:
                end = self._trailers_end(data, at)
                if end < 0:
                    self._held = data[at:]
                    size = at
                    break
                kept = self.trailers = self._checked_trailers(data[at : end - 2])
                if not payload_only and len(kept) != end - 2 - at:
                    pieces += (data[since:at], kept)
                    since = end - 2
                at = end
                state = _DONE
                self.done = True
                self.rest = data[end:]
                size = end
        self._state = state
        if payload_only:
            return b"".join(pieces)
        if pieces:
            pieces.append(data[since:size])
            return b"".join(pieces)
        return data[since:size] if since or size < len(data) else data

    def _size_line(self, data: bytes, at: int) -> re.Match[bytes] | None:
        """The line of a chunk's size with extensions; None while it is incomplete."""
        end = data.find(b"\n", at, at + _LONGEST_SIZE_LINE)
        if end < 0:
            if len(data) - at >= _LONGEST_SIZE_LINE:
                raise self._error(f"chunk: size and extensions of more than {_LONGEST_SIZE_LINE} octets")
            if _PARTIAL_SIZE_LINE.fullmatch(data, at) is None:
                raise self._error("chunk: invalid size")
            return None
        match = _SIZE_LINE.match(data, at)
        if match is None or len(match[1].lstrip(b"0")) > _MOST_SIZE_DIGITS:
            raise self._error("chunk: invalid size or extension")
        self._extensions += len(match[2])
        if self._extensions > _EXTENSION_ALLOWANCE:
            raise self._error("chunks: more extensions than content")
        return match

    def _trailers_end(self, data: bytes, at: int) -> int:
        """Where the trailers with their empty line end; -1 while they are incomplete."""
        if data.startswith(b"\r\n", at):
            return at + 2
        end = data.find(b"\r\n\r\n", at, at + _LONGEST_TRAILERS)
        if end >= 0:
            return end + 4
        if len(data) - at >= _LONGEST_TRAILERS:
            raise self._error(f"trailers of more than {_LONGEST_TRAILERS} octets")
        if _PARTIAL_TRAILERS.fullmatch(data, at) is None:
            raise self._error("trailers: invalid field")
        return -1

    def _checked_trailers(self, trailers: bytes) -> bytes:
        if not trailers:
            return trailers
        if _TRAILERS.fullmatch(trailers) is None:
            raise self._error("trailers: invalid field")
        return b"".join(
            [line for line in trailers.splitlines(True) if line[: line.index(b":")].lower() not in _NOT_IN_TRAILERS]
        )
