"""The head of an HTTP/1 message: request line or status line, and the field section (RFC 9112).

One anchored expression validates the whole head; a second one finds the few fields that decide where the
message ends and what is meant for this hop alone. Whatever the first does not match is taken apart step by
step: that is where unusual forms are understood and every refusal gets its reason and status.

Strict where parsers are known to disagree, because the octets that pass are passed on as they are: no bare CR
or LF, no folded line, no space before a colon, no second opinion on a length; `strictness` says what becomes of
each. Octets are never decoded.
All expressions are linear: neighbouring parts share no octet, so there is nothing to try twice.

Most lines and field sections have been seen before. What one means depends on nothing but its octets, so the meaning
of the latest ones that came more than once is remembered, by those octets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Set
from dataclasses import dataclass
from typing import Final, NoReturn

from balancer.errors import BadRequest, BadResponse, ProtocolError
from balancer.wire.recall import Recall

__all__ = [
    "CHUNKED",
    "TOKEN",
    "UNTIL_CLOSE",
    "VALUE",
    "Limits",
    "Request",
    "RequestLine",
    "Response",
    "Section",
    "parse_request",
    "parse_response",
]

CHUNKED: Final = -1
"""`body` of a message in chunks (RFC 9112 section 7.1)."""
UNTIL_CLOSE: Final = -2
"""`body` of a response that ends with its connection (RFC 9112 section 6.3, rule 8)."""

# RFC 9110 sections 5.6.2 and 5.5: token; field-value with obs-text, without CR, LF, NUL or another control.
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"

# Methods that mean more to those on the way than that they go on.
_STEERED: Final = frozenset((b"CONNECT", b"OPTIONS", b"TRACE"))
# A method longer than any in IANA's registry (32) is answered 501 (RFC 9112 section 3).
_LONGEST_METHOD: Final = 64
# RFC 9112 section 2.2: at least one empty line before a request is ignored; some clients send two after a body.
_MOST_EMPTY_LINES: Final = 8
# 10**18 octets are sent in no lifetime; one digit more may overflow a signed 64-bit integer behind us.
_MOST_DIGITS: Final = 18
# What is said more than once, with white space, zeros or (to servers) capitals, is passed on in the one form below.
_LENGTH_LINE: Final = b"Content-Length: %d\r\n"
_CHUNKED_LINE: Final = b"Transfer-Encoding: chunked\r\n"
# As nearly everybody writes it.
_CHUNKED_FIELD: Final = b"\nTransfer-Encoding: chunked\r"
_CHUNKED_FIELD_IN_LOWER_CASE: Final = b"\ntransfer-encoding: chunked\r"
# Up to here a search for each line to cut is faster than a walk over all lines.
_FEW: Final = 8
# "a:" CRLF: a field section of fewer octets than this times the limit cannot hold too many lines.
_SHORTEST_FIELD_LINE: Final = 4

_FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:" + VALUE + rb"*+\r\n)*"
# The LF of the first line opens the field group, so that a field is found as LF, name, colon wherever it stands.
_REQUEST: Final = re.compile(
    rb"((" + TOKEN + rb"{1,64}+) (/[!\"$-~]*+) HTTP/1\.([01]))\r(\n" + _FIELD_LINES + rb")\r\n"
)
_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb"{1,64}+) (/[!\"$-~]*+) HTTP/1\.1")
_RESPONSE: Final = re.compile(rb"(HTTP/1\.([01]) ([1-9][0-9][0-9]) " + VALUE + rb"*+)\r(\n" + _FIELD_LINES + rb")\r\n")
_FIELDS: Final = re.compile(_FIELD_LINES)

_DECIDING_REQUEST_FIELDS: Final = re.compile(
    rb"\n(host|con(?:nection|tent-length)|t(?:e|ransfer-encoding)|expect|upgrade|keep-alive|proxy-connection)"
    rb":([^\r]*+)"
)
_DECIDING_RESPONSE_FIELDS: Final = re.compile(
    rb"\n(con(?:nection|tent-length)|t(?:e|ransfer-encoding)|upgrade|keep-alive|proxy-connection):([^\r]*+)"
)
# RFC 9110 section 7.6.1, without Transfer-Encoding, which frames the message that we pass on chunk by chunk.
_HOP_BY_HOP: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
_HOP_BY_HOP_LINE: Final = re.compile(rb"\n(?:connection|keep-alive|proxy-connection|te|upgrade):[^\r]*+\r")
# The usual members of Connection: they name no field but those above.
_WITHOUT_A_FIELD_OF_ITS_OWN: Final = _HOP_BY_HOP | {b"close"}
# A Connection field may name these, but they address, frame and steer the message: they are not taken out by it.
_NEVER_HOP_BY_HOP: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))

_SPACE_BEFORE_COLON: Final = re.compile(rb"(\n" + TOKEN + rb"++)[ \t]++(?=:)")
_METHOD: Final = re.compile(TOKEN + rb"++")
_TARGET: Final = re.compile(rb"[!\"$-~]++")
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9][0-9])(?: (" + VALUE + rb"*+))?")
# RFC 3986 section 3.2.2, in lower case; userinfo does not belong here (RFC 9110 section 4.2.4).
_HOST: Final = re.compile(
    rb"[ \t]*+((?:\[[0-9a-f:.]{2,45}\]|(?!:)(?:[a-z0-9._~!$&'()*+,;=\-]++|%[0-9a-f][0-9a-f])*)(?::[0-9]{0,5})?|)[ \t]*+"
)
_ABSOLUTE_FORM: Final = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?]++)([!\"$-~]*+)")
# What no head holds: a control octet, CR without LF, LF without CR.
_NEVER: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")
# RFC 9112 section 3: nothing but these in a request line; more exact once the line is complete.
_NEVER_IN_REQUEST_LINE: Final = re.compile(rb"[^ -~\r\n]")


# What is remembered: from heads of so many octets at the most, with few lines for this hop alone, each of which is an
# object. A head is there in so many forms.
_MOST_OCTETS: Final = 2 << 20
_LONGEST_KNOWN: Final = 2048
_LONGEST_KNOWN_LINE: Final = 256
_FORMS: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a head may be."""

    head: int
    """Octets, the first line and the empty line at the end included."""
    uri: int
    """Octets of a request's target."""
    fields: int
    """Field lines."""


