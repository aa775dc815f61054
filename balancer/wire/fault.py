"""Where a refused message is wrong: for whoever looks at it, long after it was refused and in no hurry.

The parsers say why, and not where, since nobody wants to pay for it. Here the head is read again, up to one line after
the other (by bisection), until they say so; in that line it is the first octet that cannot stand there, or, where each
could, the value that means something impossible.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable

from balancer.errors import BadRequest, BadResponse, ProtocolError
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import TOKEN, VALUE, Limits, parse_request, parse_response

__all__ = ["body_fault", "request_fault", "response_fault"]

_TOKEN = re.compile(rb"(?:" + TOKEN + rb")*+")
_VALUE = re.compile(rb"(?:" + VALUE + rb")*+")
_TARGET = re.compile(rb"[!\"$-~]*+")
_VERSION = re.compile(rb"HTTP/1\.[0-9]\r\n")
_MISSING = "Host: missing"
_A_HOST = b"Host: x\r\n"


def request_fault(data: bytes, limits: Limits) -> int:
    """The position of what is wrong with the request at the start of `data`, from 0; its length where it seems right,
    or where something is missing."""

    def why(head: bytes) -> str:
        try:
            # As if part of it had been seen before: then nothing of it is remembered.
            parse_request(head, limits, 1)
        except BadRequest as error:
            return error.why
        return ""

    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return _position(data, start, why, _in_request_line)


def response_fault(data: bytes, limits: Limits, method: bytes) -> int:
    """The same of a response to a request of this method."""

    def why(head: bytes) -> str:
        try:
            parse_response(head, limits, method, 1)
        except BadResponse as error:
            return error.why
        return ""

    return _position(data, 0, why, _in_status_line)


def body_fault(data: bytes, start: int, error: type[ProtocolError]) -> int:
    """The position of what is wrong with the chunks that begin at `start`; `start` where they seem right, since what
    went before is not there."""

    def is_wrong(end: int) -> bool:
        try:
            ChunkedReader(error).feed(data[start:end])
        except error:
            return True
        return False

    if not is_wrong(len(data)):
        return start
    return start + bisect_left(range(start + 1, len(data) + 1), True, key=is_wrong)


def _position(data: bytes, start: int, why: Callable[[bytes], str], in_first: Callable[[bytes, int], int]) -> int:
    whole = why(data)
    if not whole or whole == _MISSING:
        end = data.find(b"\r\n\r\n")
        return end + 2 if end >= 0 else len(data)
    ends = []
    at = data.find(b"\n", start)
    while at >= 0:
        ends.append(at + 1)
        if data[at + 1 : at + 3] == b"\r\n":
            break
        at = data.find(b"\n", at + 1)

    def is_wrong(end: int) -> bool:
        head = data[:end]
        found = why(head + b"\r\n")
        if found == _MISSING:
            found = why(head + _A_HOST + b"\r\n")
        return bool(found)

    line = bisect_left(ends, True, key=is_wrong)
    begin = ends[line - 1] if line else start
    return in_first(data, begin) if not line else _in_field_line(data, begin)


def _in_request_line(data: bytes, at: int) -> int:
    method = _end(_TOKEN, data, at)
    if method == at or data[method : method + 1] != b" ":
        return method
    target = _end(_TARGET, data, method + 1)
    if target == method + 1 or data[target : target + 1] != b" ":
        return target
    return method + 1 if _VERSION.match(data, target + 1) else target + 1


def _in_status_line(data: bytes, at: int) -> int:
    end = _end(_VALUE, data, at)
    return at if data[end : end + 2] == b"\r\n" else end


def _in_field_line(data: bytes, at: int) -> int:
    name = _end(_TOKEN, data, at)
    if name == at or data[name : name + 1] != b":":
        return name
    value = _end(_VALUE, data, name + 1)
    if data[value : value + 2] != b"\r\n":
        return value
    return name + 1 + len(data[name + 1 : value]) - len(data[name + 1 : value].lstrip(b" \t"))


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found is not None else at
