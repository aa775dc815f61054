"""How a record looks in the log: HAProxy's `option httplog` and `option tcplog` (configuration manual, section 8.2),
or a JSON object."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from balancer.config.logs import LONGEST_LINE
from balancer.pool.records import FlowRecord, HttpRecord, Record, TcpRecord, UdpRecord

__all__ = [
    "LONGEST_REQUEST",
    "NO_SERVER",
    "Blank",
    "braced",
    "capturing",
    "clf_date",
    "cookie",
    "format_haproxy",
    "format_json",
    "header",
    "printable",
    "record_fields",
    "refusal",
    "request",
    "rfc3164_date",
    "rfc3339_date",
    "to_json",
]

# HAProxy's tune.http.logurilen is 1024 with its closing NUL. Escaped it is three times as long, and a whole line
# still fits into PIPE_BUF: a write to a pipe is then all or nothing.
LONGEST_REQUEST = 1023
NO_SERVER = "<NOSRV>"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# HAProxy's url_encode_map (log.c): these and everything unprintable become #XX.
_TO_ESCAPE = re.compile(r"[^ !$-~]")
# Its hdr_encode_map: what separates captured headers, too.
_TO_ESCAPE_IN_HEADERS = re.compile(r"[^ !$-z~]")
# What separates fields: no cookie has more of it.
_TO_ESCAPE_IN_COOKIES = re.compile(r"[^!$-z~]")
# Our own texts may hold quotes and letters of any language, but no line ends or terminal commands.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_TEXT = 900


def _hex(match: re.Match[str]) -> str:
    return f"#{ord(match[0]):02X}"


def _escaped(text: str) -> str:
    """Octets, one a character, made safe to stand between quotes."""
    if text.isascii() and text.isprintable() and '"' not in text and "#" not in text:
        return text
    return _TO_ESCAPE.sub(_hex, text)


def request(line: bytes) -> str:
    """A request line as it stands in a log line."""
    return _escaped(line[:LONGEST_REQUEST].decode("latin-1")) if line else "<BADREQ>"


def _query(text: str) -> str:
    text = text[:LONGEST_REQUEST]
    return _escaped(text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")) or "-"


class Blank(NamedTuple):
    """How much a frontend captures, for records that have nothing of it."""

    requests: int
    responses: int


def header(value: bytes) -> str:
    """A captured one."""
    return _TO_ESCAPE_IN_HEADERS.sub(_hex, value.decode("latin-1"))


def cookie(value: bytes) -> str:
    """A captured one, with its name."""
    return _TO_ESCAPE_IN_COOKIES.sub(_hex, value.decode("latin-1"))


def braced(values: Sequence[str]) -> str:
    """Captured headers as they stand in a line."""
    return f"{{{'|'.join(values)}}}" if values else ""


def _requested(record: HttpRecord, blank: Blank) -> list[str]:
    """Captured headers of the request, and its name behind them."""
    values = record.details.request if record.details is not None else (b"",) * blank.requests
    return [*map(header, values), *([record.request_id] if record.request_id else ())]


def _responded(record: HttpRecord, blank: Blank) -> list[str]:
    """Captured headers of the response."""
    return list(map(header, record.details.response if record.details is not None else (b"",) * blank.responses))


def printable(text: str) -> str:
    """A text of ours in one line, and not too long."""
    return _CONTROL.sub(_hex, text[:_LONGEST_TEXT])


class _Stamps:
    """Dates of recent seconds: records of one second share theirs."""

    def __init__(self, render: Callable[[int], str]) -> None:
        self._render = render
        self._known: dict[int, str] = {}

    def __getitem__(self, second: int) -> str:
        text = self._known.get(second)
        if text is None:
            if len(self._known) >= 512:
                self._known.clear()
            text = self._known[second] = self._render(second)
        return text


def _clf(second: int) -> str:
    t = time.localtime(second)
    return f"{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year:04d}:{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def _iso(second: int) -> str:
    t = time.gmtime(second)
    return f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def _rfc3164(second: int) -> str:
    t = time.localtime(second)
    return f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


_clf_stamps = _Stamps(_clf)
_iso_stamps = _Stamps(_iso)
_rfc3164_stamps = _Stamps(_rfc3164)


def rfc3164_date(at: float) -> str:
    """`Nov 22 10:11:12`, local time."""
    return _rfc3164_stamps[int(at)]


def clf_date(at: float) -> str:
    """`22/Nov/2026:10:11:12.123`, local time."""
    second = int(at)
    return f"{_clf_stamps[second]}.{int((at - second) * 1000):03d}"


def rfc3339_date(at: float) -> str:
    """`2026-11-22T10:11:12.123Z`"""
    second = int(at)
    return f"{_iso_stamps[second]}.{int((at - second) * 1000):03d}Z"


def capturing(blank: Blank) -> Callable[[Record], str]:
    """The line of `option httplog` with what the frontend captures."""

    def line(record: Record) -> str:
        if not isinstance(record, HttpRecord):
            return format_haproxy(record)
        details = record.details
        if not record.request_line:
            return _http(record, "- -", "")
        cookies = "- -"
        if details is not None:
            cookies = f"{cookie(details.cookie) or '-'} {cookie(details.set_cookie) or '-'}"
        groups = [braced(_requested(record, blank)), braced(_responded(record, blank))]
        return _http(record, cookies, "".join([f"{group} " for group in groups if group]))

    return line


def _http(r: HttpRecord, cookies: str, headers: str) -> str:
    return (
        f"{r.client}:{r.client_port} [{clf_date(r.began)}] {r.frontend} "
        f"{r.backend or r.frontend}/{r.server or NO_SERVER} "
        f"{r.tr_request}/{r.tw}/{r.tc}/{r.tr_response}/{r.ta} {r.status} {r.bytes_read} "
        f"{cookies} {r.termination} "
        f"{r.actconn}/{r.feconn}/{r.beconn}/{r.srvconn}/{'+' if r.redispatched else ''}{r.retries} "
        f'{r.srv_queue}/{r.backend_queue} {headers}"{request(r.request_line)}"'
    )


def format_haproxy(record: Record) -> str:
    """The line of `option httplog` or `option tcplog`, dates in local time; a request's name stands where HAProxy has
    captured headers. For datagrams, in the same spirit:
    `client:port [date] frontend backend/server Tt bytes_in/bytes_out termination retries "query"`. For flows of the
    kernel one or the other, and then `service:port bytes_in/bytes_out packets_in/packets_out`; as with
    `option logasap` what counts on has a + before it."""
    r = record
    if isinstance(r, HttpRecord):
        return _http(r, "- -", f"{{{r.request_id}}} " if r.request_id else "")
    who = f"{r.client}:{r.client_port} [{clf_date(r.began)}] {r.frontend}"
    where = f"{who} {r.backend or r.frontend}/{r.server or NO_SERVER}"
    if isinstance(r, TcpRecord):
        return (
            f"{where} {r.tw}/{r.tc}/{r.tt} {r.bytes_read} {r.termination} "
            f"{r.actconn}/{r.feconn}/{r.beconn}/{r.srvconn}/{'+' if r.redispatched else ''}{r.retries} "
            f"{r.srv_queue}/{r.backend_queue}"
        )
    if isinstance(r, UdpRecord):
        return f'{where} {r.tt} {r.bytes_in}/{r.bytes_out} {r.termination} {r.retries} "{_query(r.query)}"'
    more = "" if r.is_end else "+"
    octets = f"{more}{r.bytes_in}/{more}{r.bytes_out}"
    tail = f"{r.service}:{r.service_port} {octets} {more}{r.packets_in}/{more}{r.packets_out}"
    if r.protocol == "tcp":
        return (
            f"{where} 0/{r.tc}/{more}{r.tt} {more}{r.bytes_out} {r.termination} "
            f"{r.actconn}/{r.feconn}/{r.beconn}/{r.srvconn}/0 0/0 {tail}"
        )
    return f'{where} {more}{r.tt} {octets} {r.termination} 0 "-" {tail}'


to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_quoted = json.encoder.encode_basestring
# Cut here where need be, and not by a sink, after which it would be JSON no more: with the longest names and letters
# of four octets all this still fits into PIPE_BUF.
_LONGEST_REQUEST_IN_JSON = 2000
_LONGEST_WHY_IN_JSON = 290
_LONGEST_CAPTURES_IN_JSON = 700


def format_json(record: Record, captured: tuple[Sequence[str], Sequence[str]] = ((), ())) -> str:
    """One JSON object: the record's fields under their own names, but `time` (RFC 3339, UTC) in the place of `began`,
    and `type` (http, tcp, udp or flow). Request line and query are escaped as in HAProxy's line. `captured` are the
    names of captured headers; of long ones there is the beginning, and none where the object would be too long."""
    r = record
    # Written by hand: the encoder takes three times as long. Only the last fields hold what others said.
    who = (
        f'{{"time":"{rfc3339_date(r.began)}","type":"{_TYPES[type(r)]}","client":"{r.client}",'
        f'"client_port":{r.client_port},"frontend":"{r.frontend}","backend":"{r.backend or r.frontend}",'
        f'"server":"{r.server or NO_SERVER}"'
    )
    if isinstance(r, UdpRecord):
        return (
            f'{who},"tt":{r.tt},"bytes_in":{r.bytes_in},"bytes_out":{r.bytes_out},"termination":"{r.termination}",'
            f'"retries":{r.retries},"query":{_quoted(_query(r.query))}}}'
        )
    if isinstance(r, FlowRecord):
        return (
            f'{who},"protocol":"{r.protocol}","is_end":{"true" if r.is_end else "false"},"tc":{r.tc},"tt":{r.tt},'
            f'"bytes_in":{r.bytes_in},"bytes_out":{r.bytes_out},"packets_in":{r.packets_in},'
            f'"packets_out":{r.packets_out},"termination":"{r.termination}","actconn":{r.actconn},'
            f'"feconn":{r.feconn},"beconn":{r.beconn},"srvconn":{r.srvconn},"service":"{r.service}",'
            f'"service_port":{r.service_port},"server_address":"{r.server_address}","server_port":{r.server_port}}}'
        )
    rest = (
        f'"bytes_in":{r.bytes_in},"bytes_read":{r.bytes_read},"termination":"{r.termination}","actconn":{r.actconn},"feconn":{r.feconn},'
        f'"beconn":{r.beconn},"srvconn":{r.srvconn},"retries":{r.retries},'
        f'"redispatched":{"true" if r.redispatched else "false"},"srv_queue":{r.srv_queue},'
        f'"backend_queue":{r.backend_queue},"why":{_quoted(printable(r.why[:_LONGEST_WHY_IN_JSON]))}'
    )
    if isinstance(r, TcpRecord):
        return f'{who},"tw":{r.tw},"tc":{r.tc},"tt":{r.tt},{rest}}}'
    line = _quoted(request(r.request_line))
    if len(line) > _LONGEST_REQUEST_IN_JSON:
        line = _quoted(request(r.request_line)[: _LONGEST_REQUEST_IN_JSON // 2])
    name = f',"request_id":{_quoted(r.request_id)}' if r.request_id else ""
    text = (
        f'{who},"tr_request":{r.tr_request},"tw":{r.tw},"tc":{r.tc},"tr_response":{r.tr_response},"ta":{r.ta},'
        f'"status":{r.status},{rest},"request_line":{line}{name}'
    )
    more = _captured(r, captured) if r.details is not None else ""
    # Rather none than an object cut off.
    return f"{text}{more}}}" if not more or len(text.encode()) + len(more) < LONGEST_LINE else f"{text}}}"


def _captured(r: HttpRecord, names: tuple[Sequence[str], Sequence[str]]) -> str:
    details = r.details
    assert details is not None
    found = [(names[0], details.request, "request_headers"), (names[1], details.response, "response_headers")]
    each = _LONGEST_CAPTURES_IN_JSON // max(1, len(names[0]) + len(names[1]) + 2)
    text = ""
    for of, values, key in found:
        if of:
            pairs = [f"{_quoted(name)}:{_quoted(header(v)[:each])}" for name, v in zip(of, values, strict=True)]
            text += f',"{key}":{{{",".join(pairs)}}}'
    for key, value in (("cookie", details.cookie), ("set_cookie", details.set_cookie)):
        if value:
            text += f',"{key}":{_quoted(cookie(value)[:each])}'
    return text


def record_fields(record: Record) -> list[tuple[str, str]]:
    """Its fields, safe to stand in a line each. What says nothing is left out."""
    r = record
    found = [("type", _TYPES[type(r)])]
    for name, value in r._asdict().items():
        if isinstance(value, bytes):
            found.append((name, request(value)))
        elif name == "query":
            found.append((name, _query(value)))
        elif name == "details":
            # The line has it.
            pass
        elif name == "server":
            found.append((name, value or NO_SERVER))
        elif name == "began":
            found.append((name, rfc3339_date(value)))
        elif value != "":
            found.append((name, printable(str(value))))
    return found


_TYPES = {HttpRecord: "http", TcpRecord: "tcp", UdpRecord: "udp", FlowRecord: "flow"}


def refusal(record: HttpRecord | TcpRecord) -> str:
    """HAProxy's line for a connection that came to nothing: `client:port [date] frontend: reason`."""
    return f"{record.client}:{record.client_port} [{clf_date(record.began)}] {record.frontend}: {printable(record.why)}"