class RequestLine:
    """A request line (RFC 9112 section 3)."""

    __slots__ = ("method", "minor", "octets", "sent_on", "target")

    def __init__(self, octets: bytes, method: bytes, target: bytes, minor: int) -> None:
        self.octets = octets
        """As it came, without CRLF."""
        self.method = method
        self.target = target
        """As sent on: origin-form, or `*` with OPTIONS."""
        self.minor = minor
        """Of the version HTTP/1.x, 0 or 1."""
        self.sent_on = b"%b %b HTTP/1.1\r\n" % (method, target)
        """As an HTTP/1.1 request, with CRLF."""


class Section:
    """A request's field section, and what it means (RFC 9112 sections 5 and 6)."""

    __slots__ = (
        "body",
        "end_to_end",
        "expects_continue",
        "fields",
        "has_cookie",
        "hop_by_hop",
        "host",
        "keep_alive",
        "lines",
        "lower",
        "plain",
        "taken",
        "upgrade",
    )
    fields: bytes
    """The field lines, each with its CRLF, in order, octet for octet as they came, without the empty line."""
    lower: bytes
    """`fields` in lower case."""
    lines: int
    """How many there are."""
    body: int
    """Length of the content in octets, or CHUNKED."""
    keep_alive: bool
    """Whether another request may follow on the client's connection; never with HTTP/1.0 (RFC 9112 section 9.3)."""
    host: bytes
    """Value of Host in lower case; empty where HTTP/1.0 sent none."""
    expects_continue: bool
    """The client waits for 100 (Continue) before it sends the content."""
    upgrade: bytes
    """Value of Upgrade in lower case if the client really asks for it here."""
    has_cookie: bool
    """Whether there is a Cookie field."""
    plain: bool
    """`fields` hold nothing meant for this hop alone."""
    hop_by_hop: tuple[bytes, ...]
    """The complete lines of `fields` that are meant for this hop alone."""
    end_to_end: bytes
    """`fields` without `hop_by_hop`: what goes on."""
    taken: tuple[bytes, bytes | None, bytes] | None
    """The last cookie that `rewrite.take_cookie` was asked for, and its answer."""

    def copy(self) -> Section:
        """Another one, to be changed."""
        other = _new_section(Section)
        other.body = self.body
        other.end_to_end = self.end_to_end
        other.expects_continue = self.expects_continue
        other.fields = self.fields
        other.has_cookie = self.has_cookie
        other.hop_by_hop = self.hop_by_hop
        other.host = self.host
        other.keep_alive = self.keep_alive
        other.lines = self.lines
        other.lower = self.lower
        other.plain = self.plain
        other.taken = self.taken
        other.upgrade = self.upgrade
        return other


class Request:
    """A request's head. Its line and section may be other requests' too."""

    __slots__ = ("line", "section", "size")

    def __init__(self, line: RequestLine, section: Section, size: int) -> None:
        self.line = line
        self.section = section
        self.size = size
        """Octets of the head in what was parsed, empty lines before it and at its end included."""

    def __repr__(self) -> str:
        return f"<Request {self.line.octets!r} body={self.section.body}>"


class Response:
    """A response's head."""

    __slots__ = (
        "body",
        "end_to_end",
        "fields",
        "hop_by_hop",
        "keep_alive",
        "line",
        "lines",
        "lower",
        "minor",
        "plain",
        "sets_cookie",
        "size",
        "start",
        "status",
        "upgrade",
    )
    status: int
    minor: int
    """Of the version HTTP/1.x, 0 or 1."""
    line: bytes
    """The status line as sent on: version HTTP/1.1, with CRLF."""
    fields: bytes
    """The field lines, each with its CRLF, in order, octet for octet as they came, without the empty line."""
    lower: bytes
    """`fields` in lower case."""
    lines: int
    """How many field lines came."""
    sets_cookie: bool
    """Whether there is a Set-Cookie field."""
    size: int
    """Octets of the head in what was parsed, the empty line at its end included."""
    body: int
    """Length of the content in octets (0 for HEAD, 1xx, 204, 304), CHUNKED or UNTIL_CLOSE."""
    keep_alive: bool
    """Whether the server's connection takes another request after this response."""
    plain: bool
    """`fields` hold nothing meant for this hop alone."""
    hop_by_hop: tuple[bytes, ...]
    """The complete lines of `fields` that are meant for this hop alone."""
    end_to_end: bytes
    """`fields` without `hop_by_hop`: what goes on."""
    start: bytes
    """`line` and `end_to_end`."""
    upgrade: bytes
    """Value of Upgrade in lower case of a 101 (Switching Protocols), else empty."""

    def copy(self) -> Response:
        """Another one, to be changed."""
        other = _new_response(Response)
        other.body = self.body
        other.end_to_end = self.end_to_end
        other.fields = self.fields
        other.hop_by_hop = self.hop_by_hop
        other.keep_alive = self.keep_alive
        other.line = self.line
        other.lines = self.lines
        other.lower = self.lower
        other.minor = self.minor
        other.plain = self.plain
        other.sets_cookie = self.sets_cookie
        other.size = self.size
        other.start = self.start
        other.status = self.status
        other.upgrade = self.upgrade
        return other

    def __repr__(self) -> str:
        return f"<Response {self.line!r} body={self.body}>"


# Attributes are set by the parsers: a constructor with a dozen arguments costs as much as the rest of a small head.
_new_section: Final = Section.__new__
_new_response: Final = Response.__new__

# By their octets: request lines, sections from the LF of the line before to the end of the head, response heads.
_lines: Final[Recall[bytes, RequestLine]] = Recall(_MOST_OCTETS // 2)
_sections: Final[Recall[bytes, Section]] = Recall(_MOST_OCTETS)
_responses: Final[Recall[bytes, Response]] = Recall(_MOST_OCTETS)
# What these keep.
_known_lines: Final[dict[bytes, RequestLine]] = _lines.kept
_known_sections: Final[dict[bytes, Section]] = _sections.kept
_known_responses: Final[dict[bytes, Response]] = _responses.kept


def parse_request(data: bytes, limits: Limits, searched: int = 0) -> Request | None:
    """Read the request's head at the start of `data`; None while it is incomplete (RFC 9112 sections 2, 3, 5, 6).

    `searched` is the length of `data` at the last call that returned None: what was seen then is not searched
    again. BadRequest (400, 414, 431, 501 or 505) as soon as what is there cannot become a request.
    """
    # A long run of pipelined requests must not be hashed anew for each of them.
    if not searched and len(data) <= _LONGEST_KNOWN:
        start, _, rest = data.partition(b"\r")
        section = _known_sections.get(rest)
        if section is not None and section.lines <= limits.fields and len(data) <= limits.head:
            known = _known_lines.get(start) or _learn_line(start, section, limits)
            if known is not None and len(known.target) <= limits.uri:
                return Request(known, section, len(data))
    match = None if searched else _REQUEST.match(data)
    if match is None:
        parts = _take_request_apart(data, limits, searched)
        if parts is None:
            return None
        line, method, target, minor, block, size, authority = parts
    else:
        line, method, target, minor_digit, block = match.groups()
        size = match.end()
        minor = 1 if minor_digit == b"1" else 0
        authority = None
        if size > limits.head or len(target) > limits.uri:
            _refuse_size(size, target, limits)
    low = block.lower()
    if method != b"GET" and method in _STEERED and (method == b"CONNECT" or b"\nmax-forwards:" in low):
        block = _steer(method, block)
        low = block.lower()
        # What was matched is not what goes on, and not to be remembered.
        match = None
    if len(low) > _SHORTEST_FIELD_LINE * limits.fields and block.count(b"\n") > limits.fields + 1:
        raise BadRequest(f"more than {limits.fields} header fields", 431)

    host: bytes | None = None
    length = -1
    coding: bytes | None = None
    upgrade = options = expect = b""
    hops = 0
    framing = b""
    for name, value in _DECIDING_REQUEST_FIELDS.findall(low):
        if name == b"host":
            valid = _HOST.fullmatch(value)
            if valid is None or host is not None:
                raise BadRequest("Host: invalid" if valid is None else "Host: more than one")
            host = valid[1]
        elif name == b"connection":
            hops += 1
            options = options + b"," + value if options else value
        elif name == b"content-length":
            value = value.removeprefix(b" ")
            if value.isdigit() and length < 0 and len(value) <= _MOST_DIGITS and (value >= b"1" or value == b"0"):
                length = int(value)
            else:
                length = _merge_lengths(value, length, BadRequest)
                framing = _LENGTH_LINE % length
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif name == b"expect":
            expect = expect + b"," + value if expect else value.strip(b" \t")
        else:
            hops += 1
            if name == b"upgrade":
                upgrade = upgrade + b"," + value if upgrade else value

    if host is None:
        if minor:
            raise BadRequest("Host: missing")
        host = b""
    if coding is not None:
        if not minor:
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
        if length >= 0:
            raise BadRequest("Content-Length beside Transfer-Encoding")
        if coding != b" chunked" or block.rfind(_CHUNKED_FIELD) < 0:
            if coding.strip(b" \t") != b"chunked":
                _refuse_coding(coding)
            if block.rfind(_CHUNKED_FIELD_IN_LOWER_CASE) < 0:
                framing = _CHUNKED_LINE
        length = CHUNKED
    elif length < 0:
        length = 0

    section = _new_section(Section)
    section.keep_alive = minor == 1
    section.upgrade = b""
    if hops:
        if options == b" keep-alive" or options == b" close":
            # Nearly always; it names no other field.
            if options == b" close":
                section.keep_alive = False
            if hops == 1:
                at = low.index(b"\nconnection:") + 1
                section.hop_by_hop = (block[at : at + 13 + len(options)],)
            else:
                section.hop_by_hop = _usual_hop_by_hop_lines(block, low)
        else:
            names = _options(options)
            if b"close" in names:
                section.keep_alive = False
            if upgrade and minor and not length and b"upgrade" in names:
                section.upgrade = _wanted_upgrade(upgrade)
            section.hop_by_hop = _hop_by_hop_lines(block, low, names, keep_upgrade=section.upgrade != b"")
        section.plain = False
    else:
        section.hop_by_hop = ()
        section.plain = True
    section.expects_continue = False
    if expect:
        if not minor:
            # RFC 9110 section 10.1.1: ignored in HTTP/1.0; the message that we send on is HTTP/1.1.
            section.hop_by_hop += _lines_named(block, (b"expect",))
            section.plain = False
        else:
            section.expects_continue = length != 0 and b"100-continue" in _options(expect)
    if framing or authority is not None:
        match = None
        block = _replaced(block, framing=framing, host=authority)
        low = block.lower()
        if authority is not None:
            host = authority.lower()
    section.fields = section.end_to_end = block[1:]
    if not section.plain:
        section.end_to_end = _cut(section.fields, section.hop_by_hop)
    section.lower = low[1:]
    section.lines = block.count(b"\n") - 1
    section.taken = None
    section.has_cookie = low.find(b"\ncookie:") >= 0
    section.body = length
    section.host = host
    if match is not None and size == len(data) <= _LONGEST_KNOWN and minor and len(section.hop_by_hop) <= _FEW:
        octets = data[len(line) + 1 :]
        _sections.keep(hash(octets), octets, section, _FORMS * len(octets))
    return Request(RequestLine(line, method, target, minor), section, size)


def _learn_line(octets: bytes, section: Section, limits: Limits) -> RequestLine | None:
    """The request line if it is an ordinary one, such as only differs from what is known, before this section."""
    match = _REQUEST_LINE.fullmatch(octets)
    if match is None or len(match[2]) > limits.uri:
        return None
    line = RequestLine(octets, match[1], match[2], 1)
    if line.method in _STEERED:
        # Not before any section.
        return None if line.method == b"CONNECT" or b"max-forwards:" in section.lower else line
    if len(octets) <= _LONGEST_KNOWN_LINE:
        _lines.keep(hash(octets), octets, line, _FORMS * len(octets))
    return line


def _cut(fields: bytes, lines: Collection[bytes]) -> bytes:
    """`fields` without these complete lines of it."""
    if len(lines) > _FEW:
        return _without(b"\n" + fields, {line.partition(b":")[0].lower() for line in lines})
    for line in lines:
        fields = fields[len(line) :] if fields.startswith(line) else fields.replace(b"\n" + line, b"\n", 1)
    return fields


def parse_response(data: bytes, limits: Limits, method: bytes, searched: int = 0) -> Response | None:
    """Read the response's head at the start of `data`; None while it is incomplete (RFC 9112 sections 4, 5, 6).

    `method` is the one of the request it answers; `searched` as for `parse_request`. BadResponse as soon as what
    is there cannot become a response.
    """
    if not searched:
        known = _known_responses.get(data[: data.find(b"\r\n\r\n") + 4])
        if known is not None and known.lines <= limits.fields and known.size <= limits.head and method != b"HEAD":
            return known
    match = None if searched else _RESPONSE.match(data)
    if match is None:
        parts = _take_response_apart(data, limits, searched)
        if parts is None:
            return None
        line, minor, status, block, size = parts
    else:
        line, minor_digit, status_digits, block = match.groups()
        line += b"\r\n"
        if minor_digit == b"1":
            minor = 1
        else:
            minor = 0
            line = b"HTTP/1.1" + line[8:]
        status = int(status_digits)
        size = match.end()
        if size > limits.head:
            raise BadResponse(f"head of more than {limits.head} octets")
    low = block.lower()
    if len(low) > _SHORTEST_FIELD_LINE * limits.fields and block.count(b"\n") > limits.fields + 1:
        raise BadResponse(f"more than {limits.fields} header fields")

    lines = block.count(b"\n") - 1
    length = -1
    coding: bytes | None = None
    upgrade = options = b""
    hops = 0
    framing = b""
    for name, value in _DECIDING_RESPONSE_FIELDS.findall(low):
        if name == b"content-length":
            value = value.removeprefix(b" ")
            if value.isdigit() and length < 0 and len(value) <= _MOST_DIGITS and (value >= b"1" or value == b"0"):
                length = int(value)
            else:
                length = _merge_lengths(value, length, BadResponse)
                framing = _LENGTH_LINE % length
        elif name == b"connection":
            hops += 1
            options = options + b"," + value if options else value
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        else:
            hops += 1
            if name == b"upgrade":
                upgrade = upgrade + b"," + value if upgrade else value.strip(b" \t")

    response = _new_response(Response)
    response.keep_alive = minor == 1
    response.upgrade = b""
    if hops:
        if options == b" keep-alive" or options == b" close":
            response.keep_alive = options == b" keep-alive"
            if hops == 1:
                at = low.index(b"\nconnection:") + 1
                response.hop_by_hop = (block[at : at + 13 + len(options)],)
            else:
                response.hop_by_hop = _usual_hop_by_hop_lines(block, low)
        else:
            names = _options(options)
            if b"close" in names:
                response.keep_alive = False
            elif not minor:
                response.keep_alive = b"keep-alive" in names
            if status == 101 and b"upgrade" in names:
                response.upgrade = upgrade
            response.hop_by_hop = _hop_by_hop_lines(block, low, names, keep_upgrade=response.upgrade != b"")
        response.plain = False
    else:
        response.hop_by_hop = ()
        response.plain = True

    if coding is not None:
        if not minor:
            raise BadResponse("Transfer-Encoding in HTTP/1.0")
        if coding != b" chunked":
            if coding.strip(b" \t") != b"chunked":
                raise BadResponse("Transfer-Encoding other than chunked")
            framing = _CHUNKED_LINE
        if length >= 0:
            # RFC 9112 section 6.3, rule 3: it overrides Content-Length, which must not go on; trust ends there.
            block = b"\n" + _without(block, (b"content-length",))
            low = block.lower()
            response.keep_alive = False
    if status < 200 or status == 204:
        if length >= 0 or coding is not None:
            # RFC 9110 section 8.6 and RFC 9112 section 6.1: these have neither.
            block = b"\n" + _without(block, (b"content-length", b"transfer-encoding"))
            low = block.lower()
            framing = b""
            # Whoever announces content here may also send it, where the next response should begin.
            if length or coding is not None:
                response.keep_alive = False
        response.body = 0
        if status == 101:
            if not response.upgrade:
                raise BadResponse("101 (Switching Protocols) without Upgrade")
            response.keep_alive = False
    elif status == 304 or method == b"HEAD":
        response.body = 0
    elif coding is not None:
        response.body = CHUNKED
    elif length >= 0:
        response.body = length
    else:
        response.body = UNTIL_CLOSE
        response.keep_alive = False
    if framing:
        block = _replaced(block, framing=framing, host=None)
        low = block.lower()
    response.status = status
    response.minor = minor
    response.line = line
    response.fields = response.end_to_end = block[1:]
    if not response.plain:
        response.end_to_end = _cut(response.fields, response.hop_by_hop)
    response.start = line + response.end_to_end
    response.lower = low[1:]
    response.lines = lines
    response.sets_cookie = low.find(b"\nset-cookie:") >= 0
    response.size = size
    if match is not None and size <= _LONGEST_KNOWN and method != b"HEAD" and len(response.hop_by_hop) <= _FEW:
        octets = data[:size]
        _responses.keep(hash(octets), octets, response, _FORMS * size)
    return response


def _merge_lengths(value: bytes, known: int, error: type[ProtocolError]) -> int:
    """The one length that a list says several times, and earlier lines too (RFC 9110 section 8.6)."""
    lengths = [part.strip(b" \t") for part in value.split(b",")]
    if not all(part.isdigit() for part in lengths):
        raise error("Content-Length: invalid")
    digits = {part.lstrip(b"0") for part in lengths}
    if known >= 0:
        digits.add(b"%d" % known if known else b"")
    if len(digits) > 1:
        raise error("Content-Length: values differ")
    (length,) = digits
    if len(length) > _MOST_DIGITS:
        raise error("Content-Length: too large")
    return int(length or b"0")


def _refuse_coding(coding: bytes) -> NoReturn:
    """RFC 9112 sections 6.1 and 6.3: 400 where the end of the content cannot be told, 501 for another coding."""
    codings = [part.strip(b" \t") for part in coding.split(b",")]
    if not all(_METHOD.fullmatch(part) for part in codings):
        raise BadRequest("Transfer-Encoding: invalid")
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise BadRequest("Transfer-Encoding: chunked is not the last coding, or stands twice")
    raise BadRequest("Transfer-Encoding: only chunked is known", 501)


def _steer(method: bytes, block: bytes) -> bytes:
    """CONNECT is refused; OPTIONS and TRACE go on with one hop less to go (RFC 9110 section 7.6.2)."""
    if method == b"CONNECT":
        raise BadRequest("CONNECT: no tunnels through here", 501)
    lines = _lines_named(block, (b"max-forwards",))
    if not lines:
        return block
    hops = lines[0].partition(b":")[2].strip(b" \t\r\n").lstrip(b"0") or b"0"
    if len(lines) > 1 or not hops.isdigit() or len(hops) > _MOST_DIGITS:
        raise BadRequest("Max-Forwards: invalid")
    if hops == b"0":
        raise BadRequest(f"{method.decode()} that is to go no further: nothing here answers it", 501)
    return b"\n" + _without(block, (b"max-forwards",)) + b"Max-Forwards: %d\r\n" % (int(hops) - 1)


def _refuse_size(size: int, target: bytes, limits: Limits) -> NoReturn:
    if len(target) > limits.uri:
        raise BadRequest(f"target of more than {limits.uri} octets", 414)
    raise BadRequest(f"head of {size} octets, at most {limits.head} are taken", 431)


def _options(value: bytes) -> set[bytes]:
    """The members of a list such as Connection's, whose value came in lower case."""
    if b"," not in value:
        value = value.strip(b" \t")
        return {value} if value else set()
    options = {option.strip(b" \t") for option in value.split(b",")}
    options.discard(b"")
    return options


def _wanted_upgrade(value: bytes) -> bytes:
    """What Upgrade asks for; not HTTP/2: behind it no request could be routed, logged or refused any more."""
    protocols = _options(value)
    return b"" if protocols & {b"h2c", b"h2", b"http/2.0"} else value.strip(b" \t")


def _usual_hop_by_hop_lines(block: bytes, low: bytes) -> tuple[bytes, ...]:
    return tuple([block[line.start() + 1 : line.end() + 1] for line in _HOP_BY_HOP_LINE.finditer(low)])


def _hop_by_hop_lines(block: bytes, low: bytes, options: Set[bytes], *, keep_upgrade: bool) -> tuple[bytes, ...]:
    """The complete lines that Connection and those it names stand for, but Upgrade's with `keep_upgrade`."""
    if not keep_upgrade and options <= _WITHOUT_A_FIELD_OF_ITS_OWN:
        return _usual_hop_by_hop_lines(block, low)
    names = (_HOP_BY_HOP | options) - _NEVER_HOP_BY_HOP
    if keep_upgrade:
        names -= {b"upgrade"}
    return _lines_named(block, names)


def _lines_named(block: bytes, names: Container[bytes]) -> tuple[bytes, ...]:
    return tuple([line for line in block[1:].splitlines(True) if line[: line.index(b":")].lower() in names])


def _without(block: bytes, names: Container[bytes]) -> bytes:
    return b"".join([line for line in block[1:].splitlines(True) if line[: line.index(b":")].lower() not in names])


def _replaced(block: bytes, *, framing: bytes, host: bytes | None) -> bytes:
    """The fields with the one line `framing` for those of its name, and the Host that an absolute-form target names."""
    names = []
    first = b""
    if host is not None:
        names.append(b"host")
        first = b"Host: " + host + b"\r\n"
    if framing:
        names.append(framing.partition(b":")[0].lower())
    return b"\n" + first + _without(block, names) + framing


def _take_request_apart(
    data: bytes, limits: Limits, searched: int
) -> tuple[bytes, bytes, bytes, int, bytes, int, bytes | None] | None:
    """Line, method, target, minor version, field block, size and authority of a request that is out of the ordinary."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
        if start > 2 * _MOST_EMPTY_LINES:
            raise BadRequest("empty lines instead of a request")
    end = data.find(b"\r\n\r\n", max(start, searched - 3))
    if end < 0:
        _check_partial_request(data, limits, start, max(start, searched))
        return None
    eol = data.index(b"\r\n", start)
    line = data[start:eol]
    method, target, minor, authority = _take_request_line_apart(line, limits)
    size = end + 4
    if size > limits.head:
        _refuse_size(size, target, limits)
    block = data[eol + 1 : end + 2]
    if _FIELDS.fullmatch(block, 1) is None:
        raise BadRequest(_what_is_wrong(block))
    return line, method, target, minor, block, size, authority


def _take_request_line_apart(line: bytes, limits: Limits) -> tuple[bytes, bytes, int, bytes | None]:
    """Method, target, minor version and, of an absolute-form target, authority (RFC 9112 section 3)."""
    method_part = _METHOD.match(line)
    if method_part is None:
        raise BadRequest("request line: no method")
    method = method_part[0]
    if len(method) > _LONGEST_METHOD:
        raise BadRequest(f"method of more than {_LONGEST_METHOD} octets", 501)
    words = line.split(b" ")
    if len(words) != 3 or words[0] != method:
        raise BadRequest("request line: not method, target and version, each once and one space between them")
    target = words[1]
    if len(target) > limits.uri:
        raise BadRequest(f"target of more than {limits.uri} octets", 414)
    version = _VERSION.fullmatch(words[2])
    if version is None:
        raise BadRequest("request line: invalid version")
    if version[1] != b"1":
        raise BadRequest("version other than HTTP/1", 505)
    # RFC 9110 section 2.5: a higher minor version is taken as the highest that is known.
    minor = 0 if version[2] == b"0" else 1
    if method == b"CONNECT":
        _steer(method, b"\n")
    if _TARGET.fullmatch(target) is None:
        raise BadRequest("target: invalid octet")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return method, target, minor, None
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or _HOST.fullmatch(absolute[2].lower()) is None:
        raise BadRequest("target: neither a path nor an http URI")
    authority, path = absolute[2], absolute[3]
    if not path.startswith(b"/"):
        # RFC 9112 section 3.2.4: OPTIONS of a URI without path and query asks about the server as a whole.
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return method, path, minor, authority


def _check_partial_request(data: bytes, limits: Limits, start: int, searched: int) -> None:
    """Refuse what cannot become a request. Looks at the octets from `searched` on, and no line twice."""
    if searched == len(data):
        return
    eol = data.find(b"\n", start)
    if eol < 0:
        wrong = _NEVER.search(data, max(start, searched - 1)) or _NEVER_IN_REQUEST_LINE.search(data, searched)
        if wrong is not None or data[start : start + 1] == b" ":
            raise BadRequest("request line: invalid octet")
        if b" " not in data[start : start + _LONGEST_METHOD + 1]:
            method = data[start:].removesuffix(b"\r")
            if _METHOD.fullmatch(method) is None and method:
                raise BadRequest("request line: invalid method")
            if len(method) > _LONGEST_METHOD:
                raise BadRequest(f"method of more than {_LONGEST_METHOD} octets", 501)
        elif len(data) - start > _LONGEST_METHOD + limits.uri + len(b"  HTTP/1.1\r"):
            raise BadRequest(f"target of more than {limits.uri} octets", 414)
        if len(data) > limits.head:
            _refuse_size(len(data), b"", limits)
        return
    if eol >= searched:
        if data[eol - 1] != 13:
            raise BadRequest("LF without CR")
        _take_request_line_apart(data[start : eol - 1], limits)
    if len(data) > limits.head:
        _refuse_size(len(data), b"", limits)
    why = _what_is_wrong_so_far(data, eol, searched)
    if why:
        raise BadRequest(why)


def _take_response_apart(data: bytes, limits: Limits, searched: int) -> tuple[bytes, int, int, bytes, int] | None:
    """Line, minor version, status, field block and size of a response that is out of the ordinary."""
    end = data.find(b"\r\n\r\n", max(0, searched - 3))
    if end < 0:
        _check_partial_response(data, limits, searched)
        return None
    eol = data.index(b"\r\n")
    line, minor, status = _take_status_line_apart(data[:eol])
    size = end + 4
    if size > limits.head:
        raise BadResponse(f"head of more than {limits.head} octets")
    block = data[eol + 1 : end + 2]
    if _FIELDS.fullmatch(block, 1) is None:
        # RFC 9112 section 5.1: a proxy removes it from responses.
        block = _SPACE_BEFORE_COLON.sub(rb"\1", block)
        if _FIELDS.fullmatch(block, 1) is None:
            raise BadResponse(_what_is_wrong(block))
    return line, minor, status, block, size


def _take_status_line_apart(line: bytes) -> tuple[bytes, int, int]:
    """The status line as sent on, minor version, status (RFC 9112 section 4)."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None or match[1] != b"1":
        raise BadResponse("status line: invalid")
    sent_on = b"HTTP/1.1 %b %b\r\n" % (match[3], match[4] or b"")
    return sent_on, 0 if match[2] == b"0" else 1, int(match[3])


def _check_partial_response(data: bytes, limits: Limits, searched: int) -> None:
    if searched == len(data):
        return
    if len(data) > limits.head:
        raise BadResponse(f"head of more than {limits.head} octets")
    if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
        raise BadResponse("not HTTP/1")
    eol = data.find(b"\n")
    if eol < 0:
        if _NEVER.search(data, max(0, searched - 1)) is not None:
            raise BadResponse("status line: invalid")
        return
    if eol >= searched:
        if data[eol - 1] != 13:
            raise BadResponse("LF without CR")
        _take_status_line_apart(data[: eol - 1])
    why = _what_is_wrong_so_far(data, eol, searched, lenient=True)
    if why:
        raise BadResponse(why)


def _what_is_wrong_so_far(data: bytes, eol: int, searched: int, *, lenient: bool = False) -> str:
    """Why the field lines that ended after `searched` are invalid, or nothing; `lenient` as is due to responses."""
    if _NEVER.search(data, max(searched - 1, eol)) is not None:
        return "header field: control octet, or CR or LF alone"
    last = data.rfind(b"\n")
    if last < searched:
        return ""
    begin = max(eol, data.rfind(b"\n", eol, searched))
    block = data[begin : last + 1]
    if lenient:
        block = _SPACE_BEFORE_COLON.sub(rb"\1", block)
    return _what_is_wrong(block) if _FIELDS.fullmatch(block, 1) is None else ""


def _what_is_wrong(block: bytes) -> str:
    """Why a field section is invalid, for the log (RFC 9112 section 5)."""
    valid = _FIELDS.match(block, 1)
    line = block[valid.end() if valid else 1 :]
    line = line[: line.find(b"\n") + 1].removesuffix(b"\r\n")
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return "header field: folded line"
    if not colon:
        return f"header field: no colon in {line[:64]!r}"
    if not name:
        return "header field: empty name"
    if name != name.rstrip(b" \t"):
        return f"header field: space before the colon of {name[:64]!r}"
    if _METHOD.fullmatch(name) is None:
        return f"header field: invalid name {name[:64]!r}"
    return f"header field: control octet, or CR or LF alone, in {name[:64]!r}"
